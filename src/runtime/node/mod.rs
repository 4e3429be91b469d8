//! What this computer has for this process: processors and memory, as affinity, control groups and other programs leave
//! them. Of other computers it says nothing; GPUs are `gpu`'s.

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;

mod cgroup;

use cgroup::{GroupLimits, limits, own_group};

/// Processors and memory of a computer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeResources {
    /// Processors that this process may use, of which several processes together may have a quota.
    pub cpus: NonZeroUsize,
    /// Bytes of memory that the computer has, or its control group allows; None where the kernel does not tell.
    pub memory: Option<u64>,
    /// Of it, bytes that are free now.
    pub free: Option<u64>,
}

/// Measures them.
pub fn measure() -> NodeResources {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let file = |path: &Path| fs::read_to_string(path).ok();
    let groups = limits(&text("/proc/self/cgroup"), &text("/proc/self/mountinfo"), &file);
    // the affinity, and those quotas that the standard library knows
    together(available_parallelism().unwrap_or(NonZeroUsize::MIN), &text("/proc/meminfo"), groups)
}

/// The directory of this process's control group of version 2; None where there is none.
pub(super) fn control_group() -> Option<PathBuf> {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    own_group(&text("/proc/self/cgroup"), &text("/proc/self/mountinfo"))
}

fn together(affinity: NonZeroUsize, meminfo: &str, groups: GroupLimits) -> NodeResources {
    let cpus = groups.cpus.map_or(affinity, |quota| affinity.min(quota));
    let memory = meminfo_bytes(meminfo, "MemTotal:").into_iter().chain(groups.memory).min();
    let free = meminfo_bytes(meminfo, "MemAvailable:").into_iter().chain(groups.memory_left).min();
    NodeResources { cpus, memory, free }
}

/// A line of `/proc/meminfo` in bytes.
fn meminfo_bytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: &str = "MemTotal:       263853352 kB\nMemFree:         1 kB\nMemAvailable:   250000000 kB\n";

    fn cpus(number: usize) -> NonZeroUsize {
        NonZeroUsize::new(number).expect("not zero")
    }

    #[test]
    fn the_smaller_of_computer_and_group_counts() {
        let free = together(cpus(64), MEMINFO, GroupLimits::default());
        let whole = NodeResources { cpus: cpus(64), memory: Some(263_853_352 << 10), free: Some(250_000_000 << 10) };
        assert_eq!(free, whole);
        let groups = GroupLimits { cpus: Some(cpus(8)), memory: Some(32 << 30), memory_left: Some(30 << 30) };
        let job = NodeResources { cpus: cpus(8), memory: Some(32 << 30), free: Some(30 << 30) };
        assert_eq!(together(cpus(64), MEMINFO, groups), job);
        let many = GroupLimits { cpus: Some(cpus(128)), memory: Some(1 << 50), memory_left: Some(1 << 50) };
        assert_eq!(together(cpus(64), MEMINFO, many), whole);
        let untold = together(cpus(2), "", GroupLimits::default());
        assert_eq!((untold.memory, untold.free), (None, None));
    }

    #[test]
    fn this_computer_is_measured() {
        let NodeResources { memory, free, .. } = measure();
        assert!(memory.is_some_and(|memory| memory > 64 << 20 && free.is_some_and(|free| free <= memory)));
    }
}
