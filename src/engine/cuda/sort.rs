//! Sorts lists of numbers on a device, a warp a list.

use super::device::{Arg, Buffer, Device, DeviceError, Grid, Kernel};

/// Threads of a block.
const THREADS: u32 = 128;

/// Numbers that a warp sorts in shared memory: events.cu's SORT_TILE.
pub(super) const TILE: u32 = 512;

/// Sorts `filed` between each of the starts, of which there is one more than there are lists.
pub(super) fn sort<D: Device>(
    device: &D,
    starts: &Buffer<D, u32>,
    lists: usize,
    filed: &Buffer<D, u64>,
) -> Result<(), DeviceError> {
    let warps = THREADS / 32;
    let shared = warps * TILE * size_of::<u64>() as u32;
    let grid = Grid { blocks: (lists as u32).div_ceil(warps), threads: THREADS, shared };
    device.launch(Kernel::EventsSort, grid, &[starts.arg(), Arg::U32(lists as u32), filed.arg()])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::test_device::TestDevice;
    use super::*;

    /// Of no length, of one, within a tile, of a tile, of several; in any order, or nearly in order as files have them.
    fn list() -> impl Strategy<Value = Vec<u64>> {
        let length = prop_oneof![0usize..70, 500usize..530, 0usize..3000, Just(1024), Just(2049)];
        (length, any::<bool>(), 0u64..1000).prop_map(|(length, nearly, seed)| {
            let scrambled = |k: u64| (k + seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
            (0..length as u64).map(|k| if nearly { k * 100 + scrambled(k) % 900 } else { scrambled(k) % 500 }).collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn lists_are_sorted(lists in proptest::collection::vec(list(), 1..9), seed in any::<u32>()) {
            let device = TestDevice::new(1 << 20, seed);
            let ends = lists.iter().scan(0, |end, list| {
                *end += list.len() as u32;
                Some(*end)
            });
            let starts: Vec<u32> = std::iter::once(0).chain(ends).collect();
            let filed = Buffer::of(&device, &lists.concat()).expect("fits");
            sort(&device, &Buffer::of(&device, &starts).expect("fits"), lists.len(), &filed).expect("runs");
            let mut wanted = lists;
            wanted.iter_mut().for_each(|list| list.sort_unstable());
            prop_assert_eq!(filed.read(&device).expect("is there"), wanted.concat());
        }
    }
}
