//! The functions of NVIDIA's CUDA driver that [`super::driver`] calls: finds the library, and turns each answer into a
//! [`Code`] or nothing. Decides nothing, and keeps nothing but the library.
//!
//! An own binding, since a result is a plain number here: newer drivers return codes that a binding with an enumeration,
//! made for an older CUDA, must not see, and those are errors of the hardware that we act on. Signatures: "CUDA Driver
//! API Reference Manual", CUDA 12. Every function here is in driver 525, the oldest that reads our kernels.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

use libloading::Library;

/// Names of the library, in the order in which they are tried. The plain name belongs to development packages and may
/// be a stub that computes nothing, so it is not tried.
const LIBRARY: &str = "libcuda.so.1";

/// `CUresult` of a call that has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Code(pub(super) u32);

impl Code {
    pub(super) const OUT_OF_MEMORY: Self = Self(2);
    pub(super) const NO_DEVICE: Self = Self(100);
    /// The module's machine code is for another GPU.
    pub(super) const NO_BINARY_FOR_GPU: Self = Self(209);
    /// The module is of a form that the driver does not read.
    pub(super) const INVALID_SOURCE: Self = Self(300);
    /// A cubin or PTX that the driver does not take.
    pub(super) const INVALID_IMAGE: Self = Self(200);
    pub(super) const INVALID_PTX: Self = Self(218);

    /// Whether kernels and copies end with it: the calls that come after them get it, whatever those do.
    pub(super) fn is_of_what_ran(self) -> bool {
        matches!(self.0, 214 | 220 | 226 | 700..=799 | 999)
    }
}

/// The driver's number of a GPU.
pub(super) type DeviceId = c_int;

/// An address in a GPU's memory.
pub(super) type Address = u64;

/// Something that the driver made and knows by a pointer.
macro_rules! handles {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(transparent)]
        pub(super) struct $name(*mut c_void);

        impl $name {
            /// What the driver is to replace; as a stream, the default one.
            pub(super) const NULL: Self = Self(std::ptr::null_mut());
        }
    )*};
}

handles! {
    Context;
    Stream;
    Event;
    Module;
    /// A kernel.
    Function;
}

/// A UUID as the driver writes it.
pub(super) type Uuid = [u8; 16];

/// `CU_STREAM_NON_BLOCKING`: a stream that does not wait for the default one.
pub(super) const STREAM_NON_BLOCKING: c_uint = 1;

/// `CU_EVENT_DEFAULT` and `CU_EVENT_DISABLE_TIMING`.
pub(super) const EVENT_TIMED: c_uint = 0;
pub(super) const EVENT_UNTIMED: c_uint = 2;

/// `CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR` and `_MINOR`.
pub(super) const CAPABILITY_MAJOR: c_int = 75;
pub(super) const CAPABILITY_MINOR: c_int = 76;

/// Declares the functions: their name here, in the library, and their arguments.
macro_rules! functions {
    ($($name:ident = $symbol:literal($($argument:ident: $type:ty),* $(,)?);)*) => {
        /// The driver's functions.
        ///
        /// # Safety
        /// Handles are of the driver and have not been destroyed; pointers are to as much as the driver reads or writes.
        pub(super) struct Api {
            $($name: unsafe extern "C" fn($($type),*) -> u32,)*
            _library: Library,
        }

        #[expect(clippy::too_many_arguments, reason = "cuLaunchKernel has eleven")]
        impl Api {
            fn of(library: Library) -> Result<Self, libloading::Error> {
                // SAFETY: the library is NVIDIA's, whose functions have these signatures; it is kept as long as they are
                unsafe {
                    Ok(Self {
                        $($name: *library.get::<unsafe extern "C" fn($($type),*) -> u32>($symbol)?,)*
                        _library: library,
                    })
                }
            }

            $(
                pub(super) unsafe fn $name(&self, $($argument: $type),*) -> Result<(), Code> {
                    // SAFETY: the caller's
                    match unsafe { (self.$name)($($argument),*) } {
                        0 => Ok(()),
                        code => Err(Code(code)),
                    }
                }
            )*
        }
    };
}

functions! {
    init = b"cuInit\0"(flags: c_uint);
    error_name = b"cuGetErrorName\0"(code: u32, text: *mut *const c_char);
    error_string = b"cuGetErrorString\0"(code: u32, text: *mut *const c_char);
    device_count = b"cuDeviceGetCount\0"(count: *mut c_int);
    device_get = b"cuDeviceGet\0"(device: *mut DeviceId, ordinal: c_int);
    device_name = b"cuDeviceGetName\0"(name: *mut c_char, length: c_int, device: DeviceId);
    device_uuid = b"cuDeviceGetUuid_v2\0"(uuid: *mut Uuid, device: DeviceId);
    device_attribute = b"cuDeviceGetAttribute\0"(value: *mut c_int, attribute: c_int, device: DeviceId);
    context_retain = b"cuDevicePrimaryCtxRetain\0"(context: *mut Context, device: DeviceId);
    context_release = b"cuDevicePrimaryCtxRelease_v2\0"(device: DeviceId);
    context_set = b"cuCtxSetCurrent\0"(context: Context);
    stream_create = b"cuStreamCreate\0"(stream: *mut Stream, flags: c_uint);
    stream_destroy = b"cuStreamDestroy_v2\0"(stream: Stream);
    stream_synchronize = b"cuStreamSynchronize\0"(stream: Stream);
    stream_wait = b"cuStreamWaitEvent\0"(stream: Stream, event: Event, flags: c_uint);
    event_create = b"cuEventCreate\0"(event: *mut Event, flags: c_uint);
    event_record = b"cuEventRecord\0"(event: Event, stream: Stream);
    event_elapsed = b"cuEventElapsedTime\0"(milliseconds: *mut f32, begin: Event, end: Event);
    event_synchronize = b"cuEventSynchronize\0"(event: Event);
    event_destroy = b"cuEventDestroy_v2\0"(event: Event);
    module_load = b"cuModuleLoadData\0"(module: *mut Module, image: *const c_void);
    module_unload = b"cuModuleUnload\0"(module: Module);
    module_function = b"cuModuleGetFunction\0"(function: *mut Function, module: Module, name: *const c_char);
    launch = b"cuLaunchKernel\0"(
        function: Function,
        blocks_x: c_uint,
        blocks_y: c_uint,
        blocks_z: c_uint,
        threads_x: c_uint,
        threads_y: c_uint,
        threads_z: c_uint,
        shared_bytes: c_uint,
        stream: Stream,
        arguments: *mut *mut c_void,
        extra: *mut *mut c_void,
    );
    memory_info = b"cuMemGetInfo_v2\0"(free: *mut usize, total: *mut usize);
    memory_allocate = b"cuMemAlloc_v2\0"(start: *mut Address, bytes: usize);
    memory_free = b"cuMemFree_v2\0"(start: Address);
    host_allocate = b"cuMemHostAlloc\0"(start: *mut *mut c_void, bytes: usize, flags: c_uint);
    host_free = b"cuMemFreeHost\0"(start: *mut c_void);
    copy_to_device = b"cuMemcpyHtoDAsync_v2\0"(to: Address, from: *const c_void, bytes: usize, stream: Stream);
    copy_to_host = b"cuMemcpyDtoHAsync_v2\0"(to: *mut c_void, from: Address, bytes: usize, stream: Stream);
    copy_within = b"cuMemcpyDtoDAsync_v2\0"(to: Address, from: Address, bytes: usize, stream: Stream);
    fill = b"cuMemsetD8Async\0"(start: Address, value: u8, bytes: usize, stream: Stream);
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(LIBRARY)
    }
}

/// The driver, loaded when it is first asked for. A driver that was not there may be there later.
///
/// # Errors
/// Why the library cannot be used.
pub(super) fn api() -> Result<&'static Api, libloading::Error> {
    static API: OnceLock<Api> = OnceLock::new();
    if let Some(api) = API.get() {
        return Ok(api);
    }
    // SAFETY: NVIDIA's library may be loaded by any thread at any time
    let api = Api::of(unsafe { Library::new(LIBRARY) }?)?;
    Ok(API.get_or_init(|| api))
}

impl Api {
    /// What the driver says of a code: its name, and words.
    pub(super) fn describe(&self, code: Code) -> (String, String) {
        type Describe = unsafe fn(&Api, u32, *mut *const c_char) -> Result<(), Code>;
        let text = |describe: Describe| {
            let mut text = std::ptr::null();
            // SAFETY: the driver writes a pointer to a text that it never frees, or none
            unsafe { describe(self, code.0, &raw mut text) }.ok()?;
            // SAFETY: as above
            (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
        };
        let unknown = || "unknown to this driver".to_owned();
        (text(Self::error_name).unwrap_or_else(unknown), text(Self::error_string).unwrap_or_else(unknown))
    }
}
