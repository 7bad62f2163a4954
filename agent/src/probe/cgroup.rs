//! Limits of the own control group, version 1 or 2. A limit of any ancestor binds too: the smallest counts.

use std::fs;
use std::path::{Path, PathBuf};

use proto::ByteSize;

/// What the control group allows; `None`: no limit, or none that can be seen.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Limits {
    pub(super) memory: Option<ByteSize>,
    pub(super) cpu_cores: Option<f64>,
}

/// Version 1 writes "no limit" as the largest number of whole pages.
const NO_LIMIT: u64 = 1 << 60;

/// The limits of the group that `proc/self/cgroup` under `root` names.
pub(super) fn limits(root: &Path) -> Limits {
    let mut limits = Limits::default();
    each_folder(root, |controllers, folder| {
        let has = |name: &str| controllers.split(',').any(|controller| controller == name);
        if controllers.is_empty() {
            limits.lower_memory(number(&folder.join("memory.max")));
            limits.lower_cpu(quota_v2(&folder.join("cpu.max")));
        }
        if has("memory") {
            limits.lower_memory(number(&folder.join("memory.limit_in_bytes")));
        }
        if has("cpu") {
            limits.lower_cpu(quota_v1(folder));
        }
    });
    limits
}

/// Visits the folders of the own group and of its ancestors, each with the controllers of its hierarchy: none in version 2.
fn each_folder(root: &Path, mut visit: impl FnMut(&str, &Path)) {
    let membership = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    for line in membership.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(group)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        for base in mounts(root, controllers) {
            for folder in ancestry(&base, group) {
                visit(controllers, &folder);
            }
        }
    }
}

/// What the groups leave of their memory, by the tightest of them; `None` where none has a limit.
pub(super) fn memory_left(root: &Path) -> Option<ByteSize> {
    let mut tightest = None;
    each_folder(root, |controllers, folder| {
        let (limit, used, idle) = match controllers {
            "" => ("memory.max", "memory.current", "inactive_file "),
            _ => ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file "),
        };
        // What files that were read have left behind goes where something else wants the room.
        let statistics = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
        let idle =
            statistics.lines().find_map(|line| line.strip_prefix(idle)?.parse::<u64>().ok()).unwrap_or(0);
        let limit = number(&folder.join(limit)).filter(|&bytes| bytes < NO_LIMIT);
        let left = limit
            .zip(number(&folder.join(used)))
            .map(|(limit, used)| limit.saturating_sub(used.saturating_sub(idle)));
        tightest = [tightest, left].into_iter().flatten().min();
    });
    tightest.map(ByteSize)
}

impl Limits {
    fn lower_memory(&mut self, bytes: Option<u64>) {
        let found = bytes.filter(|&bytes| bytes < NO_LIMIT).map(ByteSize);
        self.memory = [self.memory, found].into_iter().flatten().min();
    }

    fn lower_cpu(&mut self, cores: Option<f64>) {
        let found = cores.filter(|cores| cores.is_finite() && *cores > 0.0);
        self.cpu_cores = [self.cpu_cores, found].into_iter().flatten().reduce(f64::min);
    }
}

/// Where the hierarchy may be mounted.
fn mounts(root: &Path, controllers: &str) -> Vec<PathBuf> {
    let base = root.join("sys/fs/cgroup");
    let names = match controllers {
        "" => vec![base.clone(), base.join("unified")],
        list => std::iter::once(list).chain(list.split(',')).map(|name| base.join(name)).collect(),
    };
    names.into_iter().filter(|path| path.is_dir()).collect()
}

/// The group's folder and its ancestors up to the mount; where the mount shows the own group as its root, only that.
fn ancestry(base: &Path, group: &str) -> Vec<PathBuf> {
    let folder = base.join(group.trim_start_matches('/'));
    let mut folders: Vec<PathBuf> =
        folder.ancestors().take_while(|path| path.starts_with(base)).map(Path::to_owned).collect();
    folders.retain(|path| path.is_dir());
    folders
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn quota_v1(folder: &Path) -> Option<f64> {
    // -1, no limit, does not parse as unsigned.
    let quota = number(&folder.join("cpu.cfs_quota_us"))?;
    Some(quota as f64 / number(&folder.join("cpu.cfs_period_us"))? as f64)
}

fn quota_v2(path: &Path) -> Option<f64> {
    let text = fs::read_to_string(path).ok()?;
    let (quota, period) = text.trim().split_once(' ')?;
    Some(quota.parse::<f64>().ok()? / period.parse::<f64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits_of(files: &[(&str, &str)]) -> Limits {
        limits(root_of(files).path())
    }

    fn root_of(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn the_tightest_group_says_what_is_left() {
        let root = root_of(&[
            ("proc/self/cgroup", "0::/a/b\n"),
            ("sys/fs/cgroup/a/memory.max", "1000\n"),
            ("sys/fs/cgroup/a/memory.current", "900\n"),
            ("sys/fs/cgroup/a/b/memory.max", "500\n"),
            ("sys/fs/cgroup/a/b/memory.current", "200\n"),
        ]);
        assert_eq!(memory_left(root.path()), Some(ByteSize(100)));
        let statistics = "anon 500\nactive_file 100\ninactive_file 150\n";
        fs::write(root.path().join("sys/fs/cgroup/a/memory.stat"), statistics).unwrap();
        assert_eq!(memory_left(root.path()), Some(ByteSize(250)), "a file's pages are given back");
        let root = root_of(&[
            ("proc/self/cgroup", "4:memory:/m\n"),
            ("sys/fs/cgroup/memory/m/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/memory/m/memory.usage_in_bytes", "5\n"),
        ]);
        assert_eq!(memory_left(root.path()), None);
    }

    #[test]
    fn version_2_takes_the_smallest_of_the_ancestry() {
        let limits = limits_of(&[
            ("proc/self/cgroup", "0::/a/b\n"),
            ("sys/fs/cgroup/a/memory.max", "1000\n"),
            ("sys/fs/cgroup/a/cpu.max", "max 100000\n"),
            ("sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("sys/fs/cgroup/a/b/cpu.max", "50000 100000\n"),
        ]);
        assert_eq!(limits, Limits { memory: Some(ByteSize(1000)), cpu_cores: Some(0.5) });
    }

    #[test]
    fn version_1_reads_each_controller_where_it_is_mounted() {
        let limits = limits_of(&[
            ("proc/self/cgroup", "4:memory:/m\n2:cpu,cpuacct:/c\n0::/\n"),
            ("sys/fs/cgroup/memory/m/memory.limit_in_bytes", "2000\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/cpu,cpuacct/c/cpu.cfs_quota_us", "150000\n"),
            ("sys/fs/cgroup/cpu,cpuacct/c/cpu.cfs_period_us", "100000\n"),
        ]);
        assert_eq!(limits, Limits { memory: Some(ByteSize(2000)), cpu_cores: Some(1.5) });
    }

    #[test]
    fn no_limit_and_no_control_group_are_none() {
        let unlimited = limits_of(&[
            ("proc/self/cgroup", "2:cpu:/\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
        ]);
        assert_eq!(unlimited, Limits::default());
        assert_eq!(limits_of(&[]), Limits::default());
        assert_eq!(limits_of(&[("proc/self/cgroup", "nonsense\n\n0::")]), Limits::default());
    }
}
