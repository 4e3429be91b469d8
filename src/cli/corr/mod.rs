//! `speckled corr`, the drop-in for boost_corr: options to jobs, jobs one by one, their outcomes to the user.
//!
//! Computes nothing itself.

use std::path::Path;

use serde_json::{Value, json};

use super::exit::{Exit, Failure, ProcessError, chain};
use super::interrupt::Interrupt;
use super::logging;
use super::output::{self, Form};
use super::progress::{Display, Progress};
use crate::compute::engines::{self, Chosen};
use crate::compute::job::{self, JobOutput, Placing};
use crate::dataset::Opener;
use crate::dataset::result::{OwnNaming, Parents};
use crate::engine::Engine;
use crate::gpu::lock::GpuLock;
use crate::task::correlate::CorrelateSpec;
use crate::worker::gpus;

mod args;
mod config;
mod options;

pub(super) use args::CorrArgs;
use options::Plan;

/// Runs the command. The exit code is that of the first file that failed.
pub(super) fn run(args: CorrArgs) -> Result<Exit, Failure> {
    let plan = plan(args)?;
    logging::init(plan.verbose, plan.form);
    if plan.dry_run {
        output::json(&plan.parameters())?;
        return Ok(Exit::Success);
    }
    for reason in &plan.inert {
        tracing::info!("no effect: {reason}");
    }
    let (engine, _lock) = engine(&plan.template)?;
    let interrupt = Interrupt::install().map_err(ProcessError::Signals)?;
    Interrupt::announce().map_err(ProcessError::Signals)?;
    // one process for all files
    let opener = Opener::anywhere().reading_apart();
    let mut exit = Exit::Success;
    let mut reports = Vec::new();
    for job in plan.jobs() {
        let outcome = correlate(&opener, &job, engine.as_ref(), plan.form, &interrupt);
        reports.push(report(&job.raw, &outcome, plan.form)?);
        if let (Err(failure), Exit::Success) = (&outcome, exit) {
            exit = failure.exit();
        }
        if let Some(signal) = interrupt.signal() {
            exit = Exit::Signal(signal);
            break;
        }
    }
    if plan.form == Form::Json {
        output::json(&json!({ "exit_code": exit.code(), "results": reports }))?;
    }
    Ok(exit)
}

/// What the options ask for, for somebody else to run.
#[derive(Debug)]
pub(super) enum AskedJobs {
    /// These, and the form in which to speak of them.
    Run(Vec<CorrelateSpec>, Form),
    /// Nothing, but to show these parameters (`-n`).
    Show(Value),
}

/// The jobs that the options ask for.
pub(super) fn specs(args: CorrArgs) -> Result<AskedJobs, Failure> {
    let plan = plan(args)?;
    Ok(match plan.dry_run {
        true => AskedJobs::Show(plan.parameters()),
        false => AskedJobs::Run(plan.jobs().collect(), plan.form),
    })
}

fn plan(args: CorrArgs) -> Result<Plan, Failure> {
    let args = match &args.config {
        Some(path) => {
            let configured = config::read(path)?;
            args.or(configured)
        }
        None => args,
    };
    Ok(Plan::new(args)?)
}

/// The engine for `-i`. A GPU that was asked for is never replaced by the CPU.
fn engine(job: &CorrelateSpec) -> Result<(Box<dyn Engine>, Option<GpuLock>), Failure> {
    let mut taken = None;
    let is_free = |uuid: &str| {
        is_own(uuid) || {
            taken = gpus::lock_free_gpu(uuid);
            taken.is_some()
        }
    };
    let Chosen { engine, gpu, why_cpu } =
        engines::choose(job.recorded.gpu_id, job.threads, is_free).map_err(ProcessError::Gpu)?;
    if let Some(reason) = why_cpu {
        output::note(format_args!("-i -2: {reason}; it runs on the CPU"));
    }
    let lock = taken.or_else(|| lock(&gpu?));
    Ok((engine, lock))
}

/// Whether the worker that started this command in a slot of a GPU has it.
fn is_own(uuid: &str) -> bool {
    std::env::var("SPECKLED_GPU").is_ok_and(|own| crate::gpu::is_same_gpu(&own, uuid))
}

/// Waits until no other process of this user has the GPU. What cannot be locked is used without, and that is said.
fn lock(uuid: &str) -> Option<GpuLock> {
    if is_own(uuid) {
        return None;
    }
    let taken = gpus::lock_gpu(uuid, |held| output::note(format_args!("{held}; waiting until it is free")));
    taken.inspect_err(|error| output::warn(format_args!("the GPU is used without a lock: {}", chain(error)))).ok()
}

fn correlate(
    opener: &Opener,
    job: &CorrelateSpec,
    engine: &dyn Engine,
    form: Form,
    interrupt: &Interrupt,
) -> Result<JobOutput, Failure> {
    let display = if form == Form::Human { Display::Automatic } else { Display::Off };
    let progress = Progress::new(display, interrupt.clone());
    tracing::info!(raw = %job.raw.display(), engine = engine.name(), device = engine.device(), "job begins");
    let placing = Placing { parents: Parents::Made, naming: &OwnNaming };
    let outcome = job::run(opener, job, engine, &progress, placing);
    progress.finish();
    Ok(outcome?)
}

/// Tells how a job went; returns what the JSON document says of it.
fn report(raw: &Path, outcome: &Result<JobOutput, Failure>, form: Form) -> Result<Value, Failure> {
    let name = raw.to_string_lossy();
    match outcome {
        Ok(outcome) => {
            outcome.warnings.iter().for_each(output::warn);
            if form == Form::Human {
                output::note(summary(&name, outcome));
            }
            if form != Form::Json {
                output::stdout(outcome.result.display())?;
            }
            Ok(outcome.document(raw))
        }
        Err(failure) => {
            output::error(failure);
            Ok(json!({ "raw": name, "error": failure.words(), "exit_code": failure.exit().code() }))
        }
    }
}

fn summary(raw: &str, outcome: &JobOutput) -> String {
    format!(
        "{raw}: {} frames in {:.2} s, {:.0} frames/s, {:.1} MB/s",
        outcome.frames,
        outcome.wall_time.as_secs_f64(),
        outcome.frames_per_second(),
        outcome.bytes as f64 / 1e6 / outcome.wall_time.as_secs_f64().max(f64::MIN_POSITIVE)
    )
}
