//! Multi-tau of photon events on a device: events go up once, are counted, filed by pixel and sorted there, and each
//! pixel is correlated by one warp. Pixels are cut into passes when the memory does not hold all at once.

mod feed;

use std::ops::Range;

use feed::{Chunk, Feed, Used};

use super::device::{Arg, Buffer, Device, DeviceError, Grid, Kernel};
use super::levels::{Level, levels};
use super::reduce::{Pieces, filed_at_once, starts};
use super::sort::sort;
use super::twotime::{Columns, Filed, Kind, Maps, Queue, kept};
use super::{Call, CudaError, hand_over, threads};
use crate::correlate::bins::Partition;
use crate::correlate::delays::DelayPlan;
use crate::correlate::reduce::{BinSums, CHANNELS};
use crate::correlate::result::{Correlation, TwoTime};
use crate::correlate::scattering::{SegmentPlan, Tally};
use crate::dataset::{EventSource, PhotonEvent};
use crate::engine::layout::Layout;
use crate::engine::multi_tau::{Span, factors, spans};
use crate::engine::sink::{Sink, wants_pixels};
use crate::engine::workers::Workers;
use crate::engine::{MultiTauRequest, Request};

/// Threads of a block whose warps take a place each.
const PLACE_THREADS: u32 = 128;

/// Samples of a place that shared memory has room for; a place with more uses the device's memory.
pub(super) const ROOM: u32 = 256;

/// Bytes of one of them.
const SAMPLE_BYTES: u32 = 12;

/// Device memory for a filed event.
const EVENT_BYTES: u64 = size_of::<u64>() as u64;

/// Samples of a place that need the device's memory.
fn spilled(events: u32) -> u32 {
    if events > ROOM { events } else { 0 }
}

/// Where the samples of each place begin in that memory, and how many there are in all.
fn rooms(events: &[u32]) -> (Vec<u32>, usize) {
    let mut all = 0;
    let begin = |&events: &u32| {
        let begin = all;
        all += spilled(events);
        begin
    };
    (events.iter().map(begin).collect(), all as usize)
}

/// Part of the free memory that a pass takes: allocations are rounded up.
const SHARE: f64 = 0.9;

/// Part of that for the counts of a slice of two-time bins; its events and products need memory, too.
const SLICE: f64 = 0.4;

/// Warps in a block.
const WARPS: u32 = PLACE_THREADS / 32;

/// Sums of segments that a block adds in shared memory at most, 4 bytes each: all blocks that a multiprocessor can run fit.
const SHARED_CELLS: usize = if cfg!(test) { 64 } else { 4096 };

/// Sums of segments that a block adds in shared memory: all of them, or none.
fn shared_cells(cells: usize) -> u32 {
    if cells <= SHARED_CELLS { cells as u32 } else { 0 }
}

/// One of the series that multi-tau runs over.
struct Series<D: Device> {
    span: Span,
    plan: DelayPlan,
    levels: Buffer<D, Level>,
    sums: BinSums,
}

/// A correlation of events.
struct Run<'a, D: Device> {
    device: &'a D,
    source: &'a dyn EventSource,
    feed: Feed<'a, D>,
    partition: &'a Partition,
    request: &'a Request,
    workers: Workers<'a>,
    layout: Layout,
    pieces: Pieces,
    places: Buffer<D, u32>,
    sink: Sink<'a>,
}

/// What the first look at all events yields.
struct Counted<D: Device> {
    tally: Tally,
    /// Events of each place.
    events: Vec<u32>,
    /// The events, if the device has room for them.
    chunks: Option<Vec<Chunk<D>>>,
}

/// Correlates the events of `source`.
pub(super) fn correlate<D: Device>(
    device: &D,
    source: &dyn EventSource,
    partition: &Partition,
    call: Call<'_>,
    sink: Sink<'_>,
) -> Result<Correlation, CudaError> {
    let layout = Layout::new(partition);
    let places = Buffer::of(device, &layout.place)?;
    let pieces = Pieces::new(&layout);
    let (request, workers) = (call.request, call.workers);
    // what does not fit is told before anything is read
    kept(request, sink)?;
    let feed = Feed::new(device, source, workers)?;
    let run = Run { device, source, feed, partition, request, workers, layout, pieces, places, sink };
    let counted = run.count()?;
    let scattering = counted.tally.finish(partition, &request.selection);
    let series = match request.multi_tau {
        Some(wanted) => run.multi_tau(wanted, &counted)?,
        None => Vec::new(),
    };
    let two_time = run.two_time(&counted)?;
    let mut results = series.iter().map(|series| series.sums.finish(partition, &series.plan));
    let multi_tau = results.next();
    let parts = results.collect();
    Ok(Correlation { scattering, multi_tau, parts, two_time, saturated: Vec::new() })
}

impl<D: Device> Run<'_, D> {
    /// The frames that are taken, as the kernels have them.
    fn selection(&self) -> [u32; 4] {
        let selection = &self.request.selection;
        let numbers = [selection.first(), selection.stride(), selection.avg(), selection.outputs()];
        numbers.map(|number| u32::try_from(number).unwrap_or(u32::MAX))
    }

    /// The sums that need no order, and how many events each place has. The events stay on the device where they fit.
    fn count(&self) -> Result<Counted<D>, CudaError> {
        let fit = self.source.events_bound() * size_of::<PhotonEvent>() as u64 <= self.device.free_bytes()? / 2;
        match self.count_into(fit.then(Vec::new)) {
            // others have taken the memory in between
            Err(CudaError::Device(DeviceError::OutOfMemory { .. })) if fit => self.count_into(None),
            other => other,
        }
    }

    /// The same, where it is known whether they are kept.
    fn count_into(&self, mut chunks: Option<Vec<Chunk<D>>>) -> Result<Counted<D>, CudaError> {
        let device = self.device;
        let blemish = self.partition.blemish();
        let statics: Vec<u32> = std::iter::zip(&self.layout.statics, &self.layout.pixels)
            .map(|(&label, &pixel)| if blemish[pixel as usize] { label } else { 0 })
            .collect();
        let outputs = self.request.selection.outputs();
        let plan = SegmentPlan::new(outputs);
        let bins = self.partition.static_bins();
        let statics = Buffer::of(device, &statics)?;
        let pixels = Buffer::<D, u64>::zeros(device, self.layout.place.len())?;
        let frames = Buffer::<D, u64>::zeros(device, outputs as usize)?;
        let segments = Buffer::<D, u64>::zeros(device, plan.segments * bins)?;
        let events = Buffer::<D, u32>::zeros(device, self.layout.len())?;
        let shared = shared_cells(plan.segments * bins);
        self.workers.observer.step("reading", self.source.events_bound());
        self.feed.read(|chunk| {
            device.launch(
                Kernel::EventsCount,
                Grid { shared: shared * size_of::<u32>() as u32, ..threads(chunk.number) },
                &[
                    chunk.events.arg(),
                    Arg::U32(chunk.number as u32),
                    Arg::U32x4(self.selection()),
                    self.places.arg(),
                    statics.arg(),
                    Arg::U32(plan.shift),
                    Arg::U32(plan.segments as u32),
                    Arg::U32(bins as u32),
                    Arg::U32(shared),
                    pixels.arg(),
                    frames.arg(),
                    segments.arg(),
                    events.arg(),
                ],
            )?;
            self.workers.observer.advance(chunk.number as u64);
            let Some(chunks) = &mut chunks else { return Ok(Used::Free(chunk)) };
            chunks.push(chunk);
            Ok(Used::Kept)
        })?;
        let mut tally = Tally::new(self.partition, &self.request.selection);
        let wide = |sums: Vec<u64>| sums.into_iter().map(|sum| sum as f64);
        tally.pixels = wide(pixels.read(device)?).collect();
        tally.frames = wide(frames.read(device)?).collect();
        std::iter::zip(&mut tally.segments, wide(segments.read(device)?)).for_each(|(to, sum)| *to = sum);
        Ok(Counted { tally, events: events.read(device)?, chunks })
    }

    fn multi_tau(&self, wanted: MultiTauRequest, counted: &Counted<D>) -> Result<Vec<Series<D>>, CudaError> {
        let factors = factors(wanted, &counted.tally.frames, self.partition, self.request);
        let frames = factors.len() as u64;
        let factors = Buffer::of(self.device, &factors)?;
        let mut series = Vec::new();
        for span in spans(frames, wanted.parts) {
            let plan = span.plan();
            let (levels, sums) = (Buffer::of(self.device, &levels(&plan))?, BinSums::new(self.partition, plan.len()));
            series.push(Series { span, plan, levels, sums });
        }
        // the longest is the first
        let delays = series.first().map_or(0, |whole| whole.plan.len());
        let pixels = wants_pixels(Some(wanted)).then_some(self.sink);
        self.workers.observer.step("correlating", self.layout.len() as u64);
        // ranges of pieces, the last first; one that does not fit after all is halved
        let mut passes: Vec<Range<usize>> = self.passes(counted, delays)?;
        passes.reverse();
        while let Some(pieces) = passes.pop() {
            let places = self.pieces.places(&pieces);
            match self.pass(&pieces, &factors, counted, &mut series, pixels) {
                Ok(()) => self.workers.observer.advance(places.len() as u64),
                Err(CudaError::Device(DeviceError::OutOfMemory { .. })) if pieces.len() > 1 => {
                    let middle = pieces.start + pieces.len() / 2;
                    passes.extend([middle..pieces.end, pieces.start..middle]);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(series)
    }

    /// Ranges of pieces whose events and sums fit into what is free.
    fn passes(&self, counted: &Counted<D>, delays: usize) -> Result<Vec<Range<usize>>, CudaError> {
        let reading = if counted.chunks.is_some() { 0 } else { self.feed.bytes() };
        let free = (self.device.free_bytes()?.saturating_sub(reading) as f64 * SHARE) as u64;
        let per_place = (delays * CHANNELS * size_of::<f64>() + 5 * size_of::<u32>()) as u64;
        let mut passes: Vec<Range<usize>> = Vec::new();
        let (mut bytes, mut events) = (0, 0u64);
        for piece in 0..self.pieces.len() {
            let places = self.pieces.places(&(piece..piece + 1));
            let of_places = &counted.events[places.clone()];
            let own: u64 = of_places.iter().map(|&events| u64::from(events)).sum();
            let samples: u64 = of_places.iter().map(|&events| u64::from(spilled(events))).sum();
            let needed = own * EVENT_BYTES + samples * u64::from(SAMPLE_BYTES) + places.len() as u64 * per_place;
            match passes.last_mut() {
                Some(last) if bytes + needed <= free && events + own < u64::from(u32::MAX) => {
                    last.end = piece + 1;
                    (bytes, events) = (bytes + needed, events + own);
                }
                _ => {
                    passes.push(piece..piece + 1);
                    (bytes, events) = (needed, own);
                }
            }
        }
        Ok(passes)
    }

    /// Files, sorts and correlates the events of some pieces.
    ///
    /// A pass that ends for want of memory has added nothing to the sums: all memory is taken before the first series.
    fn pass(
        &self,
        pieces: &Range<usize>,
        factors: &Buffer<D, f64>,
        counted: &Counted<D>,
        series: &mut [Series<D>],
        sink: Option<Sink<'_>>,
    ) -> Result<(), CudaError> {
        let device = self.device;
        let places = self.pieces.places(pieces);
        let (count, own) = (places.len(), &counted.events[places.clone()]);
        let events = filed_at_once(own)?;
        let numbers = Buffer::of(device, own)?;
        let begins = starts(device, &numbers, count)?;
        let filed = Buffer::<D, u64>::new(device, events)?;
        let (rooms, samples) = rooms(own);
        let rooms = Buffer::of(device, &rooms)?;
        let (times, values) = (Buffer::<D, u32>::new(device, samples)?, Buffer::<D, f64>::new(device, samples)?);
        let delays = series.iter().map(|series| series.plan.len()).max().unwrap_or(0);
        let pixels = Buffer::<D, f64>::new(device, count * CHANNELS * delays)?;
        let cursors = starts(device, &numbers, count)?;
        self.file(&self.places, &places, counted, &cursors, &filed)?;
        sort(device, &begins, count, &filed)?;
        let shared = WARPS * ROOM * SAMPLE_BYTES;
        let grid = Grid { blocks: (count as u32).div_ceil(WARPS), threads: PLACE_THREADS, shared };
        for (index, series) in series.iter_mut().enumerate() {
            device.launch(
                Kernel::EventsMultitau,
                grid,
                &[
                    filed.arg(),
                    begins.arg(),
                    Arg::U32(count as u32),
                    factors.arg(),
                    Arg::U32(series.span.start),
                    Arg::U32(series.span.end),
                    series.levels.arg(),
                    Arg::U32(series.plan.levels().len() as u32),
                    Arg::U32(series.plan.len() as u32),
                    Arg::U32(ROOM),
                    rooms.arg(),
                    times.arg(),
                    values.arg(),
                    pixels.arg(),
                ],
            )?;
            self.pieces.add(device, pieces, &pixels, series.plan.len(), &self.layout, &mut series.sums)?;
            if let (0, Some(sink)) = (index, sink) {
                hand_over(device, &pixels, &self.layout.pixels[places.clone()], series.plan.len(), sink)?;
            }
        }
        Ok(())
    }

    /// Files the events of some places of a map, from the device's memory or from the file.
    fn file(
        &self,
        map: &Buffer<D, u32>,
        places: &Range<usize>,
        counted: &Counted<D>,
        cursors: &Buffer<D, u32>,
        filed: &Buffer<D, u64>,
    ) -> Result<(), CudaError> {
        let file = |chunk: &Chunk<D>| {
            self.device.launch(
                Kernel::EventsFile,
                threads(chunk.number),
                &[
                    chunk.events.arg(),
                    Arg::U32(chunk.number as u32),
                    Arg::U32x4(self.selection()),
                    map.arg(),
                    Arg::U32(places.start as u32),
                    Arg::U32(places.end as u32),
                    cursors.arg(),
                    filed.arg(),
                ],
            )
        };
        match &counted.chunks {
            Some(chunks) => Ok(chunks.iter().try_for_each(file)?),
            None => self.feed.read(|chunk| {
                file(&chunk)?;
                Ok(Used::Free(chunk))
            }),
        }
    }

    /// Two-time of the wanted bins, slice by slice.
    fn two_time(&self, counted: &Counted<D>) -> Result<Option<TwoTime>, CudaError> {
        let Some(wanted) = &self.request.two_time else { return Ok(None) };
        let device = self.device;
        let mut queue = Queue::new(&self.layout, &wanted.labels, wanted.smoothing);
        let mut two_time = Maps::new(&self.layout, wanted, self.request, self.sink)?;
        self.workers.observer.step("two-time", wanted.labels.len() as u64);
        // one digit is enough for most data; a slice that needs more is done anew
        let mut kind = Kind::Whole(1);
        let mut part = SHARE * SLICE;
        while !queue.is_empty() {
            let free = device.free_bytes()? as f64 * part;
            let columns = two_time.slice(device, &mut queue, &self.layout.pixels, kind, free as usize)?;
            let (filed, needed) = match self.filed(&columns, counted) {
                // fewer columns have fewer events
                Err(CudaError::Device(DeviceError::OutOfMemory { .. })) if !columns.are_fewest() => {
                    queue.put_back(columns.into_shares());
                    part /= 2.0;
                    continue;
                }
                other => other?,
            };
            if needed.bytes() > kind.bytes() {
                queue.put_back(columns.into_shares());
                kind = needed;
                continue;
            }
            filed.write(device, &columns)?;
            drop(filed);
            two_time.add(device, &columns, &mut queue, self.workers.observer)?;
        }
        Ok(Some(two_time.finish()))
    }

    /// The events of a slice, sorted, and what holds their counts.
    fn filed(&self, columns: &Columns<D>, counted: &Counted<D>) -> Result<(Filed<D>, Kind), CudaError> {
        let map = Buffer::of(self.device, &columns.places(self.layout.place.len()))?;
        let own = columns.events(&self.layout, &counted.events);
        let (filed, cursors) = Filed::new(self.device, &own)?;
        self.file(&map, &(0..own.len()), counted, &cursors, &filed.events)?;
        let needed = filed.sort(self.device)?;
        Ok((filed, needed))
    }
}
