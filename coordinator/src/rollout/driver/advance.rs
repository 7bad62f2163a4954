//! One deployment, one round: what its record becomes, which work it waits for, whom to tell. Reads only.

use std::collections::{BTreeMap, BTreeSet};

use proto::DeviceId;
use pruner_core::plan::PrunePlan;

use super::work::is_put_off;
use super::{Driver, Holders, Memory, Snapshot, regrow};
use crate::causes::chain;
use crate::clock::unix_ms;
use crate::corrections::Corrections;
use crate::derive::{Derivation, SubjectKey};
use crate::fitting::{self, Candidate, Fitting, Precedent, Verdict};
use crate::manifest::{DeploymentSpec, OnFailure, TrainerKind};
use crate::probes::ProbeSet;
use crate::refit;
use crate::rollout::gate::{Judged, Judgement};
use crate::rollout::plan::{self, Status};
use crate::rollout::state::{Presence, Rollout, Start};
use crate::store::{
    AssignmentOrder, DeploymentPhase, DeploymentRecord, DerivationKey, DerivationState, DeviceRecord,
    JobRecord, Outcome, OutcomeRecord, PredictedLatency, StoreError, Undone, Work,
};

/// What a round makes of one deployment.
pub(super) struct Next {
    /// Its record as it shall be, but for the assignments.
    pub(super) record: DeploymentRecord,
    /// The network that must be scored before anything else can be done.
    pub(super) to_score: Option<SubjectKey>,
    /// The derivations that it waits for, with their plans where they are new.
    pub(super) derivations: BTreeMap<DerivationKey, Option<PrunePlan>>,
    /// Devices that match and belong to another deployment.
    withheld: usize,
    /// When a deadline passes, milliseconds since 1970, if one will.
    pub(super) wake_unix_ms: Option<u64>,
    /// Whom to tell what, and the wave of each.
    pub(super) assign: Vec<(DeviceId, u32, AssignmentOrder)>,
}

impl Driver {
    pub(super) async fn advance(
        &self,
        deployment: &DeploymentRecord,
        snapshot: &Snapshot,
        (holders, fresh): (&Holders, &BTreeSet<DeviceId>),
        memory: &mut Memory,
    ) -> Result<Next, StoreError> {
        let mut next = Next {
            record: deployment.clone(),
            to_score: None,
            derivations: BTreeMap::new(),
            withheld: 0,
            wake_unix_ms: None,
            assign: Vec::new(),
        };
        if matches!(deployment.phase, DeploymentPhase::Failed { .. }) {
            next.note_answers(snapshot); // of those that were told before
            return Ok(next);
        }
        self.find_breaches(&mut next.record, fresh, memory).await?;
        let unfitted = next.match_devices(snapshot, holders, &self.core.probes);
        self.fit_devices(&mut next, snapshot, unfitted).await?;
        self.grow_devices(&mut next, snapshot, fresh, memory).await?;
        next.note_derivations(snapshot);
        next.note_answers(snapshot);
        next.take_back_failed();
        let judged = self.judge(&next.record, fresh, &mut memory.judgements).await?;
        next.note_passed(&judged);
        self.place(&mut next, snapshot, &judged);
        next.note_cancelled(&snapshot.jobs);
        Ok(next)
    }

    /// Has the devices fitted again whose new telemetry breaks their budget. Those that were fitted as often as may be are known as
    /// over it.
    async fn find_breaches(
        &self,
        record: &mut DeploymentRecord,
        fresh: &BTreeSet<DeviceId>,
        Memory { tallies, has_looked, .. }: &mut Memory,
    ) -> Result<(), StoreError> {
        let spec = &record.manifest.spec;
        let most = refit::most_refits(spec);
        for (id, outcome) in &mut record.outcomes {
            let is_watched = matches!(outcome.state, Outcome::Active { .. })
                && outcome.budget.bounds_latency()
                && (fresh.contains(id) || (!*has_looked && !outcome.breaches.is_empty()));
            if !is_watched {
                continue;
            }
            let Some(counted) = self.counted(id, outcome, tallies).await? else { continue };
            if let Some(reason) = regrow::too_large(spec.rollout.gate, outcome, &counted) {
                tracing::warn!(deployment = record.name, device = %id, reason, "a larger network is taken back");
                outcome.take_back(reason);
                continue;
            }
            match refit::breach(&counted.tally, &outcome.budget) {
                Some(breach) if outcome.breaches.len() < most => {
                    tracing::warn!(deployment = record.name, device = %id, breach = breach.text(), "fitted again");
                    outcome.refit(breach);
                }
                breach => self.core.overruns.note(id, outcome, breach),
            }
        }
        Ok(())
    }

    /// Gives each device that has no model yet its plan; or asks for the network to be scored first.
    async fn fit_devices(
        &self,
        next: &mut Next,
        snapshot: &Snapshot,
        unfitted: Vec<Candidate>,
    ) -> Result<(), StoreError> {
        let spec = next.record.manifest.spec.clone();
        let key = SubjectKey::of(&spec);
        let mut outcomes = next.record.outcomes.values();
        let is_begun = |outcome: &OutcomeRecord| outcome.state == Outcome::Deriving && outcome.is_fitted();
        let resumed = !next.is_trained_elsewhere() && outcomes.any(is_begun);
        let subject = self.core.subjects.get(&key);
        let Some(subject) = subject.filter(|_| !unfitted.is_empty()) else {
            let missing = self.core.subjects.get(&key).is_none() && (resumed || !unfitted.is_empty());
            next.to_score = missing.then_some(key);
            return Ok(());
        };
        let precedents = next.precedents(snapshot);
        let (probes, wanted) = (self.core.probes.clone(), spec.clone());
        let fitted = self.core.store.call(move |store| {
            let corrections = Corrections::read(store, &subject, &probes)?;
            Ok(fitting::fit(&subject, &probes, &wanted, &unfitted, &corrections, &precedents))
        });
        for fitting in fitted.await? {
            let (id, mut outcome, derivation) = decided(&spec, fitting);
            if let Some(before) = next.record.outcomes.get(&id) {
                (outcome.wave, outcome.attempt) = (before.wave, before.attempt);
                outcome.breaches = before.breaches.clone();
                outcome.growths = before.growths.clone();
                // What it serves meanwhile: what it can go back to.
                outcome.digest = before.digest;
            }
            tracing::info!(deployment = next.record.name, device = %id, outcome = ?outcome.state, "fitted");
            if let Some((key, plan)) = derivation {
                next.derivations.insert(key, Some(plan));
            }
            next.record.outcomes.insert(id, outcome);
        }
        Ok(())
    }

    /// Asks the rollout's plan whom to tell now.
    fn place(&self, next: &mut Next, snapshot: &Snapshot, judged: &Judged) {
        let now = unix_ms();
        let return_ms = u64::try_from(self.return_time.as_millis()).unwrap_or(u64::MAX);
        let start = Start { at_unix_ms: self.started_unix_ms, return_ms };
        let outcomes = &next.record.outcomes;
        let presence = |device: &DeviceId| {
            if self.core.admissions.is_banned(device) {
                return Presence::Banned;
            }
            let connected = self.core.fleet.presence(device).map(|presence| presence.connected_unix_ms);
            start.presence(connected, outcomes.get(device), now)
        };
        let selected = next.record.selected(&snapshot.devices);
        let selected = |device: &DeviceId| selected.get(device).copied();
        let step = plan::next(&Rollout::of(&next.record, judged, presence, selected), now);
        next.wake_unix_ms = step.wake_unix_ms;
        for placement in &step.assign {
            let digest = next.record.outcomes[&placement.device].digest;
            let artifact =
                digest.and_then(|digest| snapshot.artifacts.iter().find(|record| record.digest == digest));
            let Some(artifact) = artifact else { continue }; // stored a moment ago: the next round sees it
            let order = AssignmentOrder {
                deployment: next.record.name.clone(),
                deployment_generation: next.record.generation,
                attempt: next.record.outcomes[&placement.device].attempt,
                model: artifact.model(&next.record.name),
                probation: next.record.probation(&placement.device),
            };
            next.assign.push((placement.device.clone(), placement.wave, order));
        }
        for outcome in next.record.outcomes.values_mut().filter(|outcome| outcome.state == Outcome::Fitted) {
            outcome.held = None;
        }
        for (device, why) in step.held {
            if let Some(outcome) = next.record.outcomes.get_mut(&device) {
                outcome.held = Some(why);
            }
        }
        for expiry in step.expired {
            if let Some(outcome) = next.record.outcomes.get_mut(&expiry.device) {
                outcome.state = Outcome::Failed { reason: expiry.reason };
            }
        }
        (next.record.phase, next.record.message) = phase(next, step.status);
        // What was complete stays so, whatever a device does that comes later or is fitted again.
        if next.record.was_complete && !matches!(next.record.phase, DeploymentPhase::Failed { .. }) {
            next.record.phase = DeploymentPhase::Complete;
        }
        if next.record.phase == DeploymentPhase::Complete && !next.record.was_complete {
            let told = next.record.outcomes.values().filter(|outcome| outcome.wave.is_some());
            next.record.proven = told.filter_map(|outcome| outcome.digest).collect();
        }
        next.record.undo_due = matches!(next.record.phase, DeploymentPhase::Failed { .. })
            && next.record.manifest.spec.rollout.on_failure == OnFailure::Undo
            && !next.record.was_complete
            && next.record.is_told()
            && next.record.way_back().is_some();
    }
}

impl Next {
    fn is_trained_elsewhere(&self) -> bool {
        self.record.manifest.spec.training.trainer == TrainerKind::External
    }

    /// What devices of this deployment got already, class by class and rule by rule.
    pub(super) fn precedents(&self, snapshot: &Snapshot) -> Vec<Precedent> {
        let spec = &self.record.manifest.spec;
        let had = |device: &DeviceRecord| {
            let outcome = self.record.outcomes.get(&device.id)?;
            let rule = fitting::rule(spec, &device.labels, device.profile.as_ref());
            Some((outcome.class.clone()?, rule, outcome.derivation?))
        };
        // Many devices, few models.
        let had: BTreeSet<_> = snapshot.devices.iter().filter_map(had).collect();
        let precedent = |(class, rule, key)| {
            let derivation = snapshot.derivations.iter().find(|record| record.key == key)?;
            let plan = serde_json::from_value(derivation.plan.clone()).ok()?;
            Some(Precedent { class, rule, plan })
        };
        had.into_iter().filter_map(precedent).collect()
    }

    /// Gives every device that the selector matches an outcome; returns those that can be fitted now.
    fn match_devices(&mut self, snapshot: &Snapshot, holders: &Holders, probes: &ProbeSet) -> Vec<Candidate> {
        let spec = &self.record.manifest.spec;
        let selected = snapshot
            .devices
            .iter()
            .filter(|device| spec.selector.matches(&device.labels, device.profile.as_ref()));
        let is_others = |device: &&DeviceRecord| {
            holders.get(&device.id).is_some_and(|holder| *holder != self.record.name)
        };
        let (withheld, matched): (Vec<_>, Vec<_>) = selected.partition(is_others);
        self.withheld = withheld.len();
        let ids: BTreeSet<&DeviceId> = matched.iter().map(|device| &device.id).collect();
        self.record.outcomes.retain(|id, _| ids.contains(id));
        let mut unfitted = Vec::new();
        for device in matched {
            let known = self.record.outcomes.get(&device.id);
            let mut before = known.cloned().unwrap_or_else(|| OutcomeRecord::waiting(""));
            if before.is_fitted() {
                if before.rule == fitting::rule(spec, &device.labels, device.profile.as_ref()) {
                    continue;
                }
                before.begin_again("another budget is for it now");
            }
            let outcome = match Candidate::of(device, probes) {
                Ok(candidate) => {
                    let broken = before.broken();
                    unfitted.push(Candidate { broken, ..candidate });
                    OutcomeRecord { state: Outcome::Deriving, ..before }
                }
                Err(reason) => {
                    OutcomeRecord { state: Outcome::Waiting { reason: reason.to_owned() }, ..before }
                }
            };
            self.record.outcomes.insert(device.id.clone(), outcome);
        }
        unfitted
    }

    /// Models that passed the gate need not pass it again.
    fn note_passed(&mut self, judged: &Judged) {
        if self.record.manifest.spec.rollout.approval {
            return;
        }
        let open = judged.models.iter().filter(|(_, judgement)| **judgement == Judgement::Open);
        self.record.proven.extend(open.map(|(digest, _)| *digest));
    }

    /// Devices whose derivation has ended have their model, or none; the others' derivations are listed.
    fn note_derivations(&mut self, snapshot: &Snapshot) {
        for outcome in self.record.outcomes.values_mut() {
            let (Outcome::Deriving, Some(key)) = (&outcome.state, outcome.derivation) else { continue };
            match snapshot.derivations.iter().find(|record| record.key == key).map(|record| &record.state) {
                Some(DerivationState::Ready { artifact }) => {
                    outcome.digest = Some(*artifact);
                    outcome.state = Outcome::Fitted;
                }
                Some(DerivationState::Failed { reason }) => {
                    outcome.state = Outcome::Failed { reason: reason.clone() }
                }
                Some(DerivationState::Queued) | None => {
                    let _ = self.derivations.entry(key).or_insert(None);
                }
            }
        }
    }

    /// Says of devices whose jobs are put off why, and what begins them again.
    fn note_cancelled(&mut self, jobs: &[JobRecord]) {
        let record = &mut self.record;
        let put_off: Vec<_> = jobs.iter().filter(|job| is_put_off(record, job)).collect();
        let mut said = None;
        for outcome in record.outcomes.values_mut().filter(|outcome| outcome.state == Outcome::Deriving) {
            let scoring = || self.to_score.clone().map(Work::Score);
            let work = outcome.derivation.map(Work::Train).or_else(scoring);
            let job = put_off.iter().find(|job| Some(&job.work) == work.as_ref());
            let resume = format!("`reconvene rollout resume {}` begins it again", record.name);
            outcome.held = job.and_then(|job| job.failure()).map(|why| format!("{why}; {resume}"));
            said = said.or(outcome.held.clone());
        }
        if let Some(said) = said.filter(|_| record.phase != DeploymentPhase::Complete) {
            record.message = format!("paused; {said}");
        }
    }

    /// A device that says it holds its assignment has it, whether or not its report came through. What it said last holds: it may
    /// have failed first, or been given up for being late.
    fn note_answers(&mut self, snapshot: &Snapshot) {
        for device in &snapshot.devices {
            let Some(outcome) = self.record.outcomes.get_mut(&device.id) else { continue };
            let Some(assignment) = outcome.assignment else { continue };
            let holds = assignment == device.holding.generation && outcome.digest == device.holding.digest;
            let ended = device.ended.as_ref().filter(|ended| ended.generation == assignment);
            let serves = ended.is_some_and(|ended| ended.failure.is_none());
            outcome.state = match (&outcome.state, ended.and_then(|ended| ended.failure.clone())) {
                (Outcome::Assigned { .. }, Some(reason)) => Outcome::Failed { reason },
                (Outcome::Assigned { .. }, None) if holds => Outcome::Active { since_unix_ms: unix_ms() },
                (Outcome::Failed { .. }, None) if serves && holds => {
                    Outcome::Active { since_unix_ms: unix_ms() }
                }
                _ => continue,
            };
        }
    }
}

/// A fitting as the deployment's record keeps it, and the derivation that it asks for.
pub(super) fn decided(
    spec: &DeploymentSpec,
    fitting: Fitting,
) -> (DeviceId, OutcomeRecord, Option<(DerivationKey, PrunePlan)>) {
    let mut outcome = OutcomeRecord::waiting(String::new());
    (outcome.class, outcome.rule) = (Some(fitting.class.id()), fitting.rule);
    (outcome.budget, outcome.correction) = (fitting.budget, fitting.correction);
    let mut derivation = None;
    outcome.state = match fitting.verdict {
        Verdict::Fit { plan, predicted } => {
            let key = Derivation::of(spec, &plan).key();
            outcome.derivation = Some(key);
            outcome.predicted = Some(PredictedLatency { p50_ms: predicted.p50_ms, p95_ms: predicted.p95_ms });
            derivation = Some((key, PrunePlan::clone(&plan)));
            Outcome::Deriving
        }
        Verdict::NoFit { ceiling, allowed, smallest, text } => {
            Outcome::NoFit { ceiling, allowed, smallest, text }
        }
        Verdict::Unusable(error) => Outcome::Failed { reason: chain(&error) },
    };
    (fitting.id, outcome, derivation)
}

/// Which networks an operator has to train, and how.
fn awaited<'a>(keys: impl ExactSizeIterator<Item = &'a DerivationKey>) -> String {
    let networks = if keys.len() == 1 { "1 network waits" } else { &format!("{} networks wait", keys.len()) };
    let names: Vec<String> = keys.map(|key| key.to_string()[..12].to_owned()).collect();
    format!(
        "{networks} to be trained elsewhere: {}; `reconvene artifact export NAME --out FILE.onnx`, train it, \
         `reconvene artifact import-weights NAME FILE.safetensors`",
        names.join(", ")
    )
}

/// How far the deployment has come, from what is still missing; and in words.
fn phase(next: &Next, status: Status) -> (DeploymentPhase, String) {
    if next.record.outcomes.is_empty() && next.withheld > 0 {
        let reason = format!(
            "the {} devices that match belong to other deployments, which keep them until they are deleted or select them \
             no more",
            next.withheld
        );
        return (DeploymentPhase::Pending, reason);
    }
    if let Some(Undone { generation, reason: why, .. }) = &next.record.undone {
        let told = |how: &str| format!("generation {generation} is undone: {why}; {how}");
        return match status {
            Status::Failed { reason } => (DeploymentPhase::Failed { reason: told(&reason) }, told(&reason)),
            Status::Complete { summary } => (DeploymentPhase::Complete, told(&summary)),
            Status::Waiting { reason } => (DeploymentPhase::RollingOut, told(&reason)),
        };
    }
    match status {
        Status::Failed { reason } => (DeploymentPhase::Failed { reason: reason.clone() }, reason),
        Status::Complete { summary } => (DeploymentPhase::Complete, summary),
        Status::Waiting { .. } if next.is_trained_elsewhere() && !next.derivations.is_empty() => {
            (DeploymentPhase::Deriving, awaited(next.derivations.keys()))
        }
        Status::Waiting { reason } if next.to_score.is_some() => (DeploymentPhase::Scoring, reason),
        Status::Waiting { reason } if !next.derivations.is_empty() => (DeploymentPhase::Deriving, reason),
        Status::Waiting { reason } if !next.record.outcomes.values().any(OutcomeRecord::is_fitted) => {
            (DeploymentPhase::Pending, reason)
        }
        Status::Waiting { reason } => (DeploymentPhase::RollingOut, reason),
    }
}
