//! From a block of frames to the rows of tiles: cells are copied out by columns, and become counts times factors.
//!
//! Knows nothing of delays.

use std::ops::Range;

use crate::engine::cpu::cells::Cell;
use crate::engine::cpu::memory::prefetch;
use crate::engine::cpu::narrow::Excess;

use super::tile::Real;
use super::vector::{Row, TILE};

/// Bytes of a frame that are copied out at once, so that memory is read in long pieces.
pub(super) const STAGE: usize = 8 * LINE;

/// Rows that are fetched ahead of the one that is copied.
const ROWS_AHEAD: usize = 8;

/// Bytes of a cache line.
const LINE: usize = 64;

/// A block of frames: cells of the band's pixels, frame by frame.
pub(in crate::engine::cpu) struct Block<'a, C, F> {
    pub(in crate::engine::cpu) cells: &'a [C],
    /// What the cells are too small for, by column and frame.
    pub(in crate::engine::cpu) excesses: &'a [Excess],
    /// First frame.
    pub(in crate::engine::cpu) first: usize,
    /// Number of frames.
    pub(in crate::engine::cpu) frames: usize,
    /// Factor of each frame of the block.
    pub(in crate::engine::cpu) factors: &'a [F],
    /// Whether more blocks follow.
    pub(in crate::engine::cpu) more: More,
}

/// Whether a block is the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine::cpu) enum More {
    Follow,
    End,
}

/// Copies columns out of a block: tile by tile, frame by frame, 0 beyond the last column.
#[inline(always)]
pub(super) fn stage<C: Cell, F>(block: &Block<'_, C, F>, width: usize, columns: &Range<usize>, out: &mut Vec<C>) {
    let tiles = columns.len().div_ceil(TILE);
    out.resize(tiles * block.frames * TILE, C::default());
    for frame in 0..block.frames {
        let row = &block.cells[frame * width + columns.start..frame * width + columns.end];
        // each row lies on another page, where the processor does not look ahead by itself
        for line in (columns.start..columns.end).step_by(LINE / size_of::<C>()) {
            prefetch(block.cells, (frame + ROWS_AHEAD) * width + line);
        }
        for (tile, cells) in row.chunks(TILE).enumerate() {
            let at = (tile * block.frames + frame) * TILE;
            if let Ok(full) = <&[C; TILE]>::try_from(cells) {
                out[at..at + TILE].copy_from_slice(full);
            } else {
                out[at..at + cells.len()].copy_from_slice(cells);
                out[at + cells.len()..at + TILE].fill(C::default());
            }
        }
    }
}

/// Adds what the cells of some frames and columns are too small for.
pub(super) fn add_excesses<C: Cell, F: Real>(
    block: &Block<'_, C, F>,
    columns: &Range<usize>,
    frames: Range<usize>,
    cells: &[C],
    rows: &mut [Row<F>],
    sums: &mut [f64; TILE],
) {
    let from = block.excesses.partition_point(|excess| (excess.column as usize) < columns.start);
    let own = block.excesses[from..].iter().take_while(|excess| (excess.column as usize) < columns.end);
    for excess in own.filter(|excess| frames.contains(&(excess.frame as usize))) {
        let (row, lane) = (excess.frame as usize - frames.start, excess.column as usize - columns.start);
        let count = cells[row * TILE + lane].f32() + excess.counts as f32;
        rows[row][lane] = F::scaled(count, block.factors[excess.frame as usize]);
        sums[lane] += f64::from(excess.counts);
    }
}

/// Frames whose counts are summed in float32: exact for integers below 2^21.
const EXACT_FRAMES: usize = 8;

/// Lanes that are converted together.
const LANES: usize = 8;

/// Counts times the frames' factors; returns the sums of the counts.
#[inline(always)]
pub(super) fn convert<C: Cell, F: Real>(cells: &[C], factors: &[F], rows: &mut [Row<F>]) -> [f64; TILE] {
    let mut sums = [0.0f64; TILE];
    let blocks = std::iter::zip(rows.chunks_mut(EXACT_FRAMES), cells.chunks(EXACT_FRAMES * TILE));
    for ((rows, cells), factors) in blocks.zip(factors.chunks(EXACT_FRAMES)) {
        for lane in (0..TILE).step_by(LANES) {
            let short = convert_lanes(cells, factors, rows, lane);
            for i in 0..LANES {
                sums[lane + i] += f64::from(short[i]);
            }
        }
    }
    sums
}

#[inline(always)]
fn convert_lanes<C: Cell, F: Real>(cells: &[C], factors: &[F], rows: &mut [Row<F>], lane: usize) -> [f32; LANES] {
    let mut sums = [0.0f32; LANES];
    for ((row, cells), &factor) in rows.iter_mut().zip(cells.as_chunks::<TILE>().0).zip(factors) {
        let mut counts = [0.0f32; LANES];
        for i in 0..LANES {
            counts[i] = cells[lane + i].f32();
        }
        let mut scaled = [F::default(); LANES];
        for i in 0..LANES {
            scaled[i] = F::scaled(counts[i], factor);
            sums[i] += counts[i];
        }
        row[lane..lane + LANES].copy_from_slice(&scaled);
    }
    sums
}
