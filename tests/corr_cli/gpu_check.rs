//! `scripts/gpu-check` as it runs on a machine with a GPU, with stand-ins for the tests and the benchmark that it starts: what
//! one step costs the others. What the real ones find is for a GPU.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use speckled::correlate::bins::Shape;
use tempfile::TempDir;

use crate::common::{Measurement, command, counts, finish, labels};
use crate::cuda;

/// The unpacked archive.
struct Kit {
    folder: TempDir,
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(name)
}

impl Kit {
    /// With these programs in place of the tests and of the benchmark.
    fn new(tests: &str, bench: &str) -> Self {
        let kit = Self { folder: tempfile::tempdir().expect("a directory") };
        for name in ["gpu-check", "agree.py", "compare.py"] {
            fs::copy(script(name), kit.path(name)).expect("copies");
        }
        symlink(env!("CARGO_BIN_EXE_speckled"), kit.path("speckled")).expect("a link");
        kit.program("tests", tests);
        kit.program("bench", bench);
        kit
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn program(&self, name: &str, body: &str) {
        fs::write(self.path(name), format!("#!/bin/bash\n{body}\n")).expect("writes");
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o755)).expect("may be run");
    }

    /// Runs a command of it; no step may take more than two seconds. Python has nothing that it could import.
    fn run(&self, which: &str, settings: &[(&str, &str)]) -> Output {
        self.program("python3", "exit 1");
        let path = format!("{}:{}", self.folder.path().display(), std::env::var("PATH").expect("a path"));
        let mut command = Command::new(self.path("gpu-check"));
        command.arg(which).arg(self.path("out")).env("PATH", path).env("GPU_CHECK_SMALL", "1");
        command.env("GPU_CHECK_STEP_SECONDS", "2").env("LD_LIBRARY_PATH", cuda::cuda()).envs(settings.iter().copied());
        command.output().expect("runs")
    }

    /// What is in the archive of logs.
    fn logs(&self) -> String {
        let done = Command::new("tar").arg("-xzOf").arg(self.path("out/logs.tar.gz")).output().expect("tar");
        assert!(done.status.success(), "{done:?}");
        String::from_utf8_lossy(&done.stdout).into_owned()
    }
}

const BENCH: &str = r#"case $1 in
list) printf 'ceilings\nevents\ndense\n' ;;
*) echo "$1 reaches much" ;;
esac"#;

/// The row of a step.
fn row<'a>(table: &'a str, name: &str) -> &'a str {
    let found = table.lines().find(|line| line.starts_with(&format!("{name} ")));
    found.unwrap_or_else(|| panic!("no row of {name} in:\n{table}"))
}

#[test]
fn a_hang_and_an_illegal_address_cost_one_group_each() {
    let tests = r#"case "$*" in
*--skip*) echo "test result: ok. 3 passed" ;;
*sort*) echo "test result: ok. 0 passed" ;;
*tests::events*) echo "events begin"; exec sleep 600 ;;
*tests::packed*) echo "thread panicked: CUDA_ERROR_ILLEGAL_ADDRESS (700)" >&2; exit 101 ;;
*) echo "test result: ok. 3 passed" ;;
esac"#;
    let kit = Kit::new(tests, &format!("[ \"$1\" = dense ] && exec sleep 600\n{BENCH}"));
    let done = kit.run("first", &[]);
    let table = String::from_utf8_lossy(&done.stdout).into_owned();
    assert_eq!(done.status.code(), Some(1), "{table}");
    for name in
        ["tests: driver", "tests: sort", "tests: frames", "tests: two-time", "tests: the others", "bench events"]
    {
        assert!(row(&table, name).contains("passed"), "{table}");
    }
    assert!(row(&table, "tests: events").contains("FAILED: not ended after 2 s"), "{table}");
    assert!(row(&table, "tests: packed").contains("CUDA_ERROR_ILLEGAL_ADDRESS (700)"), "{table}");
    assert!(table.contains("FAILED: no test has these names"), "{table}");
    assert!(row(&table, "bench dense").contains("FAILED: not ended"), "{table}");
    assert!(table.contains("events reaches much") && table.contains("ceilings reaches much"), "{table}");
    assert_eq!(fs::read_to_string(kit.path("out/table.txt")).expect("a table"), table);
    assert!(kit.logs().contains("events begin"), "what a step that hung has said is kept");
    let mut files: Vec<_> =
        fs::read_dir(kit.path("out")).expect("lists").map(|file| file.expect("a file").file_name()).collect();
    files.sort();
    assert_eq!(files, ["logs.tar.gz", "table.txt"]);
}

#[test]
fn steps_that_no_longer_fit_are_not_run_and_that_is_said() {
    let kit = Kit::new("echo 'test result: ok. 3 passed'", BENCH);
    let done = kit.run("first", &[("GPU_CHECK_SECONDS", "4")]);
    let table = String::from_utf8_lossy(&done.stdout);
    assert_eq!(done.status.code(), Some(1), "{table}");
    assert!(row(&table, "tests: events").contains("NOT RUN: no time is left"), "{table}");
    let kit = Kit::new("echo 'test result: ok. 3 passed'", BENCH);
    let done = kit.run("second", &[]);
    let table = String::from_utf8_lossy(&done.stdout);
    assert_eq!(done.status.code(), Some(0), "nothing that it needs is installed\n{table}");
    for name in ["ncu", "compute-sanitizer", "boost_corr, cuBLAS"] {
        assert!(row(&table, name).contains("not run"), "{table}");
    }
}

/// The profiler and the sanitizer run what they are given; the latter finds something.
#[test]
fn the_second_command_profiles_and_sanitizes() {
    let kit = Kit::new("echo \"tests run $*\"; echo 'test result: ok. 4 passed'", BENCH);
    kit.program("ncu", r#"while [ "$1" != "$KIT/bench" ]; do shift; done; exec "$@""#);
    kit.program(
        "compute-sanitizer",
        r#"[ "$2" = racecheck ] && { echo "========= ERROR: Potential WAR hazard"; exit 9; }
while [ "$1" != "$KIT/tests" ]; do shift; done
exec "$@""#,
    );
    let done = kit.run("second", &[("KIT", kit.folder.path().to_str().expect("a text"))]);
    let table = String::from_utf8_lossy(&done.stdout).into_owned();
    assert_eq!(done.status.code(), Some(1), "{table}");
    for name in ["ncu events-500k-5", "ncu dense-u8", "ncu two-time", "memcheck"] {
        assert!(row(&table, name).contains("passed"), "{table}");
    }
    assert!(row(&table, "racecheck").contains("FAILED (code 9): ========= ERROR: Potential WAR hazard"), "{table}");
    let logs = kit.logs();
    assert!(logs.contains("dense-u8 reaches much") && logs.contains("tests run engine::cuda::tests::"), "{logs}");
}

/// With the program itself, on a GPU that is played; needs a Python with h5py.
#[test]
fn results_are_compared_number_by_number() {
    let Some(python) = std::env::var_os("SPECKLED_VIEWER_PYTHON") else { return };
    let shape = Shape { rows: 20, cols: 31 };
    let measurement = Measurement::hdf5(&counts(60, shape.pixels(), 3), labels(shape, 4));
    let result = |gpu: &str, suffix: &str| {
        let mut command = command(measurement.args(&["-t", "Both", "-i", gpu, "-u", suffix]));
        command.env("LD_LIBRARY_PATH", cuda::cuda());
        finish(command).result()
    };
    let (cpu, gpu) = (result("-1", "cpu"), result("0", "gpu"));
    let agree = || Command::new(&python).arg(script("agree.py")).arg(&cpu).arg(&gpu).output().expect("runs");
    let done = agree();
    assert!(done.status.success(), "{done:?}");
    assert!(String::from_utf8_lossy(&done.stdout).contains("largest difference"), "{done:?}");
    let file = hdf5::File::open_rw(&gpu).expect("opens");
    let g2 = file.dataset("/xpcs/multitau/normalized_g2").expect("is there");
    let mut values: Vec<f32> = g2.read_raw().expect("reads");
    values[5] *= 1.0 + 1e-5;
    g2.write_raw(&values).expect("writes");
    drop((g2, file));
    let done = agree();
    assert_eq!(done.status.code(), Some(1), "{done:?}");
    assert!(String::from_utf8_lossy(&done.stdout).contains("/xpcs/multitau/normalized_g2"), "{done:?}");
}
