//! A derivation: one pruned and trained network, shared by every device whose budget leads to it.

use std::fmt;

use proto::Digest;
use serde::{Deserialize, Serialize};

use super::record::Record;

/// Names a derivation by all that its result depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DerivationKey(pub Digest);

impl DerivationKey {
    /// The key of `inputs`: the SHA-256 of their JSON. List there whatever changes the result, and nothing else.
    pub fn of(inputs: &impl Serialize) -> Result<Self, serde_json::Error> {
        serde_json::to_vec(inputs).map(|json| Self(Digest::of(&json)))
    }
}

impl fmt::Display for DerivationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A derivation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DerivationRecord {
    /// Its name.
    pub key: DerivationKey,
    /// The dense network.
    pub network: String,
    /// The plan that it carries out.
    pub plan: serde_json::Value,
    /// How far it has come.
    pub state: DerivationState,
    /// When it was first asked for, milliseconds since 1970.
    pub created_unix_ms: u64,
}

/// How far a derivation has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state")]
pub enum DerivationState {
    /// Waits for its turn, or is under way; begun again after a restart.
    Queued,
    /// Its artifact is stored.
    Ready {
        /// The artifact.
        artifact: Digest,
    },
    /// It was given up.
    Failed {
        /// Why, for an operator.
        reason: String,
    },
}

impl Record for DerivationRecord {
    const KIND: &'static str = "derivation";
    const SCHEMA: u8 = 1;
    fn key(&self) -> Vec<u8> {
        self.key.to_string().into_bytes()
    }
}
