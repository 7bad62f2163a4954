//! What this device measures of itself. Owns the profile; unknown stays `None`, nothing is guessed.

use std::path::Path;

use proto::{ByteSize, HardwareProfile, ProbeTiming};

use crate::runner::engine::EngineKind;
use crate::runner::engines::Engines;

mod cgroup;
mod cpu;
pub mod device;
pub mod task;
pub mod timings;

/// The profile of this device with the given times of probe models.
pub fn profile(engines: &Engines, probes: Vec<ProbeTiming>) -> HardwareProfile {
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
        memory_total: memory_total(),
        memory_limit: limits.memory,
        cpu_quota_cores: limits.cpu_cores,
        inference_threads: u32::try_from(engines.usual().threads).unwrap_or(u32::MAX),
        engine: engine.name().to_owned(),
        engine_version: engines.version(engine).unwrap_or_default().to_owned(),
        probes,
    }
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
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(ByteSize(kibibytes * 1024))
}

/// Cores that this process may run on.
fn cores() -> u32 {
    match rustix::thread::sched_getaffinity(None) {
        Ok(set) => set.count().max(1),
        Err(_) => std::thread::available_parallelism().map_or(1, |n| n.get() as u32),
    }
}

fn memory_total() -> Option<ByteSize> {
    let info = rustix::system::sysinfo();
    let unit = u64::from(info.mem_unit.max(1));
    #[allow(clippy::useless_conversion)] // `totalram` has another type on 32-bit targets
    u64::from(info.totalram).checked_mul(unit).filter(|&bytes| bytes > 0).map(ByteSize)
}
