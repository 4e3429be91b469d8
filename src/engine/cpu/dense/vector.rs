//! Rows of neighbouring pixels, and a few of them in a vector register: of AVX, or plain arrays elsewhere.
//!
//! Written out, since the compiler finds the vectors of the multi-tau loops by itself on some days only.

use std::ops::{Deref, DerefMut};

use bytemuck::{Pod, Zeroable};

/// Pixels in a tile: a row is two cache lines of float32, four of float64.
pub(super) const TILE: usize = 32;

/// One number for each pixel of a tile, on cache lines of its own: a vector that lies on two of them loads at half
/// the rate.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(in crate::engine::cpu) struct Row<F>(pub(super) [F; TILE]);

// SAFETY: an array of numbers that are zeroable.
unsafe impl<F: Zeroable> Zeroable for Row<F> {}
// SAFETY: an array of plain numbers whose size, 32 times 4 or 8 bytes, is a multiple of the alignment: no padding.
unsafe impl<F: Pod> Pod for Row<F> {}

impl<F> Deref for Row<F> {
    type Target = [F; TILE];

    #[inline(always)]
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<F> DerefMut for Row<F> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl<F: Default + Copy> Default for Row<F> {
    #[inline(always)]
    fn default() -> Self {
        Self([F::default(); TILE])
    }
}

/// Pixels of a row that are worked on together.
pub(in crate::engine::cpu) trait Vector<F>: Copy {
    /// How many.
    const LANES: usize;

    fn zero() -> Self;

    /// The pixels from `lane` on.
    fn load(row: &Row<F>, lane: usize) -> Self;

    fn store(self, row: &mut Row<F>, lane: usize);

    fn plus(self, other: Self) -> Self;

    /// `self * b + c`.
    fn times_plus(self, b: Self, c: Self) -> Self;

    /// Adds the pixels to those of `sums` from `lane` on.
    fn add_to(self, sums: &mut Row<f64>, lane: usize);
}

/// Lanes of the plain arrays: as many as of AVX with float32.
const PLAIN: usize = 8;

macro_rules! plain {
    ($type:ty) => {
        impl Vector<$type> for [$type; PLAIN] {
            const LANES: usize = PLAIN;

            #[inline(always)]
            fn zero() -> Self {
                [0.0; PLAIN]
            }

            #[inline(always)]
            fn load(row: &Row<$type>, lane: usize) -> Self {
                let mut lanes = [0.0; PLAIN];
                lanes.copy_from_slice(&row[lane..lane + PLAIN]);
                lanes
            }

            #[inline(always)]
            fn store(self, row: &mut Row<$type>, lane: usize) {
                row[lane..lane + PLAIN].copy_from_slice(&self);
            }

            #[inline(always)]
            fn plus(mut self, other: Self) -> Self {
                std::iter::zip(&mut self, other).for_each(|(a, b)| *a += b);
                self
            }

            #[inline(always)]
            fn times_plus(self, b: Self, mut c: Self) -> Self {
                for i in 0..PLAIN {
                    c[i] += self[i] * b[i];
                }
                c
            }

            #[inline(always)]
            fn add_to(self, sums: &mut Row<f64>, lane: usize) {
                std::iter::zip(&mut sums[lane..lane + PLAIN], self).for_each(|(sum, v)| *sum += f64::from(v));
            }
        }
    };
}

plain!(f32);
plain!(f64);

#[cfg(target_arch = "x86_64")]
pub(super) mod avx {
    //! Only for functions that have AVX2 and FMA: see `DenseSums::add_to_shard_fma`, the only one that names them.

    use std::arch::x86_64::*;

    use super::{Row, Vector};

    /// Eight pixels.
    #[derive(Clone, Copy)]
    pub(in crate::engine::cpu) struct Singles(__m256);

    /// Four pixels.
    #[derive(Clone, Copy)]
    pub(in crate::engine::cpu) struct Doubles(__m256d);

    impl Vector<f32> for Singles {
        const LANES: usize = 8;

        #[inline(always)]
        fn zero() -> Self {
            // SAFETY: the processor has AVX2 and FMA where this type is named.
            Self(unsafe { _mm256_setzero_ps() })
        }

        #[inline(always)]
        fn load(row: &Row<f32>, lane: usize) -> Self {
            let lanes = &row[lane..lane + Self::LANES];
            // SAFETY: the slice has eight elements; as for `zero`.
            Self(unsafe { _mm256_loadu_ps(lanes.as_ptr()) })
        }

        #[inline(always)]
        fn store(self, row: &mut Row<f32>, lane: usize) {
            let lanes = &mut row[lane..lane + Self::LANES];
            // SAFETY: the slice has eight elements; as for `zero`.
            unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), self.0) }
        }

        #[inline(always)]
        fn plus(self, other: Self) -> Self {
            // SAFETY: as for `zero`.
            Self(unsafe { _mm256_add_ps(self.0, other.0) })
        }

        #[inline(always)]
        fn times_plus(self, b: Self, c: Self) -> Self {
            // SAFETY: as for `zero`.
            Self(unsafe { _mm256_fmadd_ps(self.0, b.0, c.0) })
        }

        #[inline(always)]
        fn add_to(self, sums: &mut Row<f64>, lane: usize) {
            // SAFETY: as for `zero`.
            let (low, high) = unsafe {
                (_mm256_cvtps_pd(_mm256_castps256_ps128(self.0)), _mm256_cvtps_pd(_mm256_extractf128_ps::<1>(self.0)))
            };
            Doubles(low).add_to(sums, lane);
            Doubles(high).add_to(sums, lane + Doubles::LANES);
        }
    }

    impl Vector<f64> for Doubles {
        const LANES: usize = 4;

        #[inline(always)]
        fn zero() -> Self {
            // SAFETY: the processor has AVX2 and FMA where this type is named.
            Self(unsafe { _mm256_setzero_pd() })
        }

        #[inline(always)]
        fn load(row: &Row<f64>, lane: usize) -> Self {
            let lanes = &row[lane..lane + Self::LANES];
            // SAFETY: the slice has four elements; as for `zero`.
            Self(unsafe { _mm256_loadu_pd(lanes.as_ptr()) })
        }

        #[inline(always)]
        fn store(self, row: &mut Row<f64>, lane: usize) {
            let lanes = &mut row[lane..lane + Self::LANES];
            // SAFETY: the slice has four elements; as for `zero`.
            unsafe { _mm256_storeu_pd(lanes.as_mut_ptr(), self.0) }
        }

        #[inline(always)]
        fn plus(self, other: Self) -> Self {
            // SAFETY: as for `zero`.
            Self(unsafe { _mm256_add_pd(self.0, other.0) })
        }

        #[inline(always)]
        fn times_plus(self, b: Self, c: Self) -> Self {
            // SAFETY: as for `zero`.
            Self(unsafe { _mm256_fmadd_pd(self.0, b.0, c.0) })
        }

        #[inline(always)]
        fn add_to(self, sums: &mut Row<f64>, lane: usize) {
            Self::load(sums, lane).plus(self).store(sums, lane);
        }
    }
}
