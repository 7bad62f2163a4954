//! Which devices are connected now, and the way to each. In memory only: a restart finds them as they come back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use proto::session::{CoordinatorMessage, Holding, Progress};
use proto::{DeviceId, Invalid};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// A cheap handle to the connected devices.
#[derive(Clone, Default)]
pub struct Fleet {
    sessions: Arc<Mutex<Sessions>>,
}

#[derive(Default)]
struct Sessions {
    opened: u64,
    live: BTreeMap<DeviceId, Session>,
}

/// What goes down a session's stream.
#[derive(Debug)]
pub enum Outgoing {
    /// A message.
    Message(CoordinatorMessage),
    /// The last thing: the device said something that means nothing.
    Refusal(Invalid),
}

/// What is known of a connected device only while it is connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presence {
    /// When it connected, Unix milliseconds.
    pub connected_unix_ms: u64,
    /// When it last spoke, Unix milliseconds.
    pub last_seen_unix_ms: u64,
    /// What it serves.
    pub holding: Holding,
    /// What runs that; empty until it said.
    pub engine: String,
    /// How far its present assignment has come.
    pub progress: Option<Progress>,
    /// When a session took the place of one that was alive, Unix milliseconds; of late, without a pause between them.
    pub takeovers: Vec<u64>,
}

/// A session that was heard of so short a time ago was alive when another took its place.
const ALIVE_MS: u64 = 60_000;
/// A device whose session was taken over so often in a row, each time so soon again, is two machines: the network does that
/// to one now and then.
pub const MANY: usize = 4;
const IN_A_ROW_MS: u64 = 600_000;

struct Session {
    number: u64,
    outbox: mpsc::Sender<Outgoing>,
    closed: CancellationToken,
    presence: Presence,
}

/// Names one session of a device, so that an older one's end does not remove a newer one.
#[derive(Debug, Clone)]
pub struct SessionKey {
    device: DeviceId,
    number: u64,
    /// Cancelled when a newer session of the device takes over.
    pub closed: CancellationToken,
    /// How often, of late, one took the place of another that was alive.
    pub takeovers: usize,
}

impl Presence {
    /// The takeovers once a session that begins now has taken the place of this one.
    fn taken_over(&self, now_unix_ms: u64) -> Vec<u64> {
        if now_unix_ms.saturating_sub(self.last_seen_unix_ms) > ALIVE_MS {
            return Vec::new();
        }
        let is_late = |then: &&u64| now_unix_ms.saturating_sub(**then) < IN_A_ROW_MS;
        // Of more nothing new is learned.
        let known = self.takeovers.iter().filter(is_late).copied();
        let mut takeovers: Vec<u64> = known.chain([now_unix_ms]).collect();
        takeovers.drain(..takeovers.len().saturating_sub(100));
        takeovers
    }
}

impl Fleet {
    /// A device has connected; an older session of it is closed, which is remembered.
    pub fn connect(
        &self,
        device: DeviceId,
        outbox: mpsc::Sender<Outgoing>,
        mut presence: Presence,
    ) -> SessionKey {
        let mut sessions = self.lock();
        if let Some(older) = sessions.live.get(&device) {
            presence.takeovers = older.presence.taken_over(presence.connected_unix_ms);
        }
        let takeovers = presence.takeovers.len();
        sessions.opened += 1;
        let number = sessions.opened;
        let closed = CancellationToken::new();
        let session = Session { number, outbox, closed: closed.clone(), presence };
        if let Some(older) = sessions.live.insert(device.clone(), session) {
            older.closed.cancel();
        }
        SessionKey { device, number, closed, takeovers }
    }

    /// The session has ended. What was known of it, where it was the device's newest, so that the device is offline now.
    pub fn disconnect(&self, key: &SessionKey) -> Option<Presence> {
        let mut sessions = self.lock();
        sessions.live.get(&key.device).filter(|session| session.number == key.number)?;
        sessions.live.remove(&key.device).map(|session| session.presence)
    }

    /// Notes what a device has just said of itself.
    pub fn update(&self, key: &SessionKey, change: impl FnOnce(&mut Presence)) {
        if let Some(session) =
            self.lock().live.get_mut(&key.device).filter(|session| session.number == key.number)
        {
            change(&mut session.presence);
        }
    }

    /// Ends a device's session.
    pub fn close(&self, device: &DeviceId) {
        if let Some(session) = self.lock().live.get(device) {
            session.closed.cancel();
        }
    }

    /// What is known of a device that is connected; `None` where it is not.
    pub fn presence(&self, device: &DeviceId) -> Option<Presence> {
        self.lock().live.get(device).map(|session| session.presence.clone())
    }

    /// Hands a message to a device's session. One that is not connected is sent what it needs when it connects; one that
    /// takes nothing is made to connect again.
    pub fn send(&self, device: &DeviceId, message: CoordinatorMessage) {
        if let Some(session) = self.lock().live.get(device)
            && session.outbox.try_send(Outgoing::Message(message)).is_err()
        {
            tracing::warn!(%device, "the device takes no messages; its session is closed");
            session.closed.cancel();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().expect("no holder of this lock can panic")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn presence() -> Presence {
        let engine = "rten, 1 thread".to_owned();
        Presence {
            connected_unix_ms: 1,
            last_seen_unix_ms: 1,
            holding: Holding::default(),
            engine,
            progress: None,
            takeovers: Vec::new(),
        }
    }

    #[test]
    fn machines_that_throw_each_other_out_are_counted() {
        let (fleet, device): (_, DeviceId) = (Fleet::default(), "gw-1".parse().unwrap());
        let connect = |now| {
            let (outbox, _inbox) = mpsc::channel(1);
            let presence = Presence { connected_unix_ms: now, last_seen_unix_ms: now, ..presence() };
            fleet.connect(device.clone(), outbox, presence)
        };
        let counts: Vec<usize> = (0..5).map(|n| connect(n * 20_000).takeovers).collect();
        assert_eq!(counts, [0, 1, 2, 3, 4]);
        let last = connect(100_000);
        assert_eq!(last.takeovers, 5);
        assert_eq!(connect(100_000 + 9 * 60_000).takeovers, 0, "the one before had been silent");
        assert!(fleet.disconnect(&last).is_none());
        let known = fleet.presence(&device).unwrap();
        assert_eq!(known.takeovers.len(), 0);
    }

    #[test]
    fn a_newer_session_replaces_an_older_one_for_good() {
        let fleet = Fleet::default();
        let device: DeviceId = "gw-1".parse().unwrap();
        let (outbox, _inbox) = mpsc::channel(1);
        let older = fleet.connect(device.clone(), outbox.clone(), presence());
        let newer = fleet.connect(device.clone(), outbox, presence());
        assert!(older.closed.is_cancelled() && !newer.closed.is_cancelled());
        fleet.update(&older, |presence| presence.last_seen_unix_ms = 9);
        let known = fleet.presence(&device).map(|presence| presence.last_seen_unix_ms);
        assert_eq!(known, Some(1), "an older session's word counts no more");
        assert_eq!(fleet.disconnect(&older), None, "the device is still connected");
        let ended = fleet.disconnect(&newer).unwrap();
        assert_eq!((ended.last_seen_unix_ms, ended.takeovers.len()), (1, 1));
        assert_eq!(fleet.presence(&device), None);
    }
}
