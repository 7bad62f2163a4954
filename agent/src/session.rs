//! The conversation with the coordinator: one stream, built up again whenever it breaks. Owns what is said and when;
//! decides nothing about models. Wire types end here.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prost::Message as _;
use proto::session::{
    AgentMessage, Assignment, CoordinatorMessage, Heartbeat, Hello, Phase, Progress, Welcome,
};
use proto::v1::session_service_client::SessionServiceClient;
use proto::{ArtifactRef, Digest, Generation, HardwareProfile, Invalid, SignedAssignment, SpoolPosition, v1};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

use crate::causes::{Said, describe};
use crate::config::Config;
use crate::identity::connect::{Listener, Target};
use crate::identity::{self, Identity, IdentityError};
use crate::runner::{Runner, ServedModel};
use crate::spool::shared::SharedSpool;
use crate::state::FileError;
use crate::trust::Trust;
use crate::update::holding;

pub(crate) mod backoff;

use backoff::Backoff;

/// To connect, and then to be welcomed.
const GREETING: Duration = Duration::from_secs(10);

/// For the coordinator to take a message, or to acknowledge telemetry.
const PATIENCE: Duration = Duration::from_secs(30);

/// Intervals on their way at once.
const WINDOW: u64 = 8;

/// Messages that may wait for the network.
const OUTBOX: usize = 32;

/// A session that lasted this long makes the next wait short again.
const SETTLED: Duration = Duration::from_secs(10);

/// The loop turns at least this often, connected or not; see [`Pulse`].
const BEAT: Duration = Duration::from_secs(10);

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("the coordinator does not take this device: {}", .0.message())]
    Refused(Status),
    #[error("the coordinator is not reachable: {}", .0.message())]
    Call(Status),
    #[error("{0}")]
    Unreachable(String),
    #[error("the coordinator does not take this device: {0}")]
    Banned(String),
    #[error("the coordinator ended the session: {}", .0.message())]
    Broken(Status),
    #[error("the coordinator closed the session")]
    Closed,
    #[error("the coordinator did not {0}")]
    Silent(&'static str),
    #[error("the coordinator's greeting is invalid")]
    Greeting(#[source] Invalid),
    #[error("the coordinator's first message is no welcome")]
    NoWelcome,
    #[error(
        "the coordinator at {0} encrypts; set coordinator to https://{0}, and put the file that `reconvene token create` prints \
         into /etc/reconvene/join.d, or name it as join_file"
    )]
    Encrypts(String),
    #[error(
        "what listens at {at} is no Reconvene coordinator: {why}; set coordinator to the address and port of one, 7370 unless it was \
         told another"
    )]
    Stranger { at: String, why: String },
    #[error(
        "what listens at {0} ends every connection without a word; see the log of the coordinator there, or set coordinator to the \
         address and port of one"
    )]
    HangsUp(String),
}

/// A call that did not lead to a session.
fn refused(status: Status) -> SessionError {
    match status.code() {
        tonic::Code::PermissionDenied | tonic::Code::Unauthenticated => SessionError::Refused(status),
        _ => SessionError::Call(status),
    }
}

/// Whether it is no coordinator that gave such an answer to a call that every one knows: another server of gRPC, or a web server.
fn is_of_stranger(status: &Status) -> bool {
    status.code() == tonic::Code::Unimplemented || status.message().starts_with("grpc-status header missing")
}

/// When the session's loop last turned: what the watchdog looks at.
#[derive(Debug, Clone)]
pub struct Pulse {
    start: Instant,
    last_ms: Arc<AtomicU64>,
    connected: Arc<AtomicBool>,
    /// Why the last session ended, or none began.
    why: Arc<Mutex<String>>,
}

impl Pulse {
    /// A pulse that beats now.
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
            last_ms: Arc::default(),
            connected: Arc::default(),
            why: Arc::default(),
        }
    }

    fn beat(&self) {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(now, Ordering::Relaxed);
    }

    fn connected(&self) {
        self.connected.store(true, Ordering::Relaxed);
    }

    fn disconnected(&self, why: String) {
        *self.why.lock().unwrap_or_else(PoisonError::into_inner) = why;
        self.connected.store(false, Ordering::Relaxed);
    }

    /// Why there is no session, on one line; empty before the first attempt.
    pub fn why_not(&self) -> String {
        self.why.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether a coordinator has welcomed this device, and the session lasts.
    pub fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// Time since the last beat.
    pub fn age(&self) -> Duration {
        self.start.elapsed().saturating_sub(Duration::from_millis(self.last_ms.load(Ordering::Relaxed)))
    }
}

impl Default for Pulse {
    fn default() -> Self {
        Self::new()
    }
}

/// What the session tells and hears.
pub struct Session {
    /// Who speaks.
    pub config: Config,
    /// Where the inference API listens.
    pub serving_address: String,
    /// Whose assignments count.
    pub trust: Trust,
    /// Who this device is to a coordinator that encrypts.
    pub identity: Option<Identity>,
    /// To the coordinator.
    pub channel: Channel,
    /// What serves.
    pub runner: Runner,
    /// Telemetry to be sent.
    pub spool: SharedSpool,
    /// How far the last assignment has come.
    pub progress: watch::Receiver<Option<Progress>>,
    /// The last complete profile.
    pub profile: watch::Receiver<Option<HardwareProfile>>,
    /// The assignments, to whoever follows them.
    pub assignments: watch::Sender<Option<Assignment>>,
    /// The probes, to whoever times them.
    pub probes: watch::Sender<Option<Vec<ArtifactRef>>>,
    /// The rhythm of telemetry, to whoever closes intervals.
    pub telemetry_interval: watch::Sender<Duration>,
    /// For the watchdog.
    pub pulse: Pulse,
}

/// A channel to the coordinator at `address`, which is connected when it is first used and again when it broke.
pub fn channel(
    address: &str,
    identity: Option<&Result<Identity, IdentityError>>,
) -> Result<Channel, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(address.to_owned())?
        .connect_timeout(GREETING / 2)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true);
    Ok(match identity {
        None => endpoint.connect_lazy(),
        Some(Ok(identity)) => identity::connect::channel(&endpoint, identity.clone()),
        Some(Err(error)) => identity::connect::nowhere(&endpoint, describe(error)),
    })
}

impl Session {
    /// Keeps a session up until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut backoff = Backoff::new();
        let mut said = Said::default();
        loop {
            let started = Instant::now();
            let Some(Err(ended)) = stop.run_until_cancelled(self.converse()).await else { return };
            // Whoever only keeps silent for so long is no coordinator that came back.
            if self.pulse.is_connected() && started.elapsed() >= SETTLED {
                backoff.reset();
                said.forget();
            }
            let wait = backoff.next_delay();
            if let (
                Some(identity),
                SessionError::Call(_) | SessionError::Broken(_) | SessionError::Refused(_),
            ) = (&self.identity, &ended)
                && started.elapsed() < SETTLED
            {
                identity.doubt();
            }
            let Some(error) = stop.run_until_cancelled(self.understood(ended)).await else { return };
            let (error, wait_ms) = (describe(&error), wait.as_millis() as u64);
            self.pulse.disconnected(error.clone());
            if said.is_news(&error, Instant::now()) {
                tracing::warn!(error, wait_ms, "no session; trying again");
            } else {
                tracing::debug!(error, wait_ms, "no session yet");
            }
            self.pulse.beat();
            if stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                return;
            }
        }
    }

    /// Has no session until `stop`, for this device is nobody that a coordinator would know.
    pub async fn stay_alone(self, why: IdentityError, stop: CancellationToken) {
        let why = describe(&why);
        tracing::error!(why, "no coordinator is looked for until the agent is started again");
        self.pulse.disconnected(why);
        let mut beat = tokio::time::interval(BEAT);
        while stop.run_until_cancelled(beat.tick()).await.is_some() {
            self.pulse.beat();
        }
    }

    /// Why there was no session, where another look at the coordinator, or at what it says, tells it better.
    async fn understood(&self, error: SessionError) -> SessionError {
        let is_plain =
            self.identity.is_none() && matches!(error, SessionError::Call(_) | SessionError::Broken(_));
        let Ok(target) = Target::parse(&self.config.coordinator) else { return error };
        let at = target.authority();
        if is_plain {
            match identity::connect::listener(&target).await {
                Listener::Encrypts => return SessionError::Encrypts(at),
                Listener::Speaks(what) => {
                    return SessionError::Stranger { at, why: format!("it speaks {what}") };
                }
                Listener::HangsUp => return SessionError::HangsUp(at),
                Listener::Http2 | Listener::Silent => {}
            }
        }
        match error {
            SessionError::Refused(status) | SessionError::Call(status) if is_of_stranger(&status) => {
                let why = match status.message() {
                    "" => "it knows no sessions of devices".to_owned(),
                    said => format!("it answers '{said}'"),
                };
                SessionError::Stranger { at, why }
            }
            SessionError::Refused(status) if identity::is_of_ban(status.message()) => {
                SessionError::Banned(identity::banned(status.message(), &self.config.device_id))
            }
            // One that was made here, not there.
            SessionError::Call(status) => match std::error::Error::source(&status) {
                Some(source) => SessionError::Unreachable(identity::connect::reason(source, &target)),
                None => SessionError::Call(status),
            },
            SessionError::Silent(what) => {
                SessionError::Unreachable(format!("the coordinator at {at} did not {what} in time"))
            }
            other => other,
        }
    }

    /// One session, from hello to its end, which is never expected.
    async fn converse(&mut self) -> Result<Infallible, SessionError> {
        if let Some(identity) = &self.identity {
            identity.ensure().await?;
        }
        let mut active = self.runner.subscribe();
        let (outbox, messages) = mpsc::channel(OUTBOX);
        let outbox = Outbox(outbox);
        let hello = self.hello(active.borrow_and_update().as_ref());
        outbox.send(AgentMessage::Hello(hello)).await?;
        let mut client = SessionServiceClient::new(self.channel.clone());
        let call = tokio::time::timeout(GREETING, client.session(ReceiverStream::new(messages)));
        let response = call.await.map_err(|_| SessionError::Silent("answer"))?;
        let mut inbox = response.map_err(refused)?.into_inner();
        let welcome = self.welcome(&mut inbox).await?;
        self.pulse.connected();
        let mut heartbeat =
            tokio::time::interval(Duration::from_millis(u64::from(welcome.heartbeat_interval_ms)));
        let mut pulse = tokio::time::interval(BEAT);
        outbox.send(heartbeat_of(&active)).await?;
        let mut appended = self.spool.subscribe();
        let mut flow = Flow::begin(&self.spool).await;
        let identity = self.identity.clone();
        let mut renewal = std::pin::pin!(async move {
            match identity {
                Some(identity) => identity.keep_renewed().await,
                None => std::future::pending().await,
            }
        });
        self.progress.mark_changed();
        self.profile.mark_changed();
        appended.mark_changed();
        loop {
            self.pulse.beat();
            tokio::select! {
                message = inbox.message() => self.hear(message, &mut flow, &outbox).await?,
                _ = pulse.tick() => {}
                () = &mut renewal => {}
                _ = heartbeat.tick() => outbox.send(AgentMessage::Beat).await?,
                Ok(()) = active.changed() => outbox.send(heartbeat_of(&active)).await?,
                Ok(()) = self.progress.changed() => {
                    let progress = self.progress.borrow_and_update().clone();
                    outbox.send_some(progress.map(AgentMessage::Progress)).await?;
                }
                Ok(()) = self.profile.changed() => {
                    let profile = self.profile.borrow_and_update().clone();
                    outbox.send_some(profile.map(AgentMessage::Profile)).await?;
                }
                Ok(()) = appended.changed() => flow.pump(&self.spool, &outbox).await?,
                () = flow.overdue() => return Err(SessionError::Silent("acknowledge telemetry")),
            }
        }
    }

    fn hello(&self, active: Option<&Arc<ServedModel>>) -> Hello {
        Hello {
            device_id: self.config.device_id.clone(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            labels: self.config.labels.clone(),
            holding: holding(active),
            serving_address: self.serving_address.clone(),
        }
    }

    async fn welcome(
        &mut self,
        inbox: &mut Streaming<v1::CoordinatorMessage>,
    ) -> Result<Welcome, SessionError> {
        let first = tokio::time::timeout(GREETING, inbox.message());
        let first = first.await.map_err(|_| SessionError::Silent("welcome this device"))?;
        let first = first.map_err(refused)?.ok_or(SessionError::Closed)?;
        match CoordinatorMessage::try_from(first).map_err(SessionError::Greeting)? {
            CoordinatorMessage::Welcome(welcome) => {
                tracing::info!(
                    coordinator = self.config.coordinator,
                    probes = welcome.probes.len(),
                    "session"
                );
                self.trust.hear(&welcome.signing_keys);
                self.telemetry_interval
                    .send_replace(Duration::from_millis(u64::from(welcome.telemetry_interval_ms)));
                // Told again at each connection; only a difference is worth interrupting a measurement.
                self.probes.send_if_modified(|known| {
                    let changed = known.as_ref() != Some(&welcome.probes);
                    *known = Some(welcome.probes.clone());
                    changed
                });
                Ok(welcome)
            }
            CoordinatorMessage::Assignment(_) | CoordinatorMessage::TelemetryAck(_) => {
                Err(SessionError::NoWelcome)
            }
        }
    }

    async fn hear(
        &self,
        message: Result<Option<v1::CoordinatorMessage>, Status>,
        flow: &mut Flow,
        outbox: &Outbox,
    ) -> Result<(), SessionError> {
        let message = message.map_err(SessionError::Broken)?.ok_or(SessionError::Closed)?;
        match CoordinatorMessage::try_from(message) {
            Ok(CoordinatorMessage::Assignment(signed)) => {
                match self.trust.check(&signed, &self.config.device_id) {
                    Ok(assignment) => self.assign(assignment),
                    Err(error) => {
                        let reason = describe(&error);
                        tracing::error!(reason, "an assignment is not followed");
                        outbox.send_some(refusal(&signed, reason)).await?;
                    }
                }
            }
            Ok(CoordinatorMessage::TelemetryAck(position)) => {
                flow.acknowledged(position, &self.spool, outbox).await?
            }
            Ok(CoordinatorMessage::Welcome(_)) => tracing::warn!("a second welcome is ignored"),
            Err(invalid) => tracing::warn!(error = %invalid, "an invalid message is ignored"),
        }
        Ok(())
    }

    /// An assignment that is older than the last one was overtaken on its way.
    fn assign(&self, assignment: Assignment) {
        self.assignments.send_if_modified(|wanted| {
            let overtaken = wanted.as_ref().is_some_and(|wanted| wanted.generation > assignment.generation);
            if !overtaken {
                *wanted = Some(assignment);
            }
            !overtaken
        });
    }
}

/// What is said of an assignment that is not followed: whatever else of it means nothing, as long as it has a generation.
fn refusal(signed: &SignedAssignment, reason: String) -> Option<AgentMessage> {
    let wire = v1::Assignment::decode(&*signed.assignment).ok().filter(|wire| wire.generation > 0)?;
    let named = wire.model.and_then(|model| model.artifact?.digest.parse().ok());
    // The generation says which one it is; a digest is only repeated.
    let digest = named.unwrap_or(Digest::from_bytes([0; 32]));
    let phase = Phase::Failed { reason };
    Some(AgentMessage::Progress(Progress { generation: Generation(wire.generation), digest, phase }))
}

fn heartbeat_of(active: &watch::Receiver<Option<Arc<ServedModel>>>) -> AgentMessage {
    let active = active.borrow();
    let engine = active.as_ref().map(|model| model.engine.choice().to_string()).unwrap_or_default();
    AgentMessage::Heartbeat(Heartbeat { holding: holding(active.as_ref()), engine })
}

/// The way out, which must not block for ever.
struct Outbox(mpsc::Sender<v1::AgentMessage>);

impl Outbox {
    async fn send(&self, message: AgentMessage) -> Result<(), SessionError> {
        use mpsc::error::SendTimeoutError::{Closed, Timeout};
        self.0.send_timeout(message.into(), PATIENCE).await.map_err(|error| match error {
            Timeout(_) => SessionError::Silent("take a message"),
            Closed(_) => SessionError::Closed,
        })
    }

    async fn send_some(&self, message: Option<AgentMessage>) -> Result<(), SessionError> {
        match message {
            Some(message) => self.send(message).await,
            None => Ok(()),
        }
    }
}

/// Telemetry within one session: a window of intervals is on its way, the rest waits for acknowledgements.
struct Flow {
    epoch: u64,
    acked: u64,
    sent: u64,
    deadline: Option<tokio::time::Instant>,
}

impl Flow {
    async fn begin(spool: &SharedSpool) -> Self {
        Self::from(spool.with(|spool| spool.position()).await)
    }

    fn from(SpoolPosition { epoch, sequence }: SpoolPosition) -> Self {
        Self { epoch, acked: sequence, sent: sequence, deadline: None }
    }

    async fn pump(&mut self, spool: &SharedSpool, outbox: &Outbox) -> Result<(), SessionError> {
        while self.sent - self.acked < WINDOW {
            let (epoch, sent) = (self.epoch, self.sent);
            let next = spool.with(move |spool| {
                // The disk takes a spool again, which has numbers of its own.
                let begins = spool.position();
                let sent = if begins.epoch == epoch { sent } else { begins.sequence };
                let Some((position, interval)) = spool.after(sent) else { return Ok(None) };
                let interval = interval.clone();
                spool.mark_sent(position.sequence)?;
                Ok::<_, FileError>(Some((begins, position, interval)))
            });
            let (begins, position, interval) = match next.await {
                Ok(Some(next)) => next,
                Ok(None) => return Ok(()),
                Err(error) => {
                    // A disk that takes no writes holds up telemetry, not the session; the next interval tries again.
                    tracing::warn!(error = describe(&error), "telemetry waits");
                    return Ok(());
                }
            };
            if begins.epoch != self.epoch {
                *self = Self::from(begins);
            }
            outbox.send(AgentMessage::Telemetry(position, interval)).await?;
            self.sent = position.sequence;
            self.deadline.get_or_insert_with(|| tokio::time::Instant::now() + PATIENCE);
        }
        Ok(())
    }

    async fn acknowledged(
        &mut self,
        position: SpoolPosition,
        spool: &SharedSpool,
        outbox: &Outbox,
    ) -> Result<(), SessionError> {
        let acked = spool.with(move |spool| {
            if let Err(error) = spool.acknowledge(position) {
                // It may be sent again after a restart; the coordinator knows its number.
                tracing::warn!(error = describe(&error), "an acknowledgement is not on the disk");
            }
            spool.position()
        });
        let acked = acked.await;
        if acked.epoch != self.epoch {
            *self = Self::from(acked);
        } else if acked.sequence > self.acked {
            self.acked = acked.sequence;
            self.sent = self.sent.max(acked.sequence);
            let waiting = self.sent > self.acked;
            self.deadline = waiting.then(|| tokio::time::Instant::now() + PATIENCE);
        }
        self.pump(spool, outbox).await
    }

    async fn overdue(&self) {
        match self.deadline {
            Some(deadline) => tokio::time::sleep_until(deadline).await,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_is_told_from_a_coordinator_that_refuses() {
        for (status, expected) in [
            (Status::unimplemented(""), true),
            // As the library says what a web server answers.
            (Status::permission_denied("grpc-status header missing, mapped from HTTP status code 403"), true),
            (Status::permission_denied("the device is banned"), false),
            (Status::unavailable("too many sessions"), false),
        ] {
            assert_eq!(is_of_stranger(&status), expected, "{status}");
        }
    }
}
