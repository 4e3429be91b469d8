//! A GPU behind CUDA's driver, which is loaded when it is first asked for. Knows no correlation.
//!
//! Kernels run on one stream, in their order; what is sent goes over another, and a kernel that uses it waits for it. So a
//! copy overlaps with the kernels that need none of it. All calls are made by the thread that has entered the context.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::ffi::{CString, c_void};
use std::num::NonZeroU32;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::api::{self, Api, CAPABILITY_MAJOR, CAPABILITY_MINOR, Code, Context, DeviceId, STREAM_NON_BLOCKING, Stream};
use super::device::{Arg, Device, DeviceError, DriverCause, Grid, Kernel, MemoryKind};
use super::images::{Capability, Form, Module, module};

mod memory;
mod times;

pub(super) use memory::{DriverMemory, Pinned};
use memory::{Event, Uses};
use times::Watch;
pub use times::{HostPhase, Spent, Times};

/// Why there is no GPU to compute on.
#[derive(Debug, thiserror::Error)]
pub enum NoGpu {
    /// No driver.
    #[error("this computer has no NVIDIA driver (libcuda.so.1 cannot be loaded)")]
    NoDriver,
    /// The driver does not start.
    #[error("the NVIDIA driver does not start")]
    Init(#[source] DeviceError),
    /// No GPU, or none that may be used.
    #[error("the NVIDIA driver shows no GPU; CUDA_VISIBLE_DEVICES names those that may be used")]
    None,
    /// Not the one that was asked for.
    #[error("there is no GPU {asked}: the driver shows {count}, counted from 0, as CUDA_VISIBLE_DEVICES orders them")]
    Unknown {
        /// The number.
        asked: u64,
        /// How many there are.
        count: u32,
    },
    /// It cannot be used.
    #[error("GPU {gpu} cannot be used")]
    Unusable {
        /// Its number.
        gpu: u32,
        /// Why.
        #[source]
        source: DeviceError,
    },
}

/// A GPU in whose primary context kernels run.
#[derive(Debug)]
pub(super) struct Driver {
    api: &'static Api,
    device: DeviceId,
    context: Context,
    kernels: Stream,
    copies: Stream,
    capability: Option<Capability>,
    modules: RefCell<HashMap<Module, (api::Module, Form)>>,
    functions: RefCell<HashMap<&'static str, api::Function>>,
    /// The kernel that was started last: errors of kernels come with later calls.
    last: Cell<Option<Kernel>>,
    /// Programs that use its memory at the same time, this one included.
    sharers: NonZeroU32,
    /// Bytes of memory that are in use here.
    used: Arc<AtomicU64>,
    watch: Watch,
}

// SAFETY: the handles may be used by any thread that has entered the context, one at a time, which `&mut` or a lock around
// the driver sees to
unsafe impl Send for Driver {}

/// Starts the driver and counts the GPUs that may be used.
fn start() -> Result<(&'static Api, u32), NoGpu> {
    let api = api::api().map_err(|why| {
        tracing::debug!(%why, "CUDA's driver cannot be loaded");
        NoGpu::NoDriver
    })?;
    // SAFETY: it may be called at any time, by any thread
    match unsafe { api.init(0) } {
        Err(Code::NO_DEVICE) => return Err(NoGpu::None),
        other => other.map_err(|code| NoGpu::Init(failed(api, "cuInit", code)))?,
    }
    let mut count = 0;
    // SAFETY: the driver writes a number
    unsafe { api.device_count(&raw mut count) }.map_err(|code| NoGpu::Init(failed(api, "cuDeviceGetCount", code)))?;
    match u32::try_from(count) {
        Ok(count @ 1..) => Ok((api, count)),
        Ok(0) | Err(_) => Err(NoGpu::None),
    }
}

impl Driver {
    /// The GPU of a number.
    pub(super) fn new(asked: u64) -> Result<Self, NoGpu> {
        let (api, count) = start()?;
        let known = u32::try_from(asked).ok().filter(|&gpu| gpu < count);
        let gpu = known.ok_or(NoGpu::Unknown { asked, count })?;
        Self::open(api, gpu).map_err(|source| NoGpu::Unusable { gpu, source })
    }

    /// The first GPU that can be used, in an order of the caller's, which gets their UUIDs as `nvidia-smi -L` has them, by
    /// number. No other GPU is touched: a context takes some hundred megabytes of it, and time.
    pub(super) fn first(order: impl FnOnce(&[Option<String>]) -> Vec<u32>) -> Result<Self, NoGpu> {
        let (api, count) = start()?;
        let uuid = |gpu: u32| device(api, gpu).ok().and_then(|device| uuid(api, device));
        let uuids: Vec<_> = (0..count).map(uuid).collect();
        let mut refused = None;
        for gpu in order(&uuids).into_iter().filter(|&gpu| gpu < count) {
            match Self::open(api, gpu) {
                Ok(driver) => return Ok(driver),
                Err(source) => refused = refused.or(Some(NoGpu::Unusable { gpu, source })),
            }
        }
        Err(refused.unwrap_or(NoGpu::None))
    }

    fn open(api: &'static Api, gpu: u32) -> Result<Self, DeviceError> {
        let device = device(api, gpu)?;
        let mut context = Context::NULL;
        // SAFETY: the driver writes a handle; it gave the device
        unsafe { api.context_retain(&raw mut context, device) }
            .map_err(|code| failed(api, "cuDevicePrimaryCtxRetain", code))?;
        let mut driver = Self {
            api,
            device,
            context,
            kernels: Stream::NULL,
            copies: Stream::NULL,
            capability: capability(api, device),
            modules: RefCell::default(),
            functions: RefCell::default(),
            last: Cell::default(),
            sharers: NonZeroU32::MIN,
            used: Arc::default(),
            watch: Watch::default(),
        };
        driver.enter()?;
        let stream = || {
            let mut stream = Stream::NULL;
            // SAFETY: the driver writes a handle
            unsafe { api.stream_create(&raw mut stream, STREAM_NON_BLOCKING) }
                .map_err(|code| failed(api, "cuStreamCreate", code))?;
            Ok(stream)
        };
        driver.kernels = stream()?;
        driver.copies = stream()?;
        Ok(driver)
    }

    /// Makes the calling thread one that may use it.
    pub(super) fn enter(&self) -> Result<(), DeviceError> {
        // SAFETY: the context is retained until drop
        unsafe { self.api.context_set(self.context) }.map_err(|code| failed(self.api, "cuCtxSetCurrent", code))
    }

    /// Limits it to its part of the memory, where that many programs use the GPU at the same time.
    pub(super) fn share_with(&mut self, sharers: NonZeroU32) {
        self.sharers = sharers;
    }

    /// Name and UUID, for people.
    pub(super) fn describe(&self) -> String {
        let mut name = [0_u8; 256];
        // SAFETY: the driver writes at most that many bytes, a zero at the end
        let found = unsafe { self.api.device_name(name.as_mut_ptr().cast(), name.len() as i32, self.device) };
        let text = std::ffi::CStr::from_bytes_until_nul(&name).ok().filter(|_| found.is_ok());
        let name = text.map_or_else(|| "a GPU".into(), |text| text.to_string_lossy());
        match self.uuid() {
            Some(uuid) => format!("{name}, {uuid}"),
            None => name.into_owned(),
        }
    }

    /// `GPU-` and the UUID as `nvidia-smi -L` has it.
    pub(super) fn uuid(&self) -> Option<String> {
        uuid(self.api, self.device)
    }

    /// In which form the kernels were loaded so far.
    pub(super) fn forms(&self) -> BTreeSet<Form> {
        self.modules.borrow().values().map(|(_, form)| *form).collect()
    }

    /// Takes the time of each kernel and of the host's calls from now on.
    pub(super) fn take_times(&self) {
        self.watch.begin();
    }

    /// Where the time went since.
    pub(super) fn times(&self) -> Result<Times, DeviceError> {
        self.synchronize()?;
        self.watch.times()
    }

    /// Waits for all kernels.
    fn synchronize(&self) -> Result<(), DeviceError> {
        // SAFETY: the stream is alive
        unsafe { self.api.stream_synchronize(self.kernels) }.map_err(|code| self.waited("cuStreamSynchronize", code))
    }

    /// A kernel, whose module is loaded when it is first asked for.
    fn function(&self, kernel: Kernel) -> Result<api::Function, DeviceError> {
        let name = kernel.name();
        if let Some(function) = self.functions.borrow().get(name) {
            return Ok(*function);
        }
        let wanted = module(kernel);
        let known = self.modules.borrow().get(&wanted).map(|(module, _)| *module);
        let module = match known {
            Some(module) => module,
            None => {
                let loaded = self.watch.phase(HostPhase::Load, || self.load(wanted));
                let (loaded, form) = loaded.map_err(|code| self.unloaded(name, "cuModuleLoadData", code))?;
                tracing::debug!(module = ?wanted, form = form.name(), "kernels are loaded");
                self.modules.borrow_mut().insert(wanted, (loaded, form));
                loaded
            }
        };
        let (text, mut function) = (CString::new(name).unwrap_or_default(), api::Function::NULL);
        // SAFETY: the module is loaded, until drop; the text ends with a zero
        unsafe { self.api.module_function(&raw mut function, module, text.as_ptr()) }
            .map_err(|code| self.unloaded(name, "cuModuleGetFunction", code))?;
        self.functions.borrow_mut().insert(name, function);
        Ok(function)
    }

    /// Machine code where there is some for this GPU and the driver takes it; else PTX, which the driver compiles.
    fn load(&self, wanted: Module) -> Result<(api::Module, Form), Code> {
        let mut module = api::Module::NULL;
        if let Some((form, image)) = self.capability.and_then(|capability| wanted.machine_code(capability)) {
            // SAFETY: it is a whole cubin, whose header says how long it is
            match unsafe { self.api.module_load(&raw mut module, image.as_ptr().cast()) } {
                Ok(()) => return Ok((module, form)),
                Err(
                    code @ (Code::NO_BINARY_FOR_GPU | Code::INVALID_SOURCE | Code::INVALID_IMAGE | Code::INVALID_PTX),
                ) => {
                    let (name, _) = self.api.describe(code);
                    tracing::debug!(code = code.0, name, "the driver does not take machine code: it compiles PTX");
                }
                Err(other) => return Err(other),
            }
        }
        let text = CString::new(wanted.ptx()).unwrap_or_default();
        // SAFETY: it is a text that ends with a zero
        unsafe { self.api.module_load(&raw mut module, text.as_ptr().cast()) }?;
        Ok((module, Form::Ptx))
    }

    /// The error of a call that loads a kernel; or that of one that has run before.
    fn unloaded(&self, kernel: &'static str, call: &'static str, code: Code) -> DeviceError {
        match self.last.get() {
            Some(_) if code.is_of_what_ran() => self.waited(call, code),
            Some(_) | None => DeviceError::Load { kernel, call, source: cause(self.api, code) },
        }
    }

    /// The error of a call that waits for kernels: it may be theirs.
    fn waited(&self, call: &'static str, code: Code) -> DeviceError {
        match self.last.get() {
            Some(kernel) => DeviceError::Kernel { kernel: kernel.name(), source: cause(self.api, code) },
            None => failed(self.api, call, code),
        }
    }

    /// The error of a call that allocates.
    fn refused(&self, call: &'static str, code: Code, memory: MemoryKind, bytes: usize) -> DeviceError {
        match code {
            Code::OUT_OF_MEMORY => DeviceError::OutOfMemory { memory, bytes },
            other => self.waited(call, other),
        }
    }

    /// Makes the kernels wait for what is sent to some memory.
    fn await_arrival(&self, memory: &DriverMemory) -> Result<(), DeviceError> {
        match memory.arrival.borrow_mut().take() {
            Some(arrival) => arrival.hold_up(self.kernels),
            None => Ok(()),
        }
    }

    /// Notes that the stream of kernels was asked to use some memory.
    fn note_use<'a>(&self, all: impl IntoIterator<Item = &'a DriverMemory>) -> Result<(), DeviceError> {
        let mut end = None;
        for memory in all {
            let mut uses = memory.uses.borrow_mut();
            *uses = match &*uses {
                Uses::None | Uses::Some => Uses::Some,
                Uses::Waited | Uses::Until(_) => {
                    let event = match end.take() {
                        Some(event) => event,
                        None => Rc::new(Event::of(self.api, self.kernels)?),
                    };
                    Uses::Until(Rc::clone(end.insert(event)))
                }
            };
        }
        Ok(())
    }

    /// Copies bytes of the GPU's memory within it, for benchmarks.
    pub(super) fn copy(&self, to: &mut DriverMemory, from: &DriverMemory, bytes: usize) -> Result<(), DeviceError> {
        assert!(bytes <= to.bytes.min(from.bytes), "a copy beyond its memory");
        self.await_arrival(to)?;
        self.await_arrival(from)?;
        // SAFETY: both ranges were checked, and are of two allocations
        unsafe { self.api.copy_within(to.start, from.start, bytes, self.kernels) }
            .map_err(|code| self.waited("cuMemcpyDtoDAsync", code))?;
        self.note_use([&*to, from])?;
        self.synchronize()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // what fails now has failed before, and there is nobody to tell
        let _ = self.enter();
        // SAFETY: nothing that was made with the context is used from here on
        unsafe {
            for (module, _) in self.modules.borrow().values() {
                let _ = self.api.module_unload(*module);
            }
            for stream in [self.kernels, self.copies] {
                if stream != Stream::NULL {
                    let _ = self.api.stream_destroy(stream);
                }
            }
            let _ = self.api.context_release(self.device);
        }
    }
}

impl Device for Driver {
    type Memory = DriverMemory;
    type Staging = Pinned;

    fn free_bytes(&self) -> Result<u64, DeviceError> {
        let (mut free, mut all) = (0, 0);
        // SAFETY: the driver writes two numbers
        unsafe { self.api.memory_info(&raw mut free, &raw mut all) }
            .map_err(|code| self.waited("cuMemGetInfo", code))?;
        let own = all as u64 / u64::from(self.sharers.get());
        Ok((free as u64).min(own.saturating_sub(self.used.load(Ordering::Relaxed))))
    }

    fn allocate(&self, bytes: usize) -> Result<DriverMemory, DeviceError> {
        let allocated = self.watch.phase(HostPhase::Allocate, || DriverMemory::new(self.api, bytes, &self.used));
        allocated.map_err(|code| self.refused("cuMemAlloc", code, MemoryKind::Gpu, bytes))
    }

    fn clear(&self, memory: &mut DriverMemory) -> Result<(), DeviceError> {
        self.await_arrival(memory)?;
        if memory.bytes == 0 {
            return Ok(());
        }
        // SAFETY: it has that many bytes
        unsafe { self.api.fill(memory.start, 0, memory.bytes, self.kernels) }
            .map_err(|code| self.waited("cuMemsetD8Async", code))?;
        self.note_use([&*memory])
    }

    fn upload(&self, memory: &mut DriverMemory, at: usize, bytes: &[u8]) -> Result<(), DeviceError> {
        assert!(at + bytes.len() <= memory.bytes, "an upload beyond its memory");
        self.await_arrival(memory)?;
        if bytes.is_empty() {
            return Ok(());
        }
        let to = memory.start + at as u64;
        // SAFETY: the range was checked; the driver has read memory that is not pinned when it returns
        let copy = || unsafe { self.api.copy_to_device(to, bytes.as_ptr().cast(), bytes.len(), self.kernels) };
        self.watch.phase(HostPhase::Upload, copy).map_err(|code| self.waited("cuMemcpyHtoDAsync", code))?;
        self.note_use([&*memory])
    }

    fn staging(&self, bytes: usize) -> Result<Pinned, DeviceError> {
        let pinned = self.watch.phase(HostPhase::Pin, || Pinned::new(self.api, self.context, bytes));
        pinned.map_err(|code| self.refused("cuMemHostAlloc", code, MemoryKind::Pinned, bytes))
    }

    fn send(&self, memory: &mut DriverMemory, at: usize, from: &mut Pinned, bytes: usize) -> Result<(), DeviceError> {
        assert!(at + bytes <= memory.bytes && bytes <= from.len(), "more is sent than there is room for");
        let used = match memory.uses.replace(Uses::Waited) {
            Uses::None | Uses::Waited => None,
            Uses::Some => Some(Rc::new(Event::of(self.api, self.kernels)?)),
            Uses::Until(end) => Some(end),
        };
        if let Some(used) = used {
            used.hold_up(self.copies)?;
        }
        // SAFETY: both ranges were checked; `from` is not written to until it is reclaimed, nor freed: see its drop
        unsafe { self.api.copy_to_device(memory.start + at as u64, from.as_ptr().cast(), bytes, self.copies) }
            .map_err(|code| self.waited("cuMemcpyHtoDAsync", code))?;
        *memory.arrival.borrow_mut() = Some(Event::of(self.api, self.copies)?);
        from.departure = Some(Event::of(self.api, self.copies)?);
        Ok(())
    }

    fn reclaim(&self, staging: &mut Pinned) -> Result<(), DeviceError> {
        let Some(event) = staging.departure.take() else { return Ok(()) };
        self.watch.phase(HostPhase::Wait, || event.wait()).map_err(|code| self.waited("cuEventSynchronize", code))
    }

    fn download(&self, memory: &DriverMemory, at: usize, bytes: &mut [u8]) -> Result<(), DeviceError> {
        assert!(at + bytes.len() <= memory.bytes, "a download beyond its memory");
        self.await_arrival(memory)?;
        if bytes.is_empty() {
            return Ok(());
        }
        self.watch.phase(HostPhase::Download, || {
            // SAFETY: the range was checked; the stream is waited for before the bytes are looked at
            unsafe {
                let (to, from) = (bytes.as_mut_ptr().cast::<c_void>(), memory.start + at as u64);
                self.api.copy_to_host(to, from, bytes.len(), self.kernels)
            }
            .map_err(|code| self.waited("cuMemcpyDtoHAsync", code))?;
            self.synchronize()
        })
    }

    fn launch(&self, kernel: Kernel, grid: Grid, arguments: &[Arg<'_, DriverMemory>]) -> Result<(), DeviceError> {
        let function = self.function(kernel)?;
        let memories = || {
            arguments.iter().filter_map(|argument| match argument {
                Arg::Memory(memory) | Arg::From(memory, _) => Some(*memory),
                Arg::U32(_) | Arg::U64(_) | Arg::U32x4(_) => None,
            })
        };
        memories().try_for_each(|memory| self.await_arrival(memory))?;
        if grid.blocks == 0 {
            return Ok(());
        }
        let mut values: Vec<[u64; 2]> = arguments.iter().map(|argument| argument.bits(|memory| memory.start)).collect();
        let mut pointers: Vec<*mut c_void> = values.iter_mut().map(|value| value.as_mut_ptr().cast()).collect();
        self.last.set(Some(kernel));
        let begin = self.watch.point(|| Event::timed(self.api, self.kernels))?;
        let Grid { blocks, threads, shared } = grid;
        // SAFETY: each pointer is to a value of the argument's type, as the kernel's callers see to; memory is freed after
        // the kernels that use it
        unsafe {
            let (arguments, extra) = (pointers.as_mut_ptr(), std::ptr::null_mut());
            self.api.launch(function, blocks, 1, 1, threads, 1, 1, shared, self.kernels, arguments, extra)
        }
        .map_err(|code| DeviceError::Kernel { kernel: kernel.name(), source: cause(self.api, code) })?;
        if let Some(begin) = begin {
            self.watch.ran(kernel, begin, Event::timed(self.api, self.kernels)?);
        }
        self.note_use(memories())
    }
}

fn device(api: &'static Api, gpu: u32) -> Result<DeviceId, DeviceError> {
    let (mut device, number) = (0, i32::try_from(gpu).unwrap_or(i32::MAX));
    // SAFETY: the driver writes a number
    unsafe { api.device_get(&raw mut device, number) }.map_err(|code| failed(api, "cuDeviceGet", code))?;
    Ok(device)
}

fn uuid(api: &'static Api, device: DeviceId) -> Option<String> {
    let mut bytes = api::Uuid::default();
    // SAFETY: the driver writes 16 bytes; it gave the device
    unsafe { api.device_uuid(&raw mut bytes, device) }.ok()?;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
    Some(format!("GPU-{}", parts.join("-")))
}

fn capability(api: &'static Api, device: DeviceId) -> Option<Capability> {
    let number = |attribute| {
        let mut value = 0;
        // SAFETY: the driver writes a number; it gave the device
        unsafe { api.device_attribute(&raw mut value, attribute, device) }.ok()?;
        u32::try_from(value).ok()
    };
    Some(Capability { major: number(CAPABILITY_MAJOR)?, minor: number(CAPABILITY_MINOR)? })
}

fn failed(api: &Api, call: &'static str, code: Code) -> DeviceError {
    DeviceError::Call { call, source: cause(api, code) }
}

/// What the driver says of an error.
fn cause(api: &Api, code: Code) -> DriverCause {
    let (name, text) = api.describe(code);
    DriverCause { code: code.0, name, text }
}
