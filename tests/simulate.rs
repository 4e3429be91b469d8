//! Simulated datasets: what is written is what was simulated, and its statistics are those that were asked for.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use ndarray::Array2;
use speckled::correlate::bins::{Partition, Shape};
use speckled::correlate::oracle;
use speckled::correlate::result::MultiTau;
use speckled::correlate::window::FrameSelection;
use speckled::dataset::Opener;
use speckled::dataset::hdf5::ftf;
use speckled::dataset::hdf5::open_frames;
use speckled::dataset::hdf5::write::FrameFilter;
use speckled::dataset::metadata::{self, Metadata};
use speckled::dataset::qmap::Qmap;
use speckled::dataset::write::{Dataset, Format, write_dataset};
use speckled::dataset::{EventSource, FrameSource, PixelType, Scratch, Source, Unstored, imm, rigaku, stitch};
use speckled::engine::cpu::CpuEngine;
use speckled::engine::{Engine, MultiTauRequest, Request, Unobserved};
use speckled::simulate::{self, Dynamics, Layout, Modules, Relaxation, Saturation, Scene};
use speckled::task::correlate::{BitOrder, Normalization, PixelG2Output, SaturatedPolicy};

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

fn frames(source: &dyn FrameSource) -> Array2<f64> {
    let (n, pixels) = (source.info().frames, source.info().shape.pixels());
    let mut bytes = vec![0; n as usize * pixels * source.pixel_type().size()];
    source.read_frames(0..n, &mut Scratch::default(), &mut bytes).expect("read");
    let value = |b: &[u8]| match *b {
        [a] => f64::from(a),
        [a, b] => f64::from(u16::from_ne_bytes([a, b])),
        [a, b, c, d] => f64::from(u32::from_ne_bytes([a, b, c, d])),
        _ => panic!("{} bytes a pixel", b.len()),
    };
    let values = bytes.chunks_exact(source.pixel_type().size()).map(value).collect();
    Array2::from_shape_vec((n as usize, pixels), values).expect("shape")
}

fn golden(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/golden").join(name);
    path.exists().then_some(path)
}

#[test]
fn imm_files_hold_the_simulated_counts() {
    let scene = small();
    let counts = expected(&scene, Saturation::Unmarked);
    let (_dir, sparse) = written(&scene, Format::ImmSparse);
    let Source::Events(source) = imm::open(&Opener::anywhere(), &sparse.raw).expect("open") else {
        panic!("not sparse")
    };
    assert_eq!(events(source.as_ref(), 100), counts);
    let (_dir, dense) = written(&scene, Format::ImmDense);
    let Source::Frames(source) = imm::open(&Opener::anywhere(), &dense.raw).expect("open") else { panic!("not dense") };
    assert_eq!(frames(source.as_ref()), counts);
}

#[test]
fn imm_headers_are_those_of_a_known_file() {
    let Some(known) = golden("case_imm/H0012_dense_00001-00040.imm") else { return };
    let (_dir, dense) = written(&Scene::new(SMALL, 3), Format::ImmDense);
    let read = |path: &Path| std::fs::read(path).expect("read");
    let (known, made) = (read(&known), read(&dense.raw));
    let frame = 1024 + 2 * SMALL.pixels();
    assert_eq!(made.len(), 3 * frame);
    // mode, compression | number .. pixel and frame times, without the names between | length .. buffer number
    for range in [0..8, 56..64, 84..144, 152..168] {
        let at = frame + range.start..frame + range.end;
        assert_eq!(made[at.clone()], known[at], "bytes {range:?} of the second header");
    }
}

#[test]
fn rigaku_files_hold_the_simulated_counts() {
    let shape = Format::Rigaku.shape().expect("fixed");
    let scene = Scene { counts: 0.01, ..Scene::new(shape, 20) };
    let (_dir, dataset) = written(&scene, Format::Rigaku);
    let source = rigaku::open_single(&Opener::anywhere(), &dataset.raw, shape).expect("open");
    assert_eq!(events(source.as_ref(), 20), expected(&scene, Saturation::Unmarked));
}

#[test]
fn a_rigaku_3m_is_stitched_back_to_the_simulated_counts() {
    let shape = Format::Rigaku3m.shape().expect("fixed");
    let scene = Scene { counts: 0.005, ..Scene::new(shape, 3) };
    let (_dir, dataset) = written(&scene, Format::Rigaku3m);
    assert_eq!(dataset.raw_files.len(), 6);
    let source = rigaku::open_3m(&Opener::anywhere(), &dataset.raw).expect("open");
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
    let source = open_frames(&Opener::anywhere(), &dataset.raw).expect("open");
    assert!(source.marks_saturation());
    assert_eq!(frames(source.as_ref()), counts);
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
    let source = open_frames(&Opener::anywhere(), &dataset.raw).expect("open");
    assert_eq!(frames(source.as_ref()), expected(&scene, Saturation::Marked));
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
    let modules = Modules { shape: stitch::MODULE, row_gap: 70, col_gap: 52 };
    let counts = expected(&Scene { modules: Some(modules), ..scene }, Saturation::Unmarked);
    let source = ftf::open(&Opener::anywhere(), &dataset.raw, BitOrder::default()).expect("open");
    assert!(!source.may_have_counts(1));
    assert_eq!(frames(source.as_ref()), counts.mapv(|count: f64| count.min(3.0)));
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

/// g2 of a scene by the oracle.
fn correlated(scene: &Scene) -> MultiTau {
    let layout = Layout::new(scene, Saturation::Unmarked).expect("layout");
    let partition = Partition::new(&layout.labels, &[]).expect("partition");
    oracle::multi_tau(&simulate::counts(scene, &layout), &partition)
}

/// Delay, g2 - 1 and its error in a dynamic bin.
fn curve(result: &MultiTau, bin: usize) -> Vec<(f64, f64, f64)> {
    let point = |k: usize| (result.delays[k] as f64, result.g2[(k, bin)] - 1.0, result.g2_err[(k, bin)]);
    (0..result.delays.len()).map(point).collect()
}

fn assert_relaxes(result: &MultiTau, contrast: (f64, f64), times: &[f64], tolerance: f64) {
    assert_eq!(result.g2.ncols(), times.len());
    for (bin, tau) in times.iter().enumerate() {
        let near: Vec<_> = curve(result, bin).into_iter().filter(|p| p.0 < 4.0 * tau).collect();
        let (found, fitted) = fit(&near);
        assert!((found - contrast.0).abs() < contrast.1, "contrast {found} at tau {tau}");
        assert!((fitted / tau - 1.0).abs() < tolerance, "tau {fitted} for {tau}");
    }
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

const TIMES: [f64; 4] = [40.0, 20.0, 12.0, 6.0];

fn relaxing(contrast: f64) -> Dynamics {
    Dynamics::Relaxing { contrast, tau: Relaxation::Each(TIMES.to_vec()) }
}

// The tolerances below are about three standard errors.

#[test]
fn contrast_relaxation_times_and_mean_counts_come_back() {
    let scene = Scene { counts: 2.0, dynamics: relaxing(0.4), ..Scene::new(SMALL, 2000) };
    let layout = Layout::new(&scene, Saturation::Unmarked).expect("layout");
    let mean = simulate::counts(&scene, &layout).mean().expect("not empty");
    assert!((mean / 2.0 - 1.0).abs() < 0.01, "{mean}");
    assert_relaxes(&correlated(&scene), (0.4, 0.03), &TIMES, 0.12);
}

#[test]
fn steady_scenes_do_not_correlate() {
    let scene = Scene { dynamics: Dynamics::Steady, counts: 0.2, ..Scene::new(SMALL, 1000) };
    let result = correlated(&scene);
    for bin in 0..4 {
        let near: Vec<_> = curve(&result, bin).into_iter().filter(|p| p.0 < 100.0).collect();
        assert!(near.iter().all(|(_, value, error)| value.abs() < 5.0 * error), "{near:?}");
    }
}

/// Multi-tau of a dataset's files by the engine.
fn engine(source: &Source, dataset: &Dataset) -> (MultiTau, Vec<u32>) {
    let request = Request {
        selection: FrameSelection::all(source.info().frames),
        labels: Qmap::read(&Opener::anywhere(), &dataset.qmap).expect("qmap").labels,
        multi_tau: Some(MultiTauRequest {
            normalization: Normalization::None,
            parts: 0,
            pixel_g2: PixelG2Output::Drop,
        }),
        two_time: None,
        saturated: SaturatedPolicy::Mask,
        memory: 1 << 30,
    };
    let result = CpuEngine::new(None).correlate(&request, source, &Unobserved, &mut Unstored);
    let (correlation, _) = result.expect("correlate");
    (correlation.multi_tau.expect("multi-tau"), correlation.saturated.iter().map(|s| s.pixel).collect())
}

#[test]
fn relaxation_times_come_back_through_sparse_files_and_the_engine() {
    // Faint pixels: visited only where photons may be.
    let scene = Scene { counts: 0.05, dynamics: relaxing(0.4), ..Scene::new(SMALL, 20_000) };
    let (_dir, dataset) = written(&scene, Format::ImmSparse);
    let (result, _) = engine(&imm::open(&Opener::anywhere(), &dataset.raw).expect("open"), &dataset);
    assert_relaxes(&result, (0.4, 0.03), &TIMES, 0.1);
}

#[test]
fn relaxation_times_come_back_through_compressed_frames_and_the_engine() {
    // Bright pixels: visited in every frame. Of two dead pixels, one hides in the mask.
    let scene = Scene { counts: 1.0, dynamics: relaxing(0.17), dead: 2, ..Scene::new(SMALL, 6000) };
    let (_dir, dataset) = written(&scene, Format::Hdf5 { pixel: PixelType::U16, filter: FrameFilter::BitshuffleLz4 });
    let (result, saturated) =
        engine(&Source::Frames(open_frames(&Opener::anywhere(), &dataset.raw).expect("open")), &dataset);
    assert_eq!(saturated.len(), 1);
    assert_relaxes(&result, (0.17, 0.015), &TIMES, 0.1);
}

#[test]
fn the_qmap_is_read_back_as_it_was_laid_out() {
    let scene = Scene { dead: 4, ..Scene::new(SMALL, 2) };
    let (_dir, dataset) = written(&scene, Format::ImmDense);
    let layout = Layout::new(&scene, Saturation::Unmarked).expect("layout");
    let qmap = Qmap::read(&Opener::anywhere(), &dataset.qmap).expect("read");
    assert_eq!((&qmap.labels, &qmap.warnings), (&layout.labels, &Vec::new()));
    assert_eq!(qmap.map_names, ["q", "phi"]);
    assert_eq!(qmap.map_units, ["Å⁻¹", "deg"]);
    assert_eq!(qmap.static_axes.points, [12, 1]);
    assert_eq!(qmap.static_axes.index_mapping, (0..12).collect::<Vec<_>>());
    assert_eq!(qmap.dynamic_axes.values, [layout.dynamic_axes.q, layout.dynamic_axes.phi]);
    assert_eq!((qmap.geometry.beam_center_x, qmap.geometry.beam_center_y), (Some(24.0), Some(16.0)));
    let Some(known) = golden("case_hdf_64x96/qmap.hdf") else { return };
    assert_eq!(types(&dataset.qmap), types(&known));
}

#[test]
fn the_metadata_is_found_and_has_the_complete_tree() {
    let scene = Scene { frame_time: 2e-5, ..Scene::new(SMALL, 2) };
    let (_dir, dataset) = written(&scene, Format::Hdf5 { pixel: PixelType::U8, filter: FrameFilter::None });
    let found = metadata::find(&Opener::anywhere(), &dataset.raw, None).expect("find");
    let Metadata { path, frame_time, incident_energy, warnings, .. } = found;
    assert_eq!((path, frame_time, incident_energy), (dataset.metadata.clone(), Some(2e-5), Some(10.0)));
    assert!(warnings.is_empty(), "{warnings:?}");
    let Some(known) = golden("8id_schema_default_metadata.hdf") else { return };
    assert_eq!(types(&dataset.metadata), types(&known));
}

/// Every dataset of a file with its type and rank, and every group.
fn types(path: &Path) -> BTreeMap<String, String> {
    fn connection(group: &hdf5::Group, out: &mut BTreeMap<String, String>) {
        for dataset in group.datasets().expect("datasets") {
            let kind = dataset.dtype().and_then(|t| t.to_descriptor()).expect("type");
            out.insert(dataset.name(), format!("{kind:?} of rank {}", dataset.ndim()));
        }
        for child in group.groups().expect("groups") {
            out.insert(child.name(), format!("group {:?}", child.attr_names().expect("attributes")));
            connection(&child, out);
        }
    }
    let mut out = BTreeMap::new();
    connection(&hdf5::File::open(path).expect("open"), &mut out);
    out
}
