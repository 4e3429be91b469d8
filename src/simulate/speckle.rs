//! The fluctuating intensity of a pixel: independent modes, each a complex Ornstein-Uhlenbeck process.
//!
//! A mode's field has the intermediate scattering function `exp(-t / tau)`, the intensity is a weighted mean
//! of the modes' squares with the weights' squares summing to the contrast beta, so that exactly
//! `g2(t) = 1 + beta * exp(-2 t / tau)`.

use rand::Rng;
use rand_distr::StandardNormal;

/// Exponent of the chance that an intensity exceeds [`Modes::bound`]: it does so once in e^16 = 9 million visits.
const BOUND_EXPONENT: f64 = 16.0;

/// The modes that make up a contrast.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Modes {
    weights: Vec<f32>,
    bound: f32,
}

/// How far the field of a mode moves in some time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Step {
    forget: f32,
    renew: f32,
}

impl Modes {
    /// As few modes as make `contrast`, in (0, 1]: n equal ones and, unless it is 1/n, a weaker one.
    pub(super) fn new(contrast: f64) -> Self {
        let n = (1.0 / contrast + 1e-9).floor();
        // n w + v = 1 and n w^2 + v^2 = contrast
        let root = (1.0 - (1.0 + 1.0 / n) * (1.0 - contrast)).max(0.0).sqrt();
        let (w, v) = ((1.0 + root) / (n + 1.0), (1.0 - n * root) / (n + 1.0));
        let mut weights = vec![w as f32; n as usize];
        if v > 1e-6 {
            weights.push(v as f32);
        }
        // Bernstein's bound for a weighted sum of exponential variables with variance `contrast`, scale `w`.
        let bound = 1.0 + (2.0 * contrast * BOUND_EXPONENT).sqrt() + w * BOUND_EXPONENT;
        Self { weights, bound: bound as f32 }
    }

    /// Numbers that hold the field of a pixel.
    pub(super) fn field_len(&self) -> usize {
        2 * self.weights.len()
    }

    /// An intensity that is practically never exceeded; the mean is 1.
    pub(super) fn bound(&self) -> f32 {
        self.bound
    }

    /// Fills `field` with the stationary distribution.
    pub(super) fn start(&self, field: &mut [f32], random: &mut impl Rng) {
        self.advance(field, Step { forget: 1.0, renew: std::f32::consts::FRAC_1_SQRT_2 }, random);
    }

    /// Moves the field and returns the intensity.
    #[inline]
    pub(super) fn advance(&self, field: &mut [f32], step: Step, random: &mut impl Rng) -> f32 {
        let mut intensity = 0.0;
        for (mode, weight) in field.chunks_exact_mut(2).zip(&self.weights) {
            for part in mode.iter_mut() {
                let noise: f32 = random.sample(StandardNormal);
                *part += step.renew * noise - step.forget * *part;
            }
            intensity += weight * (mode[0] * mode[0] + mode[1] * mode[1]);
        }
        intensity
    }
}

impl Step {
    /// The step over `frames` frames at a relaxation time of `tau` frames.
    #[inline]
    pub(super) fn new(frames: u32, tau: f64) -> Self {
        let x = -f64::from(frames) / tau;
        Self { forget: -x.exp_m1() as f32, renew: (-0.5 * (2.0 * x).exp_m1()).sqrt() as f32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::stream::random;

    #[test]
    fn weights_make_the_contrast() {
        for contrast in [1.0, 0.99, 0.5, 0.4, 1.0 / 3.0, 0.2, 0.17, 0.05, 0.001] {
            let modes = Modes::new(contrast);
            let sum: f64 = modes.weights.iter().map(|&w| f64::from(w)).sum();
            let squares: f64 = modes.weights.iter().map(|&w| f64::from(w).powi(2)).sum();
            assert!((sum - 1.0).abs() < 1e-5 && (squares / contrast - 1.0).abs() < 1e-4, "{contrast}: {modes:?}");
            assert_eq!(modes.weights.len(), (1.0 / contrast - 1e-9).ceil() as usize, "{contrast}");
        }
    }

    #[test]
    fn intensity_has_the_g2_of_the_contrast_and_time() {
        let (contrast, tau, lag) = (0.4, 3.0, 2);
        let modes = Modes::new(contrast);
        let mut random = random(5, 0);
        let (mut mean, mut square, mut product) = (0.0, 0.0, 0.0);
        let runs = 100_000;
        let mut field = vec![0.0; modes.field_len()];
        for _ in 0..runs {
            modes.start(&mut field, &mut random);
            let first = f64::from(modes.advance(&mut field, Step::new(1, tau), &mut random));
            let later = f64::from(modes.advance(&mut field, Step::new(lag, tau), &mut random));
            mean += (first + later) / 2.0 / f64::from(runs);
            square += first * first / f64::from(runs);
            product += first * later / f64::from(runs);
        }
        // Standard errors are about 0.002, 0.009 and 0.006.
        assert!((mean - 1.0).abs() < 0.01, "{mean}");
        assert!((square - 1.0 - contrast).abs() < 0.04, "{square}");
        let expected = 1.0 + contrast * (-2.0 * f64::from(lag) / tau).exp();
        assert!((product - expected).abs() < 0.025, "{product} {expected}");
    }

    #[test]
    fn the_bound_holds() {
        let modes = Modes::new(0.3);
        let mut random = random(6, 0);
        let mut field = vec![0.0; modes.field_len()];
        modes.start(&mut field, &mut random);
        let largest =
            (0..100_000).map(|_| modes.advance(&mut field, Step::new(9, 1.0), &mut random)).fold(0.0, f32::max);
        assert!(largest > 3.0 && largest < modes.bound(), "{largest} {}", modes.bound());
    }
}
