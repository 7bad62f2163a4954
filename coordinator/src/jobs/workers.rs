//! Which workers were heard of, when, and whether their connections are still there. In memory only: a restart hears of them
//! again within seconds.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use proto::DeviceId;

use crate::identity::caller::Line;

/// One that waits for work asks again this often at least; one that has some reports it each second.
const SILENCE: Duration = Duration::from_secs(60);

/// A cheap handle to what is known of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Workers(Arc<Mutex<BTreeMap<DeviceId, Known>>>);

/// The connections that a worker was heard on, each with the moment of the first time; and of the last time of all.
#[derive(Debug, Default)]
struct Known {
    lines: Vec<(Line, u64)>,
    last_unix_ms: u64,
}

/// When a worker was heard of, milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Heard {
    /// First, on the connection that it has, or had last.
    pub(crate) since_unix_ms: u64,
    /// Last.
    pub(crate) last_unix_ms: u64,
    /// Whether that connection is there.
    pub(crate) is_connected: bool,
}

impl Heard {
    /// Whether it has been silent for longer than any worker is.
    pub(crate) fn is_away(self, now_unix_ms: u64) -> bool {
        u128::from(now_unix_ms.saturating_sub(self.last_unix_ms)) > SILENCE.as_millis()
    }
}

impl Known {
    fn heard(&self) -> Heard {
        let open = self.lines.iter().rev().find(|(line, _)| line.is_open());
        let since = open.or(self.lines.last()).map_or(self.last_unix_ms, |(_, since)| *since);
        Heard { since_unix_ms: since, last_unix_ms: self.last_unix_ms, is_connected: open.is_some() }
    }
}

impl Workers {
    /// A worker calls on that connection. What comes of one that has ended says nothing.
    pub(crate) fn hear(&self, worker: &DeviceId, line: &Line, now_unix_ms: u64) {
        if !line.is_open() {
            return;
        }
        let mut known = self.lock();
        let known = known.entry(worker.clone()).or_default();
        known.lines.retain(|(line, _)| line.is_open());
        if !known.lines.iter().any(|(known, _)| known == line) {
            known.lines.push((line.clone(), now_unix_ms));
        }
        known.last_unix_ms = now_unix_ms;
    }

    /// A worker ends by its own will: what it had on that connection is not missed. Another of its name may be there.
    pub(crate) fn leave(&self, worker: &DeviceId, line: &Line) {
        let mut all = self.lock();
        let Some(known) = all.get_mut(worker) else { return };
        known.lines.retain(|(known, _)| known != line && known.is_open());
        if known.lines.is_empty() {
            all.remove(worker);
        }
    }

    /// All of them, by name.
    pub(crate) fn all(&self) -> Vec<(DeviceId, Heard)> {
        self.lock().iter().map(|(name, known)| (name.clone(), known.heard())).collect()
    }

    /// Whether it was heard of, and its connection is there no more.
    pub(crate) fn is_gone(&self, worker: &DeviceId) -> bool {
        self.lock().get(worker).is_some_and(|known| !known.heard().is_connected)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<DeviceId, Known>> {
        self.0.lock().expect("no holder of this lock can panic")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::caller::Open;

    #[test]
    fn a_worker_is_there_as_long_as_its_connection_and_since_that_began() {
        let (workers, name): (_, DeviceId) = (Workers::default(), "gpu-1".parse().unwrap());
        let heard = |since, last, is_connected| {
            let known = Heard { since_unix_ms: since, last_unix_ms: last, is_connected };
            assert_eq!(workers.all(), [(name.clone(), known)]);
            assert_eq!(workers.is_gone(&name), !is_connected);
            known
        };
        assert!(!workers.is_gone(&name), "it was never heard of");
        let first = Open::default();
        for now in [1_000, 21_000, 41_000] {
            workers.hear(&name, &first.line(), now);
        }
        let silent = heard(1_000, 41_000, true);
        assert!(!silent.is_away(101_000) && silent.is_away(101_001));
        let late = first.line();
        drop(first);
        heard(1_000, 41_000, false);
        let second = Open::default();
        workers.hear(&name, &second.line(), 50_000);
        workers.hear(&name, &late, 51_000);
        heard(50_000, 50_000, true);
    }

    #[test]
    fn a_worker_that_leaves_is_not_missed_and_another_of_its_name_stays() {
        let (workers, name): (_, DeviceId) = (Workers::default(), "gpu-1".parse().unwrap());
        let (first, second) = (Open::default(), Open::default());
        workers.hear(&name, &first.line(), 1);
        workers.hear(&name, &second.line(), 2);
        workers.leave(&name, &first.line());
        let heard = Heard { since_unix_ms: 2, last_unix_ms: 2, is_connected: true };
        assert_eq!(workers.all(), [(name.clone(), heard)]);
        workers.leave(&name, &second.line());
        assert!(workers.all().is_empty() && !workers.is_gone(&name));
    }

    #[test]
    fn of_two_that_have_one_name_the_one_that_is_there_counts() {
        let (workers, name): (_, DeviceId) = (Workers::default(), "worker".parse().unwrap());
        let (older, newer) = (Open::default(), Open::default());
        workers.hear(&name, &older.line(), 1);
        workers.hear(&name, &newer.line(), 2);
        workers.hear(&name, &older.line(), 3);
        assert_eq!(workers.all()[0].1.since_unix_ms, 2);
        drop(newer);
        let heard = Heard { since_unix_ms: 1, last_unix_ms: 3, is_connected: true };
        assert_eq!(workers.all()[0].1, heard);
    }
}
