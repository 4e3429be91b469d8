//! The compiled kernels, which the program has in itself, and in which of them a kernel is. `scripts/build-kernels` makes
//! them.

use super::device::{Counts, Kernel, Precision, of_counts};
use crate::dataset::PixelType;

/// Kernels that are compiled together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Module {
    Dense,
    /// The first stage of one type of count: a driver compiles what is used alone.
    DenseFrames(Counts, Precision),
    Events,
    Reduce,
    SelfTest,
    TwoTime,
}

/// The text of one of many.
macro_rules! text {
    ($($name:literal),*) => { include_str!(concat!("../../../kernels/ptx/", $($name),*)) };
}

impl Module {
    /// PTX, which the driver compiles for its GPU.
    pub(super) fn ptx(self) -> &'static str {
        match self {
            Self::Dense => text!("dense.ptx"),
            Self::DenseFrames(counts, Precision::Single) => of_counts!(counts, text, "dense_", "_f32.ptx"),
            Self::DenseFrames(counts, Precision::Double) => of_counts!(counts, text, "dense_", "_f64.ptx"),
            Self::Events => text!("events.ptx"),
            Self::Reduce => text!("reduce.ptx"),
            Self::SelfTest => text!("selftest.ptx"),
            Self::TwoTime => text!("twotime.ptx"),
        }
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
        for kernel in all_kernels() {
            let entry = format!(".entry {}(", kernel.name());
            assert!(module(kernel).ptx().contains(&entry), "{kernel:?} is not in {:?}", module(kernel));
        }
    }
}
