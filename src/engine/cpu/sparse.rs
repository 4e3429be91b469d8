//! Multi-tau of photon events: pixels one by one, shards of pixels in parallel.
//!
//! Memory beyond the events: one bucket a thread, and the bins' sums.

use crate::correlate::bins::Partition;
use crate::correlate::delays::DelayPlan;
use crate::correlate::reduce::BinSums;
use crate::correlate::result::MultiTau;
use crate::correlate::scattering::{SegmentPlan, Tally};
use crate::engine::{EngineError, MultiTauRequest};

use crate::engine::multi_tau::{Span, spans};

use super::events::{BUCKET, Entry, Sorted, places};
use super::pool::Pool;
use super::series::{Scales, Series};
use crate::engine::layout::Layout;
use crate::engine::sink::{PixelBatch, Sink, wants_pixels};

/// Correlates buckets of events as they come, and holds the sums.
pub(super) struct SparseMultiTau<'a> {
    pub(super) layout: &'a Layout,
    pub(super) partition: &'a Partition,
    /// Factor of each frame.
    pub(super) factors: Vec<f64>,
    spans: Vec<SpanSums>,
    /// Where the correlations of pixels go, if they are wanted.
    sink: Option<Sink<'a>>,
}

/// One of the series that multi-tau runs over.
struct SpanSums {
    span: Span,
    plan: DelayPlan,
    scales: Scales,
    sums: BinSums,
}

/// What a bucket yields.
struct BucketSums {
    spans: Vec<BinSums>,
    statics: StaticSums,
}

/// Counts of each segment and static bin of a bucket.
#[derive(Default)]
pub(super) struct StaticSums {
    /// (static label, counts of each segment over the pixels that are not blemished)
    segments: Vec<(u32, Vec<u64>)>,
}

impl StaticSums {
    /// Sums of a bucket's events; `starts` as [`Sorted::bucket`] leaves them.
    pub(super) fn of(
        first: usize,
        starts: &[u32],
        entries: &[Entry],
        layout: &Layout,
        partition: &Partition,
        plan: SegmentPlan,
    ) -> Self {
        let mut sums = Self::default();
        for place in first..(first + BUCKET).min(layout.len()) {
            let own = &entries[starts[place - first] as usize..starts[place - first + 1] as usize];
            let label = layout.statics[place];
            if label == 0 || !partition.blemish()[layout.pixels[place] as usize] {
                continue;
            }
            if sums.segments.last().is_none_or(|(last, _)| *last != label) {
                sums.segments.push((label, vec![0; plan.segments]));
            }
            if let Some((_, segments)) = sums.segments.last_mut() {
                for entry in own {
                    if let Some(segment) = plan.segment_of(u64::from(entry.frame())) {
                        segments[segment] += u64::from(entry.count());
                    }
                }
            }
        }
        sums
    }

    /// Adds to the tally.
    pub(super) fn add_to(&self, tally: &mut Tally) {
        for (label, segments) in &self.segments {
            for (segment, &sum) in segments.iter().enumerate() {
                tally.segments[(segment, *label as usize - 1)] += sum as f64;
            }
        }
    }
}

impl<'a> SparseMultiTau<'a> {
    pub(super) fn new(
        layout: &'a Layout,
        partition: &'a Partition,
        request: MultiTauRequest,
        factors: Vec<f64>,
        sink: Sink<'a>,
    ) -> Self {
        let spans: Vec<SpanSums> = spans(factors.len() as u64, request.parts)
            .into_iter()
            .map(|span| {
                let plan = span.plan();
                let sums = BinSums::new(partition, plan.len());
                SpanSums { span, scales: Scales::new(&plan), plan, sums }
            })
            .collect();
        Self { layout, partition, factors, spans, sink: wants_pixels(Some(request)).then_some(sink) }
    }

    /// Correlates all buckets of `sorted` and adds their counts to `tally`.
    ///
    /// # Errors
    /// Cancellation, the sink's errors.
    pub(super) fn add(&mut self, sorted: &Sorted, tally: &mut Tally, pool: Pool<'_>) -> Result<(), EngineError> {
        let buckets = sorted.buckets();
        let segments = SegmentPlan::new(self.factors.len() as u64);
        let init = || (Series::default(), Vec::new(), Vec::new());
        let this = &*self;
        let done = pool.map(buckets.len(), init, |(series, starts, entries), index| {
            let bucket = buckets.start + index;
            sorted.bucket(bucket, starts, entries);
            let first = bucket * BUCKET;
            let statics = StaticSums::of(first, starts, entries, this.layout, this.partition, segments);
            let spans = this.bucket(first, starts, entries, series)?;
            pool.observer.advance(places(bucket..bucket + 1, this.layout).len() as u64);
            Ok(BucketSums { spans, statics })
        })?;
        for part in &done {
            part.statics.add_to(tally);
            for (span, more) in std::iter::zip(&mut self.spans, &part.spans) {
                span.sums.merge(more);
            }
        }
        Ok(())
    }

    fn bucket(
        &self,
        first: usize,
        starts: &[u32],
        entries: &[Entry],
        series: &mut Series,
    ) -> Result<Vec<BinSums>, EngineError> {
        let places = places(first / BUCKET..first / BUCKET + 1, self.layout);
        let mut batch = match (self.sink, self.spans.first()) {
            (Some(sink), Some(whole)) => {
                Some((sink, PixelBatch::new(self.layout.pixels[places.clone()].to_vec(), whole.plan.len())))
            }
            _ => None,
        };
        let mut all: Vec<BinSums> =
            self.spans.iter().map(|span| BinSums::new(self.partition, span.plan.len())).collect();
        for place in places {
            let own = &entries[starts[place - first] as usize..starts[place - first + 1] as usize];
            for (index, (span, sums)) in std::iter::zip(&self.spans, &mut all).enumerate() {
                self.push(series, own, span.span);
                series.correlate(&span.scales);
                sums.add_pixel(
                    self.layout.statics[place],
                    self.layout.dynamics[place],
                    &series.g2,
                    &series.later,
                    &series.earlier,
                );
                if let (0, Some((_, batch))) = (index, &mut batch) {
                    batch.set(place - first, [&series.g2, &series.later, &series.earlier]);
                }
            }
        }
        if let Some((sink, batch)) = batch {
            sink.pixel_g2(&batch)?;
        }
        Ok(all)
    }

    fn push(&self, series: &mut Series, own: &[Entry], span: Span) {
        series.clear();
        let start = own.partition_point(|e| e.frame() < span.start);
        for entry in &own[start..] {
            if entry.frame() >= span.end {
                break;
            }
            series.push(entry.frame() - span.start, f64::from(entry.count()) * self.factors[entry.frame() as usize]);
        }
    }

    /// g2 of the whole and of the parts.
    pub(super) fn finish(self) -> (MultiTau, Vec<MultiTau>) {
        let mut results = self.spans.iter().map(|span| span.sums.finish(self.partition, &span.plan));
        let whole = results.next().expect("spans() always begins with the whole series");
        (whole, results.collect())
    }
}
