//! From decoded frames to the counts of the masked-in pixels: types, copies, sums and checks.
//!
//! Knows one frame at a time; nothing of time series.

use bytemuck::Pod;

use crate::correlate::bins::{Partition, Shape};
use crate::engine::EngineError;

use super::Saturated;

/// A pixel as it is decoded.
pub(super) trait Raw: Pod + PartialEq + Send + Sync {
    /// Sums in another order could differ in the last bit: the type is not an integer.
    const ROUNDS: bool;

    /// The value as float32, exact below 2^24.
    fn f32(self) -> f32;

    /// Whether it carries the saturation value.
    fn is(self, saturation: u32) -> bool;

    /// What is wrong with the value, if it cannot be correlated.
    fn fault(self) -> Option<&'static str>;

    /// Sums a run and says whether any value is saturated or cannot be correlated.
    fn survey(run: &[Self], saturation: Option<u32>) -> Survey;

    /// Adds a run, pixel by pixel, to `short` if 2^16 frames of the type fit there, to `long` otherwise.
    fn accumulate(run: &[Self], short: &mut [u32], long: &mut [f64]);
}

/// What a look at a run of pixels shows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Survey {
    pub(super) sum: f64,
    /// Some value is saturated or cannot be correlated.
    pub(super) unusual: bool,
}

/// A count as it is kept for the time series.
pub(super) trait Cell: Pod + Send + Sync + Default {
    /// The value as float32.
    fn f32(self) -> f32;
}

/// How a raw pixel becomes a cell.
pub(super) trait Store<R>: Cell {
    /// Sets the cells of the first frame of an average.
    fn set(cells: &mut [Self], run: &[R]);

    /// Adds a further frame of an average.
    fn add(cells: &mut [Self], run: &[R]);

    /// Whether any value of a run is too large for a cell, which then holds the largest that fits.
    #[inline]
    fn overflows(run: &[R]) -> bool {
        let _ = run;
        false
    }

    /// How much larger than its cell a value is.
    #[inline]
    fn excess(value: R) -> u32 {
        let _ = value;
        0
    }
}

/// Counts that are summed side by side: a vector of the narrowest type.
const LANES: usize = 32;

fn add_short<R: Copy + Into<u32>>(run: &[R], short: &mut [u32]) {
    std::iter::zip(short, run).for_each(|(sum, &value)| *sum += value.into());
}

fn add_long<R: Copy + Into<f64>>(run: &[R], long: &mut [f64]) {
    std::iter::zip(long, run).for_each(|(sum, &value)| *sum += value.into());
}

macro_rules! unsigned {
    ($type:ty, $wide:ty, $block:expr, $accumulate:expr) => {
        impl Raw for $type {
            const ROUNDS: bool = false;

            #[inline]
            fn f32(self) -> f32 {
                self as f32
            }

            #[inline]
            fn is(self, saturation: u32) -> bool {
                u32::from(self) == saturation
            }

            #[inline]
            fn fault(self) -> Option<&'static str> {
                None
            }

            #[inline]
            fn survey(run: &[Self], saturation: Option<u32>) -> Survey {
                #[cfg(target_arch = "x86_64")]
                #[target_feature(enable = "avx2")]
                fn with_avx2(run: &[$type]) -> (f64, $type) {
                    sum_and_largest(run)
                }

                // lanes side by side make vectors; blocks whose sums fit the wide type
                #[inline(always)]
                fn sum_and_largest(run: &[$type]) -> (f64, $type) {
                    let mut total = 0.0;
                    let mut largest = [0; LANES];
                    for block in run.chunks($block * LANES) {
                        let mut sums = [0 as $wide; LANES];
                        let (rows, rest) = block.as_chunks::<LANES>();
                        for row in rows {
                            for lane in 0..LANES {
                                sums[lane] += <$wide>::from(row[lane]);
                                largest[lane] = largest[lane].max(row[lane]);
                            }
                        }
                        for (lane, &value) in rest.iter().enumerate() {
                            total += value as f64;
                            largest[lane] = largest[lane].max(value);
                        }
                        for sum in sums {
                            total += sum as f64;
                        }
                    }
                    (total, largest.into_iter().max().unwrap_or(0))
                }

                #[cfg(target_arch = "x86_64")]
                let vectors = std::is_x86_feature_detected!("avx2");
                #[cfg(target_arch = "x86_64")]
                // SAFETY: the processor has AVX2.
                let (sum, largest) = if vectors { unsafe { with_avx2(run) } } else { sum_and_largest(run) };
                #[cfg(not(target_arch = "x86_64"))]
                let (sum, largest) = sum_and_largest(run);
                // the value that marks saturation is the type's largest, so that no other can exceed it
                Survey { sum, unusual: saturation.is_some_and(|value| u32::from(largest) >= value) }
            }

            #[inline]
            fn accumulate(run: &[Self], short: &mut [u32], long: &mut [f64]) {
                let accumulate: fn(&[Self], &mut [u32], &mut [f64]) = $accumulate;
                accumulate(run, short, long);
            }
        }
    };
}

unsigned!(u8, u16, 1 << 8, |run, short, _| add_short(run, short));
unsigned!(u16, u32, 1 << 15, |run, short, _| add_short(run, short));
unsigned!(u32, u64, 1 << 20, |run, _, long| add_long(run, long));

macro_rules! signed {
    ($type:ty) => {
        impl Raw for $type {
            const ROUNDS: bool = false;

            #[inline]
            fn f32(self) -> f32 {
                self as f32
            }

            #[inline]
            fn is(self, _: u32) -> bool {
                false
            }

            #[inline]
            fn fault(self) -> Option<&'static str> {
                (self < 0).then_some("negative counts")
            }

            #[inline]
            fn survey(run: &[Self], _: Option<u32>) -> Survey {
                let sum = run.iter().map(|&v| i64::from(v)).sum::<i64>() as f64;
                Survey { sum, unusual: run.iter().fold(0, |lowest, &v| v.min(lowest)) < 0 }
            }

            #[inline]
            fn accumulate(run: &[Self], _: &mut [u32], long: &mut [f64]) {
                add_long(run, long);
            }
        }
    };
}

signed!(i16);
signed!(i32);

impl Raw for f32 {
    const ROUNDS: bool = true;

    #[inline]
    fn f32(self) -> f32 {
        self
    }

    #[inline]
    fn is(self, _: u32) -> bool {
        false
    }

    #[inline]
    fn fault(self) -> Option<&'static str> {
        (!self.is_finite()).then_some("not a finite number")
    }

    #[inline]
    fn survey(run: &[Self], _: Option<u32>) -> Survey {
        let sum = run.iter().map(|&v| f64::from(v)).sum::<f64>();
        Survey { sum, unusual: !sum.is_finite() }
    }

    #[inline]
    fn accumulate(run: &[Self], _: &mut [u32], long: &mut [f64]) {
        add_long(run, long);
    }
}

macro_rules! same_cell {
    ($type:ty) => {
        impl Cell for $type {
            #[inline]
            fn f32(self) -> f32 {
                f32::from(self)
            }
        }

        impl Store<$type> for $type {
            #[inline]
            fn set(cells: &mut [Self], run: &[$type]) {
                cells.copy_from_slice(run);
            }

            #[inline]
            fn add(_: &mut [Self], _: &[$type]) {
                unreachable!("averages are kept as float32");
            }
        }
    };
}

same_cell!(u8);
same_cell!(u16);

impl Cell for f32 {
    #[inline]
    fn f32(self) -> f32 {
        self
    }
}

impl<R: Raw> Store<R> for f32 {
    #[inline]
    fn set(cells: &mut [Self], run: &[R]) {
        std::iter::zip(cells, run).for_each(|(cell, &value)| *cell = value.f32());
    }

    #[inline]
    fn add(cells: &mut [Self], run: &[R]) {
        std::iter::zip(cells, run).for_each(|(cell, &value)| *cell += value.f32());
    }
}

impl Store<u8> for u16 {
    #[inline]
    fn set(cells: &mut [Self], run: &[u8]) {
        std::iter::zip(cells, run).for_each(|(cell, &value)| *cell = Self::from(value));
    }

    #[inline]
    fn add(_: &mut [Self], _: &[u8]) {
        unreachable!("averages are kept as float32");
    }
}

/// Neighbouring pixels of the image with consecutive ranks in the partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PixelRun {
    pub(super) pixel: usize,
    pub(super) rank: usize,
    pub(super) len: usize,
}

/// The masked-in pixels as runs, and those outside the mask.
#[derive(Debug)]
pub(super) struct Runs {
    pub(super) inside: Vec<PixelRun>,
    pub(super) outside: Vec<PixelRun>,
}

impl Runs {
    pub(super) fn new(partition: &Partition) -> Self {
        let mut masked = vec![true; partition.shape().pixels()];
        for &pixel in partition.pixels() {
            masked[pixel as usize] = false;
        }
        let outside: Vec<u32> = (0..masked.len() as u32).filter(|&p| masked[p as usize]).collect();
        Self { inside: runs(partition.pixels()), outside: runs(&outside) }
    }

    /// Number of pixels outside the mask.
    pub(super) fn outside_len(&self) -> usize {
        self.outside.last().map_or(0, |run| run.rank + run.len)
    }
}

/// Sums of the pixels outside the mask over frames.
pub(super) struct OutsideSums {
    short: Vec<u32>,
    long: Vec<f64>,
    frames: u32,
}

/// Frames after which 16-bit sums could leave 32 bits.
const SHORT_FRAMES: u32 = 1 << 16;

impl OutsideSums {
    pub(super) fn new(runs: &Runs) -> Self {
        Self { short: vec![0; runs.outside_len()], long: vec![0.0; runs.outside_len()], frames: 0 }
    }

    /// Adds a frame.
    pub(super) fn add<R: Raw>(&mut self, frame: &[R], runs: &Runs) {
        if self.frames == SHORT_FRAMES {
            self.carry();
        }
        self.frames += 1;
        for run in &runs.outside {
            let ranks = run.rank..run.rank + run.len;
            R::accumulate(
                &frame[run.pixel..run.pixel + run.len],
                &mut self.short[ranks.clone()],
                &mut self.long[ranks],
            );
        }
    }

    fn carry(&mut self) {
        std::iter::zip(&mut self.long, &mut self.short).for_each(|(long, short)| {
            *long += f64::from(std::mem::take(short));
        });
        self.frames = 0;
    }

    /// Adds the sums to those of the whole image and starts anew.
    pub(super) fn move_to(&mut self, image: &mut [f64], runs: &Runs) {
        self.carry();
        for run in &runs.outside {
            let sums = &mut self.long[run.rank..run.rank + run.len];
            for (total, sum) in std::iter::zip(&mut image[run.pixel..run.pixel + run.len], sums) {
                *total += std::mem::take(sum);
            }
        }
    }
}

/// Pixels of a run at most: what is done with a run, step by step, finds it in the nearest cache.
const LONGEST_RUN: usize = 4096;

fn runs(pixels: &[u32]) -> Vec<PixelRun> {
    let mut rank = 0;
    pixels
        .chunk_by(|a, b| a + 1 == *b)
        .flat_map(|run| run.chunks(LONGEST_RUN))
        .map(|run| {
            rank += run.len();
            PixelRun { pixel: run[0] as usize, rank: rank - run.len(), len: run.len() }
        })
        .collect()
}

/// Checks the masked-in pixels of a frame, sums them and hands the runs on; saturated ones are reported and counted
/// as they are.
///
/// # Errors
/// A value that cannot be correlated.
pub(super) fn check_and_sum<R: Raw>(
    frame: u64,
    pixels: &[R],
    runs: &[PixelRun],
    shape: Shape,
    found: &Saturated,
    mut keep: impl FnMut(&PixelRun, &[R]),
) -> Result<f64, EngineError> {
    let mut sum = 0.0;
    for run in runs {
        let values = &pixels[run.pixel..run.pixel + run.len];
        let survey = R::survey(values, found.value);
        sum += survey.sum;
        if survey.unusual {
            if values.iter().any(|v| v.fault().is_some()) {
                return Err(fault(frame, values, run.pixel, shape));
            }
            let saturated = |value: &R| found.value.is_some_and(|saturation| value.is(saturation));
            let marked = (0..run.len).filter(|&k| saturated(&values[k]));
            marked.for_each(|k| found.add((run.pixel + k) as u32, frame));
        }
        keep(run, values);
    }
    Ok(sum)
}

fn fault<R: Raw>(frame: u64, values: &[R], first: usize, shape: Shape) -> EngineError {
    let at = values.iter().position(|v| v.fault().is_some()).unwrap_or(0);
    let what = values[at].fault().unwrap_or("not a count");
    let (row, col) = shape.place((first + at) as u32);
    EngineError::Value { what, frame, row, col }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_cover_the_pixels_in_order() {
        let pixels = [0, 1, 2, 7, 9, 10];
        let found = runs(&pixels);
        assert_eq!(
            found,
            [
                PixelRun { pixel: 0, rank: 0, len: 3 },
                PixelRun { pixel: 7, rank: 3, len: 1 },
                PixelRun { pixel: 9, rank: 4, len: 2 }
            ]
        );
        assert!(runs(&[]).is_empty());
    }

    fn sum<R: Raw>(run: &[R]) -> f64 {
        R::survey(run, None).sum
    }

    #[test]
    fn a_survey_finds_what_is_unusual_wherever_it_lies() {
        for len in [1, 31, 33, 4096] {
            for at in [0, len / 2, len - 1] {
                let mut counts = vec![3u8; len];
                assert!(!u8::survey(&counts, Some(255)).unusual);
                counts[at] = 255;
                assert!(u8::survey(&counts, Some(255)).unusual && !u8::survey(&counts, None).unusual);
                let mut signed = vec![3i16; len];
                signed[at] = -1;
                assert!(i16::survey(&signed, None).unusual);
                let mut real = vec![3.0f32; len];
                real[at] = f32::NAN;
                assert!(f32::survey(&real, None).unusual);
            }
        }
    }

    #[test]
    fn sums_do_not_overflow() {
        assert_eq!(sum(&vec![u16::MAX; 100_000]), 6_553_500_000.0);
        assert_eq!(sum(&vec![u8::MAX; 3_000_000]), 765_000_000.0);
        assert_eq!(sum(&[u32::MAX; 4]), 17_179_869_180.0);
        assert_eq!(sum(&[i32::MAX; 4]), 8_589_934_588.0);
    }
}
