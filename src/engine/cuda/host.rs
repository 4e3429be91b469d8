//! A device for tests: the kernels of `kernels/`, compiled for this computer over `kernels/host`, which runs their
//! threads one by one and in random order.

use std::cell::Cell;
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use libloading::Library;

use super::device::{Arg, Device, DeviceError, Grid, Kernel};

type Allocate = unsafe extern "C" fn(usize) -> *mut c_void;
type Free = unsafe extern "C" fn(*mut c_void);
type Launch = unsafe extern "C" fn(*const c_char, c_uint, c_uint, c_uint, usize, *mut *mut c_void) -> c_int;

/// The compiled kernels.
struct Kernels {
    allocate: Allocate,
    free: Free,
    launch: Launch,
    _library: Library,
}

/// Set for the process that runs under the address sanitizer.
pub(super) const ADDRESS: &str = "SPECKLED_TEST_ADDRESS_SANITIZER";

/// Compiles them once a process; undefined behaviour ends it with a message.
fn kernels() -> &'static Kernels {
    static KERNELS: OnceLock<Kernels> = OnceLock::new();
    KERNELS.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("kernels.so");
        compile(&path, &["shim.cpp", "kernels.cpp"]);
        // SAFETY: it is our own code; it runs nothing when it is loaded
        let library = unsafe { Library::new(&path) }.expect("loads");
        // SAFETY: kernels.cpp declares the three as the types say
        unsafe {
            Kernels {
                allocate: *library.get::<Allocate>(b"speckled_allocate").expect("is there"),
                free: *library.get::<Free>(b"speckled_free").expect("is there"),
                launch: *library.get::<Launch>(b"speckled_launch").expect("is there"),
                _library: library,
            }
        }
    })
}

/// Compiles some sources of `kernels/host` to a library.
pub(super) fn compile(path: &Path, sources: &[&str]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/host");
    let mut compiler = Command::new("c++");
    compiler.args(["-std=c++17", "-O2", "-g", "-fPIC", "-shared", "-DSPECKLED_HOST", "-ffp-contract=off"]);
    compiler.args(["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]);
    compiler.args(["-fsanitize=undefined", "-fno-sanitize-recover=undefined"]);
    if std::env::var_os(ADDRESS).is_some() {
        compiler.args(["-fsanitize=address", "-fno-omit-frame-pointer"]);
    }
    compiler.args(sources.iter().map(|source| folder.join(source))).arg("-o").arg(path);
    let done = compiler.output().expect("a C++ compiler, which HDF5 needs as well");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// This computer as a device.
#[derive(Debug)]
pub(super) struct Host {
    /// Decides the order of threads, with the number of the launch.
    seed: u32,
    launches: Cell<u32>,
}

impl Host {
    /// Threads come in an order of this number.
    pub(super) fn new(seed: u32) -> Self {
        Self { seed, launches: Cell::new(0) }
    }
}

/// A piece of its memory.
#[derive(Debug)]
pub(super) struct HostMemory {
    start: *mut c_void,
    bytes: usize,
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        // SAFETY: allocate() returned it, and nobody else frees it
        unsafe { (kernels().free)(self.start) }
    }
}

/// Bytes that may not be touched while they are on their way.
#[derive(Debug)]
pub(super) struct HostStaging {
    bytes: Vec<u8>,
    sent: bool,
}

impl Deref for HostStaging {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for HostStaging {
    fn deref_mut(&mut self) -> &mut [u8] {
        assert!(!self.sent, "bytes that are on their way are written to");
        &mut self.bytes
    }
}

impl Device for Host {
    type Memory = HostMemory;
    type Staging = HostStaging;

    fn free_bytes(&self) -> Result<u64, DeviceError> {
        Ok(u64::MAX)
    }

    fn allocate(&self, bytes: usize) -> Result<HostMemory, DeviceError> {
        // SAFETY: any size may be asked for
        let start = unsafe { (kernels().allocate)(bytes) };
        assert!(!start.is_null(), "no {bytes} bytes");
        Ok(HostMemory { start, bytes })
    }

    fn clear(&self, memory: &mut HostMemory) -> Result<(), DeviceError> {
        // SAFETY: it has so many bytes
        unsafe { std::ptr::write_bytes(memory.start.cast::<u8>(), 0, memory.bytes) };
        Ok(())
    }

    fn upload(&self, memory: &mut HostMemory, at: usize, bytes: &[u8]) -> Result<(), DeviceError> {
        assert!(at + bytes.len() <= memory.bytes, "an upload beyond its memory");
        // SAFETY: the range was checked; the two do not overlap
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), memory.start.cast::<u8>().add(at), bytes.len()) };
        Ok(())
    }

    fn staging(&self, bytes: usize) -> Result<HostStaging, DeviceError> {
        Ok(HostStaging { bytes: vec![0; bytes], sent: false })
    }

    fn send(
        &self,
        memory: &mut HostMemory,
        at: usize,
        from: &mut HostStaging,
        bytes: usize,
    ) -> Result<(), DeviceError> {
        from.sent = true;
        self.upload(memory, at, &from.bytes[..bytes])
    }

    fn reclaim(&self, staging: &mut HostStaging) -> Result<(), DeviceError> {
        staging.sent = false;
        Ok(())
    }

    fn download(&self, memory: &HostMemory, at: usize, bytes: &mut [u8]) -> Result<(), DeviceError> {
        assert!(at + bytes.len() <= memory.bytes, "a download beyond its memory");
        // SAFETY: the range was checked; the two do not overlap, and kernels have written all of it, or allocate()
        unsafe { std::ptr::copy_nonoverlapping(memory.start.cast::<u8>().add(at), bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    fn launch(&self, kernel: Kernel, grid: Grid, arguments: &[Arg<'_, HostMemory>]) -> Result<(), DeviceError> {
        let Grid { blocks, threads, shared } = grid;
        let name = CString::new(kernel.name()).expect("no zero in a name");
        let mut values: Vec<[u64; 2]> =
            arguments.iter().map(|argument| argument.bits(|memory| memory.start as u64)).collect();
        let mut pointers: Vec<*mut c_void> = values.iter_mut().map(|value| value.as_mut_ptr().cast()).collect();
        self.launches.set(self.launches.get() + 1);
        // SAFETY: each pointer is to a value of the argument's type, as the kernel's callers see to
        let found = unsafe {
            (kernels().launch)(
                CStr::as_ptr(&name),
                self.seed.wrapping_mul(100_003).wrapping_add(self.launches.get()),
                blocks,
                threads,
                shared as usize,
                pointers.as_mut_ptr(),
            )
        };
        assert_eq!(found, 0, "kernels.cpp has no {}", kernel.name());
        Ok(())
    }
}
