//! A GPU behind CUDA's driver, which is loaded when it is asked for: the one place that calls it. Knows no correlation.
//!
//! Kernels run on one stream, in their order; what is sent goes over another, and a kernel that uses it waits for it. So a
//! copy overlaps with the kernels that need none of it. All calls are made by the thread that has entered the context.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::ffi::{CString, c_void};
use std::num::NonZeroU32;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;

use super::device::{Arg, Cause, Device, DeviceError, Grid, Kernel};
use super::ptx::{Module, module};

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
        asked: u32,
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
    device: sys::CUdevice,
    context: sys::CUcontext,
    kernels: sys::CUstream,
    copies: sys::CUstream,
    modules: RefCell<HashMap<Module, sys::CUmodule>>,
    functions: RefCell<HashMap<&'static str, sys::CUfunction>>,
    /// The kernel that was started last: errors of kernels come with later calls.
    last: Cell<Option<Kernel>>,
    /// Programs that take its memory at once, this one among them.
    sharers: NonZeroU32,
    /// Bytes of memory that are in use here.
    used: Arc<AtomicU64>,
    /// Points in the stream before and behind each kernel, where times are wanted.
    times: RefCell<Option<Vec<(Kernel, Event, Event)>>>,
}

// SAFETY: the handles may be used by any thread that has entered the context, one at a time, which `&mut` or a lock around
// the driver sees to
unsafe impl Send for Driver {}

/// Starts the driver and counts the GPUs that may be used.
fn count() -> Result<u32, NoGpu> {
    // SAFETY: it loads the driver's library and looks whether that works; without it every other call would panic
    if !unsafe { sys::is_culib_present() } {
        return Err(NoGpu::NoDriver);
    }
    match result::init() {
        Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => return Err(NoGpu::None),
        other => other.map_err(|error| NoGpu::Init(failed("cuInit", error)))?,
    }
    let count = result::device::get_count().map_err(|error| NoGpu::Init(failed("cuDeviceGetCount", error)))?;
    match u32::try_from(count) {
        Ok(count @ 1..) => Ok(count),
        Ok(0) | Err(_) => Err(NoGpu::None),
    }
}

impl Driver {
    /// The GPU of a number.
    pub(super) fn new(gpu: u32) -> Result<Self, NoGpu> {
        let count = count()?;
        if gpu >= count {
            return Err(NoGpu::Unknown { asked: gpu, count });
        }
        Self::open(gpu).map_err(|source| NoGpu::Unusable { gpu, source })
    }

    /// Of the GPUs that `is_free` the one with the most free memory; if none is, the one with the most.
    pub(super) fn any(mut is_free: impl FnMut(&str) -> bool) -> Result<Self, NoGpu> {
        let (mut found, mut refused) = (Vec::new(), None);
        for gpu in 0..count()? {
            match Self::open(gpu).and_then(|driver| Ok((driver.free_bytes()?, driver))) {
                Ok(usable) => found.push(usable),
                Err(source) => refused = Some(NoGpu::Unusable { gpu, source }),
            }
        }
        // of those that are alike the first
        found.sort_by_key(|(free, _)| std::cmp::Reverse(*free));
        let free = found.iter().position(|(_, driver)| driver.uuid().is_none_or(|uuid| is_free(&uuid)));
        match found.into_iter().nth(free.unwrap_or(0)) {
            Some((_, driver)) => Ok(driver),
            None => Err(refused.unwrap_or(NoGpu::None)),
        }
    }

    fn open(gpu: u32) -> Result<Self, DeviceError> {
        let device = result::device::get(gpu as i32).map_err(|error| failed("cuDeviceGet", error))?;
        // SAFETY: get() returned the device
        let context = unsafe { result::primary_ctx::retain(device) }
            .map_err(|error| failed("cuDevicePrimaryCtxRetain", error))?;
        let mut driver = Self {
            device,
            context,
            kernels: result::stream::null(),
            copies: result::stream::null(),
            modules: RefCell::default(),
            functions: RefCell::default(),
            last: Cell::default(),
            sharers: NonZeroU32::MIN,
            used: Arc::default(),
            times: RefCell::default(),
        };
        driver.enter()?;
        let stream = || {
            result::stream::create(result::stream::StreamKind::NonBlocking)
                .map_err(|error| failed("cuStreamCreate", error))
        };
        (driver.kernels, driver.copies) = (stream()?, stream()?);
        Ok(driver)
    }

    /// Makes the calling thread one that may use it.
    pub(super) fn enter(&self) -> Result<(), DeviceError> {
        // SAFETY: the context is retained until drop
        unsafe { result::ctx::set_current(self.context) }.map_err(|error| failed("cuCtxSetCurrent", error))
    }

    /// Has it take no more memory than so many can take at once.
    pub(super) fn share_with(&mut self, sharers: NonZeroU32) {
        self.sharers = sharers;
    }

    /// Name and UUID, for people.
    pub(super) fn describe(&self) -> String {
        let name = result::device::get_name(self.device).unwrap_or_else(|_| "a GPU".to_owned());
        match self.uuid() {
            Some(uuid) => format!("{name}, {uuid}"),
            None => name,
        }
    }

    /// `GPU-` and the UUID as `nvidia-smi -L` has it.
    pub(super) fn uuid(&self) -> Option<String> {
        let mut found = sys::CUuuid { bytes: [0; 16] };
        // SAFETY: get() returned the device, and it writes 16 bytes
        unsafe { sys::cuDeviceGetUuid_v2(&raw mut found, self.device) }.result().ok()?;
        let hex: String = found.bytes.iter().map(|byte| format!("{:02x}", *byte as u8)).collect();
        let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
        Some(format!("GPU-{}", parts.join("-")))
    }

    /// Takes the time of each kernel from now on.
    pub(super) fn take_times(&self) {
        *self.times.borrow_mut() = Some(Vec::new());
    }

    /// Seconds of each kernel that was started since, and how often.
    pub(super) fn times(&self) -> Result<BTreeMap<&'static str, (u32, f64)>, DeviceError> {
        // SAFETY: the stream is alive
        unsafe { result::stream::synchronize(self.kernels) }
            .map_err(|error| self.waited("cuStreamSynchronize", error))?;
        let mut all: BTreeMap<&'static str, (u32, f64)> = BTreeMap::new();
        for (kernel, begin, end) in self.times.borrow_mut().replace(Vec::new()).into_iter().flatten() {
            // SAFETY: both were recorded on the stream, which was waited for
            let elapsed = unsafe { result::event::elapsed(begin.0, end.0) }
                .map_err(|error| failed("cuEventElapsedTime", error))?;
            let own = all.entry(kernel.name()).or_default();
            *own = (own.0 + 1, own.1 + f64::from(elapsed) / 1000.0);
        }
        Ok(all)
    }

    /// A kernel, whose module is loaded when it is first asked for.
    fn function(&self, kernel: Kernel) -> Result<sys::CUfunction, DeviceError> {
        let name = kernel.name();
        if let Some(function) = self.functions.borrow().get(name) {
            return Ok(*function);
        }
        let of = |error| DeviceError::Kernel { kernel: name, source: cause(error) };
        let source = module(kernel);
        let known = self.modules.borrow().get(&source).copied();
        let module = match known {
            Some(module) => module,
            None => {
                let text = CString::new(source.ptx()).unwrap_or_default();
                // SAFETY: it is a text that ends with a zero
                let loaded = unsafe { result::module::load_data(text.as_ptr().cast()) }.map_err(of)?;
                self.modules.borrow_mut().insert(source, loaded);
                loaded
            }
        };
        let name_text = CString::new(name).unwrap_or_default();
        // SAFETY: the module is loaded, until drop
        let function = unsafe { result::module::get_function(module, name_text) }.map_err(of)?;
        self.functions.borrow_mut().insert(name, function);
        Ok(function)
    }

    /// What a call that waits for kernels says: it may be their error.
    fn waited(&self, call: &'static str, error: DriverError) -> DeviceError {
        match self.last.get() {
            Some(kernel) => DeviceError::Kernel { kernel: kernel.name(), source: cause(error) },
            None => failed(call, error),
        }
    }

    /// Has the kernels wait for what is sent to some memory.
    fn await_arrival(&self, memory: &DriverMemory) -> Result<(), DeviceError> {
        let Some(arrival) = memory.arrival.borrow_mut().take() else { return Ok(()) };
        wait(self.kernels, &arrival)
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
                        None => Rc::new(Event::of(self.kernels)?),
                    };
                    Uses::Until(Rc::clone(end.insert(event)))
                }
            };
        }
        Ok(())
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // what fails now has failed before, and there is nobody to tell
        let _ = self.enter();
        // SAFETY: nothing that was made with the context is used from here on
        unsafe {
            for module in self.modules.borrow().values() {
                let _ = result::module::unload(*module);
            }
            for stream in [self.kernels, self.copies] {
                if stream != result::stream::null() {
                    let _ = result::stream::destroy(stream);
                }
            }
            let _ = result::primary_ctx::release(self.device);
        }
    }
}

/// A point in a stream.
#[derive(Debug)]
struct Event(sys::CUevent);

impl Event {
    /// After all that a stream was asked for.
    fn of(stream: sys::CUstream) -> Result<Self, DeviceError> {
        Self::with(stream, sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)
    }

    /// The same, with its time.
    fn timed(stream: sys::CUstream) -> Result<Self, DeviceError> {
        Self::with(stream, sys::CUevent_flags::CU_EVENT_DEFAULT)
    }

    fn with(stream: sys::CUstream, flags: sys::CUevent_flags) -> Result<Self, DeviceError> {
        let event = result::event::create(flags).map_err(|error| failed("cuEventCreate", error))?;
        let event = Self(event);
        // SAFETY: both are alive
        unsafe { result::event::record(event.0, stream) }.map_err(|error| failed("cuEventRecord", error))?;
        Ok(event)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: it was created, and is not used any more; the driver frees it once it has come to pass
        let _ = unsafe { result::event::destroy(self.0) };
    }
}

/// Memory of the GPU.
#[derive(Debug)]
pub(super) struct DriverMemory {
    start: sys::CUdeviceptr,
    bytes: usize,
    /// What is in use of all.
    used: Arc<AtomicU64>,
    /// When what is sent to it is there; None when kernels wait for that already.
    arrival: RefCell<Option<Event>>,
    /// What must be waited for before something is sent to it.
    uses: RefCell<Uses>,
}

/// What the stream of kernels was asked to do with some memory.
#[derive(Debug, Clone)]
enum Uses {
    /// Nothing yet.
    None,
    /// Something, before anything was sent to it.
    Some,
    /// Nothing that was not waited for. It is memory that is sent to.
    Waited,
    /// The last kernel ends then. It is memory that is sent to.
    Until(Rc<Event>),
}

impl Drop for DriverMemory {
    fn drop(&mut self) {
        // SAFETY: allocate() returned it; the call waits for the kernels that use it
        let _ = unsafe { result::free_sync(self.start) };
        self.used.fetch_sub(self.bytes as u64, Ordering::Relaxed);
    }
}

/// Memory of the host that the GPU can read by itself.
#[derive(Debug)]
pub(super) struct Pinned {
    start: NonNull<u8>,
    bytes: usize,
    context: sys::CUcontext,
    /// When what was sent last has left.
    departure: Option<Event>,
}

// SAFETY: nothing else points to its bytes; who drops it enters the context first
unsafe impl Send for Pinned {}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: the driver, which retains the context, outlives what it allocates
        let _ = unsafe { result::ctx::set_current(self.context) };
        if let Some(event) = self.departure.take() {
            // SAFETY: the event is alive
            let _ = unsafe { result::event::synchronize(event.0) };
        }
        // SAFETY: malloc_host() returned it, and no copy reads it any more
        let _ = unsafe { result::free_host(self.start.as_ptr().cast()) };
    }
}

impl Deref for Pinned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: it has so many bytes, which were set when it was made; copies only read them
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.bytes) }
    }
}

impl DerefMut for Pinned {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; who writes has reclaimed it, as send() asks for
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }
}

impl Device for Driver {
    type Memory = DriverMemory;
    type Staging = Pinned;

    fn free_bytes(&self) -> Result<u64, DeviceError> {
        let (free, all) = result::mem_get_info().map_err(|error| self.waited("cuMemGetInfo", error))?;
        let own = all as u64 / u64::from(self.sharers.get());
        Ok((free as u64).min(own.saturating_sub(self.used.load(Ordering::Relaxed))))
    }

    fn allocate(&self, bytes: usize) -> Result<DriverMemory, DeviceError> {
        // the driver refuses to allocate nothing
        // SAFETY: any size may be asked for
        let start = unsafe { result::malloc_sync(bytes.max(1)) }.map_err(|error| {
            if error.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY {
                DeviceError::OutOfMemory { bytes }
            } else {
                self.waited("cuMemAlloc", error)
            }
        })?;
        self.used.fetch_add(bytes as u64, Ordering::Relaxed);
        let (arrival, uses) = (RefCell::default(), RefCell::new(Uses::None));
        Ok(DriverMemory { start, bytes, used: Arc::clone(&self.used), arrival, uses })
    }

    fn clear(&self, memory: &mut DriverMemory) -> Result<(), DeviceError> {
        self.await_arrival(memory)?;
        if memory.bytes == 0 {
            return Ok(());
        }
        // SAFETY: it has so many bytes
        unsafe { result::memset_d8_async(memory.start, 0, memory.bytes, self.kernels) }
            .map_err(|error| self.waited("cuMemsetD8Async", error))?;
        self.note_use([&*memory])
    }

    fn upload(&self, memory: &mut DriverMemory, at: usize, bytes: &[u8]) -> Result<(), DeviceError> {
        assert!(at + bytes.len() <= memory.bytes, "an upload beyond its memory");
        self.await_arrival(memory)?;
        if bytes.is_empty() {
            return Ok(());
        }
        // SAFETY: the range was checked; the driver has read memory that is not pinned when it returns
        unsafe { result::memcpy_htod_async(memory.start + at as u64, bytes, self.kernels) }
            .map_err(|error| self.waited("cuMemcpyHtoDAsync", error))?;
        self.note_use([&*memory])
    }

    fn staging(&self, bytes: usize) -> Result<Pinned, DeviceError> {
        // SAFETY: any size may be asked for
        let start =
            unsafe { result::malloc_host(bytes.max(1), 0) }.map_err(|error| self.waited("cuMemHostAlloc", error))?;
        let start = NonNull::new(start.cast::<u8>()).ok_or(DeviceError::OutOfMemory { bytes })?;
        // SAFETY: it has so many bytes
        unsafe { std::ptr::write_bytes(start.as_ptr(), 0, bytes) };
        Ok(Pinned { start, bytes, context: self.context, departure: None })
    }

    fn send(&self, memory: &mut DriverMemory, at: usize, from: &mut Pinned, bytes: usize) -> Result<(), DeviceError> {
        assert!(at + bytes <= memory.bytes && bytes <= from.bytes, "more is sent than there is room for");
        let used = match memory.uses.replace(Uses::Waited) {
            Uses::None | Uses::Waited => None,
            Uses::Some => Some(Rc::new(Event::of(self.kernels)?)),
            Uses::Until(end) => Some(end),
        };
        if let Some(used) = used {
            wait(self.copies, &used)?;
        }
        // SAFETY: both ranges were checked; `from` is not written to until it is reclaimed, nor freed: see its drop
        unsafe { result::memcpy_htod_async(memory.start + at as u64, &from[..bytes], self.copies) }
            .map_err(|error| self.waited("cuMemcpyHtoDAsync", error))?;
        *memory.arrival.borrow_mut() = Some(Event::of(self.copies)?);
        from.departure = Some(Event::of(self.copies)?);
        Ok(())
    }

    fn reclaim(&self, staging: &mut Pinned) -> Result<(), DeviceError> {
        let Some(event) = staging.departure.take() else { return Ok(()) };
        // SAFETY: the event is alive
        unsafe { result::event::synchronize(event.0) }.map_err(|error| self.waited("cuEventSynchronize", error))
    }

    fn download(&self, memory: &DriverMemory, at: usize, bytes: &mut [u8]) -> Result<(), DeviceError> {
        assert!(at + bytes.len() <= memory.bytes, "a download beyond its memory");
        self.await_arrival(memory)?;
        if bytes.is_empty() {
            return Ok(());
        }
        // SAFETY: the range was checked; the stream is waited for before the bytes are looked at
        unsafe { result::memcpy_dtoh_async(bytes, memory.start + at as u64, self.kernels) }
            .map_err(|error| self.waited("cuMemcpyDtoHAsync", error))?;
        // SAFETY: the stream is alive
        unsafe { result::stream::synchronize(self.kernels) }.map_err(|error| self.waited("cuStreamSynchronize", error))
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
        let begin = self.times.borrow().is_some().then(|| Event::timed(self.kernels)).transpose()?;
        let Grid { blocks, threads, shared } = grid;
        // SAFETY: each pointer is to a value of the argument's type, as the kernel's callers see to; memory is freed after
        // the kernels that use it
        unsafe {
            result::launch_kernel(function, (blocks, 1, 1), (threads, 1, 1), shared, self.kernels, &mut pointers)
        }
        .map_err(|error| DeviceError::Kernel { kernel: kernel.name(), source: cause(error) })?;
        if let (Some(begin), Some(times)) = (begin, self.times.borrow_mut().as_mut()) {
            times.push((kernel, begin, Event::timed(self.kernels)?));
        }
        self.note_use(memories())
    }
}

/// Has what a stream is asked for from here on wait for a point in another.
fn wait(stream: sys::CUstream, event: &Event) -> Result<(), DeviceError> {
    let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
    // SAFETY: both are alive
    unsafe { result::stream::wait_event(stream, event.0, flags) }.map_err(|error| failed("cuStreamWaitEvent", error))
}

fn failed(call: &'static str, error: DriverError) -> DeviceError {
    DeviceError::Call { call, source: cause(error) }
}

/// What the driver says of an error.
fn cause(error: DriverError) -> Cause {
    let text = |found: Result<&std::ffi::CStr, DriverError>| {
        found.map_or_else(|_| "unknown".to_owned(), |text| text.to_string_lossy().into_owned())
    };
    Cause { code: error.0 as u32, name: text(error.error_name()), text: text(error.error_string()) }
}
