//! What the driver lends: memory of a GPU, pinned memory of the host, events; each is given back when it is dropped. Says
//! what must be waited for before memory is used; calls no kernel.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::api::{self, Address, Api, Code, Context, EVENT_TIMED, EVENT_UNTIMED, Stream};
use super::super::device::DeviceError;
use super::failed;

/// A point in a stream.
#[derive(Debug)]
pub(super) struct Event {
    api: &'static Api,
    handle: api::Event,
}

impl Event {
    /// After all that a stream was asked for.
    pub(super) fn of(api: &'static Api, stream: Stream) -> Result<Self, DeviceError> {
        Self::with(api, stream, EVENT_UNTIMED)
    }

    /// The same, with its time.
    pub(super) fn timed(api: &'static Api, stream: Stream) -> Result<Self, DeviceError> {
        Self::with(api, stream, EVENT_TIMED)
    }

    fn with(api: &'static Api, stream: Stream, flags: u32) -> Result<Self, DeviceError> {
        let mut handle = api::Event::NULL;
        // SAFETY: the driver writes a handle
        unsafe { api.event_create(&raw mut handle, flags) }.map_err(|code| failed(api, "cuEventCreate", code))?;
        let event = Self { api, handle };
        // SAFETY: both are alive
        unsafe { api.event_record(handle, stream) }.map_err(|code| failed(api, "cuEventRecord", code))?;
        Ok(event)
    }

    /// What a stream is asked for from here on waits for it.
    pub(super) fn hold_up(&self, stream: Stream) -> Result<(), DeviceError> {
        // SAFETY: both are alive
        unsafe { self.api.stream_wait(stream, self.handle, 0) }
            .map_err(|code| failed(self.api, "cuStreamWaitEvent", code))
    }

    /// Waits for it.
    pub(super) fn wait(&self) -> Result<(), Code> {
        // SAFETY: it is alive
        unsafe { self.api.event_synchronize(self.handle) }
    }

    /// Seconds from it to another, both timed and past.
    pub(super) fn seconds_until(&self, end: &Self) -> Result<f64, DeviceError> {
        let mut milliseconds = 0.0;
        // SAFETY: both are alive
        unsafe { self.api.event_elapsed(&raw mut milliseconds, self.handle, end.handle) }
            .map_err(|code| failed(self.api, "cuEventElapsedTime", code))?;
        Ok(f64::from(milliseconds) / 1000.0)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: it was created, and is not used any more; the driver frees it once it has come to pass
        let _ = unsafe { self.api.event_destroy(self.handle) };
    }
}

/// Memory of the GPU.
#[derive(Debug)]
pub(in crate::engine::cuda) struct DriverMemory {
    api: &'static Api,
    pub(super) start: Address,
    pub(super) bytes: usize,
    /// Bytes of all memory that is in use.
    used: Arc<AtomicU64>,
    /// When what is sent to it is there; None when kernels wait for that already.
    pub(super) arrival: RefCell<Option<Event>>,
    /// What must be waited for before something is sent to it.
    pub(super) uses: RefCell<Uses>,
}

/// What the stream of kernels was asked to do with some memory.
#[derive(Debug, Clone)]
pub(super) enum Uses {
    /// Nothing yet.
    None,
    /// Something, before anything was sent to it.
    Some,
    /// Nothing that was not waited for. It is memory that is sent to.
    Waited,
    /// The last kernel ends then. It is memory that is sent to.
    Until(Rc<Event>),
}

impl DriverMemory {
    /// Some bytes; the current context's.
    pub(super) fn new(api: &'static Api, bytes: usize, used: &Arc<AtomicU64>) -> Result<Self, Code> {
        let mut start = 0;
        // the driver refuses to allocate nothing
        // SAFETY: the driver writes an address; any size may be asked for
        unsafe { api.memory_allocate(&raw mut start, bytes.max(1)) }?;
        used.fetch_add(bytes as u64, Ordering::Relaxed);
        let (arrival, uses) = (RefCell::default(), RefCell::new(Uses::None));
        Ok(Self { api, start, bytes, used: Arc::clone(used), arrival, uses })
    }
}

impl Drop for DriverMemory {
    fn drop(&mut self) {
        // SAFETY: it was allocated; the call waits for the kernels that use it
        let _ = unsafe { self.api.memory_free(self.start) };
        self.used.fetch_sub(self.bytes as u64, Ordering::Relaxed);
    }
}

/// Memory of the host that the GPU can read by itself.
#[derive(Debug)]
pub(in crate::engine::cuda) struct Pinned {
    api: &'static Api,
    start: NonNull<u8>,
    bytes: usize,
    context: Context,
    /// When what was sent last has left.
    pub(super) departure: Option<Event>,
}

// SAFETY: nothing else points to its bytes; its drop enters the context first
unsafe impl Send for Pinned {}

impl Pinned {
    /// Some bytes, zeros; the current context's, which is this one.
    pub(super) fn new(api: &'static Api, context: Context, bytes: usize) -> Result<Self, Code> {
        let mut start = std::ptr::null_mut();
        // SAFETY: the driver writes a pointer; any size may be asked for
        unsafe { api.host_allocate(&raw mut start, bytes.max(1), 0) }?;
        let start = NonNull::new(start.cast::<u8>()).ok_or(Code::OUT_OF_MEMORY)?;
        // SAFETY: it has that many bytes
        unsafe { std::ptr::write_bytes(start.as_ptr(), 0, bytes) };
        Ok(Self { api, start, bytes, context, departure: None })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: the driver, which retains the context, outlives what it allocates
        let _ = unsafe { self.api.context_set(self.context) };
        if let Some(event) = self.departure.take() {
            let _ = event.wait();
        }
        // SAFETY: it was allocated, and no copy reads it any more
        let _ = unsafe { self.api.host_free(self.start.as_ptr().cast()) };
    }
}

impl Deref for Pinned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: it has that many bytes, which were set when it was made; copies to the device only read them
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.bytes) }
    }
}

impl DerefMut for Pinned {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; who writes has reclaimed it, as send() asks for
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }
}
