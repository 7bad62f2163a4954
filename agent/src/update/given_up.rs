//! The assignment that was given up for good. It is on disk, so that a restart neither serves it nor tries it again.

use std::path::PathBuf;

use proto::{Digest, Generation};
use serde::{Deserialize, Serialize};

use crate::reconcile::Desired;
use crate::state::{self, FileError, StateDir};

/// Which, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct GivenUp {
    generation: Generation,
    digest: Digest,
    pub(super) reason: String,
}

impl GivenUp {
    pub(super) fn new(of: Desired, reason: String) -> Self {
        Self { generation: of.generation, digest: of.digest, reason }
    }

    pub(super) fn desired(&self) -> Desired {
        Desired { generation: self.generation, digest: self.digest }
    }

    /// The last one; `None` where there is none, or where what is there means nothing.
    pub(super) fn load(state: &StateDir) -> Result<Option<Self>, FileError> {
        Ok(state::read(&path(state))?.and_then(|json| serde_json::from_slice(&json).ok()))
    }

    pub(super) fn save(&self, state: &StateDir) -> Result<(), FileError> {
        state::replace(&path(state), &serde_json::to_vec_pretty(self).expect("it is plain data"))
    }
}

fn path(state: &StateDir) -> PathBuf {
    state.root().join("given-up.json")
}
