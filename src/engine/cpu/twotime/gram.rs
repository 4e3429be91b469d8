//! Gram matrix from all counts: blocks of the upper triangle, packed panels, exact integer sums.
//!
//! The loops: strips of blocks whose float64 sums fit the memory limit; chunks of pixels, packed once a strip;
//! blocks in parallel; within a block, runs of pixels of one static bin, short enough for the first-level cache.

use std::ops::Range;
use std::sync::Mutex;

use crate::engine::EngineError;

use super::super::pool::Pool;
use super::kernel::{PANEL, Pair, Products, ROWS, Unit};
use super::{Group, Lists, Scale};

/// Pixels packed together: a panel is then 60 KiB, and four of them stay in the second-level cache (512 KiB).
const CHUNK: usize = 1920;

/// Pixels multiplied in one run: two panels' runs are then 30 KiB, inside the first-level cache (32 KiB).
const RUN: usize = 480;

/// Panels in a block: rows (reused from the second-level cache) and columns (streamed).
const BLOCK_ROWS: usize = 4;
const BLOCK_COLUMNS: usize = 32;

/// Below this run length the integer product no longer pays, and float64 is used.
const SHORTEST_RUN: usize = 32;

/// Counts of a range of places: `[frame][place]`, `stride` places a frame.
pub(in crate::engine::cpu) struct Matrix<'a> {
    pub(in crate::engine::cpu) counts: Cells<'a>,
    /// Places in a row of `counts`.
    pub(in crate::engine::cpu) stride: usize,
    /// The dynamic bin's places within a row.
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
    fn pixels(&self) -> usize;

    /// The largest count if all are integers of at most 15 bits.
    fn largest(&self) -> Option<u32>;

    /// Packs the frames of panel `panel` for the runs; `out` is zeroed and holds them one after the other.
    fn pack<U: Unit>(&self, panel: usize, frames: usize, runs: &[Run], out: &mut [U]);
}

/// A run of pixels with the same weights, and where its units lie in a packed panel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Run {
    group: usize,
    pixels: Range<usize>,
    units: Range<usize>,
}

impl Matrix<'_> {
    fn row(&self, t: usize) -> Range<usize> {
        t * self.stride + self.places.start..t * self.stride + self.places.end
    }

    pub(super) fn frame_sums(&self, pixels: Range<usize>) -> Vec<f64> {
        let frames = match self.counts {
            Cells::U16(cells) => cells.len() / self.stride,
            Cells::F32(cells) => cells.len() / self.stride,
        };
        (0..frames)
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
}

impl Packable for Matrix<'_> {
    fn pixels(&self) -> usize {
        self.places.len()
    }

    fn largest(&self) -> Option<u32> {
        match self.counts {
            Cells::U16(cells) => {
                let rows =
                    (0..cells.len() / self.stride).map(|t| cells[self.row(t)].iter().copied().max().unwrap_or(0));
                rows.max().filter(|&m| m <= i16::MAX as u16).map(u32::from)
            }
            Cells::F32(_) => None,
        }
    }

    fn pack<U: Unit>(&self, panel: usize, frames: usize, runs: &[Run], out: &mut [U]) {
        for (lane, t) in (panel * PANEL..frames.min((panel + 1) * PANEL)).enumerate() {
            let start = self.row(t).start;
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
    fn pixels(&self) -> usize {
        self.pixels()
    }

    fn largest(&self) -> Option<u32> {
        self.counts.iter().copied().max().or(Some(0)).filter(|&m| m <= i16::MAX as u32)
    }

    fn pack<U: Unit>(&self, panel: usize, frames: usize, runs: &[Run], out: &mut [U]) {
        let (first, end) = ((panel * PANEL) as u32, frames.min((panel + 1) * PANEL) as u32);
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

/// Fills the upper triangle of `out`.
pub(super) fn correlate(
    counts: &impl Packable,
    groups: &[Group],
    scale: &Scale<'_>,
    memory: u64,
    out: &mut [f32],
    pool: Pool<'_>,
) -> Result<(), EngineError> {
    let exact = counts.largest().map(longest_exact_run).filter(|&run| run >= SHORTEST_RUN);
    match exact {
        Some(run) => product::<Pair>(counts, groups, scale, run.min(RUN), memory, out, pool),
        None => product::<f64>(counts, groups, scale, RUN / 4, memory, out, pool),
    }
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
    fn tiles(&self) -> usize {
        self.rows.len() * self.columns.len()
    }
}

const TILE: usize = PANEL * PANEL;

fn product<U: Unit>(
    counts: &impl Packable,
    groups: &[Group],
    scale: &Scale<'_>,
    run: usize,
    memory: u64,
    out: &mut [f32],
    pool: Pool<'_>,
) -> Result<(), EngineError> {
    let frames = scale.rows.len();
    let panels = frames.div_ceil(PANEL);
    let chunks = chunks::<U>(groups, run, counts.pixels());
    let blocks = blocks(panels);
    let block_bytes = (BLOCK_ROWS * BLOCK_COLUMNS * TILE * size_of::<f64>()) as u64;
    let strip = (memory / block_bytes).clamp(1, blocks.len() as u64) as usize;
    for blocks in blocks.chunks(strip) {
        let sums: Vec<Mutex<Vec<f64>>> = blocks.iter().map(|b| Mutex::new(vec![0.0; b.tiles() * TILE])).collect();
        for runs in &chunks {
            let packed = pack::<U>(counts, frames, panels, runs, pool)?;
            pool.run(
                blocks.len(),
                || (),
                |(), index| {
                    let mut sums = sums[index].lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                    multiply(&blocks[index], runs, groups, &packed, &mut sums);
                    Ok(())
                },
            )?;
        }
        for (block, sums) in std::iter::zip(blocks, sums) {
            let sums = sums.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
            store(block, &sums, scale, out);
        }
    }
    Ok(())
}

/// The pixels in chunks of runs, each run within a group; units are counted within the chunk.
fn chunks<U: Unit>(groups: &[Group], run: usize, pixels: usize) -> Vec<Vec<Run>> {
    let mut chunks = Vec::with_capacity(pixels / CHUNK + 1);
    let (mut runs, mut units) = (Vec::new(), 0);
    for (group, Group { pixels, .. }) in groups.iter().enumerate() {
        for start in pixels.clone().step_by(run) {
            let pixels = start..(start + run).min(pixels.end);
            let more = pixels.len().div_ceil(U::PIXELS);
            if (units + more) * U::PIXELS > CHUNK && units > 0 {
                chunks.push(std::mem::take(&mut runs));
                units = 0;
            }
            runs.push(Run { group, pixels, units: units..units + more });
            units += more;
        }
    }
    chunks.push(runs);
    chunks
}

fn blocks(panels: usize) -> Vec<Block> {
    let mut blocks = Vec::new();
    for row in (0..panels).step_by(BLOCK_ROWS) {
        let rows = row..(row + BLOCK_ROWS).min(panels);
        for column in (row..panels).step_by(BLOCK_COLUMNS) {
            blocks.push(Block { rows: rows.clone(), columns: column..(column + BLOCK_COLUMNS).min(panels) });
        }
    }
    blocks
}

/// All panels of a chunk.
fn pack<U: Unit>(
    counts: &impl Packable,
    frames: usize,
    panels: usize,
    runs: &[Run],
    pool: Pool<'_>,
) -> Result<Vec<Vec<U>>, EngineError> {
    let units = runs.last().map_or(0, |run| run.units.end);
    pool.map(
        panels,
        || (),
        |(), panel| {
            let mut out = vec![U::default(); units * PANEL];
            counts.pack(panel, frames, runs, &mut out);
            Ok(out)
        },
    )
}

/// Adds the weighted products of all runs to a block's sums.
fn multiply<U: Unit>(block: &Block, runs: &[Run], groups: &[Group], packed: &[Vec<U>], sums: &mut [f64]) {
    let mut tiles = sums.chunks_exact_mut(TILE);
    for column in block.columns.clone() {
        for row in block.rows.clone() {
            let Some(tile) = tiles.next() else { return };
            if column < row {
                continue;
            }
            for run in runs {
                let units = run.units.start * PANEL..run.units.end * PANEL;
                let (a, b) = (&packed[row][units.clone()], &packed[column][units]);
                let weights = &groups[run.group].weights;
                for first in (0..PANEL).step_by(ROWS) {
                    let products = U::products(a, b, first);
                    let rows = &mut tile[first * PANEL..(first + ROWS) * PANEL];
                    add_weighted(&products, weights, row * PANEL + first, column * PANEL, rows);
                }
            }
        }
    }
}

#[inline]
fn add_weighted(products: &Products, weights: &[f64], row: usize, column: usize, tile: &mut [f64]) {
    let columns = &weights[column.min(weights.len())..weights.len().min(column + PANEL)];
    for (r, (products, sums)) in std::iter::zip(products, tile.chunks_exact_mut(PANEL)).enumerate() {
        let Some(&weight) = weights.get(row + r) else { return };
        for ((sum, product), other) in std::iter::zip(std::iter::zip(sums, products), columns) {
            *sum += product * (weight * other);
        }
    }
}

fn store(block: &Block, sums: &[f64], scale: &Scale<'_>, out: &mut [f32]) {
    let frames = scale.rows.len();
    let mut tiles = sums.chunks_exact(TILE);
    for column in block.columns.clone() {
        for row in block.rows.clone() {
            let Some(tile) = tiles.next() else { return };
            for (r, values) in tile.chunks_exact(PANEL).enumerate() {
                let t = row * PANEL + r;
                for (c, &value) in values.iter().enumerate() {
                    let other = column * PANEL + c;
                    if other >= t && other < frames {
                        out[t * frames + other] = scale.apply(value, t, other);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
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
        for panels in [1, 3, 4, 5, 37, 70] {
            let mut seen = vec![0; panels * panels];
            for block in blocks(panels) {
                for row in block.rows.clone() {
                    for column in block.columns.clone() {
                        seen[row * panels + column] += 1;
                    }
                }
            }
            for row in 0..panels {
                assert!((row..panels).all(|column| seen[row * panels + column] == 1), "{panels}");
            }
        }
    }

    #[test]
    fn chunks_cover_all_pixels_and_fit() {
        let group = |pixels: Range<usize>| Group { pixels, weights: Vec::new() };
        let groups = [group(0..7), group(7..2500), group(2500..2501), group(2501..9000)];
        let chunks = chunks::<Pair>(&groups, RUN, 9000);
        let mut next = 0;
        for run in chunks.iter().flatten() {
            assert_eq!(run.pixels.start, next);
            assert_eq!(run.units.len(), run.pixels.len().div_ceil(2));
            assert!(run.pixels.end <= groups[run.group].pixels.end);
            next = run.pixels.end;
        }
        assert_eq!(next, 9000);
        assert!(chunks.iter().all(|runs| runs.last().is_some_and(|r| r.units.end * 2 <= CHUNK)));
    }
}
