//! What an executor does between its assignment and its last line. Blocks until it is done; starts no runtime.

use rustix::thread::{CpuSet, sched_setaffinity};

use super::assignment::{Assignment, Computation, Conclusion, SlotGpu};
use super::paths::{PathError, correlation_allowed, make_directories, opened};
use crate::compute::engines;
use crate::compute::fault;
use crate::compute::job::{self, Placing};
use crate::config::roots::Roots;
use crate::dataset::Opener;
use crate::dataset::result::{Parents, ResultNaming, verify};
use crate::engine::{Engine, Observer};
use crate::task::correlate::CorrelateSpec;
use crate::task::failure::{Failure, Fault, Loss};
use crate::task::life::Outcome;
use crate::task::result::{LARGEST_DOCUMENT, TaskResult};

/// Saturated pixels that a document lists when all of them would make it too large; the result file has them all.
const LISTED_PIXELS: usize = 1000;

/// Does the work, for which files are opened as the opener of a gate says.
pub fn execute(
    assignment: &Assignment,
    behind: fn(Roots) -> Opener,
    observer: &dyn Observer,
    naming: &dyn ResultNaming,
) -> Conclusion {
    near(assignment.gpu.as_ref());
    let conclusion = match &assignment.work {
        Computation::Correlate(spec) => in_roots(assignment, |roots| {
            correlation_allowed(spec, roots)?;
            Ok(correlate(&behind(roots.clone()), assignment, spec, observer, naming))
        }),
        Computation::BatchSetup(spec) => in_roots(assignment, |roots| {
            make_directories(spec, roots)?;
            Ok(Conclusion::succeeded(TaskResult { files: spec.directories.clone(), ..TaskResult::default() }))
        }),
        Computation::CheckNode => in_roots(assignment, |roots| {
            let document = Some(roots.mounts().to_json());
            Ok(Conclusion::succeeded(TaskResult { document, ..TaskResult::default() }))
        }),
        Computation::SelfTest => match engines::self_test() {
            Ok(()) => Conclusion::succeeded(TaskResult::default()),
            Err(error) => Conclusion::failed(Failure::of(error.fault(), &error)),
        },
        Computation::Nothing => Conclusion::succeeded(TaskResult::default()),
    };
    match &conclusion.outcome {
        // what was not found may lie below a root that has gone meanwhile
        Outcome::Failed(_) => match opened(&assignment.roots) {
            Ok(_) => conclusion,
            Err(error) => Conclusion::of(error.outcome()),
        },
        Outcome::Succeeded | Outcome::Cancelled | Outcome::Lost(_) => conclusion,
    }
}

/// Works below the roots, if they are there.
fn in_roots(assignment: &Assignment, work: impl FnOnce(&Roots) -> Result<Conclusion, PathError>) -> Conclusion {
    let done = opened(&assignment.roots).and_then(|roots| work(&roots));
    done.unwrap_or_else(|error| Conclusion::of(error.outcome()))
}

impl Conclusion {
    /// The work is done.
    pub fn succeeded(result: TaskResult) -> Self {
        Self { outcome: Outcome::Succeeded, result }
    }

    /// Nothing came of it.
    pub fn failed(failure: Failure) -> Self {
        Self::of(Outcome::Failed(failure))
    }

    /// It ended so, and left nothing.
    pub fn of(outcome: Outcome) -> Self {
        Self { outcome, result: TaskResult::default() }
    }
}

fn correlate(
    opener: &Opener,
    assignment: &Assignment,
    spec: &CorrelateSpec,
    observer: &dyn Observer,
    naming: &dyn ResultNaming,
) -> Conclusion {
    // a task may ask for less than its slot has, never for more
    let spec = CorrelateSpec {
        threads: Some(spec.threads.map_or(assignment.threads, |asked| asked.min(assignment.threads))),
        memory: Some(spec.memory.map_or(assignment.memory, |asked| asked.min(assignment.memory))),
        ..spec.clone()
    };
    let engine = match engine(assignment, &spec) {
        Ok(engine) => engine,
        Err(outcome) => return Conclusion::of(outcome),
    };
    let placing = Placing { parents: Parents::Expected, naming };
    let done = match job::run(opener, &spec, engine.as_ref(), observer, placing) {
        Ok(done) => done,
        Err(error) => return Conclusion::of(fault::outcome(&error)),
    };
    if let Err(error) = verify(&done.result, spec.analyses) {
        return Conclusion::failed(Failure::of(Fault::Program, &error));
    }
    let (document, measure) = (Some(document(&spec, &done)), Some(done.measure()));
    Conclusion::succeeded(TaskResult { files: vec![done.result], document, measure, ..TaskResult::default() })
}

/// Stays on the CPUs near the slot's GPU: threads that are started later do so, too.
fn near(gpu: Option<&SlotGpu>) {
    let Some(SlotGpu { uuid, cpus, sharers: _ }) = gpu.filter(|gpu| !gpu.cpus.is_empty()) else { return };
    let mut set = CpuSet::new();
    cpus.iter().filter(|&&cpu| (cpu as usize) < CpuSet::MAX_CPU).for_each(|&cpu| set.set(cpu as usize));
    if let Err(error) = sched_setaffinity(None, &set) {
        tracing::warn!(gpu = uuid, %error, "the process cannot stay near its GPU");
    }
}

/// The engine of the slot that the task asks for: the GPU that a slot has is the only one that its process sees, and
/// the CPU never takes a GPU's work unasked.
fn engine(assignment: &Assignment, spec: &CorrelateSpec) -> Result<Box<dyn Engine>, Outcome> {
    let found = match (&assignment.gpu, spec.recorded.gpu_id) {
        (Some(gpu), -2 | 0..) => engines::on_slot(gpu.sharers, spec.threads),
        (None, gpu @ 0..) => {
            let message = format!(
                "GPU {gpu} was asked for (-i {gpu}), and the slots of this endpoint have no GPU; \
                 -i -2 takes what there is, -i -1 the CPU"
            );
            return Err(Outcome::Failed(Failure::new(Fault::Input, &message)));
        }
        (_, _) => Ok(engines::Chosen::cpu(spec.threads)),
    };
    match found {
        Ok(chosen) => Ok(chosen.engine),
        // the slot has a GPU: one that cannot be used is the node's fault, not the task's
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "the slot's GPU cannot be used");
            Err(Outcome::Lost(Loss::GpuFault))
        }
    }
}

fn document(spec: &CorrelateSpec, done: &job::JobOutput) -> String {
    let document = done.document(&spec.raw).to_string();
    if document.len() <= LARGEST_DOCUMENT {
        return document;
    }
    let warning = format!(
        "{} saturated pixels are too many for this document; it lists the first {LISTED_PIXELS}, the result file all",
        done.saturated.len()
    );
    let saturated = done.saturated.iter().take(LISTED_PIXELS).copied().collect();
    let less = job::JobOutput { saturated, warnings: vec![warning], ..done.clone() };
    less.document(&spec.raw).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_stays_within_its_bounds() {
        let spec = CorrelateSpec::new("/raw", "/qmap", "/out");
        let mut done = job::JobOutput {
            result: "/out/raw_results.hdf".into(),
            frames: 1,
            bytes: 1,
            wall_time: std::time::Duration::from_secs(1),
            warnings: Vec::new(),
            saturated: vec![(1, 2, 3); 10],
        };
        let whole: serde_json::Value = serde_json::from_str(&document(&spec, &done)).expect("json");
        assert_eq!(whole["saturated_pixels"].as_array().expect("a list").len(), 10);
        done.saturated = vec![(1000, 2000, 300_000); 200_000];
        let text = document(&spec, &done);
        assert!(text.len() <= LARGEST_DOCUMENT && text.contains("200000 saturated pixels"), "{}", text.len());
    }
}
