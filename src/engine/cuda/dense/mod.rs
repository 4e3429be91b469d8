//! Correlation of dense frames on a device: how often they are read, and what is done with each block.
//!
//! Once, when everything fits: each block is summed, which gives the frames' factors, then correlated, and the counts of
//! the two-time bins are kept. Otherwise pixels are cut into bands and two-time bins into slices, a reading each.

use std::collections::BTreeMap;
use std::ops::Range;

use super::device::{Buffer, Device, DeviceError, Precision};
use super::reduce::Pieces;
use super::twotime::{Columns, Kind, Maps, Queue};
use super::{Call, CudaError};
use crate::correlate::bins::Partition;
use crate::correlate::reduce::BinSums;
use crate::correlate::result::Correlation;
use crate::correlate::scattering::Tally;
use crate::dataset::FrameSource;
use crate::engine::layout::Layout;
use crate::engine::multi_tau::{Span, factors, spans};
use crate::engine::pixel_store::PixelStore;
use crate::engine::workers::Workers;
use crate::engine::{EngineError, MapSink, Request, limit};

mod band;
mod blocks;
mod stored;

use band::{Band, bytes_of_a_pixel};
use blocks::{Frames, Room, Slot, Sums};
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
    maps: &mut MapSink<'_>,
) -> Result<Read, CudaError> {
    let layout = Layout::new(partition);
    let stored = Stored::new(source, &layout);
    let (places, cells) = stored.places(&layout);
    let kept = limit::kept(call.request, layout.len())?;
    let run = Run {
        device,
        stored,
        partition,
        request: call.request,
        host: call.request.memory - kept,
        way,
        workers: call.workers,
        places: Buffer::of(device, &places)?,
        cells,
        pieces: Pieces::new(&layout),
        spans: call
            .request
            .multi_tau
            .map_or(Vec::new(), |wanted| spans(call.request.selection.outputs(), wanted.parts)),
        layout,
    };
    run.correlate(maps)
}

/// A correlation of frames.
struct Run<'a, D: Device> {
    device: &'a D,
    stored: Stored<'a>,
    partition: &'a Partition,
    request: &'a Request,
    /// Bytes of the host's memory that may be used beside the result.
    host: u64,
    way: Way,
    workers: Workers<'a>,
    layout: Layout,
    /// Place of each cell.
    places: Buffer<D, u32>,
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
    store: Option<PixelStore>,
}

impl<D: Device> Run<'_, D> {
    fn correlate(&self, maps: &mut MapSink<'_>) -> Result<Read, CudaError> {
        let wanted = self.request.two_time.as_ref();
        let mut queue = wanted.map(|wanted| Queue::new(&self.layout, &wanted.labels, wanted.smoothing));
        let mut two_time = wanted.map(|wanted| Maps::new(&self.layout, wanted, self.request));
        let mut results = self.results();
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
            self.read_all(&mut pass, &mut results)?;
            let Pass { band, columns, sums } = pass;
            if let Some(sums) = sums {
                let saturated = self.check(&sums)?;
                if !saturated.is_empty() {
                    return Ok(Read::Saturated(saturated));
                }
                self.finish_tally(&mut results.tally, &sums)?;
            }
            if let Some(band) = band {
                band.finish(self.device, &self.layout, &self.pieces, &mut results.bins, results.store.as_ref())?;
            }
            if let (Some(columns), Some(two_time)) = (columns, &mut two_time) {
                self.workers.observer.step("two-time", columns.bins());
                two_time.add(self.device, &columns, self.workers.observer, maps)?;
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
            store: PixelStore::wanted(self.request.multi_tau, selection.outputs(), self.layout.len()),
        }
    }

    /// A band of as many pieces as fit; fewer where the memory has less.
    fn band(&self, first: usize, bytes: usize) -> Result<Option<Band<D>>, CudaError> {
        if first == self.pieces.len() {
            return Ok(None);
        }
        let pixels = bytes / bytes_of_a_pixel(&self.spans);
        let mut end = first + 1;
        while end < self.pieces.len() && self.pieces.places(&(first..end + 1)).len() <= pixels {
            end += 1;
        }
        loop {
            match Band::new(self.device, &self.cells, &self.pieces, first..end, &self.spans) {
                Err(DeviceError::OutOfMemory { .. }) if end > first + 1 => end = first + (end - first) / 2,
                other => return Ok(Some(other?)),
            }
        }
    }

    /// Reads all frames. While a block is computed on, the next one is read and sent.
    fn read_all(&self, pass: &mut Pass<D>, results: &mut Results) -> Result<(), CudaError> {
        let (outputs, observer) = (self.request.selection.outputs(), self.workers.observer);
        let ranks = pass.band.as_ref().map_or(0, Band::len);
        let mut room = self.room((self.device.free_bytes()? as f64 * PLANNED) as u64, ranks)?;
        observer.step("correlating", outputs * self.avg());
        let mut sent: Option<(usize, Range<u64>)> = None;
        for (number, start) in (0..outputs).step_by(room.frames as usize).enumerate() {
            if observer.cancelled() {
                return Err(EngineError::Cancelled.into());
            }
            let block = start..(start + room.frames).min(outputs);
            let slot = &mut room.slots[number % 2];
            self.send(slot, &block)?;
            // what was sent before, while this is on its way: nothing that waits for it may come first
            if let Some((slot, block)) = sent.replace((number % 2, block.clone())) {
                self.compute(&mut room, slot, &block, pass, results)?;
            }
            if let Some(sums) = &pass.sums {
                self.sum(&room.slots[number % 2], &block, sums)?;
            }
        }
        match sent {
            Some((slot, block)) => self.compute(&mut room, slot, &block, pass, results),
            None => Ok(()),
        }
    }

    /// Does with a block that was sent what the pass is for.
    fn compute(
        &self,
        room: &mut Room<D>,
        slot: usize,
        block: &Range<u64>,
        pass: &mut Pass<D>,
        results: &mut Results,
    ) -> Result<(), CudaError> {
        let own = block.start as usize..block.end as usize;
        let slot: &mut Slot<D> = &mut room.slots[slot];
        if pass.sums.is_some() {
            results.tally.frames[own.clone()].copy_from_slice(&self.frame_sums(slot, block)?);
        }
        if let Some(columns) = &pass.columns {
            let shape = (self.stored.cells(), self.avg());
            columns.write(self.device, self.stored.counts(), slot.raw.arg(), shape, block.clone())?;
        }
        if let (Some(band), Some(wanted)) = (&mut pass.band, self.request.multi_tau) {
            let factors = factors(wanted, &results.tally.frames[own], self.partition, self.request);
            match self.way.precision {
                Precision::Single => {
                    let factors: Vec<f32> = factors.into_iter().map(|factor| factor as f32).collect();
                    slot.factors.write(self.device, bytemuck::cast_slice(&factors))?;
                }
                Precision::Double => slot.factors.write(self.device, bytemuck::cast_slice(&factors))?,
            }
            let frames = Frames {
                raw: &slot.raw,
                counts: self.stored.counts(),
                cells: self.stored.cells(),
                avg: self.avg(),
                outputs: block.clone(),
                precision: self.way.precision,
            };
            band.push(self.device, &frames, &slot.factors, &room.handed)?;
        }
        self.workers.observer.advance((block.end - block.start) * self.avg());
        Ok(())
    }

    fn finish(&self, results: Results, two_time: Option<Maps<'_>>) -> Correlation {
        let each = std::iter::zip(results.bins, &self.spans);
        let mut series = each.map(|(sums, span)| sums.finish(self.partition, &span.plan()));
        Correlation {
            scattering: results.tally.finish(self.partition, &self.request.selection),
            multi_tau: series.next(),
            parts: series.collect(),
            pixel_g2: results.store.map(PixelStore::finish),
            two_time: two_time.map(Maps::finish),
            saturated: Vec::new(),
        }
    }
}
