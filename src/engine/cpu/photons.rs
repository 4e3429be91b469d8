//! Correlation of photon events: how often the file is read, and what is done with the events of each reading.
//!
//! One reading when the kept events fit the memory limit. Otherwise a survey counts them, and the pixels are
//! cut into ranges that fit, one reading each. Memory: 8 bytes a kept event of a range, plus for each thread
//! 16 bytes a pixel of the image, plus 8 bytes a frame.

use std::ops::Range;

use crate::correlate::bins::Partition;
use crate::correlate::result::{Correlation, TwoTime};
use crate::correlate::scattering::{SegmentPlan, Tally};
use crate::dataset::EventSource;
use crate::engine::{EngineError, MapSink, Request, TwoTimeRequest, limit};
use crate::task::correlate::PixelG2Output;

use crate::engine::multi_tau::factors;

use super::events::{BUCKET, ENTRY_BYTES, Keep, Reading, Sorted, Sums, buckets, passes};
use super::pool::Pool;
use super::sparse::{SparseMultiTau, StaticSums};
use super::twotime::{Collector, Counts, Lists};
use crate::engine::layout::Layout;

/// Part of the memory limit that events may take; the rest is for sums, buckets and the result.
const EVENT_SHARE: f64 = 0.6;

/// Correlates `source`, unless `abandon` says after the first reading that it is in vain: then None.
pub(super) fn correlate(
    source: &dyn EventSource,
    partition: &Partition,
    request: &Request,
    pool: Pool<'_>,
    abandon: &dyn Fn() -> bool,
    maps: &mut MapSink<'_>,
) -> Result<Option<Correlation>, EngineError> {
    let layout = Layout::new(partition);
    let reading = Reading { source, layout: &layout, selection: &request.selection, pool };
    let limit = event_limit(request, &layout, pool)?;
    let run = Run { reading, partition, request, limit };
    let all = 0..buckets(layout.len());
    pool.observer.step("reading", source.info().frames);
    if source.events_bound() <= limit {
        let (sorted, sums) = reading.read(&Keep::Buckets(all))?;
        if abandon() {
            return Ok(None);
        }
        return run.one_reading(&sorted, &sums, maps).map(Some);
    }
    let (_, sums) = reading.read(&Keep::Nothing)?;
    if abandon() {
        return Ok(None);
    }
    run.many_readings(&sums, maps).map(Some)
}

/// Buckets of a reading and the labels that lie wholly in them.
type LabelPass = (Range<usize>, Vec<u32>);

struct Run<'a> {
    reading: Reading<'a>,
    partition: &'a Partition,
    request: &'a Request,
    /// The most events in memory.
    limit: u64,
}

impl<'a> Run<'a> {
    fn one_reading(&self, sorted: &Sorted, sums: &Sums, maps: &mut MapSink<'_>) -> Result<Correlation, EngineError> {
        let mut tally = self.tally(sums);
        let mut multi_tau = self.multi_tau(&tally);
        self.reading.pool.observer.step("correlating", self.reading.layout.len() as u64);
        self.correlate(sorted, &mut tally, multi_tau.as_mut())?;
        let mut two_time = self.two_time();
        if let Some((collector, wanted)) = &mut two_time {
            self.reading.pool.observer.step("two-time", wanted.labels.len() as u64);
            for &label in &wanted.labels {
                self.add_map(collector, wanted, label, sorted, maps)?;
            }
        }
        Ok(self.finish(&tally, multi_tau, two_time.map(|(collector, _)| collector.finish())))
    }

    fn many_readings(&self, sums: &Sums, maps: &mut MapSink<'_>) -> Result<Correlation, EngineError> {
        let mut tally = self.tally(sums);
        let mut multi_tau = self.multi_tau(&tally);
        for range in passes(&sums.per_bucket, self.limit) {
            let sorted = self.read(range)?;
            self.reading.pool.observer.step("correlating", (sorted.buckets().len() * BUCKET) as u64);
            self.correlate(&sorted, &mut tally, multi_tau.as_mut())?;
        }
        let mut two_time = self.two_time();
        if let Some((collector, wanted)) = &mut two_time {
            for (range, labels) in self.label_passes(wanted, &sums.per_bucket)? {
                let sorted = self.read(range)?;
                self.reading.pool.observer.step("two-time", labels.len() as u64);
                for label in labels {
                    self.add_map(collector, wanted, label, &sorted, maps)?;
                }
            }
        }
        Ok(self.finish(&tally, multi_tau, two_time.map(|(collector, _)| collector.finish())))
    }

    fn read(&self, range: Range<usize>) -> Result<Sorted, EngineError> {
        self.reading.pool.observer.step("reading", self.reading.source.info().frames);
        Ok(self.reading.read(&Keep::Buckets(range))?.0)
    }

    fn tally(&self, sums: &Sums) -> Tally {
        let mut tally = Tally::new(self.partition, &self.request.selection);
        tally.frames = sums.frames.iter().map(|&sum| sum as f64).collect();
        tally.pixels = sums.pixels.iter().map(|&sum| sum as f64).collect();
        tally
    }

    fn multi_tau(&self, tally: &Tally) -> Option<SparseMultiTau<'a>> {
        let wanted = self.request.multi_tau?;
        let factors = factors(wanted, &tally.frames, self.partition, self.request);
        Some(SparseMultiTau::new(self.reading.layout, self.partition, wanted, factors))
    }

    fn correlate(
        &self,
        sorted: &Sorted,
        tally: &mut Tally,
        multi_tau: Option<&mut SparseMultiTau<'_>>,
    ) -> Result<(), EngineError> {
        match multi_tau {
            Some(multi_tau) => multi_tau.add(sorted, tally, self.reading.pool),
            None => self.sum_statics(sorted, tally),
        }
    }

    /// Counts of pixels and segments where no multi-tau is wanted.
    fn sum_statics(&self, sorted: &Sorted, tally: &mut Tally) -> Result<(), EngineError> {
        let range = sorted.buckets();
        let plan = SegmentPlan::new(self.request.selection.outputs());
        let init = || (Vec::new(), Vec::new());
        let parts = self.reading.pool.map(range.len(), init, |(starts, entries), index| {
            let bucket = range.start + index;
            sorted.bucket(bucket, starts, entries);
            Ok(StaticSums::of(bucket * BUCKET, starts, entries, self.reading.layout, self.partition, plan))
        })?;
        parts.iter().for_each(|part| part.add_to(tally));
        Ok(())
    }

    fn two_time(&self) -> Option<(Collector, &'a TwoTimeRequest)> {
        let wanted = self.request.two_time.as_ref()?;
        Some((Collector::new(self.request.selection.outputs() as usize, &wanted.labels), wanted))
    }

    fn add_map(
        &self,
        collector: &mut Collector,
        wanted: &TwoTimeRequest,
        label: u32,
        sorted: &Sorted,
        maps: &mut MapSink<'_>,
    ) -> Result<(), EngineError> {
        let counts = Counts::Lists(lists(sorted, self.reading.layout, label));
        let pool = self.reading.pool;
        collector.add(&counts, self.reading.layout, wanted.smoothing, self.request.memory, pool, maps)?;
        pool.observer.advance(1);
        Ok(())
    }

    /// Ranges of buckets with the labels that lie wholly in them.
    fn label_passes(&self, wanted: &TwoTimeRequest, per_bucket: &[u64]) -> Result<Vec<LabelPass>, EngineError> {
        let mut passes: Vec<LabelPass> = Vec::new();
        let events = |range: &Range<usize>| per_bucket[range.clone()].iter().sum::<u64>();
        for &label in &wanted.labels {
            let places = self.reading.layout.bin(label);
            let range = places.start / BUCKET..places.end.div_ceil(BUCKET);
            if events(&range) > self.limit {
                return Err(EngineError::Memory {
                    what: "the events of one dynamic bin",
                    needed: (events(&range) as f64 * ENTRY_BYTES as f64 / EVENT_SHARE) as u64,
                    allowed: self.request.memory,
                    remedy: "take fewer frames",
                });
            }
            match passes.last_mut() {
                Some((last, labels)) if events(&(last.start..range.end)) <= self.limit => {
                    last.end = range.end;
                    labels.push(label);
                }
                _ => passes.push((range, vec![label])),
            }
        }
        Ok(passes)
    }

    fn finish(&self, tally: &Tally, multi_tau: Option<SparseMultiTau<'_>>, two_time: Option<TwoTime>) -> Correlation {
        let scattering = tally.finish(self.partition, &self.request.selection);
        let (multi_tau, parts, pixel_g2) = match multi_tau.map(SparseMultiTau::finish) {
            Some((whole, parts, pixel_g2)) => (Some(whole), parts, pixel_g2),
            None => (None, Vec::new(), None),
        };
        Correlation { scattering, multi_tau, parts, pixel_g2, two_time, saturated: Vec::new() }
    }
}

/// What each thread keeps of the image and what is kept for the result take `needed` bytes, more than allowed.
pub(super) fn too_little(request: &Request, needed: u64) -> EngineError {
    let (what, remedy) = match request.multi_tau.map(|wanted| wanted.pixel_g2) {
        Some(PixelG2Output::Keep) => ("the image with its per-pixel correlations", "drop --save-G2"),
        Some(PixelG2Output::Drop) | None => ("the image, which each thread has a part of,", "take fewer --threads"),
    };
    EngineError::Memory { what, needed, allowed: request.memory, remedy }
}

/// The most events that fit.
fn event_limit(request: &Request, layout: &Layout, pool: Pool<'_>) -> Result<u64, EngineError> {
    let image = layout.place.len() as u64 * 16;
    let fixed = image * (pool.threads.get() as u64 + 2)
        + request.selection.outputs() * 32
        + limit::kept(request, layout.len())?;
    let free = request.memory.saturating_sub(fixed) as f64 * EVENT_SHARE;
    let limit = free as u64 / ENTRY_BYTES;
    if limit < BUCKET as u64 {
        return Err(too_little(request, fixed * 2));
    }
    Ok(limit)
}

/// The detections of a dynamic bin.
fn lists(sorted: &Sorted, layout: &Layout, label: u32) -> Lists {
    let places = layout.bin(label);
    let mut lists = Lists::new();
    let (mut starts, mut entries) = (Vec::new(), Vec::new());
    for bucket in places.start / BUCKET..places.end.div_ceil(BUCKET) {
        sorted.bucket(bucket, &mut starts, &mut entries);
        let first = bucket * BUCKET;
        for place in places.start.max(first)..places.end.min(first + BUCKET) {
            for entry in &entries[starts[place - first] as usize..starts[place - first + 1] as usize] {
                lists.push(entry.frame(), entry.count());
            }
            lists.end_pixel();
        }
    }
    lists
}
