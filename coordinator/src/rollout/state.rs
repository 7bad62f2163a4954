//! A rollout as the planner sees it: each device's outcome and presence, frozen. Reads no clock and no store.

use std::collections::{BTreeMap, BTreeSet};

use proto::{DeviceId, Digest};

use super::gate::{Judged, Judgement};
use crate::manifest::Wave;
use crate::store::{DeploymentRecord, Outcome, OutcomeRecord};

/// What [`Rollout::of`] gives an online device from assignment to `Active`, milliseconds.
pub const SETTLE_LIMIT_MS: u64 = 15 * 60 * 1000;

/// One generation of one deployment, as it stands.
#[derive(Debug, Clone)]
pub struct Rollout<'a> {
    /// The deployment's name: part of each device's place in the order.
    pub deployment: &'a str,
    /// When this generation was applied, milliseconds since 1970.
    pub begun_unix_ms: u64,
    /// Whether an operator has paused it.
    pub paused: bool,
    /// How long a device serves before its wave counts as done, milliseconds.
    pub bake_ms: u64,
    /// Whether waves have to pass a gate.
    pub has_gate: bool,
    /// What it says of the wave that was told last.
    pub judgement: Judgement,
    /// Whether each wave after the first waits for an operator.
    pub needs_approval: bool,
    /// Waves before this one may be left behind whatever the gate says: an operator said so.
    pub approved: u32,
    /// Most devices that change over at one time.
    pub max_concurrent: usize,
    /// Devices that may fail before the rollout does.
    pub max_failures: usize,
    /// How far each wave goes. A last one of all devices is implied.
    pub waves: &'a [Wave],
    /// An online device that takes longer from assignment to `Active` has failed, and one that sends no profile for so
    /// long is not waited for, milliseconds.
    pub settle_limit_ms: u64,
    /// Once it was complete: what is known of the models that devices which come later get.
    pub late: Option<Late<'a>>,
    /// The devices that the selector matches.
    pub members: BTreeMap<&'a DeviceId, Member<'a>>,
}

/// What is known of the models of a rollout that was complete once.
#[derive(Debug, Clone, Copy)]
pub struct Late<'a> {
    /// Devices may get these at once: the rollout itself, the gate or an operator let them pass.
    pub proven: &'a BTreeSet<Digest>,
    /// What the gate says of others.
    pub judged: &'a BTreeMap<Digest, Judgement>,
}

/// One device of a rollout.
#[derive(Debug, Clone, Copy)]
pub struct Member<'a> {
    /// What it gets, and how far it has come.
    pub outcome: &'a OutcomeRecord,
    /// Whether it is there.
    pub presence: Presence,
    /// The first of the waves that are for devices which a selector matches that is for this one, from 0.
    pub selected: Option<u32>,
}

/// Whether a device is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Its session is open.
    Online {
        /// Since when, milliseconds since 1970.
        since_unix_ms: u64,
    },
    /// It is not, and the coordinator has just started: it counts as there.
    Returning {
        /// When the coordinator started, milliseconds since 1970.
        since_unix_ms: u64,
        /// For how long it is given to come back, milliseconds.
        for_ms: u64,
    },
    /// It is not.
    Offline,
    /// Nor is it let in.
    Banned,
}

impl Presence {
    pub(super) fn is_online(self) -> bool {
        match self {
            Self::Online { .. } | Self::Returning { .. } => true,
            Self::Offline | Self::Banned => false,
        }
    }
}

/// When the coordinator started, and how long its devices may take until they are back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// Milliseconds since 1970.
    pub at_unix_ms: u64,
    /// Milliseconds.
    pub return_ms: u64,
}

impl Start {
    /// Whether a device is there, whose session has been open since `connected_unix_ms` if it has one. Nobody is connected to a
    /// coordinator that has just started: one that a wave would wait for counts as there for a while, so that no wave is
    /// passed over. A clock that was set back ends that.
    pub fn presence(
        self,
        connected_unix_ms: Option<u64>,
        outcome: Option<&OutcomeRecord>,
        now_unix_ms: u64,
    ) -> Presence {
        let may_be_back = (self.at_unix_ms..self.at_unix_ms.saturating_add(self.return_ms))
            .contains(&now_unix_ms)
            && outcome.is_some_and(|outcome| match outcome.state {
                Outcome::Waiting { .. } | Outcome::Deriving => true,
                Outcome::Fitted | Outcome::Assigned { .. } => true,
                Outcome::NoFit { .. } | Outcome::Active { .. } | Outcome::Failed { .. } => false,
            });
        match connected_unix_ms {
            Some(since_unix_ms) => Presence::Online { since_unix_ms },
            None if may_be_back => {
                Presence::Returning { since_unix_ms: self.at_unix_ms, for_ms: self.return_ms }
            }
            None => Presence::Offline,
        }
    }
}

/// What a device means for its wave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing<'a> {
    /// Is there, but no model can be chosen for it yet.
    Waiting {
        /// What is missing.
        reason: &'a str,
        /// When it counts as one that never sends a profile, milliseconds since 1970.
        until_unix_ms: u64,
    },
    /// Its model is being made.
    Deriving,
    /// Has a model and may be told.
    Ready,
    /// Was told; the wave waits for it.
    Moving {
        /// When the wave stops waiting, milliseconds since 1970.
        until_unix_ms: u64,
    },
    /// Was told, is there, and took too long.
    Overdue,
    /// Was told and went away; it changes over when it comes back, and nobody waits.
    Away,
    /// Was told, and is kept out: nobody waits, and it changes nothing over before it is let in again.
    Banned,
    /// Serves the model, and the next wave waits to see how.
    Baking {
        /// Until when, milliseconds since 1970.
        until_unix_ms: u64,
    },
    /// Serves the model.
    Settled,
    /// Cannot be fitted; counts for nothing.
    NoFit,
    /// Has not said what it is, and is not there or had time enough; counts for nothing until it does.
    Unknown,
    /// Gave the model up, or none could be made.
    Lost {
        /// Why.
        reason: &'a str,
    },
}

impl<'a> Rollout<'a> {
    /// The rollout of `record`, with [`SETTLE_LIMIT_MS`]. One that goes back to what was complete before goes at once.
    pub fn of(
        record: &'a DeploymentRecord,
        judged: &'a Judged,
        presence: impl Fn(&DeviceId) -> Presence,
        selected: impl Fn(&DeviceId) -> Option<u32>,
    ) -> Self {
        let spec = &record.manifest.spec.rollout;
        let is_back = record.undone.is_some();
        Self {
            deployment: &record.name,
            begun_unix_ms: record.applied_unix_ms,
            paused: record.paused,
            bake_ms: if is_back { 0 } else { spec.bake.millis().into() },
            has_gate: spec.gate.is_some() && !is_back,
            judgement: judged.wave.clone(),
            needs_approval: spec.approval && !is_back,
            approved: record.approved,
            max_concurrent: spec.max_concurrent.filter(|_| !is_back).map_or(usize::MAX, |most| most as usize),
            max_failures: spec.max_failures as usize,
            waves: if is_back { &[] } else { &spec.waves },
            settle_limit_ms: SETTLE_LIMIT_MS,
            late: record.was_complete.then_some(Late { proven: &record.proven, judged: &judged.models }),
            members: record
                .outcomes
                .iter()
                .map(|(id, outcome)| (id, Member { outcome, presence: presence(id), selected: selected(id) }))
                .collect(),
        }
    }

    pub(super) fn standing(&self, member: &Member<'a>, now_unix_ms: u64) -> Standing<'a> {
        // A device that was away has its whole time again: it could not move before it came back.
        let until = |begun: u64, online: u64| begun.max(online).saturating_add(self.settle_limit_ms);
        match (&member.outcome.state, member.presence) {
            (
                Outcome::Waiting { reason },
                Presence::Online { since_unix_ms } | Presence::Returning { since_unix_ms, .. },
            ) => {
                let until_unix_ms = until(self.begun_unix_ms, since_unix_ms);
                if until_unix_ms > now_unix_ms {
                    Standing::Waiting { reason, until_unix_ms }
                } else {
                    Standing::Unknown
                }
            }
            (Outcome::Waiting { .. }, Presence::Offline | Presence::Banned) => Standing::Unknown,
            (Outcome::Deriving, _) => Standing::Deriving,
            (Outcome::NoFit { .. }, _) => Standing::NoFit,
            (Outcome::Fitted, _) => Standing::Ready,
            (
                Outcome::Assigned { since_unix_ms: told },
                Presence::Online { since_unix_ms } | Presence::Returning { since_unix_ms, .. },
            ) => {
                let until_unix_ms = until(*told, since_unix_ms);
                if until_unix_ms > now_unix_ms {
                    Standing::Moving { until_unix_ms }
                } else {
                    Standing::Overdue
                }
            }
            (Outcome::Assigned { .. }, Presence::Offline) => Standing::Away,
            // What it serves, if anything, is not known for as long as it is kept out.
            (Outcome::Assigned { .. } | Outcome::Active { .. }, Presence::Banned) => Standing::Banned,
            (Outcome::Active { since_unix_ms }, _) => {
                let until_unix_ms = since_unix_ms.saturating_add(self.bake_ms);
                if until_unix_ms > now_unix_ms {
                    Standing::Baking { until_unix_ms }
                } else {
                    Standing::Settled
                }
            }
            (Outcome::Failed { reason }, _) => Standing::Lost { reason },
        }
    }

    /// Whether a wave has more to show than that its devices serve.
    pub(super) fn is_guarded(&self) -> bool {
        self.needs_approval || self.has_gate
    }

    /// Whether the next wave may be told once the devices of `wave` serve.
    pub(super) fn may_leave(&self, wave: u32) -> bool {
        self.approved > wave || (!self.needs_approval && self.judgement == Judgement::Open)
    }

    /// The waves in all, the implied last one included.
    pub(super) fn wave_count(&self) -> u32 {
        let written = self.waves.len() as u32;
        match self.waves.last() {
            Some(Wave::Percent(100..)) => written,
            Some(_) | None => written + 1,
        }
    }

    /// Whether `wave` is for devices that a selector matches.
    pub(super) fn is_selection(&self, wave: u32) -> bool {
        matches!(self.waves.get(wave as usize), Some(Wave::Selector(_)))
    }

    /// Whether a device may be told in `wave`, as far as it is a matter of selectors.
    pub(super) fn is_for(&self, wave: u32, device: &DeviceId) -> bool {
        let selected = || self.members.get(device).and_then(|member| member.selected);
        !self.is_selection(wave) || selected().is_some_and(|first| first <= wave)
    }

    /// How many of `devices` have been reached once `wave` is full, whom selectors match left aside: rounded up, so that a wave
    /// of 1 % has a device.
    pub(super) fn target(&self, wave: u32, devices: usize) -> usize {
        let wave = wave as usize;
        let reached = |wave: &Wave| match wave {
            Wave::Percent(percent) => (devices * usize::from(*percent).min(100)).div_ceil(100),
            Wave::Count(count) => devices.min(*count as usize),
            Wave::Selector(_) => 0,
        };
        match self.waves.get(..=wave) {
            Some(waves) if wave + 1 < self.wave_count() as usize => {
                waves.iter().map(reached).max().unwrap_or(0)
            }
            Some(_) | None => devices,
        }
    }

    /// A device's place in the order: the same for ever, and another one in each deployment, so that it is not always
    /// the same devices that try first.
    pub(super) fn place(&self, device: &DeviceId) -> Digest {
        place(self.deployment, device)
    }
}

/// A device's place in a deployment's order.
pub(super) fn place(deployment: &str, device: &DeviceId) -> Digest {
    Digest::of(format!("{deployment}\0{device}").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_come_back_after_a_start_counts_as_there_for_a_while() {
        let start = Start { at_unix_ms: 1000, return_ms: 30 };
        let told =
            OutcomeRecord { state: Outcome::Assigned { since_unix_ms: 5 }, ..OutcomeRecord::waiting("") };
        let active =
            OutcomeRecord { state: Outcome::Active { since_unix_ms: 5 }, ..OutcomeRecord::waiting("") };
        let since = |since_unix_ms| Presence::Online { since_unix_ms };
        let returning = Presence::Returning { since_unix_ms: 1000, for_ms: 30 };
        let waiting = OutcomeRecord::waiting("no profile yet");
        let table = [
            (None, Some(&waiting), 1000, returning),
            (None, Some(&told), 1000, returning),
            (None, Some(&told), 1029, returning),
            (None, Some(&told), 1030, Presence::Offline),
            (None, Some(&told), 999, Presence::Offline),
            (None, Some(&active), 1000, Presence::Offline),
            (None, None, 1000, Presence::Offline),
            (Some(1007), Some(&told), 1029, since(1007)),
            (Some(7), Some(&active), 9000, since(7)),
        ];
        for (connected, outcome, now, expected) in table {
            assert_eq!(start.presence(connected, outcome, now), expected, "{connected:?} {outcome:?} {now}");
        }
    }
}
