//! Counts of 16 bits in cells of 8, which most of them fit in: half the memory is touched, which costs more than
//! anything else that is done with bright frames. The few that do not fit are told by how much.

use super::cells::{Cell, Store};

/// A 16-bit count in 8 bits, since most are small: half the memory is touched. Larger ones are kept apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
pub(super) struct Narrow(u8);

impl Narrow {
    /// Whether a count does not fit.
    pub(super) fn is_exceeded_by(count: f32) -> bool {
        count > f32::from(u8::MAX)
    }
}

impl Cell for Narrow {
    #[inline]
    fn f32(self) -> f32 {
        f32::from(self.0)
    }
}

impl Store<u16> for Narrow {
    #[inline]
    fn set(cells: &mut [Self], run: &[u16]) {
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2")]
        fn with_avx2(cells: &mut [u8], run: &[u16]) {
            narrow(cells, run);
        }

        #[inline(always)]
        fn narrow(cells: &mut [u8], run: &[u16]) {
            for (cell, &value) in std::iter::zip(cells, run) {
                *cell = value.min(u16::from(u8::MAX)) as u8;
            }
        }

        let cells = bytemuck::cast_slice_mut(cells);
        #[cfg(target_arch = "x86_64")]
        if std::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has AVX2.
            return unsafe { with_avx2(cells, run) };
        }
        narrow(cells, run);
    }

    #[inline]
    fn add(_: &mut [Self], _: &[u16]) {
        unreachable!("averages are kept as float32");
    }

    #[inline]
    fn overflows(run: &[u16]) -> bool {
        run.iter().fold(0, |bits, value| bits | value) > u16::from(u8::MAX)
    }

    #[inline]
    fn excess(value: u16) -> u32 {
        u32::from(value.saturating_sub(u16::from(u8::MAX)))
    }
}

/// By how much a count is larger than its cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Excess {
    /// Column of the band.
    pub(super) column: u32,
    /// Frame of the block.
    pub(super) frame: u32,
    pub(super) counts: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrow_cells_and_their_excess_hold_every_count() {
        let counts: Vec<u16> = (0..=u16::MAX).collect();
        let mut cells = vec![Narrow::default(); counts.len()];
        Narrow::set(&mut cells, &counts);
        for (cell, &count) in std::iter::zip(&cells, &counts) {
            assert_eq!(cell.f32() + Narrow::excess(count) as f32, f32::from(count));
            assert_eq!(Narrow::overflows(&[count]), Narrow::excess(count) > 0);
        }
    }
}
