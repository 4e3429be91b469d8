//! Correlation of dense frames on a device: how often they are read, and what is done with each block.
//!
//! Once, when everything fits: each block is summed, which gives the frames' factors, then correlated, and the counts of
//! the two-time bins are kept. Otherwise pixels are cut into bands and two-time bins into slices, a reading each. Nothing
//! is waited for between blocks: what a block needs of the one before stays on the device.

use std::collections::BTreeMap;
use std::ops::Range;

use super::device::{Device, DeviceError, Precision};
use super::reduce::Pieces;
use super::twotime::{Columns, Kind, Maps, Queue, kept};
use super::{Call, CudaError};
use crate::correlate::bins::Partition;
use crate::correlate::reduce::BinSums;
use crate::correlate::result::Correlation;
use crate::correlate::scattering::Tally;
use crate::dataset::FrameSource;
use crate::engine::Request;
use crate::engine::layout::Layout;
use crate::engine::multi_tau::{Span, spans};
use crate::engine::sink::{Sink, wants_pixels};
use crate::engine::workers::Workers;

mod band;
mod blocks;
mod feed;
mod stored;

use band::{Band, bytes_of_a_pixel};
use blocks::{Each, Frames, Room, Sums};
use feed::{Fed, Feed, Source};
use stored::Stored;

/// Part of the free memory that is planned with: allocations are rounded up.
const PLANNED: f64 = 0.9;

/// Part of that for a band of pixels, alone and beside a slice of two-time bins.
const BAND: f64 = 0.7;
const BAND_BESIDE: f64 = 0.4;

/// Part for such a slice; what is left is for blocks of frames.
const SLICE: f64 = 0.4;

/// How a reading ended.
#[derive(Debug)]
pub(super) enum Read {
    /// Well.
    Whole(Box<Correlation>),
    /// These pixels carry the saturation value: pixel, first raw frame.
    Saturated(BTreeMap<u32, u64>),
}

/// What frames are taken for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Way {
    /// In what products are added.
    pub(super) precision: Precision,
    /// The value that marks a pixel that is left out, if any does.
    pub(super) saturation: Option<u32>,
}

/// Correlates the frames of `source`.
pub(super) fn correlate<D: Device>(
    device: &D,
    source: &dyn FrameSource,
    partition: &Partition,
    call: Call<'_>,
    way: Way,
    sink: Sink<'_>,
) -> Result<Read, CudaError> {
    let layout = Layout::new(partition);
    let stored = Stored::new(source, &layout);
    let (places, cells) = stored.places(&layout);
    let run = Run {
        device,
        stored,
        partition,
        request: call.request,
        host: call.request.memory - kept(call.request, sink)?,
        sink,
        way,
        workers: call.workers,
        places,
        cells,
        pieces: Pieces::new(&layout),
        spans: call
            .request
            .multi_tau
            .map_or(Vec::new(), |wanted| spans(call.request.selection.outputs(), wanted.parts)),
        layout,
    };
    run.correlate()
}

/// A correlation of frames.
struct Run<'a, D: Device> {
    device: &'a D,
    stored: Stored<'a>,
    partition: &'a Partition,
    request: &'a Request,
    /// Bytes of the host's memory that may be used beside the result.
    host: u64,
    sink: Sink<'a>,
    way: Way,
    workers: Workers<'a>,
    layout: Layout,
    /// Place of each cell.
    places: Vec<u32>,
    /// Cell of each place.
    cells: Vec<u32>,
    pieces: Pieces,
    /// What multi-tau runs over.
    spans: Vec<Span>,
}

/// What one reading fills.
struct Pass<D: Device> {
    band: Option<Band<D>>,
    columns: Option<Columns<D>>,
    /// Those over all frames, in the first reading.
    sums: Option<Sums<D>>,
}

/// What is made of all readings.
struct Results {
    tally: Tally,
    bins: Vec<BinSums>,
}

impl<D: Device> Run<'_, D> {
    fn correlate(&self) -> Result<Read, CudaError> {
        let wanted = self.request.two_time.as_ref();
        let mut queue = wanted.map(|wanted| Queue::new(&self.layout, &wanted.labels, wanted.smoothing));
        let maps = wanted.map(|wanted| Maps::new(&self.layout, wanted, self.request, self.sink));
        let mut two_time = maps.transpose()?;
        let mut results = self.results();
        let mut feed = Feed::new(self.device, self.source(), self.host)?;
        let each_frame = self.each_frame()?;
        // the next piece that has no band yet
        let mut next = if self.spans.is_empty() { self.pieces.len() } else { 0 };
        let mut first = true;
        while first || next < self.pieces.len() || queue.as_ref().is_some_and(|queue| !queue.is_empty()) {
            let sums = if first { Some(self.sums()?) } else { None };
            let free = self.device.free_bytes()? as f64 * PLANNED;
            let waiting = queue.as_ref().is_some_and(|queue| !queue.is_empty());
            let band = self.band(next, (free * if waiting { BAND_BESIDE } else { BAND }) as usize)?;
            next = band.as_ref().map_or(next, |band| band.pieces.end);
            let columns = match (&mut queue, &two_time) {
                (Some(queue), Some(two_time)) if waiting => {
                    let kind = Kind::of(self.stored.counts(), self.avg());
                    Some(two_time.slice(self.device, queue, &self.cells, kind, (free * SLICE) as usize)?)
                }
                _ => None,
            };
            let mut pass = Pass { band, columns, sums };
            self.read_all(&mut feed, &mut pass, &each_frame)?;
            let Pass { band, columns, sums } = pass;
            if let Some(sums) = sums {
                let saturated = self.check(&sums)?;
                if !saturated.is_empty() {
                    return Ok(Read::Saturated(saturated));
                }
                self.finish_tally(&mut results.tally, &sums, &each_frame)?;
            }
            if let Some(band) = band {
                let pixels = wants_pixels(self.request.multi_tau).then_some(self.sink);
                band.finish(self.device, &self.layout, &self.pieces, &mut results.bins, pixels)?;
            }
            if let (Some(columns), Some(two_time), Some(queue)) = (columns, &mut two_time, &mut queue) {
                self.workers.observer.step("two-time", columns.bins());
                two_time.add(self.device, &columns, queue, self.workers.observer)?;
            }
            first = false;
        }
        Ok(Read::Whole(Box::new(self.finish(results, two_time))))
    }

    fn results(&self) -> Results {
        let selection = &self.request.selection;
        Results {
            tally: Tally::new(self.partition, selection),
            bins: self.spans.iter().map(|span| BinSums::new(self.partition, span.plan().len())).collect(),
        }
    }

    /// A band of as many pieces as fit; fewer where the memory has less.
    fn band(&self, first: usize, bytes: usize) -> Result<Option<Band<D>>, CudaError> {
        if first == self.pieces.len() {
            return Ok(None);
        }
        let pixels = bytes / bytes_of_a_pixel(&self.spans, self.way.precision);
        let mut end = first + 1;
        while end < self.pieces.len() && self.pieces.places(&(first..end + 1)).len() <= pixels {
            end += 1;
        }
        loop {
            match Band::new(self, first..end) {
                Err(DeviceError::OutOfMemory { .. }) if end > first + 1 => end = first + (end - first) / 2,
                other => return Ok(Some(other?)),
            }
        }
    }

    /// What is read.
    fn source(&self) -> Source<'_> {
        Source { stored: &self.stored, selection: &self.request.selection, workers: self.workers }
    }

    /// Reads all frames. While a block is computed on, the next one is read and sent.
    fn read_all(&self, feed: &mut Feed<D>, pass: &mut Pass<D>, each_frame: &Each<D>) -> Result<(), CudaError> {
        let (outputs, observer) = (self.request.selection.outputs(), self.workers.observer);
        let ranks = pass.band.as_ref().map_or(0, Band::len);
        let mut room = self.room((self.device.free_bytes()? as f64 * PLANNED) as u64, ranks)?;
        observer.step("correlating", outputs * self.avg());
        let block = room.frames * self.avg();
        feed.read(self.device, self.source(), block, |fed| {
            match fed {
                Fed::Piece(frames, staging) => {
                    self.send(&mut room, &frames, staging)?;
                    observer.advance(frames.end - frames.start);
                }
                Fed::Block(frames) => {
                    let outputs = frames.start / self.avg()..frames.end / self.avg();
                    self.compute(&room, outputs, pass, each_frame)?;
                }
            }
            Ok(())
        })
    }

    /// Does with a block that was sent what the pass is for.
    fn compute(
        &self,
        room: &Room<D>,
        outputs: Range<u64>,
        pass: &mut Pass<D>,
        each_frame: &Each<D>,
    ) -> Result<(), DeviceError> {
        let raw = room.raw(outputs.start);
        if let Some(sums) = &pass.sums {
            self.sum(room, &outputs, sums, each_frame)?;
        }
        if let Some(columns) = &pass.columns {
            let shape = (self.stored.cells(), self.avg());
            columns.write(self.device, self.stored.counts(), raw.arg(), shape, outputs.clone())?;
        }
        if let Some(band) = &mut pass.band {
            let (cells, avg, precision) = (self.stored.cells(), self.avg(), self.way.precision);
            let frames = Frames { raw, counts: self.stored.counts(), cells, avg, outputs, precision };
            band.push(self.device, &frames, &each_frame.factors, &room.handed)?;
        }
        Ok(())
    }

    fn finish(&self, results: Results, two_time: Option<Maps<'_>>) -> Correlation {
        let each = std::iter::zip(results.bins, &self.spans);
        let mut series = each.map(|(sums, span)| sums.finish(self.partition, &span.plan()));
        Correlation {
            scattering: results.tally.finish(self.partition, &self.request.selection),
            multi_tau: series.next(),
            parts: series.collect(),
            two_time: two_time.map(Maps::finish),
            saturated: Vec::new(),
        }
    }
}
