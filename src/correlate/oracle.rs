//! The plain float64 reference: the definitions of `science.md`, written to be read, not to be fast.
//!
//! Every engine is tested against these functions; nothing in the program calls them.

use ndarray::{Array1, Array2, Array3, ArrayView2, Axis, s};

use super::bins::Partition;
use super::delays::DelayPlan;
use super::reduce::pixel_g2;
use super::result::{MultiTau, Scattering, TwoTime, TwoTimeMap};
use super::scattering::SegmentPlan;
use super::twotime::Smoothing;
use super::window::FrameSelection;

/// Averages the raw frames (frame, pixel of the whole image) that `selection` takes.
pub fn select(raw: ArrayView2<'_, f64>, selection: &FrameSelection) -> Array2<f64> {
    let avg = selection.avg();
    let mut out = Array2::zeros((selection.outputs() as usize, raw.ncols()));
    for k in 0..selection.outputs() * avg {
        let mut row = out.row_mut((k / avg) as usize);
        row += &raw.row(selection.raw(k) as usize);
    }
    out / avg as f64
}

/// Divides each frame by its mean over the masked-in pixels; a frame without counts is left as it is.
pub fn normalize(frames: &Array2<f64>, partition: &Partition) -> Array2<f64> {
    let mut out = frames.clone();
    for mut frame in out.rows_mut() {
        let mean = masked(&frame.to_owned(), partition).mean().unwrap_or(0.0);
        if mean > 0.0 {
            frame /= mean;
        }
    }
    out
}

/// Mean of each later times earlier, later, earlier: (delay, channel, masked-in pixel).
pub fn pixel_correlations(frames: &Array2<f64>, partition: &Partition) -> Array3<f64> {
    let plan = DelayPlan::new(frames.nrows() as u64);
    let mut out = Array3::zeros((plan.len(), 3, partition.pixels().len()));
    for (k, delay) in plan.delays().iter().enumerate() {
        let width = 1usize << delay.level;
        let samples = frames.nrows() >> delay.level;
        let lag = delay.lag as usize;
        for (p, &pixel) in partition.pixels().iter().enumerate() {
            let column = frames.column(pixel as usize);
            let level: Array1<f64> = (0..samples).map(|t| column.slice(s![t * width..(t + 1) * width]).sum()).collect();
            let (earlier, later) = (level.slice(s![..samples - lag]), level.slice(s![lag..]));
            let pairs = (samples - lag) as f64;
            out[(k, 0, p)] = earlier.dot(&later) / pairs / (width * width) as f64;
            out[(k, 1, p)] = later.sum() / pairs / width as f64;
            out[(k, 2, p)] = earlier.sum() / pairs / width as f64;
        }
    }
    out
}

/// Multi-tau g2 of `frames` (frame, pixel of the whole image), already averaged and normalised.
pub fn multi_tau(frames: &Array2<f64>, partition: &Partition) -> MultiTau {
    let plan = DelayPlan::new(frames.nrows() as u64);
    let pixels = pixel_correlations(frames, partition);
    let of = |labels: &[u32], label: u32| -> Vec<usize> { (0..labels.len()).filter(|&p| labels[p] == label).collect() };
    let mean =
        |k: usize, c: usize, list: &[usize]| list.iter().map(|&p| pixels[(k, c, p)]).sum::<f64>() / list.len() as f64;
    let bins = partition.dynamic_bins();
    let mut g2 = Array2::zeros((plan.len(), bins));
    let mut g2_err = Array2::zeros((plan.len(), bins));
    for label in 1..=bins as u32 {
        let members: Vec<Vec<usize>> =
            partition.members(label).iter().map(|&s| of(partition.static_labels(), s)).collect();
        let own = of(partition.dynamic_labels(), label);
        if own.is_empty() {
            continue;
        }
        for k in 0..plan.len() {
            let values: Vec<f64> =
                members.iter().map(|list| pixel_g2(mean(k, 0, list), mean(k, 1, list), mean(k, 2, list))).collect();
            if !values.is_empty() {
                g2[(k, label as usize - 1)] = values.iter().sum::<f64>() / values.len() as f64;
            }
            let each: Array1<f64> =
                own.iter().map(|&p| pixel_g2(pixels[(k, 0, p)], pixels[(k, 1, p)], pixels[(k, 2, p)])).collect();
            g2_err[(k, label as usize - 1)] = each.std(1.0) / (own.len() as f64).sqrt();
        }
    }
    MultiTau { delays: plan.delay_list(), g2, g2_err }
}

/// Static scattering of `frames` (averaged, never normalised).
pub fn scattering(frames: &Array2<f64>, partition: &Partition) -> Scattering {
    let plan = SegmentPlan::new(frames.nrows() as u64);
    let width = 1usize << plan.shift;
    let image_of = |part: ArrayView2<'_, f64>| -> Vec<f64> {
        let mean = part.mean_axis(Axis(0)).unwrap_or_default();
        std::iter::zip(mean, partition.blemish()).map(|(v, &good)| if good { v } else { 0.0 }).collect()
    };
    let bins_of = |image: &[f64]| -> Vec<f64> {
        let present = (1..=partition.static_bins() as u32).filter(|&s| partition.static_present(s));
        present
            .map(|s| {
                let own = std::iter::zip(partition.pixels(), partition.static_labels()).filter(|(_, l)| **l == s);
                let values: Vec<f64> = own.map(|(&p, _)| image[p as usize]).collect();
                values.iter().sum::<f64>() / values.len() as f64
            })
            .collect()
    };
    let image = image_of(frames.view());
    let rows: Vec<f64> =
        (0..plan.segments).flat_map(|g| bins_of(&image_of(frames.slice(s![g * width..(g + 1) * width, ..])))).collect();
    let bins = bins_of(&image);
    Scattering {
        segments: Array2::from_shape_fn((plan.segments, bins.len()), |(g, b)| rows[g * bins.len() + b]),
        image,
        bins,
        intensity: frames.rows().into_iter().map(|f| masked(&f.to_owned(), partition).mean().unwrap_or(0.0)).collect(),
    }
}

/// Two-time maps and g2 of the dynamic bins `labels`.
pub fn two_time(
    frames: &Array2<f64>,
    partition: &Partition,
    smoothing: Smoothing,
    labels: &[u32],
) -> (TwoTime, Vec<TwoTimeMap>) {
    let n = frames.nrows();
    let block = n / 5;
    let mut result = TwoTime {
        labels: labels.to_vec(),
        g2: Array2::zeros((n, labels.len())),
        g2_segments: Array3::zeros((block, 5, labels.len())),
    };
    let mut maps = Vec::new();
    for (k, &label) in labels.iter().enumerate() {
        let x = smoothed(frames, partition, smoothing, label);
        let sums = x.sum_axis(Axis(1)).mapv(|s| if s > 0.0 { s } else { 1.0 });
        let gram = x.dot(&x.t());
        let c2 = Array2::from_shape_fn((n, n), |(a, b)| gram[(a, b)] * x.ncols() as f64 / sums[a] / sums[b]);
        for tau in 0..n {
            result.g2[(tau, k)] = (0..n - tau).map(|t| c2[(t, t + tau)]).sum::<f64>() / (n - tau) as f64;
        }
        for part in 0..5 {
            for tau in 0..block {
                let sum: f64 = (0..block - tau).map(|t| c2[(part * block + t, part * block + t + tau)]).sum();
                result.g2_segments[(tau, part, k)] = sum / (block - tau) as f64;
            }
        }
        let values = Array2::from_shape_fn((n, n), |(a, b)| if b >= a { c2[(a, b)] as f32 } else { 0.0 });
        maps.push(TwoTimeMap { label, values });
    }
    (result, maps)
}

fn smoothed(frames: &Array2<f64>, partition: &Partition, smoothing: Smoothing, label: u32) -> Array2<f64> {
    let own: Vec<usize> = (0..partition.pixels().len()).filter(|&p| partition.dynamic_labels()[p] == label).collect();
    let bin_of = |p: usize| match smoothing {
        Smoothing::StaticBins => partition.static_labels()[p],
        Smoothing::DynamicBins | Smoothing::None => label,
    };
    let count = |frame: usize, p: usize| frames[(frame, partition.pixels()[p] as usize)];
    let mut x = Array2::zeros((frames.nrows(), own.len()));
    for t in 0..frames.nrows() {
        for (j, &p) in own.iter().enumerate() {
            let same: Vec<f64> = own.iter().filter(|&&o| bin_of(o) == bin_of(p)).map(|&o| count(t, o)).collect();
            let mean = same.iter().sum::<f64>() / same.len() as f64;
            let scale = if smoothing == Smoothing::None || mean <= 0.0 { 1.0 } else { mean };
            x[(t, j)] = count(t, p) / scale;
        }
    }
    x
}

fn masked(frame: &Array1<f64>, partition: &Partition) -> Array1<f64> {
    partition.pixels().iter().map(|&p| frame[p as usize]).collect()
}
