//! Which GPUs a look at the node shows for this worker: those that CUDA would show it, and why there may be more.

use super::PATIENCE;
use crate::gpu::visible::{Order, Visible, hides_all, visible};
use crate::gpu::{Absence, Driver, GpuIdentity, Snapshot};

/// Which GPUs there are for this worker.
pub(super) enum Listing {
    /// A node without GPUs, as far as is known.
    NoGpus,
    /// With GPUs, if there is no trouble.
    Gpus { gpus: Vec<GpuIdentity>, trouble: Option<String> },
}

/// The variable by which GPUs are given to a process.
fn visible_devices() -> Option<String> {
    std::env::var("CUDA_VISIBLE_DEVICES").ok()
}

/// What a look shows.
pub(super) fn listing(snapshot: &Snapshot) -> Listing {
    let trouble = match &snapshot.driver {
        Driver::Absent { absence: Absence::NoLibrary | Absence::NotLoaded, .. } => return Listing::NoGpus,
        Driver::Absent { absence, why } => Some(format!("{absence}: {why}")),
        Driver::Starting | Driver::Running { .. } if snapshot.round == 0 => {
            Some(format!("the NVIDIA driver has not answered in {} s", PATIENCE.as_secs()))
        }
        Driver::Starting | Driver::Running { .. } => {
            snapshot.unlisted.as_ref().map(|why| format!("the NVIDIA driver does not list its GPUs: {why}"))
        }
    };
    let all: Vec<GpuIdentity> = snapshot.gpus.iter().map(|gpu| gpu.identity.clone()).collect();
    let setting = visible_devices();
    let order = match std::env::var("CUDA_DEVICE_ORDER").as_deref() {
        Ok("PCI_BUS_ID") => Order::PciBus,
        Ok(_) | Err(_) => Order::FastestFirst,
    };
    let Visible { gpus, mistake } = visible(setting.as_deref(), order, &all);
    let unreadable = snapshot.unreadable.first().map(|gpu| format!("GPU {}: {}", gpu.index, gpu.why));
    let trouble = trouble.or(mistake.map(|mistake| mistake.to_string())).or(unreadable);
    if gpus.is_empty() && trouble.is_none() { Listing::NoGpus } else { Listing::Gpus { gpus, trouble } }
}

/// Whether this process sees no GPU, whatever the node has: a batch system sets that for jobs that asked for none.
pub(super) fn sees_none() -> bool {
    visible_devices().is_some_and(|setting| hides_all(&setting))
}
