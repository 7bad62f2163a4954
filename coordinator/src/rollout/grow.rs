//! Which devices of a complete rollout may get a larger network now, and why the others do not. Pure.
//!
//! Devices of one class that serve the same model grow together, fitted to the slowest of them: as long as one of them is known
//! to have no room, none grows. They change over in the shares of the rollout's waves, counted among themselves: the next
//! ones grow when those before have served for the bake, have as many requests together as one is judged by, and none had to
//! give its network back. A device that broke a ceiling, or gave a larger network back, is barred for the generation.

use std::collections::BTreeMap;

use proto::{DeviceId, Digest};

use super::gate::Judged;
use super::state::{Presence, Rollout, place};
use crate::class::ClassId;
use crate::manifest::GrowSpec;
use crate::room::{Reading, Room};
use crate::store::{DeploymentPhase, DeploymentRecord, Outcome, OutcomeRecord};

/// What is to be said of a device for which no larger network is worth the change.
pub(super) const NO_GAIN: &str = "no network within its ceilings is at least 10 % larger";

/// Who may grow, and who not.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Due {
    /// Devices that are fitted together.
    pub(super) groups: Vec<Group>,
    /// Why a device does not grow, for an operator.
    pub(super) held: BTreeMap<DeviceId, String>,
}

/// Devices of one class that serve the same model and have room.
#[derive(Debug, PartialEq)]
pub(super) struct Group {
    /// All of them, in the order of the rollout; what they get is fitted to the slowest.
    pub(super) roomy: Vec<(DeviceId, Room)>,
    /// So many of them get it now.
    pub(super) begin: usize,
}

/// Whether anything may grow: the rollout is complete, and nobody stopped it or went back.
pub(super) fn may_begin(record: &DeploymentRecord) -> bool {
    record.phase == DeploymentPhase::Complete && !record.paused && record.undone.is_none()
}

/// Who may grow at `now_unix_ms`, by what the devices that serve and have a latency ceiling have measured.
pub(super) fn due(
    record: &DeploymentRecord,
    grow: &GrowSpec,
    readings: &BTreeMap<DeviceId, Reading>,
    now_unix_ms: u64,
) -> Due {
    let mut alike: BTreeMap<(&ClassId, Digest), Vec<&DeviceId>> = BTreeMap::new();
    for device in readings.keys() {
        let outcome = record.outcomes.get(device).filter(|outcome| is_active(outcome));
        let Some((class, digest)) = outcome.and_then(|o| o.class.as_ref().zip(o.digest)) else { continue };
        alike.entry((class, digest)).or_default().push(device);
    }
    let mut due = Due::default();
    for ((class, digest), mut devices) in alike {
        devices.sort_by_cached_key(|device| place(&record.name, device));
        let family = Family { record, grow, readings, class, digest, now_unix_ms };
        let mut roomy = Vec::new();
        for &device in &devices {
            match family.standing(device) {
                Ok(room) => roomy.push((device.clone(), room.clone())),
                Err(why) => drop(due.held.insert(device.clone(), why)),
            }
        }
        match family.begin(&devices) {
            Ok(begin) if !roomy.is_empty() => {
                let begin = begin.min(roomy.len());
                let waiting = roomy[begin..].iter().map(|(device, _)| (device.clone(), AFTER.to_owned()));
                due.held.extend(waiting);
                due.groups.push(Group { roomy, begin });
            }
            Ok(_) => {}
            Err(why) => due.held.extend(roomy.into_iter().map(|(device, _)| (device, why.clone()))),
        }
    }
    due
}

const AFTER: &str = "it has room; it grows after the first of its class have shown how they do";

fn is_active(outcome: &OutcomeRecord) -> bool {
    matches!(outcome.state, Outcome::Active { .. })
}

/// Devices of one class with one model.
struct Family<'a> {
    record: &'a DeploymentRecord,
    grow: &'a GrowSpec,
    readings: &'a BTreeMap<DeviceId, Reading>,
    class: &'a ClassId,
    digest: Digest,
    now_unix_ms: u64,
}

impl<'a> Family<'a> {
    /// A device's own room, or why it does not grow.
    fn standing(&self, device: &DeviceId) -> Result<&'a Room, String> {
        let outcome = &self.record.outcomes[device];
        if outcome.is_barred() {
            return Err("it broke its budget in this generation, or gave a larger network back".to_owned());
        }
        let room = match &self.readings[device] {
            Reading::Roomy(room) => room,
            Reading::Full { .. } => {
                return Err(format!("its times leave less than {} % of a ceiling free", self.grow.when_room));
            }
            Reading::Short { .. } => {
                let wanted = self.grow.at_least_requests;
                return Err(format!("it has had fewer than {wanted} requests with what it serves"));
            }
        };
        let every = u64::try_from(self.grow.at_most_every.0.as_millis()).unwrap_or(u64::MAX);
        let last = outcome.growths.last().map(|growth| growth.at_unix_ms);
        match last.filter(|last| last.saturating_add(every) > self.now_unix_ms) {
            Some(_) => Err(format!("it has room, and has grown less than {} ago", self.grow.at_most_every)),
            None => Ok(room),
        }
    }

    /// How many may grow now, or what keeps all of them from it.
    fn begin(&self, devices: &[&'a DeviceId]) -> Result<usize, String> {
        let full = |device: &&&DeviceId| matches!(self.readings[**device], Reading::Full { .. });
        if let Some(full) = devices.iter().find(full) {
            return Err(format!("it has room, but {full} has none, and like devices share their models"));
        }
        let mut grown = Vec::new();
        for (device, outcome) in &self.record.outcomes {
            let from_here = outcome.growths.iter().find(|growth| growth.had.digest == self.digest);
            match from_here.filter(|_| outcome.class.as_ref() == Some(self.class)) {
                Some(growth) if growth.ended.is_some() => {
                    return Err(format!("it has room, but {device} had to give a larger network back"));
                }
                Some(_) => grown.push((device, outcome)),
                None => {}
            }
        }
        if !grown.is_empty() && !self.are_proven(&grown) {
            return Err(AFTER.to_owned());
        }
        let judged = Judged::default();
        let rollout = Rollout::of(self.record, &judged, |_| Presence::Offline, |_| None);
        let all = devices.len() + grown.len();
        let mut reached = (0..rollout.wave_count()).map(|wave| rollout.target(wave, all));
        Ok(reached.find(|&reached| reached > grown.len()).unwrap_or(all) - grown.len())
    }

    /// Whether those that grew have shown enough. Absent ones are not waited for.
    fn are_proven(&self, grown: &[(&DeviceId, &OutcomeRecord)]) -> bool {
        let bake_ms = u64::from(self.record.manifest.spec.rollout.bake.millis());
        let is_baked = |outcome: &OutcomeRecord| match outcome.state {
            Outcome::Active { since_unix_ms } => since_unix_ms.saturating_add(bake_ms) <= self.now_unix_ms,
            _ => true,
        };
        let requests = grown.iter().filter_map(|(device, _)| self.readings.get(*device));
        let requests: u64 = requests.map(Reading::requests).sum();
        grown.iter().all(|(_, outcome)| is_baked(outcome)) && requests >= self.grow.at_least_requests
    }
}

#[cfg(test)]
mod tests;
