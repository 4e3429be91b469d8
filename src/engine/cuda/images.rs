//! The compiled kernels, which the program embeds, and in which of them a kernel is. `scripts/build-kernels` makes them:
//! PTX, which a driver compiles for any GPU from Volta on, and machine code for two generations, so that nothing is compiled
//! at the first use on those. Calls no driver.

use std::io::Read;

use super::device::{Counts, Kernel, Precision, of_counts};
use crate::dataset::PixelType;

/// Kernels that are compiled together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Module {
    Dense,
    /// The first stage of one type of count: what is not used is not loaded.
    DenseFrames(Counts, Precision),
    Events,
    Reduce,
    SelfTest,
    TwoTime,
}

/// What a GPU's instructions are: its compute capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Capability {
    pub(super) major: u32,
    pub(super) minor: u32,
}

/// In which form kernels are loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Form {
    /// Machine code of A100's generation.
    Sm80,
    /// Machine code of H100's generation.
    Sm90,
    /// PTX.
    Ptx,
}

impl Form {
    /// For people.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Sm80 => "machine code for sm_80",
            Self::Sm90 => "machine code for sm_90",
            Self::Ptx => "PTX",
        }
    }
}

macro_rules! ptx {
    ($($name:literal),*) => { include_str!(concat!("../../../kernels/ptx/", $($name),*, ".ptx")) };
}

macro_rules! sm_80 {
    ($($name:literal),*) => { &include_bytes!(concat!("../../../kernels/cubin/sm_80/", $($name),*, ".z"))[..] };
}

macro_rules! sm_90 {
    ($($name:literal),*) => { &include_bytes!(concat!("../../../kernels/cubin/sm_90/", $($name),*, ".z"))[..] };
}

/// What another macro makes of a module's name.
macro_rules! of_module {
    ($module:expr, $make:ident) => {
        match $module {
            Module::Dense => $make!("dense"),
            Module::DenseFrames(counts, Precision::Single) => of_counts!(counts, $make, "dense_", "_f32"),
            Module::DenseFrames(counts, Precision::Double) => of_counts!(counts, $make, "dense_", "_f64"),
            Module::Events => $make!("events"),
            Module::Reduce => $make!("reduce"),
            Module::SelfTest => $make!("selftest"),
            Module::TwoTime => $make!("twotime"),
        }
    };
}

impl Module {
    /// PTX.
    pub(super) fn ptx(self) -> &'static str {
        of_module!(self, ptx)
    }

    /// Machine code for a GPU, if there is some: code of x.0 runs on all x.y ("CUDA Binary Compatibility", CUDA C++
    /// Programming Guide).
    pub(super) fn machine_code(self, gpu: Capability) -> Option<(Form, Vec<u8>)> {
        let (form, packed) = match gpu.major {
            8 => (Form::Sm80, of_module!(self, sm_80)),
            9 => (Form::Sm90, of_module!(self, sm_90)),
            _ => return None,
        };
        let mut code = Vec::new();
        flate2::read::ZlibDecoder::new(packed).read_to_end(&mut code).ok()?;
        Some((form, code))
    }
}

/// Where a kernel is.
pub(super) fn module(kernel: Kernel) -> Module {
    match kernel {
        Kernel::EventsCount | Kernel::EventsFile | Kernel::EventsSort | Kernel::EventsMultitau => Module::Events,
        Kernel::DenseSums(_)
        | Kernel::DenseFrameTotals
        | Kernel::DenseFactors(_)
        | Kernel::DenseSegments
        | Kernel::DenseCellTotals
        | Kernel::DenseStage(_)
        | Kernel::DenseFinish(_) => Module::Dense,
        Kernel::DenseFrames(counts, precision) => Module::DenseFrames(counts, precision),
        Kernel::ScanBlocks | Kernel::ScanTotals | Kernel::ScanAdd | Kernel::ReducePieces => Module::Reduce,
        Kernel::SelfTestWrite | Kernel::SelfTestCheck => Module::SelfTest,
        Kernel::Columns(_)
        | Kernel::EventsMost
        | Kernel::ColumnsEvents
        | Kernel::GroupTotals
        | Kernel::GroupTotalsF32
        | Kernel::GramDigits
        | Kernel::GramF32
        | Kernel::MapRows
        | Kernel::DiagonalPieces
        | Kernel::DiagonalTotals => Module::TwoTime,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::cuda::device::all_kernels;

    #[test]
    fn each_kernel_is_in_its_module() {
        let gpus = [(8, 0, Form::Sm80), (8, 6, Form::Sm80), (9, 0, Form::Sm90)];
        for kernel in all_kernels() {
            let (name, module) = (kernel.name(), module(kernel));
            let entry = format!(".entry {name}(");
            assert!(module.ptx().contains(&entry), "{kernel:?} is not in {module:?}");
            for (major, minor, wanted) in gpus {
                let (form, code) = module.machine_code(Capability { major, minor }).expect("there is some");
                assert_eq!(form, wanted);
                let section = format!("\0.text.{name}\0");
                let found = code.windows(section.len()).any(|bytes| bytes == section.as_bytes());
                assert!(found && code.starts_with(b"\x7fELF"), "{kernel:?} is not in {module:?} for {major}.{minor}");
            }
        }
    }

    #[test]
    fn other_generations_compile_ptx() {
        for major in [7, 10, 12] {
            assert_eq!(Module::Dense.machine_code(Capability { major, minor: 0 }), None);
        }
    }
}
