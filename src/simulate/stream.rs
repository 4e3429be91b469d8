//! The photons of a scene in windows of consecutive frames.
//!
//! Blocks of pixels run in parallel, each with its own random stream, so the number of threads changes nothing.
//! Memory: 28 bytes a pixel, 8 bytes a mode of each masked-in pixel with speckles, and a window of about four
//! million photons.

use ndarray::Array2;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::layout::Layout;
use super::pixel::{Block, Part, Speckles};
use super::{Dynamics, Scene};

/// Pixels of a block. Part of what a seed means: another size makes other photons.
const BLOCK: u32 = 2048;

/// Photons that a window is sized for.
const WINDOW_PHOTONS: f64 = 4e6;

/// The most frames of a window, for the tables of frames that each block has.
const WINDOW_FRAMES: f64 = 32_768.0;

/// Counts of a pixel in a frame; never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Photon {
    /// Row * columns + column.
    pub pixel: u32,
    /// Number of photons.
    pub count: u32,
}

/// Consecutive frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    first: u64,
    frames: usize,
    parts: Vec<Part>,
}

/// Yields the windows of a scene, from the first frame to the last.
#[derive(Debug)]
pub struct Simulation<'a> {
    scene: &'a Scene,
    speckles: Option<Speckles>,
    blocks: Vec<Block>,
    next: u64,
    window: u64,
}

impl<'a> Simulation<'a> {
    /// Starts `scene` as laid out by `layout`.
    pub fn new(scene: &'a Scene, layout: &Layout) -> Self {
        let speckles = match &scene.dynamics {
            Dynamics::Steady => None,
            Dynamics::Relaxing { contrast, .. } => Some(Speckles::new(*contrast, &layout.tau)),
        };
        let pixels = scene.shape.pixels() as u32;
        let blocks = (0..pixels.div_ceil(BLOCK))
            .into_par_iter()
            .map(|k| {
                let indices = k * BLOCK..((k + 1) * BLOCK).min(pixels);
                Block::new(indices, layout, speckles.as_ref(), random(scene.seed, u64::from(k)))
            })
            .collect();
        let photons: f64 = layout.rates.iter().map(|&r| -(-f64::from(r)).exp_m1()).sum();
        let window = (WINDOW_PHOTONS / photons).clamp(1.0, WINDOW_FRAMES) as u64;
        Self { scene, speckles, blocks, next: 0, window }
    }
}

impl Iterator for Simulation<'_> {
    type Item = Window;

    fn next(&mut self) -> Option<Window> {
        let frames = self.window.min(self.scene.frames - self.next);
        if frames == 0 {
            return None;
        }
        let first = self.next;
        self.next += frames;
        let mut empty = vec![false; frames as usize];
        for frame in self.scene.empty_frames.iter().filter(|f| (first..self.next).contains(f)) {
            empty[(frame - first) as usize] = true;
        }
        let speckles = self.speckles.as_ref();
        let parts = self.blocks.par_iter_mut().map(|block| block.window(first as u32, &empty, speckles)).collect();
        Some(Window { first, frames: frames as usize, parts })
    }
}

impl Window {
    /// Number of the first frame.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// Number of frames.
    pub fn frames(&self) -> usize {
        self.frames
    }

    /// Photons of the window's `frame`-th frame, in ascending pixels.
    ///
    /// # Panics
    /// If `frame` is not below [`Self::frames`].
    pub fn photons(&self, frame: usize) -> impl Iterator<Item = Photon> {
        assert!(frame < self.frames, "frame {frame} of a window of {}", self.frames);
        self.parts.iter().flat_map(move |part| part.frame(frame).iter().copied())
    }
}

/// All counts of a small scene: (frame, pixel of the whole image).
pub fn counts(scene: &Scene, layout: &Layout) -> Array2<f64> {
    let mut out = Array2::zeros((scene.frames as usize, scene.shape.pixels()));
    for window in Simulation::new(scene, layout) {
        for k in 0..window.frames() {
            for photon in window.photons(k) {
                out[(window.first() as usize + k, photon.pixel as usize)] = f64::from(photon.count);
            }
        }
    }
    out
}

/// A random stream of a seed.
pub(super) fn random(seed: u64, stream: u64) -> ChaCha8Rng {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(stream);
    random
}
