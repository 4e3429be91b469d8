//! Rows of the Gram matrix from all counts: blocks of the upper triangle, packed panels, exact integer sums.
//!
//! The loops: chunks of pixels, packed once a band of rows; blocks in parallel; within a block, runs of pixels of one
//! static bin, short enough for the first-level cache. Panels are counted from the band's first row: frames before it
//! are in none.

use std::ops::Range;
use std::sync::Mutex;

use crate::engine::EngineError;

use super::super::memory::Buffer;
use super::super::pool::Pool;
use super::kernel::{PANEL, ROWS, Tile, Unit};
use super::{Group, Lists, Scale, held, zeros};

/// Pixels packed together at most: a panel is then 60 KiB, and four of them stay in the second-level cache (512 KiB).
const CHUNK: usize = 1920;

/// Pixels multiplied in one run at most: two panels' runs are then 30 KiB, inside the first-level cache (32 KiB).
pub(super) const RUN: usize = 480;

/// The same for float64.
pub(super) const FLOAT_RUN: usize = RUN / 4;

/// Panels in a block: rows (reused from the second-level cache) and columns (streamed).
const BLOCK_ROWS: usize = 4;
const BLOCK_COLUMNS: usize = 32;

/// Rows of the matrix that make whole blocks.
pub(super) const BAND: usize = BLOCK_ROWS * PANEL;

/// Below this run length the integer product no longer pays, and float64 is used.
const SHORTEST_RUN: usize = 32;

/// Counts of a range of places: `[frame][place]`, `stride` places a frame.
pub(in crate::engine::cpu) struct Matrix<'a> {
    pub(in crate::engine::cpu) counts: Cells<'a>,
    /// The first frame that there is.
    pub(in crate::engine::cpu) first: usize,
    /// Places in a row of `counts`.
    pub(in crate::engine::cpu) stride: usize,
    /// The pixels' places within a row.
    pub(in crate::engine::cpu) places: Range<usize>,
}

/// Elements of a [`Matrix`].
#[derive(Clone, Copy)]
pub(in crate::engine::cpu) enum Cells<'a> {
    /// Integer counts.
    U16(&'a [u16]),
    /// Anything else.
    F32(&'a [f32]),
}

/// Counts that can be packed into panels.
pub(super) trait Packable: Sync {
    /// Packs up to a panel of frames for the runs; `out` is zeroed and holds them one after the other.
    fn pack<U: Unit>(&self, frames: Range<usize>, runs: &[Run], out: &mut [U]);
}

/// A run of pixels with the same weights, and where its units lie in a packed panel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Run {
    group: usize,
    /// Counted from the first that is there.
    pixels: Range<usize>,
    units: Range<usize>,
}

impl Matrix<'_> {
    /// The cells of a row, which is counted from the first.
    fn row(&self, t: usize) -> Range<usize> {
        t * self.stride + self.places.start..t * self.stride + self.places.end
    }

    fn rows(&self) -> usize {
        match self.counts {
            Cells::U16(cells) => cells.len() / self.stride,
            Cells::F32(cells) => cells.len() / self.stride,
        }
    }

    pub(super) fn frame_sums(&self, pixels: Range<usize>) -> Vec<f64> {
        (0..self.rows())
            .map(|t| {
                let start = self.row(t).start;
                let range = start + pixels.start..start + pixels.end;
                match self.counts {
                    Cells::U16(cells) => cells[range].iter().map(|&c| u64::from(c)).sum::<u64>() as f64,
                    Cells::F32(cells) => cells[range].iter().map(|&c| f64::from(c)).sum(),
                }
            })
            .collect()
    }

    /// The largest count, if all are integers.
    pub(super) fn largest(&self) -> Option<u32> {
        match self.counts {
            Cells::U16(cells) => {
                let rows = (0..self.rows()).map(|t| cells[self.row(t)].iter().copied().max().unwrap_or(0));
                Some(u32::from(rows.max().unwrap_or(0)))
            }
            Cells::F32(_) => None,
        }
    }
}

impl Packable for Matrix<'_> {
    fn pack<U: Unit>(&self, frames: Range<usize>, runs: &[Run], out: &mut [U]) {
        for (lane, t) in frames.enumerate() {
            let start = self.row(t - self.first).start;
            for run in runs {
                let range = start + run.pixels.start..start + run.pixels.end;
                let units = out[run.units.start * PANEL..run.units.end * PANEL].chunks_exact_mut(PANEL);
                match self.counts {
                    Cells::U16(cells) => fill(units, lane, cells[range].iter().map(|&c| f32::from(c))),
                    Cells::F32(cells) => fill(units, lane, cells[range].iter().copied()),
                }
            }
        }
    }
}

/// Sets one lane of consecutive units.
#[inline]
fn fill<'u, U: Unit + 'u>(
    units: impl Iterator<Item = &'u mut [U]>,
    lane: usize,
    mut counts: impl Iterator<Item = f32>,
) {
    for unit in units {
        for index in 0..U::PIXELS {
            if let Some(count) = counts.next() {
                unit[lane].set(index, count);
            }
        }
    }
}

impl Packable for Lists {
    fn pack<U: Unit>(&self, frames: Range<usize>, runs: &[Run], out: &mut [U]) {
        let (first, end) = (frames.start as u32, frames.end as u32);
        for run in runs {
            for (index, pixel) in run.pixels.clone().enumerate() {
                let entries = self.entries(pixel);
                let skipped = self.frames[entries.clone()].partition_point(|&t| t < first);
                for e in entries.start + skipped..entries.end {
                    let t = self.frames[e];
                    if t >= end {
                        break;
                    }
                    let unit = (run.units.start + index / U::PIXELS) * PANEL + (t - first) as usize;
                    out[unit].set(index, self.counts[e] as f32);
                }
            }
        }
    }
}

/// The pixels of a run of integers up to `largest`; None where integers do not pay.
pub(super) fn exact_run(largest: u32) -> Option<usize> {
    if largest > i16::MAX as u32 {
        return None;
    }
    let run = longest_exact_run(largest);
    (run >= SHORTEST_RUN).then_some(run.min(RUN))
}

/// The most pixels whose products of counts up to `largest` cannot overflow 32 bits.
fn longest_exact_run(largest: u32) -> usize {
    let product = u64::from(largest).pow(2).max(1);
    (i32::MAX as u64 / product) as usize / 2 * 2
}

/// A rectangle of panels of the upper triangle.
#[derive(Debug, Clone)]
struct Block {
    rows: Range<usize>,
    columns: Range<usize>,
}

impl Block {
    /// Numbers of sums.
    fn cells(&self) -> usize {
        self.rows.len() * self.columns.len() * TILE
    }

    /// Number of a tile.
    fn tile(&self, row: usize, column: usize) -> usize {
        (column - self.columns.start) * self.rows.len() + row - self.rows.start
    }

    /// Its tiles, in the order of their numbers and sums.
    fn tiles(&self) -> impl Iterator<Item = (usize, usize)> {
        let rows = self.rows.clone();
        self.columns.clone().flat_map(move |column| rows.clone().map(move |row| (row, column)))
    }
}

const TILE: usize = PANEL * PANEL;

/// Sums of products of the frames of a band with all later ones.
pub(super) struct Gram<'a, U: Unit> {
    /// First row of the band.
    first: usize,
    frames: usize,
    run: usize,
    /// Pixels packed together.
    chunk: usize,
    blocks: Vec<Block>,
    /// One block after the other, tile by tile.
    sums: Buffer<f64>,
    packed: Buffer<U>,
    pool: Pool<'a>,
}

impl<'a, U: Unit> Gram<'a, U> {
    /// Of no pixel yet; pixels come in runs of so many, packed in so many bytes, or a run at a time.
    pub(super) fn new(
        band: &Range<usize>,
        frames: usize,
        run: usize,
        packed: u64,
        pool: Pool<'a>,
    ) -> Result<Self, EngineError> {
        let panels = (frames - band.start).div_ceil(PANEL);
        let blocks = blocks(band.len().div_ceil(PANEL), panels);
        let sums = zeros(blocks.iter().map(Block::cells).sum(), pool)?;
        let fit = packed / (panels * PANEL * size_of::<U>()) as u64;
        let chunk = usize::try_from(fit).unwrap_or(usize::MAX).saturating_mul(U::PIXELS).min(CHUNK);
        Ok(Self { first: band.start, frames, run, chunk, blocks, sums, packed: Buffer::default(), pool })
    }

    /// Adds the weighted products of some pixels of the bin, which begin and end with runs.
    pub(super) fn add(
        &mut self,
        pixels: &Range<usize>,
        counts: &impl Packable,
        groups: &[Group],
    ) -> Result<(), EngineError> {
        let mut rest = &mut self.sums[..];
        let sums: Vec<Mutex<&mut [f64]>> = self
            .blocks
            .iter()
            .map(|block| {
                let (own, more) = std::mem::take(&mut rest).split_at_mut(block.cells());
                rest = more;
                Mutex::new(own)
            })
            .collect();
        let panels = (self.frames - self.first).div_ceil(PANEL);
        for runs in chunks::<U>(groups, self.run, self.chunk, pixels) {
            let panel = runs.last().map_or(0, |run| run.units.end) * PANEL;
            if self.packed.len() < panels * panel {
                self.packed = self.pool.memory.buffer(panels * panel);
            }
            let parts: Vec<Mutex<&mut [U]>> =
                self.packed[..panels * panel].chunks_mut(panel.max(1)).map(Mutex::new).collect();
            let (first, frames) = (self.first, self.frames);
            self.pool.run(
                parts.len(),
                || (),
                |(), number| {
                    let mut out = held(&parts[number]);
                    out.fill(U::default());
                    let start = first + number * PANEL;
                    counts.pack(start..frames.min(start + PANEL), &runs, &mut out);
                    Ok(())
                },
            )?;
            drop(parts);
            let packed = Packed { units: &self.packed, panel };
            self.pool.run(
                self.blocks.len(),
                || (),
                |(), index| {
                    multiply(&self.blocks[index], first, &runs, groups, &packed, &mut held(&sums[index]));
                    Ok(())
                },
            )?;
        }
        Ok(())
    }

    /// Rows of the map, from row `first` on.
    pub(super) fn fill(&self, first: usize, rows: &mut [f32], scale: &Scale<'_>) -> Result<(), EngineError> {
        let parts: Vec<Mutex<&mut [f32]>> = rows.chunks_mut(self.frames).map(Mutex::new).collect();
        let begins: Vec<usize> =
            self.blocks.iter().scan(0, |next, block| Some(std::mem::replace(next, *next + block.cells()))).collect();
        self.pool.run(
            parts.len(),
            || (),
            |(), number| {
                let mut row = held(&parts[number]);
                let t = first + number;
                row[..t].fill(0.0);
                let (panel, line) = ((t - self.first) / PANEL, (t - self.first) % PANEL);
                let with_row = self.blocks.partition_point(|block| block.rows.end <= panel);
                for (block, &begin) in std::iter::zip(&self.blocks[with_row..], &begins[with_row..]) {
                    if !block.rows.contains(&panel) {
                        break;
                    }
                    for column in block.columns.clone().skip_while(|&column| column < panel) {
                        let begin = begin + block.tile(panel, column) * TILE + line * PANEL;
                        let start = self.first + column * PANEL;
                        let own = t.max(start)..self.frames.min(start + PANEL);
                        let sums = &self.sums[begin + own.start - start..begin + own.end - start];
                        for (other, (value, &sum)) in own.clone().zip(std::iter::zip(&mut row[own], sums)) {
                            *value = scale.apply(sum, t, other);
                        }
                    }
                }
                Ok(())
            },
        )?;
        Ok(())
    }
}

/// The pixels in chunks of runs, each run within a group, counted from the first pixel; units are counted within the
/// chunk.
fn chunks<U: Unit>(groups: &[Group], run: usize, chunk: usize, pixels: &Range<usize>) -> Vec<Vec<Run>> {
    let mut chunks = Vec::with_capacity(pixels.len() / chunk.max(1) + 1);
    let (mut runs, mut units) = (Vec::new(), 0);
    for (group, Group { pixels: own, .. }) in groups.iter().enumerate() {
        for start in own.clone().step_by(run).filter(|start| pixels.contains(start)) {
            let end = (start + run).min(own.end);
            let more = (end - start).div_ceil(U::PIXELS);
            if (units + more) * U::PIXELS > chunk && units > 0 {
                chunks.push(std::mem::take(&mut runs));
                units = 0;
            }
            let pixels = start - pixels.start..end - pixels.start;
            runs.push(Run { group, pixels, units: units..units + more });
            units += more;
        }
    }
    chunks.push(runs);
    chunks
}

/// Blocks of the first `rows` panels of rows, those of the same rows together.
fn blocks(rows: usize, panels: usize) -> Vec<Block> {
    let mut blocks = Vec::new();
    for row in (0..rows).step_by(BLOCK_ROWS) {
        let rows = row..(row + BLOCK_ROWS).min(rows);
        for column in (row..panels).step_by(BLOCK_COLUMNS) {
            blocks.push(Block { rows: rows.clone(), columns: column..(column + BLOCK_COLUMNS).min(panels) });
        }
    }
    blocks
}

/// All panels of a chunk.
struct Packed<'a, U> {
    units: &'a [U],
    /// Units of a panel.
    panel: usize,
}

/// Adds the weighted products of all runs to a block's sums.
fn multiply<U: Unit>(
    block: &Block,
    first: usize,
    runs: &[Run],
    groups: &[Group],
    packed: &Packed<'_, U>,
    sums: &mut [f64],
) {
    let units = |panel: usize, run: &Run| {
        let begin = panel * packed.panel;
        &packed.units[begin + run.units.start * PANEL..begin + run.units.end * PANEL]
    };
    for ((row, column), tile) in block.tiles().zip(sums.chunks_exact_mut(TILE)) {
        if column < row {
            continue;
        }
        for run in runs {
            let (a, b) = (units(row, run), units(column, run));
            let weights = groups[run.group].weights.get(first..).unwrap_or_default();
            for line in (0..PANEL).step_by(ROWS) {
                let products = U::products(a, b, line);
                let rows = &mut tile[line * PANEL..(line + ROWS) * PANEL];
                add_weighted(&products, weights, row * PANEL + line, column * PANEL, rows);
            }
        }
    }
}

#[inline]
fn add_weighted(products: &Tile, weights: &[f64], row: usize, column: usize, tile: &mut [f64]) {
    let columns = &weights[column.min(weights.len())..weights.len().min(column + PANEL)];
    for (r, (products, sums)) in std::iter::zip(products, tile.chunks_exact_mut(PANEL)).enumerate() {
        let Some(&weight) = weights.get(row + r) else { return };
        for ((sum, product), other) in std::iter::zip(std::iter::zip(sums, products), columns) {
            *sum += product * (weight * other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::kernel::Pair;
    use super::*;

    #[test]
    fn exact_runs_cannot_overflow() {
        for largest in [0, 1, 15, 255, 2000, 32767] {
            let run = longest_exact_run(largest) as i64;
            assert!(run * i64::from(largest).pow(2) <= i64::from(i32::MAX));
        }
        assert!(longest_exact_run(32767) < SHORTEST_RUN);
    }

    #[test]
    fn blocks_cover_the_upper_triangle_once() {
        for (rows, panels) in [(1, 1), (3, 3), (4, 4), (2, 5), (37, 37), (8, 70), (70, 70)] {
            let mut seen = vec![0; rows * panels];
            for (row, column) in blocks(rows, panels).iter().flat_map(Block::tiles) {
                seen[row * panels + column] += 1;
            }
            for row in 0..rows {
                assert!((row..panels).all(|column| seen[row * panels + column] == 1), "{rows} of {panels}");
            }
        }
    }

    #[test]
    fn chunks_cover_all_pixels_and_fit() {
        let group = |pixels: Range<usize>| Group { pixels, weights: Vec::new() };
        let groups = [group(0..7), group(7..2500), group(2500..2501), group(2501..9000)];
        // all pixels, and those between two ends of runs
        for (pixels, chunk) in [(0..9000, CHUNK), (967..2500, CHUNK), (0..9000, 0)] {
            let chunks = chunks::<Pair>(&groups, RUN, chunk, &pixels);
            let mut next = 0;
            for run in chunks.iter().flatten() {
                assert_eq!(run.pixels.start, next);
                assert_eq!(run.units.len(), run.pixels.len().div_ceil(2));
                assert!(pixels.start + run.pixels.end <= groups[run.group].pixels.end);
                next = run.pixels.end;
            }
            assert_eq!(next, pixels.len());
            let most = chunk.max(RUN);
            assert!(chunks.iter().all(|runs| runs.last().is_some_and(|r| r.units.end * 2 <= most)));
        }
    }
}
