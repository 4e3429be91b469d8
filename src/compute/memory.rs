//! How much memory a job may take when nobody says.
//!
//! Reads the kernel's figures only; enforces nothing.

use std::path::{Path, PathBuf};

/// boost_corr's default, which stays the most that is taken unasked.
pub const MOST_UNASKED: u64 = 36_000_000_000;

/// Four fifths of the memory that is free to this process, at most [`MOST_UNASKED`].
pub fn default_limit() -> u64 {
    (free() / 5 * 4).min(MOST_UNASKED)
}

/// The memory that is free to this process; [`MOST_UNASKED`] where the kernel does not tell.
pub fn free() -> u64 {
    let of_machine = meminfo_available(Path::new("/proc/meminfo"));
    let own_group = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let of_groups = groups(Path::new("/sys/fs/cgroup"), &own_group).into_iter().filter_map(|group| cgroup_left(&group));
    of_groups.chain(of_machine).min().unwrap_or(MOST_UNASKED)
}

/// `MemAvailable` of the machine in bytes.
fn meminfo_available(path: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The directories of this process's control group (version 2) and of all groups around it.
fn groups(root: &Path, own_group: &str) -> Vec<PathBuf> {
    let own = own_group.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    root.join(own).ancestors().take_while(|dir| dir.starts_with(root)).map(Path::to_owned).collect()
}

/// What a control group (a container's or a batch job's) still allows, if it limits at all.
fn cgroup_left(group: &Path) -> Option<u64> {
    let number = |name| std::fs::read_to_string(group.join(name)).ok()?.trim().parse::<u64>().ok();
    // Without a limit `memory.max` says "max", which is no number.
    Some(number("memory.max")?.saturating_sub(number("memory.current").unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_figures_are_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let put = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).expect("written");
        put("meminfo", "MemTotal: 9 kB\nMemAvailable:   2048 kB\n");
        assert_eq!(meminfo_available(&dir.path().join("meminfo")), Some(2 << 20));
        assert_eq!(cgroup_left(dir.path()), None);
        put("memory.max", "max\n");
        assert_eq!(cgroup_left(dir.path()), None);
        put("memory.max", "1000\n");
        put("memory.current", "400\n");
        assert_eq!(cgroup_left(dir.path()), Some(600));
    }

    #[test]
    fn every_group_around_counts() {
        let dirs = groups(Path::new("/g"), "1:x:/y\n0::/slurm/job_1\n");
        assert_eq!(dirs, ["/g/slurm/job_1", "/g/slurm", "/g"].map(PathBuf::from));
        assert_eq!(groups(Path::new("/g"), ""), [PathBuf::from("/g/")]);
    }

    #[test]
    fn the_default_is_bounded() {
        assert!((1..=MOST_UNASKED).contains(&default_limit()));
    }
}
