//! Frames of two bits a pixel, taken as they are stored.

use std::ops::Range;

use proptest::prelude::*;

use super::*;
use crate::dataset::{DatasetError, PackedFrames, Scratch, SourceInfo};

/// As a detector with an order of its own may store them: cells from the last pixel to the first; some show none.
struct Packed {
    data: Data,
    /// Pixels whose cells are missing.
    missing: Range<usize>,
}

/// Cells before the first that shows a pixel.
const AHEAD: usize = 3;

impl FrameSource for Packed {
    fn info(&self) -> &SourceInfo {
        self.data.info()
    }

    fn pixel_type(&self) -> PixelType {
        PixelType::U8
    }

    fn marks_saturation(&self) -> bool {
        false
    }

    fn frames_per_chunk(&self) -> usize {
        1
    }

    fn read_frames(&self, frames: Range<u64>, scratch: &mut Scratch, out: &mut [u8]) -> Result<(), DatasetError> {
        assert!(!self.missing.is_empty(), "frames are decoded that could be used as they are");
        self.data.read_frames(frames, scratch, out)
    }

    fn packed_frames(&self) -> Option<&dyn PackedFrames> {
        Some(self)
    }
}

impl PackedFrames for Packed {
    fn cells(&self) -> usize {
        (self.data.info.shape.pixels() + AHEAD).next_multiple_of(4)
    }

    fn pixel(&self, cell: usize) -> Option<usize> {
        let pixel = (self.data.info.shape.pixels() + AHEAD).checked_sub(cell + 1)?;
        (cell >= AHEAD && !self.missing.contains(&pixel)).then_some(pixel)
    }

    fn read_packed(&self, frames: Range<u64>, out: &mut [u8]) -> Result<(), DatasetError> {
        assert!(self.missing.is_empty(), "pixels would be lost");
        // what shows no pixel is no zero
        out.fill(0xff);
        for (frame, packed) in std::iter::zip(frames, out.chunks_exact_mut(self.cells() / 4)) {
            for cell in 0..self.cells() {
                let Some(pixel) = self.pixel(cell) else { continue };
                let count = self.data.range(frame..frame + 1)[pixel] as u8;
                packed[cell / 4] &= !(3 << (cell % 4 * 2));
                packed[cell / 4] |= count << (cell % 4 * 2);
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(cases(6, 1))]

    #[test]
    fn packed_frames_agree_with_the_oracle(
        shape in shape(),
        frames in 2usize..260,
        window in window(),
        normalization in normalization(),
        smoothing in smoothing(),
        occupancy in prop_oneof![Just(0.02), Just(1.0)],
        tight in any::<bool>(),
        seed in 0u64..1000,
    ) {
        prop_assume!(window.select(frames as u64).is_ok());
        let data = Data::of(shape, PixelType::U8, frames, counts(seed, occupancy, 3));
        let multi_tau = MultiTauRequest { normalization, parts: 2, pixel_g2: PixelG2Output::Keep };
        let two_time = two_time_request(shape, frames, window, seed, smoothing);
        let request = Request { multi_tau: Some(multi_tau), ..two_time };
        let device = TestDevice::new(if tight { 5_000_000 } else { PLENTY }, seed as u32);
        let packed = Packed { data: data.clone(), missing: 0..0 };
        let found = correlate_frames(&device, &packed, &request, Precision::Double);
        check(&data, &request, Ok(found.expect("correlates")));
        // as bytes they are added in the same order; as text, since a bin without a good pixel has no mean
        let run = |source: &dyn FrameSource| {
            let found = correlate_frames(&device, source, &request, Precision::Single);
            format!("{:?}", found.expect("correlates").0)
        };
        prop_assert!(run(&packed) == run(&data));
    }
}

/// A pixel that is not in the file, as one between modules, is wanted: each frame is decoded.
#[test]
fn packed_frames_without_a_wanted_pixel_are_decoded() {
    let data = Data::of(IMAGE, PixelType::U8, 90, counts(5, 0.3, 3));
    let multi_tau = MultiTauRequest { normalization: Normalization::None, parts: 0, pixel_g2: PixelG2Output::Keep };
    let request = small_request(90, FrameWindow::default(), 5, multi_tau);
    let partition = Partition::new(&request.labels, &[]).expect("bins");
    let lost = partition.pixels()[70] as usize;
    let packed = Packed { data: data.clone(), missing: lost..lost + 1 };
    let found = correlate_frames(&TestDevice::new(PLENTY, 5), &packed, &request, Precision::Double);
    check(&data, &request, Ok(found.expect("correlates")));
}
