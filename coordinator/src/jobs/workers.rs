//! Which workers were heard of, and when. In memory only: a restart hears of them again within seconds.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use proto::DeviceId;

/// One that waits for work asks again this often at least; one that has some reports it each second.
const SILENCE: Duration = Duration::from_secs(60);

/// A cheap handle to what is known of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Workers(Arc<Mutex<BTreeMap<DeviceId, Heard>>>);

/// When a worker was heard of, milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Heard {
    /// First, without a longer silence since.
    pub(crate) since_unix_ms: u64,
    /// Last.
    pub(crate) last_unix_ms: u64,
}

impl Heard {
    /// Whether it has been silent for longer than any worker is.
    pub(crate) fn is_away(self, now_unix_ms: u64) -> bool {
        u128::from(now_unix_ms.saturating_sub(self.last_unix_ms)) > SILENCE.as_millis()
    }
}

impl Workers {
    /// A worker calls.
    pub(crate) fn hear(&self, worker: &DeviceId, now_unix_ms: u64) {
        let mut known = self.lock();
        let new = Heard { since_unix_ms: now_unix_ms, last_unix_ms: now_unix_ms };
        let heard = known.entry(worker.clone()).or_insert(new);
        if heard.is_away(now_unix_ms) {
            *heard = new;
        }
        heard.last_unix_ms = now_unix_ms;
    }

    /// All of them, by name.
    pub(crate) fn all(&self) -> Vec<(DeviceId, Heard)> {
        self.lock().iter().map(|(name, heard)| (name.clone(), *heard)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<DeviceId, Heard>> {
        self.0.lock().expect("no holder of this lock can panic")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_there_since_its_last_long_silence() {
        let (workers, name) = (Workers::default(), "gpu-1".parse().unwrap());
        for now in [1_000, 21_000, 41_000] {
            workers.hear(&name, now);
        }
        let heard = Heard { since_unix_ms: 1_000, last_unix_ms: 41_000 };
        assert_eq!(workers.all(), [(name.clone(), heard)]);
        assert!(!heard.is_away(101_000) && heard.is_away(101_001));
        workers.hear(&name, 200_000);
        assert_eq!(workers.all()[0].1, Heard { since_unix_ms: 200_000, last_unix_ms: 200_000 });
    }
}
