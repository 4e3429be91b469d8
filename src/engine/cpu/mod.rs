//! The CPU engine: chooses the way by the data (events or frames, few photons or many) and uses all threads.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Mutex;

use crate::correlate::bins::Partition;
use crate::correlate::result::Correlation;
use crate::dataset::{FrameSource, ResultSink, Source};

use super::saturated::{self, Excluded};
use super::sink::Sink;
use super::workers::Workers;
use super::{Engine, EngineError, Observer, Request};
use crate::task::correlate::SaturatedPolicy;

mod cells;
mod dense;
mod events;
mod frames;
mod memory;
mod narrow;
mod photons;
mod pool;
mod series;
mod sparse;
mod sparse_frames;
mod twotime;

use memory::Memory;
use pool::Pool;
use sparse_frames::FramesAsEvents;

/// Frames with fewer occupied pixels than this fraction are taken as events.
/// Where the two ways cost the same was measured with `benches/correlate.rs`.
const SPARSE_OCCUPANCY: f64 = 0.03;

/// Correlates on this machine's processors. Keeps its working memory from one run to the next.
#[derive(Debug, Clone)]
pub struct CpuEngine {
    threads: NonZeroUsize,
    memory: Memory,
}

impl CpuEngine {
    /// An engine of `threads` threads; None = as many as the process may use.
    pub fn new(threads: Option<NonZeroUsize>) -> Self {
        let available = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Self { threads: threads.unwrap_or_else(available), memory: Memory::default() }
    }

    fn pool<'a>(&'a self, observer: &'a dyn Observer) -> Pool<'a> {
        Pool { workers: Workers { threads: self.threads, observer }, memory: &self.memory }
    }

    fn frames(
        &self,
        request: &Request,
        source: &dyn FrameSource,
        observer: &dyn Observer,
        sink: Sink<'_>,
    ) -> Result<(Correlation, Partition), EngineError> {
        let pool = self.pool(observer);
        let mut excluded = Excluded::default();
        loop {
            let partition = excluded.partition(request)?;
            let found = Saturated::new(source, request.saturated);
            let sample = frames::look(source, &partition, request, &found, &self.memory)?;
            let done = if !found.is_empty() {
                None
            } else {
                let few = sample.occupancy < SPARSE_OCCUPANCY;
                let events = few.then(|| FramesAsEvents::new(source, request.selection, &partition, &found)).flatten();
                match events {
                    Some(events) => {
                        photons::correlate(&events, &partition, request, pool, &|| !found.is_empty(), sink)?
                    }
                    None => frames::correlate(source, &partition, request, pool, &found, sample, sink)?,
                }
            };
            match done {
                Some(correlation) if found.is_empty() => {
                    return Ok((Correlation { saturated: excluded.list(), ..correlation }, partition));
                }
                _ => {
                    excluded.extend(found.take(), request)?;
                }
            }
        }
    }
}

impl Engine for CpuEngine {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn device(&self) -> String {
        let model = std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("model name"))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        });
        format!("{}, {} threads", model.unwrap_or_else(|| std::env::consts::ARCH.to_owned()), self.threads)
    }

    fn correlate(
        &self,
        request: &Request,
        source: &Source,
        observer: &dyn Observer,
        sink: &mut dyn ResultSink,
    ) -> Result<(Correlation, Partition), EngineError> {
        let shared = Mutex::new(sink);
        let sink = Sink::new(&shared);
        match source {
            Source::Frames(source) => self.frames(request, source.as_ref(), observer, sink),
            Source::Events(source) => {
                let pool = self.pool(observer);
                let partition = Excluded::default().partition(request)?;
                let done = photons::correlate(source.as_ref(), &partition, request, pool, &|| false, sink)?;
                let correlation = done.ok_or(EngineError::Cancelled)?;
                Ok((correlation, partition))
            }
        }
    }
}

/// Saturated pixels that a pass over the data has come across.
struct Saturated {
    /// The value that marks them, if any does.
    value: Option<u32>,
    /// Pixel -> first frame.
    pixels: Mutex<BTreeMap<u32, u64>>,
}

impl Saturated {
    fn new(source: &dyn FrameSource, policy: SaturatedPolicy) -> Self {
        Self { value: saturated::mark(source, policy), pixels: Mutex::default() }
    }

    fn add(&self, pixel: u32, frame: u64) {
        let mut pixels = self.pixels.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        pixels.entry(pixel).and_modify(|first| *first = frame.min(*first)).or_insert(frame);
    }

    fn is_empty(&self) -> bool {
        self.pixels.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).is_empty()
    }

    fn take(&self) -> BTreeMap<u32, u64> {
        std::mem::take(&mut self.pixels.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }
}

#[cfg(test)]
mod tests;
