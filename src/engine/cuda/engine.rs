//! The engine: chooses the way by the data, leaves saturated pixels out, turns what a device says into errors of engines.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::{Mutex, MutexGuard};

use super::ceilings::{Ceilings, ceilings};
use super::dense::{self, Read, Way};
use super::device::{Device, DeviceError, Precision};
use super::driver::{Driver, NoGpu, Times};
use super::images::Form;
use super::{Call, CudaError, events};
use crate::correlate::bins::Partition;
use crate::correlate::result::Correlation;
use crate::dataset::{FrameSource, PixelType, ResultSink, Scratch, Source};
use crate::engine::precision::single_is_enough;
use crate::engine::sample;
use crate::engine::saturated::{self, Excluded};
use crate::engine::sink::Sink;
use crate::engine::workers::Workers;
use crate::engine::{Engine, EngineError, Observer, Request};

/// The frames that are looked at before all are read may take this part of the host's memory: decoding them takes some, too.
const LOOK_SHARE: u64 = 4;

/// Correlates on a GPU; many threads read and decode for it.
#[derive(Debug)]
pub struct CudaEngine {
    driver: Mutex<Driver>,
    device: String,
    uuid: Option<String>,
    threads: NonZeroUsize,
}

impl CudaEngine {
    /// On the GPU of a number, as CUDA counts those that may be used; `threads` read for it, None = as many as the process
    /// may use.
    ///
    /// # Errors
    /// There is no such GPU, or it cannot be used.
    pub fn new(gpu: u64, threads: Option<NonZeroUsize>) -> Result<Self, NoGpu> {
        Ok(Self::on(Driver::new(gpu)?, threads))
    }

    /// On the first GPU that can be used, in an order of the caller's: `order` gets the UUID of each GPU, where it has one,
    /// and gives numbers. Nothing is asked of the other GPUs.
    ///
    /// # Errors
    /// There is none, or none can be used.
    pub fn first(
        threads: Option<NonZeroUsize>,
        order: impl FnOnce(&[Option<String>]) -> Vec<u32>,
    ) -> Result<Self, NoGpu> {
        Ok(Self::on(Driver::first(order)?, threads))
    }

    /// The same, which takes no more of the GPU's memory than so many can take at once.
    #[must_use]
    pub fn shared_by(self, sharers: NonZeroU32) -> Self {
        self.driver.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).share_with(sharers);
        self
    }

    /// The UUID of its GPU, as `nvidia-smi -L` has it.
    pub fn uuid(&self) -> Option<&str> {
        self.uuid.as_deref()
    }

    /// In which form its kernels were loaded so far, for people.
    ///
    /// # Errors
    /// The GPU does not answer.
    pub fn forms(&self) -> Result<Vec<&'static str>, DeviceError> {
        self.entered().map(|driver| driver.forms().into_iter().map(Form::name).collect())
    }

    /// Takes the time of each kernel and of the host's calls from now on, for benchmarks.
    ///
    /// # Errors
    /// The GPU does not answer.
    pub fn take_times(&self) -> Result<(), DeviceError> {
        self.entered().map(|driver| driver.take_times())
    }

    /// Where the time went since.
    ///
    /// # Errors
    /// The GPU does not answer.
    pub fn times(&self) -> Result<Times, DeviceError> {
        self.entered()?.times()
    }

    /// What copies reach, for benchmarks.
    ///
    /// # Errors
    /// The GPU does not answer, or has no memory left.
    pub fn ceilings(&self, bytes: usize) -> Result<Ceilings, DeviceError> {
        ceilings(&*self.entered()?, bytes)
    }

    fn on(driver: Driver, threads: Option<NonZeroUsize>) -> Self {
        let available = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Self {
            device: driver.describe(),
            uuid: driver.uuid(),
            driver: Mutex::new(driver),
            threads: threads.unwrap_or_else(available),
        }
    }

    /// The driver, for the calling thread.
    pub(super) fn entered(&self) -> Result<MutexGuard<'_, Driver>, DeviceError> {
        let driver = self.driver.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        driver.enter()?;
        Ok(driver)
    }

    fn failed(&self, error: CudaError) -> EngineError {
        match error {
            CudaError::Engine(error) => error,
            CudaError::Device(source) => EngineError::Device { device: self.device.clone(), source: Box::new(source) },
        }
    }
}

impl Engine for CudaEngine {
    fn name(&self) -> &'static str {
        "cuda"
    }

    fn device(&self) -> String {
        self.device.clone()
    }

    fn correlate(
        &self,
        request: &Request,
        source: &Source,
        observer: &dyn Observer,
        sink: &mut dyn ResultSink,
    ) -> Result<(Correlation, Partition), EngineError> {
        let shared = Mutex::new(sink);
        let call = Call { request, workers: Workers { threads: self.threads, observer } };
        self.entered()
            .map_err(CudaError::Device)
            .and_then(|driver| correlate(&*driver, source, call, Sink::new(&shared)))
            .map_err(|error| self.failed(error))
    }
}

/// Correlates on a device.
pub(super) fn correlate<D: Device>(
    device: &D,
    source: &Source,
    call: Call<'_>,
    sink: Sink<'_>,
) -> Result<(Correlation, Partition), CudaError> {
    match source {
        Source::Events(source) => {
            let partition = Excluded::default().partition(call.request)?;
            let correlation = events::correlate(device, source.as_ref(), &partition, call, sink)?;
            Ok((correlation, partition))
        }
        Source::Frames(source) => frames(device, source.as_ref(), call, sink),
    }
}

fn frames<D: Device>(
    device: &D,
    source: &dyn FrameSource,
    call: Call<'_>,
    sink: Sink<'_>,
) -> Result<(Correlation, Partition), CudaError> {
    let (request, mut excluded) = (call.request, Excluded::default());
    let saturation = saturated::mark(source, request.saturated);
    loop {
        let partition = excluded.partition(request)?;
        let sample = look(source, &partition, call, saturation)?;
        if !sample.saturated.is_empty() {
            excluded.extend(sample.saturated, request)?;
            continue;
        }
        let mean = sample.mean * request.selection.avg() as f64;
        let precision = if single_is_enough(mean, &partition) { Precision::Single } else { Precision::Double };
        match dense::correlate(device, source, &partition, call, Way { precision, saturation }, sink)? {
            Read::Whole(correlation) => {
                return Ok((Correlation { saturated: excluded.list(), ..*correlation }, partition));
            }
            Read::Saturated(pixels) => excluded.extend(pixels, request)?,
        }
    }
}

/// What a few frames across the selection show of the masked-in pixels.
struct Sample {
    /// Mean counts of a pixel and raw frame.
    mean: f64,
    /// Pixels that carry the saturation value: pixel, raw frame.
    saturated: BTreeMap<u32, u64>,
}

/// Looks at these frames, on as many threads as their bytes allow.
fn look(
    source: &dyn FrameSource,
    partition: &Partition,
    call: Call<'_>,
    saturation: Option<u32>,
) -> Result<Sample, EngineError> {
    let frames: Vec<u64> = sample::frames(&call.request.selection).collect();
    let pixel = source.pixel_type();
    let size = partition.shape().pixels() * pixel.size();
    let bytes = || vec![0; size];
    // a frame for each thread
    let fit = usize::try_from(call.request.memory / LOOK_SHARE / size.max(1) as u64).unwrap_or(usize::MAX);
    let threads = NonZeroUsize::new(fit.min(call.workers.threads.get())).unwrap_or(NonZeroUsize::MIN);
    let looks = Workers { threads, ..call.workers }.map(
        frames.len(),
        || (Scratch::default(), bytes()),
        |(scratch, bytes), number| {
            let frame = frames[number];
            source.read_frames(frame..frame + 1, scratch, bytes).map_err(EngineError::Read)?;
            let (mut sum, mut saturated) = (0.0, Vec::new());
            for &at in partition.pixels() {
                let value = value(pixel, &bytes[at as usize * pixel.size()..]);
                if saturation.is_some_and(|mark| value == f64::from(mark)) {
                    saturated.push((at, frame));
                }
                sum += value;
            }
            Ok((sum, saturated))
        },
    )?;
    let all = frames.len() * partition.pixels().len();
    let (mut sum, mut saturated) = (0.0, BTreeMap::new());
    for (of_frame, own) in looks {
        sum += of_frame;
        own.into_iter().for_each(|(at, frame)| {
            saturated.entry(at).or_insert(frame);
        });
    }
    Ok(Sample { mean: sum / all as f64, saturated })
}

/// The first value of some bytes.
fn value(pixel: PixelType, bytes: &[u8]) -> f64 {
    match pixel {
        PixelType::U8 => f64::from(bytes[0]),
        PixelType::U16 => f64::from(u16::from_ne_bytes([bytes[0], bytes[1]])),
        PixelType::I16 => f64::from(i16::from_ne_bytes([bytes[0], bytes[1]])),
        PixelType::U32 => f64::from(u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])),
        PixelType::I32 => f64::from(i32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])),
        PixelType::F32 => f64::from(f32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])),
    }
}
