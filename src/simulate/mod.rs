//! A scattering experiment whose answer is known: what is to be simulated, checked as a whole.
//!
//! Pure: numbers in, photons out; no files, no clock. [`Scene`] says what, [`Layout`] places bins, brightness
//! and relaxation times on the pixels, [`Simulation`] yields the photons in the order of frames.

use std::num::NonZeroUsize;

use thiserror::Error;

use crate::correlate::bins::Shape;

mod layout;
mod optics;
mod pixel;
mod speckle;
mod stream;

pub use layout::{BinAxes, Layout, Saturation};
pub use optics::{Modules, SceneGeometry};
pub use stream::{Photon, Simulation, Window, counts};

/// The most frames of a simulation.
pub const MAX_FRAMES: u64 = u32::MAX as u64;
/// The largest mean counts of a pixel in a frame.
pub const MAX_COUNTS: f64 = 1e6;

/// All parameters of a simulated measurement. Equal scenes yield equal photons, whatever the number of threads.
#[derive(Debug, Clone, PartialEq)]
pub struct Scene {
    /// The image, of all modules and the gaps between them.
    pub shape: Shape,
    /// Module grid; None = every pixel is sensitive.
    pub modules: Option<Modules>,
    /// Detector position and photon energy.
    pub geometry: SceneGeometry,
    /// Number of frames.
    pub frames: u64,
    /// Seconds between the starts of two frames.
    pub frame_time: f64,
    /// Mean counts of a masked-in pixel in a frame.
    pub counts: f64,
    /// p of the intensity profile q^-p; 0 = flat.
    pub profile: f64,
    /// How speckles move.
    pub dynamics: Dynamics,
    /// Mask and bins.
    pub bins: Binning,
    /// Masked-in pixels that never count.
    pub dead: usize,
    /// Frames without any counts.
    pub empty_frames: Vec<u64>,
    /// Seed of all random numbers.
    pub seed: u64,
}

/// How speckles move.
#[derive(Debug, Clone, PartialEq)]
pub enum Dynamics {
    /// No speckles: every pixel counts at a constant rate, g2 = 1.
    Steady,
    /// Speckles that relax: g2(t) = 1 + contrast * exp(-2 t / tau).
    Relaxing {
        /// Speckle contrast beta, in (0, 1].
        contrast: f64,
        /// Relaxation time of the field for each dynamic q ring.
        tau: Relaxation,
    },
}

/// Relaxation times of the scattered field, in frames.
#[derive(Debug, Clone, PartialEq)]
pub enum Relaxation {
    /// `slowest * (q / q_min)^-exponent`.
    PowerLaw {
        /// The time in the first dynamic q ring, in frames.
        slowest: f64,
        /// 2 for free diffusion.
        exponent: f64,
    },
    /// A time, in frames, for each dynamic q ring from the inside out.
    Each(Vec<f64>),
}

/// Mask and bins: an annulus around the beam, cut into rings and sectors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Binning {
    /// Static q rings, a multiple of the dynamic ones.
    pub static_q: NonZeroUsize,
    /// Dynamic q rings.
    pub dynamic_q: NonZeroUsize,
    /// Sectors in phi, of static and dynamic bins.
    pub phi: NonZeroUsize,
    /// Fraction of the image's pixels that the annulus holds, in (0, 1].
    pub mask_fraction: f64,
}

/// A scene that makes no sense.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum SceneError {
    /// A number outside its range.
    #[error("{what} is {value}, it must be {range}")]
    Range {
        /// Which parameter.
        what: &'static str,
        /// As given.
        value: f64,
        /// The range in words.
        range: &'static str,
    },
    /// A list of relaxation times of the wrong length.
    #[error("{given} relaxation times for {rings} dynamic q rings; give one for each, or a single one")]
    Times {
        /// How many are given.
        given: usize,
        /// How many are needed.
        rings: usize,
    },
    /// Static rings that do not fill dynamic rings evenly.
    #[error("{static_q} static q rings cannot be shared evenly by {dynamic_q} dynamic ones; take a multiple")]
    Uneven {
        /// Static rings.
        static_q: usize,
        /// Dynamic rings.
        dynamic_q: usize,
    },
    /// More bins than the mask has pixels.
    #[error("{bins} static bins for {pixels} masked-in pixels; take fewer bins or a larger mask")]
    Bins {
        /// Static rings times sectors.
        bins: usize,
        /// Pixels in the mask.
        pixels: usize,
    },
    /// More dead pixels than the mask can lose.
    #[error("{dead} dead pixels leave too little of {pixels} masked-in ones; at most half may be dead")]
    Dead {
        /// Dead pixels.
        dead: usize,
        /// Pixels in the mask.
        pixels: usize,
    },
    /// An empty frame that is not in the series.
    #[error("frame {frame} cannot be empty: the series has only {frames} frames, numbered from 0")]
    EmptyFrame {
        /// The frame.
        frame: u64,
        /// Length of the series.
        frames: u64,
    },
}

impl Scene {
    /// A small scene that a test or a demonstration starts from: about a count a pixel, contrast 0.2, relaxation
    /// times of 10 frames and less in 4 dynamic rings of 3 static ones each, half of the image masked in.
    pub fn new(shape: Shape, frames: u64) -> Self {
        const FOUR: NonZeroUsize = NonZeroUsize::MIN.saturating_add(3);
        const TWELVE: NonZeroUsize = NonZeroUsize::MIN.saturating_add(11);
        Self {
            shape,
            modules: None,
            geometry: SceneGeometry::centred(shape),
            frames,
            frame_time: 1e-3,
            counts: 1.0,
            profile: 0.0,
            dynamics: Dynamics::Relaxing { contrast: 0.2, tau: Relaxation::PowerLaw { slowest: 10.0, exponent: 2.0 } },
            bins: Binning { static_q: TWELVE, dynamic_q: FOUR, phi: NonZeroUsize::MIN, mask_fraction: 0.5 },
            dead: 0,
            empty_frames: Vec::new(),
            seed: 1,
        }
    }

    /// Checks every parameter that can be checked alone.
    ///
    /// # Errors
    /// The first parameter that makes no sense.
    pub fn check(&self) -> Result<(), SceneError> {
        let positive = "a positive number";
        within("the number of rows", self.shape.rows as f64, 1.0..=65_535.0, "1 to 65535")?;
        within("the number of columns", self.shape.cols as f64, 1.0..=65_535.0, "1 to 65535")?;
        within("the number of frames", self.frames as f64, 1.0..=MAX_FRAMES as f64, "1 to 4294967295")?;
        within("the frame time", self.frame_time, f64::MIN_POSITIVE..=f64::MAX, positive)?;
        within("the mean counts", self.counts, f64::MIN_POSITIVE..=MAX_COUNTS, "above 0 and at most 1e6")?;
        within("the exponent of the intensity profile", self.profile, -10.0..=10.0, "-10 to 10")?;
        within("the mask fraction", self.bins.mask_fraction, f64::MIN_POSITIVE..=1.0, "above 0 and at most 1")?;
        within("the pixel size", self.geometry.pixel_size, f64::MIN_POSITIVE..=1.0, positive)?;
        within("the detector distance", self.geometry.distance, f64::MIN_POSITIVE..=1e6, positive)?;
        within("the photon energy", self.geometry.energy, f64::MIN_POSITIVE..=1e4, "a positive number of keV")?;
        within("the beam row", self.geometry.beam_row, -1e6..=1e6, "a finite number of pixels")?;
        within("the beam column", self.geometry.beam_col, -1e6..=1e6, "a finite number of pixels")?;
        if let Some(&frame) = self.empty_frames.iter().find(|&&f| f >= self.frames) {
            return Err(SceneError::EmptyFrame { frame, frames: self.frames });
        }
        let (static_q, dynamic_q) = (self.bins.static_q.get(), self.bins.dynamic_q.get());
        if !static_q.is_multiple_of(dynamic_q) {
            return Err(SceneError::Uneven { static_q, dynamic_q });
        }
        self.check_dynamics()
    }

    fn check_dynamics(&self) -> Result<(), SceneError> {
        let Dynamics::Relaxing { contrast, tau } = &self.dynamics else { return Ok(()) };
        // Contrast 1/n needs n modes in every pixel.
        within("the contrast", *contrast, 0.001..=1.0, "0.001 to 1 (use steady dynamics for none)")?;
        let positive = "a positive number of frames";
        match tau {
            Relaxation::PowerLaw { slowest, exponent } => {
                within("the relaxation time", *slowest, f64::MIN_POSITIVE..=1e12, positive)?;
                within("the exponent of the relaxation time", *exponent, -10.0..=10.0, "-10 to 10")
            }
            Relaxation::Each(times) => {
                let rings = self.bins.dynamic_q.get();
                if times.len() != rings {
                    return Err(SceneError::Times { given: times.len(), rings });
                }
                times.iter().try_for_each(|&t| within("a relaxation time", t, f64::MIN_POSITIVE..=1e12, positive))
            }
        }
    }
}

fn within(
    what: &'static str,
    value: f64,
    range: std::ops::RangeInclusive<f64>,
    words: &'static str,
) -> Result<(), SceneError> {
    if range.contains(&value) { Ok(()) } else { Err(SceneError::Range { what, value, range: words }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_named() {
        let good = Scene::new(Shape { rows: 8, cols: 8 }, 10);
        assert_eq!(good.check(), Ok(()));
        let relaxing = |contrast, tau| Dynamics::Relaxing { contrast, tau };
        let slow = Relaxation::PowerLaw { slowest: 1.0, exponent: 2.0 };
        let cases = [
            (Scene { frames: 0, ..good.clone() }, "the number of frames is 0"),
            (Scene { counts: f64::NAN, ..good.clone() }, "the mean counts is NaN"),
            (Scene { dynamics: relaxing(1.5, slow.clone()), ..good.clone() }, "the contrast is 1.5"),
            (Scene { dynamics: relaxing(0.0, slow), ..good.clone() }, "the contrast is 0"),
            (
                Scene { dynamics: relaxing(0.1, Relaxation::Each(vec![1.0])), ..good.clone() },
                "1 relaxation times for 4",
            ),
            (Scene { empty_frames: vec![10], ..good.clone() }, "frame 10 cannot be empty"),
            (
                Scene { bins: Binning { static_q: NonZeroUsize::MIN, ..good.bins }, ..good.clone() },
                "1 static q rings cannot be shared",
            ),
        ];
        for (scene, message) in cases {
            let error = scene.check().expect_err(message).to_string();
            assert!(error.starts_with(message), "{error}");
        }
    }
}
