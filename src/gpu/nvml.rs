//! NVIDIA's management library: what it says about the GPUs of this node, as our own values.
//!
//! The only file that names `nvml_wrapper`. Each call may block for as long as the driver likes: callers have a thread
//! for it. It keeps no state but the open library, and judges nothing.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enum_wrappers::device::{
    Clock, EccCounter, MemoryError, RetirementCause, TemperatureSensor, TemperatureThreshold,
};
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::{NvmlError, nvml_try};
use nvml_wrapper::struct_wrappers::device::ProcessInfo;
use nvml_wrapper::{Device, EventSet, Nvml};
use thiserror::Error;

use super::identity::{Capability, Extent, GpuIdentity, GpuUuid, UuidError};
use super::sample::{
    EccErrors, GpuProcess, Memory, RemappedRows, RetiredPages, Sample, Throttle, Unanswered, Utilization,
};
use super::snapshot::Absence;

/// How long a wait for events lasts, milliseconds: the thread that waits sees after it whether it is to end.
const EVENT_WAIT_MS: u32 = 250;

/// The words of a CPU set that the driver fills: as many CPUs as a Linux kernel can have (NR_CPUS is at most 8192).
const CPU_WORDS: usize = 8192 / 64;

/// The words of a set of NUMA nodes: Linux has 1024 at most (NODES_SHIFT is at most 10).
const NODE_WORDS: usize = 1024 / 64;

/// `NVML_AFFINITY_SCOPE_NODE` of nvml.h: what is near by NUMA node, not by socket.
const NODE_SCOPE: u32 = 0;

/// `NVML_ERROR_ARGUMENT_VERSION_MISMATCH` and `NVML_ERROR_DEPRECATED` of nvml.h, which the wrapper has no names for: a
/// newer driver has the query no more.
const QUERY_IS_GONE: [u32; 2] = [25, 26];

/// The temperatures at which GPUs slow down: NVIDIA's data sheets have 85 to 105 °C.
const LIMITS_C: RangeInclusive<u32> = 60..=125;

/// What the wrapper calls an unknown Xid, by the number that the driver has for it.
const UNKNOWN_XID: u64 = 999;

/// The library cannot be used.
#[derive(Debug, Error)]
pub(super) enum OpenError {
    #[error("the driver's library {} cannot be loaded", library.display())]
    Load { library: PathBuf, source: NvmlError },
    #[error("the driver's library does not start")]
    Start { source: NvmlError },
}

impl OpenError {
    /// What it means for the node.
    pub(super) fn absence(&self) -> Absence {
        match self {
            Self::Load { .. } => Absence::NoLibrary,
            Self::Start { source: NvmlError::DriverNotLoaded } => Absence::NotLoaded,
            Self::Start { source: NvmlError::LibRmVersionMismatch } => Absence::Mismatch,
            Self::Start { source: NvmlError::NoPermission } => Absence::NoPermission,
            Self::Start { .. } => Absence::Failed,
        }
    }
}

/// A GPU could not be read.
#[derive(Debug, Error)]
pub(super) enum Fault {
    #[error("the GPU is lost from the bus")]
    Lost,
    #[error("the GPU needs a reset")]
    NeedsReset,
    #[error("the driver does not tell its {quantity}")]
    Refused { quantity: &'static str, source: NvmlError },
    #[error("the driver tells a UUID that is none")]
    Uuid(#[from] UuidError),
}

/// Events cannot be watched.
#[derive(Debug, Error)]
pub(super) enum EventsError {
    #[error("making a set of events failed")]
    Create { source: NvmlError },
    #[error("asking for the events of a GPU failed")]
    Register { source: NvmlError },
    #[error("waiting for events failed")]
    Wait { source: NvmlError },
}

/// One physical GPU of a look at all of them.
#[derive(Debug)]
pub(super) struct Reading {
    /// NVML's index.
    pub(super) index: u32,
    /// Its name, if it could be read before the fault.
    pub(super) uuid: Option<GpuUuid>,
    /// The GPU, and its MIG instances behind it.
    pub(super) found: Result<Vec<Found>, Fault>,
}

/// A GPU or an instance.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) identity: GpuIdentity,
    pub(super) sample: Sample,
}

/// What the wait for events saw.
#[derive(Debug)]
pub(super) enum Happened {
    /// These GPUs are watched now.
    Watching(Vec<GpuUuid>),
    /// An Xid; of which GPU or instance the driver may not say.
    Xid(Option<GpuUuid>, u64),
    /// Some GPU has fallen off the bus.
    SomeLost,
}

/// The open library.
#[derive(Debug)]
pub(super) struct Session {
    nvml: Nvml,
}

impl Session {
    /// Loads the library and starts it.
    pub(super) fn open(library: &Path) -> Result<Self, OpenError> {
        let nvml = Nvml::builder().lib_path(library.as_os_str()).init().map_err(|source| {
            let is_load = matches!(source, NvmlError::LibloadingError(_) | NvmlError::FailedToLoadSymbol(_));
            if is_load { OpenError::Load { library: library.to_owned(), source } } else { OpenError::Start { source } }
        })?;
        Ok(Self { nvml })
    }

    /// The driver's version; empty when it does not say.
    pub(super) fn version(&self) -> String {
        self.nvml.sys_driver_version().unwrap_or_default()
    }

    /// Looks at each GPU that this process may see.
    pub(super) fn read(&self) -> Result<Vec<Reading>, Fault> {
        let count = self.nvml.device_count().map_err(|source| Fault::of("number of GPUs", source))?;
        Ok((0..count).filter_map(|index| self.read_one(index)).collect())
    }

    /// None: another job's, hidden from this one.
    fn read_one(&self, index: u32) -> Option<Reading> {
        let device = match self.nvml.device_by_index(index) {
            Ok(device) => device,
            Err(NvmlError::NoPermission) => return None,
            Err(source) => {
                return Some(Reading { index, uuid: None, found: Err(Fault::of("handle", source)) });
            }
        };
        match uuid_of(&device) {
            Ok(uuid) => {
                let found = read_with_instances(&device, index, &uuid);
                Some(Reading { index, uuid: Some(uuid), found })
            }
            Err(fault) => Some(Reading { index, uuid: None, found: Err(fault) }),
        }
    }

    /// Tells of events until it is not to go on. What is registered stays so for this session only.
    pub(super) fn events(&self, goes_on: &dyn Fn() -> bool, tell: &dyn Fn(Happened)) -> Result<(), EventsError> {
        let (set, watched) = self.event_set()?;
        tell(Happened::Watching(watched.iter().map(|(_, uuid)| uuid.clone()).collect()));
        while goes_on() {
            match set.wait(EVENT_WAIT_MS) {
                Ok(event) => {
                    let Some(xid) = event.event_data else { continue };
                    let watched = watched.iter().find(|(handle, _)| *handle == handle_of(&event.device));
                    let gpu = watched.map(|(_, uuid)| uuid.clone()).or_else(|| uuid_of(&event.device).ok());
                    let xid = match xid {
                        XidError::Value(xid) => xid,
                        XidError::Unknown => UNKNOWN_XID,
                    };
                    tell(Happened::Xid(gpu, xid));
                }
                Err(NvmlError::Timeout) => {}
                Err(source) => {
                    if matches!(source, NvmlError::GpuLost) {
                        tell(Happened::SomeLost);
                    }
                    return Err(EventsError::Wait { source });
                }
            }
        }
        Ok(())
    }

    /// The set of Xid events of all GPUs that have them, and these GPUs by their handles: a lost GPU does not tell its
    /// UUID any more.
    fn event_set(&self) -> Result<(EventSet<'_>, Vec<(usize, GpuUuid)>), EventsError> {
        let mut set = self.nvml.create_event_set().map_err(|source| EventsError::Create { source })?;
        let mut watched = Vec::new();
        for index in 0..self.nvml.device_count().unwrap_or_default() {
            let Ok(device) = self.nvml.device_by_index(index) else { continue };
            let Ok(uuid) = uuid_of(&device) else { continue };
            let has_xids = device.supported_event_types().is_ok_and(|all| all.contains(EventTypes::CRITICAL_XID_ERROR));
            if has_xids {
                // a failure takes the set with it
                set = device
                    .register_events(EventTypes::CRITICAL_XID_ERROR, set)
                    .map_err(|error| EventsError::Register { source: error.error })?;
                watched.push((handle_of(&device), uuid));
            }
        }
        Ok((set, watched))
    }
}

impl Fault {
    fn of(quantity: &'static str, source: NvmlError) -> Self {
        if matches!(source, NvmlError::GpuLost) {
            Self::Lost
        } else if matches!(source, NvmlError::ResetRequired) {
            Self::NeedsReset
        } else {
            Self::Refused { quantity, source }
        }
    }
}

/// An address that stands for the device.
fn handle_of(device: &Device<'_>) -> usize {
    // SAFETY: it is compared and never followed
    unsafe { device.handle() }.addr()
}

fn uuid_of(device: &Device<'_>) -> Result<GpuUuid, Fault> {
    let text = device.uuid().map_err(|source| Fault::of("UUID", source))?;
    Ok(text.parse()?)
}

fn read_with_instances(device: &Device<'_>, index: u32, uuid: &GpuUuid) -> Result<Vec<Found>, Fault> {
    let divided = matches!(device.mig_mode(), Ok(mode) if mode.current != 0);
    let identity = identify(device, index, uuid, if divided { Extent::Divided } else { Extent::Whole })?;
    let mut all = vec![Found { sample: sample(device)?, identity }];
    if divided {
        for at in 0..device.mig_device_count().unwrap_or_default() {
            // there is room for more instances than there are
            let Ok(instance) = device.mig_device_by_index(at) else { continue };
            let found = read_instance(&instance, at, &all[0].identity)?;
            all.push(found);
        }
    }
    Ok(all)
}

fn identify(device: &Device<'_>, index: u32, uuid: &GpuUuid, extent: Extent) -> Result<GpuIdentity, Fault> {
    let capability = known("compute capability", device.cuda_compute_capability())?;
    Ok(GpuIdentity {
        uuid: uuid.clone(),
        index,
        name: known("name", device.name())?.unwrap_or_default(),
        pci_bus_id: known("PCI address", device.pci_info())?.map(|pci| pci.bus_id).unwrap_or_default(),
        numa_node: device.memory_affinity(NODE_WORDS, NODE_SCOPE).ok().and_then(|set| only(&members(&set))),
        cpus: device.cpu_affinity(CPU_WORDS).map(|set| members(&set)).unwrap_or_default(),
        memory_bytes: known("memory", device.memory_info())?.map(|memory| memory.total),
        capability: capability.and_then(|found| {
            Some(Capability { major: found.major.try_into().ok()?, minor: found.minor.try_into().ok()? })
        }),
        serial: device.serial().ok(),
        extent,
    })
}

fn read_instance(instance: &Device<'_>, index: u32, parent: &GpuIdentity) -> Result<Found, Fault> {
    let extent = Extent::Instance {
        parent: parent.uuid.clone(),
        gpu_instance: instance_id(instance, Level::Gpu).map_err(|source| Fault::of("GPU instance", source))?,
        compute_instance: instance_id(instance, Level::Compute)
            .map_err(|source| Fault::of("compute instance", source))?,
    };
    let memory = known("memory", instance.memory_info())?;
    let identity = GpuIdentity {
        uuid: uuid_of(instance)?,
        index,
        name: known("name", instance.name())?.unwrap_or_else(|| parent.name.clone()),
        memory_bytes: memory.as_ref().map(|memory| memory.total),
        extent,
        ..parent.clone()
    };
    let sample = Sample {
        memory: memory.map(|memory| Memory { total_bytes: memory.total, used_bytes: memory.used }),
        processes: instance.running_compute_processes().ok().map(processes),
        ..Sample::default()
    };
    Ok(Found { identity, sample })
}

/// What quarantines must be told or not be supported; the rest may be missing.
fn sample(device: &Device<'_>) -> Result<Sample, Fault> {
    let mut unanswered = Vec::new();
    let memory = known("memory", device.memory_info())?;
    let slowdown = device.temperature_threshold(TemperatureThreshold::Slowdown);
    let utilization = wished("utilization", device.utilization_rates(), &mut unanswered)?;
    Ok(Sample {
        utilization: utilization.map(|rates| Utilization { gpu_percent: rates.gpu, memory_percent: rates.memory }),
        memory: memory.map(|memory| Memory { total_bytes: memory.total, used_bytes: memory.used }),
        temperature_c: wished("temperature", device.temperature(TemperatureSensor::Gpu), &mut unanswered)?,
        slowdown_c: believed(wished("slowdown temperature", slowdown, &mut unanswered)?, &mut unanswered),
        power_mw: wished("power", device.power_usage(), &mut unanswered)?,
        energy_mj: wished("energy", device.total_energy_consumption(), &mut unanswered)?,
        sm_clock_mhz: wished("clock", device.clock_info(Clock::SM), &mut unanswered)?,
        memory_clock_mhz: wished("memory clock", device.clock_info(Clock::Memory), &mut unanswered)?,
        throttle: wished("throttle reasons", device.current_throttle_reasons(), &mut unanswered)?.map(throttle),
        ecc_volatile: known("memory errors", ecc(device, EccCounter::Volatile))?,
        ecc_aggregate: wished("memory errors of its life", ecc(device, EccCounter::Aggregate), &mut unanswered)?,
        retired_pages: known("retired pages", retired_pages(device))?,
        remapped_rows: known("remapped rows", remapped_rows(device))?,
        pcie_replays: wished("PCIe replays", device.pcie_replay_counter(), &mut unanswered)?.map(u64::from),
        processes: wished("processes", device.running_compute_processes(), &mut unanswered)?.map(processes),
        unanswered,
    })
}

/// A limit that can be one. Newer generations tell a margin instead, and the old query answers 0 or that margin: each GPU would
/// count as hot.
fn believed(limit: Option<u32>, unanswered: &mut Vec<Unanswered>) -> Option<u32> {
    let limit = limit?;
    if LIMITS_C.contains(&limit) {
        return Some(limit);
    }
    let why = format!("{limit} °C is no temperature at which a GPU slows down");
    unanswered.push(Unanswered { quantity: "slowdown temperature", why });
    None
}

/// None where the GPU has no such thing, or this user or this driver's library may not ask.
fn known<T>(quantity: &'static str, answer: Result<T, NvmlError>) -> Result<Option<T>, Fault> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(NvmlError::NotSupported | NvmlError::FunctionNotFound | NvmlError::FailedToLoadSymbol(_)) => Ok(None),
        Err(NvmlError::NoPermission | NvmlError::NoData) => Ok(None),
        Err(NvmlError::UnexpectedVariant(code)) if QUERY_IS_GONE.contains(&code) => Ok(None),
        Err(source) => Err(Fault::of(quantity, source)),
    }
}

/// As `known`, but a refusal is noted and is no fault.
fn wished<T>(
    quantity: &'static str,
    answer: Result<T, NvmlError>,
    unanswered: &mut Vec<Unanswered>,
) -> Result<Option<T>, Fault> {
    match known(quantity, answer) {
        Err(Fault::Refused { quantity, source }) => {
            unanswered.push(Unanswered { quantity, why: source.to_string() });
            Ok(None)
        }
        told => told,
    }
}

fn ecc(device: &Device<'_>, counter: EccCounter) -> Result<EccErrors, NvmlError> {
    Ok(EccErrors {
        corrected: device.total_ecc_errors(MemoryError::Corrected, counter)?,
        uncorrected: device.total_ecc_errors(MemoryError::Uncorrected, counter)?,
    })
}

fn retired_pages(device: &Device<'_>) -> Result<RetiredPages, NvmlError> {
    let count = |cause| device.retired_pages(cause).map(|pages| pages.len() as u64);
    Ok(RetiredPages {
        single_bit: count(RetirementCause::MultipleSingleBitEccErrors)?,
        double_bit: count(RetirementCause::DoubleBitEccError)?,
        pending: device.are_pages_pending_retired()?,
    })
}

/// The wrapper has the function but no method for it.
fn remapped_rows(device: &Device<'_>) -> Result<RemappedRows, NvmlError> {
    let found = device.nvml().lib().nvmlDeviceGetRemappedRows.as_ref();
    let call = found.map_err(|error| NvmlError::FailedToLoadSymbol(error.to_string()))?;
    let (mut corrected, mut uncorrected, mut pending, mut failed) = (0, 0, 0, 0);
    // SAFETY: the library is open as long as the device, whose handle it is; it writes one number to each place
    nvml_try(unsafe { call(device.handle(), &mut corrected, &mut uncorrected, &mut pending, &mut failed) })?;
    Ok(RemappedRows {
        corrected: corrected.into(),
        uncorrected: uncorrected.into(),
        pending: pending != 0,
        failed: failed != 0,
    })
}

/// Of which the number is asked for.
#[derive(Clone, Copy)]
enum Level {
    Gpu,
    Compute,
}

/// The wrapper has the functions but no methods for them.
fn instance_id(instance: &Device<'_>, level: Level) -> Result<u32, NvmlError> {
    let library = instance.nvml().lib();
    let found = match level {
        Level::Gpu => library.nvmlDeviceGetGpuInstanceId.as_ref(),
        Level::Compute => library.nvmlDeviceGetComputeInstanceId.as_ref(),
    };
    let call = found.map_err(|error| NvmlError::FailedToLoadSymbol(error.to_string()))?;
    let mut id = 0;
    // SAFETY: the library is open as long as the device, whose handle it is; it writes one number
    nvml_try(unsafe { call(instance.handle(), &mut id) })?;
    Ok(id)
}

fn processes(found: Vec<ProcessInfo>) -> Vec<GpuProcess> {
    let process = |info: ProcessInfo| GpuProcess {
        pid: info.pid,
        memory_bytes: match info.used_gpu_memory {
            UsedGpuMemory::Used(bytes) => Some(bytes),
            UsedGpuMemory::Unavailable => None,
        },
    };
    found.into_iter().map(process).collect()
}

fn throttle(reasons: ThrottleReasons) -> BTreeSet<Throttle> {
    let names = [
        (ThrottleReasons::GPU_IDLE, Throttle::Idle),
        (ThrottleReasons::APPLICATIONS_CLOCKS_SETTING, Throttle::ClocksSetting),
        (ThrottleReasons::SW_POWER_CAP, Throttle::PowerCap),
        (ThrottleReasons::HW_SLOWDOWN, Throttle::HardwareSlowdown),
        (ThrottleReasons::SYNC_BOOST, Throttle::SyncBoost),
        (ThrottleReasons::SW_THERMAL_SLOWDOWN, Throttle::SoftwareThermal),
        (ThrottleReasons::HW_THERMAL_SLOWDOWN, Throttle::HardwareThermal),
        (ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN, Throttle::PowerBrake),
        (ThrottleReasons::DISPLAY_CLOCK_SETTING, Throttle::DisplayClocks),
    ];
    names.into_iter().filter(|(bit, _)| reasons.contains(*bit)).map(|(_, name)| name).collect()
}

/// The numbers whose bits are set.
fn members(set: &[std::ffi::c_ulong]) -> Vec<u32> {
    let bits = set.iter().flat_map(|word| (0..std::ffi::c_ulong::BITS).map(move |bit| word >> bit & 1 == 1));
    (0..).zip(bits).filter(|(_, is_set)| *is_set).map(|(number, _)| number).collect()
}

fn only(numbers: &[u32]) -> Option<u32> {
    match numbers {
        [number] => Some(*number),
        _ => None,
    }
}
