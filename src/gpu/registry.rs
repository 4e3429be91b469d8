//! All that is known of the GPUs of a node, and what each thing seen makes of it.
//!
//! Pure: no threads, no driver, no clock. Time comes in as a duration since the watch began. It is the one writer of
//! the states of health.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::health::{Era, GpuHistory, HealthEvent, HealthPolicy, Machine, TestOutcome, Wanted};
use super::identity::{GpuIdentity, GpuUuid};
use super::nvml::{Fault, Reading};
use super::sample::Sample;
use super::snapshot::{Absence, Change, Driver, Gpu, Health, Snapshot, Unreadable, Xids};
use crate::task::failure::chain;

/// What is known.
#[derive(Debug)]
pub(super) struct Registry {
    policy: HealthPolicy,
    round: u64,
    taken: Duration,
    driver: Driver,
    physical: BTreeMap<GpuUuid, Physical>,
    listed: Vec<Listed>,
    unreadable: Vec<Unreadable>,
    unlisted: Option<String>,
    /// GPUs that the last look could read.
    readable: BTreeSet<GpuUuid>,
    /// Self-tests of which the owner was told.
    told: BTreeMap<GpuUuid, Era>,
}

#[derive(Debug)]
struct Physical {
    machine: Machine,
    xids: Xids,
    last_xid: Option<u64>,
}

#[derive(Debug)]
struct Listed {
    identity: GpuIdentity,
    sample: Sample,
    sampled: Duration,
}

/// Whether opening the driver's library again may show more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reopen {
    /// A GPU is not read any more: after a reset the library finds it again only from its start. Or the driver is
    /// installed and does not work: its kernel module may be loaded later.
    Soon,
    /// The driver is not installed, or it works and lists no GPU: that changes when an administrator changes it.
    Rarely,
    /// All GPUs are read.
    NotNeeded,
}

impl Registry {
    /// Nothing is known yet.
    pub(super) fn new(policy: HealthPolicy) -> Self {
        Self {
            policy,
            round: 0,
            taken: Duration::ZERO,
            driver: Driver::Starting,
            physical: BTreeMap::new(),
            listed: Vec::new(),
            unreadable: Vec::new(),
            unlisted: None,
            readable: BTreeSet::new(),
            told: BTreeMap::new(),
        }
    }

    /// The driver came or went.
    pub(super) fn driver(&mut self, driver: Driver) -> Vec<Change> {
        if self.driver == driver {
            return Vec::new();
        }
        self.driver = driver.clone();
        vec![Change::Driver(driver)]
    }

    /// A look at all GPUs, which began at `taken`.
    pub(super) fn read(&mut self, taken: Duration, now: Duration, readings: Vec<Reading>) -> Vec<Change> {
        self.end_round(taken);
        self.unreadable.clear();
        self.unlisted = None;
        let mut seen = BTreeSet::new();
        let mut changes = Vec::new();
        let mut faults = Vec::new();
        for reading in readings {
            match reading.found {
                Ok(found) => {
                    let Some(facts) = found.first().map(|gpu| GpuHistory::from(&gpu.sample)) else { continue };
                    let gpu = found[0].identity.uuid.clone();
                    self.listed.retain(|listed| *listed.identity.physical() != gpu);
                    let listed = |found: super::nvml::Found| Listed {
                        identity: found.identity,
                        sample: found.sample,
                        sampled: taken,
                    };
                    self.listed.extend(found.into_iter().map(listed));
                    changes.extend(self.apply(&gpu, now, &HealthEvent::Sampled(facts)));
                    seen.insert(gpu);
                }
                Err(fault) => faults.push((reading.index, reading.uuid, fault)),
            }
        }
        self.readable.clone_from(&seen);
        for (index, uuid, fault) in faults {
            changes.extend(self.read_fault(now, index, uuid, &fault, &mut seen));
        }
        let missing: Vec<GpuUuid> = self.physical.keys().filter(|gpu| !seen.contains(gpu)).cloned().collect();
        for gpu in missing {
            changes.extend(self.apply(&gpu, now, &HealthEvent::Lost));
        }
        changes.extend(self.tests_wanted());
        changes
    }

    /// A look that saw no GPU at all, because the driver did not let it, or because there is none.
    pub(super) fn read_nothing(&mut self, taken: Duration, now: Duration, fault: Option<&Fault>) -> Vec<Change> {
        self.end_round(taken);
        self.unlisted = fault.map(|fault| chain(fault));
        self.all(now, &HealthEvent::SampleFailed)
    }

    /// Something that concerns all GPUs.
    pub(super) fn all(&mut self, now: Duration, event: &HealthEvent) -> Vec<Change> {
        let gpus: Vec<GpuUuid> = self.physical.keys().cloned().collect();
        let mut changes: Vec<Change> = gpus.iter().filter_map(|gpu| self.apply(gpu, now, event)).collect();
        changes.extend(self.tests_wanted());
        changes
    }

    /// An Xid; when the driver does not say of which GPU, it may be each.
    pub(super) fn xid(&mut self, now: Duration, gpu: Option<&GpuUuid>, xid: u64) -> Vec<Change> {
        let gpu = gpu.map(|gpu| self.physical_of(gpu));
        for (uuid, physical) in &mut self.physical {
            if gpu.as_ref().is_none_or(|gpu| gpu == uuid) {
                physical.last_xid = Some(xid);
            }
        }
        match gpu {
            Some(gpu) => self.apply(&gpu, now, &HealthEvent::Xid(xid)).into_iter().collect(),
            None => self.all(now, &HealthEvent::Xid(xid)),
        }
    }

    /// These GPUs tell their Xids, the others do not.
    pub(super) fn heard(&mut self, gpus: &[GpuUuid]) {
        for (uuid, physical) in &mut self.physical {
            physical.xids = if gpus.contains(uuid) { Xids::Heard } else { Xids::Unheard };
        }
    }

    /// A self-test of a GPU, or in one of its instances, has ended.
    pub(super) fn self_tested(&mut self, now: Duration, gpu: &GpuUuid, era: Era, outcome: TestOutcome) -> Vec<Change> {
        let physical = self.physical_of(gpu);
        if outcome == TestOutcome::NotRun {
            // it is wanted again after a pause: the owner is told once more
            self.told.remove(&physical);
        }
        self.one(&physical, now, &HealthEvent::SelfTest(era, outcome))
    }

    /// An attempt on a GPU, or on one of its instances, failed.
    pub(super) fn program_failed(&mut self, now: Duration, gpu: &GpuUuid) -> Vec<Change> {
        let physical = self.physical_of(gpu);
        self.one(&physical, now, &HealthEvent::ProgramFailed)
    }

    /// Something that concerns one GPU, and the tests that are wanted then.
    fn one(&mut self, physical: &GpuUuid, now: Duration, event: &HealthEvent) -> Vec<Change> {
        let mut changes: Vec<Change> = self.apply(physical, now, event).into_iter().collect();
        changes.extend(self.tests_wanted());
        changes
    }

    /// The GPUs that the last look could read: who waits for their Xids asks anew when there are others.
    pub(super) fn readable(&self) -> &BTreeSet<GpuUuid> {
        &self.readable
    }

    /// Whether there is a GPU to watch.
    pub(super) fn has_gpus(&self) -> bool {
        !self.physical.is_empty() || !self.unreadable.is_empty() || self.unlisted.is_some()
    }

    /// Whether opening the driver's library again may show more.
    pub(super) fn reopen(&self) -> Reopen {
        let is_unread = |gpu: &Listed| gpu.sampled < self.taken;
        match &self.driver {
            Driver::Absent { absence: Absence::NoLibrary, .. } if !self.has_gpus() => Reopen::Rarely,
            Driver::Starting | Driver::Absent { .. } => Reopen::Soon,
            Driver::Running { .. } if !self.unreadable.is_empty() || self.listed.iter().any(is_unread) => Reopen::Soon,
            Driver::Running { .. } if !self.has_gpus() => Reopen::Rarely,
            Driver::Running { .. } => Reopen::NotNeeded,
        }
    }

    /// What is known, for readers.
    pub(super) fn snapshot(&self) -> Snapshot {
        let gpu = |listed: &Listed| {
            let physical = self.physical.get(listed.identity.physical())?;
            Some(Gpu {
                identity: listed.identity.clone(),
                sample: listed.sample.clone(),
                sampled: listed.sampled,
                xids: physical.xids,
                last_xid: physical.last_xid,
                health: Health {
                    state: physical.machine.state(),
                    reasons: physical.machine.reasons(),
                    wanted: physical.machine.wanted(),
                },
            })
        };
        let mut gpus: Vec<Gpu> = self.listed.iter().filter_map(gpu).collect();
        // a stable sort: instances stay behind their GPU, in their order
        gpus.sort_by_key(|gpu| self.index(gpu.identity.physical()));
        Snapshot {
            round: self.round,
            taken: self.taken,
            driver: self.driver.clone(),
            gpus,
            unreadable: self.unreadable.clone(),
            unlisted: self.unlisted.clone(),
        }
    }

    fn end_round(&mut self, taken: Duration) {
        self.round += 1;
        self.taken = taken;
    }

    /// Of an instance its GPU, of a GPU itself.
    fn physical_of(&self, gpu: &GpuUuid) -> GpuUuid {
        let listed = self.listed.iter().find(|listed| listed.identity.uuid == *gpu);
        listed.map_or(gpu, |listed| listed.identity.physical()).clone()
    }

    fn index(&self, gpu: &GpuUuid) -> Option<u32> {
        self.listed.iter().find(|listed| listed.identity.uuid == *gpu).map(|listed| listed.identity.index)
    }

    /// A GPU without a name is the one that had its index, unless that one was read elsewhere.
    fn read_fault(
        &mut self,
        now: Duration,
        index: u32,
        uuid: Option<GpuUuid>,
        fault: &Fault,
        seen: &mut BTreeSet<GpuUuid>,
    ) -> Option<Change> {
        let known = self.physical.keys().find(|gpu| self.index(gpu) == Some(index) && !seen.contains(gpu));
        let Some(gpu) = uuid.or_else(|| known.cloned()).filter(|gpu| self.physical.contains_key(gpu)) else {
            self.unreadable.push(Unreadable { index, why: chain(fault) });
            return None;
        };
        tracing::debug!(gpu = %gpu, error = chain(fault), "a GPU could not be read");
        seen.insert(gpu.clone());
        let event = match fault {
            Fault::Lost => HealthEvent::Lost,
            Fault::NeedsReset => HealthEvent::NeedsReset,
            Fault::Refused { .. } | Fault::Uuid(_) => HealthEvent::SampleFailed,
        };
        self.apply(&gpu, now, &event)
    }

    /// Only a sample makes a GPU known.
    fn apply(&mut self, gpu: &GpuUuid, now: Duration, event: &HealthEvent) -> Option<Change> {
        if matches!(event, HealthEvent::Sampled(_)) && !self.physical.contains_key(gpu) {
            let machine = Machine::new(self.policy.clone(), now);
            self.physical.insert(gpu.clone(), Physical { machine, xids: Xids::Unheard, last_xid: None });
        }
        let transition = self.physical.get_mut(gpu)?.machine.apply(now, event)?;
        Some(Change::Health { gpu: gpu.clone(), transition })
    }

    /// Self-tests of which the owner does not know yet.
    fn tests_wanted(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        for (gpu, physical) in &self.physical {
            let Wanted::SelfTest(era) = physical.machine.wanted() else { continue };
            if self.told.insert(gpu.clone(), era) != Some(era) {
                changes.push(Change::SelfTest { gpu: gpu.clone(), era });
            }
        }
        changes
    }
}
