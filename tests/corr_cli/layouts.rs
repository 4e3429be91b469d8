//! The same counts in different files give the same result: Eiger masters, virtual datasets and Rigaku FastTransfer
//! against plain HDF5 frames.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use hdf5::types::{TypeDescriptor, VarLenUnicode};
use hdf5::{Container, File, Group, Hyperslab, Selection, SliceOrIndex};
use ndarray::{Array2, s};
use speckled::correlate::bins::Shape;
use speckled::dataset::stitch::{CANVAS, MODULE, MODULES, module_origin};

use crate::common::{Measurement, counts, labels, lock, write_frames};

const SMALL: Shape = Shape { rows: 12, cols: 16 };
const FRAMES: usize = 61;

/// Frames of the data files behind a master: not all as long, and one of a single frame.
const BLOCKS: [Range<usize>; 3] = [0..25, 25..26, 26..FRAMES];

/// What says which files were read, or when.
const OWN: [&str; 8] = [
    "/xpcs/rawdata_path",
    "/xpcs/multitau/config/raw",
    "/xpcs/twotime/config/raw",
    "/xpcs/provenance/raw_files",
    "/xpcs/provenance/raw_bytes",
    "/xpcs/provenance/raw_format",
    "/xpcs/provenance/start_time",
    "/xpcs/provenance/wall_time_s",
];

/// The values of a dataset; numbers as bits, so that NaN equals NaN.
#[derive(Debug, PartialEq)]
enum Values {
    Numbers(Vec<usize>, Vec<u64>),
    Texts(Vec<String>),
}

/// Every dataset of a result by its path.
fn contents(path: &Path) -> BTreeMap<String, Values> {
    fn connection(group: &Group, out: &mut BTreeMap<String, Values>) {
        for dataset in group.datasets().expect("datasets") {
            out.insert(dataset.name(), values(&dataset));
        }
        group.groups().expect("groups").iter().for_each(|group| connection(group, out));
    }
    let mut out = BTreeMap::new();
    connection(&File::open(path).expect("a result opens"), &mut out);
    out
}

fn values(dataset: &Container) -> Values {
    let kind = dataset.dtype().and_then(|kind| kind.to_descriptor()).expect("a type");
    if kind == TypeDescriptor::VarLenUnicode {
        let texts = dataset.read_raw::<VarLenUnicode>().expect("texts");
        return Values::Texts(texts.iter().map(ToString::to_string).collect());
    }
    let bits = if kind == TypeDescriptor::Boolean {
        dataset.read_raw::<bool>().expect("flags").into_iter().map(u64::from).collect()
    } else {
        dataset.read_raw::<f64>().expect("numbers").into_iter().map(f64::to_bits).collect()
    };
    Values::Numbers(dataset.shape(), bits)
}

/// Asserts that `corr` stores the same of `raw` as of the measurement's own file.
fn assert_same_result(measurement: &mut Measurement, raw: PathBuf, options: &[&str]) {
    let metadata = measurement.metadata.to_str().expect("UTF-8").to_owned();
    // The default of the memory is what is free just now, and results record it.
    let options = [options, &["--meta-fname", &metadata, "--max-memory", "2"]].concat();
    let plain = contents(&measurement.corr(&options).result());
    measurement.raw = raw;
    let other = contents(&measurement.corr(&options).result());
    assert_eq!(other.keys().collect::<Vec<_>>(), plain.keys().collect::<Vec<_>>());
    for (name, values) in &plain {
        assert!(OWN.contains(&name.as_str()) || other[name] == *values, "{name}");
        assert!(
            !matches!(values, Values::Numbers(_, bits) if bits.is_empty()) || name.contains("/saturated_"),
            "{name}"
        );
    }
    assert_eq!(OWN.iter().filter(|name| plain.contains_key(**name)).count(), OWN.len());
}

/// Plain frames, and the same in data files beside them, named as Eiger names them.
fn in_blocks() -> Measurement {
    let frames = counts(FRAMES, SMALL.pixels(), 12);
    let measurement = Measurement::hdf5(&frames, labels(SMALL, 3));
    for (number, block) in (1..).zip(BLOCKS) {
        let block = frames.slice(s![block, ..]).to_owned();
        write_frames(&measurement.dir.path().join(data_file(number)), &block, SMALL);
    }
    measurement
}

fn data_file(number: usize) -> String {
    format!("E0007_data_{number:06}.h5")
}

#[test]
fn an_eiger_master_gives_the_result_of_plain_frames() {
    let mut measurement = in_blocks();
    let master = measurement.dir.path().join("E0007_master.h5");
    {
        let _excluded = lock();
        let group = File::create(&master).and_then(|file| file.create_group("entry/data")).expect("created");
        for number in 1..=BLOCKS.len() {
            let name = format!("data_{number:06}");
            group.link_external(&data_file(number), "/entry/data/data", &name).expect("linked");
        }
    }
    assert_same_result(&mut measurement, master, &["-t", "Both", "-G", "-np", "2", "-b", "3"]);
}

#[test]
fn a_virtual_dataset_gives_the_result_of_plain_frames() {
    let mut measurement = in_blocks();
    let path = measurement.dir.path().join("E0007_virtual.h5");
    let shape = |frames: usize| [frames, SMALL.rows, SMALL.cols];
    {
        let _excluded = lock();
        let group = File::create(&path).and_then(|file| file.create_group("entry/data")).expect("created");
        let mut builder = group.new_dataset::<u16>().shape(shape(FRAMES));
        for (number, block) in (1..).zip(BLOCKS) {
            let source = Selection::try_new((0..block.len(), .., ..)).expect("a selection");
            let target = Selection::try_new((block.clone(), .., ..)).expect("a selection");
            let (file, whole) = (data_file(number), shape(block.len()));
            builder = builder.virtual_map(file, "/entry/data/data", whole, source, shape(FRAMES), target);
        }
        builder.create("data").expect("written");
    }
    assert_same_result(&mut measurement, path, &["-t", "Both", "-G", "-f", "2", "-a", "2"]);
}

/// Frames of a Rigaku 3M, in plain HDF5 and as six module files; a fifth of the pixels is masked in.
fn fast_transfer(photons: usize) -> (Measurement, PathBuf) {
    const FRAMES: usize = 12;
    let mut labels = labels(CANVAS, 3);
    labels.mask.iter_mut().enumerate().for_each(|(pixel, mask)| *mask &= pixel % 5 == 0);
    let mut canvas = Array2::<u8>::zeros((FRAMES, CANVAS.pixels()));
    let mut modules = vec![Array2::<u8>::zeros((FRAMES, MODULE.pixels() / 4)); MODULES];
    // Frame 4 has no counts at all: no module stores it.
    for k in (0..FRAMES * photons).filter(|k| k % FRAMES != 4) {
        let word = (k as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let (frame, module) = (k % FRAMES, (word >> 48) as usize % MODULES);
        let (pixel, count) = ((word >> 24) as usize % MODULE.pixels(), (word >> 12) as u8 % 3 + 1);
        let (top, left) = module_origin(module);
        let place = (top + pixel / MODULE.cols) * CANVAS.cols + left + pixel % MODULE.cols;
        if canvas[(frame, place)] == 0 {
            canvas[(frame, place)] = count;
            modules[module][(frame, pixel / 4)] |= count << (2 * (pixel % 4));
        }
    }
    let measurement = Measurement::empty("A0001_r00001.h5", labels);
    write_frames(&measurement.raw, &canvas, CANVAS);
    let path = |module: usize| measurement.dir.path().join(format!("F0001.h5.{module:03}"));
    (0..).zip(&modules).for_each(|(module, frames)| write_module(&path(module), frames));
    let first = path(0);
    (measurement, first)
}

/// One module: a frame is a column, and a chunk where it has counts.
fn write_module(path: &Path, frames: &Array2<u8>) {
    let _excluded = lock();
    let (count, bytes) = frames.dim();
    let group = File::create(path).and_then(|file| file.create_group("entry/data")).expect("created");
    let builder = group.new_dataset::<u8>().chunk((bytes, 1)).shape((bytes, count));
    let dataset = builder.create("data").expect("created");
    for (frame, values) in frames.rows().into_iter().enumerate().filter(|(_, values)| values.iter().any(|&v| v > 0)) {
        let column = Hyperslab::from(vec![SliceOrIndex::from(..), SliceOrIndex::from(frame)]);
        dataset.write_slice(values.as_slice().expect("in order"), column).expect("written");
    }
}

/// Few photons go another way through the engine than many.
#[test]
fn fast_transfer_gives_the_result_of_plain_frames() {
    for photons in [3_000, 400_000] {
        let (mut measurement, raw) = fast_transfer(photons);
        assert_same_result(&mut measurement, raw, &["-t", "Both"]);
    }
}
