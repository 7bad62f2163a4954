//! What this device measures of itself. Owns the profile; unknown stays `None`, nothing is guessed.

use std::path::Path;
use std::time::Duration;

use proto::{ByteSize, HardwareProfile, ProbeTiming};

use crate::runner::engine::EngineKind;
use crate::runner::engines::Engines;

mod cgroup;
mod cpu;
pub mod device;
pub mod published;
pub mod task;
pub mod thermal;
pub mod timings;

/// The profile of this device with the given times of probe models; models lie in `folder`.
pub fn profile(engines: &Engines, folder: Option<&Path>, probes: Vec<ProbeTiming>) -> HardwareProfile {
    let other = engines.version(EngineKind::Onnxruntime);
    let engine = if other.is_some() { EngineKind::Onnxruntime } else { EngineKind::Rten };
    let root = Path::new("/");
    let uname = rustix::system::uname();
    let text = |name: &std::ffi::CStr| name.to_string_lossy().into_owned();
    let limits = cgroup::limits(root);
    HardwareProfile {
        arch: text(uname.machine()),
        os: std::env::consts::OS.to_owned(),
        kernel: Some(text(uname.release())).filter(|release| !release.is_empty()),
        cpu_model: cpu::model(root),
        instruction_sets: cpu::instruction_sets(root),
        logical_cores: cores(),
        caches: cpu::caches(root),
        memory_total: memory(|info| info.totalram),
        memory_limit: limits.memory,
        cpu_quota_cores: limits.cpu_cores,
        inference_threads: u32::try_from(engines.usual().threads).unwrap_or(u32::MAX),
        engine: engine.name().to_owned(),
        engine_version: engines.version(engine).unwrap_or_default().to_owned(),
        probes,
        swap_total: memory(|info| info.totalswap).or(Some(ByteSize(0))),
        disk_free: folder.and_then(|folder| disk_free(folder).ok()).map(coarse),
        cpu_max_mhz: cpu::max_mhz(root),
        cpu_governor: cpu::governor(root),
        thermal_zone: thermal::zone(root).map(|zone| zone.name),
        revision: 0,
    }
}

/// Free to the agent on the disk of `folder`.
pub fn disk_free(folder: &Path) -> std::io::Result<ByteSize> {
    let stat = rustix::fs::statvfs(folder)?;
    Ok(ByteSize(stat.f_bavail.saturating_mul(stat.f_frsize)))
}

/// Down to three significant binary digits: a disk's free bytes change all the time, and the profile need not.
fn coarse(size: ByteSize) -> ByteSize {
    let shift = (u64::BITS - size.0.leading_zeros()).saturating_sub(3);
    ByteSize(size.0 >> shift << shift)
}

/// Memory that a new model may take now: what the kernel would give, within what the control group leaves.
pub fn memory_available() -> Option<ByteSize> {
    let info = std::fs::read_to_string("/proc/meminfo").ok();
    let free = info.as_deref().and_then(|info| kibibytes(info, "MemAvailable:"));
    let left = cgroup::memory_left(Path::new("/"));
    [free, left].into_iter().flatten().min()
}

/// Processor time of this process so far, all threads.
pub fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Threads for one inference where nothing is configured: the cores that this process may use, by affinity and quota.
pub fn default_threads() -> usize {
    let quota = cgroup::limits(Path::new("/")).cpu_cores;
    let quota = quota.map_or(usize::MAX, |cores| cores.ceil().max(1.0) as usize);
    quota.min(cores() as usize)
}

/// Resident memory of this process now.
pub fn resident_memory() -> Option<ByteSize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    kibibytes(&status, "VmRSS:")
}

/// The `NAME: 12 kB` line of a file of the kernel.
fn kibibytes(text: &str, name: &str) -> Option<ByteSize> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024).map(ByteSize)
}

/// Cores that this process may run on.
fn cores() -> u32 {
    match rustix::thread::sched_getaffinity(None) {
        Ok(set) => set.count().max(1),
        Err(_) => std::thread::available_parallelism().map_or(1, |n| n.get() as u32),
    }
}

/// A figure of the kernel's about memory; `None` where it is 0.
fn memory<N: Into<u64>>(figure: impl Fn(&rustix::system::Sysinfo) -> N) -> Option<ByteSize> {
    let info = rustix::system::sysinfo();
    let unit = u64::from(info.mem_unit.max(1));
    figure(&info).into().checked_mul(unit).filter(|&bytes| bytes > 0).map(ByteSize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_rounded_down_to_three_digits() {
        for (exact, rounded) in
            [(0, 0), (7, 7), (8, 8), (9, 8), (1023, 896), (1024, 1024), (u64::MAX, 7 << 61)]
        {
            assert_eq!(coarse(ByteSize(exact)), ByteSize(rounded), "{exact}");
        }
    }

    #[test]
    fn the_kernels_lines_are_read() {
        let text = "MemTotal:  100 kB\nMemAvailable:    7 kB\nOdd: 5\n";
        assert_eq!(kibibytes(text, "MemAvailable:"), Some(ByteSize(7 * 1024)));
        assert_eq!(kibibytes(text, "Odd:"), None);
        assert!(memory_available().unwrap().0 > 0);
    }
}
