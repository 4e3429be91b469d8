//! What the engine asks of a device: memory, copies, kernels, in the order in which they are asked for. Behind it is a
//! GPU, or, in tests, a host build of the same kernels. Knows no correlation.

use std::fmt;
use std::marker::PhantomData;
use std::ops::DerefMut;

use bytemuck::Pod;

use crate::dataset::PixelType;

/// What the counts of a frame are on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Counts {
    /// A pixel each.
    Pixels(PixelType),
    /// Four a byte, the first in the lowest bits.
    TwoBits,
}

impl Counts {
    /// Bytes of so many; of two bits, a multiple of four.
    pub(super) fn bytes(self, number: usize) -> usize {
        match self {
            Self::Pixels(pixel) => number * pixel.size(),
            Self::TwoBits => number / 4,
        }
    }
}

/// A kernel. Its name is the one in `kernels/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kernel {
    EventsCount,
    EventsFile,
    EventsSort,
    EventsMultitau,
    /// Sums of frames.
    DenseSums(Counts),
    DenseFrameTotals,
    /// What each frame is multiplied with.
    DenseFactors(Precision),
    DenseSegments,
    DenseCellTotals,
    /// The first stage.
    DenseFrames(Counts, Precision),
    /// Another stage.
    DenseStage(Precision),
    DenseFinish(Precision),
    ScanBlocks,
    ScanTotals,
    ScanAdd,
    ReducePieces,
    /// Counts of frames, for two-time.
    Columns(Counts),
    EventsMost,
    ColumnsEvents,
    GroupTotals,
    GroupTotalsF32,
    GramDigits,
    GramF32,
    MapRows,
    DiagonalPieces,
    DiagonalTotals,
    SelfTestWrite,
    SelfTestCheck,
}

/// The name of what is made for each type of count, or what another macro makes of it.
macro_rules! of_counts {
    ($counts:expr, $start:literal, $end:literal) => {
        $crate::engine::cuda::device::of_counts!($counts, concat, $start, $end)
    };
    ($counts:expr, $make:ident, $start:literal, $end:literal) => {
        match $counts {
            Counts::TwoBits => $make!($start, "u2", $end),
            Counts::Pixels(PixelType::U8) => $make!($start, "u8", $end),
            Counts::Pixels(PixelType::U16) => $make!($start, "u16", $end),
            Counts::Pixels(PixelType::U32) => $make!($start, "u32", $end),
            Counts::Pixels(PixelType::I16) => $make!($start, "i16", $end),
            Counts::Pixels(PixelType::I32) => $make!($start, "i32", $end),
            Counts::Pixels(PixelType::F32) => $make!($start, "f32", $end),
        }
    };
}
pub(super) use of_counts;

impl Kernel {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::EventsCount => "events_count",
            Self::EventsFile => "events_file",
            Self::EventsSort => "events_sort",
            Self::EventsMultitau => "events_multitau",
            Self::DenseSums(counts) => of_counts!(counts, "dense_sums_", ""),
            Self::DenseFrameTotals => "dense_frame_totals",
            Self::DenseFactors(Precision::Single) => "dense_factors_f32",
            Self::DenseFactors(Precision::Double) => "dense_factors_f64",
            Self::DenseSegments => "dense_segments",
            Self::DenseCellTotals => "dense_cell_totals",
            Self::DenseFrames(counts, Precision::Single) => of_counts!(counts, "dense_", "_f32"),
            Self::DenseFrames(counts, Precision::Double) => of_counts!(counts, "dense_", "_f64"),
            Self::DenseStage(Precision::Single) => "dense_stage_f32",
            Self::DenseStage(Precision::Double) => "dense_stage_f64",
            Self::DenseFinish(Precision::Single) => "dense_finish_f32",
            Self::DenseFinish(Precision::Double) => "dense_finish_f64",
            Self::ScanBlocks => "scan_blocks",
            Self::ScanTotals => "scan_totals",
            Self::ScanAdd => "scan_add",
            Self::ReducePieces => "reduce_pieces",
            Self::Columns(counts) => of_counts!(counts, "columns_", ""),
            Self::EventsMost => "events_most",
            Self::ColumnsEvents => "columns_events",
            Self::GroupTotals => "group_totals",
            Self::GroupTotalsF32 => "group_totals_f32",
            Self::GramDigits => "gram_digits",
            Self::GramF32 => "gram_f32",
            Self::MapRows => "map_rows",
            Self::DiagonalPieces => "diagonal_pieces",
            Self::DiagonalTotals => "diagonal_totals",
            Self::SelfTestWrite => "self_test_write",
            Self::SelfTestCheck => "self_test_check",
        }
    }
}

/// In what a kernel adds products before it adds them in float64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Precision {
    Single,
    Double,
}

impl Precision {
    /// Bytes of a number.
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::Single => size_of::<f32>(),
            Self::Double => size_of::<f64>(),
        }
    }
}

/// How many threads run a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Grid {
    pub(super) blocks: u32,
    /// Of each block: a multiple of a warp.
    pub(super) threads: u32,
    /// Bytes of shared memory of each block.
    pub(super) shared: u32,
}

/// An argument of a kernel.
#[derive(Debug)]
pub(super) enum Arg<'a, M> {
    Memory(&'a M),
    /// From a byte of it on.
    From(&'a M, usize),
    U32(u32),
    U64(u64),
    /// A struct of four `u32`, by value.
    U32x4([u32; 4]),
}

#[cfg(test)]
impl<'a, M> Arg<'a, M> {
    /// The same of another memory.
    pub(super) fn of<N>(&self, other: impl Fn(&'a M) -> &'a N) -> Arg<'a, N> {
        match self {
            Self::Memory(memory) => Arg::Memory(other(memory)),
            Self::From(memory, at) => Arg::From(other(memory), *at),
            Self::U32(number) => Arg::U32(*number),
            Self::U64(number) => Arg::U64(*number),
            Self::U32x4(numbers) => Arg::U32x4(*numbers),
        }
    }
}

impl<M> Arg<'_, M> {
    /// Its bytes, as a kernel takes it; `address` is where some memory begins.
    pub(super) fn bits(&self, address: impl Fn(&M) -> u64) -> [u64; 2] {
        match self {
            Self::Memory(memory) => [address(memory), 0],
            Self::From(memory, at) => [address(memory) + *at as u64, 0],
            Self::U32(number) => [u64::from(*number), 0],
            Self::U64(number) => [*number, 0],
            Self::U32x4(numbers) => bytemuck::cast(*numbers),
        }
    }
}

/// What the driver says of an error.
#[derive(Debug, thiserror::Error)]
#[error("{name} ({code}): {text}")]
pub struct DriverCause {
    /// CUDA's number.
    pub code: u32,
    /// CUDA's name.
    pub name: String,
    /// In words.
    pub text: String,
}

/// Memory that is allocated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryKind {
    /// The GPU's own.
    Gpu,
    /// The computer's, from which copies to the GPU go out.
    Pinned,
}

impl fmt::Display for MemoryKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Gpu => "the GPU's memory",
            Self::Pinned => "the computer's memory for copies to the GPU",
        })
    }
}

/// What went wrong on a device.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// So many bytes are not free.
    #[error("{memory} has no {bytes} bytes left, however the work is cut; other programs may use it")]
    OutOfMemory {
        /// Which.
        memory: MemoryKind,
        /// Bytes.
        bytes: usize,
    },
    /// A kernel that ran, or was to run, ended with an error of the driver.
    #[error("kernel {kernel}, or what ran before it, failed")]
    Kernel {
        /// Its name in `kernels/`.
        kernel: &'static str,
        /// What the driver says.
        source: DriverCause,
    },
    /// A kernel was not loaded.
    #[error("kernel {kernel} cannot be loaded: {call} failed")]
    Load {
        /// Its name in `kernels/`.
        kernel: &'static str,
        /// The driver's function.
        call: &'static str,
        /// What the driver says.
        source: DriverCause,
    },
    /// Another call of the driver.
    #[error("{call} failed")]
    Call {
        /// The driver's function.
        call: &'static str,
        /// What the driver says.
        source: DriverCause,
    },
}

/// Whether an error of CUDA's is no program's fault, by its number ("CUresult", CUDA Driver API Reference Manual, CUDA 13). A
/// program's own, as an illegal address (700) or a failed launch (719), may be a GPU that computes wrongly all the same:
/// the worker has a GPU tested on which attempts fail again and again.
fn is_no_programs(code: u32) -> bool {
    match code {
        // another program has it for itself; there is none
        46 | 100 => true,
        // an uncorrectable error of memory or of NVLink; a contained one; a corrupt stack
        214 | 220 | 226 | 714 => true,
        // the node: its fabric manager is not ready, driver and library are not of one release, MPS does not answer or has
        // no room, or has ended this program because of another one's error
        802..=810 => true,
        // unknown
        999 => true,
        _ => false,
    }
}

impl DeviceError {
    /// Whether device or node are at fault, so that another one may do.
    pub fn is_fault(&self) -> bool {
        match self {
            Self::OutOfMemory { .. } => false,
            Self::Kernel { source, .. } | Self::Load { source, .. } | Self::Call { source, .. } => {
                is_no_programs(source.code)
            }
        }
    }
}

/// A device. Everything takes effect in the order of the calls.
pub(super) trait Device {
    /// Bytes on the device; freed when dropped.
    type Memory;

    /// Bytes of the host that copies to the device go out of, without waiting.
    type Staging: DerefMut<Target = [u8]> + Send;

    /// Bytes that may be allocated.
    fn free_bytes(&self) -> Result<u64, DeviceError>;

    /// Memory that holds anything.
    fn allocate(&self, bytes: usize) -> Result<Self::Memory, DeviceError>;

    /// Zeros, all over.
    fn clear(&self, memory: &mut Self::Memory) -> Result<(), DeviceError>;

    /// Copies to the device, to byte `at` and on.
    fn upload(&self, memory: &mut Self::Memory, at: usize, bytes: &[u8]) -> Result<(), DeviceError>;

    /// Bytes to send.
    fn staging(&self, bytes: usize) -> Result<Self::Staging, DeviceError>;

    /// Begins to copy the first bytes to byte `at` and on. They must not be touched until they are reclaimed.
    fn send(
        &self,
        memory: &mut Self::Memory,
        at: usize,
        from: &mut Self::Staging,
        bytes: usize,
    ) -> Result<(), DeviceError>;

    /// Waits until what was sent last has left.
    fn reclaim(&self, staging: &mut Self::Staging) -> Result<(), DeviceError>;

    /// Copies from the device, from byte `at` on; waits until it is there.
    fn download(&self, memory: &Self::Memory, at: usize, bytes: &mut [u8]) -> Result<(), DeviceError>;

    /// Runs a kernel. What it writes to is for the kernel to know.
    fn launch(&self, kernel: Kernel, grid: Grid, arguments: &[Arg<'_, Self::Memory>]) -> Result<(), DeviceError>;
}

/// Numbers on a device.
#[derive(Debug)]
pub(super) struct Buffer<D: Device, T> {
    memory: D::Memory,
    len: usize,
    of: PhantomData<T>,
}

impl<D: Device, T: Pod> Buffer<D, T> {
    /// Room for `len` numbers, which are anything.
    pub(super) fn new(device: &D, len: usize) -> Result<Self, DeviceError> {
        Ok(Self { memory: device.allocate(len * size_of::<T>())?, len, of: PhantomData })
    }

    /// How many there is room for.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Zeros.
    pub(super) fn zeros(device: &D, len: usize) -> Result<Self, DeviceError> {
        let mut buffer = Self::new(device, len)?;
        device.clear(&mut buffer.memory)?;
        Ok(buffer)
    }

    /// These numbers.
    pub(super) fn of(device: &D, numbers: &[T]) -> Result<Self, DeviceError> {
        let mut buffer = Self::new(device, numbers.len())?;
        buffer.write(device, numbers)?;
        Ok(buffer)
    }

    /// Replaces the first ones.
    pub(super) fn write(&mut self, device: &D, numbers: &[T]) -> Result<(), DeviceError> {
        assert!(numbers.len() <= self.len, "{} numbers into a buffer of {}", numbers.len(), self.len);
        device.upload(&mut self.memory, 0, bytemuck::cast_slice(numbers))
    }

    /// Begins to replace so many, from one on, by what is sent.
    pub(super) fn send(
        &mut self,
        device: &D,
        at: usize,
        from: &mut D::Staging,
        number: usize,
    ) -> Result<(), DeviceError> {
        assert!(at + number <= self.len, "{number} numbers to {at} in a buffer of {}", self.len);
        device.send(&mut self.memory, at * size_of::<T>(), from, number * size_of::<T>())
    }

    /// All numbers.
    pub(super) fn read(&self, device: &D) -> Result<Vec<T>, DeviceError> {
        let mut numbers = vec![T::zeroed(); self.len];
        device.download(&self.memory, 0, bytemuck::cast_slice_mut(&mut numbers))?;
        Ok(numbers)
    }

    /// As many numbers as there is room for, from the first on.
    pub(super) fn read_into(&self, device: &D, out: &mut [T]) -> Result<(), DeviceError> {
        self.read_from(device, 0, out)
    }

    /// The same, from number `at` on.
    pub(super) fn read_from(&self, device: &D, at: usize, out: &mut [T]) -> Result<(), DeviceError> {
        assert!(at + out.len() <= self.len, "{} numbers from {at} of a buffer of {}", out.len(), self.len);
        device.download(&self.memory, at * size_of::<T>(), bytemuck::cast_slice_mut(out))
    }

    pub(super) fn arg(&self) -> Arg<'_, D::Memory> {
        Arg::Memory(&self.memory)
    }

    /// From a number on.
    pub(super) fn arg_from(&self, at: usize) -> Arg<'_, D::Memory> {
        assert!(at <= self.len, "beyond a buffer of {}", self.len);
        Arg::From(&self.memory, at * size_of::<T>())
    }
}

/// Each kernel there is.
#[cfg(test)]
pub(super) fn all_kernels() -> Vec<Kernel> {
    use Kernel::*;
    let pixels =
        [PixelType::U8, PixelType::U16, PixelType::U32, PixelType::I16, PixelType::I32, PixelType::F32].into_iter();
    let precisions = [Precision::Single, Precision::Double];
    let of_counts = pixels.map(Counts::Pixels).chain([Counts::TwoBits]).flat_map(|counts| {
        let frames = precisions.map(|precision| DenseFrames(counts, precision));
        [DenseSums(counts), Columns(counts)].into_iter().chain(frames)
    });
    let others = [
        EventsCount,
        EventsFile,
        EventsSort,
        EventsMultitau,
        DenseFrameTotals,
        DenseSegments,
        DenseCellTotals,
        ScanBlocks,
        ScanTotals,
        ScanAdd,
        ReducePieces,
        EventsMost,
        ColumnsEvents,
        GroupTotals,
        GroupTotalsF32,
        GramDigits,
        GramF32,
        MapRows,
        DiagonalPieces,
        DiagonalTotals,
        SelfTestWrite,
        SelfTestCheck,
    ];
    let of_precisions = precisions
        .into_iter()
        .flat_map(|precision| [DenseStage(precision), DenseFactors(precision), DenseFinish(precision)]);
    of_counts.chain(of_precisions).chain(others).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_fault_an_error_is() {
        let error = |code| DeviceError::Call {
            call: "cuStreamSynchronize",
            source: DriverCause { code, name: "CUDA_ERROR".into(), text: "in words".into() },
        };
        for code in [46, 100, 214, 220, 226, 714, 802, 803, 804, 807, 810, 999] {
            assert!(error(code).is_fault(), "{code}");
        }
        for code in [1, 2, 101, 209, 700, 702, 715, 716, 717, 718, 719, 720, 721, 801, 811] {
            assert!(!error(code).is_fault(), "{code}");
        }
        assert!(!DeviceError::OutOfMemory { memory: MemoryKind::Gpu, bytes: 1 }.is_fault());
    }
}
