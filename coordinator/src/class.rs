//! Which devices are alike, from what they measured. Devices of one class share derivations and calibration. Pure.
//!
//! Times are compared on coarse grids: the geometric mean of the probes' medians in steps of 25 %, the geometric mean
//! of their p95/p50 ratios in steps of a factor 2. Means over the probes, because one noisy probe must not tear like
//! devices apart. Two devices on either side of a step still get two classes; that costs a second training and nothing
//! else, as each device's latency is predicted from its own probes.

use std::fmt;

use proto::{Digest, HardwareProfile};
use serde::{Deserialize, Serialize};

/// A step of the grid of times and of CPU quotas.
const TIME_STEP: f64 = 1.25;
/// A step of the grid of p95/p50 ratios.
const TAIL_STEP: f64 = 2.0;

/// A short name for a class: `x86_64-16l-2t-3f9a27` is architecture, vector lanes, engine threads, and six digits of
/// the digest of the whole key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClassId(String);

impl ClassId {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClassId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// All that devices of one class have in common.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ClassKey {
    /// Machine architecture.
    pub arch: String,
    /// Vector lanes; `None` where unknown.
    pub lanes: Option<u32>,
    /// The engine with its version.
    pub engine: String,
    /// Threads of the engine.
    pub threads: u32,
    /// The CPU quota's cell; `None` where there is none. A quota can spare short probes and strike a longer model.
    pub quota: Option<i32>,
    /// The probes that were timed, sorted: times of different probes do not compare.
    pub probes: Vec<Digest>,
    /// The cell of the geometric mean of their medians.
    pub speed: i32,
    /// The cell of the geometric mean of their p95/p50 ratios.
    pub tail: i32,
    /// Whole powers of two in the memory that the process may use; `None` where unknown.
    pub memory_log2: Option<u32>,
}

impl ClassKey {
    /// The class of a device with this profile; `None` until its probes are timed.
    pub fn of(profile: &HardwareProfile) -> Option<Self> {
        if profile.probes.is_empty() {
            return None;
        }
        let mean = |log: fn(&proto::ProbeTiming) -> f64| {
            (profile.probes.iter().map(log).sum::<f64>() / profile.probes.len() as f64).exp()
        };
        let mut probes: Vec<_> = profile.probes.iter().map(|probe| probe.digest).collect();
        probes.sort_unstable();
        Some(Self {
            arch: profile.arch.clone(),
            lanes: profile.vector_lanes(),
            engine: format!("{} {}", profile.engine, profile.engine_version),
            threads: profile.inference_threads,
            quota: profile.cpu_quota_cores.map(|cores| cell(cores, TIME_STEP)),
            probes,
            speed: cell(mean(|probe| probe.p50_ms.ln()), TIME_STEP),
            tail: cell(mean(|probe| (probe.p95_ms / probe.p50_ms).ln()), TAIL_STEP),
            memory_log2: usable_memory(profile).and_then(u64::checked_ilog2),
        })
    }

    /// The name of this class: the same on every coordinator.
    pub fn id(&self) -> ClassId {
        let json = serde_json::to_vec(self).expect("a class key is plain numbers and text");
        let arch: String =
            self.arch.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').take(16).collect();
        let lanes = self.lanes.map(|lanes| format!("-{lanes}l")).unwrap_or_default();
        ClassId(format!("{arch}{lanes}-{}t-{}", self.threads, &Digest::of(&json).to_string()[..6]))
    }
}

/// The class of a device with this profile; `None` until its probes are timed.
pub fn class(profile: &HardwareProfile) -> Option<ClassId> {
    ClassKey::of(profile).map(|key| key.id())
}

/// Bytes that the process may use: the control group's limit or the machine's memory, whichever is less.
pub(crate) fn usable_memory(profile: &HardwareProfile) -> Option<u64> {
    [profile.memory_limit, profile.memory_total].into_iter().flatten().map(|size| size.0).min()
}

/// The nearest whole power of `step`.
fn cell(value: f64, step: f64) -> i32 {
    (value.ln() / step.ln()).round() as i32
}

#[cfg(test)]
mod tests {
    use proto::{ByteSize, ProbeTiming};

    use super::*;

    fn profile() -> HardwareProfile {
        let probe = |name: &[u8], p50_ms: f64, p95_ms: f64| ProbeTiming {
            digest: Digest::of(name),
            engines: Vec::new(),
            runs: 50,
            p50_ms,
            p95_ms,
        };
        HardwareProfile {
            arch: "x86_64".to_owned(),
            os: "linux".to_owned(),
            kernel: Some("6.1.0".to_owned()),
            cpu_model: Some("Some CPU".to_owned()),
            instruction_sets: vec!["avx2".to_owned(), "avx512f".to_owned(), "fma".to_owned()],
            logical_cores: 2,
            caches: Vec::new(),
            memory_total: Some(ByteSize(8_000_000_000)),
            memory_limit: None,
            cpu_quota_cores: None,
            inference_threads: 2,
            engine: "rten".to_owned(),
            engine_version: "0.27.0".to_owned(),
            probes: vec![probe(b"small", 0.2, 0.25), probe(b"large", 5.0, 6.0)],
            swap_total: None,
            disk_free: None,
            cpu_max_mhz: None,
            cpu_governor: None,
            thermal_zone: None,
            revision: 1,
        }
    }

    #[test]
    fn the_name_is_readable_and_stable() {
        assert_eq!(class(&profile()).unwrap().as_str(), "x86_64-16l-2t-9d3e35");
    }

    #[test]
    fn noise_and_neighbours_share_a_class() {
        let mut other = profile();
        other.kernel = Some("6.12.3".to_owned());
        other.memory_total = Some(ByteSize(7_900_000_000));
        other.probes.reverse();
        for (probe, noise) in other.probes.iter_mut().zip([1.06, 0.97]) {
            probe.p50_ms *= noise;
            probe.p95_ms *= noise * 1.1;
        }
        assert_eq!(class(&other), class(&profile()));
    }

    #[test]
    fn what_changes_the_means_changes_the_class() {
        let changes: [fn(&mut HardwareProfile); 8] = [
            |p| p.arch = "aarch64".to_owned(),
            |p| p.instruction_sets = vec!["avx2".to_owned()],
            |p| p.inference_threads = 1,
            |p| p.engine_version = "0.28.0".to_owned(),
            |p| p.cpu_quota_cores = Some(0.5),
            |p| p.memory_limit = Some(ByteSize(256 << 20)),
            |p| p.probes.iter_mut().for_each(|probe| probe.p95_ms *= 5.0),
            |p| {
                p.probes.iter_mut().for_each(|probe| {
                    probe.p50_ms *= 1.5;
                    probe.p95_ms *= 1.5;
                });
            },
        ];
        let mut classes: Vec<_> = changes
            .iter()
            .map(|change| {
                let mut other = profile();
                change(&mut other);
                class(&other)
            })
            .collect();
        classes.push(class(&profile()));
        classes.sort();
        classes.dedup();
        assert_eq!(classes.len(), 9, "{classes:?}");
    }

    #[test]
    fn a_device_without_timed_probes_has_no_class() {
        assert_eq!(class(&HardwareProfile { probes: Vec::new(), ..profile() }), None);
    }
}
