//! Checks that ended the process. Owns the count, on disk, of how often one assignment was being checked when the
//! agent died: a model file that exhausts memory would else do so at every start, for ever.

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

/// The check under way, if any.
#[derive(Debug, Serialize, Deserialize)]
struct Trial {
    generation: Generation,
    digest: Digest,
    begun: u32,
    /// Of the kernel, when it was written.
    #[serde(default)]
    boot: String,
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

    /// Of the loading of a library.
    pub(crate) fn of_libraries(state: &StateDir) -> Self {
        Self(state.root().join("loading.json"))
    }

    /// Of the timing of probes.
    pub(crate) fn of_probes(state: &StateDir) -> Self {
        Self(state.root().join("probing.json"))
    }

    /// How often a check of `desired` was begun and did not end.
    pub(crate) fn unfinished(&self, desired: Desired) -> Result<u32, FileError> {
        Ok(self.under_way(desired)?.unwrap_or(0))
    }

    /// As [`Trials::unfinished`]; `None` where none is noted.
    pub(super) fn under_way(&self, desired: Desired) -> Result<Option<u32>, FileError> {
        Ok(self.stored(desired)?.map(|trial| trial.begun))
    }

    /// What is noted of `desired`.
    fn stored(&self, desired: Desired) -> Result<Option<Trial>, FileError> {
        let stored = state::read(&self.0)?.and_then(|json| serde_json::from_slice::<Trial>(&json).ok());
        let same = |trial: &Trial| trial.generation == desired.generation && trial.digest == desired.digest;
        Ok(stored.filter(same))
    }

    /// Whether what is noted was noted since the device was switched on.
    pub(super) fn is_of_this_boot(&self, desired: Desired) -> Result<bool, FileError> {
        Ok(self.stored(desired)?.is_some_and(|trial| trial.boot == boot()))
    }

    /// Notes that a check of `desired` was begun so often.
    pub(super) fn note(&self, desired: Desired, begun: u32) -> Result<(), FileError> {
        let trial = Trial { generation: desired.generation, digest: desired.digest, begun, boot: boot() };
        state::replace(&self.0, &serde_json::to_vec(&trial).expect("a trial is plain data"))
    }

    /// Notes that none is under way.
    pub(super) fn clear(&self) -> Result<(), FileError> {
        state::remove(&self.0)
    }

    /// Notes that a check of `desired` begins. It ends with the guard: only the death of the process leaves it unfinished.
    pub(crate) fn begin(&self, desired: Desired) -> Result<Begun, FileError> {
        self.note(desired, self.unfinished(desired)? + 1)?;
        Ok(Begun(Some(self.0.clone())))
    }
}

/// Another one each time that the device is switched on.
fn boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// A check under way.
#[must_use]
pub(crate) struct Begun(Option<PathBuf>);

impl Begun {
    /// Notes that the check ended, one way or the other.
    pub(crate) fn end(mut self) -> Result<(), FileError> {
        self.0.take().map_or(Ok(()), |path| state::remove(&path))
    }
}

impl Drop for Begun {
    /// A check that is broken off because the agent stops has not ended it.
    fn drop(&mut self) {
        if let Some(Err(error)) = self.0.take().map(|path| state::remove(&path)) {
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
