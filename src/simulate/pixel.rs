//! Photons of a block of neighbouring pixels, window by window.
//!
//! A faint pixel is visited only in frames that may hold a photon: candidates arrive at its rate times a bound
//! of the intensity and are accepted in proportion to the intensity, so that cost follows photons. A bright
//! pixel is visited in every frame.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Poisson};

use super::layout::Layout;
use super::speckle::{Modes, Step};
use super::stream::Photon;

/// Candidates a frame above which skipping frames no longer pays.
const BRIGHT: f32 = 0.7;

/// Mean above which a Poisson number is drawn by rejection instead of adding up probabilities.
const LARGE_MEAN: f32 = 12.0;

/// Speckles of a scene.
#[derive(Debug)]
pub(super) struct Speckles {
    modes: Modes,
    tau: Vec<f64>,
    single: Vec<Step>,
}

/// Pixels that share a random stream.
#[derive(Debug)]
pub(super) struct Block {
    random: ChaCha8Rng,
    pixels: Vec<Pixel>,
    field: Vec<f32>,
}

/// Photons of a block in a window, by frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    starts: Vec<u32>,
    photons: Vec<Photon>,
}

#[derive(Debug)]
struct Pixel {
    index: u32,
    /// Frame of the next visit.
    next: u32,
    /// Frame that the field belongs to.
    last: u32,
    rate: f32,
    /// Dynamic label - 1 and place of the field, for pixels with speckles.
    speckle: Option<(u32, u32)>,
}

impl Speckles {
    /// Speckles of `contrast` with the relaxation time of each dynamic label.
    pub(super) fn new(contrast: f64, tau: &[f64]) -> Self {
        let single = tau.iter().map(|&t| Step::new(1, t)).collect();
        Self { modes: Modes::new(contrast), tau: tau.to_vec(), single }
    }

    fn step(&self, bin: u32, frames: u32) -> Step {
        let bin = bin as usize;
        if frames == 1 { self.single[bin] } else { Step::new(frames, self.tau[bin]) }
    }
}

impl Block {
    /// The pixels `indices` at frame 0.
    pub(super) fn new(
        indices: std::ops::Range<u32>,
        layout: &Layout,
        speckles: Option<&Speckles>,
        random: ChaCha8Rng,
    ) -> Self {
        let mut block = Self { random, pixels: Vec::new(), field: Vec::new() };
        for index in indices {
            let rate = layout.rates[index as usize];
            if rate > 0.0 {
                block.push(index, rate, layout.labels.dynamic_labels[index as usize], speckles);
            }
        }
        block
    }

    fn push(&mut self, index: u32, rate: f32, label: u32, speckles: Option<&Speckles>) {
        let mut pixel = Pixel { index, next: 0, last: 0, rate, speckle: None };
        let mut bound = 1.0;
        if let (Some(speckles), Some(bin)) = (speckles, label.checked_sub(1)) {
            let place = self.field.len();
            self.field.resize(place + speckles.modes.field_len(), 0.0);
            speckles.modes.start(&mut self.field[place..], &mut self.random);
            pixel.speckle = Some((bin, place as u32));
            bound = speckles.modes.bound();
        }
        pixel.next = gap(rate * bound, &mut self.random);
        self.pixels.push(pixel);
    }

    /// Photons of the frames from `first` on, one for each entry of `empty`; none where that is true.
    pub(super) fn window(&mut self, first: u32, empty: &[bool], speckles: Option<&Speckles>) -> Part {
        let end = first + empty.len() as u32;
        let mut hits: Vec<(u32, Photon)> = Vec::new();
        for pixel in &mut self.pixels {
            while pixel.next < end {
                let frame = pixel.next;
                let (intensity, bound) = match (pixel.speckle, speckles) {
                    (Some((bin, place)), Some(speckles)) => {
                        let field = &mut self.field[place as usize..place as usize + speckles.modes.field_len()];
                        let step = speckles.step(bin, frame - pixel.last);
                        (speckles.modes.advance(field, step, &mut self.random), speckles.modes.bound())
                    }
                    _ => (1.0, 1.0),
                };
                pixel.last = frame;
                let count = visit(pixel.rate, intensity, bound, &mut self.random);
                if count > 0 && !empty[(frame - first) as usize] {
                    hits.push((frame - first, Photon { pixel: pixel.index, count }));
                }
                pixel.next = (frame + 1).saturating_add(gap(pixel.rate * bound, &mut self.random));
            }
        }
        Part::sort(&hits, empty.len())
    }
}

impl Part {
    /// Photons of a frame of the window, in ascending pixels.
    pub(super) fn frame(&self, frame: usize) -> &[Photon] {
        &self.photons[self.starts[frame] as usize..self.starts[frame + 1] as usize]
    }

    /// Counting sort by frame; pixels stay in order.
    fn sort(hits: &[(u32, Photon)], frames: usize) -> Self {
        let mut starts = vec![0u32; frames + 1];
        hits.iter().for_each(|(frame, _)| starts[*frame as usize + 1] += 1);
        for frame in 0..frames {
            starts[frame + 1] += starts[frame];
        }
        let mut place = starts.clone();
        let mut photons = vec![Photon { pixel: 0, count: 0 }; hits.len()];
        for (frame, photon) in hits {
            let slot = &mut place[*frame as usize];
            photons[*slot as usize] = *photon;
            *slot += 1;
        }
        Self { starts, photons }
    }
}

/// Frames to skip before the next visit, at `mean` candidates a frame.
fn gap(mean: f32, random: &mut ChaCha8Rng) -> u32 {
    if mean > BRIGHT {
        return 0;
    }
    let uniform: f64 = random.random();
    // The cast saturates: a pixel that is never visited again.
    ((1.0 - uniform).ln() / -f64::from(mean)) as u32
}

/// Counts of a visited frame.
fn visit(rate: f32, intensity: f32, bound: f32, random: &mut ChaCha8Rng) -> u32 {
    if rate * bound > BRIGHT {
        return poisson(rate * intensity, 0.0, random);
    }
    // The visit implies at least one candidate: skip the probability of none.
    let mean = rate * bound;
    let none = (-mean).exp();
    let candidates = poisson(mean, none, random);
    if intensity >= bound {
        return candidates;
    }
    (0..candidates).filter(|_| random.random::<f32>() * bound < intensity).count() as u32
}

/// A Poisson number, given that the uniform number behind it is not below `low`.
fn poisson(mean: f32, low: f32, random: &mut ChaCha8Rng) -> u32 {
    if mean > LARGE_MEAN {
        return Poisson::new(mean).map_or(0, |law| law.sample(random) as u32);
    }
    let mut left = f64::from(low) + (1.0 - f64::from(low)) * random.random::<f64>();
    let mut probability = f64::from(-mean).exp();
    let mut count = 0;
    while left >= probability && probability > 0.0 {
        left -= probability;
        count += 1;
        probability *= f64::from(mean) / f64::from(count);
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::stream::random;

    fn moments(draw: impl FnMut(u32) -> u32) -> (f64, f64) {
        let draws: Vec<f64> = (0..200_000).map(draw).map(f64::from).collect();
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        (mean, draws.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / draws.len() as f64)
    }

    #[test]
    fn poisson_numbers_have_their_mean_and_variance() {
        let mut random = random(3, 0);
        for mean in [0.003, 0.5, 3.0, 11.9, 12.1, 200.0] {
            let (m, v) = moments(|_| poisson(mean, 0.0, &mut random));
            let error = f64::from(mean).sqrt() / 447.0;
            assert!((m - f64::from(mean)).abs() < 5.0 * error, "mean {m} of {mean}");
            assert!((v / m - 1.0).abs() < 0.02 + 5.0 * error / f64::from(mean), "variance {v} of {mean}");
        }
    }

    #[test]
    fn gaps_and_visits_make_the_rate() {
        let mut random = random(4, 0);
        for (rate, intensity, bound) in [(0.02, 0.5, 6.0), (0.1, 3.0, 6.0), (0.6, 1.0, 1.0)] {
            let (mut frames, mut counts) = (0u64, 0u64);
            while frames < 400_000 {
                frames += 1 + u64::from(gap(rate * bound, &mut random));
                counts += u64::from(visit(rate, intensity, bound, &mut random));
            }
            let expected = f64::from(rate * intensity) * frames as f64;
            assert!((counts as f64 - expected).abs() < 5.0 * expected.sqrt(), "{counts} {expected}");
        }
    }

    #[test]
    fn sorting_keeps_the_order_of_pixels() {
        let hit = |frame, pixel| (frame, Photon { pixel, count: 1 });
        let part = Part::sort(&[hit(2, 1), hit(0, 5), hit(2, 7), hit(0, 8)], 3);
        let pixels: Vec<Vec<u32>> = (0..3).map(|f| part.frame(f).iter().map(|p| p.pixel).collect()).collect();
        assert_eq!(pixels, [vec![5, 8], vec![], vec![1, 7]]);
    }
}
