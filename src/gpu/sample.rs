//! What a GPU does at a moment: load, memory, heat, power, clocks and the counters of its faults.
//!
//! Values only. Not every GPU has every quantity: what it does not support is None, which is no fault.

use std::collections::BTreeSet;

use serde::Serialize;

/// One look at a GPU. None: it does not support the quantity, or the driver does not let us see it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Sample {
    /// How busy it is.
    pub utilization: Option<Utilization>,
    /// Its memory.
    pub memory: Option<Memory>,
    /// The temperature of the chip, degrees Celsius.
    pub temperature_c: Option<u32>,
    /// The temperature at which the hardware slows itself down, degrees Celsius.
    pub slowdown_c: Option<u32>,
    /// What it draws, milliwatts.
    pub power_mw: Option<u32>,
    /// What it has used since the driver was loaded, millijoules.
    pub energy_mj: Option<u64>,
    /// The clock of its multiprocessors, MHz.
    pub sm_clock_mhz: Option<u32>,
    /// The clock of its memory, MHz.
    pub memory_clock_mhz: Option<u32>,
    /// Why its clocks are not higher.
    pub throttle: Option<BTreeSet<Throttle>>,
    /// Memory errors since the driver was loaded.
    pub ecc_volatile: Option<EccErrors>,
    /// Memory errors of its whole life.
    pub ecc_aggregate: Option<EccErrors>,
    /// Memory pages that are not used any more (GPUs before Ampere).
    pub retired_pages: Option<RetiredPages>,
    /// Memory rows that were replaced by spare ones (Ampere and later).
    pub remapped_rows: Option<RemappedRows>,
    /// Packets that had to be sent again over PCIe, since the driver was loaded.
    pub pcie_replays: Option<u64>,
    /// Who computes on it.
    pub processes: Option<Vec<GpuProcess>>,
    /// Quantities that the driver should have told and did not: for people. None of them quarantines a GPU; where one
    /// of those cannot be read, there is no sample.
    pub unanswered: Vec<Unanswered>,
}

/// How busy a GPU was, over the driver's last sampling period (up to a second).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Utilization {
    /// Per cent of the time in which a kernel ran.
    pub gpu_percent: u32,
    /// Per cent of the time in which its memory was read or written.
    pub memory_percent: u32,
}

/// The memory of a GPU, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// All of it.
    pub total_bytes: u64,
    /// What programs have of it.
    pub used_bytes: u64,
}

/// Memory errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct EccErrors {
    /// Errors that were corrected: nothing was computed wrongly.
    pub corrected: u64,
    /// Errors that could not be.
    pub uncorrected: u64,
}

/// Pages of memory that are not used any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RetiredPages {
    /// For corrected errors that came back.
    pub single_bit: u64,
    /// For uncorrectable errors.
    pub double_bit: u64,
    /// Some are in use until the next reset.
    pub pending: bool,
}

/// Rows of memory that were replaced by spare ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RemappedRows {
    /// For corrected errors.
    pub corrected: u64,
    /// For uncorrectable errors.
    pub uncorrected: u64,
    /// Some are in use until the next reset.
    pub pending: bool,
    /// One could not be replaced: the GPU is to be exchanged.
    pub failed: bool,
}

/// Why clocks are not higher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Throttle {
    /// Nothing runs.
    Idle,
    /// Someone has set them.
    ClocksSetting,
    /// The power limit.
    PowerCap,
    /// The hardware protects itself; which of the next two it is, older GPUs do not say.
    HardwareSlowdown,
    /// It is in step with other GPUs.
    SyncBoost,
    /// The driver protects it from heat.
    SoftwareThermal,
    /// The hardware protects itself from heat.
    HardwareThermal,
    /// The computer's power supply asks for less.
    PowerBrake,
    /// The clocks of its display.
    DisplayClocks,
}

/// A process that computes on a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct GpuProcess {
    /// Its number, as this computer's first process sees it.
    pub pid: u32,
    /// What it has of the GPU's memory, bytes; None where the driver does not say.
    pub memory_bytes: Option<u64>,
}

/// A quantity that the driver did not tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unanswered {
    /// Which.
    pub quantity: &'static str,
    /// What it said instead.
    pub why: String,
}

/// What a GPU has used between two looks, millijoules. None when it does not count, or when the count began anew.
///
/// What a task uses is the difference between a look at its start and one at its end (`GpuWatch::look_now`). Other
/// processes on the same GPU are counted with it.
pub fn energy_between(before: &Sample, after: &Sample) -> Option<u64> {
    after.energy_mj?.checked_sub(before.energy_mj?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn energy_is_a_difference_of_counts() {
        let at = |energy_mj| Sample { energy_mj, ..Sample::default() };
        assert_eq!(energy_between(&at(Some(1_000)), &at(Some(4_500))), Some(3_500));
        assert_eq!(energy_between(&at(Some(7)), &at(Some(7))), Some(0));
        // the driver was loaded again
        assert_eq!(energy_between(&at(Some(4_500)), &at(Some(10))), None);
        assert_eq!(energy_between(&at(None), &at(Some(10))), None);
        assert_eq!(energy_between(&at(Some(10)), &at(None)), None);
    }
}
