//! A GPU as status commands show it.

use crate::config::size::Bytes;
use crate::protocol::worker::GpuFacts;
use crate::task::names::printable;

/// A GPU in a line.
pub(super) fn gpu_line(gpu: &GpuFacts) -> String {
    let GpuFacts { uuid, name, pci, state, reasons, utilization_percent, memory_used, memory_total, .. } = gpu;
    let mut line = format!("{} {} at {}: {state}", printable(name, 100), printable(uuid, 100), printable(pci, 30));
    if !reasons.is_empty() {
        line = format!("{line} ({})", printable(&reasons.join("; "), 500));
    }
    if let Some(used) = utilization_percent {
        line = format!("{line}, {used} % busy");
    }
    if let (Some(used), Some(total)) = (memory_used, memory_total) {
        line = format!("{line}, {} of {} used", Bytes(*used), Bytes(*total));
    }
    if let Some(degrees) = gpu.temperature_c {
        line = format!("{line}, {degrees} °C");
    }
    if let Some(power) = gpu.power_mw {
        line = format!("{line}, {} W", power / 1000);
    }
    line
}
