//! The device of the tests: the host build of the kernels or, where `SPECKLED_TEST_GPU` has a GPU's number, that GPU.
//! Its memory is limited, to see what happens when it does not suffice.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::device::{Arg, Device, DeviceError, Grid, Kernel, MemoryKind};
use super::driver::{Driver, DriverMemory, Pinned};
use super::host::{Host, HostMemory, HostStaging};

/// Has the tests run on the GPU of this number.
pub(super) const GPU: &str = "SPECKLED_TEST_GPU";

/// A device for tests.
pub(super) struct TestDevice {
    real: Real,
    limit: usize,
    /// Bytes that it says it has.
    claimed: usize,
    used: Rc<Cell<usize>>,
    launches: Cell<u32>,
    /// Bytes to send that it has at most.
    staging_limit: usize,
    /// Bytes to send that there are, and the most that there were.
    staged: Arc<AtomicUsize>,
    most_staged: Cell<usize>,
}

enum Real {
    Host(Host),
    Gpu(Box<Driver>),
}

impl TestDevice {
    /// With so many bytes of memory; `seed` decides the order of threads on the host.
    pub(super) fn new(limit: usize, seed: u32) -> Self {
        let real = match std::env::var(GPU) {
            Ok(number) => {
                let driver = Driver::new(number.parse().expect("a number")).expect("a GPU");
                driver.enter().expect("its context");
                Real::Gpu(Box::new(driver))
            }
            Err(_) => Real::Host(Host::new(seed)),
        };
        Self {
            real,
            limit,
            claimed: limit,
            used: Rc::default(),
            launches: Cell::new(0),
            staging_limit: usize::MAX,
            staged: Arc::default(),
            most_staged: Cell::new(0),
        }
    }

    /// One that can pin no more than this many bytes to send from.
    pub(super) fn staging_at_most(self, staging_limit: usize) -> Self {
        Self { staging_limit, ..self }
    }

    /// The most bytes to send that there were at a time.
    pub(super) fn most_staged(&self) -> usize {
        self.most_staged.get()
    }

    /// One that says that it has more: others take it before it is asked for.
    pub(super) fn claiming(self, claimed: usize) -> Self {
        Self { claimed, ..self }
    }

    /// Kernels that were run so far.
    pub(super) fn launches(&self) -> u32 {
        self.launches.get()
    }
}

/// A piece of its memory.
#[derive(Debug)]
pub(super) struct TestMemory {
    real: RealMemory,
    bytes: usize,
    used: Rc<Cell<usize>>,
}

#[derive(Debug)]
enum RealMemory {
    Host(HostMemory),
    Gpu(DriverMemory),
}

impl Drop for TestMemory {
    fn drop(&mut self) {
        self.used.set(self.used.get() - self.bytes);
    }
}

/// Bytes to send.
#[derive(Debug)]
pub(super) struct TestStaging {
    real: RealStaging,
    bytes: usize,
    staged: Arc<AtomicUsize>,
}

#[derive(Debug)]
enum RealStaging {
    Host(HostStaging),
    Gpu(Pinned),
}

impl Drop for TestStaging {
    fn drop(&mut self) {
        self.staged.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Deref for TestStaging {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.real {
            RealStaging::Host(staging) => staging,
            RealStaging::Gpu(staging) => staging,
        }
    }
}

impl DerefMut for TestStaging {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.real {
            RealStaging::Host(staging) => staging,
            RealStaging::Gpu(staging) => staging,
        }
    }
}

/// What belongs to one device is never given to another.
fn mixed() -> ! {
    panic!("memory of another device")
}

macro_rules! on_real {
    ($self:expr, $memory:expr, |$device:ident, $own:ident| $call:expr) => {
        match (&$self.real, $memory) {
            (Real::Host($device), RealMemory::Host($own)) => $call,
            (Real::Gpu($device), RealMemory::Gpu($own)) => $call,
            (Real::Host(_), RealMemory::Gpu(_)) | (Real::Gpu(_), RealMemory::Host(_)) => mixed(),
        }
    };
}

impl Device for TestDevice {
    type Memory = TestMemory;
    type Staging = TestStaging;

    fn free_bytes(&self) -> Result<u64, DeviceError> {
        Ok(self.claimed.saturating_sub(self.used.get()) as u64)
    }

    fn allocate(&self, bytes: usize) -> Result<TestMemory, DeviceError> {
        if bytes > self.limit - self.used.get() {
            return Err(DeviceError::OutOfMemory { memory: MemoryKind::Gpu, bytes });
        }
        let real = match &self.real {
            Real::Host(device) => RealMemory::Host(device.allocate(bytes)?),
            Real::Gpu(device) => RealMemory::Gpu(device.allocate(bytes)?),
        };
        self.used.set(self.used.get() + bytes);
        Ok(TestMemory { real, bytes, used: Rc::clone(&self.used) })
    }

    fn clear(&self, memory: &mut TestMemory) -> Result<(), DeviceError> {
        on_real!(self, &mut memory.real, |device, own| device.clear(own))
    }

    fn upload(&self, memory: &mut TestMemory, at: usize, bytes: &[u8]) -> Result<(), DeviceError> {
        on_real!(self, &mut memory.real, |device, own| device.upload(own, at, bytes))
    }

    fn staging(&self, bytes: usize) -> Result<TestStaging, DeviceError> {
        if bytes > self.staging_limit - self.staged.load(Ordering::Relaxed) {
            return Err(DeviceError::OutOfMemory { memory: MemoryKind::Pinned, bytes });
        }
        let real = match &self.real {
            Real::Host(device) => RealStaging::Host(device.staging(bytes)?),
            Real::Gpu(device) => RealStaging::Gpu(device.staging(bytes)?),
        };
        let all = self.staged.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.most_staged.set(self.most_staged.get().max(all));
        Ok(TestStaging { real, bytes, staged: Arc::clone(&self.staged) })
    }

    fn send(
        &self,
        memory: &mut TestMemory,
        at: usize,
        from: &mut TestStaging,
        bytes: usize,
    ) -> Result<(), DeviceError> {
        match (&self.real, &mut memory.real, &mut from.real) {
            (Real::Host(device), RealMemory::Host(memory), RealStaging::Host(from)) => {
                device.send(memory, at, from, bytes)
            }
            (Real::Gpu(device), RealMemory::Gpu(memory), RealStaging::Gpu(from)) => {
                device.send(memory, at, from, bytes)
            }
            (Real::Host(_) | Real::Gpu(_), ..) => mixed(),
        }
    }

    fn reclaim(&self, staging: &mut TestStaging) -> Result<(), DeviceError> {
        match (&self.real, &mut staging.real) {
            (Real::Host(device), RealStaging::Host(staging)) => device.reclaim(staging),
            (Real::Gpu(device), RealStaging::Gpu(staging)) => device.reclaim(staging),
            (Real::Host(_) | Real::Gpu(_), _) => mixed(),
        }
    }

    fn download(&self, memory: &TestMemory, at: usize, bytes: &mut [u8]) -> Result<(), DeviceError> {
        on_real!(self, &memory.real, |device, own| device.download(own, at, bytes))
    }

    fn launch(&self, kernel: Kernel, grid: Grid, arguments: &[Arg<'_, TestMemory>]) -> Result<(), DeviceError> {
        self.launches.set(self.launches.get() + 1);
        match &self.real {
            Real::Host(device) => device.launch(kernel, grid, &of_host(arguments)),
            Real::Gpu(device) => device.launch(kernel, grid, &of_gpu(arguments)),
        }
    }
}

fn of_host<'a>(arguments: &'a [Arg<'a, TestMemory>]) -> Vec<Arg<'a, HostMemory>> {
    let memory = |memory: &'a TestMemory| match &memory.real {
        RealMemory::Host(memory) => memory,
        RealMemory::Gpu(_) => mixed(),
    };
    arguments.iter().map(|argument| argument.of(memory)).collect()
}

fn of_gpu<'a>(arguments: &'a [Arg<'a, TestMemory>]) -> Vec<Arg<'a, DriverMemory>> {
    let memory = |memory: &'a TestMemory| match &memory.real {
        RealMemory::Gpu(memory) => memory,
        RealMemory::Host(_) => mixed(),
    };
    arguments.iter().map(|argument| argument.of(memory)).collect()
}
