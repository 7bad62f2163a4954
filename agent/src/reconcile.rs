//! What to do about an assignment: desired against installed gives one next action. Pure: no files, no sockets.

use proto::{Digest, Generation};

/// What the coordinator wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Desired {
    /// The assignment's.
    pub generation: Generation,
    /// Its artifact.
    pub digest: Digest,
}

impl Desired {
    /// A model that is only timed: no assignment has generation 0.
    pub fn probe(digest: Digest) -> Self {
        Self { generation: Generation(0), digest }
    }
}

/// What this device has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Installed {
    /// What serves.
    pub active: Option<Desired>,
    /// Whole and intact in the other slot.
    pub other: Option<Digest>,
    /// Given up for a reason that trying again cannot change: the desired assignment, or else the newest that was.
    pub failed: Option<Desired>,
}

/// The one next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It is older than what serves or was given up, or contradicts it: change nothing.
    Refuse {
        /// The generation that it would have to be above.
        held: Generation,
    },
    /// It serves already: say so again.
    Confirm,
    /// It was given up before: say so again.
    RepeatFailure,
    /// Its bytes serve already under an older generation: check them under the new manifest and switch.
    ReuseActive,
    /// Its bytes lie in the other slot: check and switch.
    ReuseOther,
    /// Its bytes have to be fetched.
    Fetch,
}

/// The next step from `installed` towards `desired`.
pub fn next(desired: Desired, installed: Installed) -> Action {
    if let Some(active) = installed.active {
        if active == desired {
            return Action::Confirm;
        }
        if desired.generation <= active.generation {
            return Action::Refuse { held: active.generation };
        }
    }
    if let Some(failed) = installed.failed {
        if failed == desired {
            return Action::RepeatFailure;
        }
        if desired.generation <= failed.generation {
            return Action::Refuse { held: failed.generation };
        }
    }
    if installed.active.is_some_and(|active| active.digest == desired.digest) {
        return Action::ReuseActive;
    }
    if installed.other == Some(desired.digest) {
        return Action::ReuseOther;
    }
    Action::Fetch
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(name: &str) -> Digest {
        Digest::of(name.as_bytes())
    }

    fn at(generation: u64, name: &str) -> Desired {
        Desired { generation: Generation(generation), digest: digest(name) }
    }

    #[test]
    fn the_next_action_follows_from_the_two_states() {
        let nothing = Installed::default();
        let a5 = Installed { active: Some(at(5, "a")), ..nothing };
        let a5_b = Installed { other: Some(digest("b")), ..a5 };
        let failed = Installed { failed: Some(at(6, "c")), ..a5 };
        let held = Generation(5);
        let table = [
            ("first assignment", at(1, "a"), nothing, Action::Fetch),
            ("sent again", at(5, "a"), a5, Action::Confirm),
            ("older, same bytes", at(4, "a"), a5, Action::Refuse { held }),
            ("older, other bytes", at(4, "b"), a5_b, Action::Refuse { held }),
            ("same generation, other bytes", at(5, "b"), a5, Action::Refuse { held }),
            ("newer, same bytes", at(6, "a"), a5, Action::ReuseActive),
            ("newer, bytes of the other slot", at(6, "b"), a5_b, Action::ReuseOther),
            ("newer, unknown bytes", at(6, "c"), a5_b, Action::Fetch),
            ("given up, sent again", at(6, "c"), failed, Action::RepeatFailure),
            ("given up, newer generation", at(7, "c"), failed, Action::Fetch),
            (
                "between what serves and what was given up",
                at(6, "d"),
                Installed { failed: Some(at(7, "c")), ..a5 },
                Action::Refuse { held: Generation(7) },
            ),
            (
                "nothing serves, bytes are there",
                at(1, "b"),
                Installed { active: None, ..a5_b },
                Action::ReuseOther,
            ),
        ];
        for (case, desired, installed, action) in table {
            assert_eq!(next(desired, installed), action, "{case}");
        }
    }
}
