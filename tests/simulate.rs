//! Simulated datasets: what is written is what was simulated, and its statistics are those that were asked for.

use std::num::NonZeroU64;
use std::path::Path;

use ndarray::Array2;
use speckled::correlate::bins::{Partition, Shape};
use speckled::correlate::oracle;
use speckled::dataset::hdf5::write::FrameFilter;
use speckled::dataset::write::{Dataset, Format, write_dataset};
use speckled::dataset::{EventSource, PixelType, Scratch, Source, imm, rigaku};
use speckled::simulate::{self, Dynamics, Layout, Relaxation, Saturation, Scene};

const SMALL: Shape = Shape { rows: 32, cols: 48 };

fn small() -> Scene {
    Scene { dead: 6, empty_frames: vec![0, 37], ..Scene::new(SMALL, 100) }
}

fn expected(scene: &Scene, saturation: Saturation) -> Array2<f64> {
    simulate::counts(scene, &Layout::new(scene, saturation).expect("layout"))
}

fn written(scene: &Scene, format: Format) -> (tempfile::TempDir, Dataset) {
    let dir = tempfile::tempdir().expect("directory");
    let dataset = write_dataset(scene, format, dir.path(), "sim").expect("write");
    (dir, dataset)
}

fn events(source: &dyn EventSource, frames: usize) -> Array2<f64> {
    let mut out = Array2::zeros((frames, source.info().shape.pixels()));
    let (mut scratch, mut events) = (Scratch::default(), Vec::new());
    for block in 0..source.blocks() {
        source.read_block(block, &mut scratch, &mut events).expect("read");
        for event in &events {
            out[(event.frame() as usize, event.pixel() as usize)] += f64::from(event.count());
        }
    }
    out
}

fn hdf5_frames(path: &Path, dataset: &str) -> Array2<f64> {
    let dataset = hdf5::File::open(path).and_then(|f| f.dataset(dataset)).expect("open");
    let shape = dataset.shape();
    let values = dataset.read_raw::<f64>().expect("read");
    Array2::from_shape_vec((shape[0], shape[1] * shape[2]), values).expect("shape")
}

#[test]
fn imm_files_hold_the_simulated_counts() {
    let scene = small();
    let counts = expected(&scene, Saturation::Unmarked);
    let (_dir, sparse) = written(&scene, Format::ImmSparse);
    let Source::Events(source) = imm::open(&sparse.raw).expect("open") else { panic!("not sparse") };
    assert_eq!(events(source.as_ref(), 100), counts);
    let (_dir, dense) = written(&scene, Format::ImmDense);
    let Source::Frames(source) = imm::open(&dense.raw).expect("open") else { panic!("not dense") };
    let mut bytes = vec![0; 100 * SMALL.pixels() * 2];
    source.read_frames(0..100, &mut Scratch::default(), &mut bytes).expect("read");
    let values: Vec<f64> = bytes.chunks_exact(2).map(|b| f64::from(u16::from_ne_bytes([b[0], b[1]]))).collect();
    assert_eq!(values, counts.into_raw_vec_and_offset().0);
}

#[test]
fn rigaku_files_hold_the_simulated_counts() {
    let shape = Format::Rigaku.shape().expect("fixed");
    let scene = Scene { counts: 0.01, ..Scene::new(shape, 20) };
    let (_dir, dataset) = written(&scene, Format::Rigaku);
    let source = rigaku::open_single(&dataset.raw, shape).expect("open");
    assert_eq!(events(source.as_ref(), 20), expected(&scene, Saturation::Unmarked));
}

#[test]
fn a_rigaku_3m_is_stitched_back_to_the_simulated_counts() {
    let shape = Format::Rigaku3m.shape().expect("fixed");
    let scene = Scene { counts: 0.005, ..Scene::new(shape, 3) };
    let (_dir, dataset) = written(&scene, Format::Rigaku3m);
    assert_eq!(dataset.raw_files.len(), 6);
    let source = rigaku::open_3m(&dataset.raw).expect("open");
    let counts = events(source.as_ref(), 3);
    assert!((counts.sum() / (3.0 * 6.0 * 512.0 * 1024.0) / 0.005 - 1.0).abs() < 0.03);
    // The gap between the upper and the middle modules.
    assert_eq!(counts.slice(ndarray::s![.., 512 * 2100..582 * 2100]).sum(), 0.0);
}

#[test]
fn hdf5_files_mark_dead_pixels() {
    let scene = small();
    let mut counts = expected(&scene, Saturation::Marked);
    let layout = Layout::new(&scene, Saturation::Marked).expect("layout");
    layout.dead.iter().for_each(|&p| counts.column_mut(p as usize).fill(65_535.0));
    let (_dir, dataset) = written(&scene, Format::Hdf5 { pixel: PixelType::U16, filter: FrameFilter::None });
    assert_eq!(hdf5_frames(&dataset.raw, "/entry/data/data"), counts);
    let hidden = layout.dead.iter().filter(|&&p| layout.labels.mask[p as usize]).count();
    assert_eq!((layout.dead.len(), hidden), (6, 3));
}

#[test]
fn an_eiger_master_links_to_all_frames() {
    let scene = Scene::new(SMALL, 25);
    let frames_per_file = NonZeroU64::new(10).expect("10");
    let format = Format::Eiger { pixel: PixelType::U32, filter: FrameFilter::None, frames_per_file };
    let (_dir, dataset) = written(&scene, format);
    assert_eq!(dataset.raw_files.len(), 4);
    let counts = expected(&scene, Saturation::Marked);
    for (k, frames) in [0..10, 10..20, 20..25].into_iter().enumerate() {
        let part = hdf5_frames(&dataset.raw, &format!("/entry/data/data_{:06}", k + 1));
        assert_eq!(part, counts.slice(ndarray::s![frames, ..]), "file {k}");
    }
}

#[test]
fn fast_transfer_files_hold_two_bits_a_pixel_and_no_empty_frames() {
    let shape = Format::Ftf.shape().expect("fixed");
    let scene = Scene { counts: 0.002, empty_frames: vec![1], ..Scene::new(shape, 3) };
    let (_dir, dataset) = written(&scene, Format::Ftf);
    let module = hdf5::File::open(&dataset.raw_files[5]).and_then(|f| f.dataset("/entry/data/data")).expect("open");
    assert_eq!(
        (module.shape(), module.chunk(), module.num_chunks()),
        (vec![131_072, 3], Some(vec![131_072, 1]), Some(2))
    );
    let bytes = module.read_raw::<u8>().expect("read");
    // Module 5 is the canvas' upper left one.
    let modules = simulate::Modules { shape: speckled::dataset::stitch::MODULE, row_gap: 70, col_gap: 52 };
    let counts = expected(&Scene { modules: Some(modules), ..scene }, Saturation::Unmarked);
    for frame in 0..3 {
        for pixel in 0..512 * 1024 {
            let bits = bytes[pixel / 4 * 3 + frame] >> (2 * (pixel % 4)) & 3;
            let count = counts[(frame, pixel / 1024 * shape.cols + pixel % 1024)];
            assert_eq!(f64::from(bits), count.min(3.0), "frame {frame}, pixel {pixel}");
        }
    }
}

#[test]
fn counts_beyond_the_format_are_an_error_that_says_so() {
    let scene = Scene { counts: 200.0, ..Scene::new(SMALL, 10) };
    let dir = tempfile::tempdir().expect("directory");
    let format = Format::Hdf5 { pixel: PixelType::U8, filter: FrameFilter::None };
    let message = write_dataset(&scene, format, dir.path(), "sim").expect_err("too bright").to_string();
    assert!(message.contains("the format holds 254"), "{message}");
    let message = write_dataset(&scene, Format::Rigaku, dir.path(), "sim").expect_err("shape").to_string();
    assert!(message.contains("512 x 1024, not 32 x 48"), "{message}");
}

#[test]
fn photons_do_not_depend_on_threads_but_on_the_seed() {
    let scene = Scene::new(SMALL, 30);
    let run = |threads, scene: &Scene| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        pool.install(|| expected(scene, Saturation::Unmarked))
    };
    let one = run(1, &Scene { shape: Shape { rows: 64, cols: 96 }, ..scene.clone() });
    let three = run(3, &Scene { shape: Shape { rows: 64, cols: 96 }, ..scene.clone() });
    assert_eq!(one, three);
    assert_ne!(run(1, &scene), run(1, &Scene { seed: 2, ..scene.clone() }));
}

/// g2 of a scene by the oracle, with the standard errors: (delay, value - 1, error) of each dynamic bin.
fn correlated(scene: &Scene) -> Vec<Vec<(f64, f64, f64)>> {
    let layout = Layout::new(scene, Saturation::Unmarked).expect("layout");
    let partition = Partition::new(&layout.labels, &[]).expect("partition");
    let result = oracle::multi_tau(&simulate::counts(scene, &layout), &partition);
    (0..partition.dynamic_bins())
        .map(|bin| {
            let row = |k: usize| (result.delays[k] as f64, result.g2[(k, bin)] - 1.0, result.g2_err[(k, bin)]);
            (0..result.delays.len()).map(row).collect()
        })
        .collect()
}

/// Contrast and relaxation time of `contrast * exp(-2 t / tau)` by Gauss-Newton with the errors as weights.
fn fit(points: &[(f64, f64, f64)]) -> (f64, f64) {
    let (mut contrast, mut rate) = (0.3, 0.1);
    for _ in 0..50 {
        let (mut a, mut b, mut c, mut u, mut v) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for &(t, value, error) in points {
            let decay = (-rate * t).exp();
            let (by_contrast, by_rate) = (decay, -contrast * t * decay);
            let (residual, weight) = (value - contrast * decay, error.powi(-2));
            a += weight * by_contrast * by_contrast;
            b += weight * by_contrast * by_rate;
            c += weight * by_rate * by_rate;
            u += weight * by_contrast * residual;
            v += weight * by_rate * residual;
        }
        let det = a * c - b * b;
        contrast += (c * u - b * v) / det;
        rate = (rate + (a * v - b * u) / det).clamp(1e-4, 2.0);
    }
    (contrast, 2.0 / rate)
}

#[test]
fn contrast_relaxation_times_and_mean_counts_come_back() {
    let times = vec![40.0, 20.0, 12.0, 6.0];
    // Faint pixels are visited now and then, bright ones in every frame; the tolerances are three standard errors.
    for (counts, contrast_error, tau_error) in [(0.05, 0.06, 0.2), (2.0, 0.03, 0.1)] {
        let dynamics = Dynamics::Relaxing { contrast: 0.4, tau: Relaxation::Each(times.clone()) };
        let scene = Scene { counts, dynamics, ..Scene::new(SMALL, 3000) };
        let layout = Layout::new(&scene, Saturation::Unmarked).expect("layout");
        let mean = simulate::counts(&scene, &layout).mean().expect("not empty");
        assert!((mean / counts - 1.0).abs() < 0.01, "{mean} for {counts}");
        for (points, tau) in correlated(&scene).iter().zip(&times) {
            let near: Vec<_> = points.iter().copied().filter(|p| p.0 < 4.0 * tau).collect();
            let (contrast, fitted) = fit(&near);
            assert!((contrast - 0.4).abs() < contrast_error, "contrast {contrast} at tau {tau}, {counts} counts");
            assert!((fitted / tau - 1.0).abs() < tau_error, "tau {fitted} for {tau}, {counts} counts");
        }
    }
}

#[test]
fn steady_scenes_do_not_correlate() {
    let scene = Scene { dynamics: Dynamics::Steady, counts: 0.2, ..Scene::new(SMALL, 2000) };
    for points in correlated(&scene) {
        assert!(points.iter().all(|&(t, value, error)| value.abs() < 5.0 * error.max(1e-4) || t > 500.0), "{points:?}");
    }
}
