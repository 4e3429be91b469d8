//! The inner product of the dense Gram matrix: 4 x 16 frames over a run of pixels.
//!
//! Panels hold 16 frames, pixel by pixel. Integer counts go through 16-bit multiply-add of pixel pairs, which is
//! exact while the sums fit 32 bits and twice as fast as float32; everything else through float64.

use bytemuck::{Pod, Zeroable};

/// Frames in a panel.
pub(super) const PANEL: usize = 16;

/// Rows of a panel that one call multiplies.
pub(super) const ROWS: usize = 4;

/// Products of `ROWS` frames of one panel with the `PANEL` frames of another.
pub(super) type Tile = [[f64; PANEL]; ROWS];

/// An element of a packed panel.
pub(super) trait Unit: Pod + Send + Sync + Default {
    /// Pixels in a unit.
    const PIXELS: usize;

    /// Sets pixel `index % PIXELS` of the unit.
    fn set(&mut self, index: usize, count: f32);

    /// Sums of products over a run of pixels: `rows` is the first of the `ROWS` rows of `a`.
    /// `a` and `b` are panels of the same run, `PANEL` units a pixel (or pair).
    fn products(a: &[Self], b: &[Self], rows: usize) -> Tile;
}

/// Two neighbouring pixels as 16-bit integers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C, align(4))]
pub(super) struct Pair([i16; 2]);

impl Unit for Pair {
    const PIXELS: usize = 2;

    #[inline]
    fn set(&mut self, index: usize, count: f32) {
        self.0[index % 2] = count as i16;
    }

    #[inline]
    fn products(a: &[Self], b: &[Self], rows: usize) -> Tile {
        assert!(a.len() == b.len() && a.len().is_multiple_of(PANEL) && rows + ROWS <= PANEL);
        #[cfg(target_arch = "x86_64")]
        if std::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has AVX2; the assertion above is the function's other condition.
            return unsafe { x86::pairs(a, b, rows) };
        }
        pairs_portable(a, b, rows)
    }
}

impl Unit for f64 {
    const PIXELS: usize = 1;

    #[inline]
    fn set(&mut self, _: usize, count: f32) {
        *self = Self::from(count);
    }

    #[inline]
    fn products(a: &[Self], b: &[Self], rows: usize) -> Tile {
        assert!(a.len() == b.len() && a.len().is_multiple_of(PANEL) && rows + ROWS <= PANEL);
        #[cfg(target_arch = "x86_64")]
        if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
            // SAFETY: the processor has AVX2 and FMA; the assertion above is the function's other condition.
            return unsafe { x86::doubles(a, b, rows) };
        }
        doubles_portable(a, b, rows)
    }
}

fn pairs_portable(a: &[Pair], b: &[Pair], rows: usize) -> Tile {
    let mut sums = [[0i32; PANEL]; ROWS];
    for (a, b) in std::iter::zip(a.chunks_exact(PANEL), b.chunks_exact(PANEL)) {
        for (sums, x) in std::iter::zip(&mut sums, &a[rows..rows + ROWS]) {
            for (sum, y) in std::iter::zip(sums, b) {
                *sum += i32::from(x.0[0]) * i32::from(y.0[0]) + i32::from(x.0[1]) * i32::from(y.0[1]);
            }
        }
    }
    sums.map(|row| row.map(f64::from))
}

fn doubles_portable(a: &[f64], b: &[f64], rows: usize) -> Tile {
    let mut sums = Tile::default();
    for (a, b) in std::iter::zip(a.chunks_exact(PANEL), b.chunks_exact(PANEL)) {
        for (sums, x) in std::iter::zip(&mut sums, &a[rows..rows + ROWS]) {
            for (sum, y) in std::iter::zip(sums, b) {
                *sum += x * y;
            }
        }
    }
    sums
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m256i, _mm256_add_epi32, _mm256_fmadd_pd, _mm256_loadu_pd, _mm256_loadu_si256, _mm256_madd_epi16,
        _mm256_set1_epi32, _mm256_set1_pd, _mm256_setzero_pd, _mm256_setzero_si256, _mm256_storeu_pd,
        _mm256_storeu_si256,
    };

    use super::{PANEL, Pair, ROWS, Tile};

    /// # Safety
    /// The processor has AVX2; `a` and `b` have the same length, a multiple of `PANEL`; `rows + ROWS <= PANEL`.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn pairs(a: &[Pair], b: &[Pair], rows: usize) -> Tile {
        let mut sums = [[_mm256_setzero_si256(); 2]; ROWS];
        let (a, b) = (a.as_ptr().cast::<i32>(), (b.as_ptr().cast::<__m256i>(), b.len()));
        for k in 0..b.1 / PANEL {
            // SAFETY: k * PANEL + 15 is inside both panels; a Pair is 4 bytes, a vector holds 8 of them.
            let (low, high, base) = unsafe {
                let at = b.0.add(2 * k);
                (_mm256_loadu_si256(at), _mm256_loadu_si256(at.add(1)), a.add(k * PANEL + rows))
            };
            for (r, sums) in sums.iter_mut().enumerate() {
                // SAFETY: rows + r < PANEL, so this is inside the panel; a Pair is aligned like an i32.
                let x = _mm256_set1_epi32(unsafe { base.add(r).read() });
                sums[0] = _mm256_add_epi32(sums[0], _mm256_madd_epi16(x, low));
                sums[1] = _mm256_add_epi32(sums[1], _mm256_madd_epi16(x, high));
            }
        }
        sums.map(|row| {
            let mut out = [0i32; PANEL];
            // SAFETY: `out` has room for two vectors of 8 integers.
            unsafe {
                _mm256_storeu_si256(out.as_mut_ptr().cast(), row[0]);
                _mm256_storeu_si256(out.as_mut_ptr().add(8).cast(), row[1]);
            }
            out.map(f64::from)
        })
    }

    /// # Safety
    /// The processor has AVX2 and FMA; otherwise as [`pairs`].
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn doubles(a: &[f64], b: &[f64], rows: usize) -> Tile {
        let mut out = Tile::default();
        for half in [0, PANEL / 2] {
            let mut sums = [[_mm256_setzero_pd(); 2]; ROWS];
            for k in 0..b.len() / PANEL {
                // SAFETY: k * PANEL + half + 7 is inside the panel.
                let (low, high) = unsafe {
                    let at = b.as_ptr().add(k * PANEL + half);
                    (_mm256_loadu_pd(at), _mm256_loadu_pd(at.add(4)))
                };
                for (r, sums) in sums.iter_mut().enumerate() {
                    // SAFETY: rows + r < PANEL, so this is inside the panel.
                    let x = _mm256_set1_pd(unsafe { *a.get_unchecked(k * PANEL + rows + r) });
                    sums[0] = _mm256_fmadd_pd(x, low, sums[0]);
                    sums[1] = _mm256_fmadd_pd(x, high, sums[1]);
                }
            }
            for (out, sums) in std::iter::zip(&mut out, sums) {
                // SAFETY: half + 7 < PANEL, so both vectors are inside the row.
                unsafe {
                    _mm256_storeu_pd(out.as_mut_ptr().add(half), sums[0]);
                    _mm256_storeu_pd(out.as_mut_ptr().add(half + 4), sums[1]);
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn vector_and_portable_products_agree(
            counts in prop::collection::vec(0u16..2000, PANEL * 2..PANEL * 60),
            rows in 0usize..=PANEL - ROWS,
        ) {
            let units = counts.len() / PANEL / 2 * PANEL;
            let pairs = |shift: usize| -> Vec<Pair> {
                (0..units).map(|i| Pair([counts[(2 * i + shift) % counts.len()] as i16, counts[2 * i + 1] as i16])).collect()
            };
            let (a, b) = (pairs(0), pairs(5));
            prop_assert_eq!(Pair::products(&a, &b, rows), pairs_portable(&a, &b, rows));
            let doubles = |p: &[Pair]| -> Vec<f64> { p.iter().map(|p| f64::from(p.0[0])).collect() };
            let (a, b) = (doubles(&a), doubles(&b));
            prop_assert_eq!(f64::products(&a, &b, rows), doubles_portable(&a, &b, rows));
        }
    }
}
