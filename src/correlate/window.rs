//! Which raw frames are correlated: begin, end, stride and averaging.
//!
//! Pure arithmetic on frame numbers; knows nothing of pixels.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What the user asked for, not yet held against a dataset's length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FrameWindow {
    /// First frame; a negative number counts from the end, as in a Python slice.
    pub begin: i64,
    /// One past the last frame; 0 and -1 mean all, other negative numbers count from the end.
    pub end: i64,
    /// Every `stride`-th frame is taken.
    pub stride: NonZeroU32,
    /// The mean of `avg` consecutive taken frames makes one frame of the analysis.
    pub avg: NonZeroU32,
}

impl Default for FrameWindow {
    fn default() -> Self {
        Self { begin: 0, end: -1, stride: NonZeroU32::MIN, avg: NonZeroU32::MIN }
    }
}

/// A window holds no frame of the dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "frames {begin}:{end} with stride {stride} and average {avg} hold no complete frame of the dataset's {frames} frames"
)]
pub struct EmptyWindow {
    begin: i64,
    end: i64,
    stride: u32,
    avg: u32,
    frames: u64,
}

/// The frames of one dataset that are correlated: `outputs` groups of `avg` frames, `stride` apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameSelection {
    first: u64,
    stride: u64,
    avg: u64,
    outputs: u64,
}

impl FrameWindow {
    /// Holds the window against a dataset of `frames` frames.
    ///
    /// # Errors
    /// [`EmptyWindow`] when no group of `stride * avg` frames fits.
    pub fn select(self, frames: u64) -> Result<FrameSelection, EmptyWindow> {
        let from_end = |n: i64| if n < 0 { frames.saturating_sub(n.unsigned_abs()) } else { n as u64 };
        let first = from_end(self.begin).min(frames);
        let last = if matches!(self.end, 0 | -1) { frames } else { from_end(self.end).min(frames) };
        let stride = u64::from(self.stride.get());
        let avg = u64::from(self.avg.get());
        let outputs = last.saturating_sub(first) / (stride * avg);
        if outputs == 0 {
            return Err(EmptyWindow {
                begin: self.begin,
                end: self.end,
                stride: self.stride.get(),
                avg: self.avg.get(),
                frames,
            });
        }
        Ok(FrameSelection { first, stride, avg, outputs })
    }
}

impl FrameSelection {
    /// All of `frames` frames, one by one.
    pub fn all(frames: u64) -> Self {
        Self { first: 0, stride: 1, avg: 1, outputs: frames }
    }

    /// Number of frames of the analysis, after stride and averaging.
    pub fn outputs(&self) -> u64 {
        self.outputs
    }

    /// Raw frames averaged into one.
    pub fn avg(&self) -> u64 {
        self.avg
    }

    /// Distance of the raw frames that are taken.
    pub fn stride(&self) -> u64 {
        self.stride
    }

    /// First raw frame.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// One past the last raw frame that is taken.
    pub fn end(&self) -> u64 {
        self.first + (self.outputs * self.avg - 1) * self.stride + 1
    }

    /// The `index`-th raw frame that is taken; `index < outputs * avg`.
    pub fn raw(&self, index: u64) -> u64 {
        self.first + index * self.stride
    }

    /// The analysis frame that raw frame `raw` belongs to, if it is taken.
    #[inline]
    pub fn output_of(&self, raw: u64) -> Option<u64> {
        let offset = raw.checked_sub(self.first)?;
        if self.stride == 1 && self.avg == 1 {
            return (offset < self.outputs).then_some(offset);
        }
        if !offset.is_multiple_of(self.stride) {
            return None;
        }
        let output = offset / self.stride / self.avg;
        (output < self.outputs).then_some(output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(begin: i64, end: i64, stride: u32, avg: u32) -> FrameWindow {
        let nz = |n| NonZeroU32::new(n).expect("not zero");
        FrameWindow { begin, end, stride: nz(stride), avg: nz(avg) }
    }

    #[test]
    fn ends_are_python_slices() {
        for (begin, end, first, outputs) in
            [(0, -1, 0, 100), (0, 0, 0, 100), (5, 20, 5, 15), (-10, -1, 90, 10), (0, -10, 0, 90), (0, 1000, 0, 100)]
        {
            let s = window(begin, end, 1, 1).select(100).expect("not empty");
            assert_eq!((s.first(), s.outputs()), (first, outputs), "{begin}:{end}");
        }
        assert!(window(100, -1, 1, 1).select(100).is_err());
        assert!(window(20, 10, 1, 1).select(100).is_err());
        assert!(window(0, -1, 20, 6).select(100).is_err());
    }

    #[test]
    fn groups_are_stride_times_avg_frames() {
        let s = window(5, -1, 2, 3).select(611).expect("not empty");
        assert_eq!(s.outputs(), 101);
        assert_eq!((s.raw(0), s.raw(1), s.end()), (5, 7, 5 + 302 * 2 + 1));
        let mut groups = vec![Vec::new(); 101];
        for raw in 0..611 {
            if let Some(k) = s.output_of(raw) {
                groups[k as usize].push(raw);
            }
        }
        assert_eq!(groups[0], [5, 7, 9]);
        assert_eq!(groups[100], [605, 607, 609]);
        assert!(groups.iter().all(|g| g.len() == 3));
    }
}
