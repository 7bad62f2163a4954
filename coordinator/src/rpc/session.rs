//! One long-lived stream per agent: hello, profile, heartbeats, progress and telemetry in; assignments and
//! acknowledgements out. Stores what it hears, then pokes the driver; decides nothing.

use std::pin::Pin;

use proto::session::{AgentMessage, CoordinatorMessage, Heartbeat, Hello, Phase, Welcome};
use proto::v1::session_service_server::SessionService;
use proto::{DeviceId, Digest, HardwareProfile, Invalid, LatencyInterval, SpoolPosition, v1};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::refused::Claim;
use super::{enrollment, guard, status};
use crate::causes::chain;
use crate::clock::unix_ms;
use crate::config::SessionConfig;
use crate::core::Core;
use crate::fleet::{MANY, Outgoing, Presence, SessionKey};
use crate::histogram;
use crate::identity::quota::{Quota, Turn};
use crate::refusals::Who;
use crate::rollout::progress::{self, Report};
use crate::store::{DeviceRecord, Insertion, Store, StoreError, TelemetryRecord};

/// Messages on their way to one device; more are never needed, since an assignment replaces the one before.
const OUTBOX: usize = 32;

/// Sessions of one device, those included of which a newer one has not been heard yet: as many as it may have connections.
const OF_DEVICE: usize = 8;
/// When a device was last heard of is stored so often while it is connected: all that is known of that where the coordinator
/// dies. Its telemetry is written more often.
const NOTED_EVERY_MS: u64 = 60_000;
/// What the log calls them, where it is not the call that is refused.
const CALL: &str = "SessionService/Session";

#[derive(Clone)]
pub(crate) struct SessionRpc {
    core: Core,
    config: SessionConfig,
    quota: Quota,
}

/// One device that was let in, and the way to it.
struct Guest {
    device: DeviceId,
    who: Who,
    key: SessionKey,
    outbox: mpsc::Sender<Outgoing>,
    _counts: Turn,
}

/// Why a session ended before the device closed it.
enum End {
    Closed,
    Silent,
    Refused(Invalid),
    Store(StoreError),
}

impl From<StoreError> for End {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

type MessageStream = Pin<Box<dyn Stream<Item = Result<v1::CoordinatorMessage, Status>> + Send>>;

#[tonic::async_trait]
impl SessionService for SessionRpc {
    type SessionStream = MessageStream;

    async fn session(
        &self,
        request: Request<Streaming<v1::AgentMessage>>,
    ) -> Result<Response<MessageStream>, Status> {
        let (metadata, extensions, mut inbound) = request.into_parts();
        let caller = Request::from_parts(metadata, extensions, ());
        let peer = guard::peer(&caller);
        let turn = self.quota.take(&peer).map_err(|most| guard::too_many("sessions", most))?;
        let hello = match timeout(self.config.offline_after, inbound.message()).await {
            Err(_) => return Err(Status::deadline_exceeded("no hello")),
            Ok(Err(error)) => return Err(status::no_message(&error).map_or(error, status::invalid)),
            Ok(Ok(None)) => return Err(Status::invalid_argument("the stream ended before its hello")),
            Ok(Ok(Some(message))) => message,
        };
        let claim = Claim::of(&caller);
        if let Some(named) = named(&hello) {
            claim.is(Who::of(&peer, Some(&named)));
        }
        let hello = match AgentMessage::try_from(hello).map_err(status::invalid)? {
            AgentMessage::Hello(hello) => hello,
            _ => return Err(status::invalid(Invalid::new("kind", "a session begins with its hello"))),
        };
        let device = hello.device_id.clone();
        let who = Who::of(&peer, Some(&device));
        let proven = guard::is_device(&caller, &device)?;
        let hello = self.admit(hello, proven).await?;
        let (outbox, inbox) = mpsc::channel(OUTBOX);
        let key = self.open(hello, &outbox).await.map_err(status::store)?;
        // Banned or forgotten since it was let in: whoever did that found no session to close.
        let admissions = &self.core.admissions;
        let is_out = proven.is_some_and(|proven| !admissions.is_confirmed(&device, proven));
        if is_out || admissions.is_banned(&device) {
            self.core.fleet.disconnect(&key);
            return Err(guard::banned(&device));
        }
        if key.takeovers >= MANY {
            // The reason names no number: it is one thing to be said.
            let why = "its sessions take each other's place while they are alive: two machines seem to have its key; let one \
                       of them join anew, by another name";
            self.core.refusals.refused(&who, CALL, why);
        }
        let guest = Guest { device, who, key, outbox, _counts: turn };
        self.core.tasks.spawn(self.clone().serve(guest, inbound));
        let stream = ReceiverStream::new(inbox).map(|outgoing| match outgoing {
            Outgoing::Message(message) => Ok(message.into()),
            Outgoing::Refusal(invalid) => Err(status::invalid(invalid)),
        });
        Ok(Response::new(Box::pin(stream)))
    }
}

impl SessionRpc {
    pub(crate) fn new(core: Core, config: SessionConfig) -> Self {
        Self { core, config, quota: Quota::new(OF_DEVICE, OF_DEVICE) }
    }

    /// Lets a device in that may come, with the labels that its token gives it. `key` is the one that it proved.
    async fn admit(&self, hello: Hello, key: Option<Digest>) -> Result<Hello, Status> {
        let device = hello.device_id.clone();
        if self.core.admissions.is_banned(&device) {
            return Err(guard::banned(&device));
        }
        let Some(key) = key else { return Ok(hello) };
        let admissions = self.core.admissions.clone();
        let confirmed = move |store: &dyn Store| enrollment::confirm(store, &admissions, &device, key);
        let identity = self.core.store.call(confirmed).await.map_err(status::store)??;
        let mut labels = hello.labels.clone();
        labels.extend(identity.labels);
        Ok(Hello { labels, ..hello })
    }

    /// Registers the device, and puts its welcome and what it shall serve into its outbox.
    async fn open(&self, hello: Hello, outbox: &mpsc::Sender<Outgoing>) -> Result<SessionKey, StoreError> {
        let device = hello.device_id.clone();
        let holding = hello.holding;
        tracing::info!(%device, version = hello.agent_version, generation = %holding.generation, "device connected");
        let named = device.clone();
        self.core
            .store
            .call(move |store| {
                match store.register_device(&named, &mut |known| registered(&hello, known)) {
                    // One that is known needs no room to be there.
                    Err(error @ StoreError::Full { .. }) => store.device(&named)?.map(drop).ok_or(error),
                    registered => registered.map(drop),
                }
            })
            .await?;
        let welcome = Welcome {
            heartbeat_interval_ms: self.config.heartbeat_interval.as_millis() as u32,
            telemetry_interval_ms: self.config.telemetry_interval.as_millis() as u32,
            probes: self.core.probes.iter().map(|probe| probe.artifact.clone()).collect(),
            signing_keys: vec![self.core.signer.verifying()],
        };
        // A fresh outbox has room for both, and its receiver is still in this function's caller.
        let queue = |message| outbox.try_send(Outgoing::Message(message)).expect("a fresh outbox has room");
        queue(CoordinatorMessage::Welcome(welcome));
        let now = unix_ms();
        let presence = Presence {
            connected_unix_ms: now,
            last_seen_unix_ms: now,
            holding,
            engine: String::new(),
            progress: None,
            takeovers: Vec::new(),
        };
        let key = self.core.fleet.connect(device.clone(), outbox.clone(), presence);
        // Read only now: whatever is assigned after this is sent to the session that was just connected.
        match self.core.store.call(move |store| store.assignment(&device)).await {
            Ok(Some(assignment)) if assignment.generation > holding.generation => {
                // Where the driver has filled the outbox meanwhile, this assignment is among what it sent.
                let _ = outbox.try_send(Outgoing::Message(self.core.assignment(&assignment)));
            }
            Ok(_) => {}
            Err(error) => {
                self.core.fleet.disconnect(&key);
                return Err(error);
            }
        }
        Ok(key)
    }

    /// Hears the device until it leaves, falls silent, is replaced, or the coordinator stops.
    async fn serve(self, guest: Guest, mut inbound: Streaming<v1::AgentMessage>) {
        self.core.poke.poke();
        let Guest { device, who, key, outbox, .. } = &guest;
        let ended = tokio::select! {
            () = self.core.shutdown.cancelled() => End::Closed,
            () = key.closed.cancelled() => End::Closed,
            ended = self.hear(&guest, &mut inbound) => ended,
        };
        match ended {
            End::Closed => tracing::info!(%device, "session closed"),
            End::Silent => tracing::warn!(%device, "device fell silent"),
            End::Store(error) => tracing::error!(%device, error = chain(&error), "session given up"),
            End::Refused(invalid) => {
                self.core.refusals.refused(who, CALL, &invalid.to_string());
                let _ = outbox.try_send(Outgoing::Refusal(invalid)); // where its outbox is full, closing must do
            }
        }
        if let Some(presence) = self.core.fleet.disconnect(key) {
            // Its last word, not the moment at which nothing more was waited for.
            if let Err(error) = self.note_seen(device, presence.last_seen_unix_ms).await {
                tracing::warn!(error = chain(&error), "when the device was last seen is not stored");
            }
            self.core.poke.poke();
        }
    }

    async fn note_seen(&self, device: &DeviceId, seen_unix_ms: u64) -> Result<(), StoreError> {
        let device = device.clone();
        let noted = self.core.store.call(move |store| {
            store.update_device(&device, &mut |record| record.last_seen_unix_ms = seen_unix_ms).map(drop)
        });
        noted.await
    }

    async fn hear(&self, guest: &Guest, inbound: &mut Streaming<v1::AgentMessage>) -> End {
        let mut noted_unix_ms = unix_ms(); // with its hello
        loop {
            let message = match timeout(self.config.offline_after, inbound.message()).await {
                Err(_) => return End::Silent,
                Ok(Err(error)) => return status::no_message(&error).map_or(End::Closed, End::Refused),
                Ok(Ok(None)) => return End::Closed,
                Ok(Ok(Some(message))) => message,
            };
            let now = unix_ms();
            self.core.fleet.update(&guest.key, |presence| presence.last_seen_unix_ms = now);
            if is_due(noted_unix_ms, now) {
                noted_unix_ms = now;
                match self.note_seen(&guest.device, now).await {
                    // It is there all the same.
                    Ok(()) | Err(StoreError::Full { .. }) => {}
                    Err(error) => return End::Store(error),
                }
            }
            let place = place(&message);
            let handled = match (AgentMessage::try_from(message), place) {
                (Ok(message), _) => self.handle(guest, message).await,
                (Err(invalid), Some(place)) => {
                    self.unreadable(guest, place, invalid.to_string()).await.map_err(End::from)
                }
                (Err(invalid), None) => Err(End::Refused(invalid)),
            };
            if let Err(ended) = handled {
                return ended;
            }
        }
    }

    async fn handle(&self, guest: &Guest, message: AgentMessage) -> Result<(), End> {
        let Guest { device, who, key, .. } = guest;
        match message {
            AgentMessage::Hello(_) => Err(End::Refused(Invalid::new("kind", "a second hello"))),
            AgentMessage::Profile(profile) => Ok(self.profiled(device, profile).await?),
            AgentMessage::Heartbeat(Heartbeat { holding, engine }) => {
                self.core.fleet.update(key, |presence| {
                    (presence.holding, presence.engine) = (holding, engine.clone());
                });
                Ok(())
            }
            AgentMessage::Beat => Ok(()),
            AgentMessage::Progress(report) => {
                self.core.fleet.update(key, |presence| presence.progress = Some(report.clone()));
                if matches!(report.phase, Phase::Downloading { .. } | Phase::Verifying) {
                    return Ok(()); // of the moment: shown, not stored
                }
                let (of, told) = (device.clone(), report.generation);
                let recorded = self
                    .core
                    .store
                    .call(move |store| progress::record(store, &of, &report, unix_ms()))
                    .await?;
                if let Report::Stale(present) = recorded {
                    let why =
                        format!("a report of generation {told}: it has told of {present}, which it has now");
                    self.core.refusals.refused(who, CALL, &why);
                }
                self.core.poke.poke();
                Ok(())
            }
            AgentMessage::Telemetry(place, interval) => {
                match histogram::check(&interval.histogram) {
                    Ok(()) => self.measured(guest, place, interval).await?,
                    Err(error) => self.unreadable(guest, place, chain(&error)).await?,
                }
                Ok(())
            }
        }
    }

    async fn profiled(&self, device: &DeviceId, profile: HardwareProfile) -> Result<(), StoreError> {
        tracing::info!(%device, probes = profile.probes.len(), threads = profile.inference_threads, "device profiled");
        let device = device.clone();
        self.core
            .store
            .call(move |store| {
                store.update_device(&device, &mut |record| record.profile = Some(profile.clone())).map(drop)
            })
            .await?;
        self.core.poke.poke();
        Ok(())
    }

    async fn measured(
        &self,
        guest: &Guest,
        position: SpoolPosition,
        interval: LatencyInterval,
    ) -> Result<(), StoreError> {
        let device = &guest.device;
        let record =
            TelemetryRecord { device: device.clone(), position, interval, received_unix_ms: unix_ms() };
        match self.core.store.call(move |store| store.insert_telemetry(&record)).await {
            Ok(Insertion::AlreadyStored) => tracing::debug!(%device, ?position, "interval sent again"),
            Ok(_) => {}
            // It is not acknowledged: the device keeps it, and sends it again.
            Err(StoreError::Full { .. }) => return Ok(()),
            Err(error) => return Err(error),
        }
        // Nothing waits for it: the driver looks at it in its next round.
        self.core.fresh.mark(device, position);
        guest.acknowledge(position);
        Ok(())
    }

    /// An interval that nobody can ever read is acknowledged, or the device would send it for ever and nothing after it. It is
    /// not stored; that it came is.
    async fn unreadable(&self, guest: &Guest, place: SpoolPosition, why: String) -> Result<(), StoreError> {
        self.core.refusals.refused(&guest.who, "an interval of telemetry", &why);
        let device = guest.device.clone();
        let noted = self.core.store.call(move |store| {
            store.update_device(&device, &mut |record| record.note_unreadable(place, &why)).map(drop)
        });
        noted.await?;
        guest.acknowledge(place);
        Ok(())
    }
}

impl Guest {
    fn acknowledge(&self, place: SpoolPosition) {
        // A full outbox means a stuck device; it sends the interval again when it is not acknowledged.
        let _ = self.outbox.try_send(Outgoing::Message(CoordinatorMessage::TelemetryAck(place)));
    }
}

/// Whether what was noted then of a device is to be noted again. A clock that was set back begins anew.
fn is_due(noted_unix_ms: u64, now_unix_ms: u64) -> bool {
    now_unix_ms < noted_unix_ms || now_unix_ms - noted_unix_ms >= NOTED_EVERY_MS
}

/// Who a hello says that it is of, whatever else of it means nothing.
fn named(message: &v1::AgentMessage) -> Option<DeviceId> {
    match &message.kind {
        Some(v1::agent_message::Kind::Hello(hello)) => hello.device_id.parse().ok(),
        _ => None,
    }
}

/// Which place of a device's spool a message is about, whatever else of it means nothing.
fn place(message: &v1::AgentMessage) -> Option<SpoolPosition> {
    match message.kind {
        Some(v1::agent_message::Kind::Telemetry(v1::Telemetry { epoch, sequence, .. })) => {
            Some(SpoolPosition { epoch, sequence })
        }
        _ => None,
    }
}

fn registered(hello: &Hello, known: Option<DeviceRecord>) -> DeviceRecord {
    let now = unix_ms();
    DeviceRecord {
        id: hello.device_id.clone(),
        labels: hello.labels.clone(),
        agent_version: hello.agent_version.clone(),
        registered_unix_ms: known.as_ref().map_or(now, |known| known.registered_unix_ms),
        ended: known.as_ref().and_then(|known| known.ended.clone()),
        unreadable: known.as_ref().and_then(|known| known.unreadable.clone()),
        profile: known.and_then(|known| known.profile),
        holding: hello.holding.into(),
        serving_address: hello.serving_address.clone(),
        last_seen_unix_ms: now,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_goes_on_speaking_is_noted_each_minute() {
        let (mut noted, mut notes) = (1_000_000, 0);
        for now in (1_000_000..1_600_000).step_by(5_000) {
            if is_due(noted, now) {
                (noted, notes) = (now, notes + 1);
            }
        }
        assert_eq!((noted, notes), (1_540_000, 9));
        assert!(is_due(noted, noted - 1), "the clock was set back");
    }
}
