//! How a job goes from being asked for to its end: leased, renewed, lost, tried again, given up. Pure.

pub(crate) mod ending;
pub(crate) mod log;
pub(crate) mod offer;
pub(crate) mod outcome;
pub mod queue;
pub(crate) mod workers;

use std::time::Duration;

use proto::{ArtifactRef, DeviceId, Digest, Generation};

use crate::store::job::{JobRecord, JobState, Work};

/// A worker that is not heard of for so long has lost its job.
pub const LEASE: Duration = Duration::from_secs(30);
/// A job is given up that was lost so often without having got on: it may be the job that ends its workers.
pub const TRIES: u32 = 3;
/// A worker that gives a job back may have it wait for so long at most.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// No lease and no pause reaches so far ahead: where one does, the clock has gone back since.
const TOO_FAR: Duration = Duration::from_secs(120);

impl Work {
    /// What operators call it.
    pub fn name(&self) -> String {
        match self {
            Self::Score(key) => {
                let json = serde_json::to_vec(key).expect("plain values always serialise");
                format!("score-{}", short(Digest::of(&json)))
            }
            Self::Train(key) => format!("train-{}", short(key.0)),
        }
    }

    /// For whoever follows a deployment.
    pub fn title(&self) -> String {
        match self {
            Self::Score(key) => format!("score {}", key.network),
            Self::Train(key) => format!("train {}", short(key.0)),
        }
    }
}

fn short(digest: Digest) -> String {
    digest.to_string()[..12].to_owned()
}

fn is_too_far(unix_ms: u64, now_unix_ms: u64) -> bool {
    unix_ms > after(now_unix_ms, TOO_FAR)
}

fn after(now_unix_ms: u64, time: Duration) -> u64 {
    now_unix_ms.saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

impl JobRecord {
    /// Work that nobody has asked for before.
    pub fn new(work: Work, deployment: &str, now_unix_ms: u64) -> Self {
        Self {
            name: work.name(),
            work,
            deployment: deployment.to_owned(),
            asked_by: [].into(),
            state: JobState::Queued { not_before_unix_ms: now_unix_ms },
            tries: 0,
            leases: 0,
            worker: None,
            created_unix_ms: now_unix_ms,
            changed_unix_ms: now_unix_ms,
        }
    }

    /// Whether it waits for a worker, or has one.
    pub fn is_open(&self) -> bool {
        matches!(self.state, JobState::Queued { .. } | JobState::Leased { .. })
    }

    /// Whether it may be handed out now.
    pub fn is_waiting(&self, now_unix_ms: u64) -> bool {
        matches!(self.state, JobState::Queued { not_before_unix_ms: from }
            if from <= now_unix_ms || is_too_far(from, now_unix_ms))
    }

    /// Whether its lease has run out, or would last for longer than any does.
    pub fn is_expired(&self, now_unix_ms: u64) -> bool {
        matches!(self.state, JobState::Leased { until_unix_ms: until, .. }
            if until <= now_unix_ms || is_too_far(until, now_unix_ms))
    }

    fn set(&mut self, state: JobState, now_unix_ms: u64) {
        self.state = state;
        self.changed_unix_ms = now_unix_ms;
    }

    /// Somebody wants it: a generation of a deployment, or, without one, an operator who plans. What was given up is tried
    /// again for whoever was not told of that; what nobody wanted is taken up where it was left.
    pub fn ask(&mut self, asker: Option<(&str, Generation)>, now_unix_ms: u64) {
        let is_new = asker.is_none_or(|(name, generation)| self.asked_by.get(name) != Some(&generation));
        if let Some((name, generation)) = asker.filter(|_| is_new) {
            self.asked_by.insert(name.to_owned(), generation);
        }
        let again = match self.state {
            JobState::Queued { .. } | JobState::Leased { .. } | JobState::Done { .. } => false,
            JobState::Failed { .. } | JobState::Cancelled { .. } => is_new,
            JobState::Unwanted => true,
        };
        if again {
            self.queue_anew(now_unix_ms);
        }
    }

    /// Begins again, whatever was.
    pub fn queue_anew(&mut self, now_unix_ms: u64) {
        self.tries = 0;
        self.set(JobState::Queued { not_before_unix_ms: now_unix_ms }, now_unix_ms);
    }

    /// Hands it to a worker, if it waits for one. The lease's number is none that anybody had before.
    pub fn lease(&mut self, worker: &DeviceId, now_unix_ms: u64) -> Option<u64> {
        if !self.is_waiting(now_unix_ms) {
            return None;
        }
        self.leases += 1;
        self.worker = Some(worker.clone());
        let (lease, until_unix_ms) = (self.leases, after(now_unix_ms, LEASE));
        self.set(JobState::Leased { worker: worker.clone(), lease, until_unix_ms }, now_unix_ms);
        Some(lease)
    }

    /// Whether that lease holds.
    pub fn is_held(&self, lease: u64) -> bool {
        matches!(self.state, JobState::Leased { lease: held, .. } if held == lease)
    }

    /// Whether that lease holds, and is that worker's.
    pub fn is_held_by(&self, worker: &DeviceId, lease: u64) -> bool {
        self.is_held(lease)
            && matches!(&self.state, JobState::Leased { worker: holder, .. } if holder == worker)
    }

    /// Its holder was heard of. False where it is the holder no more.
    pub fn renew(&mut self, lease: u64, now_unix_ms: u64) -> bool {
        match &mut self.state {
            JobState::Leased { lease: held, until_unix_ms, .. } if *held == lease => {
                *until_unix_ms = after(now_unix_ms, LEASE);
                true
            }
            _ => false,
        }
    }

    /// Whether a renewal is worth a write: half of the lease is over.
    pub fn is_due(&self, now_unix_ms: u64) -> bool {
        matches!(self.state, JobState::Leased { until_unix_ms: until, .. }
            if until < after(now_unix_ms, LEASE / 2) || is_too_far(until, now_unix_ms))
    }

    /// It has come further than it was, for good: it is not the job that ends its workers.
    pub fn got_on(&mut self, lease: u64, now_unix_ms: u64) -> bool {
        let held = self.renew(lease, now_unix_ms);
        if held {
            self.tries = 0;
        }
        held
    }

    /// A lease that ran out is lost; one of a clock that has gone back since begins now.
    pub fn expire(&mut self, now_unix_ms: u64) {
        let JobState::Leased { lease, until_unix_ms, .. } = self.state else { return };
        if until_unix_ms <= now_unix_ms {
            self.lost(lease, &self.silence(), now_unix_ms);
        } else if is_too_far(until_unix_ms, now_unix_ms) {
            self.renew(lease, now_unix_ms);
        }
    }

    /// Why its lease ran out.
    pub(crate) fn silence(&self) -> String {
        let worker = self.worker.as_ref().map_or("-", DeviceId::as_str);
        format!("worker {worker} was not heard of for {} s", LEASE.as_secs())
    }

    /// Its holder is gone, and not by its own will.
    pub fn lost(&mut self, lease: u64, why: &str, now_unix_ms: u64) {
        if !self.is_held(lease) {
            return;
        }
        self.tries += 1;
        let state = if self.tries < TRIES {
            JobState::Queued { not_before_unix_ms: now_unix_ms }
        } else {
            let reason =
                format!("it was tried {TRIES} times and ended its worker each time; the last time, {why}");
            JobState::Failed { reason }
        };
        self.set(state, now_unix_ms);
    }

    /// Its holder gives it back, to be done by anybody after `pause`; so often, where something is failing, as it may be lost.
    pub fn release(
        &mut self,
        lease: u64,
        (pause, failing): (Duration, Option<&str>),
        now_unix_ms: u64,
    ) -> bool {
        let held = self.is_held(lease);
        self.tries += u32::from(held && failing.is_some());
        if let Some(why) = failing.filter(|_| held && self.tries >= TRIES) {
            let reason = format!("it was tried {TRIES} times in vain; the last time, {why}");
            self.set(JobState::Failed { reason }, now_unix_ms);
        } else if held {
            let not_before_unix_ms = after(now_unix_ms, pause.min(LONGEST_PAUSE));
            self.set(JobState::Queued { not_before_unix_ms }, now_unix_ms);
        }
        held
    }

    /// Its holder has done it. False where it is the holder no more.
    pub fn done(&mut self, lease: u64, result: Option<ArtifactRef>, now_unix_ms: u64) -> bool {
        let held = self.is_held(lease);
        if held {
            self.set(JobState::Done { result }, now_unix_ms);
        }
        held
    }

    /// Its holder says that it cannot be done.
    pub fn fail(&mut self, lease: u64, reason: String, now_unix_ms: u64) -> bool {
        let held = self.is_held(lease);
        if held {
            self.set(JobState::Failed { reason }, now_unix_ms);
        }
        held
    }

    /// An operator stops it. False where it has ended.
    pub fn cancel(&mut self, by: &str, now_unix_ms: u64) -> bool {
        let open = self.is_open();
        if open {
            self.set(JobState::Cancelled { by: by.to_owned() }, now_unix_ms);
        }
        open
    }

    /// It cannot be handed out: what it needs is not there.
    pub fn give_up(&mut self, reason: &str, now_unix_ms: u64) {
        if self.is_open() {
            self.set(JobState::Failed { reason: reason.to_owned() }, now_unix_ms);
        }
    }

    /// No deployment wants it any more.
    pub fn drop_unwanted(&mut self, now_unix_ms: u64) {
        if self.is_open() {
            self.set(JobState::Unwanted, now_unix_ms);
        }
    }

    /// Why it will not be done, where it was given up.
    pub fn failure(&self) -> Option<String> {
        match &self.state {
            JobState::Failed { reason } => Some(reason.clone()),
            JobState::Cancelled { by } => Some(format!("{by} cancelled {}", self.name)),
            JobState::Queued { .. }
            | JobState::Leased { .. }
            | JobState::Done { .. }
            | JobState::Unwanted => None,
        }
    }
}

#[cfg(test)]
mod tests;
