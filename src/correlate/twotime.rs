//! Two-time correlation: smoothing and the averages along the diagonals of a map.

use ndarray::{Array1, Array2};
use serde::{Deserialize, Serialize};

/// Blocks of frames whose g2 is kept beside that of the whole (boost_corr's choice, kept).
pub const BLOCKS: usize = 5;

/// How frames are smoothed before they are multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Smoothing {
    /// Divide by the frame's mean over the pixel's static bin, within the dynamic bin.
    #[default]
    StaticBins,
    /// Divide by the frame's mean over the dynamic bin.
    DynamicBins,
    /// Leave the counts alone.
    None,
}

/// Averages along the diagonals of a map's upper triangle and of its blocks, from rows as they come.
///
/// Each diagonal is added from its first row to its last, so that the sums do not depend on how the rows are cut.
#[derive(Debug, Clone)]
pub struct Diagonals {
    frames: usize,
    /// Sum of each delay.
    whole: Vec<f64>,
    /// The same of each block.
    blocks: Vec<Vec<f64>>,
}

impl Diagonals {
    /// Of a map of so many frames, of which no row has come.
    pub fn new(frames: usize) -> Self {
        Self { frames, whole: vec![0.0; frames], blocks: vec![vec![0.0; frames / BLOCKS]; BLOCKS] }
    }

    /// Adds the next rows, (row, frame); `first` is the number of the first of them.
    pub fn add(&mut self, first: usize, rows: &[f32]) {
        let length = self.frames / BLOCKS;
        for (t, row) in (first..).zip(rows.chunks_exact(self.frames.max(1))) {
            let later = &row[t..];
            std::iter::zip(&mut self.whole, later).for_each(|(sum, &value)| *sum += f64::from(value));
            if let Some(own) = t.checked_div(length).and_then(|block| self.blocks.get_mut(block)) {
                let inside = length - t % length;
                std::iter::zip(&mut own[..inside], later).for_each(|(sum, &value)| *sum += f64::from(value));
            }
        }
    }

    /// Mean of each diagonal, from the main one (delay 0) outwards.
    pub fn means(&self) -> Array1<f64> {
        means(&self.whole)
    }

    /// The same for five blocks of N/5 frames: (delay, block); a remainder is left out.
    pub fn block_means(&self) -> Array2<f64> {
        let mut out = Array2::zeros((self.frames / BLOCKS, BLOCKS));
        for (sums, mut column) in std::iter::zip(&self.blocks, out.columns_mut()) {
            column.assign(&means(sums));
        }
        out
    }
}

fn means(sums: &[f64]) -> Array1<f64> {
    sums.iter().enumerate().map(|(delay, sum)| sum / (sums.len() - delay) as f64).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rows_may_be_cut_anywhere(
            values in proptest::collection::vec(0f32..2.0, 30 * 30),
            frames in 1usize..30,
            step in 1usize..12,
        ) {
            let map = &values[..frames * frames];
            let mut diagonals = Diagonals::new(frames);
            for (first, rows) in (0..).step_by(step).zip(map.chunks(step * frames)) {
                diagonals.add(first, rows);
            }
            let mean = |own: std::ops::Range<usize>, delay: usize| {
                let pairs = own.end - delay - own.start;
                let sum: f64 = (own.start..).take(pairs).map(|t| f64::from(map[t * frames + t + delay])).sum();
                sum / pairs as f64
            };
            let means = diagonals.means();
            prop_assert!((0..frames).all(|delay| means[delay] == mean(0..frames, delay)));
            let (length, blocks) = (frames / BLOCKS, diagonals.block_means());
            prop_assert_eq!(blocks.dim(), (length, BLOCKS));
            for ((delay, block), &found) in blocks.indexed_iter() {
                prop_assert_eq!(found, mean(block * length..(block + 1) * length, delay));
            }
        }
    }
}
