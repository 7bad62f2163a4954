//! The time of one model on this device: warm, one image at a time, spaced as requests are. Owns the measurement and its cache on disk, so
//! that a restart under the same conditions does not measure again.

use std::time::{Duration, Instant};

use proto::{Digest, HardwareProfile, ProbeTiming};
use serde::{Deserialize, Serialize};

use super::device::Device;
use crate::runner::Runner;
use crate::runner::engine::{Engine, EngineError};
use crate::state::{self, FileError, StateDir};

/// How long a model is timed.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Runs that are not counted: caches, branch predictors and clock rates settle.
    pub warm_up: Duration,
    /// At least so long,
    pub shortest: Duration,
    /// and at least so many runs,
    pub fewest: usize,
    /// and no longer than this, however slow the model.
    pub longest: Duration,
}

/// Of a probe: a CPU quota's period is a tenth of a second, and several must be seen; a 95th percentile wants five above it.
const OF_A_PROBE: Effort = Effort {
    warm_up: Duration::from_millis(200),
    shortest: Duration::from_secs(1),
    fewest: 100,
    longest: Duration::from_secs(3),
};

/// Between two runs: requests come one at a time, and what serves one sleeps before it. Run back to back instead, with
/// caches hot and threads awake, a small network answers by up to a third sooner than any client will see.
const PAUSE: Duration = Duration::from_millis(1);

/// Percentiles of the times of one model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Times {
    /// How many were counted.
    pub runs: u32,
    /// Median, milliseconds.
    pub p50_ms: f64,
    /// 95th percentile, milliseconds.
    pub p95_ms: f64,
}

/// Times the probe `digest`; requests to the model that serves take turns with it.
pub fn time_probe(digest: Digest, engine: &Engine, runner: &Runner) -> Result<ProbeTiming, EngineError> {
    let Times { runs, p50_ms, p95_ms } = time(engine, &OF_A_PROBE, runner)?;
    Ok(ProbeTiming { digest, runs, p50_ms, p95_ms })
}

/// Times a model; requests to the one that serves take turns with it.
pub fn time(engine: &Engine, effort: &Effort, runner: &Runner) -> Result<Times, EngineError> {
    let image = image(engine.numel());
    let run = || {
        pause();
        let exclusive = runner.turn();
        let started = Instant::now();
        let result = engine.run(&image);
        let elapsed = started.elapsed();
        drop(exclusive);
        result.map(|_| elapsed)
    };
    let warm_from = Instant::now();
    while warm_from.elapsed() < effort.warm_up {
        run()?;
    }
    let mut times = Vec::new();
    let from = Instant::now();
    while !effort.is_enough(times.len(), from.elapsed()) {
        times.push(run()?);
    }
    times.sort_unstable();
    let (p50_ms, p95_ms) = (percentile_ms(&times, 50), percentile_ms(&times, 95));
    Ok(Times { runs: times.len() as u32, p50_ms, p95_ms })
}

#[expect(
    clippy::disallowed_methods,
    reason = "a blocking thread of its own, and the pause is what is measured"
)]
fn pause() {
    std::thread::sleep(PAUSE);
}

impl Effort {
    fn is_enough(&self, runs: usize, elapsed: Duration) -> bool {
        runs > 0 && (elapsed >= self.longest || (elapsed >= self.shortest && runs >= self.fewest))
    }
}

/// The nearest-rank percentile of sorted times, milliseconds.
fn percentile_ms(sorted: &[Duration], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted[rank - 1].as_secs_f64() * 1e3
}

/// Numbers in -1..1 without a pattern; the time of a dense network does not depend on them.
fn image(length: usize) -> Vec<f32> {
    let mix = |index: u32| index.wrapping_mul(2_654_435_761) ^ index.rotate_left(13);
    (0..length).map(|index| mix(index as u32) as f32 / u32::MAX as f32 * 2.0 - 1.0).collect()
}

/// What the times depend on, beside the probe itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Conditions {
    engine: String,
    engine_version: String,
    threads: u32,
    device: Device,
    /// How runs were spaced; what an older agent measured in another way is measured again.
    #[serde(default)]
    pause_us: u128,
}

impl Conditions {
    fn of(profile: &HardwareProfile) -> Self {
        Self {
            engine: profile.engine.clone(),
            engine_version: profile.engine_version.clone(),
            threads: profile.inference_threads,
            device: Device::of(profile),
            pause_us: PAUSE.as_micros(),
        }
    }
}

/// Times that were measured under the present conditions.
#[derive(Debug, Serialize, Deserialize)]
pub struct Timings {
    conditions: Conditions,
    timings: Vec<ProbeTiming>,
}

impl Timings {
    /// What is on disk, if it was measured under the conditions of `profile`; else nothing.
    pub fn load(state: &StateDir, profile: &HardwareProfile) -> Result<Self, FileError> {
        let conditions = Conditions::of(profile);
        let stored = state::read(&state.timings())?;
        let stored = stored.and_then(|json| serde_json::from_slice::<Self>(&json).ok());
        Ok(stored
            .filter(|stored| stored.conditions == conditions)
            .unwrap_or(Self { conditions, timings: Vec::new() }))
    }

    /// The time of one probe.
    pub fn get(&self, digest: Digest) -> Option<&ProbeTiming> {
        self.timings.iter().find(|timing| timing.digest == digest)
    }

    /// Every time.
    pub fn all(&self) -> &[ProbeTiming] {
        &self.timings
    }

    /// Adds a time and writes all to disk.
    pub fn add(&mut self, state: &StateDir, timing: ProbeTiming) -> Result<(), FileError> {
        self.timings.retain(|known| known.digest != timing.digest);
        self.timings.push(timing);
        let json = serde_json::to_vec_pretty(self).expect("times are plain data");
        state::replace(&state.timings(), &json)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_rank() {
        let times: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!((percentile_ms(&times, 50), percentile_ms(&times, 95)), (50.0, 95.0));
        assert_eq!(percentile_ms(&times[..1], 95), 1.0);
        assert_eq!(percentile_ms(&times[..3], 50), 2.0);
    }

    #[test]
    fn timing_ends_by_runs_and_time() {
        let ms = Duration::from_millis;
        for (runs, elapsed, enough) in [
            (0, ms(9000), false),
            (99, ms(1500), false),
            (100, ms(999), false),
            (100, ms(1000), true),
            (1, ms(3000), true),
        ] {
            assert_eq!(OF_A_PROBE.is_enough(runs, elapsed), enough, "{runs} {elapsed:?}");
        }
    }

    #[test]
    fn times_are_kept_for_the_same_conditions_only() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let here = crate::probe::profile(&crate::runner::engines::Engines::rten(1), Vec::new());
        let timing = ProbeTiming { digest: Digest::of(b"p"), runs: 3, p50_ms: 1.0, p95_ms: 2.0 };
        Timings::load(&state, &here).unwrap().add(&state, timing.clone()).unwrap();
        assert_eq!(Timings::load(&state, &here).unwrap().get(timing.digest), Some(&timing));
        let mut elsewhere = here.clone();
        elsewhere.inference_threads = 2;
        assert!(Timings::load(&state, &elsewhere).unwrap().all().is_empty());
        let mut throttled = here;
        throttled.cpu_quota_cores = Some(0.125);
        assert!(Timings::load(&state, &throttled).unwrap().all().is_empty());
    }
}
