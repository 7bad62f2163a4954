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
}

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
}

impl Fleet {
    /// A device has connected; an older session of it is closed.
    pub fn connect(
        &self,
        device: DeviceId,
        outbox: mpsc::Sender<Outgoing>,
        presence: Presence,
    ) -> SessionKey {
        let mut sessions = self.lock();
        sessions.opened += 1;
        let number = sessions.opened;
        let closed = CancellationToken::new();
        let session = Session { number, outbox, closed: closed.clone(), presence };
        if let Some(older) = sessions.live.insert(device.clone(), session) {
            older.closed.cancel();
        }
        SessionKey { device, number, closed }
    }

    /// The session has ended. True where it was the device's newest, so that the device is offline now.
    pub fn disconnect(&self, key: &SessionKey) -> bool {
        let mut sessions = self.lock();
        let newest = sessions.live.get(&key.device).is_some_and(|session| session.number == key.number);
        if newest {
            sessions.live.remove(&key.device);
        }
        newest
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
        }
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
        assert_eq!(fleet.presence(&device), Some(presence()), "an older session's word counts no more");
        assert!(!fleet.disconnect(&older), "the device is still connected");
        assert!(fleet.disconnect(&newer));
        assert_eq!(fleet.presence(&device), None);
    }
}
