//! Whether a GPU computes what it should: a pattern through its memory, and small correlations of frames and of events,
//! compared with the CPU's.

use std::num::NonZeroUsize;
use std::ops::Range;

use super::CudaEngine;
use super::device::{Arg, Buffer, Device, DeviceError, Kernel};
use super::threads;
use crate::correlate::bins::{Labels, Shape};
use crate::correlate::result::Correlation;
use crate::correlate::twotime::Smoothing;
use crate::correlate::window::FrameWindow;
use crate::dataset::{
    DatasetError, EventSource, FrameSource, PhotonEvent, PixelType, Scratch, Source, SourceInfo, Unstored,
};
use crate::engine::cpu::CpuEngine;
use crate::engine::{Engine, EngineError, MultiTauRequest, Request, TwoTimeRequest, Unobserved};
use crate::task::correlate::{Normalization, PixelG2Output, SaturatedPolicy};

/// Memory that is tested at most, and the part of what is free: others may need the rest.
const MOST: u64 = 1 << 30;
const SHARE: u64 = 4;

/// Numbers of the pattern begin with these: each bit is once 0 and once 1 somewhere near.
const SEEDS: [u64; 2] = [1, 1 << 40];

/// The image of the small datasets.
const SHAPE: Shape = Shape { rows: 16, cols: 32 };

/// Frames of the dense dataset.
const FRAMES: u64 = 96;

/// Frames of the dataset of events: a pixel with an event in each has more than fit one pass of the sort, and more than
/// shared memory has room for when they are correlated.
const EVENT_FRAMES: u64 = 640;

/// Frames of a block of events.
const BLOCK_FRAMES: u64 = 64;

/// One pixel in this many has an event in each frame.
const BRIGHT: u64 = 64;

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
    #[error("a small correlation of {data} gives {found} times {what}, which should be {wanted} times")]
    Length {
        /// Of what.
        data: &'static str,
        /// What differs.
        what: &'static str,
        /// So many.
        found: usize,
        /// So many would be right.
        wanted: usize,
    },
    /// A correlation with other numbers.
    #[error("a small correlation of {data} gives {what} of {found}, which should be {wanted}")]
    Numbers {
        /// Of what.
        data: &'static str,
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
        let cpu = CpuEngine::new(Some(NonZeroUsize::MIN));
        for Trial { data, request, source } in trials() {
            let run = |engine: &dyn Engine| {
                let done = engine.correlate(&request, &source, &Unobserved, &mut Unstored);
                done.map(|(correlation, _)| correlation).map_err(SelfTestError::Correlate)
            };
            compare(data, &run(self)?, &run(&cpu)?)?;
        }
        Ok(())
    }
}

/// A small correlation.
struct Trial {
    /// What it correlates, for people.
    data: &'static str,
    request: Request,
    source: Source,
}

/// Frames use the dense and the two-time kernels; events are counted, filed, sorted and correlated by kernels of their own.
fn trials() -> [Trial; 2] {
    let two_time = TwoTimeRequest { smoothing: Smoothing::StaticBins, labels: vec![1, 3] };
    [
        Trial {
            data: "frames",
            request: request(FRAMES, Some(two_time)),
            source: Source::Frames(Box::new(Pattern(info(FRAMES)))),
        },
        Trial {
            data: "events",
            request: request(EVENT_FRAMES, None),
            source: Source::Events(Box::new(Events(info(EVENT_FRAMES)))),
        },
    ]
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

fn compare(data: &'static str, found: &Correlation, wanted: &Correlation) -> Result<(), SelfTestError> {
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
            return Err(SelfTestError::Length { data, what, found: found.len(), wanted: wanted.len() });
        }
        // no number is near what is none
        let near = |(found, wanted): &(f64, f64)| {
            (found - wanted).abs() <= 1e-6 * wanted.abs() || (found.is_nan() && wanted.is_nan())
        };
        if let Some((found, wanted)) = std::iter::zip(found, wanted).find(|pair| !near(pair)) {
            return Err(SelfTestError::Numbers { data, what, found, wanted });
        }
    }
    Ok(())
}

fn request(frames: u64, two_time: Option<TwoTimeRequest>) -> Request {
    let pixels = SHAPE.pixels();
    let ring = |size: usize| (0..pixels).map(move |pixel| (pixel / size) as u32 + 1).collect();
    Request {
        selection: FrameWindow::default().select(frames).expect("there are frames"),
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
        two_time,
        saturated: SaturatedPolicy::Keep,
        memory: MOST,
    }
}

fn info(frames: u64) -> SourceInfo {
    SourceInfo { format: "pattern".into(), files: Vec::new(), bytes: 0, shape: SHAPE, frames }
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
            *count = (hash(number) >> 62) as u8;
        }
        Ok(())
    }
}

/// A multiplicative hash (Knuth), of which the upper bits are the best.
fn hash(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Events of 1 to 4 photons: in each frame of bright pixels, in a sixteenth of the frames of the others.
struct Events(SourceInfo);

impl EventSource for Events {
    fn info(&self) -> &SourceInfo {
        &self.0
    }

    fn events_bound(&self) -> u64 {
        EVENT_FRAMES * SHAPE.pixels() as u64
    }

    fn blocks(&self) -> usize {
        EVENT_FRAMES.div_ceil(BLOCK_FRAMES) as usize
    }

    fn read_block(&self, block: usize, _: &mut Scratch, out: &mut Vec<PhotonEvent>) -> Result<(), DatasetError> {
        out.clear();
        let first = block as u64 * BLOCK_FRAMES;
        for frame in first..EVENT_FRAMES.min(first + BLOCK_FRAMES) {
            for pixel in 0..SHAPE.pixels() as u64 {
                let hash = hash(frame * SHAPE.pixels() as u64 + pixel);
                if pixel % BRIGHT == 0 || hash >> 60 == 0 {
                    out.push(PhotonEvent::new(frame as u32, pixel as u32, (hash >> 58 & 3) as u16 + 1));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::dataset::ResultSink;
    use crate::engine::cuda::Call;
    use crate::engine::cuda::engine::correlate;
    use crate::engine::cuda::events::ROOM;
    use crate::engine::cuda::sort::TILE;
    use crate::engine::cuda::test_device::TestDevice;
    use crate::engine::sink::Sink;
    use crate::engine::workers::Workers;

    #[test]
    fn memory_that_keeps_what_it_is_given_passes() {
        memory(&TestDevice::new(1 << 16, 3)).expect("passes");
    }

    /// What the device of the tests and the CPU make of a trial.
    fn both(trial: &Trial) -> (Correlation, Correlation) {
        let Trial { data: _, request, source } = trial;
        let workers = Workers { threads: NonZeroUsize::MIN, observer: &Unobserved };
        let call = Call { request, workers };
        let (mut unstored, device) = (Unstored, TestDevice::new(1 << 28, 3));
        let shared = Mutex::new(&mut unstored as &mut dyn ResultSink);
        let (found, _) = correlate(&device, source, call, Sink::new(&shared)).expect("correlates");
        let (wanted, _) =
            CpuEngine::new(None).correlate(request, source, &Unobserved, &mut Unstored).expect("correlates");
        (found, wanted)
    }

    #[test]
    fn a_number_that_differs_is_found() {
        let [frames, events] = trials();
        let (mut found, wanted) = both(&frames);
        compare("frames", &found, &wanted).expect("are the same");
        let two_time = found.two_time.as_mut().expect("asked for");
        two_time.g2[(5, 1)] *= 1.00001;
        let error = compare("frames", &found, &wanted).expect_err("differs");
        assert!(error.to_string().contains("of frames gives a two-time g2"), "{error}");
        found.two_time.as_mut().expect("asked for").g2[(5, 1)] = f64::NAN;
        assert!(compare("frames", &found, &wanted).is_err(), "no number");
        found.two_time = None;
        assert!(matches!(compare("frames", &found, &wanted), Err(SelfTestError::Length { .. })), "nothing");

        let (mut found, wanted) = both(&events);
        compare("events", &found, &wanted).expect("are the same");
        found.multi_tau.as_mut().expect("asked for").g2[(7, 2)] *= 1.00001;
        let error = compare("events", &found, &wanted).expect_err("differs");
        assert!(error.to_string().contains("of events gives a g2"), "{error}");
        let (mut found, _) = both(&events);
        found.scattering.image[3] *= 1.00001;
        let error = compare("events", &found, &wanted).expect_err("differs");
        assert!(error.to_string().contains("of events gives an average"), "{error}");
    }

    #[test]
    fn events_have_pixels_that_fit_and_pixels_that_do_not() {
        let source = Events(info(EVENT_FRAMES));
        let (mut events, mut block) = (vec![0_u32; SHAPE.pixels()], Vec::new());
        for number in 0..source.blocks() {
            source.read_block(number, &mut Scratch::default(), &mut block).expect("reads");
            block.iter().for_each(|event| events[event.pixel() as usize] += 1);
        }
        assert!(events.iter().filter(|&&events| events > TILE.max(ROOM)).count() >= 4, "{events:?}");
        assert!(events.iter().filter(|&&events| events > 0 && events < ROOM).count() >= 400, "{events:?}");
        assert!(u64::from(events.iter().sum::<u32>()) <= source.events_bound());
    }
}
