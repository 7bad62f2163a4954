//! The times of probe models on this device. Owns how a probe is timed, and the record on disk, so that a restart under the
//! same conditions does not measure again.

use std::time::Duration;

use proto::{Digest, EngineTiming, ProbeTiming};
use serde::{Deserialize, Serialize};

use crate::runner::Runner;
use crate::runner::choose::{self, Conditions, Contender};
use crate::runner::engine::{Choice, Engine, EngineError};
use crate::runner::engines::Engines;
use crate::runner::timing::{self, Effort, Times};
use crate::state::{self, FileError, StateDir};

/// Of a probe: a CPU quota's period is a tenth of a second, and several must be seen; a 95th percentile wants five above it.
const OF_A_PROBE: Effort = Effort {
    warm_up: Duration::from_millis(200),
    shortest: Duration::from_secs(1),
    fewest: 100,
    longest: Duration::from_secs(3),
};

/// Engines that answer alike differ by less, in proportion to the answer where that is more than 1.
const ALIKE: f32 = 1e-3;

/// Times the probe in `bytes` in everything that may run it, and the fastest once more, longer; what serves takes turns with
/// it. An engine whose answer is not rten's is left out.
pub fn time(
    bytes: Vec<u8>,
    engines: &Engines,
    runner: &Runner,
    may_try: impl Fn(Choice) -> bool,
) -> Result<ProbeTiming, EngineError> {
    let digest = Digest::of(&bytes);
    let usual = engines.load(bytes.clone(), engines.usual())?;
    let choices: Vec<Choice> = engines.choices().into_iter().filter(|&choice| may_try(choice)).collect();
    let contenders = match choices.as_slice() {
        [] | [_] => Vec::new(),
        several => {
            choose::contenders(several, runner, |choice| alike(engines.load(bytes.clone(), choice)?, &usual))
        }
    };
    let engine = match choose::best(&contenders) {
        Some(best) if best.choice != usual.choice() => engines.load(bytes, best.choice)?,
        Some(_) | None => usual,
    };
    let Times { runs, p50_ms, p95_ms } = timing::time(&engine, &OF_A_PROBE, runner)?;
    Ok(ProbeTiming { digest, runs, p50_ms, p95_ms, engines: contenders.into_iter().map(told).collect() })
}

/// The engine, if it answers as another one does.
fn alike(engine: Engine, other: &Engine) -> Result<Engine, EngineError> {
    let image = timing::image(other.numel());
    let (own, expected) = (engine.run(&image)?, other.run(&image)?);
    let close = |(own, expected): (&f32, &f32)| (own - expected).abs() <= ALIKE * expected.abs().max(1.0);
    match own.len() == expected.len() && own.iter().zip(&expected).all(close) {
        true => Ok(engine),
        false => Err(EngineError::Run(format!("it answers otherwise than {}", other.choice()))),
    }
}

/// As the profile says it.
fn told(contender: Contender) -> EngineTiming {
    let Contender { choice, p50_ms, p95_ms } = contender;
    let threads = u32::try_from(choice.threads).unwrap_or(u32::MAX);
    EngineTiming { engine: choice.engine.name().to_owned(), threads, p50_ms, p95_ms }
}

/// What the times depend on, beside the probe itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Measured {
    conditions: Conditions,
    /// How runs were spaced; what an older agent measured in another way is measured again.
    pause_us: u128,
}

/// Times that were measured under the present conditions.
#[derive(Debug, Serialize, Deserialize)]
pub struct Timings {
    measured: Measured,
    timings: Vec<ProbeTiming>,
}

impl Timings {
    /// What is on disk, if it was measured under the present conditions; else nothing.
    pub fn load(state: &StateDir, engines: &Engines) -> Result<Self, FileError> {
        let stored = state::unless_damaged(state::read_json::<Self>(&state.timings()))?;
        Ok(stored.filter(|stored| stored.hold(engines)).unwrap_or_else(|| Self::none(engines)))
    }

    /// None yet.
    pub fn none(engines: &Engines) -> Self {
        let measured = Measured { conditions: Conditions::now(engines), pause_us: timing::PAUSE.as_micros() };
        Self { measured, timings: Vec::new() }
    }

    /// Whether they were measured under the present conditions.
    pub fn hold(&self, engines: &Engines) -> bool {
        self.measured == Self::none(engines).measured
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
    fn times_are_kept_for_the_same_conditions_only() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let (one, two) = (Engines::rten(1), Engines::rten(2));
        let timing =
            ProbeTiming { digest: Digest::of(b"p"), runs: 3, p50_ms: 1.0, p95_ms: 2.0, engines: Vec::new() };
        Timings::load(&state, &one).unwrap().add(&state, timing.clone()).unwrap();
        assert_eq!(Timings::load(&state, &one).unwrap().get(timing.digest), Some(&timing));
        assert!(Timings::load(&state, &two).unwrap().all().is_empty());
    }
}
