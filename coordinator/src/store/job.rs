//! Work that a worker does: what it is, who asked for it, and who has it.

use std::collections::BTreeMap;

use proto::{ArtifactRef, DeviceId, Generation};
use serde::{Deserialize, Serialize};

use super::DerivationKey;
use super::record::Record;
use crate::derive::SubjectKey;

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Work {
    /// Find out how badly each layer of a network takes pruning.
    Score(SubjectKey),
    /// Prune and train a network.
    Train(DerivationKey),
}

/// A job. It outlives both the coordinator and its workers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobRecord {
    /// What operators call it: `train-3f9a2b71c04d`.
    pub name: String,
    /// What is to be done.
    pub work: Work,
    /// The deployment that asked for it first.
    pub deployment: String,
    /// Every deployment that did, and in which generation: after a failure, only a newer one has it tried again.
    pub asked_by: BTreeMap<String, Generation>,
    /// How far it is.
    pub state: JobState,
    /// How often it was lost with its worker since it last got on.
    pub tries: u32,
    /// How often it was leased.
    pub leases: u64,
    /// Which worker had it last.
    #[serde(default)]
    pub worker: Option<DeviceId>,
    /// When it was first asked for, milliseconds since 1970.
    pub created_unix_ms: u64,
    /// When its state changed last, milliseconds since 1970.
    pub changed_unix_ms: u64,
}

/// How far a job is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state")]
pub enum JobState {
    /// Waits for a worker.
    Queued {
        /// Not handed out before, milliseconds since 1970.
        not_before_unix_ms: u64,
    },
    /// A worker has it.
    Leased {
        /// Which.
        worker: DeviceId,
        /// The lease's number: an earlier holder is told by it.
        lease: u64,
        /// When it runs out unless it is renewed, milliseconds since 1970.
        until_unix_ms: u64,
    },
    /// It is done.
    Done {
        /// What was found, where that is a file.
        result: Option<ArtifactRef>,
    },
    /// It was given up.
    Failed {
        /// Why, for an operator.
        reason: String,
    },
    /// An operator stopped it.
    Cancelled {
        /// Who.
        by: String,
    },
    /// No deployment wants it any more.
    Unwanted,
}

impl Record for JobRecord {
    const KIND: &'static str = "job";
    const SCHEMA: u8 = 1;
    fn key(&self) -> Vec<u8> {
        self.name.as_bytes().to_vec()
    }
}
