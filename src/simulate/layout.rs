//! Places mask, bins, brightness, relaxation times and dead pixels on the image.

use rand::seq::SliceRandom;

use crate::correlate::bins::{Labels, Shape};

use super::{Binning, Dynamics, Relaxation, Scene, SceneError, stream};

/// Fraction of the pixels nearest to the beam that a beam stop hides.
const BEAM_STOP: f64 = 0.01;

/// Random stream of the dead pixels; the blocks of pixels have the small numbers.
const DEAD_STREAM: u64 = u64::MAX;

/// Whether the raw format can mark a pixel as one without a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Saturation {
    /// It can: half of the dead pixels are left in the mask, for the reader to find.
    Marked,
    /// It cannot: every dead pixel is out of the mask and blemished.
    Unmarked,
}

/// Bin centres of a map and the place of each label on the natural grid.
#[derive(Debug, Clone, PartialEq)]
pub struct BinAxes {
    /// Centre of each ring, in 1/angstrom.
    pub q: Vec<f64>,
    /// Centre of each sector in degrees; a single sector is 0.
    pub phi: Vec<f64>,
    /// `ring * sectors + sector` of each label from 1 upwards, ascending; bins without pixels are left out.
    pub natural: Vec<u32>,
}

/// A scene laid out on the image; all lists of pixels are row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Layout {
    /// Mask, blemish and bins.
    pub labels: Labels,
    /// Axes of the static bins.
    pub static_axes: BinAxes,
    /// Axes of the dynamic bins.
    pub dynamic_axes: BinAxes,
    /// Pixels that never count, ascending.
    pub dead: Vec<u32>,
    /// Mean counts of each pixel in a frame; 0 for dead pixels and gaps.
    pub rates: Vec<f32>,
    /// Relaxation time of the field in each dynamic label, in frames; empty for steady scenes.
    pub tau: Vec<f64>,
}

impl Layout {
    /// Lays `scene` out.
    ///
    /// # Errors
    /// See [`SceneError`]: nonsense parameters, or a mask that is too small for them.
    pub fn new(scene: &Scene, saturation: Saturation) -> Result<Self, SceneError> {
        scene.check()?;
        let shape = scene.shape;
        let q = per_pixel(shape, |row, col| scene.geometry.q(row, col));
        let sensitive = per_pixel(shape, |row, col| scene.modules.is_none_or(|m| m.sensitive(row, col)));
        let (mut mask, range) = annulus(&q, &sensitive, scene.bins.mask_fraction);
        let mut blemish = sensitive;
        let dead = dead_pixels(scene, &mask)?;
        let hidden = if saturation == Saturation::Marked { dead.len() / 2 } else { 0 };
        for &pixel in &dead[hidden..] {
            mask[pixel as usize] = false;
            blemish[pixel as usize] = false;
        }
        let bins = Grid::new(scene, range);
        let (static_labels, static_axes) = bins.label(&q, &mask, scene.bins.static_q.get());
        let (dynamic_labels, dynamic_axes) = bins.label(&q, &mask, scene.bins.dynamic_q.get());
        let mut rates = rates(scene, &q, &mask, static_axes.q[0]);
        for (rate, &good) in rates.iter_mut().zip(&blemish) {
            *rate = if good { *rate } else { 0.0 };
        }
        dead.iter().for_each(|&pixel| rates[pixel as usize] = 0.0);
        let tau = relaxation_times(scene, &dynamic_axes);
        let mut dead = dead;
        dead.sort_unstable();
        let labels = Labels { shape, mask, blemish, dynamic_labels, static_labels };
        Ok(Self { labels, static_axes, dynamic_axes, dead, rates, tau })
    }
}

/// The rings and sectors of a scene.
struct Grid<'a> {
    scene: &'a Scene,
    low: f64,
    high: f64,
}

impl<'a> Grid<'a> {
    fn new(scene: &'a Scene, (low, high): (f64, f64)) -> Self {
        Self { scene, low, high }
    }

    /// Labels of all pixels on a grid of `rings`, numbered from 1 without holes, and its axes.
    fn label(&self, q: &[f64], mask: &[bool], rings: usize) -> (Vec<u32>, BinAxes) {
        let Binning { phi, static_q, .. } = self.scene.bins;
        let sectors = phi.get();
        let per_ring = static_q.get() / rings;
        let natural = |pixel: usize| {
            let (row, col) = self.scene.shape.place(pixel as u32);
            let turn = (self.scene.geometry.phi(row, col) + 180.0) / 360.0;
            let sector = ((turn * sectors as f64) as usize).min(sectors - 1);
            // By way of the static ring, so that rounding never splits one between two dynamic rings.
            let ring = self.ring(q[pixel], static_q.get()) / per_ring;
            ring * sectors + sector
        };
        let places: Vec<Option<usize>> = (0..q.len()).map(|p| mask[p].then(|| natural(p))).collect();
        let mut numbers = vec![0u32; rings * sectors];
        places.iter().flatten().for_each(|&place| numbers[place] = 1);
        let used: Vec<u32> = (0..numbers.len() as u32).filter(|&n| numbers[n as usize] > 0).collect();
        for (k, &place) in used.iter().enumerate() {
            numbers[place as usize] = k as u32 + 1;
        }
        let labels = places.iter().map(|place| place.map_or(0, |n| numbers[n])).collect();
        (labels, BinAxes { q: self.centres(rings), phi: sector_centres(sectors), natural: used })
    }

    fn ring(&self, q: f64, rings: usize) -> usize {
        let width = (self.high - self.low).max(f64::MIN_POSITIVE);
        (((q - self.low) / width * rings as f64) as usize).min(rings - 1)
    }

    fn centres(&self, rings: usize) -> Vec<f64> {
        let width = (self.high - self.low) / rings as f64;
        (0..rings).map(|k| self.low + width * (k as f64 + 0.5)).collect()
    }
}

fn sector_centres(sectors: usize) -> Vec<f64> {
    (0..sectors).map(|k| (k as f64 + 0.5) * 360.0 / sectors as f64 - 180.0).collect()
}

fn per_pixel<T>(shape: Shape, value: impl Fn(usize, usize) -> T) -> Vec<T> {
    (0..shape.rows).flat_map(|row| (0..shape.cols).map(move |col| (row, col))).map(|(r, c)| value(r, c)).collect()
}

/// The sensitive pixels outside the beam stop, nearest first, up to `fraction` of all; and their range of q.
fn annulus(q: &[f64], sensitive: &[bool], fraction: f64) -> (Vec<bool>, (f64, f64)) {
    let mut order: Vec<usize> = (0..q.len()).filter(|&p| sensitive[p]).collect();
    order.sort_by(|&a, &b| q[a].total_cmp(&q[b]));
    let of_all = |part: f64| (part * order.len() as f64).round() as usize;
    let size = of_all(fraction).max(1);
    let hidden = of_all(BEAM_STOP).min(order.len() - size);
    let kept = &order[hidden..hidden + size];
    let mut mask = vec![false; q.len()];
    kept.iter().for_each(|&p| mask[p] = true);
    (mask, (q[kept[0]], q[kept[size - 1]]))
}

/// Masked-in pixels in random order that die; also checks that the mask has room for bins and dead pixels.
fn dead_pixels(scene: &Scene, mask: &[bool]) -> Result<Vec<u32>, SceneError> {
    let mut pixels: Vec<u32> = (0..mask.len() as u32).filter(|&p| mask[p as usize]).collect();
    let bins = scene.bins.static_q.saturating_mul(scene.bins.phi).get();
    if bins > pixels.len() {
        return Err(SceneError::Bins { bins, pixels: pixels.len() });
    }
    if scene.dead > pixels.len() / 2 {
        return Err(SceneError::Dead { dead: scene.dead, pixels: pixels.len() });
    }
    let (dead, _) = pixels.partial_shuffle(&mut stream::random(scene.seed, DEAD_STREAM), scene.dead);
    Ok(dead.to_vec())
}

/// Mean counts of each pixel: the profile, scaled to the scene's mean over the mask.
fn rates(scene: &Scene, q: &[f64], mask: &[bool], innermost: f64) -> Vec<f32> {
    let outermost = q.iter().zip(mask).filter(|(_, m)| **m).map(|(&q, _)| q).fold(innermost, f64::max);
    let profile: Vec<f64> =
        q.iter().map(|&q| (q.clamp(innermost, outermost) / innermost).powf(-scene.profile)).collect();
    let kept = mask.iter().filter(|&&m| m).count() as f64;
    let sum: f64 = profile.iter().zip(mask).filter(|(_, m)| **m).map(|(p, _)| p).sum();
    profile.iter().map(|p| (p * scene.counts * kept / sum) as f32).collect()
}

fn relaxation_times(scene: &Scene, axes: &BinAxes) -> Vec<f64> {
    let Dynamics::Relaxing { tau, .. } = &scene.dynamics else { return Vec::new() };
    let of_ring = |ring: usize| match tau {
        Relaxation::PowerLaw { slowest, exponent } => slowest * (axes.q[ring] / axes.q[0]).powf(-exponent),
        Relaxation::Each(times) => times[ring],
    };
    axes.natural.iter().map(|&place| of_ring(place as usize / axes.phi.len())).collect()
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;
    use crate::simulate::Modules;

    fn scene() -> Scene {
        Scene::new(Shape { rows: 32, cols: 48 }, 10)
    }

    #[test]
    fn labels_are_contiguous_and_static_bins_lie_in_dynamic_ones() {
        let phi = NonZeroUsize::new(3).expect("3");
        let scene = Scene { bins: Binning { phi, ..scene().bins }, dead: 10, ..scene() };
        let layout = Layout::new(&scene, Saturation::Unmarked).expect("layout");
        let Labels { mask, static_labels, dynamic_labels, blemish, .. } = &layout.labels;
        assert_eq!(mask.iter().filter(|&&m| m).count(), 768 - 10);
        assert_eq!(blemish.iter().filter(|&&b| !b).count(), 10);
        let mut parent = vec![0; layout.static_axes.natural.len() + 1];
        for p in 0..mask.len() {
            assert_eq!((static_labels[p] > 0, dynamic_labels[p] > 0), (mask[p], mask[p]));
            let known = &mut parent[static_labels[p] as usize];
            assert!(*known == 0 || *known == dynamic_labels[p], "static bin {} is split", static_labels[p]);
            *known = dynamic_labels[p];
        }
        assert!(parent[1..].iter().all(|&d| d > 0), "every static label has pixels");
        assert_eq!(layout.dynamic_axes.natural, (0..12).collect::<Vec<_>>());
        assert_eq!(layout.dynamic_axes.phi, [-120.0, 0.0, 120.0]);
        // Sectors of a ring relax alike; tau follows q^-2.
        let (q, tau) = (&layout.dynamic_axes.q, &layout.tau);
        assert_eq!((tau[0], tau[2]), (10.0, 10.0));
        assert!((tau[3] / tau[0] * (q[1] / q[0]).powi(2) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn half_of_the_dead_pixels_hide_where_the_format_marks_them() {
        let scene = Scene { dead: 7, ..scene() };
        let layout = Layout::new(&scene, Saturation::Marked).expect("layout");
        assert_eq!(layout.dead.len(), 7);
        assert_eq!(layout.dead.iter().filter(|&&p| layout.labels.mask[p as usize]).count(), 3);
        assert!(layout.dead.iter().all(|&p| layout.rates[p as usize] == 0.0));
    }

    #[test]
    fn gaps_are_out_of_the_mask_and_the_mean_rate_is_the_scene_s() {
        let modules = Modules { shape: Shape { rows: 10, cols: 20 }, row_gap: 2, col_gap: 3 };
        let scene = Scene { modules: Some(modules), profile: 3.0, counts: 0.25, ..scene() };
        let layout = Layout::new(&scene, Saturation::Unmarked).expect("layout");
        assert!(!layout.labels.blemish[10 * 48] && !layout.labels.mask[10 * 48 + 5]);
        assert_eq!(layout.rates[10 * 48], 0.0);
        let inside = layout.rates.iter().zip(&layout.labels.mask).filter(|(_, m)| **m).map(|(&r, _)| f64::from(r));
        let (sum, n) = inside.fold((0.0, 0.0), |(sum, n), r| (sum + r, n + 1.0));
        assert!((sum / n / 0.25 - 1.0f64).abs() < 1e-6);
    }

    #[test]
    fn a_mask_too_small_is_refused() {
        let small = Scene { bins: Binning { mask_fraction: 0.005, ..scene().bins }, ..scene() };
        let error = Layout::new(&small, Saturation::Marked).expect_err("8 pixels");
        assert_eq!(error, SceneError::Bins { bins: 12, pixels: 8 });
        let dead = Scene { dead: 385, ..scene() };
        let error = Layout::new(&dead, Saturation::Marked).expect_err("more than half");
        assert_eq!(error, SceneError::Dead { dead: 385, pixels: 768 });
    }
}
