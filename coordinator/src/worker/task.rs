//! What a worker is told to do, and what it says came of it: the JSON within the worker's messages.

use std::time::Duration;

use pruner_core::plan::PrunePlan;
use serde::{Deserialize, Serialize};

use crate::derive::{Findings, SubjectKey};
use crate::manifest::DeploymentSpec;
use crate::store::{ArtifactRecord, DerivationKey, ModelRecord};

/// What is to be done, with all that it needs but files.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Task {
    /// Find out how badly each layer takes pruning.
    Score {
        /// Of which network.
        subject: SubjectKey,
        /// Where an operator brought it.
        model: Option<ModelRecord>,
    },
    /// Prune and train.
    Train(Box<Training>),
}

/// One network to be pruned and trained.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Training {
    pub(crate) key: DerivationKey,
    pub(crate) plan: PrunePlan,
    pub(crate) spec: DeploymentSpec,
    /// Where an operator brought the network.
    pub(crate) model: Option<ModelRecord>,
    /// How long it took to score.
    pub(crate) seconds_to_score: f64,
}

/// What came of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// It was scored.
    Scored(Findings),
    /// It was trained; its file follows.
    Trained(Box<ArtifactRecord>),
    /// It cannot be done.
    Failed {
        /// Why, for an operator.
        reason: String,
        /// Nothing can be gone on with: checkpoints are of no use.
        spent: bool,
    },
    /// It can be done by anybody, after a pause.
    Released {
        /// Why.
        reason: String,
        /// How long.
        pause: Duration,
        /// Something is wrong that may pass: it counts as a try.
        failing: bool,
    },
}
