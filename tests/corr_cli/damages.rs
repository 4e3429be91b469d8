//! Random damages of HDF5 files through the program as it is: whatever the HDF5 library makes of them, a command ends by
//! itself, in time, with a code of the table, and leaves no result after a failure. Damages are numbered: the same number is
//! the same damage. `SPECKLED_DAMAGES` is how many there are, or the numbers of some, as `17..18`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use hdf5::{File, Selection};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use speckled::correlate::bins::Shape;
use tempfile::TempDir;

use crate::common::{PROGRAM, Run, counts, entries, golden, labels, lock, piped, run, write_frames, write_metadata};
use crate::common::{finish, write_qmap};

/// Damages of a plain run of the tests.
const DAMAGES: u64 = 2000;

/// Damages that crash HDF5 2.2, or send it round without an end: they are always among those of a plain run.
const KNOWN: [u64; 2] = [50_188, 24_937];

/// Seconds that a command may take: one that computes without an end is stopped by itself before.
const DEADLINE: &str = "120";

/// Seconds that the library may compute over a file.
const COMPUTING: &str = "2";

/// Codes that a damaged file may lead to: done, a parameter that does not fit it, the qmap, the data, what cannot be
/// correlated.
const CODES: [i32; 5] = [0, 65, 72, 73, 74];

/// What is said of a reader that came to an end over a file.
const ENDS: [&str; 4] = ["died by signal", "s of computing", "ended with exit code", "gave an answer that cannot be"];

const SHAPE: Shape = Shape { rows: 12, cols: 16 };

/// Files of one measurement, of which one is damaged at a time.
struct Victim {
    raw: &'static str,
    /// Those that are damaged, the first more often.
    files: Vec<&'static str>,
    /// Whether it is small enough to be correlated each time.
    correlated: bool,
}

fn simulate(dir: &Path, name: &str, options: &str) {
    let dir = dir.to_str().expect("UTF-8");
    let options = options.split(' ').chain(["--name", name, "-o", dir, "-w"]);
    let made = run(std::iter::once("simulate").chain(options));
    assert_eq!(made.code, 0, "{}", made.stderr);
}

/// Makes the files, all of them in one directory.
fn make(dir: &Path) -> Vec<Victim> {
    let small = "--rows 12 --cols 16 --frames 12 --dtype u16";
    simulate(dir, "shuffled", &format!("--format hdf5 {small} --compression bslz4"));
    simulate(dir, "plain", &format!("--format hdf5 {small} --compression none"));
    simulate(dir, "eiger", &format!("--format eiger {small} --frames-per-file 5"));
    simulate(dir, "fast", "--format ftf --frames 2 --counts 0.0001 --dynamics none");
    write_frames(&dir.join("gzip.h5"), &counts(12, SHAPE.pixels(), 3), SHAPE);
    write_qmap(&dir.join("qmap.h5"), &labels(SHAPE, 3));
    write_metadata(&dir.join("metadata.hdf"));
    virtual_frames(&dir.join("virtual.h5"));
    let mut victims = vec![
        Victim { raw: "shuffled.h5", files: vec!["shuffled.h5"], correlated: true },
        Victim { raw: "plain.h5", files: vec!["plain.h5"], correlated: true },
        Victim { raw: "gzip.h5", files: vec!["gzip.h5"], correlated: true },
        Victim { raw: "eiger_master.h5", files: vec!["eiger_master.h5", "eiger_data_000002.h5"], correlated: true },
        Victim { raw: "virtual.h5", files: vec!["virtual.h5"], correlated: true },
        Victim { raw: "fast.h5.000", files: vec!["fast.h5.000", "fast.h5.003"], correlated: false },
        Victim { raw: "gzip.h5", files: vec!["qmap.h5"], correlated: true },
        Victim { raw: "gzip.h5", files: vec!["metadata.hdf"], correlated: true },
    ];
    // files that have crashed the library, as a start for others
    if let Some(crashing) = golden("reports/damaged_hdf5_that_crashes_the_library") {
        for name in ["a.h5", "b.h5"] {
            fs::write(dir.join(name), fs::read(crashing.join(name)).expect("read")).expect("written");
        }
        victims.push(Victim { raw: "a.h5", files: vec!["a.h5"], correlated: false });
        victims.push(Victim { raw: "b.h5", files: vec!["b.h5"], correlated: false });
    }
    victims
}

/// Frames of the Eiger's data files in another order.
fn virtual_frames(path: &Path) {
    let _excluded = lock();
    let group = File::create(path).and_then(|file| file.create_group("entry/data")).expect("created");
    let shape = |frames: usize| [frames, SHAPE.rows, SHAPE.cols];
    let mut builder = group.new_dataset::<u16>().shape(shape(10));
    for (number, first) in [(2, 0), (1, 5)] {
        let source = Selection::try_new((0..5, .., ..)).expect("a selection");
        let target = Selection::try_new((first..first + 5, .., ..)).expect("a selection");
        let file = format!("eiger_data_{number:06}.h5");
        builder = builder.virtual_map(file, "/entry/data/data", shape(5), source, shape(10), target);
    }
    builder.create("data").expect("written");
}

/// Changes some bytes, or cuts the file.
fn damage(bytes: &mut Vec<u8>, random: &mut ChaCha8Rng) {
    /// The structures of small files are there, so that most damages hit what the library reads.
    const FRONT: usize = 8 << 10;
    /// Numbers that upset programs.
    const ODD: [u64; 8] = [0, 1, 0x7f, 0xff, 0x7fff_ffff, 0xffff_ffff, u64::MAX - 15, u64::MAX];
    if random.random_ratio(1, 50) {
        bytes.truncate(random.random_range(0..bytes.len()));
        return;
    }
    for _ in 0..random.random_range(1..12) {
        let front = bytes.len().min(FRONT);
        let place = match random.random_range(0..4) {
            0 => random.random_range(0..bytes.len()),
            1 => bytes.len() - 1 - random.random_range(0..front),
            _ => random.random_range(0..front),
        };
        if random.random_ratio(1, 4) {
            let width = [1, 2, 4, 8][random.random_range(0..4)].min(bytes.len() - place);
            let odd = ODD[random.random_range(0..ODD.len())].to_le_bytes();
            bytes[place..place + width].copy_from_slice(&odd[..width]);
        } else {
            bytes[place] = random.random();
        }
    }
}

/// A place where one thread damages files and puts them right again.
struct Bench {
    dir: TempDir,
    victims: Vec<Victim>,
    whole: BTreeMap<&'static str, Vec<u8>>,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let victims = make(dir.path());
        let names = victims.iter().flat_map(|victim| &victim.files);
        let read = |name: &&'static str| (*name, fs::read(dir.path().join(name)).expect("read"));
        let whole = names.map(read).collect();
        Self { dir, victims, whole }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Damages a file and runs a command on it; says what was wrong with how that ended.
    fn try_one(&self, number: u64) -> Result<(i32, Option<String>), String> {
        let mut random = ChaCha8Rng::seed_from_u64(number);
        let victim = &self.victims[random.random_range(0..self.victims.len())];
        let file = victim.files[random.random_range(0..victim.files.len())];
        let mut bytes = self.whole[file].clone();
        damage(&mut bytes, &mut random);
        self.write(file, &bytes);
        let correlated = victim.correlated && random.random_ratio(2, 3);
        let run =
            if correlated { self.corr(victim) } else { self.info(if random.random() { victim.raw } else { file }) };
        self.write(file, &self.whole[file]);
        let left = entries(&self.at("out"));
        let wrong = |what: &str| Err(format!("damage {number} of {file}: {what}, code {}: {}", run.code, run.stderr));
        let results = left.iter().filter(|name| name.ends_with("_results.hdf") && !name.starts_with('.')).count();
        let wanted = usize::from(correlated && run.code == 0);
        for name in &left {
            fs::remove_file(self.at("out").join(name)).expect("removed");
        }
        match run.code {
            code if !CODES.contains(&code) => wrong("it ended in another way than it should"),
            _ if run.stderr.contains("panicked") => wrong("it panicked"),
            _ if (left.len(), results) != (wanted, wanted) => wrong("it left something, or nothing"),
            code => {
                let died = ENDS.into_iter().any(|end| run.stderr.contains(end));
                Ok((code, died.then(|| format!("damage {number} of {file}: {}", run.stderr.trim()))))
            }
        }
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let file = fs::File::options().write(true).open(self.at(name)).expect("opened");
        file.set_len(bytes.len() as u64).and_then(|()| file.write_all_at(bytes, 0)).expect("written");
    }

    fn info(&self, name: &str) -> Run {
        self.finish(&["info", self.at(name).to_str().expect("UTF-8")])
    }

    fn corr(&self, victim: &Victim) -> Run {
        let [raw, qmap, metadata, out] = [victim.raw, "qmap.h5", "metadata.hdf", "out"]
            .map(|name| self.at(name).to_str().expect("UTF-8").to_owned());
        self.finish(&["corr", "-r", &raw, "-q", &qmap, "--meta-fname", &metadata, "-o", &out, "-t", "Both"])
    }

    fn finish(&self, args: &[&str]) -> Run {
        let mut command = Command::new("timeout");
        command.args(["-k", "1", DEADLINE, PROGRAM]).args(args);
        command.env("SPECKLED_INPUT_LIMIT_S", COMPUTING).env("RAYON_NUM_THREADS", "1");
        finish(piped(command))
    }
}

fn numbers() -> Vec<u64> {
    let asked = std::env::var("SPECKLED_DAMAGES").unwrap_or_default();
    let number = |text: &str| text.trim().parse().expect("SPECKLED_DAMAGES is a number, or two as 17..18");
    match asked.split_once("..") {
        _ if asked.is_empty() => (0..DAMAGES).chain(KNOWN).collect(),
        Some((first, end)) => (number(first)..number(end)).collect(),
        None => (0..number(&asked)).collect(),
    }
}

#[test]
fn no_damage_ends_a_command_by_itself_or_is_believed() {
    let (numbers, found) = (numbers(), Mutex::new((BTreeMap::<i32, u64>::new(), Vec::new(), Vec::new())));
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let bench = Bench::new();
                loop {
                    let Some(&number) = numbers.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
                    let tried = bench.try_one(number);
                    let mut found = found.lock().expect("no thread panics while it has this");
                    match tried {
                        Ok((code, end)) => {
                            *found.0.entry(code).or_default() += 1;
                            found.1.extend(end);
                        }
                        Err(wrong) => found.2.push(wrong),
                    }
                }
            });
        }
    });
    let (codes, ends, wrong) = found.into_inner().expect("no thread panicked");
    let summary = format!("{} damages: codes {codes:?}, {} readers died", numbers.len(), ends.len());
    if let Some(path) = std::env::var_os("SPECKLED_DAMAGES_REPORT") {
        fs::write(path, [vec![summary.clone()], ends, wrong.clone()].concat().join("\n")).expect("written");
    }
    assert!(wrong.is_empty(), "{summary}; {} were wrong:\n{}", wrong.len(), wrong.join("\n"));
    // most damages are noticed, and some hit nothing that is read
    let many = numbers.len() as u64 >= DAMAGES;
    assert!(!many || codes.len() >= 3 && codes.contains_key(&0) && codes.contains_key(&73), "{summary}");
}
