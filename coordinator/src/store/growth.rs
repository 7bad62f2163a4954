//! A larger network that a device was given because it had room, and the way back from it.

use proto::Digest;
use pruner_core::budget::Budget;
use serde::{Deserialize, Serialize};

use super::{DerivationKey, Outcome, OutcomeRecord, PredictedLatency};
use crate::fitting::Growing;
use crate::room::{Promised, Room};

/// A larger network than the device had.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Growth {
    /// What showed that there was room.
    pub room: Room,
    /// When it was decided, milliseconds since 1970.
    pub at_unix_ms: u64,
    /// Multiply-accumulates before and after.
    pub macs: (u64, u64),
    /// What it had.
    pub had: Had,
    /// Why it was taken back, for an operator; `None` while it stands.
    pub ended: Option<String>,
}

/// What a device had, enough to give it back without fitting anything again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Had {
    /// The artifact.
    pub digest: Digest,
    /// Where it came from.
    pub derivation: Option<DerivationKey>,
    /// What was predicted of it.
    pub predicted: Option<PredictedLatency>,
    /// What its predictions were multiplied with.
    pub correction: f64,
    /// The device's ceilings.
    pub budget: Budget,
}

impl Growth {
    /// For an operator.
    pub fn text(&self) -> String {
        let (before, after) = self.macs;
        let more = (after as f64 / before as f64 - 1.0) * 100.0;
        format!("{:+.0} % multiply-accumulates, for {}", more, self.room.text())
    }
}

impl OutcomeRecord {
    /// What was predicted of what it serves, before any correction.
    pub fn promised(&self) -> Option<Promised> {
        let PredictedLatency { p50_ms, p95_ms } = self.predicted?;
        Some(Promised { p50_ms: p50_ms / self.correction, p95_ms: p95_ms / self.correction })
    }

    /// The last larger network that it was given and that was not taken back.
    pub fn grown(&self) -> Option<&Growth> {
        self.growths.iter().rev().find(|growth| growth.ended.is_none())
    }

    /// The larger network that was taken back last, and why.
    pub fn taken_back(&self) -> Option<(&Growth, &str)> {
        // The newest that stands goes first: of those that ended, the oldest ended last.
        self.growths.iter().find_map(|growth| Some((growth, growth.ended.as_deref()?)))
    }

    /// Whether it may never grow in this generation: it has broken its budget, or had to give a larger network back.
    pub fn is_barred(&self) -> bool {
        !self.breaches.is_empty() || self.growths.iter().any(|growth| growth.ended.is_some())
    }

    /// What it has, where it is to be fitted to its room.
    pub fn growing(&self, room: &Room, macs: u64) -> Growing {
        Growing { budget: self.budget, factor: room.factor, macs }
    }

    /// It was fitted to its room: `fitted` is what it gets, in the wave that it has. `None` where it has nothing to go back to.
    pub fn grown_to(&self, fitted: Self, room: Room, macs: (u64, u64), now_unix_ms: u64) -> Option<Self> {
        let Self { derivation, predicted, correction, budget, .. } = *self;
        let had = Had { digest: self.digest?, derivation, predicted, correction, budget };
        let mut growths = self.growths.clone();
        growths.push(Growth { room, at_unix_ms: now_unix_ms, macs, had, ended: None });
        Some(Self { digest: self.digest, wave: self.wave, attempt: self.attempt, growths, ..fitted })
    }

    /// Its larger network is taken back, and it never grows again in this generation. `false` where it has none.
    pub fn take_back(&mut self, reason: String) -> bool {
        let Some(growth) = self.growths.iter_mut().rev().find(|growth| growth.ended.is_none()) else {
            return false;
        };
        growth.ended = Some(reason);
        let Had { digest, derivation, predicted, correction, budget } = growth.had.clone();
        self.digest = Some(digest);
        (self.derivation, self.predicted, self.correction) = (derivation, predicted, correction);
        self.budget = budget;
        // As one whose model is ready: the rollout's plan tells it, in the wave that it has.
        (self.state, self.assignment) = (Outcome::Fitted, None);
        true
    }
}
