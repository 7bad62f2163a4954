//! The assignments that were given up for good, the last ones. They are on disk, so that a restart neither serves one nor
//! tries it again. One whose model lies in a slot is never forgotten: it would else be a model to fall back on.

use std::path::PathBuf;

use proto::{Digest, Generation};
use serde::{Deserialize, Serialize};

use crate::reconcile::Desired;
use crate::state::{self, FileError, StateDir};

/// So many are kept beside those whose models lie in a slot.
const KEPT: usize = 8;

/// Which, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct GivenUp {
    generation: Generation,
    digest: Digest,
    pub(super) reason: String,
}

/// All of them, the last one at the end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GivenUps(Vec<GivenUp>);

/// What the disk knows of them.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Whole(GivenUps),
    /// The file means nothing: any model that lies here may be one of them.
    Damaged,
}

/// As it is on disk: all, or the one that an earlier version kept.
#[derive(Deserialize)]
#[serde(untagged, expecting = "it is no list of assignments")]
enum Stored {
    All(Vec<GivenUp>),
    One(GivenUp),
}

impl GivenUp {
    pub(super) fn new(of: Desired, reason: String) -> Self {
        Self { generation: of.generation, digest: of.digest, reason }
    }

    pub(super) fn desired(&self) -> Desired {
        Desired { generation: self.generation, digest: self.digest }
    }
}

impl GivenUps {
    pub(super) fn load(state: &StateDir) -> Result<Found, FileError> {
        Ok(match state::read_json(&path(state)) {
            Ok(None) => Found::Whole(Self::default()),
            Ok(Some(Stored::All(all))) => Found::Whole(Self(all)),
            Ok(Some(Stored::One(one))) => Found::Whole(Self(vec![one])),
            Err(error) if error.is_damage() => Found::Damaged,
            Err(error) => return Err(error),
        })
    }

    /// The one of `desired`.
    pub(super) fn of(&self, desired: Desired) -> Option<&GivenUp> {
        self.0.iter().find(|given_up| given_up.desired() == desired)
    }

    /// The one of the highest generation.
    pub(super) fn newest(&self) -> Option<&GivenUp> {
        self.0.iter().max_by_key(|given_up| given_up.generation)
    }

    /// One more; `installed` are in the slots.
    pub(super) fn add(&mut self, given_up: GivenUp, installed: &[Desired]) {
        self.0.retain(|known| known.desired() != given_up.desired());
        self.0.push(given_up);
        let mut spare = self.0.len().saturating_sub(KEPT);
        self.0.retain(|known| {
            let is_kept = spare == 0 || installed.contains(&known.desired());
            spare -= usize::from(!is_kept);
            is_kept
        });
    }

    /// How many were given up before `desired`; `None` where it was not.
    pub(super) fn position(&self, desired: Desired) -> Option<usize> {
        self.0.iter().position(|known| known.desired() == desired)
    }

    /// It has another chance.
    pub(super) fn remove(&mut self, desired: Desired) {
        self.0.retain(|known| known.desired() != desired);
    }

    pub(super) fn save(&self, state: &StateDir) -> Result<(), FileError> {
        state::replace(&path(state), &serde_json::to_vec_pretty(&self.0).expect("it is plain data"))
    }
}

fn path(state: &StateDir) -> PathBuf {
    state.root().join("given-up.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given_up(generation: u64) -> GivenUp {
        let digest = Digest::of(&generation.to_be_bytes());
        GivenUp { generation: Generation(generation), digest, reason: format!("reason {generation}") }
    }

    #[test]
    fn the_last_ones_and_those_that_lie_in_a_slot_are_never_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let installed = [given_up(1).desired(), given_up(2).desired()];
        let mut all = GivenUps::default();
        for generation in 1..100 {
            all.add(given_up(generation), &installed);
            all.add(given_up(generation), &installed);
        }
        all.save(&state).unwrap();
        let Found::Whole(all) = GivenUps::load(&state).unwrap() else { panic!("it was just saved") };
        let known: Vec<u64> = (1..100).filter(|&n| all.of(given_up(n).desired()).is_some()).collect();
        assert_eq!(known, [1, 2, 94, 95, 96, 97, 98, 99]);
        assert_eq!(all.newest().unwrap().reason, "reason 99");
        let other = Desired { generation: Generation(99), ..given_up(1).desired() };
        assert_eq!(all.of(other), None, "another generation is another chance");
    }

    #[test]
    fn what_an_earlier_version_kept_counts_and_damage_is_no_absence() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        assert_eq!(GivenUps::load(&state).unwrap(), Found::Whole(GivenUps::default()));
        std::fs::write(path(&state), serde_json::to_vec(&given_up(7)).unwrap()).unwrap();
        assert_eq!(GivenUps::load(&state).unwrap(), Found::Whole(GivenUps(vec![given_up(7)])));
        for damage in ["", "{", "[{}]"] {
            std::fs::write(path(&state), damage).unwrap();
            assert_eq!(GivenUps::load(&state).unwrap(), Found::Damaged, "{damage}");
        }
    }
}
