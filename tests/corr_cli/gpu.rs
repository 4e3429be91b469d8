//! `corr -i` on GPUs that are played by a library in place of NVIDIA's: the program's own CUDA code from the option to the
//! result file. The kernels' numbers on random input are proved in `src/engine/cuda/tests.rs`.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use speckled::correlate::bins::Shape;
use speckled::gpu::lock::GpuLock;
use speckled::worker::gpus::lock_gpu;

use crate::common::{Measurement, Run, assert_near, command, counts, finish, labels, numbers, start};
use crate::cuda;

/// Small, since each thread of a GPU is played by itself.
const SHAPE: Shape = Shape { rows: 20, cols: 31 };

fn measurement() -> Measurement {
    Measurement::hdf5(&counts(200, SHAPE.pixels(), 3), labels(SHAPE, 4))
}

/// Runs `corr` where the driver is the stand-in, with its settings.
fn corr(measurement: &Measurement, options: &[&str], settings: &[(&str, &str)]) -> Run {
    let mut command = command(measurement.args(options));
    command.env("LD_LIBRARY_PATH", cuda::cuda()).envs(settings.iter().copied());
    finish(command)
}

#[test]
fn a_gpu_computes_what_the_cpu_computes() {
    let measurement = measurement();
    let wanted = measurement.corr(&["-t", "Both"]).result();
    let names = [
        "multitau/normalized_g2",
        "multitau/normalized_g2_err",
        "twotime/normalized_g2",
        "twotime/normalized_g2_segments",
        "twotime/correlation_map/c2_00001",
        "temporal_mean/scattering_1d_segments",
        "temporal_mean/scattering_2d",
        "spatial_mean/intensity_vs_time",
    ];
    let wanted = names.map(|name| numbers(&wanted, &format!("/xpcs/{name}")));
    for (gpu, settings) in [("0", &[][..]), ("-2", &[]), ("1", &[("FAKE_CUDA_GPUS", "2")])] {
        let run = corr(&measurement, &["-t", "Both", "-i", gpu, "--overwrite"], settings);
        let found = run.result();
        assert!(!run.stderr.contains("CPU"), "{}", run.stderr);
        assert!(crate::common::text(&found, "/xpcs/provenance/device").contains("Imaginary GPU"), "{gpu}");
        for (name, wanted) in std::iter::zip(names, &wanted) {
            assert_near(name, &numbers(&found, &format!("/xpcs/{name}")), wanted, 1e-8);
        }
    }
}

#[test]
fn a_gpu_is_never_replaced_in_silence() {
    let measurement = measurement();
    let none = [("FAKE_CUDA_GPUS", "0")];
    let line = corr(&measurement, &["-i", "0"], &none);
    assert!(line.error(70).contains("shows no GPU"), "{}", line.stderr);
    let run = corr(&measurement, &["-i", "-2"], &none);
    assert!(run.stderr.contains("runs on the CPU"), "{}", run.stderr);
    run.result();
    let line = corr(&measurement, &["-i", "3", "--overwrite"], &[("FAKE_CUDA_GPUS", "2")]);
    assert!(line.error(70).contains("no GPU 3: the driver shows 2"), "{}", line.stderr);
    for gpu in [1_i64 << 32, (1 << 32) - 1, i64::MAX] {
        let run = corr(&measurement, &["-i", &gpu.to_string(), "--overwrite"], &[]);
        assert!(run.error(70).contains(&format!("no GPU {gpu}: the driver shows 1")), "{}", run.stderr);
        let run = corr(&measurement, &["-i", &gpu.to_string(), "--overwrite"], &none);
        assert!(run.error(70).contains("shows no GPU"), "{}", run.stderr);
    }
}

#[test]
fn errors_of_a_gpu_name_the_kernel_and_leave_nothing() {
    let measurement = measurement();
    for (settings, words) in [
        (("FAKE_CUDA_FAULT", "dense_finish_f64:214"), ["dense_finish_f64", "CUDA_ERROR_214"]),
        (("FAKE_CUDA_FAULT", "dense_frame_totals:719"), ["or what ran before it", "CUDA_ERROR_719"]),
        // with copies behind it, whose memory is given back before they would have been made
        (("FAKE_CUDA_FAULT", "dense_sums_u16:700"), ["or what ran before it", "CUDA_ERROR_700"]),
        (("FAKE_CUDA_MEMORY", "9000"), ["the GPU's memory has no", "Imaginary GPU"]),
    ] {
        for gpu in ["0", "-2"] {
            let run = corr(&measurement, &["-i", gpu], &[settings]);
            let line = run.error(70);
            assert!(words.iter().all(|word| line.contains(word)), "{line}");
            assert_eq!(measurement.leftovers(), [""; 0]);
        }
    }
}

/// Machine code where the program has some for the GPU and the driver takes it, else PTX.
#[test]
fn kernels_are_loaded_in_the_form_that_the_gpu_takes() {
    let measurement = measurement();
    for (settings, form) in [
        (&[("FAKE_CUDA_CAPABILITY", "70")][..], "PTX"),
        (&[("FAKE_CUDA_CAPABILITY", "80")], "machine code for sm_80"),
        (&[("FAKE_CUDA_CAPABILITY", "89")], "machine code for sm_80"),
        (&[("FAKE_CUDA_CAPABILITY", "90")], "machine code for sm_90"),
        (&[("FAKE_CUDA_CAPABILITY", "100")], "PTX"),
        // no binary for this GPU; not of a form that is known
        (&[("FAKE_CUDA_REFUSES", "209")], "PTX"),
        (&[("FAKE_CUDA_REFUSES", "200")], "PTX"),
    ] {
        let settings = [settings, &[("RUST_LOG", "speckled=debug")]].concat();
        let run = corr(&measurement, &["-i", "0", "--overwrite"], &settings);
        run.result();
        let loaded: Vec<&str> = run.stderr.lines().filter(|line| line.contains("kernels are loaded")).collect();
        assert!(!loaded.is_empty() && loaded.iter().all(|line| line.contains(form)), "{form}: {loaded:?}");
    }
    let run = corr(&measurement, &["-i", "0", "--overwrite"], &[("FAKE_CUDA_REFUSES", "222")]);
    let line = run.error(70);
    assert!(line.contains("cuModuleLoadData failed: CUDA_ERROR_222"), "{line}");
    assert!(line.contains("kernel dense_sums_u16 cannot be loaded") && !line.contains("ran before it"), "{line}");
}

/// A kernel that never ends hears of no signal: the program says that it has, and that another one ends it.
#[test]
fn the_first_signal_is_answered_though_a_kernel_hangs() {
    let measurement = measurement();
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let said = measurement.dir.path().join("stderr");
        let mut command = command(measurement.args(&["-i", "0", "--quiet"]));
        command.env("LD_LIBRARY_PATH", cuda::cuda()).env("FAKE_CUDA_HANG", "dense_sums_u16");
        command.stderr(std::fs::File::create(&said).expect("a file"));
        let mut child = start(command);
        let pid = Pid::from_child(&child);
        let told = || std::fs::read_to_string(&said).expect("a text");
        let mut wait_until = |holds: &mut dyn FnMut() -> bool| {
            let begin = Instant::now();
            while !holds() {
                if begin.elapsed() > Duration::from_secs(60) || child.try_wait().expect("a child").is_some() {
                    child.kill().expect("sent");
                    panic!("{signal:?}: {}", told());
                }
                std::thread::yield_now();
            }
        };
        wait_until(&mut || !measurement.leftovers().is_empty());
        kill_process(pid, signal).expect("sent");
        wait_until(&mut || told().contains("stopping; again to end at once"));
        kill_process(pid, signal).expect("sent");
        assert_eq!(child.wait().expect("it ends").code(), Some(code));
        let lines = told();
        assert_eq!(lines.lines().filter(|line| line.contains("stopping")).count(), 1, "{lines}");
        std::fs::remove_dir_all(measurement.output()).expect("goes");
    }
}

/// Less pinned memory makes smaller pieces; with none, the error says what is missing and blames no kernel.
#[test]
fn pinned_memory_that_does_not_suffice() {
    let measurement = measurement();
    let wanted = numbers(&measurement.corr(&[]).result(), "/xpcs/multitau/normalized_g2");
    let run = corr(&measurement, &["-i", "0", "--overwrite"], &[("FAKE_CUDA_PINNED", "40000")]);
    assert_near("g2", &numbers(&run.result(), "/xpcs/multitau/normalized_g2"), &wanted, 1e-8);
    let run = corr(&measurement, &["-i", "0", "--overwrite"], &[("FAKE_CUDA_PINNED", "100")]);
    let line = run.error(70);
    assert!(line.contains("the computer's memory for copies to the GPU has no") && !line.contains("kernel"), "{line}");
}

/// A context takes memory of a GPU that others use.
#[test]
fn any_gpu_leaves_the_others_alone() {
    let measurement = measurement();
    let folder = tempfile::tempdir().expect("a directory");
    let contexts = folder.path().join("contexts");
    let settings = [("FAKE_CUDA_GPUS", "8"), ("FAKE_CUDA_CONTEXTS", contexts.to_str().expect("a text"))];
    corr(&measurement, &["-i", "-2"], &settings).result();
    let made = std::fs::read_to_string(&contexts).expect("some are made");
    assert_eq!(made.lines().count(), 1, "{made:?}");
}

/// The digits of the stand-in's first GPU.
const FIRST: &str = "00112233-4455-6677-8899-aabbccddee00";

/// Other tests use the GPU, too.
pub(crate) fn first_gpu() -> GpuLock {
    lock_gpu(&format!("GPU-{FIRST}"), |_| {}).expect("it can be locked")
}

#[test]
fn any_gpu_is_one_that_nobody_has() {
    let measurement = measurement();
    let _held = first_gpu();
    // enough for the other tests, which may have some
    let run = corr(&measurement, &["-i", "-2"], &[("FAKE_CUDA_GPUS", "8")]);
    let device = crate::common::text(&run.result(), "/xpcs/provenance/device");
    assert!(device.contains("Imaginary GPU") && !device.contains(FIRST), "{device}");
    assert!(!run.stderr.contains("waiting"), "{}", run.stderr);
}

/// CUDA's driver names an instance as a GPU, the worker as NVML does.
#[test]
fn a_command_in_a_slot_of_an_instance_does_not_wait_for_its_worker() {
    let measurement = measurement();
    let _of_the_worker = first_gpu();
    for gpu in ["0", "-2"] {
        let own = format!("MIG-{FIRST}");
        let run = corr(&measurement, &["-i", gpu, "--overwrite"], &[("SPECKLED_GPU", &own)]);
        assert!(crate::common::text(&run.result(), "/xpcs/provenance/device").contains(FIRST), "{gpu}");
        assert!(!run.stderr.contains("waiting"), "{}", run.stderr);
    }
}
