//! What the control groups of a process allow it, of version 1, version 2 or both (cgroups(7)): its own group and all
//! around it. Pure: whoever calls says what the files hold.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

/// What they allow; None where none of them limits it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct GroupLimits {
    /// Whole processors.
    pub(super) cpus: Option<NonZeroUsize>,
    /// Bytes.
    pub(super) memory: Option<u64>,
    /// Bytes beyond what is used; files that the kernel may drop are not used.
    pub(super) memory_left: Option<u64>,
}

/// From this size on a limit is none: version 1 has no word for that, and says a number near 2^63.
const NO_LIMIT: u64 = 1 << 62;

/// A process's place in a hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Membership<'t> {
    /// Those of version 1; empty for version 2.
    controllers: Vec<&'t str>,
    path: &'t Path,
}

/// Where a hierarchy is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mount<'t> {
    /// The group that is seen at the mount point.
    root: &'t Path,
    point: &'t Path,
    /// Version 1 names its controllers here.
    options: Vec<&'t str>,
    version: Version,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// What `/proc/self/cgroup` and `/proc/self/mountinfo` lead to; `read` is what a file holds, if there is one.
pub(super) fn limits(cgroup: &str, mountinfo: &str, read: &dyn Fn(&Path) -> Option<String>) -> GroupLimits {
    let mounts: Vec<Mount<'_>> = mountinfo.lines().filter_map(mount).collect();
    let mut found = GroupLimits::default();
    for member in cgroup.lines().filter_map(membership) {
        for mount in mounts.iter().filter(|mount| mount.is_of(&member)) {
            for group in mount.groups(member.path) {
                found = found.and(match mount.version {
                    Version::Two => of_version_two(&group, read),
                    Version::One => of_version_one(&group, &member.controllers, read),
                });
            }
        }
    }
    found
}

/// The directory of a process's own group of version 2, as far as it is seen here.
pub(super) fn own_group(cgroup: &str, mountinfo: &str) -> Option<PathBuf> {
    let member = cgroup.lines().filter_map(membership).find(|member| member.controllers.is_empty())?;
    let mount = mountinfo.lines().filter_map(mount).find(|mount| mount.is_of(&member))?;
    mount.groups(member.path).into_iter().next()
}

impl GroupLimits {
    /// The tighter of both.
    fn and(self, other: Self) -> Self {
        Self {
            cpus: self.cpus.into_iter().chain(other.cpus).min(),
            memory: self.memory.into_iter().chain(other.memory).min(),
            memory_left: self.memory_left.into_iter().chain(other.memory_left).min(),
        }
    }
}

impl Mount<'_> {
    fn is_of(&self, member: &Membership<'_>) -> bool {
        match self.version {
            Version::Two => member.controllers.is_empty(),
            Version::One => member.controllers.iter().any(|controller| self.options.contains(controller)),
        }
    }

    /// The directories of a group and of all around it that are seen here. In a container the path may name what only
    /// the host sees: the mount point is the process's own group then.
    fn groups(&self, path: &Path) -> Vec<PathBuf> {
        let below = path.strip_prefix(self.root).unwrap_or(Path::new(""));
        let below = if below.components().any(|part| part.as_os_str() == "..") { Path::new("") } else { below };
        let own = if below.as_os_str().is_empty() { self.point.to_owned() } else { self.point.join(below) };
        own.ancestors().take_while(|group| group.starts_with(self.point)).map(Path::to_owned).collect()
    }
}

/// `12:cpu,cpuacct:/slurm/job_1`, or `0::/job` of version 2.
fn membership(line: &str) -> Option<Membership<'_>> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (controllers, path) = (parts.next()?, parts.next()?);
    let controllers = controllers.split(',').filter(|controller| !controller.is_empty()).collect();
    Some(Membership { controllers, path: Path::new(path) })
}

/// `29 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw` (proc(5)).
fn mount(line: &str) -> Option<Mount<'_>> {
    let (place, what) = line.split_once(" - ")?;
    let mut place = place.split(' ').skip(3);
    let (root, point) = (Path::new(place.next()?), Path::new(place.next()?));
    let mut what = what.split(' ');
    let version = match what.next()? {
        "cgroup2" => Version::Two,
        "cgroup" => Version::One,
        _ => return None,
    };
    Some(Mount { root, point, options: what.nth(1)?.split(',').collect(), version })
}

fn of_version_two(group: &Path, read: &dyn Fn(&Path) -> Option<String>) -> GroupLimits {
    let number = |name: &str| read(&group.join(name))?.trim().parse::<u64>().ok();
    let cpus = read(&group.join("cpu.max")).and_then(|text| {
        let (quota, period) = text.trim().split_once(' ')?;
        // without a limit it says "max", which is no number
        whole(quota.parse().ok()?, period.parse().ok()?)
    });
    let memory = number("memory.max");
    let used = || {
        let dropped = stat(group, "inactive_file", read).unwrap_or(0);
        number("memory.current").unwrap_or(0).saturating_sub(dropped)
    };
    GroupLimits { cpus, memory, memory_left: memory.map(|memory| memory.saturating_sub(used())) }
}

fn of_version_one(group: &Path, controllers: &[&str], read: &dyn Fn(&Path) -> Option<String>) -> GroupLimits {
    let number = |name: &str| read(&group.join(name))?.trim().parse::<u64>().ok();
    let mut found = GroupLimits::default();
    if controllers.contains(&"cpu") {
        // without a limit the quota is -1
        let (quota, period) = (number("cpu.cfs_quota_us"), number("cpu.cfs_period_us"));
        found.cpus = quota.zip(period).and_then(|(quota, period)| whole(quota, period));
    }
    if controllers.contains(&"memory") {
        // groups around it that are not seen here count too
        let around = stat(group, "hierarchical_memory_limit", read);
        let limits = [number("memory.limit_in_bytes"), around].into_iter().flatten();
        found.memory = limits.filter(|limit| *limit < NO_LIMIT).min();
        let dropped = stat(group, "total_inactive_file", read).unwrap_or(0);
        let used = number("memory.usage_in_bytes").unwrap_or(0).saturating_sub(dropped);
        found.memory_left = found.memory.map(|memory| memory.saturating_sub(used));
    }
    found
}

/// Whole processors of a quota of microseconds in a period; one at least.
fn whole(quota: u64, period: u64) -> Option<NonZeroUsize> {
    let whole = quota.checked_div(period)?;
    Some(NonZeroUsize::new(usize::try_from(whole).ok()?).unwrap_or(NonZeroUsize::MIN))
}

/// A line of `memory.stat`.
fn stat(group: &Path, name: &str, read: &dyn Fn(&Path) -> Option<String>) -> Option<u64> {
    let text = read(&group.join("memory.stat"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    const V2_MOUNT: &str = "29 23 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n\
                            30 1 8:2 / / rw,relatime shared:1 - ext4 /dev/sda2 rw\n";

    const V1_MOUNTS: &str = "\
        25 17 0:22 / /sys/fs/cgroup ro,nosuid,nodev,noexec shared:9 - tmpfs tmpfs ro,mode=755\n\
        26 25 0:23 / /sys/fs/cgroup/systemd rw,nosuid shared:10 - cgroup cgroup rw,xattr,name=systemd\n\
        31 25 0:28 / /sys/fs/cgroup/memory rw,nosuid shared:15 - cgroup cgroup rw,memory\n\
        33 25 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:17 - cgroup cgroup rw,cpu,cpuacct\n";

    /// Slurm on a node with version 1.
    const V1_GROUP: &str = "\
        11:memory:/slurm/uid_1000/job_42/step_0\n\
        9:cpuset:/slurm/uid_1000/job_42/step_0\n\
        4:cpu,cpuacct:/slurm/uid_1000/job_42\n\
        1:name=systemd:/system.slice/slurmd.service\n";

    fn found(cgroup: &str, mounts: &str, files: &[(&str, &str)]) -> GroupLimits {
        let files: HashMap<&Path, &str> = files.iter().map(|(path, text)| (Path::new(path), *text)).collect();
        limits(cgroup, mounts, &|path| files.get(path).map(|text| (*text).to_owned()))
    }

    fn cpus(number: usize) -> Option<NonZeroUsize> {
        NonZeroUsize::new(number)
    }

    #[test]
    fn version_two_without_limits() {
        let files =
            [("/sys/fs/cgroup/user.slice/memory.max", "max\n"), ("/sys/fs/cgroup/user.slice/cpu.max", "max 100000\n")];
        assert_eq!(found("0::/user.slice\n", V2_MOUNT, &files), GroupLimits::default());
    }

    #[test]
    fn the_tightest_of_nested_groups_counts() {
        let job = "/sys/fs/cgroup/system.slice/slurmstepd.scope/job_7";
        let step = format!("{job}/step_0/user/task_0");
        let files = [
            (&*format!("{step}/memory.max"), "max\n"),
            (&*format!("{step}/memory.current"), "1073741824\n"),
            (&*format!("{step}/cpu.max"), "1600000 100000\n"),
            (&*format!("{job}/step_0/memory.max"), "17179869184\n"),
            (&*format!("{job}/step_0/memory.current"), "8589934592\n"),
            (
                &*format!("{job}/step_0/memory.stat"),
                "anon 1073741824\nfile 7516192768\ninactive_file 6442450944\nactive_file 5\n",
            ),
            (&*format!("{job}/memory.max"), "34359738368\n"),
            (&*format!("{job}/cpu.max"), "450000 100000\n"),
        ];
        let own = "0::/system.slice/slurmstepd.scope/job_7/step_0/user/task_0\n";
        let left = 17_179_869_184 - (8_589_934_592 - 6_442_450_944);
        let all = GroupLimits { cpus: cpus(4), memory: Some(17_179_869_184), memory_left: Some(left) };
        assert_eq!(found(own, V2_MOUNT, &files), all);
    }

    #[test]
    fn version_one_has_a_hierarchy_a_controller() {
        let files = [
            ("/sys/fs/cgroup/memory/slurm/uid_1000/job_42/step_0/memory.limit_in_bytes", "9223372036854771712\n"),
            ("/sys/fs/cgroup/memory/slurm/uid_1000/job_42/step_0/memory.usage_in_bytes", "500\n"),
            ("/sys/fs/cgroup/memory/slurm/uid_1000/job_42/memory.limit_in_bytes", "4000000000\n"),
            ("/sys/fs/cgroup/memory/slurm/uid_1000/job_42/memory.usage_in_bytes", "3000000000\n"),
            (
                "/sys/fs/cgroup/memory/slurm/uid_1000/job_42/memory.stat",
                "cache 9\ninactive_file 7\ntotal_inactive_file 1000000000\n",
            ),
            ("/sys/fs/cgroup/cpu,cpuacct/slurm/uid_1000/job_42/cpu.cfs_quota_us", "250000\n"),
            ("/sys/fs/cgroup/cpu,cpuacct/slurm/uid_1000/job_42/cpu.cfs_period_us", "100000\n"),
            ("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n"),
            ("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
            // another controller's hierarchy says nothing of memory
            ("/sys/fs/cgroup/cpu,cpuacct/slurm/uid_1000/job_42/memory.limit_in_bytes", "1\n"),
        ];
        let all = GroupLimits { cpus: cpus(2), memory: Some(4_000_000_000), memory_left: Some(2_000_000_000) };
        assert_eq!(found(V1_GROUP, V1_MOUNTS, &files), all);
    }

    #[test]
    fn version_one_tells_of_groups_that_are_not_seen() {
        // Docker without a namespace of groups: the mount shows the container's own group
        let mounts =
            "900 890 0:28 /docker/0123abcd /sys/fs/cgroup/memory ro,nosuid master:15 - cgroup cgroup rw,memory\n";
        let files = [
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("/sys/fs/cgroup/memory/memory.stat", "hierarchical_memory_limit 2147483648\ntotal_inactive_file 0\n"),
        ];
        let all = GroupLimits { cpus: None, memory: Some(2 << 30), memory_left: Some(2 << 30) };
        assert_eq!(found("5:memory:/docker/0123abcd\n", mounts, &files), all);
    }

    #[test]
    fn a_hybrid_node_has_limits_in_both() {
        // systemd's hybrid mode: version 2 beside the controllers of version 1
        let mounts =
            format!("{V1_MOUNTS}40 25 0:33 / /sys/fs/cgroup/unified rw,nosuid shared:20 - cgroup2 cgroup2 rw\n");
        let own = format!("{V1_GROUP}0::/user.slice\n");
        let files = [
            ("/sys/fs/cgroup/unified/user.slice/cpu.max", "50000 100000\n"),
            ("/sys/fs/cgroup/memory/slurm/memory.limit_in_bytes", "1000\n"),
            ("/sys/fs/cgroup/cpu,cpuacct/slurm/cpu.cfs_quota_us", "300000\n"),
            ("/sys/fs/cgroup/cpu,cpuacct/slurm/cpu.cfs_period_us", "100000\n"),
        ];
        // half a processor is one: nothing computes on none
        let all = GroupLimits { cpus: cpus(1), memory: Some(1000), memory_left: Some(1000) };
        assert_eq!(found(&own, &mounts, &files), all);
    }

    #[test]
    fn a_container_sees_its_own_group_at_the_mount_point() {
        let files = [
            ("/sys/fs/cgroup/memory.max", "1073741824\n"),
            ("/sys/fs/cgroup/memory.current", "2147483648\n"),
            ("/sys/fs/cgroup/cpu.max", "200000 100000\n"),
        ];
        let all = GroupLimits { cpus: cpus(2), memory: Some(1 << 30), memory_left: Some(0) };
        assert_eq!(found("0::/\n", V2_MOUNT, &files), all);
        // a process that was moved out of its namespace
        assert_eq!(found("0::/../../other\n", V2_MOUNT, &files), all);
    }

    #[test]
    fn the_own_group_is_the_innermost_that_is_seen() {
        let own = |cgroup, mounts| own_group(cgroup, mounts).map(|path| path.display().to_string());
        assert_eq!(own("0::/user.slice/a\n", V2_MOUNT), Some("/sys/fs/cgroup/user.slice/a".to_owned()));
        assert_eq!(own("0::/../../other\n", V2_MOUNT), Some("/sys/fs/cgroup".to_owned()));
        assert_eq!(own(V1_GROUP, V1_MOUNTS), None);
        let mounts =
            format!("{V1_MOUNTS}40 25 0:33 / /sys/fs/cgroup/unified rw,nosuid shared:20 - cgroup2 cgroup2 rw\n");
        assert_eq!(own(&format!("{V1_GROUP}0::/\n"), &mounts), Some("/sys/fs/cgroup/unified".to_owned()));
    }

    #[test]
    fn nonsense_limits_nothing() {
        for cgroup in ["", "\n", "0", "0:", "x:y:z:w", "0::"] {
            assert_eq!(found(cgroup, V2_MOUNT, &[]), GroupLimits::default(), "{cgroup:?}");
        }
        let files = [("/sys/fs/cgroup/cpu.max", "100000 0\n"), ("/sys/fs/cgroup/memory.max", "-1\n")];
        assert_eq!(found("0::/\n", V2_MOUNT, &files), GroupLimits::default());
        for mounts in ["", "29 23 0:26\n", "29 23 0:26 / /sys/fs/cgroup rw - cgroup2\n"] {
            assert_eq!(found("0::/\n", mounts, &files), GroupLimits::default(), "{mounts:?}");
        }
    }
}
