//! Gives devices that have room larger networks, where the deployment's policy says so, and takes them back where they turn
//! out too large. Who may grow is `rollout::grow`'s to say; what they get, `fitting`'s.

use std::collections::{BTreeMap, BTreeSet};

use proto::{DeviceId, Generation};

use super::advance::{Next, decided};
use super::tallies::{Counted, Tallies};
use super::{Driver, Memory, Snapshot};
use crate::calibration::MIN_REQUESTS;
use crate::clock::unix_ms;
use crate::corrections::Corrections;
use crate::derive::SubjectKey;
use crate::fitting::{self, Candidate, Fitting, Verdict};
use crate::manifest::{GateSpec, GrowSpec};
use crate::refit;
use crate::rollout::gate::{self, Judgement, Measured};
use crate::rollout::grow::{self, Group, NO_GAIN};
use crate::room::{self, Reading, Room};
use crate::store::{DeploymentRecord, Outcome, OutcomeRecord, StoreError};

/// What was read of each device and what was tried for it: looked at again when there is more to see.
#[derive(Default)]
pub(super) struct Regrowth {
    readings: BTreeMap<DeviceId, (Look, Reading)>,
    tried: BTreeMap<DeviceId, Look>,
}

/// What a look rested on: the deployment's generation, the device's, and its requests.
type Look = (Generation, Option<Generation>, u64);

/// Why a larger network is taken back, if what the device measured with it says so.
pub(super) fn too_large(
    gate: Option<GateSpec>,
    outcome: &OutcomeRecord,
    counted: &Counted,
) -> Option<String> {
    let growth = outcome.grown()?;
    if let Some(breach) = refit::breach(&counted.tally, &outcome.budget) {
        return Some(breach.text());
    }
    // It was meant to take longer than the one before; that it may not fail more often stands.
    let mut gate = gate?;
    gate.latency_increase = None;
    gate.min_requests = gate.min_requests.max(MIN_REQUESTS);
    let after = counted.tally.clone();
    match gate::judge(&gate, &[Measured { after, errors: counted.errors, ..Measured::default() }]) {
        Judgement::Closed { reason } => Some(format!("{reason} after {}", growth.text())),
        Judgement::Open | Judgement::Short { .. } => None,
    }
}

impl Next {
    /// A device that could not have its larger network goes back to what it had: it is no failure of the rollout.
    pub(super) fn take_back_failed(&mut self) {
        for (device, outcome) in &mut self.record.outcomes {
            let Outcome::Failed { reason } = &outcome.state else { continue };
            let reason = reason.clone();
            if outcome.take_back(reason.clone()) {
                tracing::warn!(deployment = self.record.name, %device, reason, "a larger network is taken back");
            }
        }
    }
}

impl Driver {
    /// Fits devices that have room again, larger, where there is something new to go by.
    pub(super) async fn grow_devices(
        &self,
        next: &mut Next,
        snapshot: &Snapshot,
        fresh: &BTreeSet<DeviceId>,
        memory: &mut Memory,
    ) -> Result<(), StoreError> {
        let Some(policy) = next.record.manifest.spec.rollout.grow else { return Ok(()) };
        let is_new = next.record.outcomes.keys().any(|device| fresh.contains(device));
        if !is_new || !grow::may_begin(&next.record) {
            return Ok(());
        }
        let Memory { tallies, regrowth, .. } = memory;
        let readings = self.readings(&next.record, &policy, tallies, regrowth).await?;
        let grow::Due { groups, mut held } = grow::due(&next.record, &policy, &readings, unix_ms());
        for group in groups {
            if regrowth.is_tried(&next.record, &group) {
                held.extend(group.roomy.into_iter().map(|(device, _)| (device, NO_GAIN.to_owned())));
                continue;
            }
            let key = SubjectKey::of(&next.record.manifest.spec);
            let Some(fitted) = self.larger(next, snapshot, &group).await? else {
                next.to_score = Some(key);
                return Ok(());
            };
            let (first, others) = group.roomy.split_at(group.begin);
            let mut has_grown = false;
            for (device, room) in first {
                let fitting = fitted.iter().find(|fitting| fitting.id == *device).cloned();
                if next.grow(device, room, fitting, snapshot) {
                    has_grown = true;
                } else {
                    regrowth.tried.insert(device.clone(), look(&next.record, device, room.requests));
                    held.insert(device.clone(), NO_GAIN.to_owned());
                }
            }
            if !has_grown {
                held.extend(others.iter().map(|(device, _)| (device.clone(), NO_GAIN.to_owned())));
            }
        }
        for (device, outcome) in &mut next.record.outcomes {
            outcome.held = held.remove(device);
        }
        Ok(())
    }

    /// What each device that serves and has a latency ceiling has measured.
    async fn readings(
        &self,
        record: &DeploymentRecord,
        policy: &GrowSpec,
        tallies: &mut Tallies,
        regrowth: &mut Regrowth,
    ) -> Result<BTreeMap<DeviceId, Reading>, StoreError> {
        regrowth.readings.retain(|device, _| record.outcomes.contains_key(device));
        let mut readings = BTreeMap::new();
        for (device, outcome) in &record.outcomes {
            let is_watched =
                matches!(outcome.state, Outcome::Active { .. }) && outcome.budget.bounds_latency();
            let Some(promised) = outcome.promised().filter(|_| is_watched) else { continue };
            let known = regrowth.readings.get(device);
            let requests = tallies.requests(device, outcome);
            let known = known.filter(|(at, _)| Some(*at) == requests.map(|n| look(record, device, n)));
            let reading = match known {
                Some((_, reading)) => reading.clone(),
                None => {
                    let Some(counted) = self.counted(device, outcome, tallies).await? else { continue };
                    let reading = room::room(&counted.tally, &outcome.budget, promised, policy);
                    let at = look(record, device, counted.tally.count());
                    regrowth.readings.insert(device.clone(), (at, reading.clone()));
                    reading
                }
            };
            readings.insert(device.clone(), reading);
        }
        Ok(readings)
    }

    /// What the devices of a group would get; `None` while the network is not scored.
    async fn larger(
        &self,
        next: &Next,
        snapshot: &Snapshot,
        group: &Group,
    ) -> Result<Option<Vec<Fitting>>, StoreError> {
        let spec = next.record.manifest.spec.clone();
        let Some(subject) = self.core.subjects.get(&SubjectKey::of(&spec)) else { return Ok(None) };
        let candidate = |(id, room): &(DeviceId, Room)| {
            let device = snapshot.devices.iter().find(|device| device.id == *id)?;
            let outcome = &next.record.outcomes[id];
            let growing = Some(outcome.growing(room, macs(outcome, snapshot)?));
            let candidate = Candidate::of(device, &self.core.probes).ok()?;
            // A device that is another one by now is fitted anew when an operator says so.
            let is_same = Some(candidate.class.id()) == outcome.class;
            is_same.then_some(Candidate { growing, ..candidate })
        };
        let candidates: Vec<_> = group.roomy.iter().filter_map(candidate).collect();
        let precedents = next.precedents(snapshot);
        let probes = self.core.probes.clone();
        let fitted = self.core.store.call(move |store| {
            let corrections = Corrections::read(store, &subject, &probes)?;
            Ok(fitting::fit(&subject, &probes, &spec, &candidates, &corrections, &precedents))
        });
        Ok(Some(fitted.await?))
    }
}

impl Next {
    /// Has a device get what it was fitted to. `false` if that is not worth it.
    fn grow(&mut self, id: &DeviceId, room: &Room, fitting: Option<Fitting>, snapshot: &Snapshot) -> bool {
        let Some((fitting, before)) = fitting.zip(self.record.outcomes.get(id)) else { return false };
        let Verdict::Fit { plan, .. } = &fitting.verdict else { return false };
        let Some(macs) = macs(before, snapshot) else { return false };
        let larger = plan.promised.macs;
        if !before.growing(room, macs).is_step(larger) {
            return false;
        }
        let (_, fitted, derivation) = decided(&self.record.manifest.spec, fitting);
        let grown = before.grown_to(fitted, room.clone(), (macs, larger), unix_ms());
        let Some((grown, (key, plan))) = grown.zip(derivation) else { return false };
        tracing::info!(deployment = self.record.name, device = %id, room = room.text(), macs, larger, "grows");
        self.derivations.insert(key, Some(plan));
        self.record.outcomes.insert(id.clone(), grown);
        true
    }
}

impl Regrowth {
    /// Whether those whose turn it is were fitted by about as many requests, and nothing was worth it.
    fn is_tried(&self, record: &DeploymentRecord, group: &Group) -> bool {
        group.roomy[..group.begin].iter().all(|(device, room)| {
            let (generation, assignment, requests) = look(record, device, room.requests);
            self.tried.get(device).is_some_and(|&(of, with, before)| {
                (of, with) == (generation, assignment) && requests < before.saturating_mul(3) / 2
            })
        })
    }
}

fn look(record: &DeploymentRecord, device: &DeviceId, requests: u64) -> Look {
    let assignment = record.outcomes.get(device).and_then(|outcome| outcome.assignment);
    (record.generation, assignment, requests)
}

/// The multiply-accumulates of what a device serves.
fn macs(outcome: &OutcomeRecord, snapshot: &Snapshot) -> Option<u64> {
    let artifact = snapshot.artifacts.iter().find(|record| Some(record.digest) == outcome.digest)?;
    Some(artifact.footprint.macs)
}
