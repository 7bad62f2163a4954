//! What the devices of the wave that was told last have measured, and those with a model that came after the rollout was
//! complete; for the gate. Reads only.

use std::collections::{BTreeMap, BTreeSet};

use proto::{DeviceId, Digest, Generation};

use super::Driver;
use crate::histogram::LatencyTally;
use crate::manifest::GateSpec;
use crate::rollout::gate::{self, Judged, Judgement, Measured};
use crate::store::{DeploymentRecord, OutcomeRecord, StoreError, TelemetryRecord};

/// What was judged: it holds until new telemetry comes, or something else is to be judged.
#[derive(Default)]
pub(super) struct Judgements(BTreeMap<Case, Known>);

/// What is judged.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Case {
    deployment: String,
    generation: Generation,
    of: Of,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Of {
    /// Devices that were told in the same wave.
    Wave(u32),
    /// Devices that were told of the same model.
    Model(Digest),
}

#[derive(Clone)]
struct Known {
    judgement: Judgement,
    /// That it rests on.
    requests: u64,
    /// Whose measurements it rests on.
    devices: usize,
}

/// Whose intervals count, and as what.
struct Served {
    device: DeviceId,
    digest: Option<Digest>,
    assignment: Option<Generation>,
    before: Option<Digest>,
}

impl Driver {
    /// What the gate says of the wave that was told last, open where there is none; and of the models that devices wait for
    /// which came after the rollout was complete.
    pub(super) async fn judge(
        &self,
        record: &DeploymentRecord,
        fresh: &BTreeSet<DeviceId>,
        judgements: &mut Judgements,
    ) -> Result<Judged, StoreError> {
        let mut judged = Judged::default();
        let gate = record.manifest.spec.rollout.gate.filter(|_| record.undone.is_none());
        let mut cases = Vec::new();
        if let Some(gate) = gate {
            let of = match record.was_complete {
                true => record.held_back().into_iter().map(Of::Model).collect(),
                false => vec![Of::Wave(record.reached())],
            };
            let case = |of| Case { deployment: record.name.clone(), generation: record.generation, of };
            cases = of.into_iter().map(case).collect();
            for case in &cases {
                let judgement = self.judge_case(record, gate, fresh, (case, judgements)).await?;
                match case.of {
                    Of::Wave(_) => judged.wave = judgement,
                    Of::Model(digest) => drop(judged.models.insert(digest, judgement)),
                }
            }
        }
        judgements.0.retain(|case, _| case.deployment != record.name || cases.contains(case));
        Ok(judged)
    }

    async fn judge_case(
        &self,
        record: &DeploymentRecord,
        gate: GateSpec,
        fresh: &BTreeSet<DeviceId>,
        (case, judgements): (&Case, &mut Judgements),
    ) -> Result<Judgement, StoreError> {
        let told = told(record, case.of);
        let known = judgements.0.get(case).cloned();
        let known = known.filter(|known| known.devices == told.len());
        if let Some(known) = &known
            && !told.iter().any(|served| fresh.contains(&served.device))
        {
            return Ok(known.judgement.clone());
        }
        let judged = self.core.store.call(move |store| {
            let measured = told.iter().map(|served| Ok(served.measured(&store.telemetry(&served.device)?)));
            let measured = measured.collect::<Result<Vec<_>, StoreError>>()?;
            let requests = gate::requests(&measured);
            // Each look is a chance to err: one that passed is looked at again when there is half as much more to see.
            let is_early = |known: &Known| {
                known.judgement == Judgement::Open && requests < known.requests.saturating_mul(3) / 2
            };
            Ok(match known.filter(is_early) {
                Some(known) => known,
                None => {
                    let judgement = gate::judge(&gate, &measured);
                    Known { judgement, requests, devices: measured.len() }
                }
            })
        });
        let judged = judged.await?;
        let judgement = judged.judgement.clone();
        judgements.0.insert(case.clone(), judged);
        Ok(judgement)
    }
}

fn told(record: &DeploymentRecord, of: Of) -> Vec<Served> {
    let before = |device| record.before.as_ref()?.outcomes.get(device)?.digest;
    let is_meant = |outcome: &OutcomeRecord| match of {
        Of::Wave(wave) => outcome.wave == Some(wave),
        Of::Model(digest) => outcome.wave.is_some() && outcome.digest == Some(digest),
    };
    let told = record.outcomes.iter().filter(|(_, outcome)| is_meant(outcome));
    told.map(|(device, outcome)| Served {
        device: device.clone(),
        digest: outcome.digest,
        assignment: outcome.assignment,
        before: before(device),
    })
    .collect()
}

impl Served {
    fn measured(&self, telemetry: &[TelemetryRecord]) -> Measured {
        let mut measured = Measured::default();
        let add = |tally: &mut LatencyTally, histogram: &[u8]| {
            // One that cannot be read is shown as errors in the telemetry's list; here it says nothing.
            let _ = tally.add(histogram);
        };
        for TelemetryRecord { interval, .. } in telemetry {
            let digest = Some(interval.digest);
            if digest == self.digest && Some(interval.generation) == self.assignment {
                add(&mut measured.after, &interval.histogram);
                measured.errors = measured.errors.saturating_add(interval.errors);
            } else if digest == self.before && self.assignment.is_some_and(|now| interval.generation < now) {
                add(&mut measured.before, &interval.histogram);
            }
        }
        measured
    }
}
