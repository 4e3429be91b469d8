//! Result files as readers see them: the layout that xpcs-viewer 1.2.2 needs, and the viewer itself where its Python
//! is named by `SPECKLED_VIEWER_PYTHON`.

mod disk;
mod fixture;

use std::path::{Path, PathBuf};
use std::process::Command;

use fixture::{DYNAMIC_BINS, FRAMES, Hash, MAPS, SHAPE, STATIC_BINS};
use hdf5::types::{FloatSize, IntSize, TypeDescriptor};
use serde_json::json;
use speckled::correlate::delays::DelayPlan;
use speckled::correlate::result::{MapRows, PixelG2};
use speckled::dataset::Opener;
use speckled::dataset::ResultSink;
use speckled::dataset::describe::{FileKind, describe};
use speckled::dataset::result::{OwnNaming, ResultWriter};
use speckled::task::correlate::Analyses;

const F4: TypeDescriptor = TypeDescriptor::Float(FloatSize::U4);
const F8: TypeDescriptor = TypeDescriptor::Float(FloatSize::U8);
const I4: TypeDescriptor = TypeDescriptor::Integer(IntSize::U4);
const I8: TypeDescriptor = TypeDescriptor::Integer(IntSize::U8);
const TEXT: TypeDescriptor = TypeDescriptor::VarLenUnicode;

/// A place of the layout: path, type, shape.
type Row = (&'static str, TypeDescriptor, Vec<usize>);

fn common() -> Vec<Row> {
    vec![
        ("xpcs/temporal_mean/scattering_1d", F4, vec![1, STATIC_BINS]),
        ("xpcs/temporal_mean/scattering_1d_segments", F4, vec![10, STATIC_BINS]),
        ("xpcs/temporal_mean/scattering_2d", F4, vec![1, SHAPE.rows, SHAPE.cols]),
        ("xpcs/spatial_mean/intensity_vs_time", F4, vec![2, FRAMES]),
        ("xpcs/rawdata_path", TEXT, vec![]),
        ("xpcs/qmap/dynamic_index_mapping", TypeDescriptor::Unsigned(IntSize::U1), vec![DYNAMIC_BINS]),
        ("xpcs/qmap/mask", TypeDescriptor::Boolean, vec![SHAPE.rows, SHAPE.cols]),
        ("entry/instrument/detector_1/frame_time", F8, vec![]),
        ("entry/start_time", TEXT, vec![]),
        ("xpcs/provenance/wall_time_s", F8, vec![]),
        ("xpcs/provenance/qmap_sha256", TEXT, vec![]),
        ("xpcs/provenance/start_time", TEXT, vec![]),
        ("xpcs/provenance/warnings", TEXT, vec![1]),
        ("xpcs/provenance/saturated_pixels", I4, vec![2, 2]),
        ("xpcs/provenance/saturated_frames", I8, vec![2]),
    ]
}

fn multi_tau() -> Vec<Row> {
    let delays = DelayPlan::new(FRAMES as u64).len();
    vec![
        ("xpcs/multitau/normalized_g2", F4, vec![delays, DYNAMIC_BINS]),
        ("xpcs/multitau/normalized_g2_err", F4, vec![delays, DYNAMIC_BINS]),
        ("xpcs/multitau/delay_list", I8, vec![delays]),
        ("xpcs/multitau/config/stride_frame", I8, vec![]),
        ("xpcs/multitau/config/avg_frame", I8, vec![]),
        ("xpcs/multitau/config/analysis_type", TEXT, vec![]),
        ("xpcs/multitau/config/normalize_frame", TypeDescriptor::Boolean, vec![]),
        ("xpcs/multitau/config/max_memory", F8, vec![]),
        ("xpcs/multitau/config/dq_selection", I8, vec![2]),
    ]
}

fn parts() -> Vec<Row> {
    let delays = DelayPlan::new(FRAMES as u64).len();
    vec![
        ("xpcs/multitau/normalized_g2_partial", F4, vec![3, delays, DYNAMIC_BINS]),
        ("xpcs/multitau/normalized_g2_partial_err", F4, vec![3, delays, DYNAMIC_BINS]),
        ("xpcs/multitau/normalized_g2_partial_labels", I8, vec![3]),
        ("xpcs/multitau/unnormalized_G2", F4, vec![delays, 3, SHAPE.rows, SHAPE.cols]),
    ]
}

fn two_time() -> Vec<Row> {
    vec![
        ("xpcs/twotime/correlation_map/c2_00002", F4, vec![FRAMES, FRAMES]),
        ("xpcs/twotime/correlation_map/c2_00004", F4, vec![FRAMES, FRAMES]),
        ("xpcs/twotime/normalized_g2", F4, vec![FRAMES, MAPS.len()]),
        ("xpcs/twotime/normalized_g2_segments", F4, vec![FRAMES / 5, 5, MAPS.len()]),
        ("xpcs/twotime/processed_bins", I4, vec![MAPS.len()]),
        ("xpcs/twotime/config/stride_frame", I8, vec![]),
        ("xpcs/twotime/config/avg_frame", I8, vec![]),
        ("xpcs/twotime/config/smooth", TEXT, vec![]),
    ]
}

fn check(path: &Path, rows: &[Row]) {
    let file = hdf5::File::open(path).expect("opened");
    for (name, kind, shape) in rows {
        let dataset = file.dataset(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        let found = dataset.dtype().and_then(|t| t.to_descriptor()).expect("a type");
        assert_eq!((&found, &dataset.shape()), (kind, shape), "{name}");
    }
    assert!(file.group("xpcs/qmap").expect("a group").attr("hash").is_ok());
}

fn read(path: &Path, name: &str) -> Vec<f32> {
    hdf5::File::open(path).and_then(|f| f.dataset(name)).and_then(|d| d.read_raw()).expect(name)
}

/// All kinds of results, with the rows that each must and must not have.
fn results(inputs: &fixture::Inputs) -> Vec<(PathBuf, Vec<Row>, Vec<Row>)> {
    let make = |analyses, parts| {
        fixture::write(&fixture::target(inputs), inputs, analyses, &fixture::correlation(analyses, parts))
    };
    vec![
        (make(Analyses::MultiTau, 0), [common(), multi_tau()].concat(), [two_time(), parts()].concat()),
        (make(Analyses::MultiTau, 3), [common(), multi_tau(), parts()].concat(), two_time()),
        (make(Analyses::TwoTime, 0), [common(), two_time()].concat(), [multi_tau(), parts()].concat()),
        (make(Analyses::Both, 3), [common(), multi_tau(), parts(), two_time()].concat(), Vec::new()),
    ]
}

#[test]
fn the_layout_is_the_viewers() {
    let inputs = fixture::inputs(Hash::Present);
    for (path, rows, absent) in results(&inputs) {
        check(&path, &rows);
        let file = hdf5::File::open(&path).expect("opened");
        for (name, ..) in absent {
            assert!(file.dataset(name).is_err(), "{}: {name}", path.display());
        }
    }
}

#[test]
fn the_viewer_opens_every_kind_of_result() {
    let inputs = fixture::inputs(Hash::Absent);
    let files: Vec<PathBuf> = results(&inputs).into_iter().map(|(path, ..)| path).collect();
    let Some(python) = std::env::var_os("SPECKLED_VIEWER_PYTHON") else {
        files.iter().for_each(|path| check(path, &common()));
        return;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/check-result.py");
    let output = Command::new(python).arg(script).args(&files).output().expect("python starts");
    let words = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{words}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(words.lines().filter(|line| line.starts_with("ok ")).count(), files.len(), "{words}");
}

#[test]
fn values_come_back() {
    let inputs = fixture::inputs(Hash::Present);
    let correlation = fixture::correlation(Analyses::Both, 3);
    let path = fixture::write(&fixture::target(&inputs), &inputs, Analyses::Both, &correlation);
    for label in MAPS {
        let found = read(&path, &format!("xpcs/twotime/correlation_map/c2_{label:05}"));
        assert!(found.iter().eq(fixture::map(label).iter()), "map {label}");
    }
    let planes = read(&path, "xpcs/multitau/unnormalized_G2");
    let values = fixture::pixel_g2();
    let pixels = SHAPE.pixels();
    for (k, image) in planes.chunks_exact(pixels).enumerate() {
        let mut expected = vec![0.0; pixels];
        for (index, &pixel) in fixture::partition().pixels().iter().enumerate() {
            expected[pixel as usize] = values[(k / 3, k % 3, index)];
        }
        assert!(image == expected, "plane {k}");
    }
    let image: Vec<f32> = correlation.scattering.image.iter().map(|&v| v as f32).collect();
    assert_eq!(read(&path, "xpcs/temporal_mean/scattering_2d"), image);
    let series = read(&path, "xpcs/spatial_mean/intensity_vs_time");
    assert_eq!((series[1], series[FRAMES - 1], series[FRAMES]), (1.0, (FRAMES - 1) as f32, 1.0));
}

#[test]
fn delays_that_a_part_is_too_short_for_are_not_numbers() {
    let inputs = fixture::inputs(Hash::Present);
    let correlation = fixture::correlation(Analyses::MultiTau, 3);
    let path = fixture::write(&fixture::target(&inputs), &inputs, Analyses::MultiTau, &correlation);
    let whole = DelayPlan::new(FRAMES as u64).len();
    let known = DelayPlan::new(FRAMES as u64 / 3).len();
    assert!(known < whole);
    let partial = read(&path, "xpcs/multitau/normalized_g2_partial");
    for (index, value) in partial.iter().enumerate() {
        assert_eq!(value.is_nan(), index / DYNAMIC_BINS % whole >= known, "{index}");
    }
    let labels: Vec<i64> = hdf5::File::open(&path)
        .and_then(|f| f.dataset("xpcs/multitau/normalized_g2_partial_labels"))
        .and_then(|d| d.read_raw())
        .expect("labels");
    assert_eq!(labels, [0, 233, 466]);
}

#[test]
fn numbers_that_are_not_are_kept() {
    let inputs = fixture::inputs(Hash::Present);
    let mut correlation = fixture::correlation(Analyses::MultiTau, 0);
    correlation.multi_tau.as_mut().expect("there").g2_err[(0, 1)] = f64::NAN;
    correlation.scattering.bins[3] = f64::NAN;
    let path = fixture::write(&fixture::target(&inputs), &inputs, Analyses::MultiTau, &correlation);
    assert!(read(&path, "xpcs/multitau/normalized_g2_err")[1].is_nan());
    assert!(read(&path, "xpcs/temporal_mean/scattering_1d")[3].is_nan());
}

#[test]
fn the_metadata_comes_whole_and_a_legacy_qmap_gets_a_hash() {
    let inputs = fixture::inputs(Hash::Absent);
    let correlation = fixture::correlation(Analyses::MultiTau, 0);
    let path = fixture::write(&fixture::target(&inputs), &inputs, Analyses::MultiTau, &correlation);
    let file = hdf5::File::open(&path).expect("opened");
    let read = |name: &str| file.dataset(name).and_then(|d| d.read_scalar::<hdf5::types::VarLenUnicode>());
    assert_eq!(read("entry/sample/short_description").expect("copied").as_str(), "silica in water");
    let sha = read("xpcs/provenance/qmap_sha256").expect("written");
    let attribute = file.group("xpcs/qmap").and_then(|g| g.attr("hash")).expect("an attribute");
    assert_eq!(attribute.read_scalar::<hdf5::types::VarLenUnicode>().expect("text"), sha);
    assert_eq!(sha.len(), 64);
}

#[test]
fn a_result_serves_as_metadata_of_the_next() {
    let mut inputs = fixture::inputs(Hash::Present);
    let both = fixture::correlation(Analyses::Both, 0);
    inputs.metadata = fixture::write(&fixture::target(&inputs), &inputs, Analyses::Both, &both);
    let correlation = fixture::correlation(Analyses::MultiTau, 0);
    let path = fixture::write(&fixture::target(&inputs), &inputs, Analyses::MultiTau, &correlation);
    let file = hdf5::File::open(&path).expect("opened");
    assert!(file.group("xpcs/twotime").is_err() && file.group("xpcs/multitau").is_ok());
    let warnings: Vec<hdf5::types::VarLenUnicode> =
        file.dataset("xpcs/provenance/warnings").and_then(|d| d.read_raw()).expect("warnings");
    assert!(warnings.iter().any(|w| w.contains("earlier result")), "{warnings:?}");
}

#[test]
fn descriptions_tell_what_is_inside() {
    let inputs = fixture::inputs(Hash::Present);
    let correlation = fixture::correlation(Analyses::Both, 3);
    let path = fixture::write(&fixture::target(&inputs), &inputs, Analyses::Both, &correlation);
    for (path, kind, expected) in [
        (&inputs.qmap, FileKind::Qmap, json!({"hash": "c0ffee", "dynamic_bins": 4, "masked_in_pixels": 720})),
        (&inputs.metadata, FileKind::Metadata, json!({"detector": "rigaku500k", "sample": "silica in water"})),
        (&path, FileKind::Result, json!({"analyses": ["multitau", "twotime"], "twotime_bins": [2, 4]})),
        (&path, FileKind::Result, json!({"g2_of_parts": [3, 32, 4], "shortest_delay_s": 2e-5, "dynamic_bins": 4})),
    ] {
        let found = describe(&Opener::anywhere(), path).expect("described");
        assert_eq!(found.kind, kind);
        for (name, value) in expected.as_object().expect("an object") {
            assert_eq!(found.get(name), Some(value), "{name}");
        }
    }
    let text = serde_json::to_string(&describe(&Opener::anywhere(), &path).expect("described")).expect("JSON");
    for part in [r#"{"kind":"result","#, r#""normalize_frame":true"#, r#""stride_frame":1"#, r#""host":"node1""#] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

/// Rows of tiles go to the file as they come: those that are not the next ones, or cut a tile, would damage it.
#[test]
fn rows_out_of_order_are_refused() {
    let inputs = fixture::inputs(Hash::Present);
    let map = fixture::map(4);
    for (bands, refused) in [
        (vec![(4, 0..350), (4, 0..350)], 1),
        (vec![(4, 350..700)], 0),
        (vec![(4, 0..350), (2, 0..350)], 1),
        (vec![(4, 0..100)], 0),
        (vec![(4, 0..350), (4, 350..600)], 1),
        (vec![(4, 0..700), (2, 0..350), (2, 350..700)], 3),
    ] {
        let target = fixture::target(&inputs);
        let mut writer =
            ResultWriter::begin(&Opener::anywhere(), &target, &inputs.metadata, &inputs.qmap, Analyses::TwoTime)
                .expect("begun");
        assert_eq!(writer.rows_together(FRAMES), 350);
        for (number, (label, rows)) in bands.into_iter().enumerate() {
            let values = map.slice(ndarray::s![rows.clone(), ..]);
            let stored = writer.map_rows(MapRows { label, first: rows.start, values });
            assert_eq!(stored.is_ok(), number < refused, "{label}, {rows:?}: {stored:?}");
        }
    }
}

#[test]
fn a_correlation_without_what_was_promised_is_refused() {
    let inputs = fixture::inputs(Hash::Present);
    let target = fixture::target(&inputs);
    let begin = || {
        ResultWriter::begin(&Opener::anywhere(), &target, &inputs.metadata, &inputs.qmap, Analyses::Both)
            .expect("begun")
    };
    let finish = |writer: ResultWriter, analyses| {
        let correlation = fixture::correlation(analyses, 0);
        let (settings, provenance) = (fixture::settings(), fixture::provenance());
        let error = writer
            .finish(&correlation, &fixture::partition(), &settings, &provenance, &OwnNaming)
            .expect_err("refused");
        std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default()
    };
    assert!(finish(begin(), Analyses::MultiTau).contains("two-time g2"));
    assert!(finish(begin(), Analyses::TwoTime).contains("multi-tau g2"));
    let mut writer = begin();
    let map = fixture::map(4);
    let whole = MapRows { label: 4, first: 0, values: map.view() };
    writer.map_rows(whole).expect("stored");
    writer.map_rows(whole).expect_err("stored twice");
    assert!(finish(writer, Analyses::Both).contains("c2_00002"));
    let mut writer = begin();
    fixture::hand_over(&mut writer, &fixture::correlation(Analyses::TwoTime, 0)).expect("stored");
    let (partition, values) = (fixture::partition(), fixture::pixel_g2());
    let some = values.slice(ndarray::s![.., .., ..50]);
    writer.pixel_g2(PixelG2 { pixels: &partition.pixels()[..50], values: some }).expect("stored");
    assert!(finish(writer, Analyses::Both).contains("per-pixel correlations of some pixels"));
    assert_eq!(std::fs::read_dir(&target.directory).expect("listed").count(), 0);
}
