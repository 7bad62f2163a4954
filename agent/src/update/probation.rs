//! A new model on probation: watched while it serves, kept if it stands it. Owns the verdict, which is pure, and the count
//! of deaths meanwhile and later, which is on disk; who serves instead is decided elsewhere.

use std::time::{Duration, Instant};

use proto::Probation;

use super::trial::{LIMIT, Trial, Trials, uptime};
use crate::reconcile::Desired;
use crate::runner::statistics::Answers;
use crate::state::{FileError, StateDir};

/// A look at fewer answers says nothing: they count at the next.
const FEWEST: u64 = 20;

/// What a look makes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is watched on.
    GoesOn,
    /// It stood its time.
    Kept,
    /// So many answers in the looks that failed, and how many of them were late or no answers at all.
    Failed(Answers),
}

/// The looks at one model.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) of: Desired,
    rules: Probation,
    began: Instant,
    seen: Answers,
    /// Answers in the looks that failed in a row.
    failing: Answers,
    in_a_row: u32,
    next: tokio::time::Instant,
}

impl Watch {
    /// Begins now.
    pub(super) fn new(of: Desired, rules: Probation) -> Self {
        let none = Answers::default();
        let next = tokio::time::Instant::now() + rules.period();
        Self { of, rules, began: Instant::now(), seen: none, failing: none, in_a_row: 0, next }
    }

    /// When the next look is due.
    pub(super) fn next(&self) -> tokio::time::Instant {
        self.next
    }

    /// Another engine runs it now: its answers are counted from nothing.
    pub(super) fn counts_anew(&mut self) {
        self.seen = Answers::default();
    }

    /// What the model has done since it serves, looked at now.
    pub(super) fn look(&mut self, answers: Answers) -> Verdict {
        self.next = tokio::time::Instant::now() + self.rules.period();
        self.judge(answers, self.began.elapsed())
    }

    fn judge(&mut self, answers: Answers, elapsed: Duration) -> Verdict {
        let new = answers.since(self.seen);
        if new.images >= FEWEST {
            self.seen = answers;
            if (new.late + new.failed) * 2 > new.images {
                self.in_a_row += 1;
                self.failing = self.failing.and(new);
            } else {
                (self.in_a_row, self.failing) = (0, Answers::default());
            }
        }
        if self.in_a_row >= self.rules.failure_threshold {
            Verdict::Failed(self.failing)
        } else if elapsed >= self.rules.duration() && self.in_a_row == 0 {
            Verdict::Kept
        } else {
            Verdict::GoesOn
        }
    }
}

/// A model that stood its probation is blamed for deaths of the agent that lie no further apart than this, in seconds.
const CRASH_LOOP: i64 = 3600;

/// The time that a model serves, as the disk has it: a probation, which only [`Term::keep`] ends, and what comes after. It
/// outlives the process.
#[derive(Debug)]
pub(super) struct Term {
    state: StateDir,
    of: Desired,
    stage: Stage,
}

/// How far a model has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Every death counts.
    Probation,
    /// Deaths count that come one soon after the other.
    Kept,
}

/// What a start finds of it.
#[derive(Debug)]
pub(super) enum Found {
    /// No death is counted for this model.
    None,
    /// It goes on.
    Term(Term),
    /// The agent died too often meanwhile.
    Deadly(Term),
}

impl Term {
    /// Begins for a model that is about to serve: from here on a death counts.
    pub(super) fn begin(state: &StateDir, of: Desired, stage: Stage) -> Result<Self, FileError> {
        let term = Self { state: state.clone(), of, stage };
        term.trials().begin_alone(of)?;
        Ok(term)
    }

    /// The one of `of`, if it is under way.
    pub(super) fn find(state: &StateDir, of: Desired) -> Result<Found, FileError> {
        for stage in [Stage::Probation, Stage::Kept] {
            let term = Self { state: state.clone(), of, stage };
            if term.trials().stored(of)?.is_some() {
                let is_deadly = term.deaths()? >= LIMIT;
                return Ok(if is_deadly { Found::Deadly(term) } else { Found::Term(term) });
            }
        }
        Ok(Found::None)
    }

    /// How far the model has come.
    pub(super) fn stage(&self) -> Stage {
        self.stage
    }

    fn trials(&self) -> Trials {
        match self.stage {
            Stage::Probation => Trials::of_probations(&self.state),
            Stage::Kept => Trials::of_service(&self.state),
        }
    }

    /// Deaths that are the model's. What ended with the power of the whole device was none; one while something else was tried
    /// is counted there.
    fn deaths(&self) -> Result<u32, FileError> {
        let Some(noted) = self.trials().stored(self.of)?.filter(Trial::is_of_this_boot) else { return Ok(0) };
        if self.stage == Stage::Kept && uptime() - noted.since > CRASH_LOOP {
            return Ok(0);
        }
        let of_another = Trials::any_begun_since(&self.state, noted.last)?;
        Ok(noted.begun.saturating_sub(u32::from(of_another)))
    }

    /// One more start: a death from here on counts.
    pub(super) fn resume(&self) -> Result<(), FileError> {
        self.trials().note(self.of, self.deaths()? + 1)
    }

    /// The agent stops as it should: this start was no death.
    pub(super) fn pause(&self) -> Result<(), FileError> {
        self.trials().take_back(self.of)
    }

    /// The model stood its probation.
    pub(super) fn keep(&self) -> Result<Self, FileError> {
        let kept = Self::begin(&self.state, self.of, Stage::Kept)?;
        Trials::of_probations(&self.state).clear()?;
        Ok(kept)
    }

    /// The model serves no more.
    pub(super) fn end(&self) -> Result<(), FileError> {
        self.trials().clear()
    }
}

#[cfg(test)]
mod tests {
    use proto::{Digest, Generation};

    use super::*;

    fn desired() -> Desired {
        Desired { generation: Generation(2), digest: Digest::of(b"m") }
    }

    /// Looks at (images, late) counts, one second apart, for at most five seconds.
    fn verdicts(looks: &[(u64, u64)]) -> Vec<Verdict> {
        let rules = Probation { duration_ms: 5_000, failure_threshold: 2, ..Probation::default() };
        let mut watch = Watch::new(desired(), rules);
        let look = |(second, &(images, late)): (usize, &(u64, u64))| {
            watch.judge(Answers { images, late, failed: 0 }, Duration::from_secs(second as u64 + 1))
        };
        looks.iter().enumerate().map(look).collect()
    }

    #[tokio::test]
    async fn a_model_is_kept_after_its_time_and_fails_by_looks_in_a_row() {
        use Verdict::{Failed, GoesOn, Kept};
        let failed = |images, late| Failed(Answers { images, late, failed: 0 });
        type Case = (&'static str, &'static [(u64, u64)], Vec<Verdict>);
        let table: [Case; 6] = [
            ("idle", &[(0, 0); 5], vec![GoesOn, GoesOn, GoesOn, GoesOn, Kept]),
            ("late twice in a row", &[(30, 20), (60, 50)], vec![GoesOn, failed(60, 50)]),
            ("late, in time, late", &[(30, 20), (60, 25), (90, 50)], vec![GoesOn, GoesOn, GoesOn]),
            ("half is not more than half", &[(30, 15), (60, 30)], vec![GoesOn, GoesOn]),
            (
                "few answers count at the next look",
                &[(19, 19), (30, 30), (60, 60)],
                vec![GoesOn, GoesOn, failed(60, 60)],
            ),
            (
                "late at the end of its time",
                &[(0, 0), (0, 0), (0, 0), (30, 30), (60, 60)],
                vec![GoesOn, GoesOn, GoesOn, GoesOn, failed(60, 60)],
            ),
        ];
        for (case, looks, expected) in table {
            assert_eq!(verdicts(looks), expected, "{case}");
        }
    }

    fn is_deadly(state: &StateDir, of: Desired) -> bool {
        matches!(Term::find(state, of).unwrap(), Found::Deadly(_))
    }

    #[test]
    fn deaths_are_counted_over_starts_and_stops_are_none() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        assert!(matches!(Term::find(&state, desired()).unwrap(), Found::None));
        let mut term = Term::begin(&state, desired(), Stage::Probation).unwrap();
        for stage in [Stage::Probation, Stage::Kept] {
            for _ in 0..5 {
                term.pause().unwrap();
                assert!(
                    matches!(Term::find(&state, desired()).unwrap(), Found::Term(found) if found.stage() == stage)
                );
                term.resume().unwrap();
            }
            term.resume().unwrap();
            assert!(!is_deadly(&state, desired()), "{stage:?}");
            term.resume().unwrap();
            assert!(is_deadly(&state, desired()), "{stage:?}");
            term = term.keep().unwrap();
        }
        let other = Desired { generation: Generation(3), ..desired() };
        assert!(matches!(Term::find(&state, other).unwrap(), Found::None));
        term.end().unwrap();
        assert!(matches!(Term::find(&state, desired()).unwrap(), Found::None));
    }

    #[test]
    fn deaths_that_are_not_the_models_do_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let other = Desired { generation: Generation(3), digest: Digest::of(b"n") };
        let term = Term::begin(&state, desired(), Stage::Kept).unwrap();
        for _ in 0..2 {
            term.resume().unwrap();
        }
        std::mem::forget(Trials::of_comparisons(&state).begin(other).unwrap());
        assert!(!is_deadly(&state, desired()), "the last one was the comparison's");
        Trials::of_comparisons(&state).clear().unwrap();
        assert!(is_deadly(&state, desired()));

        let path = state.root().join("serving.json");
        let noted = std::fs::read_to_string(&path).unwrap();
        let altered = |key: &str, value: serde_json::Value| {
            let mut json: serde_json::Value = serde_json::from_str(&noted).unwrap();
            json[0][key] = value;
            std::fs::write(&path, json.to_string()).unwrap();
        };
        altered("boot", "another".into());
        assert!(!is_deadly(&state, desired()), "the device was switched off meanwhile");
        altered("since", (uptime() - CRASH_LOOP - 1).into());
        assert!(!is_deadly(&state, desired()), "they lie too far apart");
        term.resume().unwrap();
        assert_eq!(
            Trials::of_service(&state).unfinished(desired()).unwrap(),
            1,
            "it is counted from here on"
        );
    }
}
