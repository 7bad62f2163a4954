//! A CPU quota for one process, by a control group of its own. Says `None` where the system does not permit one;
//! never pretends a quota that was not read back.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// A control group with a CPU quota, removed when dropped.
#[derive(Debug)]
pub struct CpuQuota {
    folder: PathBuf,
    cores: f64,
}

/// How the two versions of control groups write a quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl CpuQuota {
    /// A new group named `name` whose processes get `cores` of processor time in each `period` together. `None` where
    /// this process may not make one, or where the kernel does not take the figures.
    pub fn create(name: &str, cores: f64, period: Duration) -> Option<Self> {
        let (version, parent) = own_group()?;
        let folder = parent.join(name);
        // Left behind by a run that was killed; a group with processes in it cannot be removed and stays in use.
        let _ = fs::remove_dir(&folder);
        if version == Version::Two {
            let _ = fs::write(parent.join("cgroup.subtree_control"), "+cpu");
        }
        fs::create_dir(&folder).ok()?;
        let group = Self { folder, cores };
        group.limit(version, period).ok()?;
        Some(group)
    }

    fn limit(&self, version: Version, period: Duration) -> Result<()> {
        let period = period.as_micros();
        let quota = (self.cores * period as f64).round();
        match version {
            Version::One => {
                self.write_and_read_back("cpu.cfs_period_us", &period.to_string())?;
                self.write_and_read_back("cpu.cfs_quota_us", &quota.to_string())
            }
            Version::Two => self.write_and_read_back("cpu.max", &format!("{quota} {period}")),
        }
    }

    fn write_and_read_back(&self, file: &str, value: &str) -> Result<()> {
        let path = self.folder.join(file);
        fs::write(&path, value).with_context(|| format!("cannot write {}", path.display()))?;
        let read = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        ensure!(read.trim() == value, "{} holds '{}' instead of '{value}'", path.display(), read.trim());
        Ok(())
    }

    /// The file that takes the ids of the group's processes.
    pub fn procs(&self) -> PathBuf {
        self.folder.join("cgroup.procs")
    }

    /// Processor time per second, in cores.
    pub fn cores(&self) -> f64 {
        self.cores
    }

    /// In how many periods so far the group had used up its quota and was stopped.
    ///
    /// # Errors
    /// When the kernel's count cannot be read.
    pub fn times_throttled(&self) -> Result<u64> {
        let path = self.folder.join("cpu.stat");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        text.lines()
            .find_map(|line| line.strip_prefix("nr_throttled "))
            .and_then(|count| count.trim().parse().ok())
            .with_context(|| format!("{} has no nr_throttled", path.display()))
    }
}

impl Drop for CpuQuota {
    fn drop(&mut self) {
        // A killed process leaves its group a moment after it was reaped.
        let deadline = Instant::now() + Duration::from_secs(1);
        while fs::remove_dir(&self.folder).is_err() && Instant::now() < deadline {
            std::thread::yield_now();
        }
    }
}

/// Where this process's own group for the CPU controller lies.
fn own_group() -> Option<(Version, PathBuf)> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let (version, mount, root) =
        mounts.lines().filter_map(cpu_mount).min_by_key(|(version, ..)| match version {
            Version::One => 0,
            Version::Two => 1,
        })?;
    let path = groups.lines().find_map(|line| group_path(line, version))?;
    // The mount may show only a part of the hierarchy, as in a container.
    let inside = path.strip_prefix(root.trim_end_matches('/')).unwrap_or(path);
    let folder = Path::new(mount).join(inside.trim_start_matches('/'));
    folder.is_dir().then_some((version, folder))
}

/// Version, mount point and mounted root of a line of mountinfo, if it mounts the CPU controller.
fn cpu_mount(line: &str) -> Option<(Version, &str, &str)> {
    let (before, after) = line.split_once(" - ")?;
    let fields: Vec<&str> = before.split(' ').collect();
    let (root, mount) = (*fields.get(3)?, *fields.get(4)?);
    let mut kind = after.split(' ');
    match kind.next()? {
        "cgroup" if kind.nth(1)?.split(',').any(|option| option == "cpu") => {
            Some((Version::One, mount, root))
        }
        "cgroup2" if controllers_of(mount).split_whitespace().any(|name| name == "cpu") => {
            Some((Version::Two, mount, root))
        }
        _ => None,
    }
}

fn controllers_of(mount: &str) -> String {
    fs::read_to_string(Path::new(mount).join("cgroup.controllers")).unwrap_or_default()
}

/// The path of a line of /proc/self/cgroup (`id:controllers:path`), if it is of the CPU controller.
fn group_path(line: &str, version: Version) -> Option<&str> {
    let mut parts = line.splitn(3, ':');
    let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
    let is_cpu = match version {
        Version::One => controllers.split(',').any(|name| name == "cpu"),
        Version::Two => controllers.is_empty(),
    };
    is_cpu.then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_lines_are_told_apart() {
        let one = "33 32 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct";
        assert_eq!(cpu_mount(one), Some((Version::One, "/sys/fs/cgroup/cpu,cpuacct", "/")));
        for other in [
            "34 32 0:30 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset",
            "22 1 0:5 / /proc rw,relatime - proc proc rw",
            "not a mount",
        ] {
            assert_eq!(cpu_mount(other), None, "{other}");
        }
        assert_eq!(group_path("5:cpu,cpuacct:/user.slice", Version::One), Some("/user.slice"));
        assert_eq!(group_path("5:cpuset:/", Version::One), None);
        assert_eq!(group_path("0::/user.slice/a:b", Version::Two), Some("/user.slice/a:b"));
    }

    #[test]
    fn a_group_is_gone_after_its_drop() {
        let name = format!("reconvene-test-{}", std::process::id());
        // Not permitted here: there is nothing to check then.
        let Some(quota) = CpuQuota::create(&name, 0.5, Duration::from_millis(20)) else { return };
        let folder = quota.folder.clone();
        assert!(folder.is_dir());
        assert_eq!(quota.times_throttled().unwrap(), 0);
        drop(quota);
        assert!(!folder.exists());
    }
}
