//! Two-time correlation of one dynamic bin at a time: the Gram matrix of its frames, weighted by the smoothing.
//!
//! Counts are integers until a static bin's products are summed, so that the sums are exact; the weights
//! (one a static bin and frame) are applied to the bin's Gram matrix in float64. Rows of the matrix are computed in
//! bands, and pixels may come in slices: each number is the same sum in the same order, however both are cut.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::correlate::result::TwoTime;
use crate::correlate::twotime::Smoothing;
use crate::engine::layout::Layout;
use crate::engine::sink::{MapOut, Sink};
use crate::engine::two_time::{add_weighted, empty, groups, keep_averages, scales, weights};
use crate::engine::{EngineError, Request};

use super::memory::Buffer;
use super::pool::Pool;

mod gram;
mod kernel;
mod pairs;
mod sizes;

pub(super) use gram::{Cells, Matrix};
use gram::{Gram, Packable, RUN};
use kernel::Pair;
pub(super) use pairs::Lists;
use pairs::Pairs;
pub(super) use sizes::least;
use sizes::{Sizes, band_end};

/// Counts of some neighbouring pixels of a dynamic bin, in working order.
pub(super) enum Counts<'a> {
    /// Detections of each pixel.
    Lists(Lists),
    /// All counts.
    Matrix(Matrix<'a>),
}

impl Counts<'_> {
    /// Counts of some pixels in each frame, from the first that there is.
    pub(super) fn frame_sums(&self, pixels: Range<usize>, frames: usize) -> Vec<f64> {
        match self {
            Self::Lists(lists) => lists.frame_sums(pixels, frames),
            Self::Matrix(matrix) => matrix.frame_sums(pixels),
        }
    }

    /// The largest count, if all are integers.
    pub(super) fn largest(&self) -> Option<u32> {
        match self {
            Self::Lists(lists) => Some(lists.largest()),
            Self::Matrix(matrix) => matrix.largest(),
        }
    }
}

/// Where the counts of a dynamic bin come from: they are in memory, or are read, some pixels after the other.
pub(super) trait BinCounts {
    /// What the whole bin is like in so many frames; `groups` are its pixels that share their weights.
    ///
    /// # Errors
    /// Reading errors and cancellation.
    fn survey(&mut self, groups: &[Range<usize>], frames: usize) -> Result<Survey, EngineError>;

    /// Calls `each` with the counts of all pixels in order: pixels of the bin, and their counts, from frame `first` on
    /// at least. Pixels are cut at `cuts` alone, which are ascending and end with the last pixel.
    ///
    /// # Errors
    /// Reading errors, cancellation, those of `each`, pixels between two cuts that do not fit into memory.
    fn visit(&mut self, first: usize, cuts: &[usize], each: &mut Visitor<'_>) -> Result<(), EngineError>;
}

/// Takes the counts of some pixels of a bin.
pub(super) type Visitor<'a> = dyn FnMut(Range<usize>, &Counts<'_>) -> Result<(), EngineError> + 'a;

/// What a bin is like.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Survey {
    /// Counts of each group in each frame.
    pub(super) totals: Vec<Vec<f64>>,
    /// The largest count, if all are integers.
    pub(super) largest: Option<u32>,
    /// Pairs of detections of a pixel, if detections are known.
    pub(super) pairs: Option<f64>,
}

/// A bin whose counts are all in memory.
impl BinCounts for Counts<'_> {
    fn survey(&mut self, groups: &[Range<usize>], frames: usize) -> Result<Survey, EngineError> {
        let pairs = match self {
            Self::Lists(lists) => Some(lists.pairs()),
            Self::Matrix(_) => None,
        };
        let totals = groups.iter().map(|pixels| self.frame_sums(pixels.clone(), frames)).collect();
        Ok(Survey { totals, largest: self.largest(), pairs })
    }

    fn visit(&mut self, _: usize, cuts: &[usize], each: &mut Visitor<'_>) -> Result<(), EngineError> {
        each(0..cuts.last().copied().unwrap_or(0), self)
    }
}

/// Pixels that share their weights: neighbours in working order.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Group {
    /// Pixels, counted from the first of the dynamic bin.
    pub(super) pixels: Range<usize>,
    /// Weight of each frame.
    pub(super) weights: Vec<f64>,
}

/// Collects the g2 of the bins as their maps are finished.
pub(super) struct Collector<'a> {
    result: TwoTime,
    done: usize,
    layout: &'a Layout,
    smoothing: Smoothing,
    pool: Pool<'a>,
    sink: Sink<'a>,
    /// Rows of a map that are stored together.
    together: usize,
}

impl<'a> Collector<'a> {
    pub(super) fn new(request: &Request, layout: &'a Layout, pool: Pool<'a>, sink: Sink<'a>) -> Option<Self> {
        let wanted = request.two_time.as_ref()?;
        let frames = request.selection.outputs() as usize;
        Some(Self {
            result: empty(frames, &wanted.labels),
            done: 0,
            layout,
            smoothing: wanted.smoothing,
            pool,
            sink,
            together: sink.rows_together(frames),
        })
    }

    /// Correlates the next label's counts and hands its map over; takes about `room` bytes for it.
    ///
    /// # Errors
    /// Cancellation, reading errors, the sink's errors.
    pub(super) fn add(&mut self, bin: &mut dyn BinCounts, room: u64) -> Result<(), EngineError> {
        let label = self.result.labels[self.done];
        let frames = self.result.g2.nrows();
        let places = self.layout.bin(label);
        let ranges = groups(&self.layout.statics[places.clone()], self.smoothing);
        let survey = bin.survey(&ranges, frames)?;
        let way = Way::of(&survey, frames, places.len());
        let (groups, sums) = weigh(survey, ranges, self.smoothing);
        let scales = scales(&sums);
        let scale = Scale { pixels: places.len() as f64, rows: &scales };
        let sizes = Sizes::new(frames, self.together, groups.len(), room)?;
        let cuts = cuts(&groups, way.run());
        let rows = self.pool.memory.buffer::<f32>(sizes.gathered * frames);
        let mut out = MapOut::averaging(self.sink, label, frames, rows);
        while out.next() < frames {
            let band = out.next()..band_end(out.next(), frames, sizes.cells);
            let mut products = Products::new(way, &band, frames, &sizes, self.pool)?;
            bin.visit(band.start, &cuts, &mut |pixels, counts| products.add(&pixels, counts, &groups))?;
            while out.next() < band.end {
                let first = out.next();
                let rows = out.room(band.end - first);
                let count = rows.len() / frames;
                products.fill(first, rows, &scale)?;
                out.put(count)?;
            }
        }
        if let Some(diagonals) = out.finish() {
            keep_averages(&mut self.result, self.done, &diagonals);
        }
        self.done += 1;
        Ok(())
    }

    pub(super) fn finish(self) -> TwoTime {
        self.result
    }
}

/// How products are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Pairs of detections of a pixel.
    Pairs,
    /// All counts, as integers, in runs of so many pixels.
    Integers(usize),
    /// All counts, as float64.
    Floats,
}

impl Way {
    fn of(survey: &Survey, frames: usize, pixels: usize) -> Self {
        if survey.pairs.is_some_and(|pairs| pairs::are_cheaper(pairs, frames, pixels)) {
            return Self::Pairs;
        }
        match survey.largest.and_then(gram::exact_run) {
            Some(run) => Self::Integers(run),
            None => Self::Floats,
        }
    }

    /// Pixels that stay together.
    fn run(self) -> usize {
        match self {
            Self::Pairs => RUN,
            Self::Integers(run) => run,
            Self::Floats => gram::FLOAT_RUN,
        }
    }
}

/// Where pixels may be cut: behind each run of pixels of a group.
fn cuts(groups: &[Group], run: usize) -> Vec<usize> {
    let ends = |pixels: &Range<usize>| {
        let end = pixels.end;
        pixels.clone().step_by(run).map(move |start| (start + run).min(end))
    };
    groups.iter().flat_map(|group| ends(&group.pixels)).collect()
}

/// Weighted products of the frames of a band with all later ones, of the pixels so far.
enum Products<'a> {
    Pairs(Pairs<'a>),
    Integers(Gram<'a, Pair>),
    Floats(Gram<'a, f64>),
}

impl<'a> Products<'a> {
    fn new(way: Way, band: &Range<usize>, frames: usize, sizes: &Sizes, pool: Pool<'a>) -> Result<Self, EngineError> {
        Ok(match way {
            Way::Pairs => Self::Pairs(Pairs::new(band, frames, pool)?),
            Way::Integers(run) => Self::Integers(Gram::new(band, frames, run, sizes.packed, pool)?),
            Way::Floats => Self::Floats(Gram::new(band, frames, gram::FLOAT_RUN, sizes.packed, pool)?),
        })
    }

    /// Adds those of some pixels of the bin.
    fn add(&mut self, pixels: &Range<usize>, counts: &Counts<'_>, groups: &[Group]) -> Result<(), EngineError> {
        fn multiply(
            products: &mut Products<'_>,
            pixels: &Range<usize>,
            counts: &impl Packable,
            groups: &[Group],
        ) -> Result<(), EngineError> {
            match products {
                Products::Pairs(_) => Ok(()),
                Products::Integers(gram) => gram.add(pixels, counts, groups),
                Products::Floats(gram) => gram.add(pixels, counts, groups),
            }
        }
        match (self, counts) {
            (Self::Pairs(pairs), Counts::Lists(lists)) => pairs.add(pixels, lists, groups),
            (other, Counts::Lists(lists)) => multiply(other, pixels, lists, groups),
            (other, Counts::Matrix(matrix)) => multiply(other, pixels, matrix, groups),
        }
    }

    /// Rows of the map, from row `first` on.
    fn fill(&self, first: usize, rows: &mut [f32], scale: &Scale<'_>) -> Result<(), EngineError> {
        match self {
            Self::Pairs(pairs) => pairs.fill(first, rows, scale),
            Self::Integers(gram) => gram.fill(first, rows, scale),
            Self::Floats(gram) => gram.fill(first, rows, scale),
        }
    }
}

/// What turns a weighted product of two frames into c2.
struct Scale<'a> {
    pixels: f64,
    /// 1 / sum of the weighted counts of each frame.
    rows: &'a [f64],
}

impl Scale<'_> {
    #[inline]
    fn apply(&self, product: f64, t: usize, other: usize) -> f32 {
        (product * self.pixels * self.rows[t] * self.rows[other]) as f32
    }
}

/// Groups with their weights, and the weighted sum of each frame.
fn weigh(survey: Survey, ranges: Vec<Range<usize>>, smoothing: Smoothing) -> (Vec<Group>, Vec<f64>) {
    let mut sums = vec![0.0; survey.totals.first().map_or(0, Vec::len)];
    let groups = std::iter::zip(ranges, survey.totals).map(|(pixels, totals)| {
        let weights = weights(smoothing, &totals, pixels.len());
        add_weighted(&mut sums, &totals, &weights);
        Group { pixels, weights }
    });
    (groups.collect(), sums)
}

/// Numbers that a job of [`zeros`] clears.
const CLEARED: usize = 1 << 18;

/// Zeros, cleared by all threads: pages that are touched for the first time cost time.
fn zeros(len: usize, pool: Pool<'_>) -> Result<Buffer<f64>, EngineError> {
    let mut buffer = pool.memory.buffer::<f64>(len);
    let parts: Vec<Mutex<&mut [f64]>> = buffer.chunks_mut(CLEARED).map(Mutex::new).collect();
    pool.run(
        parts.len(),
        || (),
        |(), part| {
            held(&parts[part]).fill(0.0);
            Ok(())
        },
    )?;
    drop(parts);
    Ok(buffer)
}

/// What one job has alone.
fn held<T>(part: &Mutex<T>) -> MutexGuard<'_, T> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}
