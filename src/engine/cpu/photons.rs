//! Correlation of photon events: how often the file is read, and what is done with the events of each reading.
//!
//! One reading when the kept events fit the memory limit. Otherwise a survey counts them, and the pixels are
//! cut into ranges that fit, one reading each. Memory: 8 bytes a kept event of a range, plus for each thread
//! 16 bytes a pixel of the image, plus 8 bytes a frame; for two-time see [`bin`].

use std::ops::Range;

use crate::correlate::bins::Partition;
use crate::correlate::result::Correlation;
use crate::correlate::scattering::{SegmentPlan, Tally};
use crate::dataset::EventSource;
use crate::engine::layout::Layout;
use crate::engine::limit::{map_too_large, whole_of};
use crate::engine::multi_tau::factors;
use crate::engine::sink::Sink;
use crate::engine::two_time::most_groups;
use crate::engine::{EngineError, Request, TwoTimeRequest};

use super::events::{BUCKET, ENTRY_BYTES, Keep, Reading, Sorted, Sums, buckets, passes, places};
use super::pool::Pool;
use super::sparse::{SparseMultiTau, StaticSums};
use super::twotime::{Collector, least};

mod bin;

use bin::{EventBin, Events, LIST_BYTES};

/// Part of the memory limit that events may take; the rest is for sums, buckets and the result.
const EVENT_SHARE: f64 = 0.6;

/// Part of the memory limit that is planned with for two-time, events included; the rest is slack for the allocator.
const PLANNED_SHARE: f64 = 0.9;

/// Correlates `source`, unless `abandon` says after the first reading that it is in vain: then None.
pub(super) fn correlate(
    source: &dyn EventSource,
    partition: &Partition,
    request: &Request,
    pool: Pool<'_>,
    abandon: &dyn Fn() -> bool,
    sink: Sink<'_>,
) -> Result<Option<Correlation>, EngineError> {
    let layout = Layout::new(partition);
    let reading = Reading { source, layout: &layout, selection: &request.selection, pool };
    let (room, limit) = memory(request, &layout, pool, sink)?;
    let run = Run { reading, partition, request, room, limit, sink };
    let all = 0..buckets(layout.len());
    pool.observer.step("reading", source.info().frames);
    if source.events_bound() <= limit {
        let (sorted, sums) = reading.read(&Keep::Buckets(all))?;
        if abandon() {
            return Ok(None);
        }
        return run.one_reading(sorted, &sums).map(Some);
    }
    let (_, sums) = reading.read(&Keep::Nothing)?;
    if abandon() {
        return Ok(None);
    }
    run.many_readings(&sums).map(Some)
}

/// A reading for two-time.
enum LabelPass {
    /// Buckets, and labels that lie wholly in them.
    Whole(Range<usize>, Vec<u32>),
    /// A label whose events do not fit at once.
    Cut(u32),
}

struct Run<'a> {
    reading: Reading<'a>,
    partition: &'a Partition,
    request: &'a Request,
    /// Bytes for events and what is made of them.
    room: u64,
    /// The most events in memory.
    limit: u64,
    sink: Sink<'a>,
}

impl<'a> Run<'a> {
    fn one_reading(&self, sorted: Sorted, sums: &Sums) -> Result<Correlation, EngineError> {
        let mut tally = self.tally(sums);
        let mut multi_tau = self.multi_tau(&tally);
        self.correlate(&sorted, &mut tally, multi_tau.as_mut())?;
        let mut two_time = self.two_time();
        if let (Some(collector), Some(wanted)) = (&mut two_time, &self.request.two_time) {
            if self.fits(sorted.buckets(), &sums.per_bucket) {
                self.add_maps(collector, &wanted.labels, &sorted, sums)?;
            } else {
                drop(sorted);
                self.read_for_maps(collector, wanted, sums)?;
            }
        }
        Ok(self.finish(&tally, multi_tau, two_time))
    }

    fn many_readings(&self, sums: &Sums) -> Result<Correlation, EngineError> {
        let mut tally = self.tally(sums);
        let mut multi_tau = self.multi_tau(&tally);
        for range in passes(&sums.per_bucket, self.limit) {
            let sorted = self.read(range)?;
            self.correlate(&sorted, &mut tally, multi_tau.as_mut())?;
        }
        let mut two_time = self.two_time();
        if let (Some(collector), Some(wanted)) = (&mut two_time, &self.request.two_time) {
            self.read_for_maps(collector, wanted, sums)?;
        }
        Ok(self.finish(&tally, multi_tau, two_time))
    }

    /// All maps, whose events are read for them.
    fn read_for_maps(
        &self,
        collector: &mut Collector<'_>,
        wanted: &TwoTimeRequest,
        sums: &Sums,
    ) -> Result<(), EngineError> {
        for pass in self.label_passes(wanted, &sums.per_bucket) {
            match pass {
                LabelPass::Whole(range, labels) => self.add_maps(collector, &labels, &self.read(range)?, sums)?,
                LabelPass::Cut(label) => self.add_cut_map(collector, label, sums)?,
            }
        }
        Ok(())
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
        Some(SparseMultiTau::new(self.reading.layout, self.partition, wanted, factors, self.sink))
    }

    fn correlate(
        &self,
        sorted: &Sorted,
        tally: &mut Tally,
        multi_tau: Option<&mut SparseMultiTau<'_>>,
    ) -> Result<(), EngineError> {
        let pixels = places(sorted.buckets(), self.reading.layout).len();
        self.reading.pool.observer.step("correlating", pixels as u64);
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
            self.reading.pool.observer.advance(places(bucket..bucket + 1, self.reading.layout).len() as u64);
            Ok(StaticSums::of(bucket * BUCKET, starts, entries, self.reading.layout, self.partition, plan))
        })?;
        parts.iter().for_each(|part| part.add_to(tally));
        Ok(())
    }

    fn two_time(&self) -> Option<Collector<'a>> {
        Collector::new(self.request, self.reading.layout, self.reading.pool, self.sink)
    }

    /// Maps of labels whose events are all there.
    fn add_maps(
        &self,
        collector: &mut Collector<'_>,
        labels: &[u32],
        sorted: &Sorted,
        sums: &Sums,
    ) -> Result<(), EngineError> {
        let observer = self.reading.pool.observer;
        observer.step("two-time", labels.len() as u64);
        let held: u64 = sums.per_bucket[sorted.buckets()].iter().sum::<u64>() * ENTRY_BYTES;
        let left = self.planned().saturating_sub(held);
        for &label in labels {
            let bin = EventBin::new(Events::Sorted(sorted), self.reading.layout.bin(label), &sums.per_bucket);
            // lists that are few stay, and leave more to the map
            let lists = (bin.events() * LIST_BYTES).min(left / 2);
            collector.add(&mut bin.within(lists / LIST_BYTES, self.request.memory), left - lists)?;
            observer.advance(1);
        }
        Ok(())
    }

    /// The map of a label whose events are read again for each slice of pixels and each band of rows.
    fn add_cut_map(&self, collector: &mut Collector<'_>, label: u32, sums: &Sums) -> Result<(), EngineError> {
        let bin = EventBin::new(Events::Read(&self.reading), self.reading.layout.bin(label), &sums.per_bucket);
        collector.add(&mut bin.within(self.cut_limit(), self.request.memory), self.planned() / 2)?;
        let observer = self.reading.pool.observer;
        observer.step("two-time", 1);
        observer.advance(1);
        Ok(())
    }

    /// Bytes that two-time is planned with, events included.
    fn planned(&self) -> u64 {
        (self.room as f64 * PLANNED_SHARE) as u64
    }

    /// The most events of a slice of a map that is read for each slice.
    fn cut_limit(&self) -> u64 {
        self.planned() / 2 / (ENTRY_BYTES + LIST_BYTES)
    }

    /// Whether maps can be made of the events of some buckets that are all in memory. When they leave little to lists,
    /// reading them again for each slice is better.
    fn fits(&self, buckets: Range<usize>, per_bucket: &[u64]) -> bool {
        let own = &per_bucket[buckets];
        let held: u64 = own.iter().sum();
        // pixels that stay together lie in two buckets at most
        let largest = own.windows(2).map(|pair| pair.iter().sum()).max().unwrap_or(held);
        let limit = self.planned().saturating_sub(held * ENTRY_BYTES) / 2 / LIST_BYTES;
        held <= self.limit && (largest <= limit || self.cut_limit() <= limit)
    }

    /// Ranges of buckets with the labels that lie wholly in them.
    fn label_passes(&self, wanted: &TwoTimeRequest, per_bucket: &[u64]) -> Vec<LabelPass> {
        let mut passes: Vec<LabelPass> = Vec::new();
        for &label in &wanted.labels {
            let places = self.reading.layout.bin(label);
            let range = places.start / BUCKET..places.end.div_ceil(BUCKET);
            match passes.last_mut() {
                Some(LabelPass::Whole(last, labels)) if self.fits(last.start..range.end, per_bucket) => {
                    last.end = range.end;
                    labels.push(label);
                }
                _ if self.fits(range.clone(), per_bucket) => passes.push(LabelPass::Whole(range, vec![label])),
                _ => passes.push(LabelPass::Cut(label)),
            }
        }
        passes
    }

    fn finish(
        &self,
        tally: &Tally,
        multi_tau: Option<SparseMultiTau<'_>>,
        two_time: Option<Collector<'_>>,
    ) -> Correlation {
        let scattering = tally.finish(self.partition, &self.request.selection);
        let (multi_tau, parts) = match multi_tau.map(SparseMultiTau::finish) {
            Some((whole, parts)) => (Some(whole), parts),
            None => (None, Vec::new()),
        };
        let two_time = two_time.map(Collector::finish);
        Correlation { scattering, multi_tau, parts, two_time, saturated: Vec::new() }
    }
}

/// What each thread keeps of the image takes `needed` bytes, more than allowed.
pub(super) fn too_little(request: &Request, needed: u64) -> EngineError {
    let (what, remedy) = ("the image, which each thread has a part of,", "take fewer --threads");
    EngineError::Memory { what, needed, allowed: request.memory, remedy }
}

/// Bytes for events and what is made of them, and the most events that are in memory at once.
fn memory(request: &Request, layout: &Layout, pool: Pool<'_>, sink: Sink<'_>) -> Result<(u64, u64), EngineError> {
    let image = layout.place.len() as u64 * 16;
    let fixed = image * (pool.threads.get() as u64 + 2) + request.selection.outputs() * 32;
    let room = request.memory.saturating_sub(fixed);
    let few = BUCKET as u64 * ENTRY_BYTES;
    let events = (room as f64 * EVENT_SHARE) as u64;
    if events < few {
        // with little more than this the file would be read very often
        return Err(too_little(request, fixed * 2));
    }
    let Some(wanted) = &request.two_time else { return Ok((room, events / ENTRY_BYTES)) };
    let frames = request.selection.outputs() as usize;
    // lists get as much as the map
    let map = 2 * least(frames, sink.rows_together(frames), most_groups(layout, wanted));
    let beside = ((room as f64 * PLANNED_SHARE) as u64).saturating_sub(map);
    if beside < few {
        return Err(map_too_large(fixed + whole_of(map + few, PLANNED_SHARE), request.memory));
    }
    Ok((room, events.min(beside) / ENTRY_BYTES))
}
