//! Small metadata and qmap files and made-up numbers to write results of.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use hdf5::types::VarLenUnicode;
use hdf5::{File, H5Type};
use ndarray::{Array2, Array3, Axis};
use speckled::correlate::bins::{Labels, Partition, Shape};
use speckled::correlate::delays::DelayPlan;
use speckled::correlate::result::{Correlation, MapRows, MultiTau, PixelG2, SaturatedPixel, Scattering, TwoTime};
use speckled::correlate::scattering::SegmentPlan;
use speckled::correlate::twotime::Diagonals;
use speckled::dataset::Opener;
use speckled::dataset::result::{OwnNaming, Parents, Provenance, ResultSettings, ResultTarget, ResultWriter};
use speckled::dataset::{DatasetError, ResultSink, SourceInfo};
use speckled::task::correlate::{Analyses, Overwrite};

pub(crate) const SHAPE: Shape = Shape { rows: 24, cols: 32 };
pub(crate) const FRAMES: usize = 700;
pub(crate) const STATIC_BINS: usize = 12;
pub(crate) const DYNAMIC_BINS: usize = 4;
/// The dynamic bins that have a two-time map.
pub(crate) const MAPS: [u32; 2] = [2, 4];

/// The inputs of a result, in a directory of their own.
pub(crate) struct Inputs {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) metadata: PathBuf,
    pub(crate) qmap: PathBuf,
}

/// Whether the qmap carries a `hash`, as pySimpleMask writes it.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Hash {
    Present,
    Absent,
}

pub(crate) fn inputs(hash: Hash) -> Inputs {
    let dir = tempfile::tempdir().expect("a directory");
    let (metadata, qmap) = (dir.path().join("A0001_metadata.hdf"), dir.path().join("qmap.hdf"));
    write_metadata(&metadata);
    write_qmap(&qmap, hash);
    Inputs { dir, metadata, qmap }
}

pub(crate) fn target(inputs: &Inputs) -> ResultTarget {
    let directory = inputs.dir.path().join("out");
    ResultTarget {
        directory,
        stem: "A0001".to_owned(),
        overwrite: Overwrite::Number,
        parents: Parents::Made,
        note: None,
    }
}

fn text(value: &str) -> VarLenUnicode {
    VarLenUnicode::from_str(value).expect("no NUL")
}

fn scalar<T: H5Type>(file: &File, path: &str, value: T) {
    file.new_dataset::<T>().create(path).and_then(|d| d.write_scalar(&value)).expect(path);
}

fn array<T: H5Type>(file: &File, path: &str, shape: &[usize], values: &[T]) {
    file.new_dataset::<T>().shape(shape).create(path).and_then(|d| d.write_raw(values)).expect(path);
}

fn write_metadata(path: &Path) {
    let file = File::create(path).expect("created");
    for (name, value) in [
        ("schema_version", "0.1.0"),
        ("definition", "NXxpcs"),
        ("start_time", "2026-11-22 10:00:00"),
        ("end_time", "2026-11-22 10:01:00"),
        ("instrument/detector_1/detector_name", "rigaku500k"),
        ("sample/short_description", "silica in water"),
        ("user/name", "A. Scientist"),
    ] {
        scalar(&file, &format!("entry/{name}"), text(value));
    }
    for (name, value) in [
        ("detector_1/frame_time", 2e-5),
        ("detector_1/count_time", 1.9e-5),
        ("detector_1/x_pixel_size", 7.6e-5),
        ("detector_1/y_pixel_size", 7.6e-5),
        ("detector_1/distance", 8.0),
        ("incident_beam/incident_energy", 10.0),
    ] {
        scalar(&file, &format!("entry/instrument/{name}"), value);
    }
}

/// Two columns are masked out; static bins are pairs of rows, dynamic bins three static bins each.
pub(crate) fn labels() -> Labels {
    let col = |pixel: usize| pixel % SHAPE.cols;
    let bin = |pixel: usize, bins: usize| (pixel / SHAPE.cols * bins / SHAPE.rows) as u32 + 1;
    let of = |bins: usize| (0..SHAPE.pixels()).map(|p| if col(p) < 2 { 0 } else { bin(p, bins) }).collect();
    Labels {
        shape: SHAPE,
        mask: (0..SHAPE.pixels()).map(|p| col(p) >= 2).collect(),
        blemish: vec![true; SHAPE.pixels()],
        dynamic_labels: of(DYNAMIC_BINS),
        static_labels: of(STATIC_BINS),
    }
}

fn write_qmap(path: &Path, hash: Hash) {
    let file = File::create(path).expect("created");
    let group = file.create_group("qmap").expect("created");
    if hash == Hash::Present {
        group
            .new_attr::<VarLenUnicode>()
            .create("hash")
            .and_then(|a| a.write_scalar(&text("c0ffee")))
            .expect("written");
    }
    let labels = labels();
    let image = [SHAPE.rows, SHAPE.cols];
    array(&file, "qmap/mask", &image, &labels.mask);
    array(&file, "qmap/blemish", &image, &labels.blemish);
    array(&file, "qmap/map_names", &[2], &[text("q"), text("phi")]);
    array(&file, "qmap/map_units", &[2], &[text("Å⁻¹"), text("deg")]);
    for (name, value) in [
        ("beam_center_x", 16.0),
        ("beam_center_y", 12.0),
        ("pixel_size", 7.6e-5),
        ("energy", 10.0),
        ("detector_distance", 8.0),
    ] {
        scalar(&file, &format!("qmap/{name}"), value);
    }
    for (prefix, bins, map) in
        [("static", STATIC_BINS, &labels.static_labels), ("dynamic", DYNAMIC_BINS, &labels.dynamic_labels)]
    {
        let map: Vec<u8> = map.iter().map(|&l| l as u8).collect();
        let q: Vec<f64> = (0..bins).map(|b| 0.002 + 0.001 * b as f64).collect();
        array(&file, &format!("qmap/{prefix}_roi_map"), &image, &map);
        array(&file, &format!("qmap/{prefix}_v_list_dim0"), &[bins], &q);
        array(&file, &format!("qmap/{prefix}_v_list_dim1"), &[1], &[0.0]);
        array(&file, &format!("qmap/{prefix}_num_pts"), &[2], &[bins as i64, 1]);
        array(&file, &format!("qmap/{prefix}_index_mapping"), &[bins], &(0..bins as u8).collect::<Vec<_>>());
    }
}

pub(crate) fn partition() -> Partition {
    Partition::new(&labels(), &[]).expect("pixels")
}

/// g2 that decays, faster at larger bins.
fn decay(frames: usize) -> MultiTau {
    let delays = DelayPlan::new(frames as u64).delay_list();
    let g2 = |(k, bin): (usize, usize)| 1.0 + 0.2 * (-(delays[k] as f64) * (bin + 1) as f64 / 50.0).exp();
    MultiTau {
        g2: Array2::from_shape_fn((delays.len(), DYNAMIC_BINS), g2),
        g2_err: Array2::from_elem((delays.len(), DYNAMIC_BINS), 1e-3),
        delays,
    }
}

/// The map of a bin, with the upper triangle filled.
pub(crate) fn map(label: u32) -> Array2<f32> {
    let c2 = |(row, col): (usize, usize)| {
        if col < row {
            0.0
        } else {
            1.0 + 0.2 * (-((col - row) as f32) * label as f32 / 50.0).exp() + row as f32 * 1e-5
        }
    };
    Array2::from_shape_fn((FRAMES, FRAMES), c2)
}

/// Per-pixel correlations of all pixels: (delay, channel, pixel).
pub(crate) fn pixel_g2() -> Array3<f32> {
    let delays = DelayPlan::new(FRAMES as u64).len();
    let value = |(k, c, p): (usize, usize, usize)| (1000 * k + 100 * c) as f32 + p as f32 * 0.25;
    Array3::from_shape_fn((delays, 3, partition().pixels().len()), value)
}

/// Numbers for `analyses`, with `parts` parts.
pub(crate) fn correlation(analyses: Analyses, parts: usize) -> Correlation {
    let whole = decay(FRAMES);
    let diagonals = MAPS.map(|label| {
        let mut diagonals = Diagonals::new(FRAMES);
        diagonals.add(0, map(label).as_slice().expect("contiguous"));
        diagonals
    });
    let full = diagonals.each_ref().map(Diagonals::means);
    let blocks = diagonals.each_ref().map(Diagonals::block_means);
    let two_time = TwoTime {
        labels: MAPS.to_vec(),
        g2: Array2::from_shape_fn((FRAMES, MAPS.len()), |(tau, m)| full[m][tau]),
        g2_segments: Array3::from_shape_fn((FRAMES / 5, 5, MAPS.len()), |(tau, block, m)| blocks[m][(tau, block)]),
    };
    Correlation {
        scattering: Scattering {
            image: (0..SHAPE.pixels()).map(|p| p as f64 / 100.0).collect(),
            bins: (0..STATIC_BINS).map(|b| 1.0 / (b + 1) as f64).collect(),
            segments: Array2::from_elem((SegmentPlan::new(FRAMES as u64).segments, STATIC_BINS), 0.5),
            intensity: (0..FRAMES).map(|t| 1.0 + (t % 7) as f64 / 70.0).collect(),
        },
        multi_tau: analyses.multi_tau().then_some(whole),
        parts: (0..parts).map(|_| decay(FRAMES / parts)).collect(),
        two_time: analyses.two_time().then_some(two_time),
        saturated: vec![SaturatedPixel { pixel: 5, frame: 0 }, SaturatedPixel { pixel: 40, frame: 7 }],
    }
}

pub(crate) fn settings() -> ResultSettings {
    let mut settings = ResultSettings::new(NonZeroU32::MIN, NonZeroU32::MIN);
    settings.set("begin_frame", 0).set("normalize_frame", true).set("smooth", "sqmap").set("max_memory", 36.0);
    settings.set("dq_selection", vec![2, 4]);
    settings
}

pub(crate) fn provenance() -> Provenance {
    Provenance {
        version: "0.0.0".to_owned(),
        engine: "cpu".to_owned(),
        device: "a processor".to_owned(),
        host: "node1".to_owned(),
        started: SystemTime::UNIX_EPOCH + Duration::from_secs(1_763_800_000),
        wall_time: Duration::from_millis(1500),
        source: SourceInfo {
            format: "Rigaku 64-bit events".to_owned(),
            files: vec![PathBuf::from("/data/A0001.bin")],
            bytes: 8000,
            shape: SHAPE,
            frames: FRAMES as u64,
        },
        warnings: vec!["2 saturated pixels left out".to_owned()],
    }
}

/// Stores what a correlation hands over while it runs: maps and, where it has parts, per-pixel correlations.
pub(crate) fn hand_over(writer: &mut ResultWriter, correlation: &Correlation) -> Result<(), DatasetError> {
    for &label in correlation.two_time.iter().flat_map(|two_time| &two_time.labels) {
        let together = writer.rows_together(FRAMES);
        let map = map(label);
        for (band, values) in map.axis_chunks_iter(Axis(0), together).enumerate() {
            writer.map_rows(MapRows { label, first: band * together, values })?;
        }
    }
    if !correlation.parts.is_empty() {
        // the last pixels first: they come in any order
        let (partition, values) = (partition(), pixel_g2());
        let (first, second) = values.view().split_at(Axis(2), 100);
        for (pixels, values) in [(&partition.pixels()[100..], second), (&partition.pixels()[..100], first)] {
            writer.pixel_g2(PixelG2 { pixels, values })?;
        }
    }
    Ok(())
}

/// Writes a result with all that `correlation` holds.
pub(crate) fn write(target: &ResultTarget, inputs: &Inputs, analyses: Analyses, correlation: &Correlation) -> PathBuf {
    let mut writer =
        ResultWriter::begin(&Opener::anywhere(), target, &inputs.metadata, &inputs.qmap, analyses).expect("begun");
    hand_over(&mut writer, correlation).expect("stored");
    writer.finish(correlation, &partition(), &settings(), &provenance(), &OwnNaming).expect("finished")
}
