//! Pixels that carry the saturation value: what marks them, how many may be left out, the same on every engine.

use std::collections::BTreeMap;

use crate::correlate::bins::Partition;
use crate::correlate::listed::listed_pixels;
use crate::correlate::result::SaturatedPixel;
use crate::dataset::FrameSource;
use crate::task::correlate::SaturatedPolicy;

use super::{EngineError, Request};

/// More saturated pixels than this fraction of the mask means that the data, not the pixels, are at fault.
const MOST: f64 = 0.01;

/// The value that marks a pixel that is left out, if any does.
pub(super) fn mark(source: &dyn FrameSource, policy: SaturatedPolicy) -> Option<u32> {
    match policy {
        SaturatedPolicy::Mask | SaturatedPolicy::Fail if source.marks_saturation() => source.pixel_type().saturation(),
        SaturatedPolicy::Mask | SaturatedPolicy::Fail | SaturatedPolicy::Keep => None,
    }
}

/// The pixels that are left out, with the first raw frame in which each was seen to be saturated.
#[derive(Debug, Default)]
pub(super) struct Excluded(BTreeMap<u32, u64>);

impl Excluded {
    /// The bins without them.
    ///
    /// # Errors
    /// Nothing is left.
    pub(super) fn partition(&self, request: &Request) -> Result<Partition, EngineError> {
        let pixels: Vec<u32> = self.0.keys().copied().collect();
        Partition::new(&request.labels, &pixels).map_err(EngineError::Partition)
    }

    /// Leaves more out.
    ///
    /// # Errors
    /// They are too many, or none may be.
    pub(super) fn extend(&mut self, pixels: BTreeMap<u32, u64>, request: &Request) -> Result<(), EngineError> {
        self.0.extend(pixels);
        let masked_in = request.labels.mask.iter().filter(|&&m| m).count();
        let too_many = self.0.len() as f64 > MOST * masked_in as f64;
        let why = match request.saturated {
            SaturatedPolicy::Fail => "and --saturated is fail",
            SaturatedPolicy::Mask if too_many => "more than 1 % of the mask",
            SaturatedPolicy::Mask | SaturatedPolicy::Keep => return Ok(()),
        };
        Err(EngineError::Saturated(format!(
            "{} of {masked_in} masked-in pixels carry the saturation value, {why}: {}; \
             correct the mask, or use --saturated keep to count the value",
            self.0.len(),
            listed_pixels(self.pixels(), request.labels.shape),
        )))
    }

    /// All of them, ascending.
    pub(super) fn list(&self) -> Vec<SaturatedPixel> {
        self.pixels().collect()
    }

    fn pixels(&self) -> impl ExactSizeIterator<Item = SaturatedPixel> {
        self.0.iter().map(|(&pixel, &frame)| SaturatedPixel { pixel, frame })
    }
}
