//! What the tests of all engines share: random data in memory, requests, and everything that a run yields held against
//! the oracle.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::ops::Range;
use std::sync::Mutex;

use ndarray::Array2;
use proptest::prelude::*;

use super::{EngineError, MultiTauRequest, Observer, Request, TwoTimeRequest};
use crate::correlate::bins::{Labels, Partition, Shape};
use crate::correlate::oracle;
use crate::correlate::result::{Correlation, MapRows, MultiTau, PixelG2, TwoTimeMap};
use crate::correlate::twotime::Smoothing;
use crate::correlate::window::FrameWindow;
use crate::dataset::{DatasetError, EventSource, FrameSource, PhotonEvent, PixelType, ResultSink, Scratch, SourceInfo};
use crate::task::correlate::{Normalization, PixelG2Output, SaturatedPolicy};

/// Image of most tests.
pub(super) const SHAPE: Shape = Shape { rows: 200, cols: 41 };

/// Frames in memory, as events or as dense frames.
#[derive(Clone)]
pub(super) struct Data {
    pub(super) info: SourceInfo,
    pub(super) pixel: PixelType,
    pub(super) values: Vec<f64>,
    pub(super) per_chunk: usize,
}

impl Data {
    pub(super) fn new(pixel: PixelType, frames: usize, value: impl Fn(usize, usize) -> f64) -> Self {
        Self::of(SHAPE, pixel, frames, value)
    }

    pub(super) fn of(shape: Shape, pixel: PixelType, frames: usize, value: impl Fn(usize, usize) -> f64) -> Self {
        let pixels = shape.pixels();
        let values = (0..frames * pixels).map(|i| value(i / pixels, i % pixels)).collect();
        let info = SourceInfo { format: "memory".into(), files: Vec::new(), bytes: 0, shape, frames: frames as u64 };
        Self { info, pixel, values, per_chunk: 3 }
    }

    pub(super) fn array(&self) -> Array2<f64> {
        Array2::from_shape_vec((self.info.frames as usize, self.info.shape.pixels()), self.values.clone())
            .expect("shape")
    }

    pub(super) fn range(&self, frames: Range<u64>) -> &[f64] {
        let pixels = self.info.shape.pixels();
        &self.values[frames.start as usize * pixels..frames.end as usize * pixels]
    }
}

impl FrameSource for Data {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn pixel_type(&self) -> PixelType {
        self.pixel
    }

    fn marks_saturation(&self) -> bool {
        true
    }

    fn frames_per_chunk(&self) -> usize {
        self.per_chunk
    }

    fn read_frames(&self, frames: Range<u64>, _: &mut Scratch, out: &mut [u8]) -> Result<(), DatasetError> {
        let bytes: Vec<u8> = self
            .range(frames)
            .iter()
            .flat_map(|&v| match self.pixel {
                PixelType::U8 => vec![v as u8],
                PixelType::U16 => (v as u16).to_ne_bytes().to_vec(),
                PixelType::U32 => (v as u32).to_ne_bytes().to_vec(),
                PixelType::I16 => (v as i16).to_ne_bytes().to_vec(),
                PixelType::I32 => (v as i32).to_ne_bytes().to_vec(),
                PixelType::F32 => (v as f32).to_ne_bytes().to_vec(),
            })
            .collect();
        out.copy_from_slice(&bytes);
        Ok(())
    }
}

/// The same as events.
pub(super) struct DataEvents(pub(super) Data);

impl EventSource for DataEvents {
    fn info(&self) -> &SourceInfo {
        &self.0.info
    }

    fn events_bound(&self) -> u64 {
        self.0.values.iter().filter(|v| **v > 0.0).count() as u64 * 2
    }

    fn blocks(&self) -> usize {
        self.0.info.frames.div_ceil(7) as usize
    }

    fn read_block(&self, block: usize, _: &mut Scratch, out: &mut Vec<PhotonEvent>) -> Result<(), DatasetError> {
        out.clear();
        for frame in block as u64 * 7..self.0.info.frames.min(block as u64 * 7 + 7) {
            for (pixel, &count) in self.0.range(frame..frame + 1).iter().enumerate() {
                // every other count comes in two events, which add
                let (first, second) =
                    if pixel % 2 == 0 { (count as u16, 0) } else { (1, (count - 1.0).max(0.0) as u16) };
                if count > 0.0 {
                    out.push(PhotonEvent::new(frame as u32, pixel as u32, first));
                    out.push(PhotonEvent::new(frame as u32, pixel as u32, second));
                }
            }
        }
        Ok(())
    }
}

/// Size of the dynamic bins; a third of it is a static bin.
#[derive(Debug, Clone, Copy)]
pub(super) enum Bins {
    /// 60 pixels.
    Small,
    /// 2400 pixels, which float32 is good enough for where data are faint.
    Large,
}

/// Rings of bins, some pixels masked out, some without a bin, some blemished.
pub(super) fn labels(seed: u64, bins: Bins) -> Labels {
    labels_of(SHAPE, seed, bins)
}

pub(super) fn labels_of(shape: Shape, seed: u64, bins: Bins) -> Labels {
    let pixels_per_bin = match bins {
        Bins::Small => 60,
        Bins::Large => 2400,
    };
    let of = |modulus: u64, pixel: usize| noise(seed, 0, pixel) % modulus;
    let pixels = 0..shape.pixels();
    Labels {
        shape,
        mask: pixels.clone().map(|p| of(6, p) != 0).collect(),
        blemish: pixels.clone().map(|p| of(19, p) != 1).collect(),
        dynamic_labels: pixels.clone().map(|p| (p / pixels_per_bin) as u32).collect(),
        static_labels: pixels.map(|p| if of(23, p) == 2 { 0 } else { (p * 3 / pixels_per_bin) as u32 + 1 }).collect(),
    }
}

pub(super) fn noise(seed: u64, frame: usize, pixel: usize) -> u64 {
    let x = (seed << 40) ^ ((frame as u64) << 20) ^ pixel as u64;
    let x = (x ^ (x >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (x ^ (x >> 32)) >> 8
}

/// Correlated counts with the given chance of a photon; frame 3 is empty.
pub(super) fn counts(seed: u64, occupancy: f64, bright: u64) -> impl Fn(usize, usize) -> f64 {
    move |frame, pixel| {
        let chance = (noise(seed, frame, pixel) % 10_000) as f64 / 10_000.0;
        if frame == 3 || chance >= occupancy { 0.0 } else { (1 + noise(seed, frame / 5, pixel) % bright) as f64 }
    }
}

pub(super) fn request(frames: usize, window: FrameWindow, seed: u64) -> Request {
    Request {
        selection: window.select(frames as u64).expect("frames"),
        labels: labels(seed, Bins::Small),
        multi_tau: Some(MultiTauRequest {
            normalization: Normalization::FrameMean,
            parts: 0,
            pixel_g2: PixelG2Output::Keep,
        }),
        two_time: Some(TwoTimeRequest { smoothing: Smoothing::StaticBins, labels: vec![1, 3] }),
        saturated: SaturatedPolicy::Mask,
        memory: 1 << 30,
    }
}

/// What a run yields.
pub(super) type Outcome = Result<(Correlation, Partition, Stored), EngineError>;

/// A sink in memory, which insists on the order of what comes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Stored {
    /// Rows that must come together.
    pub(super) together: usize,
    pub(super) maps: Vec<TwoTimeMap>,
    /// How many times rows came.
    pub(super) bands: usize,
    /// Of each pixel (delay, channel).
    pub(super) pixels: BTreeMap<u32, Vec<f32>>,
}

impl Default for Stored {
    fn default() -> Self {
        Self { together: 7, maps: Vec::new(), bands: 0, pixels: BTreeMap::new() }
    }
}

impl ResultSink for Stored {
    fn rows_together(&self, _: usize) -> usize {
        self.together
    }

    fn map_rows(&mut self, MapRows { label, first, values }: MapRows<'_>) -> Result<(), DatasetError> {
        self.bands += 1;
        if first == 0 {
            assert!(self.maps.iter().all(|map| map.label < label && map.values.is_square()), "before {label}");
            self.maps.push(TwoTimeMap { label, values: Array2::zeros((0, values.ncols())) });
        }
        let map = self.maps.last_mut().expect("the first rows came first");
        assert_eq!((label, first), (map.label, map.values.nrows()), "the next rows");
        map.values.append(ndarray::Axis(0), values).expect("rows of the same length");
        assert!(map.values.is_square() || map.values.nrows().is_multiple_of(self.together));
        Ok(())
    }

    fn pixel_g2(&mut self, PixelG2 { pixels, values }: PixelG2<'_>) -> Result<(), DatasetError> {
        for (index, &pixel) in pixels.iter().enumerate() {
            let own = values.index_axis(ndarray::Axis(2), index).iter().copied().collect();
            assert!(self.pixels.insert(pixel, own).is_none(), "pixel {pixel} comes twice");
        }
        Ok(())
    }
}

/// Steps, their units, and what was done of each.
#[derive(Default)]
pub(super) struct Steps(Mutex<Vec<(&'static str, u64, u64)>>);

impl Steps {
    pub(super) fn into_inner(self) -> Vec<(&'static str, u64, u64)> {
        self.0.into_inner().expect("no panic")
    }
}

impl Observer for Steps {
    fn step(&self, name: &'static str, units: u64) {
        self.0.lock().expect("no panic").push((name, units, 0));
    }

    fn advance(&self, units: u64) {
        self.0.lock().expect("no panic").last_mut().expect("a step").2 += units;
    }

    fn cancelled(&self) -> bool {
        false
    }
}

pub(super) fn close(what: &str, found: impl IntoIterator<Item = f64>, wanted: impl IntoIterator<Item = f64>) {
    close_or(1e-12, what, found, wanted);
}

/// Equal to 1e-6 of the value or, where rounding remains of numbers that cancel, to `rest`.
pub(super) fn close_or(
    rest: f64,
    what: &str,
    found: impl IntoIterator<Item = f64>,
    wanted: impl IntoIterator<Item = f64>,
) {
    let (found, wanted): (Vec<f64>, Vec<f64>) = (found.into_iter().collect(), wanted.into_iter().collect());
    assert_eq!(found.len(), wanted.len(), "{what}: number of values");
    for (k, (a, b)) in std::iter::zip(found, wanted).enumerate() {
        let same = (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-6 * b.abs() + rest;
        assert!(same, "{what}[{k}]: {a} instead of {b}");
    }
}

pub(super) fn check_multi_tau(what: &str, found: &MultiTau, wanted: &MultiTau) {
    assert_eq!(found.delays, wanted.delays);
    close(&format!("{what} g2"), found.g2.iter().copied(), wanted.g2.iter().copied());
    // an error bar is a spread of float32 products around g2 = 1; where it should be 0, their rounding is left
    close_or(1e-8, &format!("{what} g2_err"), found.g2_err.iter().copied(), wanted.g2_err.iter().copied());
}

/// Everything that a run yields against the oracle.
pub(super) fn check(data: &Data, request: &Request, outcome: Outcome) {
    let (found, partition, stored) = outcome.expect("the engine succeeds");
    let frames = oracle::select(data.array().view(), &request.selection);
    let scattering = oracle::scattering(&frames, &partition);
    close("1d", found.scattering.bins, scattering.bins);
    close("segments", found.scattering.segments, scattering.segments);
    close("intensity", found.scattering.intensity, scattering.intensity);
    close("2d", found.scattering.image, scattering.image);
    if let Some(wanted) = request.multi_tau {
        let series = match wanted.normalization {
            Normalization::FrameMean => oracle::normalize(&frames, &partition),
            Normalization::None => frames.clone(),
        };
        check_multi_tau("whole", &found.multi_tau.expect("asked for"), &oracle::multi_tau(&series, &partition));
        let parts = if wanted.parts > 1 { wanted.parts as usize } else { 0 };
        assert_eq!(found.parts.len(), parts);
        for (k, part) in found.parts.iter().enumerate() {
            let length = series.nrows() / parts;
            let rows = series.slice(ndarray::s![k * length..(k + 1) * length, ..]).to_owned();
            check_multi_tau(&format!("part {k}"), part, &oracle::multi_tau(&rows, &partition));
        }
        if wanted.pixel_g2 == PixelG2Output::Keep {
            let expected = oracle::pixel_correlations(&series, &partition);
            assert!(stored.pixels.keys().eq(partition.pixels()), "all pixels, no others");
            for (rank, values) in stored.pixels.values().enumerate() {
                let wanted = expected.index_axis(ndarray::Axis(2), rank);
                close("pixel G2", values.iter().map(|&v| f64::from(v)), wanted.iter().copied());
            }
        } else {
            assert!(stored.pixels.is_empty(), "not asked for");
        }
    }
    if let Some(wanted) = &request.two_time {
        let (two_time, expected) = oracle::two_time(&frames, &partition, wanted.smoothing, &wanted.labels);
        let result = found.two_time.expect("asked for");
        close("two-time g2", result.g2, two_time.g2);
        close("two-time segments", result.g2_segments, two_time.g2_segments);
        assert_eq!(stored.maps.iter().map(|m| m.label).collect::<Vec<_>>(), wanted.labels);
        for (map, expected) in std::iter::zip(&stored.maps, &expected) {
            let wide = |m: &TwoTimeMap| m.values.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
            close("two-time map", wide(map), wide(expected));
        }
    }
}

pub(super) fn window() -> impl Strategy<Value = FrameWindow> {
    (-40i64..20, -20i64..3, 1u32..4, 1u32..4).prop_map(|(begin, end, stride, avg)| FrameWindow {
        begin: if begin < -20 { begin - 100 } else { begin.max(0) },
        end: if end > 0 { 1000 } else { end },
        stride: NonZeroU32::new(stride).expect("not zero"),
        avg: NonZeroU32::new(avg).expect("not zero"),
    })
}

pub(super) fn smoothing() -> impl Strategy<Value = Smoothing> {
    prop_oneof![Just(Smoothing::StaticBins), Just(Smoothing::DynamicBins), Just(Smoothing::None)]
}

pub(super) fn normalization() -> impl Strategy<Value = Normalization> {
    prop_oneof![Just(Normalization::FrameMean), Just(Normalization::None)]
}
