//! What a device measured of itself.

use serde::{Deserialize, Serialize};

use crate::{ByteSize, Digest, Invalid, v1};

/// A device's means, measured by the device. Unknown is `None`, never guessed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HardwareProfile {
    /// Machine architecture as `uname -m` prints it.
    pub arch: String,
    /// Operating system, lower case.
    pub os: String,
    /// Kernel release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// Marketing name of the processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_model: Option<String>,
    /// Lower-case names, sorted: `avx2`, `avx512f`, `fma`, `neon`.
    pub instruction_sets: Vec<String>,
    /// Cores that the agent may run on.
    pub logical_cores: u32,
    /// Caches of core 0.
    pub caches: Vec<Cache>,
    /// Physical memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_total: Option<ByteSize>,
    /// The control group's memory limit; `None` where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<ByteSize>,
    /// The control group's CPU quota in cores; `None` where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_quota_cores: Option<f64>,
    /// Threads that one inference may use.
    pub inference_threads: u32,
    /// The engine that this device has beside rten, which every device has; `rten` where it has no other.
    pub engine: String,
    /// The engine's version.
    pub engine_version: String,
    /// Times of the coordinator's probe models.
    pub probes: Vec<ProbeTiming>,
    /// Swap, used or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swap_total: Option<ByteSize>,
    /// Free to the agent where models lie, rounded down so that it seldom changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_free: Option<ByteSize>,
    /// The most that the kernel lets the first core run at, MHz.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_max_mhz: Option<u32>,
    /// What decides the first core's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_governor: Option<String>,
    /// The sensor that temperatures in telemetry are of, as the kernel names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thermal_zone: Option<String>,
    /// Goes up with every profile that differs from the one before; 0 where it was not counted.
    #[serde(default)]
    pub revision: u64,
}

/// One cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cache {
    /// 1 is nearest to the core.
    pub level: u32,
    /// `data`, `instruction` or `unified`.
    pub kind: String,
    /// Its size.
    pub size: ByteSize,
}

/// The time of one probe model in what runs it fastest, one image at a time, warm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProbeTiming {
    /// Which probe.
    pub digest: Digest,
    /// Timed runs.
    pub runs: u32,
    /// Median, milliseconds.
    pub p50_ms: f64,
    /// 95th percentile, milliseconds.
    pub p95_ms: f64,
    /// Everything that may run it, measured more briefly.
    #[serde(default)]
    pub engines: Vec<EngineTiming>,
}

/// The time of one model in one engine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EngineTiming {
    /// The engine's name.
    pub engine: String,
    /// Threads of one inference.
    pub threads: u32,
    /// Median, milliseconds.
    pub p50_ms: f64,
    /// 95th percentile, milliseconds.
    pub p95_ms: f64,
}

impl HardwareProfile {
    /// Single-precision numbers that one vector register holds, from the instruction sets; `None` where they are unknown.
    pub fn vector_lanes(&self) -> Option<u32> {
        let has = |name: &str| self.instruction_sets.iter().any(|set| set == name);
        match () {
            () if has("avx512f") => Some(16),
            () if has("avx2") || has("avx") => Some(8),
            () if has("sse2") || has("neon") || has("asimd") => Some(4),
            () => None,
        }
    }
}

impl TryFrom<v1::HardwareProfile> for HardwareProfile {
    type Error = Invalid;

    fn try_from(wire: v1::HardwareProfile) -> Result<Self, Invalid> {
        if wire.arch.is_empty() {
            return Err(Invalid::missing("arch"));
        }
        if wire.engine.is_empty() {
            return Err(Invalid::missing("engine"));
        }
        if wire.logical_cores == 0 || wire.inference_threads == 0 {
            return Err(Invalid::new(
                "logical_cores, inference_threads",
                "a device has at least one of each",
            ));
        }
        if wire.cpu_quota_cores.is_some_and(|quota| !(quota.is_finite() && quota > 0.0)) {
            return Err(Invalid::new("cpu_quota_cores", "not a positive number"));
        }
        Ok(Self {
            arch: wire.arch,
            os: wire.os,
            kernel: wire.kernel,
            cpu_model: wire.cpu_model,
            instruction_sets: wire.instruction_sets,
            logical_cores: wire.logical_cores,
            caches: wire.caches.into_iter().map(Cache::from).collect(),
            memory_total: wire.memory_total_bytes.map(ByteSize),
            memory_limit: wire.memory_limit_bytes.map(ByteSize),
            cpu_quota_cores: wire.cpu_quota_cores,
            inference_threads: wire.inference_threads,
            engine: wire.engine,
            engine_version: wire.engine_version,
            probes: wire.probes.into_iter().map(ProbeTiming::try_from).collect::<Result<_, _>>()?,
            swap_total: wire.swap_total_bytes.map(ByteSize),
            disk_free: wire.disk_free_bytes.map(ByteSize),
            cpu_max_mhz: wire.cpu_max_mhz,
            cpu_governor: wire.cpu_governor,
            thermal_zone: wire.thermal_zone,
            revision: wire.revision,
        })
    }
}

impl From<HardwareProfile> for v1::HardwareProfile {
    fn from(profile: HardwareProfile) -> Self {
        Self {
            arch: profile.arch,
            os: profile.os,
            kernel: profile.kernel,
            cpu_model: profile.cpu_model,
            instruction_sets: profile.instruction_sets,
            logical_cores: profile.logical_cores,
            caches: profile.caches.into_iter().map(v1::Cache::from).collect(),
            memory_total_bytes: profile.memory_total.map(|size| size.0),
            memory_limit_bytes: profile.memory_limit.map(|size| size.0),
            cpu_quota_cores: profile.cpu_quota_cores,
            inference_threads: profile.inference_threads,
            engine: profile.engine,
            engine_version: profile.engine_version,
            probes: profile.probes.into_iter().map(v1::ProbeTiming::from).collect(),
            swap_total_bytes: profile.swap_total.map(|size| size.0),
            disk_free_bytes: profile.disk_free.map(|size| size.0),
            cpu_max_mhz: profile.cpu_max_mhz,
            cpu_governor: profile.cpu_governor,
            thermal_zone: profile.thermal_zone,
            revision: profile.revision,
        }
    }
}

impl From<v1::Cache> for Cache {
    fn from(wire: v1::Cache) -> Self {
        Self { level: wire.level, kind: wire.kind, size: ByteSize(wire.size_bytes) }
    }
}

impl From<Cache> for v1::Cache {
    fn from(cache: Cache) -> Self {
        Self { level: cache.level, kind: cache.kind, size_bytes: cache.size.0 }
    }
}

impl TryFrom<v1::ProbeTiming> for ProbeTiming {
    type Error = Invalid;

    fn try_from(wire: v1::ProbeTiming) -> Result<Self, Invalid> {
        if wire.runs == 0 || !are_times(wire.p50_ms, wire.p95_ms) {
            return Err(Invalid::new("probes", "a timing needs runs > 0 and 0 < p50_ms <= p95_ms"));
        }
        Ok(Self {
            digest: wire.digest.parse()?,
            runs: wire.runs,
            p50_ms: wire.p50_ms,
            p95_ms: wire.p95_ms,
            engines: wire.engines.into_iter().map(EngineTiming::try_from).collect::<Result<_, _>>()?,
        })
    }
}

impl From<ProbeTiming> for v1::ProbeTiming {
    fn from(timing: ProbeTiming) -> Self {
        let ProbeTiming { digest, runs, p50_ms, p95_ms, engines } = timing;
        let engines = engines.into_iter().map(v1::EngineTiming::from).collect();
        Self { digest: digest.to_string(), runs, p50_ms, p95_ms, engines }
    }
}

impl TryFrom<v1::EngineTiming> for EngineTiming {
    type Error = Invalid;

    fn try_from(wire: v1::EngineTiming) -> Result<Self, Invalid> {
        let v1::EngineTiming { engine, threads, p50_ms, p95_ms } = wire;
        if engine.is_empty() || threads == 0 || !are_times(p50_ms, p95_ms) {
            let problem = "a timing needs an engine, threads > 0 and 0 < p50_ms <= p95_ms";
            return Err(Invalid::new("probes.engines", problem));
        }
        Ok(Self { engine, threads, p50_ms, p95_ms })
    }
}

impl From<EngineTiming> for v1::EngineTiming {
    fn from(timing: EngineTiming) -> Self {
        let EngineTiming { engine, threads, p50_ms, p95_ms } = timing;
        Self { engine, threads, p50_ms, p95_ms }
    }
}

fn are_times(p50_ms: f64, p95_ms: f64) -> bool {
    p50_ms > 0.0 && p50_ms <= p95_ms && p95_ms.is_finite()
}
