//! What the tests of the program share: running it, datasets made on the fly, the golden data, reading results.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hdf5::File;
use hdf5::types::VarLenUnicode;
use ndarray::{Array2, ArrayD, Axis};
use speckled::correlate::bins::{Labels, Partition, Shape};
use tempfile::TempDir;

/// The program that is tested.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_speckled");

/// What a run of the program left behind.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    /// The result's path: the last line of stdout of a run that succeeded.
    #[track_caller]
    pub(crate) fn result(&self) -> PathBuf {
        assert_eq!(self.code, 0, "{}", self.stderr);
        PathBuf::from(self.stdout.lines().last().expect("a line on stdout"))
    }

    /// The only error line of a run that failed with `code`.
    #[track_caller]
    pub(crate) fn error(&self, code: i32) -> &str {
        assert_eq!(self.code, code, "{}", self.stderr);
        let lines: Vec<_> = self.stderr.lines().filter(|line| line.contains("error")).collect();
        assert_eq!(lines.len(), 1, "{}", self.stderr);
        assert!(lines[0].starts_with("speckled: error: "), "{}", self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        lines[0]
    }
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// The program with these arguments, not yet started.
pub(crate) fn command<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Command {
    command_at(Path::new(PROGRAM), args)
}

/// The program under another path.
pub(crate) fn command_at<A: AsRef<OsStr>>(path: &Path, args: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(path);
    command.args(args);
    piped(command)
}

/// A command whose output is kept, in an environment that changes nothing.
pub(crate) fn piped(mut command: Command) -> Command {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).env_remove("RUST_LOG");
    command
}

/// Starts a command. A process that is started while another test has an HDF5 file open for writing inherits the
/// file and with it the library's lock; so starting and writing exclude each other.
pub(crate) fn start(mut command: Command) -> Child {
    let _excluded = lock();
    command.spawn().expect("the program starts")
}

/// Runs a command to its end.
pub(crate) fn finish(command: Command) -> Run {
    start(command).wait_with_output().expect("the program ends").into()
}

/// Runs the program to its end.
pub(crate) fn run<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Run {
    finish(command(args))
}

/// Held while a test has an HDF5 file open for writing: see [`start`].
pub(crate) fn lock() -> MutexGuard<'static, ()> {
    static FILES: Mutex<()> = Mutex::new(());
    FILES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The golden data, where the checkout lies beside them.
pub(crate) fn golden(case: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/golden").join(case);
    path.is_dir().then_some(path)
}

/// Label images of a small detector: `dynamic` rings of columns, each of three static bins; a masked-out edge.
pub(crate) fn labels(shape: Shape, dynamic: u32) -> Labels {
    let mut labels = Labels {
        shape,
        mask: vec![true; shape.pixels()],
        blemish: vec![true; shape.pixels()],
        dynamic_labels: vec![0; shape.pixels()],
        static_labels: vec![0; shape.pixels()],
    };
    for pixel in 0..shape.pixels() {
        let (row, col) = shape.place(pixel as u32);
        let ring = col as u32 * dynamic / shape.cols as u32;
        if row == 0 {
            labels.mask[pixel] = false;
            labels.blemish[pixel] = col % 2 == 0;
        } else {
            labels.dynamic_labels[pixel] = ring + 1;
            labels.static_labels[pixel] = ring * 3 + row as u32 % 3 + 1;
        }
    }
    labels
}

/// Counts of correlated noise, the same for the same seed: (frame, pixel).
pub(crate) fn counts(frames: usize, pixels: usize, seed: u64) -> Array2<u16> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32
    };
    let mut level = vec![0u32; pixels];
    Array2::from_shape_fn((frames, pixels), |(_, pixel)| {
        if random() % 5 == 0 {
            level[pixel] = random() % 6;
        }
        (random() % (level[pixel] + 2)) as u16
    })
}

/// Files of one measurement in a directory of their own.
pub(crate) struct Measurement {
    pub(crate) dir: TempDir,
    pub(crate) raw: PathBuf,
    pub(crate) qmap: PathBuf,
    pub(crate) metadata: PathBuf,
    pub(crate) labels: Labels,
}

impl Measurement {
    /// u16 frames in `A0001_r00001.h5`, with qmap and metadata.
    pub(crate) fn hdf5(frames: &Array2<u16>, labels: Labels) -> Self {
        let this = Self::empty("A0001_r00001.h5", labels);
        write_frames(&this.raw, frames, this.labels.shape);
        this
    }

    /// Events (frame, pixel, count) in a Rigaku 500k `.bin`, with qmap and metadata.
    pub(crate) fn rigaku(events: &[(u64, u64, u64)], labels: Labels) -> Self {
        let this = Self::empty("A0001_r00001.bin", labels);
        let bytes: Vec<u8> = events.iter().flat_map(|(f, p, c)| (f << 40 | p << 16 | c).to_le_bytes()).collect();
        fs::write(&this.raw, bytes).expect("written");
        this
    }

    /// Qmap and metadata only.
    pub(crate) fn empty(raw: &str, labels: Labels) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let stem = raw.split('.').next().expect("a stem");
        let this = Self {
            raw: dir.path().join(raw),
            qmap: dir.path().join("qmap.h5"),
            metadata: dir.path().join(format!("{stem}_metadata.hdf")),
            dir,
            labels,
        };
        write_qmap(&this.qmap, &this.labels);
        write_metadata(&this.metadata);
        this
    }

    /// Where results go.
    pub(crate) fn output(&self) -> PathBuf {
        self.dir.path().join("results")
    }

    /// Arguments for `corr`, more appended.
    pub(crate) fn args(&self, more: &[&str]) -> Vec<String> {
        let path = |path: &Path| path.to_str().expect("UTF-8").to_owned();
        let mut args = vec!["corr".to_owned(), "-r".to_owned(), path(&self.raw), "-q".to_owned(), path(&self.qmap)];
        args.extend(["-o".to_owned(), path(&self.output())]);
        args.extend(more.iter().map(|&arg| arg.to_owned()));
        args
    }

    /// Runs `corr` on it.
    pub(crate) fn corr(&self, more: &[&str]) -> Run {
        run(self.args(more))
    }

    /// The partition without the pixels in `excluded`.
    pub(crate) fn partition(&self, excluded: &[u32]) -> Partition {
        Partition::new(&self.labels, excluded).expect("a partition")
    }

    /// Everything in the output directory, hidden files too; nothing if it does not exist.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        entries(&self.output())
    }
}

/// Names in a directory; none if it is not there.
pub(crate) fn entries(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// `/entry/data/data` of (frame, row, column).
pub(crate) fn write_frames<T: hdf5::H5Type + Copy>(path: &Path, frames: &Array2<T>, shape: Shape) {
    let _excluded = lock();
    let size = (frames.nrows(), shape.rows, shape.cols);
    let values = frames.as_slice().expect("in order");
    let file = File::create(path).expect("created");
    let group = file.create_group("entry").and_then(|entry| entry.create_group("data")).expect("created");
    let builder = group.new_dataset::<T>().chunk((1, shape.rows, shape.cols)).deflate(1).shape(size);
    builder.create("data").and_then(|data| data.write_raw(values)).expect("written");
}

/// A qmap with everything that results need.
pub(crate) fn write_qmap(path: &Path, labels: &Labels) {
    let _excluded = lock();
    let file = File::create(path).expect("created");
    let group = file.create_group("qmap").expect("created");
    let size = (labels.shape.rows, labels.shape.cols);
    let flags = |name: &str, values: &[bool]| {
        let image = group.new_dataset::<bool>().shape(size).create(name);
        image.and_then(|image| image.write_raw(values)).expect("written");
    };
    let image = |name: &str, values: &[u32]| {
        let image = group.new_dataset::<u32>().shape(size).create(name);
        image.and_then(|image| image.write_raw(values)).expect("written");
    };
    flags("mask", &labels.mask);
    flags("blemish", &labels.blemish);
    image("dynamic_roi_map", &labels.dynamic_labels);
    image("static_roi_map", &labels.static_labels);
    for (kind, map) in [("dynamic", &labels.dynamic_labels), ("static", &labels.static_labels)] {
        let present: Vec<i64> = (1..=map.iter().copied().max().unwrap_or(0).min(10_000))
            .filter(|label| map.contains(label))
            .map(|label| i64::from(label) - 1)
            .collect();
        let bins = present.last().map_or(0, |last| last + 1);
        let list = |name: &str, values: &[f64]| {
            let name = format!("{kind}_{name}");
            group.new_dataset_builder().with_data(values).create(name.as_str()).expect("written");
        };
        list("v_list_dim0", &(0..bins).map(|bin| 0.01 * (bin + 1) as f64).collect::<Vec<_>>());
        list("v_list_dim1", &[0.0]);
        let integers = |name: &str, values: &[i64]| {
            let name = format!("{kind}_{name}");
            group.new_dataset_builder().with_data(values).create(name.as_str()).expect("written");
        };
        integers("num_pts", &[bins, 1]);
        integers("index_mapping", &present);
    }
    for (name, value) in [("beam_center_x", 4.0), ("beam_center_y", 4.0), ("pixel_size", 7.5e-5)] {
        scalar(&group, name, value);
    }
    scalar(&group, "detector_distance", 8.0);
    scalar(&group, "energy", 10.0);
    for (name, words) in [("map_names", ["q", "phi"]), ("map_units", ["1/A", "deg"])] {
        let words = words.map(unicode);
        group.new_dataset_builder().with_data(&words).create(name).expect("written");
    }
    group.new_attr::<VarLenUnicode>().create("hash").and_then(|a| a.write_scalar(&unicode("0"))).expect("written");
}

/// Metadata of the 8-ID schema, as little as results need.
pub(crate) fn write_metadata(path: &Path) {
    let _excluded = lock();
    let file = File::create(path).expect("created");
    let entry = file.create_group("entry").expect("created");
    for (name, words) in [("schema_version", "0.1.0"), ("start_time", "2026-02-03 04:05:06")] {
        let dataset = entry.new_dataset::<VarLenUnicode>().create(name).expect("created");
        dataset.write_scalar(&unicode(words)).expect("written");
    }
    let beam = entry.create_group("instrument/incident_beam").expect("created");
    scalar(&beam, "incident_energy", 10.0);
    let detector = entry.create_group("instrument/detector_1").expect("created");
    scalar(&detector, "frame_time", 1e-3);
    scalar(&detector, "count_time", 1e-3);
}

fn scalar(group: &hdf5::Group, name: &str, value: f64) {
    group.new_dataset::<f64>().create(name).and_then(|data| data.write_scalar(&value)).expect("written");
}

fn unicode(text: &str) -> VarLenUnicode {
    text.parse().expect("no NUL")
}

/// A numeric dataset of a file.
#[track_caller]
pub(crate) fn numbers(path: &Path, name: &str) -> ArrayD<f64> {
    let file = File::open(path).expect("a result opens");
    let dataset = file.dataset(name).unwrap_or_else(|error| panic!("{name}: {error}"));
    let values = dataset.read_raw::<f64>().unwrap_or_else(|error| panic!("{name}: {error}"));
    ArrayD::from_shape_vec(dataset.shape(), values).expect("as many values as the shape says")
}

/// Whether a file has this object.
pub(crate) fn has(path: &Path, name: &str) -> bool {
    File::open(path).expect("a result opens").link_exists(name)
}

/// A text scalar of a file.
#[track_caller]
pub(crate) fn text(path: &Path, name: &str) -> String {
    let file = File::open(path).expect("a result opens");
    let dataset = file.dataset(name).unwrap_or_else(|error| panic!("{name}: {error}"));
    dataset.read_scalar::<VarLenUnicode>().expect("a string").to_string()
}

/// Asserts equality to 1e-6 relative, as float32 stores numbers; NaN equals NaN. Axes of length 1 do not count.
#[track_caller]
pub(crate) fn assert_close(what: &str, found: &ArrayD<f64>, wanted: &ArrayD<f64>) {
    assert_near(what, found, wanted, 1e-30);
}

/// [`assert_close`], or within `floor`: for numbers that are differences of larger ones.
#[track_caller]
pub(crate) fn assert_near(what: &str, found: &ArrayD<f64>, wanted: &ArrayD<f64>, floor: f64) {
    let squeezed = |values: &ArrayD<f64>| -> Vec<usize> { values.shape().iter().copied().filter(|&n| n > 1).collect() };
    assert_eq!(squeezed(found), squeezed(wanted), "{what}: shape");
    for (index, (&a, &b)) in std::iter::zip(found, wanted).enumerate() {
        let same = (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-6 * b.abs() + floor;
        assert!(same, "{what}: number {index} is {a}, should be {b}");
    }
}

/// Every multi-tau number of a result against the float64 oracle on the frames that it should hold.
#[track_caller]
pub(crate) fn assert_oracle(result: &Path, frames: &Array2<f64>, partition: &Partition, normalized: bool) {
    use speckled::correlate::oracle;
    let series = if normalized { oracle::normalize(frames, partition) } else { frames.clone() };
    let wanted = oracle::multi_tau(&series, partition);
    let delays = numbers(result, "/xpcs/multitau/delay_list");
    assert_eq!(delays.iter().map(|&d| d as u64).collect::<Vec<_>>(), wanted.delays);
    assert_close("g2", &numbers(result, "/xpcs/multitau/normalized_g2"), &wanted.g2.into_dyn());
    // The spread of few pixels' g2, which are near 1 and known to float32's digits, may be as small as those.
    let errors = numbers(result, "/xpcs/multitau/normalized_g2_err");
    assert_near("g2_err", &errors, &wanted.g2_err.into_dyn(), 3e-7);
    assert_scattering(result, frames, partition);
}

/// The scattering numbers of a result against the oracle.
#[track_caller]
pub(crate) fn assert_scattering(result: &Path, frames: &Array2<f64>, partition: &Partition) {
    let wanted = speckled::correlate::oracle::scattering(frames, partition);
    let vector = |values: Vec<f64>| ndarray::Array1::from(values).into_dyn();
    let mean = |name: &str| numbers(result, &format!("/xpcs/temporal_mean/{name}"));
    assert_close("scattering_1d", &mean("scattering_1d"), &vector(wanted.bins));
    assert_close("segments", &mean("scattering_1d_segments"), &wanted.segments.into_dyn());
    let image = mean("scattering_2d").into_shape_with_order(partition.shape().pixels()).expect("an image");
    assert_close("scattering_2d", &image.into_dyn(), &vector(wanted.image));
    let intensity = numbers(result, "/xpcs/spatial_mean/intensity_vs_time");
    let intensity = intensity.index_axis(Axis(0), 1).to_owned();
    assert_close("intensity", &intensity, &vector(wanted.intensity));
}
