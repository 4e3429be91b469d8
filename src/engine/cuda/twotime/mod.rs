//! Two-time on a device: products of all frames of a bin's counts, weighted, and their diagonals' averages there. Rows of
//! the map are cut into bands when the device's memory does not hold it, and go to the sink as many at once as the host's
//! memory holds. A bin that is cut itself is added up on the host, all its parts for each band of rows.

use std::ops::Range;

use super::CudaError;
use super::device::{Arg, Buffer, Device, DeviceError, Grid, Kernel};
use super::{each, threads};
use crate::correlate::result::TwoTime;
use crate::correlate::twotime::{BLOCKS, Smoothing};
use crate::engine::layout::Layout;
use crate::engine::limit::{MAP_REMEDY, map_too_large};
use crate::engine::sink::{MapOut, Sink, row_bytes, rows_gathered};
use crate::engine::two_time::{add_weighted, empty, keep_averages, scales, weights as weigh};
use crate::engine::{EngineError, Observer, Request, TwoTimeRequest};

mod columns;

use columns::{Cells, Share, rows};
pub(super) use columns::{Columns, Filed, Kind, Queue, ROWS};

/// Frames of a block's products, and later frames: twotime.cu's ROWS and COLS.
pub(super) const COLS: usize = 64;

/// The same for float32: twotime.cu's PLAIN.
pub(super) const PLAIN: usize = 64;

/// Threads of a block that computes products: twotime.cu's GRAM_THREADS.
pub(super) const GRAM_THREADS: u32 = 256;

/// Bytes of shared memory of such a block: two tiles of 32 columns, which are 40 apart, and 1 KiB for each of 8 warps.
pub(super) const GRAM_SHARED: u32 = (ROWS + COLS) as u32 * 40 * 2 + 8 * 1024;

/// The same for float32: two tiles of 16 columns in double, which are 17 apart.
pub(super) const PLAIN_SHARED: u32 = 2 * PLAIN as u32 * 17 * size_of::<f64>() as u32;

/// Rows of a map that are added before those of the next piece: twotime.cu's PIECE.
const PIECE: usize = 64;

/// Sums of products below it are exact in float32: tensor.cuh's EXACT.
const EXACT: u64 = 1 << 24;

/// Largest digit.
const LARGEST_DIGIT: u64 = 255;

/// Bytes for a frame and later frame of a band: sum of products, and value of the map.
const BAND_BYTES: usize = size_of::<f64>() + size_of::<f32>();

/// Part of the free memory that a band takes; the diagonals' pieces need some.
const BAND_SHARE: f64 = 0.8;

/// Part of the host's memory for rows that go to the sink together; where few rows are as much, twice that.
const GATHERED_SHARE: u64 = 8;

/// Part of the host's memory for the sums of a bin that comes in parts.
const OPEN_SHARE: u64 = 4;

/// Bytes of it for a frame and later frame: sums of products of the bin, of a group, and those from the device.
const OPEN_BYTES: u64 = 3 * size_of::<f64>() as u64;

/// Correlates the wanted bins, slice by slice.
pub(super) struct Maps<'a> {
    layout: &'a Layout,
    wanted: &'a TwoTimeRequest,
    frames: usize,
    /// Bytes of the host's memory that may be used.
    memory: u64,
    sink: Sink<'a>,
    /// Rows that go to the sink together.
    gathered: usize,
    result: TwoTime,
    open: Option<Open<'a>>,
}

/// A bin that comes in several slices.
struct Open<'a> {
    out: MapOut<'a, Vec<f32>>,
    /// Rows of the map that are added up.
    rows: Range<usize>,
    /// Weighted, (row, frame).
    products: Vec<f64>,
    /// Weighted counts of each frame.
    sums: Vec<f64>,
    /// The same of a group that is cut itself, without weights.
    group: Option<(Vec<f64>, Vec<f64>)>,
    /// What there was of it.
    parts: Vec<Share>,
}

/// Groups of a matrix.
struct Groups<D: Device> {
    /// Begin and end of each.
    columns: Buffer<D, u32>,
    /// Pixels of each.
    sizes: Vec<usize>,
}

impl<D: Device> Groups<D> {
    fn arg(&self) -> [Arg<'_, D::Memory>; 2] {
        [self.columns.arg(), Arg::U32(self.sizes.len() as u32)]
    }
}

/// Bytes of the host's memory that are kept for rows of maps, and the number of rows.
///
/// # Errors
/// They do not fit.
fn gathered(request: &Request, sink: Sink<'_>) -> Result<(u64, usize), EngineError> {
    if request.two_time.is_none() {
        return Ok((0, 0));
    }
    let (frames, memory) = (request.selection.outputs() as usize, request.memory);
    let rows = rows_gathered(frames, sink.rows_together(frames), memory / GATHERED_SHARE);
    let bytes = row_bytes(frames) * rows as u64;
    if bytes > memory / GATHERED_SHARE * 2 {
        return Err(map_too_large(bytes * GATHERED_SHARE / 2, memory));
    }
    Ok((bytes, rows))
}

/// Bytes of the host's memory that are kept for rows of maps.
///
/// # Errors
/// They do not fit.
pub(super) fn kept(request: &Request, sink: Sink<'_>) -> Result<u64, EngineError> {
    Ok(gathered(request, sink)?.0)
}

impl<'a> Maps<'a> {
    pub(super) fn new(
        layout: &'a Layout,
        wanted: &'a TwoTimeRequest,
        request: &Request,
        sink: Sink<'a>,
    ) -> Result<Self, EngineError> {
        let frames = request.selection.outputs() as usize;
        let (result, (_, gathered)) = (empty(frames, &wanted.labels), gathered(request, sink)?);
        Ok(Self { layout, wanted, frames, memory: request.memory, sink, gathered, result, open: None })
    }

    /// The next slice as a matrix of zeros in at most so many bytes; it shrinks until it fits. `cells`: what shows the pixel
    /// of each place.
    pub(super) fn slice<D: Device>(
        &self,
        device: &D,
        queue: &mut Queue,
        cells: &[u32],
        kind: Kind,
        mut bytes: usize,
    ) -> Result<Columns<D>, DeviceError> {
        loop {
            let shares = queue.take(self.width(kind, bytes));
            match Columns::new(device, cells, shares, self.frames, kind) {
                Ok(columns) => return Ok(columns),
                Err((error @ DeviceError::OutOfMemory { .. }, shares)) => {
                    let fewest = shares.len() == 1 && shares[0].places.len() <= columns::DEPTH;
                    queue.put_back(shares);
                    if fewest {
                        return Err(error);
                    }
                    bytes /= 2;
                }
                Err((error, _)) => return Err(error),
            }
        }
    }

    /// Columns that fit; at least some.
    fn width(&self, kind: Kind, bytes: usize) -> usize {
        (bytes / (rows(self.frames) * kind.bytes())).max(columns::DEPTH)
    }

    /// Correlates a slice and hands over the rows of maps that it completes. A bin whose parts are all there for a band of
    /// rows is wanted again for the next one.
    pub(super) fn add<D: Device>(
        &mut self,
        device: &D,
        columns: &Columns<D>,
        queue: &mut Queue,
        observer: &dyn Observer,
    ) -> Result<(), CudaError> {
        let numbered: Vec<(&Share, u32)> = std::iter::zip(&columns.shares, columns.begins.iter().copied()).collect();
        for own in numbered.chunk_by(|(a, _), (b, _)| a.bin == b.bin) {
            if observer.cancelled() {
                return Err(EngineError::Cancelled.into());
            }
            let (first, last) = (own[0].0, own[own.len() - 1].0);
            let places = self.layout.bin(self.wanted.labels[first.bin]);
            let (begins, ends) = (first.places.start == places.start, last.places.end == places.end);
            if self.open.is_none() && begins && ends {
                self.whole(device, columns, own, first.bin, places.len())?;
            } else {
                self.part(device, columns, own)?;
                if !ends {
                    continue;
                }
                if let Some(parts) = self.close(first.bin, places.len())? {
                    queue.again(parts);
                    continue;
                }
            }
            observer.advance(1);
        }
        Ok(())
    }

    pub(super) fn finish(self) -> TwoTime {
        self.result
    }

    /// A bin that is there whole.
    fn whole<D: Device>(
        &mut self,
        device: &D,
        columns: &Columns<D>,
        shares: &[(&Share, u32)],
        bin: usize,
        pixels: usize,
    ) -> Result<(), CudaError> {
        let frames = self.frames;
        let groups = groups(device, shares)?;
        let totals = columns.totals(device, &groups)?;
        let (mut weights, mut sums) = (Vec::with_capacity(totals.len()), vec![0.0; frames]);
        for (total, &size) in std::iter::zip(totals.chunks_exact(frames), &groups.sizes) {
            let own = weigh(self.wanted.smoothing, total, size);
            add_weighted(&mut sums, total, &own);
            weights.extend(own);
        }
        let (weights, scales) = (Buffer::of(device, &weights)?, Buffer::of(device, &scales(&sums))?);
        let mut out = MapOut::new(self.sink, self.wanted.labels[bin], frames, vec![0.0; self.gathered * frames]);
        let mut diagonals = Diagonals::new(device, frames)?;
        for band in bands(device, frames, &(0..frames))? {
            let products = columns.products(device, &groups, &weights, &band)?;
            let cells = band.len() * frames;
            let map = Buffer::<D, f32>::new(device, cells)?;
            let numbers = [frames, band.start, band.len(), pixels].map(|number| Arg::U32(number as u32));
            let [all, first, rows, pixels] = numbers;
            let arguments = [products.arg(), all, first, rows, pixels, scales.arg(), map.arg()];
            device.launch(Kernel::MapRows, threads(cells), &arguments)?;
            diagonals.add(device, &map, &band)?;
            while out.next() < band.end {
                let first = out.next();
                let rows = out.room(band.end - first);
                let count = rows.len() / frames;
                map.read_from(device, (first - band.start) * frames, rows)?;
                out.put(count)?;
            }
        }
        let (whole, blocks) = diagonals.finish(device)?;
        self.result.g2.column_mut(bin).assign(&ndarray::Array1::from(whole));
        for (block, means) in blocks.into_iter().enumerate() {
            self.result.g2_segments.slice_mut(ndarray::s![.., block, bin]).assign(&ndarray::Array1::from(means));
        }
        Ok(())
    }

    /// A part of a bin.
    fn part<D: Device>(&mut self, device: &D, columns: &Columns<D>, shares: &[(&Share, u32)]) -> Result<(), CudaError> {
        let frames = self.frames;
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.begin(self.wanted.labels[shares[0].0.bin])?,
        };
        for share in shares {
            open.parts.push(share.0.clone());
            let groups = groups(device, std::slice::from_ref(share))?;
            let own = columns.totals(device, &groups)?;
            let ones = Buffer::of(device, &vec![1.0; frames])?;
            let empty = || (vec![0.0; open.products.len()], vec![0.0; frames]);
            let (mut products, mut totals) = open.group.take().unwrap_or_else(empty);
            std::iter::zip(&mut totals, own).for_each(|(to, total)| *to += total);
            for band in bands(device, frames, &open.rows)? {
                let from = columns.products(device, &groups, &ones, &band)?;
                let own = band.start.max(open.rows.start)..band.end.min(open.rows.end);
                let mut found = vec![0.0; own.len() * frames];
                from.read_from(device, (own.start - band.start) * frames, &mut found)?;
                let to = &mut products[(own.start - open.rows.start) * frames..];
                std::iter::zip(to, found).for_each(|(to, product)| *to += product);
            }
            if share.0.rest > 0 {
                open.group = Some((products, totals));
                continue;
            }
            let size = self.group_size(share.0);
            let weights = weigh(self.wanted.smoothing, &totals, size);
            add_weighted(&mut open.sums, &totals, &weights);
            let rows = std::iter::zip(open.products.chunks_exact_mut(frames), products.chunks_exact(frames));
            for (t, (to, products)) in open.rows.clone().zip(rows) {
                for ((to, product), weight) in std::iter::zip(std::iter::zip(to, products), &weights) {
                    *to += product * weights[t] * weight;
                }
            }
        }
        self.open = Some(open);
        Ok(())
    }

    /// A bin that comes in parts: as many rows of its map as the host's memory holds.
    fn begin(&self, label: u32) -> Result<Open<'a>, EngineError> {
        let frames = self.frames;
        let row = OPEN_BYTES * frames as u64;
        let fit = usize::try_from(self.memory / OPEN_SHARE / row).unwrap_or(usize::MAX).min(frames);
        if fit < ROWS.min(frames) {
            let what = "a two-time map of a bin whose counts do not fit into the GPU's memory at once";
            let needed = row * ROWS.min(frames) as u64 * OPEN_SHARE;
            return Err(EngineError::Memory { what, needed, allowed: self.memory, remedy: MAP_REMEDY });
        }
        let (products, sums) = (vec![0.0; fit * frames], vec![0.0; frames]);
        let out = MapOut::averaging(self.sink, label, frames, vec![0.0; self.gathered * frames]);
        Ok(Open { out, rows: 0..fit, products, sums, group: None, parts: Vec::new() })
    }

    /// Pixels of the group that a share is the end of.
    fn group_size(&self, share: &Share) -> usize {
        let (end, statics) = (share.places.end, &self.layout.statics);
        let begin = self.layout.bin(self.layout.dynamics[end - 1]).start;
        match self.wanted.smoothing {
            Smoothing::StaticBins => {
                statics[begin..end].iter().rev().take_while(|&&label| label == statics[end - 1]).count()
            }
            Smoothing::DynamicBins | Smoothing::None => end - begin,
        }
    }

    /// The rows of a bin whose parts are all there. Returns them when more rows are to come.
    fn close(&mut self, bin: usize, pixels: usize) -> Result<Option<Vec<Share>>, EngineError> {
        let Some(mut open) = self.open.take() else { return Ok(None) };
        let (frames, scales) = (self.frames, scales(&open.sums));
        while open.out.next() < open.rows.end {
            let first = open.out.next();
            let rows = open.out.room(open.rows.end - first);
            let count = rows.len() / frames;
            let from = &open.products[(first - open.rows.start) * frames..];
            let each = std::iter::zip(rows.chunks_exact_mut(frames), from.chunks_exact(frames));
            for (t, (row, products)) in (first..).zip(each) {
                let value = |later: usize| products[later] * pixels as f64 * scales[t] * scales[later];
                row.iter_mut()
                    .enumerate()
                    .for_each(|(later, to)| *to = if later < t { 0.0 } else { value(later) as f32 });
            }
            open.out.put(count)?;
        }
        if open.rows.end == frames {
            if let Some(diagonals) = open.out.finish() {
                keep_averages(&mut self.result, bin, &diagonals);
            }
            return Ok(None);
        }
        let next = open.rows.end..(open.rows.end + open.rows.len()).min(frames);
        open.products.truncate(next.len() * frames);
        open.products.fill(0.0);
        open.sums.fill(0.0);
        let parts = std::mem::take(&mut open.parts);
        self.open = Some(Open { rows: next, ..open });
        Ok(Some(parts))
    }
}

fn groups<D: Device>(device: &D, shares: &[(&Share, u32)]) -> Result<Groups<D>, DeviceError> {
    let columns: Vec<u32> =
        shares.iter().flat_map(|(share, begin)| [*begin, begin + columns::filled(share) as u32]).collect();
    let sizes = shares.iter().map(|(share, _)| share.places.len()).collect();
    Ok(Groups { columns: Buffer::of(device, &columns)?, sizes })
}

/// Some rows of a map, as many at a time as are computed at once. The kernels want whole ROWS before the first of them.
fn bands<D: Device>(device: &D, frames: usize, rows: &Range<usize>) -> Result<Vec<Range<usize>>, DeviceError> {
    let fits = (device.free_bytes()? as f64 * BAND_SHARE) as usize / (frames * BAND_BYTES);
    let most = if fits >= frames { frames } else { (fits / ROWS * ROWS).max(ROWS) };
    let begin = rows.start / ROWS * ROWS;
    Ok((begin..rows.end).step_by(most).map(|start| start..(start + most).min(rows.end)).collect())
}

impl<D: Device> Columns<D> {
    /// Counts of each group in each frame.
    fn totals(&self, device: &D, groups: &Groups<D>) -> Result<Vec<f64>, DeviceError> {
        let cells = groups.sizes.len() * self.frames;
        let totals = Buffer::<D, f64>::new(device, cells)?;
        // a warp each
        let grid = each(cells * 32);
        let sizes = [self.width, self.frames].map(|number| Arg::U32(number as u32));
        let rest = sizes.into_iter().chain(groups.arg()).chain([totals.arg()]);
        match &self.cells {
            Cells::Whole { digits, planes, .. } => {
                let own = [digits.arg(), Arg::U64(self.plane() as u64), Arg::U32(*planes)];
                device.launch(Kernel::GroupTotals, grid, &own.into_iter().chain(rest).collect::<Vec<_>>())?;
            }
            Cells::Floats(values) => {
                let arguments: Vec<_> = [values.arg()].into_iter().chain(rest).collect();
                device.launch(Kernel::GroupTotalsF32, grid, &arguments)?;
            }
        }
        totals.read(device)
    }

    /// Weighted sums of products of the frames of a band with all later ones; those with earlier ones are anything.
    fn products(
        &self,
        device: &D,
        groups: &Groups<D>,
        weights: &Buffer<D, f64>,
        band: &Range<usize>,
    ) -> Result<Buffer<D, f64>, DeviceError> {
        let out = Buffer::<D, f64>::zeros(device, band.len() * self.frames)?;
        let sizes = [self.width, self.frames, band.start, band.len()].map(|number| Arg::U32(number as u32));
        let rest = sizes.into_iter().chain(groups.arg()).chain([weights.arg()]);
        let grid = |rows: usize, cols: usize, shared| {
            let blocks = band.len().div_ceil(rows) * self.frames.div_ceil(cols);
            Grid { blocks: blocks as u32, threads: GRAM_THREADS, shared }
        };
        match &self.cells {
            Cells::Whole { digits, planes, most } => {
                let most = most.read(device)?[0];
                let used = columns::planes(most).min(*planes);
                let largest = most.clamp(1, LARGEST_DIGIT);
                let chunk = (EXACT - 1) / (largest * largest) / DEPTH * DEPTH;
                let own = [digits.arg(), Arg::U64(self.plane() as u64), Arg::U32(used)];
                let arguments: Vec<_> =
                    own.into_iter().chain(rest).chain([Arg::U32(chunk as u32), out.arg()]).collect();
                device.launch(Kernel::GramDigits, grid(ROWS, COLS, GRAM_SHARED), &arguments)?;
            }
            Cells::Floats(values) => {
                let arguments: Vec<_> = [values.arg()].into_iter().chain(rest).chain([out.arg()]).collect();
                device.launch(Kernel::GramF32, grid(PLAIN, PLAIN, PLAIN_SHARED), &arguments)?;
            }
        }
        Ok(out)
    }
}

/// Columns that are multiplied at once: twotime.cu's DEPTH.
const DEPTH: u64 = columns::DEPTH as u64;

/// Sums of the diagonals of a map and of its blocks, band by band.
struct Diagonals<D: Device> {
    /// Frames, and the sum of each of their delays.
    parts: Vec<(Range<usize>, Buffer<D, f64>)>,
    frames: usize,
}

impl<D: Device> Diagonals<D> {
    fn new(device: &D, frames: usize) -> Result<Self, DeviceError> {
        let block = frames / BLOCKS;
        let blocks = (0..BLOCKS).map(|number| number * block..(number + 1) * block);
        let parts = std::iter::once(0..frames).chain(blocks);
        let parts = parts.map(|part| Ok((part.clone(), Buffer::zeros(device, part.len())?)));
        Ok(Self { parts: parts.collect::<Result<_, DeviceError>>()?, frames })
    }

    fn add(&mut self, device: &D, map: &Buffer<D, f32>, band: &Range<usize>) -> Result<(), DeviceError> {
        for (part, totals) in &self.parts {
            let own = band.start.max(part.start)..band.end.min(part.end);
            if own.is_empty() {
                continue;
            }
            let (pieces, delays) = (own.len().div_ceil(PIECE), part.len());
            let partial = Buffer::<D, f64>::new(device, pieces * delays)?;
            let numbers = [self.frames, band.start, band.len(), part.start, part.end, pieces];
            let numbers = numbers.map(|number| Arg::U32(number as u32));
            let arguments: Vec<_> = [map.arg()].into_iter().chain(numbers).chain([partial.arg()]).collect();
            device.launch(Kernel::DiagonalPieces, threads(pieces * delays), &arguments)?;
            let numbers = [pieces, delays].map(|number| Arg::U32(number as u32));
            let arguments: Vec<_> = [partial.arg()].into_iter().chain(numbers).chain([totals.arg()]).collect();
            device.launch(Kernel::DiagonalTotals, each(delays), &arguments)?;
        }
        Ok(())
    }

    /// Means of the whole map, and of its blocks.
    fn finish(self, device: &D) -> Result<(Vec<f64>, Vec<Vec<f64>>), DeviceError> {
        let mut means = Vec::new();
        for (part, totals) in self.parts {
            let sums = totals.read(device)?.into_iter().enumerate();
            means.push(sums.map(|(delay, sum)| sum / (part.len() - delay) as f64).collect::<Vec<_>>());
        }
        let blocks = means.split_off(1);
        Ok((means.swap_remove(0), blocks))
    }
}
