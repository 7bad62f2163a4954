//! A deployment with its progress: what an operator wants, and what each device gets from it.

use std::collections::{BTreeMap, BTreeSet};

use proto::{DeviceId, Digest, Generation, Probation};
use serde::{Deserialize, Serialize};

use super::record::Record;
use super::{DerivationKey, DeviceRecord, Growth, Work};
use crate::class::ClassId;
use crate::derive::SubjectKey;
use crate::fitting::Broken;
use crate::manifest::{DeploymentManifest, Selector, Wave};
use crate::refit::Breach;
use pruner_core::budget::Budget;

/// A deployment with its progress.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeploymentRecord {
    /// Its name; the manifest's.
    pub name: String,
    /// Counts from 1, up with every different manifest. Not a device's generation.
    pub generation: Generation,
    /// What is wanted.
    pub manifest: DeploymentManifest,
    /// SHA-256 of the manifest's JSON when it was applied: tells the same manifest from another one.
    pub manifest_digest: Digest,
    /// The manifest as it was written.
    pub text: String,
    /// When this generation was applied, milliseconds since 1970.
    pub applied_unix_ms: u64,
    /// How far it has come.
    pub phase: DeploymentPhase,
    /// What it waits for, or how it ended, for an operator.
    pub message: String,
    /// What each device that the selector matches gets, and why.
    pub outcomes: BTreeMap<DeviceId, OutcomeRecord>,
    /// Whether an operator has paused its rollout.
    #[serde(default)]
    pub paused: bool,
    /// Whether every device had what it can have, once.
    #[serde(default)]
    pub was_complete: bool,
    /// Models that devices which come later get at once: those that it had when it was complete, and those that the gate or
    /// an operator has let pass since.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub proven: BTreeSet<Digest>,
    /// What was complete before this generation.
    #[serde(default)]
    pub before: Option<Box<Before>>,
    /// Why this generation goes back to what was complete before an earlier one.
    #[serde(default)]
    pub undone: Option<Undone>,
    /// Whether it is to be undone, as its manifest wants.
    #[serde(default)]
    pub undo_due: bool,
    /// Waves before this one may be left behind whatever they have shown: an operator said so.
    #[serde(default)]
    pub approved: u32,
}

/// A manifest that was complete, and what each device had by it: enough to go back without fitting anything again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Before {
    /// What was wanted.
    pub manifest: DeploymentManifest,
    /// Tells the same manifest from another one.
    pub manifest_digest: Digest,
    /// The manifest as it was written.
    pub text: String,
    /// What each device had.
    pub outcomes: BTreeMap<DeviceId, OutcomeRecord>,
}

/// A generation that was undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undone {
    /// Which.
    pub generation: Generation,
    /// Why, for an operator.
    pub reason: String,
    /// Its manifest, as it was written. Empty in what an older coordinator wrote.
    #[serde(default)]
    pub text: String,
}

/// How far a deployment has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase")]
pub enum DeploymentPhase {
    /// Nothing was done for it yet.
    Pending,
    /// The dense network's channels are being scored.
    Scoring,
    /// Models are being pruned and trained.
    Deriving,
    /// Devices are being changed over.
    RollingOut,
    /// Every device has what it can have.
    Complete,
    /// It was given up.
    Failed {
        /// Why, for an operator.
        reason: String,
    },
}

/// What one device gets from one deployment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OutcomeRecord {
    /// The device's class; `None` until it is profiled.
    pub class: Option<ClassId>,
    /// How far it has come.
    pub state: Outcome,
    /// The derivation that it waits for or got.
    pub derivation: Option<DerivationKey>,
    /// The artifact; `None` until derived.
    pub digest: Option<Digest>,
    /// The device's generation; `None` until assigned.
    pub assignment: Option<Generation>,
    /// Its budget, resolved.
    pub budget: Budget,
    /// What the device's latency model says of the planned network.
    pub predicted: Option<PredictedLatency>,
    /// The wave that it was placed in, from 0; `None` until placed.
    pub wave: Option<u32>,
    /// What its predictions were multiplied with when it was fitted.
    #[serde(default = "uncorrected")]
    pub correction: f64,
    /// The place of the budget rule that it was fitted by; `None`: no rule was for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<usize>,
    /// Counts an operator's words to try again.
    #[serde(default)]
    pub attempt: u32,
    /// Why it was fitted again, each time.
    #[serde(default)]
    pub breaches: Vec<Breach>,
    /// The larger networks that it was given, each time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub growths: Vec<Growth>,
    /// Why it does not grow, or is not told yet, for an operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
}

impl DeploymentRecord {
    /// What was complete last: this generation, or the one before.
    pub fn last_complete(&self) -> Option<Box<Before>> {
        if !self.was_complete {
            return self.before.clone();
        }
        Some(Box::new(Before {
            manifest: self.manifest.clone(),
            manifest_digest: self.manifest_digest,
            text: self.text.clone(),
            outcomes: self.outcomes.clone(),
        }))
    }

    /// What it can go back to: another manifest that was complete before it.
    pub fn way_back(&self) -> Option<&Before> {
        self.before.as_deref().filter(|before| before.manifest_digest != self.manifest_digest)
    }

    /// The next generation, which gives each device what it had before this one.
    pub fn undone(&self, devices: &[DeviceRecord], reason: String, now_unix_ms: u64) -> Option<Self> {
        let before = self.way_back()?;
        let selector = &before.manifest.spec.selector;
        // One that came since, and that the manifest selects, is fitted by it.
        let is_fitted = |id: &DeviceId| {
            let known = devices.iter().find(|device| device.id == *id);
            known.is_some_and(|device| selector.matches(&device.labels, device.profile.as_ref()))
        };
        let has_way = |id: &DeviceId| match before.outcomes.get(id).map(|had| (had.digest, &had.state)) {
            Some((Some(_), _)) => true,
            Some((None, Outcome::NoFit { .. } | Outcome::Failed { .. })) => false,
            Some((None, _)) | None => is_fitted(id),
        };
        let told = self.outcomes.iter().filter(|(_, outcome)| outcome.wave.is_some());
        let left: Vec<_> = told.map(|(id, _)| id).filter(|id| !has_way(id)).map(DeviceId::as_str).collect();
        let reason = if left.is_empty() {
            reason
        } else {
            format!("{reason}; had nothing to go back to: {}", left.join(", "))
        };
        let had = before.outcomes.iter().filter(|(_, outcome)| outcome.digest.is_some());
        let again = |outcome: &OutcomeRecord| OutcomeRecord {
            state: Outcome::Fitted,
            assignment: None,
            wave: None,
            held: None,
            ..outcome.clone()
        };
        Some(Self {
            name: self.name.clone(),
            generation: self.generation.next(),
            manifest: before.manifest.clone(),
            manifest_digest: before.manifest_digest,
            text: before.text.clone(),
            applied_unix_ms: now_unix_ms,
            phase: DeploymentPhase::RollingOut,
            message: format!("generation {} is undone: {reason}", self.generation),
            outcomes: had.map(|(id, outcome)| (id.clone(), again(outcome))).collect(),
            paused: false,
            was_complete: false,
            proven: BTreeSet::new(),
            before: self.before.clone(),
            undone: Some(Undone { generation: self.generation, reason, text: self.text.clone() }),
            undo_due: false,
            approved: 0,
        })
    }

    /// Whether a device is its own: what holds it keeps it, as long as it selects it. One that was applied anew holds what it had.
    pub fn holds(&self, device: &DeviceRecord) -> bool {
        let had = match &self.before {
            Some(before) if self.outcomes.is_empty() => &before.outcomes,
            _ => &self.outcomes,
        };
        had.contains_key(&device.id) && self.selects(device)
    }

    /// Whether it is for a device, if no other one holds that.
    pub fn selects(&self, device: &DeviceRecord) -> bool {
        self.manifest.spec.selector.matches(&device.labels, device.profile.as_ref())
    }

    /// For each device that a wave's selector matches, the first such wave, from 0.
    pub fn selected<'a>(&self, devices: &'a [DeviceRecord]) -> BTreeMap<&'a DeviceId, u32> {
        let selectors: Vec<(u32, &Selector)> = (0..)
            .zip(&self.manifest.spec.rollout.waves)
            .filter_map(|(wave, written)| match written {
                Wave::Selector(selector) => Some((wave, selector)),
                Wave::Percent(_) | Wave::Count(_) => None,
            })
            .collect();
        let first = |device: &'a DeviceRecord| {
            let is_for =
                |(_, selector): &&(u32, &Selector)| selector.matches(&device.labels, device.profile.as_ref());
            selectors.iter().find(is_for).map(|&(wave, _)| (&device.id, wave))
        };
        // Of a fleet of thousands nobody is looked at where no wave asks for it.
        if selectors.is_empty() { BTreeMap::new() } else { devices.iter().filter_map(first).collect() }
    }

    /// Whether a manifest that is applied over it is not told to devices before an operator says so: a pause is the operator's.
    pub fn stays_paused(&self) -> bool {
        self.paused && !matches!(self.phase, DeploymentPhase::Failed { .. })
    }

    /// Whether it lets go of its devices, so that another one may mend them.
    pub fn is_over(&self) -> bool {
        matches!(self.phase, DeploymentPhase::Failed { .. }) && !self.undo_due
    }

    /// The models of those that came after it was complete and were not told yet.
    pub fn held_back(&self) -> BTreeSet<Digest> {
        let untold = |outcome: &&OutcomeRecord| outcome.state == Outcome::Fitted && outcome.wave.is_none();
        let models = self.outcomes.values().filter(untold).filter_map(|outcome| outcome.digest);
        models.filter(|digest| self.was_complete && !self.proven.contains(digest)).collect()
    }

    /// What was derived for the devices that failed.
    pub fn failed_derivations(&self) -> impl Iterator<Item = DerivationKey> {
        self.outcomes.values().filter(|outcome| outcome.is_failed()).filter_map(|outcome| outcome.derivation)
    }

    /// The jobs that its devices wait for.
    pub fn awaited(&self) -> Vec<Work> {
        let waiting = self.outcomes.values().filter(|outcome| outcome.state == Outcome::Deriving);
        let mut awaited: Vec<_> =
            waiting.clone().filter_map(|outcome| outcome.derivation).map(Work::Train).collect();
        if waiting.count() > 0 {
            awaited.push(Work::Score(SubjectKey::of(&self.manifest.spec)));
        }
        awaited
    }

    /// Has the devices that failed fitted again, and told if they get a model.
    pub fn begin_failed_again(&mut self) {
        for outcome in self.outcomes.values_mut() {
            if outcome.is_failed() {
                (outcome.wave, outcome.attempt) = (None, outcome.attempt.saturating_add(1));
                outcome.begin_again("an operator tries again");
            }
        }
    }

    /// Whether a device was told of it.
    pub fn is_told(&self) -> bool {
        self.outcomes.values().any(|outcome| outcome.wave.is_some())
    }

    /// The wave that was told last, from 0. Devices that count for nothing are not looked at.
    pub fn reached(&self) -> u32 {
        let counts = |outcome: &&OutcomeRecord| {
            !matches!(outcome.state, Outcome::NoFit { .. } | Outcome::Waiting { .. })
        };
        self.outcomes.values().filter(counts).filter_map(|outcome| outcome.wave).max().unwrap_or(0)
    }

    /// What a device's new model has to stand: the rules of the rollout, against the device's latency ceiling.
    pub fn probation(&self, device: &DeviceId) -> Probation {
        // More than half of the answers later than a median is allowed to be is chance; later than a 95th percentile, it is none.
        let ceiling = self.outcomes.get(device).and_then(|outcome| outcome.budget.latency_p95_ms);
        self.manifest.spec.rollout.probation.with_ceiling(ceiling)
    }
}

fn uncorrected() -> f64 {
    1.0
}

/// A predicted time of one image.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PredictedLatency {
    /// Median, milliseconds.
    pub p50_ms: f64,
    /// 95th percentile, milliseconds.
    pub p95_ms: f64,
}

/// How far a device has come within a deployment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state")]
pub enum Outcome {
    /// Something is missing before a model can be chosen.
    Waiting {
        /// What, for an operator.
        reason: String,
    },
    /// Its network is being scored, or, once it names a derivation, its model pruned and trained.
    Deriving,
    /// No network meets its budget; it keeps what it serves.
    NoFit {
        /// Which ceiling.
        ceiling: String,
        /// What the budget allows.
        allowed: f64,
        /// The least that pruning reaches.
        smallest: f64,
        /// All of it, for an operator.
        text: String,
    },
    /// Its model is ready, its wave has not come.
    Fitted,
    /// It was told.
    Assigned {
        /// When, milliseconds since 1970.
        since_unix_ms: u64,
    },
    /// It serves the model.
    Active {
        /// Since when, milliseconds since 1970.
        since_unix_ms: u64,
    },
    /// The model could not be made, or the device gave it up and serves its previous one.
    Failed {
        /// Why, for an operator.
        reason: String,
    },
}

/// What applying a manifest did.
#[derive(Debug, Clone, PartialEq)]
pub enum Applied {
    /// The name was new.
    Created(DeploymentRecord),
    /// The name was known, the manifest differs.
    Configured(DeploymentRecord),
    /// The same manifest is in force.
    Unchanged(DeploymentRecord),
}

impl Applied {
    /// The deployment as it now stands.
    pub fn record(&self) -> &DeploymentRecord {
        match self {
            Self::Created(record) | Self::Configured(record) | Self::Unchanged(record) => record,
        }
    }
}

impl OutcomeRecord {
    /// Whether it was decided what the device gets, if anything.
    pub fn is_fitted(&self) -> bool {
        match self.state {
            Outcome::Waiting { .. } => false,
            Outcome::Deriving => self.derivation.is_some(),
            Outcome::NoFit { .. }
            | Outcome::Fitted
            | Outcome::Assigned { .. }
            | Outcome::Active { .. }
            | Outcome::Failed { .. } => true,
        }
    }

    /// Whether it failed, in whatever it had come to.
    pub fn is_failed(&self) -> bool {
        matches!(self.state, Outcome::Failed { .. })
    }

    /// Its model broke its budget: it is fitted again, in the wave that it has.
    pub fn refit(&mut self, breach: Breach) {
        self.breaches.push(breach);
        self.state = Outcome::Deriving;
        // What it reports of the model that it serves meanwhile is of no interest any more.
        (self.derivation, self.assignment) = (None, None);
    }

    /// It is fitted as if it were new, in the wave that it has; it can go back to what it serves.
    pub fn begin_again(&mut self, reason: &str) {
        let Self { digest, wave, attempt, .. } = *self;
        *self = Self { digest, wave, attempt, ..Self::waiting(reason) };
    }

    /// What it broke, where it is to be fitted again.
    pub fn broken(&self) -> Option<Broken> {
        let breach = self.breaches.last()?;
        let predicted =
            self.predicted.map_or(breach.measured_ms, |predicted| match breach.quantile.as_str() {
                "p50" => predicted.p50_ms,
                _ => predicted.p95_ms,
            });
        let factor = self.correction * breach.measured_ms / predicted;
        Some(Broken { budget: self.budget, factor: if factor.is_finite() { factor } else { 1.0 } })
    }

    /// A device about which nothing is known but what it waits for.
    pub fn waiting(reason: impl Into<String>) -> Self {
        Self {
            class: None,
            state: Outcome::Waiting { reason: reason.into() },
            derivation: None,
            digest: None,
            assignment: None,
            budget: Budget::default(),
            predicted: None,
            wave: None,
            correction: uncorrected(),
            rule: None,
            attempt: 0,
            breaches: Vec::new(),
            growths: Vec::new(),
            held: None,
        }
    }
}

impl Record for DeploymentRecord {
    const KIND: &'static str = "deployment";
    const SCHEMA: u8 = 1;
    fn key(&self) -> Vec<u8> {
        self.name.as_str().into()
    }
}
