//! The compiled kernels, which the program has in itself, and in which of them a kernel is. `scripts/build-kernels` makes
//! them.

use super::device::Kernel;

/// A source of kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Module {
    Dense,
    Events,
    Reduce,
    SelfTest,
    TwoTime,
}

impl Module {
    /// PTX, which the driver compiles for its GPU.
    pub(super) fn ptx(self) -> &'static str {
        match self {
            Self::Dense => include_str!("../../../kernels/ptx/dense.ptx"),
            Self::Events => include_str!("../../../kernels/ptx/events.ptx"),
            Self::Reduce => include_str!("../../../kernels/ptx/reduce.ptx"),
            Self::SelfTest => include_str!("../../../kernels/ptx/selftest.ptx"),
            Self::TwoTime => include_str!("../../../kernels/ptx/twotime.ptx"),
        }
    }
}

/// Where a kernel is.
pub(super) fn module(kernel: Kernel) -> Module {
    match kernel {
        Kernel::EventsCount | Kernel::EventsFile | Kernel::EventsSort | Kernel::EventsMultitau => Module::Events,
        Kernel::DenseSums(_)
        | Kernel::DenseFrameTotals
        | Kernel::DenseFrames(..)
        | Kernel::DenseStage(_)
        | Kernel::DenseFinish => Module::Dense,
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
        for kernel in all_kernels() {
            let entry = format!(".entry {}(", kernel.name());
            assert!(module(kernel).ptx().contains(&entry), "{kernel:?} is not in {:?}", module(kernel));
        }
    }
}
