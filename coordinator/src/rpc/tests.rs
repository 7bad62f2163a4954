//! What the ports make of bad input, over real connections: a precise status, one line in the log, and nothing changed.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use proto::session::{AgentMessage, Hello, Holding, Phase, Progress};
use proto::v1::artifact_service_client::ArtifactServiceClient;
use proto::v1::coordinator_message::Kind;
use proto::v1::enrollment_service_client::EnrollmentServiceClient;
use proto::v1::operator_service_client::OperatorServiceClient;
use proto::v1::session_service_client::SessionServiceClient;
use proto::{DeviceId, Digest, Generation, LatencyInterval, SpoolPosition, v1};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::codegen::http;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use tower::ServiceExt as _;

mod apply;
mod jobs;
pub(super) mod told;
mod workers;

use super::status::blocking;
use crate::app::{App, AppError};
use crate::config::{Config, DeriveConfig, SessionConfig};
use crate::histogram::tests::encoded;
use crate::store::{SledStore, Store as _, StoreError};

/// A coordinator whose connections are not encrypted, and what it logs of whom it refused.
struct Host {
    folder: tempfile::TempDir,
    address: SocketAddr,
    stop: CancellationToken,
    running: JoinHandle<Result<(), AppError>>,
    log: Log,
    _logging: tracing::subscriber::DefaultGuard,
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Host {
    async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// One that finds this in its store.
    async fn start_with(prepare: impl FnOnce(&SledStore)) -> Self {
        let log = Log::default();
        let writer = log.clone();
        let logging = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        let guard = tracing::subscriber::set_default(logging);
        let folder = tempfile::tempdir().unwrap();
        prepare(&SledStore::open(&folder.path().join("store")).unwrap());
        let session = SessionConfig {
            heartbeat_interval: Duration::from_secs(1),
            telemetry_interval: Duration::from_secs(1),
            offline_after: Duration::from_secs(20),
        };
        let config = Config {
            listen: "127.0.0.1:0".parse().unwrap(),
            state_dir: folder.path().to_owned(),
            tls: None,
            socket: None,
            session,
            derive: DeriveConfig { threads: 1, local_worker: false },
            trainer: None,
        };
        let app = unlocked(move || match App::open(config.clone()) {
            Err(AppError::Store(error)) => Err(error),
            opened => Ok(opened.unwrap()),
        });
        let app = app.await;
        let listener = app.listen().await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let running = TaskTracker::new().spawn(app.run(listener, None, stop.clone().cancelled_owned()));
        Self { folder, address, stop, running, log, _logging: guard }
    }

    async fn channel(&self) -> Channel {
        let endpoint = Channel::from_shared(format!("http://{}", self.address)).unwrap();
        endpoint.connect().await.unwrap()
    }

    /// A session that says this.
    async fn say(&self, messages: &[v1::AgentMessage]) -> Result<Talk, Status> {
        let (outbox, outgoing) = mpsc::channel(64);
        for message in messages {
            outbox.send(message.clone()).await.unwrap();
        }
        let mut client = SessionServiceClient::new(self.channel().await);
        let inbox = client.session(ReceiverStream::new(outgoing)).await?.into_inner();
        Ok(Talk { outbox, inbox })
    }

    /// The lines about refusals that have all these words.
    fn refused(&self, words: &[&str]) -> usize {
        let log = String::from_utf8(self.log.0.lock().unwrap().clone()).unwrap();
        let lines = log.lines().filter(|line| line.contains(" refused "));
        lines.filter(|line| words.iter().all(|word| line.contains(word))).count()
    }

    /// What it has stored, once it has stopped.
    async fn stopped(self) -> (tempfile::TempDir, SledStore) {
        self.stop.cancel();
        self.running.await.unwrap().unwrap();
        let folder = self.folder.path().join("store");
        let store = unlocked(move || SledStore::open(&folder)).await;
        (self.folder, store)
    }
}

/// What `open` opens, once nobody else has it: a call may be under way still, and a process that another test starts has a copy of
/// the lock until it is the program that it shall be.
async fn unlocked<T: Send + 'static>(open: impl Fn() -> Result<T, StoreError> + Clone + Send + 'static) -> T {
    let tried_until = Instant::now() + Duration::from_secs(20);
    loop {
        match blocking(open.clone()).await.unwrap() {
            Err(StoreError::Locked { .. }) if Instant::now() < tried_until => {}
            opened => return opened.unwrap(),
        }
    }
}

/// A session under way.
struct Talk {
    outbox: mpsc::Sender<v1::AgentMessage>,
    inbox: Streaming<v1::CoordinatorMessage>,
}

impl Talk {
    async fn send(&self, message: impl Into<v1::AgentMessage>) {
        self.outbox.send(message.into()).await.unwrap();
    }

    /// The number of the next interval that is acknowledged.
    async fn acknowledged(&mut self) -> u64 {
        loop {
            if let Some(Kind::TelemetryAck(ack)) = self.inbox.message().await.unwrap().unwrap().kind {
                return ack.sequence;
            }
        }
    }

    /// How it is ended.
    async fn ended(mut self) -> Status {
        loop {
            match self.inbox.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it ended as if nothing were wrong"),
                Err(status) => return status,
            }
        }
    }
}

fn gw(number: u32) -> DeviceId {
    format!("gw-{number}").parse().unwrap()
}

fn hello(device: &DeviceId) -> v1::AgentMessage {
    let hello = Hello {
        device_id: device.clone(),
        agent_version: "0.1.0".to_owned(),
        labels: Default::default(),
        holding: Holding::default(),
        serving_address: String::new(),
    };
    AgentMessage::Hello(hello).into()
}

fn telemetry(sequence: u64, histogram: Vec<u8>) -> AgentMessage {
    let interval = LatencyInterval {
        digest: Digest::of(b"model"),
        generation: Generation(1),
        interval_ms: 1000,
        histogram,
        errors: 0,
        rss: None,
        cpu_ms: None,
        millicelsius: None,
    };
    AgentMessage::Telemetry(SpoolPosition { epoch: 1, sequence }, interval)
}

#[tokio::test]
async fn an_interval_that_nobody_can_read_is_acknowledged_and_neither_stored_nor_in_the_way() {
    let host = Host::start().await;
    let mut talk = host.say(&[hello(&gw(1))]).await.unwrap();
    let mut contradicting = encoded([10, 20, 30]);
    contradicting.pop();
    talk.send(telemetry(1, b"garbage".to_vec())).await;
    talk.send(telemetry(2, vec![0; 300 << 10])).await;
    talk.send(telemetry(3, encoded([10, 20, 30]))).await;
    talk.send(telemetry(4, contradicting)).await;
    talk.send(telemetry(1, b"garbage".to_vec())).await; // its acknowledgement was lost
    talk.send(telemetry(5, b"more garbage".to_vec())).await;
    talk.send(telemetry(6, encoded([40]))).await;
    for sequence in [1, 2, 3, 4, 1, 5, 6] {
        assert_eq!(talk.acknowledged().await, sequence);
    }
    for why in ["does not begin as", "longer than", "bytes, its header says"] {
        assert_eq!(host.refused(&["gw-1", "interval", why]), 1, "{why}");
    }
    drop(talk);
    let (_folder, store) = host.stopped().await;
    let stored = store.telemetry(&gw(1)).unwrap();
    let sequences: Vec<_> = stored.iter().map(|record| record.position.sequence).collect();
    assert_eq!(sequences, [3, 6]);
    let unreadable = store.device(&gw(1)).unwrap().unwrap().unreadable.unwrap();
    assert_eq!((unreadable.intervals, unreadable.last), (4, SpoolPosition { epoch: 1, sequence: 5 }));
}

#[tokio::test]
async fn what_means_nothing_is_refused_in_words_and_logged_once() {
    let host = Host::start().await;
    let with = |change: fn(&mut v1::Hello)| {
        let mut message = hello(&gw(2));
        if let Some(v1::agent_message::Kind::Hello(hello)) = &mut message.kind {
            change(hello);
        }
        message
    };
    let beat = v1::AgentMessage { kind: Some(v1::agent_message::Kind::Beat(v1::Beat {})) };
    let openings = [
        (beat, "a session begins with its hello"),
        (with(|hello| hello.device_id = "x y".repeat(99)), "is not 1 to 63 of"),
        (with(|hello| hello.generation = 1 << 61), "was never given"),
        (with(|hello| hello.agent_version = "v".repeat(2 << 20)), "length too large"),
        (with(|hello| hello.labels = (0..65).map(|n| (n.to_string(), String::new())).collect()), "65 labels"),
    ];
    for (opening, why) in openings {
        for _ in 0..3 {
            let told = host.say(std::slice::from_ref(&opening)).await.err().unwrap();
            assert_eq!(told.code(), Code::InvalidArgument, "{told:?}");
            assert!(told.message().contains(why), "{told:?}");
        }
        assert_eq!(host.refused(&["SessionService/Session", why]), 1, "{why}");
    }
    assert_eq!(host.refused(&["gw-2", "was never given"]), 1, "by the name that it gives itself");

    // Within a session.
    for _ in 0..3 {
        let talk = host.say(&[hello(&gw(3)), hello(&gw(3))]).await.unwrap();
        assert_eq!(talk.ended().await.message(), "invalid kind: a second hello");
        let talk = host.say(&[hello(&gw(3)), with(|hello| hello.agent_version = "v".repeat(2 << 20))]).await;
        let told = talk.unwrap().ended().await;
        assert_eq!(told.code(), Code::InvalidArgument);
        assert!(told.message().contains("length too large"), "{told:?}");
    }
    assert_eq!(host.refused(&["gw-3", "a second hello"]), 1);
    assert_eq!(host.refused(&["gw-3", "length too large"]), 1);

    let (_folder, store) = host.stopped().await;
    let known: Vec<_> = store.devices().unwrap().into_iter().map(|device| device.id).collect();
    assert_eq!(known, [gw(3)], "who was refused at its hello left nothing");
}

#[tokio::test]
async fn machines_that_take_each_others_session_are_said_once() {
    let host = Host::start().await;
    let mut talks = Vec::new();
    for count in 0..9 {
        assert_eq!(host.refused(&["gw-4", "two machines seem to have its key"]), usize::from(count > 4));
        talks.push(host.say(&[hello(&gw(4))]).await.unwrap());
        // A session is taken over once it is there.
        talks.last_mut().unwrap().inbox.message().await.unwrap();
    }
    host.stopped().await;
}

#[tokio::test]
async fn single_calls_that_mean_nothing_are_refused_in_words_and_logged_once() {
    let host = Host::start().await;
    // Another call's message: its second field is a text where a number should be.
    let elsewhere = host.channel().await.map_request(|mut request: http::Request<tonic::body::Body>| {
        *request.uri_mut() = "/reconvene.v1.ArtifactService/Download".parse().unwrap();
        request
    });
    let mut elsewhere = EnrollmentServiceClient::new(elsewhere);
    let mut artifacts = ArtifactServiceClient::new(host.channel().await);
    let token = "ab.0123456789abcdef".to_owned();
    for _ in 0..3 {
        let foreign = v1::EnrollRequest { device_id: "gw-1".into(), token: token.clone(), request: vec![] };
        let told = elsewhere.enroll(foreign).await.unwrap_err();
        assert_eq!(told.code(), Code::InvalidArgument, "{told:?}");
        let long = v1::DownloadRequest { digest: "0".repeat(5 << 10), offset: 0 };
        assert_eq!(artifacts.download(long).await.unwrap_err().code(), Code::OutOfRange);
        let unknown = v1::DownloadRequest { digest: Digest::of(b"?").to_string(), offset: 0 };
        assert_eq!(artifacts.download(unknown).await.unwrap_err().code(), Code::NotFound);
        let no_digest = v1::DownloadRequest { digest: "xyz".into(), offset: 0 };
        assert_eq!(artifacts.download(no_digest).await.unwrap_err().code(), Code::InvalidArgument);
    }
    for why in ["InvalidArgument: failed to decode", "OutOfRange", "NotFound", "'xyz' is not 64"] {
        assert_eq!(host.refused(&["ArtifactService/Download", why]), 1, "{why}");
    }
    assert_eq!(host.refused(&["0123456789abcdef"]), 0, "no secret is in the log");
    host.stopped().await;
}

#[tokio::test]
async fn what_operators_and_workers_send_that_is_no_message_is_refused_as_devices_is() {
    let host = Host::start().await;
    for call in ["OperatorService/Apply", "OperatorService/ImportModel", "WorkerService/Lease"] {
        let channel =
            host.channel().await.map_request(move |mut request: http::Request<tonic::body::Body>| {
                *request.uri_mut() = format!("/reconvene.v1.{call}").parse().unwrap();
                request
            });
        let mut elsewhere = OperatorServiceClient::new(channel);
        for _ in 0..3 {
            // Another call's message: its first field is a number, and that of these is not.
            let foreign = v1::CreateTokenRequest { uses: 1, ..Default::default() };
            let told = elsewhere.create_token(foreign).await.unwrap_err();
            assert_eq!(told.code(), Code::InvalidArgument, "{call}: {told:?}");
            assert!(told.message().starts_with("failed to decode Protobuf message"), "{told:?}");
        }
        assert_eq!(host.refused(&[call, "InvalidArgument: failed to decode"]), 1, "{call}");
    }
    host.stopped().await;
}

#[tokio::test]
async fn a_generation_that_was_never_given_ends_the_session_and_changes_nothing() {
    let host = Host::start().await;
    let talk = host.say(&[hello(&gw(1))]).await.unwrap();
    let report = |generation, phase| {
        let digest = Digest::of(b"model");
        AgentMessage::Progress(Progress { generation: Generation(generation), digest, phase })
    };
    // Nothing was assigned: all of it is what the device says of itself, and nothing else.
    talk.send(report(7, Phase::Active)).await;
    talk.send(report(1 << 61, Phase::Active)).await;
    let told = talk.ended().await;
    assert_eq!(told.message(), format!("invalid generation: {} was never given", 1u64 << 61));
    assert_eq!(host.refused(&["gw-1", "was never given"]), 1);
    let (_folder, store) = host.stopped().await;
    assert_eq!(store.device(&gw(1)).unwrap().unwrap().holding.generation, Generation(7));
}
