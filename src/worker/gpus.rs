//! The slots of a worker's computing attempts: one a CPU slot, or some for each GPU, which is theirs while they run. Says
//! which GPU may be used, when it is to be tested, and how GPUs are. Runs nothing itself.
//!
//! Slots on the CPU are for a node without GPUs. When GPUs appear later, the free ones give way to slots of GPUs, the
//! others when their attempts end.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use super::assignment::SlotGpu;
use super::core::Slots;
use crate::config::endpoint::GpuUse;
use crate::gpu::health::{self, Era, State, TestOutcome, Wanted};
use crate::gpu::lock::GpuLock;
use crate::gpu::visible::near_cpus;
use crate::gpu::{Gpu, GpuIdentity, GpuUuid, GpuWatch, Snapshot, Standing, WatchError, WatchSettings, energy_between};
use crate::ids::AttemptId;
use crate::protocol::worker::{GpuFacts, GpuState};
use crate::task::failure::{Fault, Loss, chain};
use crate::task::life;

mod listing;
mod locks;

use listing::{Listing, listing, sees_none};
pub use locks::{TakeError, lock_free_gpu, lock_gpu};

/// The driver is given so long to tell which GPUs there are: on a node with eight it takes some seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where GPUs and slots come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// Whether GPUs are used.
    pub gpus: GpuUse,
    /// Slots without GPUs.
    pub slots: u32,
    /// Slots of each GPU.
    pub slots_per_gpu: NonZeroU32,
    /// How long a GPU must have been well before it is tested again after a quarantine.
    pub quiet: Duration,
}

/// The slots.
pub struct Gpus {
    choice: Choice,
    watch: Option<GpuWatch>,
    own: Vec<Own>,
    slots: Vec<GpuSlot>,
    list: List,
}

/// Whether the list of GPUs may become longer.
#[derive(Debug)]
enum List {
    /// All GPUs are in it.
    Whole,
    /// There may be more.
    Open {
        /// Why; None on a node without GPUs, or without their driver, which may come later.
        trouble: Option<String>,
        /// What was known then: something else may tell more.
        seen: Arc<Snapshot>,
    },
}

/// A GPU, or MIG instance, that is ours.
#[derive(Debug)]
struct Own {
    identity: GpuIdentity,
    cpus: Vec<u32>,
    /// None: another process has it, or the lock cannot be had.
    lock: Option<GpuLock>,
    /// Why not.
    refused: Option<String>,
    testing: Testing,
    /// An attempt says that it does not work, which nobody else has seen: it is tested before the next one.
    distrusted: bool,
}

/// What of a self-test is on a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Testing {
    Nothing,
    Runs,
    /// Its process, which was killed and does not end.
    Remains(Remaining),
}

/// A process that does not end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Remaining {
    attempt: AttemptId,
    pid: Option<i32>,
}

#[derive(Debug)]
struct GpuSlot {
    /// Which of our GPUs.
    gpu: Option<usize>,
    occupant: Option<Occupant>,
}

/// An attempt on its slot.
#[derive(Debug)]
struct Occupant {
    attempt: AttemptId,
    /// What was seen of its GPU when it started.
    before: Option<Gpu>,
    /// It is over, and its process is not.
    remains: Option<Remaining>,
}

/// What an attempt has where it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssignedSlot {
    /// The GPU; none on the CPU.
    pub gpu: Option<SlotGpu>,
}

/// A test that is to be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Test {
    /// On which GPU.
    pub gpu: SlotGpu,
    uuid: GpuUuid,
    era: Era,
}

impl Slots for Gpus {
    fn has_free(&self) -> bool {
        self.free().is_some()
    }

    /// A GPU may have turned bad since anybody looked.
    fn assign(&mut self, attempt: AttemptId) -> Option<AssignedSlot> {
        let slot = self.free()?;
        let gpu = self.slots[slot].gpu;
        let before = gpu.and_then(|gpu| self.seen(gpu));
        self.slots[slot].occupant = Some(Occupant { attempt, before, remains: None });
        Some(AssignedSlot { gpu: gpu.map(|gpu| self.own[gpu].slot(self.choice.slots_per_gpu)) })
    }
}

impl Gpus {
    /// Slots on the CPU alone.
    fn cpus(choice: Choice) -> Self {
        Self { choice, watch: None, own: Vec::new(), slots: on_cpus(choice.slots), list: List::Whole }
    }

    /// Looks what the node has; blocks until its driver has answered, for some time. `changed` is called when something
    /// has changed.
    ///
    /// # Errors
    /// The threads that watch cannot be started.
    pub fn start(choice: Choice, changed: impl Fn() + Send + Sync + 'static) -> Result<Self, WatchError> {
        match choice.gpus {
            GpuUse::None => return Ok(Self::cpus(choice)),
            // a worker that is to compute nothing
            GpuUse::Auto if choice.slots == 0 => return Ok(Self::cpus(choice)),
            GpuUse::Auto if sees_none() => return Ok(Self::cpus(choice)),
            GpuUse::Auto => {}
        }
        let watch = GpuWatch::start(settings(choice.quiet), move |_| changed())?;
        let told = watch.wait(PATIENCE, |snapshot| snapshot.round > 0);
        let snapshot = told.unwrap_or_else(|| watch.view().snapshot);
        Ok(Self::watched(choice, watch, snapshot))
    }

    fn watched(choice: Choice, watch: GpuWatch, snapshot: Arc<Snapshot>) -> Self {
        let mut gpus = Self { choice, watch: Some(watch), own: Vec::new(), slots: Vec::new(), list: List::Whole };
        gpus.list(snapshot);
        gpus
    }

    /// Lists the GPUs again, if there may be more and something else is known now.
    pub fn list_again(&mut self) {
        let (Some(watch), List::Open { seen, .. }) = (&self.watch, &self.list) else { return };
        let snapshot = watch.view().snapshot;
        if !Arc::ptr_eq(&snapshot, seen) {
            self.list(snapshot);
        }
    }

    /// Takes in which GPUs there are. A GPU that is known keeps its place: attempts run there.
    fn list(&mut self, snapshot: Arc<Snapshot>) {
        let (gpus, list) = match listing(&snapshot) {
            Listing::Gpus { gpus, trouble: None } => (gpus, List::Whole),
            Listing::Gpus { gpus, trouble } => (gpus, List::Open { trouble, seen: snapshot }),
            Listing::NoGpus => {
                if self.own.is_empty() && self.slots.is_empty() {
                    self.slots = on_cpus(self.choice.slots);
                }
                (Vec::new(), List::Open { trouble: None, seen: snapshot })
            }
        };
        let before = self.own.len();
        let allowed = allowed_cpus();
        for identity in gpus {
            if self.own.iter().any(|own| own.identity.uuid == identity.uuid) {
                continue;
            }
            let (cpus, gpu) = (near_cpus(&identity, &allowed), Some(self.own.len()));
            let (lock, refused, testing) = (None, None, Testing::Nothing);
            self.own.push(Own { identity, cpus, lock, refused, testing, distrusted: false });
            self.slots.extend((0..self.choice.slots_per_gpu.get()).map(|_| GpuSlot { gpu, occupant: None }));
        }
        self.remove_cpus();
        let was = std::mem::replace(&mut self.list, list);
        match (was.trouble(), self.trouble()) {
            (was, Some(words)) if was != Some(words) => {
                tracing::warn!(words, gpus = self.own.len(), "there may be more GPUs than are seen");
            }
            (Some(_), None) => tracing::info!(gpus = self.own.len(), "the GPUs are listed after all"),
            (None, None) if self.own.len() > before => tracing::info!(gpus = self.own.len(), "the GPUs are used"),
            (_, Some(_)) | (None, None) => {}
        }
        self.lock();
    }

    /// Slots on the CPU end where there are GPUs: the free ones now, the others when they are free.
    fn remove_cpus(&mut self) {
        if !self.own.is_empty() {
            self.slots.retain(|slot| slot.gpu.is_some() || slot.occupant.is_some());
        }
    }

    /// How many attempts may run at once now. A slot with an attempt is one of them, even if it gets no other one: the
    /// endpoint counts that attempt, too.
    pub fn room(&self) -> u32 {
        let has_room = |slot: &&GpuSlot| !slot.is_lost() && (slot.occupant.is_some() || self.may_be_used(slot));
        u32::try_from(self.slots.iter().filter(has_room).count()).unwrap_or(u32::MAX)
    }

    /// All slots, usable or not.
    pub fn slots(&self) -> u32 {
        u32::try_from(self.slots.len()).unwrap_or(u32::MAX)
    }

    /// An attempt is over, but its process does not end: the slot is not free before that.
    pub fn remains(&mut self, attempt: AttemptId, pid: Option<i32>) {
        let occupant = self.slots.iter_mut().filter_map(|slot| slot.occupant.as_mut());
        for occupant in occupant.filter(|occupant| occupant.attempt == attempt) {
            occupant.remains = Some(Remaining { attempt, pid });
        }
    }

    /// The same of a self-test, of which was told.
    pub fn test_remains(&mut self, test: &Test, attempt: AttemptId, pid: Option<i32>) {
        if let Some(own) = self.own.iter_mut().find(|own| own.identity.uuid == test.uuid) {
            own.testing = Testing::Remains(Remaining { attempt, pid });
        }
    }

    /// The process of an attempt or self-test has ended after all.
    pub fn gone(&mut self, attempt: AttemptId) {
        let is_its = |testing: Testing| matches!(testing, Testing::Remains(process) if process.attempt == attempt);
        for own in self.own.iter_mut().filter(|own| is_its(own.testing)) {
            own.testing = Testing::Nothing;
        }
        let _used_since_it_was_told = self.release(attempt);
    }

    /// An attempt has ended; returns what its GPU has used meanwhile, millijoules. One that was not looked at since it began
    /// does not tell.
    pub fn release(&mut self, attempt: AttemptId) -> Option<u64> {
        let slot = self.slots.iter_mut().find(|slot| slot.is_of(attempt))?;
        let (gpu, occupant) = (slot.gpu, slot.occupant.take());
        self.remove_cpus();
        let (before, after) = (occupant?.before?, self.seen(gpu?)?);
        (before.sampled < after.sampled).then(|| energy_between(&before.sample, &after.sample))?
    }

    /// Looks at the GPUs anew; returns the attempts that run on one that is not to be trusted.
    pub fn look(&self) -> Vec<AttemptId> {
        let distrusted = |gpu: usize| match self.standing(&self.own[gpu]) {
            Standing::Known(State::Quarantined) | Standing::Unlisted => true,
            Standing::Known(State::Healthy | State::Suspect) | Standing::Divided | Standing::Stale => false,
        };
        let slots = self.slots.iter().filter(|slot| slot.gpu.is_some_and(distrusted));
        slots.filter_map(|slot| slot.occupant.as_ref()).map(|occupant| occupant.attempt).collect()
    }

    /// The tests that are wanted, on GPUs on which nothing runs; each is to be run, and told of.
    pub fn tests(&mut self) -> Vec<Test> {
        let Some(view) = self.watch.as_ref().map(GpuWatch::view) else { return Vec::new() };
        let mut wanted = Vec::new();
        for index in 0..self.own.len() {
            let busy = self.slots.iter().any(|slot| slot.gpu == Some(index) && slot.occupant.is_some());
            let own = &mut self.own[index];
            let gpu = view.snapshot.gpu(&own.identity.uuid);
            let (Some(Gpu { health, .. }), Testing::Nothing, Some(_), false) = (gpu, own.testing, &own.lock, busy)
            else {
                continue;
            };
            let era = match health.wanted {
                Wanted::SelfTest(era) => Some(era),
                Wanted::Nothing => own.distrusted.then(Era::default),
            };
            if let Some(era) = era {
                own.testing = Testing::Runs;
                wanted.push(Test { gpu: own.slot(self.choice.slots_per_gpu), uuid: own.identity.uuid.clone(), era });
            }
        }
        wanted
    }

    /// How a test ended.
    pub fn tested(&mut self, test: &Test, outcome: TestOutcome) {
        if let Some(own) = self.own.iter_mut().find(|own| own.identity.uuid == test.uuid) {
            (own.testing, own.distrusted) = (Testing::Nothing, false);
        }
        if let Some(watch) = &self.watch {
            watch.self_tested(&test.uuid, test.era, outcome);
        }
    }

    /// An attempt on a GPU failed, and not because of its input; on the CPU that says nothing.
    pub fn program_failed(&self, attempt: AttemptId) {
        let slot = self.slots.iter().find(|slot| slot.is_of(attempt));
        if let (Some(gpu), Some(watch)) = (slot.and_then(|slot| slot.gpu), &self.watch) {
            watch.program_failed(&self.own[gpu].identity.uuid);
        }
    }

    /// An attempt says that its GPU does not work.
    pub fn distrust(&mut self, attempt: AttemptId) {
        let slot = self.slots.iter().find(|slot| slot.is_of(attempt));
        if let Some(gpu) = slot.and_then(|slot| slot.gpu) {
            self.own[gpu].distrusted = true;
        }
    }

    /// Why there are no slots, or too few, though there may be GPUs.
    pub fn trouble(&self) -> Option<&str> {
        self.list.trouble()
    }

    /// How the GPUs are, for people.
    pub fn facts(&self) -> Vec<GpuFacts> {
        let Some(view) = self.watch.as_ref().map(GpuWatch::view) else { return Vec::new() };
        let facts = |(index, own): (usize, &Own)| {
            let seen = view.snapshot.gpu(&own.identity.uuid);
            let sample = seen.map(|gpu| gpu.sample.clone()).unwrap_or_default();
            let reasons = seen.into_iter().flat_map(|gpu| &gpu.health.reasons).map(|reason| reason.cause.to_string());
            let notes = health::notes(&sample).into_iter().map(|note| note.to_string());
            GpuFacts {
                uuid: own.identity.uuid.to_string(),
                name: own.identity.name.clone(),
                pci: own.identity.pci_bus_id.clone(),
                state: match view.standing(&own.identity.uuid) {
                    Standing::Known(State::Healthy) => GpuState::Healthy,
                    Standing::Known(State::Suspect) => GpuState::Suspect,
                    Standing::Known(State::Quarantined) => GpuState::Quarantined,
                    Standing::Divided | Standing::Stale | Standing::Unlisted => GpuState::Unknown,
                },
                reasons: reasons.chain(own.refused.clone()).chain(self.remaining(index)).chain(notes).collect(),
                utilization_percent: sample.utilization.map(|used| used.gpu_percent),
                memory_used: sample.memory.map(|memory| memory.used_bytes),
                memory_total: sample.memory.map(|memory| memory.total_bytes),
                temperature_c: sample.temperature_c,
                power_mw: sample.power_mw,
            }
        };
        self.own.iter().enumerate().map(facts).collect()
    }

    /// Processes that keep a GPU, for people.
    fn remaining(&self, gpu: usize) -> impl Iterator<Item = String> {
        let slots = self.slots.iter().filter(move |slot| slot.gpu == Some(gpu));
        let attempts = slots.filter_map(|slot| slot.occupant.as_ref()?.remains);
        let test = match self.own[gpu].testing {
            Testing::Remains(process) => Some(process),
            Testing::Nothing | Testing::Runs => None,
        };
        attempts.chain(test).map(|process| {
            let which = process.pid.map_or_else(|| "a process".to_owned(), |pid| format!("process {pid}"));
            format!("{which} was killed and does not end: the driver holds it")
        })
    }

    fn free(&self) -> Option<usize> {
        self.slots.iter().position(|slot| slot.occupant.is_none() && self.may_be_used(slot))
    }

    fn may_be_used(&self, slot: &GpuSlot) -> bool {
        let Some(own) = slot.gpu.map(|gpu| &self.own[gpu]) else { return true };
        let may = self.watch.as_ref().is_some_and(|watch| watch.may_take_task(&own.identity.uuid));
        may && own.lock.is_some() && own.testing == Testing::Nothing && !own.distrusted
    }

    fn standing(&self, own: &Own) -> Standing {
        self.watch.as_ref().map_or(Standing::Unlisted, |watch| watch.view().standing(&own.identity.uuid))
    }

    fn seen(&self, gpu: usize) -> Option<Gpu> {
        let view = self.watch.as_ref()?.view();
        view.snapshot.gpu(&self.own[gpu].identity.uuid).cloned()
    }

    /// Takes the locks of GPUs that others had; asks the file system.
    pub fn lock(&mut self) {
        for own in self.own.iter_mut().filter(|own| own.lock.is_none()) {
            match GpuLock::try_take(&locks::directory(), &own.identity.uuid) {
                Ok(lock) => (own.lock, own.refused) = (Some(lock), None),
                Err(error) => {
                    let words = chain(&error);
                    if own.refused.as_ref() != Some(&words) {
                        tracing::warn!(gpu = %own.identity.uuid, error = words, "the GPU is not used");
                    }
                    own.refused = Some(words);
                }
            }
        }
    }
}

impl List {
    fn trouble(&self) -> Option<&str> {
        match self {
            Self::Whole => None,
            Self::Open { trouble, seen: _ } => trouble.as_deref(),
        }
    }
}

impl Own {
    fn slot(&self, sharers: NonZeroU32) -> SlotGpu {
        SlotGpu { uuid: self.identity.uuid.to_string(), cpus: self.cpus.clone(), sharers }
    }
}

impl GpuSlot {
    /// Whether it is taken by a process of which nobody waits for anything any more.
    fn is_lost(&self) -> bool {
        self.occupant.as_ref().is_some_and(|occupant| occupant.remains.is_some())
    }

    fn is_of(&self, attempt: AttemptId) -> bool {
        self.occupant.as_ref().is_some_and(|occupant| occupant.attempt == attempt)
    }
}

fn on_cpus(slots: u32) -> Vec<GpuSlot> {
    (0..slots).map(|_| GpuSlot { gpu: None, occupant: None }).collect()
}

/// What the end of a self-test's process says of the GPU. A time limit is the program's fault: a GPU that works is done
/// in seconds. A process that could not be started, or was killed, as for want of memory, says nothing.
pub fn verdict(ended: &life::Outcome) -> TestOutcome {
    match ended {
        life::Outcome::Succeeded => TestOutcome::Passed,
        life::Outcome::Failed(failure) => match failure.fault {
            Fault::Program | Fault::Deadline | Fault::Crashes => TestOutcome::Failed,
            Fault::Input => TestOutcome::NotRun,
        },
        life::Outcome::Lost(Loss::GpuFault) => TestOutcome::Failed,
        life::Outcome::Cancelled
        | life::Outcome::Lost(
            Loss::LeaseExpired
            | Loss::Returned
            | Loss::Walltime
            | Loss::Preempted
            | Loss::NodeLost
            | Loss::Stopped
            | Loss::Unfit(_)
            | Loss::Crashed,
        ) => TestOutcome::NotRun,
    }
}

/// The usual settings, no more patient than `quiet` says.
fn settings(quiet: Duration) -> WatchSettings {
    let usual = WatchSettings::default();
    let policy =
        health::HealthPolicy { quarantine_quiet: quiet, settle: usual.policy.settle.min(quiet), ..usual.policy };
    WatchSettings { policy, interval: usual.interval.min(quiet), reopen: usual.reopen.min(quiet), ..usual }
}

/// The CPUs that this process may use.
fn allowed_cpus() -> Vec<u32> {
    let Ok(set) = rustix::thread::sched_getaffinity(None) else { return Vec::new() };
    (0..).take(rustix::thread::CpuSet::MAX_CPU).filter(|cpu: &u32| set.is_set(*cpu as usize)).collect()
}

#[cfg(test)]
mod tests;
