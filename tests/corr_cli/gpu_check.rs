//! `scripts/gpu-check` as it runs on a machine with a GPU, with stand-ins for the tests and the benchmark that it starts: what
//! one step costs the others. What the real ones find is for a GPU.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use speckled::correlate::bins::Shape;
use tempfile::TempDir;

use crate::common::{Measurement, command, counts, entries, finish, labels, piped, start};
use crate::cuda;
use crate::gpu::first_gpu;

/// The unpacked archive.
struct Kit {
    folder: TempDir,
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(name)
}

impl Kit {
    /// With these programs in place of the tests and of the benchmark. Python has nothing that it could import.
    fn new(tests: &str, bench: &str) -> Self {
        let kit = Self { folder: tempfile::tempdir().expect("a directory") };
        for name in ["gpu-check", "agree.py", "compare.py"] {
            fs::copy(script(name), kit.path(name)).expect("copies");
        }
        symlink(env!("CARGO_BIN_EXE_speckled"), kit.path("speckled")).expect("a link");
        fs::create_dir(kit.path("tmp")).expect("a directory");
        kit.program("tests", tests);
        kit.program("bench", bench);
        kit.program("python3", "exit 1");
        kit
    }

    /// Nothing is missing, and all is well.
    fn whole() -> Self {
        let kit = Self::new(PASSES, BENCH);
        fs::remove_file(kit.path("speckled")).expect("goes");
        // makes what it is to write: --output after the options of `simulate`, in the middle of those of `corr`
        let speckled = r#"how=$1
while [ "$1" != -o ]; do shift; done
mkdir -p "$2"
[ "$how" = simulate ] && name=sim.bin || name=sim_results.hdf
: >"$2/$name""#;
        kit.program("speckled", speckled);
        for name in ["python3", "nvidia-smi", "ncu", "compute-sanitizer"] {
            kit.program(name, "echo \"$0 is well\"; echo 'test result: ok. 1 passed'");
        }
        kit
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn program(&self, name: &str, body: &str) {
        let _not_started_meanwhile = crate::common::lock();
        fs::write(self.path(name), format!("#!/bin/bash\n{body}\n")).expect("writes");
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o755)).expect("may be run");
    }

    /// A command of it, where no step may hang, and SIGINT does what it does in a terminal.
    fn command(&self, arguments: &[&str], settings: &[(&str, &str)]) -> Command {
        let path = format!("{}:{}", self.folder.path().display(), std::env::var("PATH").expect("a path"));
        let mut command = Command::new("env");
        command.args(["--default-signal=INT", "timeout", "--foreground", "300"]);
        command.arg(self.path("gpu-check")).args(arguments).current_dir(self.folder.path());
        command.env("PATH", path).env("GPU_CHECK_SMALL", "1").env("GPU_CHECK_STEP_SECONDS", "30");
        command.env("KIT", self.folder.path()).env("TMPDIR", self.path("tmp"));
        command.env("LD_LIBRARY_PATH", cuda::cuda()).envs(settings.iter().copied());
        piped(command)
    }

    fn start(&self, arguments: &[&str], settings: &[(&str, &str)]) -> Child {
        start(self.command(arguments, settings))
    }

    /// Runs `first` or `second`; nothing but the table and the logs is left.
    fn run(&self, which: &str, settings: &[(&str, &str)]) -> Ended {
        let ended = Ended::from(self.start(&[which, "out"], settings).wait_with_output().expect("ends"));
        assert_eq!(entries(&self.path("tmp")), [""; 0], "{}", ended.table);
        ended
    }

    /// What is in the archive of logs of a command.
    fn logs(&self, which: &str) -> String {
        let logs = self.path(&format!("out/{which}-logs.tar.gz"));
        let done = Command::new("tar").arg("-xzOf").arg(logs).output().expect("tar");
        assert!(done.status.success(), "{done:?}");
        String::from_utf8_lossy(&done.stdout).into_owned()
    }

    /// Files that came out, but hidden ones.
    fn made(&self) -> Vec<String> {
        let mut names = entries(&self.path("out"));
        names.retain(|name| !name.starts_with('.'));
        names
    }
}

/// A run of the script.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    table: String,
    stderr: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            table: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Ended {
    /// The row of a step.
    #[track_caller]
    fn row(&self, name: &str) -> &str {
        let found = self.table.lines().find(|line| line.starts_with(&format!("{name} ")));
        found.unwrap_or_else(|| panic!("no row of {name} in:\n{}\n{}", self.table, self.stderr))
    }

    /// It said so in its table, and nothing beside it.
    #[track_caller]
    fn ended(&self, code: i32) {
        assert_eq!((self.code, self.stderr.as_str()), (Some(code), ""), "{}", self.table);
    }

    /// It did not begin: why, in one line.
    #[track_caller]
    fn refused(&self, words: &str) {
        assert_eq!((self.code, self.table.as_str()), (Some(2), ""), "{}", self.stderr);
        assert!(self.stderr.starts_with("error: ") && self.stderr.contains(words), "{}", self.stderr);
        assert_eq!(self.stderr.lines().count(), 1, "{}", self.stderr);
    }
}

/// Tests that pass.
const PASSES: &str = "echo 'test result: ok. 3 passed'";

const BENCH: &str = r#"case $1 in
list) printf 'ceilings\nevents\ndense\n' ;;
*) echo "$1 reaches much" ;;
esac"#;

/// Waits for a condition, for some seconds.
#[track_caller]
fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < Duration::from_secs(120), "{what}");
        std::thread::yield_now();
    }
}

/// Whether a process is there; one that nobody has waited for is gone as well.
fn runs(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')))
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
    let done = kit.run("first", &[("GPU_CHECK_STEP_SECONDS", "5")]);
    done.ended(1);
    for name in ["tests: driver", "tests: frames", "tests: two-time", "tests: the others", "bench events"] {
        assert!(done.row(name).contains("passed"), "{}", done.table);
    }
    let hung = done.row("tests: events");
    assert!(hung.ends_with("FAILED: not ended after 5 s; it last said: events begin"), "{hung}");
    assert!(done.row("tests: packed").contains("(code 101): thread panicked: CUDA_ERROR_ILLEGAL_ADDRESS (700)"));
    assert!(done.row("tests: sort").ends_with("FAILED: no test has these names"), "{}", done.table);
    assert!(done.row("bench dense").contains("FAILED: not ended"), "{}", done.table);
    assert!(done.table.contains("events reaches much") && done.table.contains("ceilings reaches much"));
    assert!(done.row("first").contains("9 passed, 4 failed, 11 not run"), "{}", done.table);
    assert_eq!(fs::read_to_string(kit.path("out/first.txt")).expect("a table"), done.table);
    assert!(kit.logs("first").contains("events begin"), "what a step that hung has said is kept");
    assert_eq!(kit.made(), ["first-logs.tar.gz", "first.txt"]);
}

#[test]
fn steps_that_no_longer_fit_are_not_run_and_that_is_a_failure() {
    let kit = Kit::new(PASSES, BENCH);
    let done = kit.run("first", &[("GPU_CHECK_SECONDS", "4")]);
    done.ended(1);
    assert!(done.row("tests: events").contains("NOT RUN: no time is left"), "{}", done.table);
    assert!(done.row("first").ends_with("0 passed, 0 failed, 22 not run (20: no time)"), "{}", done.table);
}

/// Each of the commands leaves what the other has found.
#[test]
fn the_exit_code_tells_what_passed_from_what_is_missing() {
    let kit = Kit::whole();
    let done = kit.run("first", &[]);
    done.ended(0);
    let passed = done.table.lines().filter(|line| line.contains(" passed in ")).count();
    assert!(done.row("first").ends_with(&format!("{passed} passed, 0 failed, 0 not run")), "{}", done.table);
    assert!(done.row("CPU and GPU: packed").contains("passed"), "{}", done.table);
    let first = fs::read_to_string(kit.path("out/first.txt")).expect("a table");
    kit.run("second", &[]).ended(0);
    assert_eq!(kit.made(), ["first-logs.tar.gz", "first.txt", "second-logs.tar.gz", "second.txt"]);
    assert_eq!(fs::read_to_string(kit.path("out/first.txt")).expect("a table"), first);
    assert!(kit.logs("first").contains("dense reaches much"));

    let kit = Kit::new(PASSES, BENCH);
    let done = kit.run("first", &[]);
    done.ended(3);
    assert!(done.row("first").ends_with("13 passed, 0 failed, 11 not run"), "{}", done.table);
    let done = kit.run("second", &[]);
    done.ended(3);
    for name in ["ncu", "compute-sanitizer", "cuBLAS's two-time product", "boost_corr"] {
        assert!(done.row(name).contains("NOT RUN"), "{}", done.table);
    }
    assert!(done.row("second").ends_with("0 passed, 0 failed, 8 not run"), "{}", done.table);
}

#[test]
fn a_benchmark_without_cases_and_a_profiler_without_kernels_have_failed() {
    for (list, words) in [("exit 3", "FAILED (code 3)"), ("true", "the benchmark names no case")] {
        let kit = Kit::whole();
        kit.program("bench", &format!("[ \"$1\" != list ] || {{ {list}; exit; }}\necho well"));
        let done = kit.run("first", &[]);
        done.ended(1);
        assert!(done.row("bench list").contains(words), "{}", done.table);
    }
    let kit = Kit::whole();
    kit.program(
        "ncu",
        "echo '==ERROR== ERR_NVGPUCTRPERM - no permission'; echo '==WARNING== No kernels were profiled.'",
    );
    let done = kit.run("second", &[]);
    done.ended(1);
    assert!(done.row("ncu two-time").contains("FAILED: ==ERROR== ERR_NVGPUCTRPERM"), "{}", done.table);
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
    let done = kit.run("second", &[]);
    done.ended(1);
    for name in ["ncu events-500k-5", "ncu dense-u8", "ncu two-time", "memcheck"] {
        assert!(done.row(name).contains("passed"), "{}", done.table);
    }
    assert!(done.row("racecheck").contains("FAILED (code 9): ========= ERROR: Potential WAR hazard"), "{}", done.table);
    let logs = kit.logs("second");
    assert!(logs.contains("dense-u8 reaches much") && logs.contains("tests run engine::cuda::tests::"), "{logs}");
}

#[test]
fn what_is_no_step_of_the_gpu_has_a_limit_too() {
    let hangs = "sleep 300";
    let speckled = "[ $1 != simulate ] || sleep 300";
    for (program, body, name) in [
        ("python3", hangs, "CPU and GPU"),
        ("bench", "[ $1 != list ] || sleep 300", "bench list"),
        ("speckled", speckled, "simulation"),
    ] {
        let kit = Kit::whole();
        kit.program(program, body);
        let begin = Instant::now();
        let done = kit.run("first", &[("GPU_CHECK_STEP_SECONDS", "2")]);
        done.ended(1);
        assert!(done.row(name).contains("FAILED: not ended after 2 s"), "{}", done.table);
        assert!(begin.elapsed() < Duration::from_secs(120), "{:?}\n{}", begin.elapsed(), done.table);
    }
    // all of it, however long each may take
    let kit = Kit::whole();
    kit.program("speckled", speckled);
    let begin = Instant::now();
    let done = kit.run("first", &[("GPU_CHECK_STEP_SECONDS", "100"), ("GPU_CHECK_SECONDS", "8")]);
    done.ended(1);
    assert!(begin.elapsed() < Duration::from_secs(120), "{:?}\n{}", begin.elapsed(), done.table);
}

#[test]
fn a_signal_ends_the_step_with_all_that_it_has_started_and_keeps_the_logs() {
    let tests = r#"case "$*" in
*tests::driver*) echo "driver is well"; echo 'test result: ok. 3 passed' ;;
*) sleep 600 & echo $! >"$KIT/child"; echo $$ >"$KIT/pid"; echo "begun"; wait ;;
esac"#;
    for (signal, code, name) in
        [(Signal::INT, 130, "SIGINT"), (Signal::TERM, 143, "SIGTERM"), (Signal::HUP, 129, "SIGHUP")]
    {
        let kit = Kit::whole();
        kit.program("tests", tests);
        // a simulation that goes on meanwhile
        kit.program("speckled", "echo $$ >\"$KIT/simulates\"; exec sleep 600");
        let child = kit.start(&["first", "out"], &[("GPU_CHECK_STEP_SECONDS", "60")]);
        let pid = |name: &str| fs::read_to_string(kit.path(name)).unwrap_or_default().trim().to_owned();
        wait_until("the step begins", || !pid("pid").is_empty() && !pid("simulates").is_empty());
        // `timeout` hands it on
        kill_process(Pid::from_child(&child), signal).expect("sent");
        let done = Ended::from(child.wait_with_output().expect("ends"));
        done.ended(code);
        assert!(done.row("first").contains(&format!("stopped by {name} after")), "{}", done.table);
        for name in ["pid", "child", "simulates"] {
            wait_until(name, || !runs(&pid(name)));
        }
        assert_eq!(entries(&kit.path("tmp")), [""; 0]);
        let logs = kit.logs("first");
        assert!(logs.contains("driver is well") && logs.contains("begun"), "{logs}");
    }
}

#[test]
fn a_step_that_somebody_kills_has_not_run_out_of_time() {
    let kit = Kit::whole();
    kit.program("tests", "case \"$*\" in *sort*) kill -KILL $$ ;; *frames*) kill -SEGV $$ ;; *) echo 'test result: ok. 3 passed' ;; esac");
    let done = kit.run("first", &[]);
    done.ended(1);
    assert!(done.row("tests: sort").contains("FAILED: killed by SIGKILL after "), "{}", done.table);
    assert!(done.row("tests: frames").contains("FAILED: killed by SIGSEGV after "), "{}", done.table);
}

#[test]
fn the_reason_of_a_failure_is_no_test_that_passed() {
    let panics = r#"echo "test engine::cuda::tests::errors_are_told ... ok"
echo "test engine::cuda::tests::frames ... FAILED"
echo
echo "thread 'engine::cuda::tests::frames' (4711) panicked at src/engine/cuda/tests.rs:7:9:"
echo "frame 3 is 2, should be 1"
echo "test result: FAILED. 1 passed; 1 failed""#;
    let errs = "echo 'test a::error_of_a_kernel ... ok'; echo 'an error is near'; echo 'speckled: error: no GPU'";
    let kit = Kit::whole();
    let tests =
        format!("case \"$*\" in *driver*) {panics}; exit 101 ;; *sort*) {errs}; exit 70 ;; *) {PASSES} ;; esac");
    kit.program("tests", &tests);
    let done = kit.run("first", &[]);
    done.ended(1);
    let panicked = "FAILED (code 101): panicked at src/engine/cuda/tests.rs:7:9: frame 3 is 2, should be 1";
    assert!(done.row("tests: driver").ends_with(panicked), "{}", done.table);
    assert!(done.row("tests: sort").ends_with("FAILED (code 70): speckled: error: no GPU"), "{}", done.table);
}

#[test]
fn what_keeps_it_from_its_end_is_said_before_it_begins() {
    let kit = Kit::whole();
    let refused = |out: &str, settings: &[(&str, &str)], words: &str| {
        Ended::from(finish_output(kit.command(&["first", out], settings))).refused(words);
    };
    fs::write(kit.path("file"), "").expect("writes");
    refused("file/out", &[], "file/out cannot be made");
    refused("out", &[("TMPDIR", "/nowhere")], "/nowhere");
    for (name, value) in [
        ("GPU_CHECK_SECONDS", "ten minutes"),
        ("GPU_CHECK_SECONDS", "-1"),
        ("GPU_CHECK_STEP_SECONDS", "08"),
        ("GPU_CHECK_STEP_SECONDS", "0"),
    ] {
        refused("out", &[(name, value)], &format!("{name} must be a whole number of seconds from 1"));
    }
    let bin = kit.path("bin");
    fs::create_dir(&bin).expect("a directory");
    for name in ["bash", "dirname"] {
        let found = ["/usr/bin", "/bin"].map(|folder| Path::new(folder).join(name));
        symlink(found.iter().find(|path| path.exists()).expect("is there"), bin.join(name)).expect("a link");
    }
    let mut without = Command::new("/bin/bash");
    without.arg(kit.path("gpu-check")).args(["first", "out"]).current_dir(kit.folder.path()).env("PATH", &bin);
    Ended::from(finish_output(piped(without))).refused("no program 'timeout'");
    fs::remove_file(kit.path("tests")).expect("goes");
    refused("out", &[], "unpacked archive");
    assert_eq!(entries(&kit.path("tmp")), [""; 0]);
}

fn finish_output(command: Command) -> Output {
    start(command).wait_with_output().expect("ends")
}

#[test]
fn a_second_run_does_not_write_into_the_same_directory() {
    let kit = Kit::whole();
    kit.program("tests", &format!("echo 1 >\"$KIT/pid\"; sleep 1.5; {PASSES}"));
    let running = kit.start(&["first", "out"], &[]);
    wait_until("the step begins", || kit.path("pid").exists());
    for which in ["first", "second"] {
        let refused = Ended::from(finish_output(kit.command(&[which, "out"], &[])));
        refused.refused("another gpu-check writes into");
    }
    let done = Ended::from(running.wait_with_output().expect("ends"));
    done.ended(0);
    assert_eq!(fs::read_to_string(kit.path("out/first.txt")).expect("a table"), done.table);
    kit.run("second", &[]).ended(0);
}

/// A disk that is full takes no row; one that fills up, no logs.
#[test]
fn what_cannot_be_written_is_no_success() {
    let kit = Kit::whole();
    fs::create_dir(kit.path("out")).expect("a directory");
    symlink("/dev/full", kit.path("out/first.txt")).expect("a link");
    let done = kit.run("first", &[]);
    assert_eq!(done.code, Some(1), "{}", done.table);
    assert!(
        done.stderr.starts_with("error: ") && done.stderr.contains("first.txt cannot be written"),
        "{}",
        done.stderr
    );
    assert_eq!(done.stderr.lines().count(), 1, "once: {}", done.stderr);
    assert!(done.row("first").contains("0 failed"), "{}", done.table);

    let kit = Kit::whole();
    kit.program("tar", "echo 'tar: No space left on device' >&2; exit 2");
    let done = kit.run("first", &[]);
    assert_eq!(done.code, Some(1), "{}", done.table);
    assert!(done.stderr.contains("first-logs.tar.gz cannot be written"), "{}", done.stderr);
    assert_eq!(done.stderr.lines().count(), 1, "once: {}", done.stderr);
    assert_eq!(kit.made(), ["first.txt"]);
}

/// Whoever reads the rows may leave.
#[test]
fn without_a_reader_it_goes_on() {
    let kit = Kit::whole();
    let mut child = kit.start(&["first", "out"], &[]);
    drop(child.stdout.take());
    let done = Ended::from(child.wait_with_output().expect("ends"));
    done.ended(0);
    let table = fs::read_to_string(kit.path("out/first.txt")).expect("a table");
    assert!(table.lines().last().is_some_and(|line| line.contains("ended after")), "{table}");
}

/// A wait for the GPU's lock is no time of a correlation.
#[test]
fn a_gpu_that_another_program_has_is_not_measured() {
    let kit = Kit::new(PASSES, BENCH);
    let simulated = finish(command(
        ["simulate", "--format", "hdf5", "--rows", "16", "--cols", "16", "--frames", "20", "--q-static", "6", "-o"]
            .map(PathBuf::from)
            .into_iter()
            .chain([kit.path("data")]),
    ));
    assert_eq!(simulated.code, 0, "{}", simulated.stderr);
    let _held = first_gpu();
    let begin = Instant::now();
    let done = Ended::from(finish_output(kit.command(&["correlated", "data"], &[])));
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.table.contains("error: the GPU GPU-") && done.table.contains("is in use by process"), "{done:?}");
    assert!(done.table.contains("nothing can be measured beside it"), "{done:?}");
    assert!(begin.elapsed() < Duration::from_secs(120), "{:?}", begin.elapsed());
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
    let same = Command::new(&python).arg(script("agree.py")).args([&gpu, &gpu]).output().expect("runs");
    let said = String::from_utf8_lossy(&same.stdout).into_owned();
    assert!(said.starts_with("largest difference 0 of ") && !said.contains("/xpcs"), "{same:?}");
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
