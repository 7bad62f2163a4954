//! Which engine and how many threads run a model fastest on this device. Owns the comparison and its record on disk, so that
//! a restart under the same conditions does not measure again. An engine whose answers differ is never chosen.

use std::path::Path;
use std::time::{Duration, Instant};

use proto::{Digest, ModelManifest};
use serde::{Deserialize, Serialize};

use super::Runner;
use super::check::check_now;
use super::engine::{Choice, Engine, EngineError, EngineKind};
use super::engines::Engines;
use super::timing::{self, Effort, Times};
use crate::causes::describe;
use crate::probe::device::Device;
use crate::state::{self, FileError};

/// A comparison must not hold up an update for long.
const EFFORT: Effort = Effort {
    warm_up: Duration::from_millis(100),
    shortest: Duration::from_millis(300),
    fewest: 30,
    longest: Duration::from_millis(1500),
};

/// No further choice is tried after so long: a model that is so slow gains little by the last of them.
const PATIENCE: Duration = Duration::from_secs(20);

/// What costs more threads, or another library's memory, has to be faster by so much.
const WORTH_IT: f64 = 0.95;

/// How fast one choice ran the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Contender {
    /// Engine and threads.
    pub choice: Choice,
    /// Median time of one image, milliseconds.
    pub p50_ms: f64,
    /// 95th percentile, milliseconds.
    pub p95_ms: f64,
}

/// A comparison, and what it holds for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    digest: Digest,
    conditions: Conditions,
    /// All that answered as they should, in the order in which they were measured.
    pub contenders: Vec<Contender>,
}

/// What times depend on beside the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Conditions {
    rten: Option<String>,
    onnxruntime: Option<String>,
    choices: Vec<Choice>,
    device: Device,
}

impl Conditions {
    /// Those of this moment.
    pub fn now(engines: &Engines) -> Self {
        let version = |engine| engines.version(engine).map(str::to_owned);
        Self {
            rten: version(EngineKind::Rten),
            onnxruntime: version(EngineKind::Onnxruntime),
            choices: engines.choices(),
            device: Device::now(),
        }
    }
}

impl Comparison {
    /// The one on disk, if it is of this model and holds under the present conditions.
    pub fn load(path: &Path, digest: Digest, engines: &Engines) -> Result<Option<Self>, FileError> {
        Ok(state::unless_damaged(Self::read(path))?.filter(|known| known.holds(digest, engines)))
    }

    /// Whether it is of this model and holds under the present conditions.
    pub fn holds(&self, digest: Digest, engines: &Engines) -> bool {
        self.is_of(digest) && self.conditions == Conditions::now(engines)
    }

    /// Whether it is of this model, whatever the conditions.
    pub fn is_of(&self, digest: Digest) -> bool {
        self.digest == digest
    }

    /// Whether its model was measured no slower than that of `other`; `None` where that was under other conditions, or either was
    /// not measured at all.
    pub fn is_no_slower_than(&self, other: &Self) -> Option<bool> {
        let (own, theirs) = self.best().zip(other.best())?;
        (self.conditions == other.conditions).then_some(own.p50_ms <= theirs.p50_ms)
    }

    /// Takes a choice out that does not run the model any more.
    pub fn leave_out(&mut self, choice: Choice) {
        self.contenders.retain(|contender| contender.choice != choice);
    }

    /// The one on disk, whatever it holds for.
    pub fn read(path: &Path) -> Result<Option<Self>, FileError> {
        state::read_json(path)
    }

    /// Writes it to disk.
    pub fn save(&self, path: &Path) -> Result<(), FileError> {
        state::replace(path, &serde_json::to_vec_pretty(self).expect("a comparison is plain data"))
    }

    /// The choice to run the model with: the first, unless a later one is clearly faster.
    pub fn best(&self) -> Option<&Contender> {
        best(&self.contenders)
    }
}

/// The first, unless a later one is clearly faster.
pub fn best(contenders: &[Contender]) -> Option<&Contender> {
    contenders.iter().reduce(|best, next| if next.p50_ms < best.p50_ms * WORTH_IT { next } else { best })
}

/// Times every choice that `may_try` allows on a model that has passed its test; what serves takes turns with it. A choice that
/// fails, or that answers something else, is left out.
pub fn compare(
    bytes: &[u8],
    manifest: &ModelManifest,
    engines: &Engines,
    runner: &Runner,
    may_try: impl Fn(Choice) -> bool,
) -> Comparison {
    let choices: Vec<Choice> = engines.choices().into_iter().filter(|&choice| may_try(choice)).collect();
    Comparison {
        digest: manifest.artifact.digest,
        conditions: Conditions::now(engines),
        contenders: contenders(&choices, runner, |choice| {
            check_now(bytes.to_vec(), manifest, engines, choice)
        }),
    }
}

/// Times what `load` loads for each choice.
pub fn contenders<E: std::error::Error + From<EngineError>>(
    choices: &[Choice],
    runner: &Runner,
    load: impl Fn(Choice) -> Result<Engine, E>,
) -> Vec<Contender> {
    let until = Instant::now() + PATIENCE;
    let time = |choice: Choice| -> Result<Contender, E> {
        let Times { p50_ms, p95_ms, .. } = timing::time(&load(choice)?, &EFFORT, runner)?;
        Ok(Contender { choice, p50_ms, p95_ms })
    };
    let timed = |&choice: &Choice| {
        let said = |error: &E| tracing::warn!(%choice, error = describe(error), "left out");
        time(choice).inspect_err(said).ok()
    };
    let in_time = |_: &&Choice| Instant::now() < until;
    choices.iter().take_while(in_time).filter_map(timed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comparison(times: &[(EngineKind, usize, f64)]) -> Comparison {
        let contender = |&(engine, threads, p50_ms)| Contender {
            choice: Choice { engine, threads },
            p50_ms,
            p95_ms: p50_ms * 1.5,
        };
        Comparison {
            digest: Digest::of(b"m"),
            conditions: Conditions::now(&Engines::rten(2)),
            contenders: times.iter().map(contender).collect(),
        }
    }

    #[test]
    fn the_fastest_wins_and_a_tie_costs_no_more_threads() {
        use EngineKind::{Onnxruntime, Rten};
        let best = |times: &[_]| comparison(times).best().map(|best| best.choice);
        assert_eq!(best(&[]), None);
        let cases = [
            (vec![(Rten, 1, 2.0), (Rten, 2, 1.98)], (Rten, 1)),
            (vec![(Rten, 1, 2.0), (Rten, 2, 1.2)], (Rten, 2)),
            (
                vec![(Rten, 1, 2.0), (Rten, 2, 3.0), (Onnxruntime, 1, 0.6), (Onnxruntime, 2, 0.59)],
                (Onnxruntime, 1),
            ),
            (vec![(Rten, 1, 1.0), (Onnxruntime, 1, 0.97)], (Rten, 1)),
        ];
        for (times, (engine, threads)) in cases {
            assert_eq!(best(&times), Some(Choice { engine, threads }), "{times:?}");
        }
    }

    #[test]
    fn two_models_compare_where_they_were_measured_under_the_same_conditions() {
        let [slow, fast] = [2.0, 1.0].map(|ms| comparison(&[(EngineKind::Rten, 1, ms)]));
        assert_eq!([slow.is_no_slower_than(&fast), fast.is_no_slower_than(&slow)], [Some(false), Some(true)]);
        assert_eq!(slow.is_no_slower_than(&slow), Some(true));
        assert_eq!(slow.is_no_slower_than(&comparison(&[])), None);
        // Neither was measured on the device as it is now, but both on the same one.
        let before = |known: &Comparison| Comparison {
            conditions: Conditions::now(&Engines::rten(4)),
            ..known.clone()
        };
        assert_eq!(before(&slow).is_no_slower_than(&fast), None);
        assert_eq!(before(&slow).is_no_slower_than(&before(&fast)), Some(false));
    }

    #[test]
    fn a_comparison_holds_for_its_model_and_its_conditions() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("comparison.json");
        let two = Engines::rten(2);
        let known = comparison(&[(EngineKind::Rten, 1, 2.0)]);
        assert_eq!(Comparison::load(&path, known.digest, &two).unwrap(), None);
        known.save(&path).unwrap();
        assert_eq!(Comparison::load(&path, known.digest, &two).unwrap(), Some(known.clone()));
        assert_eq!(Comparison::load(&path, Digest::of(b"other"), &two).unwrap(), None);
        assert_eq!(Comparison::load(&path, known.digest, &Engines::rten(4)).unwrap(), None);
        std::fs::write(&path, "torn {").unwrap();
        assert_eq!(Comparison::load(&path, known.digest, &two).unwrap(), None);
    }
}
