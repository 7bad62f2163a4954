//! Sorts a rollout's devices by what they mean for it, and says in plain words what it waits for or why it stopped.

use std::fmt::Write;
use std::time::{Duration, UNIX_EPOCH};

use proto::DeviceId;

use super::gate::Judgement;
use super::plan::{Expiry, Placement};
use super::state::{Member, Presence, Rollout, Standing};

/// Device names in a message before it says "and n more".
const NAMES: usize = 3;

/// The devices of a rollout by what they mean for it, each list in the order of the rollout.
#[derive(Default)]
pub(super) struct Survey<'a> {
    /// Not placed yet, those online first.
    pub(super) ready: Vec<(&'a DeviceId, Presence)>,
    /// Placed in a wave, but whether they were told is not recorded: told again.
    pub(super) untold: Vec<(&'a DeviceId, u32)>,
    /// Told and there, with the time when the wave stops waiting.
    moving: Vec<(&'a DeviceId, u64)>,
    /// Those of them that the coordinator, which has just started, waits for to come back, and for how long, milliseconds.
    returning: Vec<(&'a DeviceId, u64)>,
    /// The lowest wave with a device that is there and does not serve yet.
    pub(super) unanswered: Option<u32>,
    /// Told, there, and too slow.
    pub(super) expired: Vec<Expiry>,
    /// Devices that count and have a wave.
    pub(super) placed: usize,
    /// The highest wave with a device in it.
    pub(super) reached: u32,
    /// There, but without a model to be told, with the time when nobody waits for it any more.
    waiting: Vec<(&'a DeviceId, &'a str, u64)>,
    /// Serve the model, with the time when that has been long enough for the next wave.
    baking: Vec<(&'a DeviceId, u64)>,
    deriving: Vec<&'a DeviceId>,
    /// There, in no wave yet, and not ready to be told, but soon.
    pub(super) unready: Vec<&'a DeviceId>,
    lost: Vec<(&'a DeviceId, &'a str)>,
    banned: Vec<&'a DeviceId>,
    unplaced: usize,
    away: usize,
    settled: usize,
    no_fit: usize,
    unknown: usize,
}

impl<'a> Survey<'a> {
    pub(super) fn of(rollout: &Rollout<'a>, now_unix_ms: u64) -> Self {
        let mut members: Vec<_> = rollout.members.iter().map(|(&id, &member)| (id, member)).collect();
        members.sort_by_cached_key(|&(id, _)| rollout.place(id));
        let mut survey = Self::default();
        for (id, member) in members {
            survey.enter(rollout, (id, member), now_unix_ms);
        }
        survey.ready.sort_by_key(|&(_, presence)| !presence.is_online());
        survey
    }

    fn enter(&mut self, rollout: &Rollout<'a>, (id, member): (&'a DeviceId, Member<'a>), now_unix_ms: u64) {
        match rollout.standing(&member, now_unix_ms) {
            // These two count for nothing, whatever wave they were placed in before.
            Standing::NoFit => return self.no_fit += 1,
            Standing::Unknown => return self.unknown += 1,
            Standing::Waiting { reason, until_unix_ms } => {
                self.waiting.push((id, reason, until_unix_ms));
                self.unready.push(id);
            }
            Standing::Deriving => {
                self.deriving.push(id);
                // It was told, broke its budget and is fitted again: its wave has not shown that more may be told.
                match member.outcome.wave {
                    Some(_) => self.await_answer(member),
                    None if member.presence.is_online() => self.unready.push(id),
                    None => {}
                }
            }
            Standing::Ready => match member.outcome.wave {
                Some(wave) => {
                    self.untold.push((id, wave));
                    self.await_answer(member);
                }
                None => self.ready.push((id, member.presence)),
            },
            Standing::Moving { until_unix_ms } => {
                self.moving.push((id, until_unix_ms));
                if let Presence::Returning { for_ms, .. } = member.presence {
                    self.returning.push((id, for_ms));
                }
                self.await_answer(member);
            }
            Standing::Overdue => {
                let minutes = rollout.settle_limit_ms as f64 / 60_000.0;
                let reason = format!("did not become active within {minutes} min");
                self.expired.push(Expiry { device: id.clone(), reason });
            }
            Standing::Away => self.away += 1,
            Standing::Banned => self.banned.push(id),
            Standing::Settled => self.settled += 1,
            Standing::Baking { until_unix_ms } => {
                self.settled += 1;
                self.baking.push((id, until_unix_ms));
                let wave = member.outcome.wave.unwrap_or(0);
                self.unanswered = Some(self.unanswered.map_or(wave, |lowest| lowest.min(wave)));
            }
            Standing::Lost { reason } => self.lost.push((id, reason)),
        }
        match member.outcome.wave {
            Some(wave) => {
                self.placed += 1;
                self.reached = self.reached.max(wave);
            }
            None => self.unplaced += 1,
        }
    }

    fn await_answer(&mut self, member: Member<'_>) {
        if member.presence.is_online() {
            let wave = member.outcome.wave.unwrap_or(0);
            self.unanswered = Some(self.unanswered.map_or(wave, |lowest| lowest.min(wave)));
        }
    }

    /// When a device that is waited for stops being waited for, milliseconds since 1970.
    pub(super) fn patience_ends(&self) -> Option<u64> {
        let moving = self.moving.iter().map(|&(_, until)| until);
        let baking = self.baking.iter().map(|&(_, until)| until);
        moving.chain(self.waiting.iter().map(|&(_, _, until)| until)).chain(baking).min()
    }

    /// Devices that change over now.
    pub(super) fn moving_count(&self) -> usize {
        self.moving.len()
    }

    /// Devices that have a model and were not told of it.
    pub(super) fn untold_count(&self) -> usize {
        self.ready.len() + self.untold.len()
    }

    /// Devices that waves are shares of.
    pub(super) fn counted(&self) -> usize {
        self.placed + self.unplaced
    }

    /// Why nothing more may happen, if too many devices failed or the gate closed.
    /// What was complete stays so.
    pub(super) fn halt(&self, rollout: &Rollout<'_>) -> Option<String> {
        if rollout.late.is_some() {
            return None;
        }
        if let Judgement::Closed { reason } = &rollout.judgement {
            let wave = format!("wave {} of {}", self.reached + 1, rollout.wave_count());
            return Some(format!("{wave} did not pass the gate: {reason}{}", self.left()));
        }
        if self.lost.len() + self.expired.len() <= rollout.max_failures {
            return None;
        }
        let lost = self.lost.iter().copied();
        let expired = self.expired.iter().map(|expiry| (&expiry.device, expiry.reason.as_str()));
        let (device, reason) = lost.chain(expired).next()?;
        let mut text = format!("device {device} failed");
        if let Some(wave) = rollout.members.get(device).and_then(|member| member.outcome.wave) {
            let _ = write!(text, " in wave {} of {}", wave + 1, rollout.wave_count());
        }
        let _ = write!(text, ": {reason}");
        let others = self.lost.len() + self.expired.len() - 1;
        if others > 0 {
            let _ = write!(text, "; {others} more failed");
        }
        Some(text + &self.left())
    }

    /// Who was not told, as the end of a sentence.
    fn left(&self) -> String {
        match self.untold_count() + self.waiting.len() + self.deriving.len() {
            0 => String::new(),
            untold => format!("; {untold} not told, they keep what they serve"),
        }
    }

    /// What holds up the next wave, now that the devices of `wave` serve.
    fn held(&self, rollout: &Rollout<'_>, wave: u32) -> Option<String> {
        if rollout.may_leave(wave) {
            return None;
        }
        let approve = format!("`reconvene rollout approve {}`", rollout.deployment);
        Some(match &rollout.judgement {
            Judgement::Short { requests, wanted } => {
                format!("{requests} of the {wanted} requests that the gate wants; {approve} goes on without")
            }
            Judgement::Open | Judgement::Closed { .. } => {
                format!("{} not told; {approve} tells the next wave", self.untold_count())
            }
        })
    }

    /// Those that `wave` is for and that are not ready, if others are.
    fn first(&self, rollout: &Rollout<'_>, wave: u32) -> Option<String> {
        let is_first = |device: &&DeviceId| rollout.is_selection(wave) && rollout.is_for(wave, device);
        let first: Vec<_> = self.unready.iter().copied().filter(is_first).collect();
        let is_passed = rollout.late.is_some() || first.is_empty() || self.untold_count() == 0;
        (!is_passed).then(|| names(first.into_iter()))
    }

    /// What the rollout waits for once `assign` was told; `None` if for nothing.
    pub(super) fn pending(
        &self,
        rollout: &Rollout<'_>,
        (assign, wave): (&[Placement], u32),
    ) -> Option<String> {
        let here = format!("wave {} of {}", wave + 1, rollout.wave_count());
        if !assign.is_empty() {
            let told = names(assign.iter().map(|placement| &placement.device));
            return Some(format!("{here}: telling {told}"));
        }
        if !self.moving.is_empty() {
            let moving = names(self.moving.iter().map(|&(id, _)| id));
            let mut text = format!("{here}: waiting for {moving} to serve the new model");
            if let Some(longest) = self.returning.iter().map(|&(_, for_ms)| for_ms).max() {
                let (names, seconds) =
                    (names(self.returning.iter().map(|&(id, _)| id)), longest.div_ceil(1000));
                let _ = write!(
                    text,
                    "; {names} may take up to {seconds} s to come back: the coordinator has just started"
                );
            }
            return Some(text);
        }
        if let Some(first) = self.first(rollout, wave) {
            return Some(format!(
                "{here}: waiting for {first} to have a model, for its selector puts them first"
            ));
        }
        let has_next_wave = rollout.late.is_none() && self.untold_count() > 0;
        if let Some(until) = self.baking.iter().map(|&(_, until)| until).max()
            && has_next_wave
        {
            let baking = names(self.baking.iter().map(|&(id, _)| id));
            // The moment, which stays true as long as it is shown.
            let moment = UNIX_EPOCH + Duration::from_secs(until.div_ceil(1000));
            let moment = humantime::format_rfc3339_seconds(moment);
            let serves = if self.baking.len() == 1 { "serves" } else { "serve" };
            let next = match rollout.needs_approval {
                _ if rollout.approved > self.reached => {
                    format!("the next wave, which is approved, at {moment}")
                }
                true => format!(
                    "the next wave once `reconvene rollout approve {}` says so, not before {moment}",
                    rollout.deployment
                ),
                false => format!("the next wave at {moment}"),
            };
            return Some(format!("{here}: {baking} {serves} the new model; {next}"));
        }
        if has_next_wave && let Some(held) = self.held(rollout, self.reached) {
            return Some(format!("{here}: {held}"));
        }
        if !self.deriving.is_empty() {
            return Some(format!("waiting for the models of {}", names(self.deriving.iter().copied())));
        }
        if let Some((id, reason, _)) = self.waiting.first() {
            return Some(format!("waiting for {id}: {reason}"));
        }
        if self.settled + self.away + self.no_fit + self.lost.len() + self.banned.len() > 0 {
            return None;
        }
        Some(match self.unknown {
            0 => "no device matches the selector yet".to_owned(),
            1 => "1 device matches, it has not sent a profile".to_owned(),
            unknown => format!("{unknown} devices match, none has sent a profile"),
        })
    }

    /// How it ended. So many of those that came later are held back.
    pub(super) fn summary(&self, held: usize) -> String {
        let mut text = format!("{} active", self.settled);
        if self.away > 0 {
            let _ = write!(text, ", {} offline that will change over on return", self.away);
        }
        if !self.lost.is_empty() {
            let _ = write!(text, ", {} failed", self.lost.len());
        }
        match self.banned.as_slice() {
            [] => {}
            [one] => {
                let _ = write!(text, ", 1 banned: `reconvene device unban {one}` lets it in again");
            }
            more => {
                let (count, names) = (more.len(), names(more.iter().copied()));
                let _ = write!(text, ", {count} banned: `reconvene device unban` lets {names} in again");
            }
        }
        if self.no_fit > 0 {
            let _ = write!(text, ", {} without fit", self.no_fit);
        }
        if self.unknown > 0 {
            let _ = write!(text, ", {} without a profile", self.unknown);
        }
        if held > 0 {
            let _ = write!(text, ", {held} held back; `reconvene explain device/NAME` says why");
        }
        text
    }
}

fn names<'a>(devices: impl Iterator<Item = &'a DeviceId>) -> String {
    let devices: Vec<_> = devices.map(DeviceId::as_str).collect();
    match devices.len() {
        0..=NAMES => devices.join(", "),
        all => format!("{} and {} more", devices[..NAMES].join(", "), all - NAMES),
    }
}
