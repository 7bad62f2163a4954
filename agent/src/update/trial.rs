//! Checks that ended the process. Owns the count, on disk, of how often one assignment was being checked when the
//! agent died: a model file that exhausts memory would else do so at every start, for ever. The check of another model, as
//! of the one that serves meanwhile, forgets none of it.

use std::path::PathBuf;

use proto::{Digest, Generation};
use serde::{Deserialize, Serialize};

use crate::causes::describe;
use crate::reconcile::Desired;
use crate::state::{self, FileError, StateDir};

/// So many deaths are no accident: one may be a power cut, three of the same check are not.
pub(crate) const LIMIT: u32 = 3;

/// A library is not part of the agent: after so many it is left out.
pub(crate) const FOREIGN_LIMIT: u32 = 2;

/// Of so many assignments, the last ones, counts are kept.
const KEPT: usize = 16;

/// A check under way, or one that never ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Trial {
    generation: Generation,
    digest: Digest,
    pub(super) begun: u32,
    /// Of the kernel, when it was written.
    #[serde(default)]
    boot: String,
    /// When the first and the last of them began, seconds since the device was switched on.
    #[serde(default)]
    pub(super) since: i64,
    #[serde(default)]
    pub(super) last: i64,
}

/// As it is on disk: all that is known, or the one that an earlier version kept.
#[derive(Deserialize)]
#[serde(untagged, expecting = "it is no list of what was begun")]
enum Stored {
    All(Vec<Trial>),
    One(Trial),
}

impl Trial {
    fn is_of(&self, desired: Desired) -> bool {
        self.generation == desired.generation && self.digest == desired.digest
    }

    /// Whether it was noted since the device was switched on.
    pub(super) fn is_of_this_boot(&self) -> bool {
        self.boot == boot()
    }
}

/// Where it is written.
#[derive(Debug, Clone)]
pub(crate) struct Trials(PathBuf);

impl Trials {
    /// Of the test that every model has to pass.
    pub(super) fn of_checks(state: &StateDir) -> Self {
        Self(state.root().join("checking.json"))
    }

    /// Of the comparison of engines.
    pub(super) fn of_comparisons(state: &StateDir) -> Self {
        Self(state.root().join("comparing.json"))
    }

    /// Of the time that a new model is watched while it serves.
    pub(super) fn of_probations(state: &StateDir) -> Self {
        Self(state.root().join("probation.json"))
    }

    /// Of the time that a model serves after that.
    pub(super) fn of_service(state: &StateDir) -> Self {
        Self(state.root().join("serving.json"))
    }

    /// Of the loading of a library.
    pub(crate) fn of_libraries(state: &StateDir) -> Self {
        Self(state.root().join("loading.json"))
    }

    /// Of the timing of probes.
    pub(crate) fn of_probes(state: &StateDir) -> Self {
        Self(state.root().join("probing.json"))
    }

    /// Whether something else than serving was begun since `start` and did not end: then that is what the agent died of.
    pub(super) fn any_begun_since(state: &StateDir, start: i64) -> Result<bool, FileError> {
        let others = [Self::of_checks, Self::of_comparisons, Self::of_libraries, Self::of_probes];
        for trials in others.map(|of| of(state)) {
            let began = |trial: &Trial| trial.begun > 0 && trial.last >= start && trial.is_of_this_boot();
            if trials.all()?.iter().any(began) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// How often a check of `desired` was begun and did not end.
    pub(crate) fn unfinished(&self, desired: Desired) -> Result<u32, FileError> {
        Ok(self.stored(desired)?.map_or(0, |trial| trial.begun))
    }

    /// What is noted of `desired`.
    pub(super) fn stored(&self, desired: Desired) -> Result<Option<Trial>, FileError> {
        Ok(self.all()?.into_iter().find(|trial| trial.is_of(desired)))
    }

    /// Everything that is noted; what means nothing is nothing.
    fn all(&self) -> Result<Vec<Trial>, FileError> {
        Ok(match state::unless_damaged(state::read_json(&self.0))? {
            None => Vec::new(),
            Some(Stored::All(trials)) => trials,
            Some(Stored::One(trial)) => vec![trial],
        })
    }

    /// Notes that a check of `desired` was begun so often, the last time now.
    pub(super) fn note(&self, desired: Desired, begun: u32) -> Result<(), FileError> {
        let mut trials = self.all()?;
        let known = trials.iter().position(|trial| trial.is_of(desired)).map(|index| trials.remove(index));
        let now = uptime();
        // The first of them, unless what was noted before counts no more.
        let since =
            known.filter(|trial| begun > 1 && trial.is_of_this_boot()).map_or(now, |trial| trial.since);
        let Desired { generation, digest } = desired;
        trials.push(Trial { generation, digest, begun, boot: boot(), since, last: now });
        trials.drain(..trials.len().saturating_sub(KEPT));
        self.write(&trials)
    }

    /// Notes that `desired` was begun, and forgets whatever else was.
    pub(super) fn begin_alone(&self, desired: Desired) -> Result<(), FileError> {
        let (Desired { generation, digest }, now) = (desired, uptime());
        self.write(&[Trial { generation, digest, begun: 1, boot: boot(), since: now, last: now }])
    }

    /// Notes that one of those that were begun has ended.
    pub(super) fn take_back(&self, desired: Desired) -> Result<(), FileError> {
        let mut trials = self.all()?;
        for trial in trials.iter_mut().filter(|trial| trial.is_of(desired)) {
            trial.begun = trial.begun.saturating_sub(1);
        }
        self.write(&trials)
    }

    /// Notes that none of `desired` is under way.
    pub(super) fn forget(&self, desired: Desired) -> Result<(), FileError> {
        let mut trials = self.all()?;
        trials.retain(|trial| !trial.is_of(desired));
        if trials.is_empty() { self.clear() } else { self.write(&trials) }
    }

    fn write(&self, trials: &[Trial]) -> Result<(), FileError> {
        state::replace(&self.0, &serde_json::to_vec(trials).expect("trials are plain data"))
    }

    /// Notes that none is under way.
    pub(super) fn clear(&self) -> Result<(), FileError> {
        state::remove(&self.0)
    }

    /// Notes that a check of `desired` begins. It ends with the guard: only the death of the process leaves it unfinished.
    pub(crate) fn begin(&self, desired: Desired) -> Result<Begun, FileError> {
        self.note(desired, self.unfinished(desired)? + 1)?;
        Ok(Begun(Some((self.clone(), desired))))
    }
}

/// Another one each time that the device is switched on.
fn boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Seconds since the device was switched on: no clock that anybody sets.
pub(super) fn uptime() -> i64 {
    rustix::time::clock_gettime(rustix::time::ClockId::Boottime).tv_sec
}

/// A check under way.
#[must_use]
pub(crate) struct Begun(Option<(Trials, Desired)>);

impl Begun {
    /// Notes that the check ended, one way or the other.
    pub(crate) fn end(mut self) -> Result<(), FileError> {
        self.0.take().map_or(Ok(()), |(trials, desired)| trials.forget(desired))
    }
}

impl Drop for Begun {
    /// A check that is broken off because the agent stops has not ended it.
    fn drop(&mut self) {
        if let Some(Err(error)) = self.0.take().map(|(trials, desired)| trials.forget(desired)) {
            tracing::warn!(error = describe(&error), "a check that was broken off will count as a death");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unfinished_checks_of_the_same_assignment_count() {
        let dir = tempfile::tempdir().unwrap();
        let trials = Trials::of_checks(&StateDir::open(dir.path()).unwrap());
        let desired = |generation| Desired { generation: Generation(generation), digest: Digest::of(b"m") };
        assert_eq!(trials.unfinished(desired(1)).unwrap(), 0);
        std::mem::forget(trials.begin(desired(1)).unwrap());
        std::mem::forget(trials.begin(desired(1)).unwrap());
        assert_eq!(trials.unfinished(desired(1)).unwrap(), 2);
        assert_eq!(trials.unfinished(desired(2)).unwrap(), 0);
        std::mem::forget(trials.begin(desired(2)).unwrap());
        assert_eq!(trials.unfinished(desired(2)).unwrap(), 1);
        trials.begin(desired(2)).unwrap().end().unwrap();
        assert_eq!(trials.unfinished(desired(2)).unwrap(), 0);
        assert_eq!(
            trials.unfinished(desired(1)).unwrap(),
            2,
            "the check of another model forgets none of it"
        );
        for generation in 3..40 {
            std::mem::forget(trials.begin(desired(generation)).unwrap());
        }
        assert_eq!(trials.all().unwrap().len(), KEPT);
    }

    #[test]
    fn the_count_of_an_earlier_version_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let trials = Trials::of_checks(&StateDir::open(dir.path()).unwrap());
        let desired = Desired { generation: Generation(1), digest: Digest::of(b"m") };
        let json = serde_json::json!({ "generation": 1, "digest": desired.digest, "begun": 2 });
        std::fs::write(&trials.0, json.to_string()).unwrap();
        assert_eq!(trials.unfinished(desired).unwrap(), 2);
    }

    #[test]
    fn a_check_that_is_broken_off_is_no_death() {
        let dir = tempfile::tempdir().unwrap();
        let trials = Trials::of_checks(&StateDir::open(dir.path()).unwrap());
        let desired = Desired { generation: Generation(1), digest: Digest::of(b"m") };
        drop(trials.begin(desired).unwrap());
        assert_eq!(trials.unfinished(desired).unwrap(), 0);
    }
}
