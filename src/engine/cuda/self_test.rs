//! Whether a GPU computes what it should: a pattern through its memory, and a small correlation held against the CPU's.

use std::num::NonZeroUsize;
use std::ops::Range;

use super::CudaEngine;
use super::device::{Arg, Buffer, Device, DeviceError, Kernel};
use super::threads;
use crate::correlate::bins::{Labels, Shape};
use crate::correlate::result::Correlation;
use crate::correlate::twotime::Smoothing;
use crate::correlate::window::FrameWindow;
use crate::dataset::{DatasetError, FrameSource, PixelType, Scratch, Source, SourceInfo};
use crate::engine::cpu::CpuEngine;
use crate::engine::{Engine, EngineError, MultiTauRequest, Request, TwoTimeRequest, Unobserved};
use crate::task::correlate::{Normalization, PixelG2Output, SaturatedPolicy};

/// Memory that is tested at most, and the part of what is free: others may need the rest.
const MOST: u64 = 1 << 30;
const SHARE: u64 = 4;

/// Numbers of the pattern begin with these: each bit is once 0 and once 1 somewhere near.
const SEEDS: [u64; 2] = [1, 1 << 40];

/// The small dataset.
const SHAPE: Shape = Shape { rows: 16, cols: 32 };
const FRAMES: u64 = 96;

/// Why a GPU is not to be trusted.
#[derive(Debug, thiserror::Error)]
pub enum SelfTestError {
    /// It does not do what it is asked for.
    #[error("the test could not be run")]
    Device(#[source] DeviceError),
    /// Memory.
    #[error("{wrong} of {numbers} numbers come back from its memory changed")]
    Memory {
        /// Numbers that differ.
        wrong: u32,
        /// All numbers.
        numbers: u64,
    },
    /// A correlation that fails.
    #[error("a small correlation failed")]
    Correlate(#[source] EngineError),
    /// A correlation with more or fewer numbers.
    #[error("a small correlation gives {found} times {what}, which should be {wanted} times")]
    Length {
        /// What differs.
        what: &'static str,
        /// So many.
        found: usize,
        /// So many would be right.
        wanted: usize,
    },
    /// A correlation with other numbers.
    #[error("a small correlation gives {what} of {found}, which should be {wanted}")]
    Numbers {
        /// What differs.
        what: &'static str,
        /// What it computes.
        found: f64,
        /// What the CPU computes.
        wanted: f64,
    },
}

impl CudaEngine {
    /// Tests its GPU.
    ///
    /// # Errors
    /// What is wrong.
    pub fn self_test(&self) -> Result<(), SelfTestError> {
        {
            let driver = self.entered().map_err(SelfTestError::Device)?;
            memory(&*driver)?;
        }
        let request = request();
        let cpu = CpuEngine::new(Some(NonZeroUsize::MIN));
        let run = |engine: &dyn Engine| {
            let source = Source::Frames(Box::new(Pattern(info())));
            let done = engine.correlate(&request, &source, &Unobserved, &mut |_| Ok(()));
            done.map(|(correlation, _)| correlation).map_err(SelfTestError::Correlate)
        };
        compare(&run(self)?, &run(&cpu)?)
    }
}

fn memory<D: Device>(device: &D) -> Result<(), SelfTestError> {
    let free = device.free_bytes().map_err(SelfTestError::Device)?;
    let numbers = (free / SHARE).min(MOST) / size_of::<u64>() as u64;
    let wrong = || {
        let memory = Buffer::<D, u64>::new(device, numbers as usize)?;
        let wrong = Buffer::<D, u32>::zeros(device, 1)?;
        let grid = threads(numbers as usize);
        for seed in SEEDS {
            let pattern = || [memory.arg(), Arg::U64(numbers), Arg::U64(seed)];
            device.launch(Kernel::SelfTestWrite, grid, &pattern())?;
            let arguments: Vec<_> = pattern().into_iter().chain([wrong.arg()]).collect();
            device.launch(Kernel::SelfTestCheck, grid, &arguments)?;
        }
        Ok(wrong.read(device)?[0])
    };
    match wrong().map_err(SelfTestError::Device)? {
        0 => Ok(()),
        wrong => Err(SelfTestError::Memory { wrong, numbers: numbers * SEEDS.len() as u64 }),
    }
}

fn compare(found: &Correlation, wanted: &Correlation) -> Result<(), SelfTestError> {
    let g2 = |correlation: &Correlation| -> Vec<f64> {
        correlation.multi_tau.iter().flat_map(|multi_tau| multi_tau.g2.iter().copied()).collect()
    };
    let diagonals = |correlation: &Correlation| -> Vec<f64> {
        correlation.two_time.iter().flat_map(|two_time| two_time.g2.iter().copied()).collect()
    };
    let pairs = [
        ("a g2", g2(found), g2(wanted)),
        ("a two-time g2", diagonals(found), diagonals(wanted)),
        ("an average", found.scattering.image.clone(), wanted.scattering.image.clone()),
    ];
    for (what, found, wanted) in pairs {
        if found.len() != wanted.len() {
            return Err(SelfTestError::Length { what, found: found.len(), wanted: wanted.len() });
        }
        // no number is near what is none
        let near = |(found, wanted): &(f64, f64)| {
            (found - wanted).abs() <= 1e-6 * wanted.abs() || (found.is_nan() && wanted.is_nan())
        };
        if let Some((found, wanted)) = std::iter::zip(found, wanted).find(|pair| !near(pair)) {
            return Err(SelfTestError::Numbers { what, found, wanted });
        }
    }
    Ok(())
}

fn request() -> Request {
    let pixels = SHAPE.pixels();
    let ring = |size: usize| (0..pixels).map(move |pixel| (pixel / size) as u32 + 1).collect();
    Request {
        selection: FrameWindow::default().select(FRAMES).expect("there are frames"),
        labels: Labels {
            shape: SHAPE,
            mask: vec![true; pixels],
            blemish: vec![true; pixels],
            dynamic_labels: ring(128),
            static_labels: ring(32),
        },
        multi_tau: Some(MultiTauRequest {
            normalization: Normalization::FrameMean,
            parts: 0,
            pixel_g2: PixelG2Output::Drop,
        }),
        two_time: Some(TwoTimeRequest { smoothing: Smoothing::StaticBins, labels: vec![1, 3] }),
        saturated: SaturatedPolicy::Keep,
        memory: MOST,
    }
}

fn info() -> SourceInfo {
    SourceInfo { format: "pattern".into(), files: Vec::new(), bytes: 0, shape: SHAPE, frames: FRAMES }
}

/// Frames of counts from 0 to 3.
struct Pattern(SourceInfo);

impl FrameSource for Pattern {
    fn info(&self) -> &SourceInfo {
        &self.0
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

    fn read_frames(&self, frames: Range<u64>, _: &mut Scratch, out: &mut [u8]) -> Result<(), DatasetError> {
        let first = frames.start * SHAPE.pixels() as u64;
        for (number, count) in (first..).zip(out) {
            // a multiplicative hash (Knuth), of which the upper bits are the best
            *count = (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 62) as u8;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::cuda::Call;
    use crate::engine::cuda::engine::correlate;
    use crate::engine::cuda::test_device::TestDevice;
    use crate::engine::workers::Workers;

    #[test]
    fn memory_that_keeps_what_it_is_given_passes() {
        memory(&TestDevice::new(1 << 16, 3)).expect("passes");
    }

    #[test]
    fn a_number_that_differs_is_found() {
        let request = request();
        let workers = Workers { threads: NonZeroUsize::MIN, observer: &Unobserved };
        let source = Source::Frames(Box::new(Pattern(info())));
        let call = Call { request: &request, workers };
        let (mut found, _) =
            correlate(&TestDevice::new(1 << 28, 3), &source, call, &mut |_| Ok(())).expect("correlates");
        let (wanted, _) =
            CpuEngine::new(None).correlate(&request, &source, &Unobserved, &mut |_| Ok(())).expect("correlates");
        compare(&found, &wanted).expect("are the same");
        let two_time = found.two_time.as_mut().expect("asked for");
        two_time.g2[(5, 1)] *= 1.00001;
        let error = compare(&found, &wanted).expect_err("differs");
        assert!(error.to_string().contains("a two-time g2"), "{error}");
        found.two_time.as_mut().expect("asked for").g2[(5, 1)] = f64::NAN;
        assert!(compare(&found, &wanted).is_err(), "no number");
        found.two_time = None;
        assert!(matches!(compare(&found, &wanted), Err(SelfTestError::Length { .. })), "nothing");
    }
}
