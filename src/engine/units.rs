//! What a block of a file stands for in the progress that people see.

/// Frames of progress that each block stands for; they add up to the frames of the file.
pub(super) struct Units {
    frames: u64,
    blocks: u64,
}

impl Units {
    pub(super) fn new(frames: u64, blocks: usize) -> Self {
        Self { frames, blocks: blocks as u64 }
    }

    pub(super) fn of(&self, block: usize) -> u64 {
        let upto = |b: u64| self.frames * b / self.blocks;
        upto(block as u64 + 1) - upto(block as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_adds_up_to_the_frames() {
        let units = Units::new(10_007, 13);
        assert_eq!((0..13).map(|b| units.of(b)).sum::<u64>(), 10_007);
    }
}
