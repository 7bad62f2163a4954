//! Decides what a rollout does next. Pure: the same state and time give the same step.
//!
//! A device is placed in a wave when it is ready, in an order that depends on names alone, those online first: a
//! wave that nobody can answer for proves nothing. A wave is done when each of its devices that is there serves the
//! model; devices without fit are not counted and absent ones are not waited for. Failures stop everything, until the
//! rollout was complete: then they and the gate hold back those that come later (`late`).

use proto::DeviceId;

use super::late;
use super::state::Rollout;
use super::survey::Survey;

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Tell these devices, and record the wave of each.
    pub assign: Vec<Placement>,
    /// Devices that come after the rollout was complete and are not told yet, with why, for an operator.
    pub held: Vec<(DeviceId, String)>,
    /// These took too long; record that they failed.
    pub expired: Vec<Expiry>,
    /// How the rollout stands once that is done.
    pub status: Status,
    /// When to ask again if nothing happens before, milliseconds since 1970; `None`: only when something happens.
    pub wake_unix_ms: Option<u64>,
}

/// A device that is to be told, in its wave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// The device.
    pub device: DeviceId,
    /// Its wave, from 0.
    pub wave: u32,
}

/// A device that did not become active in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expiry {
    /// The device.
    pub device: DeviceId,
    /// Why, for an operator.
    pub reason: String,
}

/// How a rollout stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// It goes on when something happens.
    Waiting {
        /// For what, for an operator.
        reason: String,
    },
    /// Every device has what it can have, or will have it when it comes back.
    Complete {
        /// How many of each, for an operator.
        summary: String,
    },
    /// It was stopped; devices not yet told keep what they serve.
    Failed {
        /// Which device and why, for an operator.
        reason: String,
    },
}

/// What `rollout` does next at `now_unix_ms`.
pub fn next(rollout: &Rollout<'_>, now_unix_ms: u64) -> Step {
    let survey = Survey::of(rollout, now_unix_ms);
    if let Some(reason) = survey.halt(rollout) {
        let status = Status::Failed { reason };
        return Step {
            assign: Vec::new(),
            held: Vec::new(),
            expired: survey.expired,
            status,
            wake_unix_ms: None,
        };
    }
    let mut held = Vec::new();
    let (assign, wave) = match rollout.late {
        _ if rollout.paused => (Vec::new(), survey.reached),
        Some(known) => {
            let admitted = late::admit(rollout, known, &survey);
            held = admitted.held;
            (admitted.assign, rollout.wave_count() - 1)
        }
        None => open_waves(rollout, &survey),
    };
    let status = match survey.pending(rollout, (&assign, wave)) {
        _ if rollout.paused && survey.untold_count() > 0 => Status::Waiting {
            reason: format!(
                "paused, {} not told; `reconvene rollout resume {}` goes on",
                survey.untold_count(),
                rollout.deployment
            ),
        },
        Some(reason) => Status::Waiting { reason },
        None => Status::Complete { summary: survey.summary(held.len()) },
    };
    let told = (!assign.is_empty()).then(|| now_unix_ms.saturating_add(rollout.settle_limit_ms));
    let wake_unix_ms = survey.patience_ends().into_iter().chain(told).min();
    Step { assign, held, expired: survey.expired, status, wake_unix_ms }
}

/// Fills the open wave, and the next ones as long as nobody has to be waited for. Returns the open wave too.
fn open_waves(rollout: &Rollout<'_>, survey: &Survey<'_>) -> (Vec<Placement>, u32) {
    let place = |device: &DeviceId, wave| Placement { device: device.clone(), wave };
    let mut free = rollout.max_concurrent.saturating_sub(survey.moving_count());
    let mut assign: Vec<_> =
        survey.untold.iter().take(free).map(|&(device, wave)| place(device, wave)).collect();
    free -= assign.len();
    let last = rollout.wave_count() - 1;
    let mut wave = survey.reached.min(last);
    if survey.unanswered.is_some_and(|unanswered| unanswered < wave) {
        // A device of an earlier wave was away when this one opened, and is back: first its answer, then more.
        return (assign, wave);
    }
    let mut blocked = survey.unanswered.is_some();
    let mut placed = survey.placed;
    let mut ready = survey.ready.clone();
    let may_leave = rollout.may_leave(survey.reached);
    let mut is_beyond = false;
    loop {
        let is_selection = rollout.is_selection(wave);
        let target = if is_selection { usize::MAX } else { rollout.target(wave, survey.counted()) };
        ready.retain(|&(device, presence)| {
            if placed >= target || free == 0 || !rollout.is_for(wave, device) {
                return true;
            }
            assign.push(place(device, wave));
            placed += 1;
            free -= 1;
            blocked |= presence.is_online();
            is_beyond |= wave > survey.reached;
            false
        });
        // The others are not told before those that are meant to try it first.
        blocked |= is_selection && survey.unready.iter().any(|device| rollout.is_for(wave, device));
        // What the gate said, it said of the wave that was reached: one that is opened now has to be judged first. One that nobody
        // is in has nothing to show.
        let is_held = placed > 0 && (!may_leave || (is_beyond && rollout.is_guarded()));
        if ready.is_empty() || blocked || is_held || free == 0 || wave == last {
            return (assign, wave);
        }
        wave += 1;
    }
}

#[cfg(test)]
mod tests;
