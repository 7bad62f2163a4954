//! What the devices of the wave that was told last have measured, for the gate. Reads only.

use std::collections::{BTreeMap, BTreeSet};

use proto::{DeviceId, Digest, Generation};

use super::Driver;
use crate::histogram::LatencyTally;
use crate::rollout::gate::{self, Judgement, Measured};
use crate::store::{DeploymentRecord, StoreError, TelemetryRecord};

/// What was judged, by deployment: it holds until new telemetry comes, or another wave is told.
#[derive(Default)]
pub(super) struct Judgements(BTreeMap<String, Judged>);

#[derive(Clone)]
struct Judged {
    generation: Generation,
    wave: u32,
    judgement: Judgement,
    /// That it rests on.
    requests: u64,
}

/// Whose intervals count, and as what.
struct Served {
    device: DeviceId,
    digest: Option<Digest>,
    assignment: Option<Generation>,
    before: Option<Digest>,
}

impl Driver {
    /// What the gate says of the wave that was told last; open where there is none.
    pub(super) async fn judge(
        &self,
        record: &DeploymentRecord,
        fresh: &BTreeSet<DeviceId>,
        judgements: &mut Judgements,
    ) -> Result<Judgement, StoreError> {
        let is_judged = record.undone.is_none() && !record.was_complete;
        let Some(gate) = record.manifest.spec.rollout.gate.filter(|_| is_judged) else {
            judgements.0.remove(&record.name);
            return Ok(Judgement::Open);
        };
        let (generation, reached) = (record.generation, record.reached());
        let wave = wave(record, reached);
        let known = judgements.0.get(&record.name).cloned();
        let known = known.filter(|known| (known.generation, known.wave) == (generation, reached));
        if let Some(known) = &known
            && !wave.iter().any(|served| fresh.contains(&served.device))
        {
            return Ok(known.judgement.clone());
        }
        let judged = self.core.store.call(move |store| {
            let measured = wave.iter().map(|served| Ok(served.measured(&store.telemetry(&served.device)?)));
            let measured = measured.collect::<Result<Vec<_>, StoreError>>()?;
            let requests = gate::requests(&measured);
            // Each look is a chance to err: one that passed is looked at again when there is half as much more to see.
            let is_early =
                |known: &Judged| known.judgement == Judgement::Open && requests < known.requests * 3 / 2;
            match known.filter(is_early) {
                Some(known) => Ok(known),
                None => {
                    let judgement = gate::judge(&gate, &measured);
                    Ok(Judged { generation, wave: reached, judgement, requests })
                }
            }
        });
        let judged = judged.await?;
        judgements.0.insert(record.name.clone(), judged.clone());
        Ok(judged.judgement)
    }
}

fn wave(record: &DeploymentRecord, wave: u32) -> Vec<Served> {
    let before = |device| record.before.as_ref()?.outcomes.get(device)?.digest;
    let told = record.outcomes.iter().filter(|(_, outcome)| outcome.wave == Some(wave));
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
                measured.errors += interval.errors;
            } else if digest == self.before && self.assignment.is_some_and(|now| interval.generation < now) {
                add(&mut measured.before, &interval.histogram);
            }
        }
        measured
    }
}
