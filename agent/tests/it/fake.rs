//! A coordinator that says what the test tells it to, over the real wire.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use proto::session::{AgentMessage, Assignment, CoordinatorMessage, Holding, Phase, Progress, Welcome};
use proto::v1::artifact_service_server::{ArtifactService, ArtifactServiceServer};
use proto::v1::session_service_server::{SessionService, SessionServiceServer};
use proto::{ArtifactRef, Digest, Generation, Pieces, SigningKey, SpoolPosition, VerifyingKey, v1};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::server::{Server, TcpIncoming};
use tonic::{Request, Response, Status, Streaming};

/// Bytes of one message of a download.
const CHUNK: usize = 16 << 10;

/// A file as the coordinator sends it, which need not be what its digest says.
#[derive(Clone)]
pub(crate) struct File {
    pub(crate) bytes: Arc<[u8]>,
    /// What its pieces are said to be of; `None`: of the bytes.
    pub(crate) pieces: Option<Arc<[u8]>>,
    /// The first downloads end with an error before these bytes, one each.
    pub(crate) cuts: VecDeque<usize>,
    /// Whether a download that is cut never ends, instead of ending with an error.
    pub(crate) hangs: bool,
}

impl File {
    /// A file that is what its digest says, and arrives.
    pub(crate) fn whole(bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec().into(), pieces: None, cuts: VecDeque::new(), hangs: false }
    }
}

#[derive(Default)]
struct Script {
    probes: Vec<ArtifactRef>,
    files: HashMap<Digest, File>,
    downloads: Vec<(Digest, u64)>,
    assignment: Option<Assignment>,
    outbox: Option<mpsc::Sender<Result<v1::CoordinatorMessage, Status>>>,
    stored: Vec<(SpoolPosition, proto::LatencyInterval)>,
    ended: BTreeSet<Generation>,
    /// What the last heartbeat said.
    holding: Holding,
    /// Signs what it sends; `None`: a key that every fake has.
    signer: Option<SigningKey>,
}

impl Script {
    fn signed(&self, assignment: &Assignment) -> CoordinatorMessage {
        CoordinatorMessage::Assignment(self.signer.as_ref().unwrap_or_else(|| usual_key()).sign(assignment))
    }

    fn announced(&self) -> VerifyingKey {
        self.signer.as_ref().unwrap_or_else(|| usual_key()).verifying()
    }
}

/// What every fake signs with, so that a device may meet several.
fn usual_key() -> &'static SigningKey {
    static KEY: OnceLock<SigningKey> = OnceLock::new();
    KEY.get_or_init(|| SigningKey::from_pkcs8(&SigningKey::generate().unwrap()).unwrap())
}

/// The coordinator; dropping it closes every connection.
pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    script: Arc<Mutex<Script>>,
    heard: mpsc::UnboundedReceiver<AgentMessage>,
    tell: mpsc::UnboundedSender<AgentMessage>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

#[derive(Clone)]
struct Service {
    script: Arc<Mutex<Script>>,
    tell: mpsc::UnboundedSender<AgentMessage>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Fake {
    pub(crate) async fn start() -> Self {
        let (tell, heard) = mpsc::unbounded_channel();
        let address = "127.0.0.1:0".parse().unwrap();
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let mut fake = Self { address, script: Arc::default(), heard, tell, tasks, stop };
        fake.listen().await;
        fake
    }

    /// Listens again after [`Fake::stop`], on the same port, with what it had stored.
    pub(crate) async fn listen(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.address = listener.local_addr().unwrap();
        (self.tasks, self.stop) = (TaskTracker::new(), CancellationToken::new());
        let service = Service {
            script: self.script.clone(),
            tell: self.tell.clone(),
            tasks: self.tasks.clone(),
            stop: self.stop.clone(),
        };
        let server = Server::builder()
            .add_service(SessionServiceServer::new(service.clone()))
            .add_service(ArtifactServiceServer::new(service))
            .serve_with_incoming_shutdown(TcpIncoming::from(listener), self.stop.clone().cancelled_owned());
        self.tasks.spawn(server);
    }

    pub(crate) async fn stop(&mut self) {
        self.stop.cancel();
        self.script.lock().unwrap().outbox = None;
        self.tasks.close();
        tokio::time::timeout(Duration::from_secs(10), self.tasks.wait()).await.expect("connections close");
        while self.heard.try_recv().is_ok() {}
    }

    pub(crate) fn serve_file(&self, digest: Digest, file: File) {
        self.script.lock().unwrap().files.insert(digest, file);
    }

    pub(crate) fn ask_for(&self, probe: ArtifactRef) {
        self.script.lock().unwrap().probes.push(probe);
    }

    /// Sends the assignment now, and again at every new session.
    pub(crate) async fn assign(&self, assignment: Assignment) {
        let (message, outbox) = {
            let mut script = self.script.lock().unwrap();
            script.assignment = Some(assignment.clone());
            (script.signed(&assignment), script.outbox.clone())
        };
        if let Some(outbox) = outbox {
            outbox.send(Ok(message.into())).await.unwrap();
        }
    }

    /// Signs with another key from now on, and announces it to new sessions.
    pub(crate) fn sign_with(&self, key: SigningKey) {
        self.script.lock().unwrap().signer = Some(key);
    }

    /// Offsets of the downloads of one file so far.
    pub(crate) fn offsets(&self, digest: Digest) -> Vec<u64> {
        let script = self.script.lock().unwrap();
        script.downloads.iter().filter(|(known, _)| *known == digest).map(|(_, offset)| *offset).collect()
    }

    /// Telemetry as it was stored, once per position.
    pub(crate) fn stored(&self) -> Vec<(SpoolPosition, proto::LatencyInterval)> {
        self.script.lock().unwrap().stored.clone()
    }

    /// Whether a generation was said to be active or given up.
    pub(crate) fn has_ended(&self, generation: Generation) -> bool {
        self.script.lock().unwrap().ended.contains(&generation)
    }

    /// What the device said last that it holds.
    pub(crate) fn holding(&self) -> Holding {
        self.script.lock().unwrap().holding
    }

    /// Forgets what was heard so far.
    pub(crate) fn forget(&mut self) {
        while self.heard.try_recv().is_ok() {}
        self.script.lock().unwrap().ended.clear();
    }

    /// The first message from now on that `pick` takes.
    pub(crate) async fn hear<T>(
        &mut self,
        what: &str,
        mut pick: impl FnMut(&AgentMessage) -> Option<T>,
    ) -> T {
        let search = async {
            loop {
                let message = self.heard.recv().await.expect("the fake holds a sender");
                if let Some(found) = pick(&message) {
                    return found;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(60), search)
            .await
            .unwrap_or_else(|_| panic!("never heard {what}"))
    }
}

#[tonic::async_trait]
impl SessionService for Service {
    type SessionStream = ReceiverStream<Result<v1::CoordinatorMessage, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (outbox, messages) = mpsc::channel(64);
        let (probes, assignment, signing_keys) = {
            let mut script = self.script.lock().unwrap();
            script.outbox = Some(outbox.clone());
            let assignment = script.assignment.as_ref().map(|assignment| script.signed(assignment));
            (script.probes.clone(), assignment, vec![script.announced()])
        };
        let welcome =
            Welcome { heartbeat_interval_ms: 100, telemetry_interval_ms: 200, probes, signing_keys };
        outbox.send(Ok(CoordinatorMessage::Welcome(welcome).into())).await.unwrap();
        if let Some(assignment) = assignment {
            outbox.send(Ok(assignment.into())).await.unwrap();
        }
        let service = self.clone();
        self.tasks.spawn(async move {
            let stop = service.stop.clone();
            let ended = stop.run_until_cancelled(service.listen(request.into_inner(), &outbox)).await;
            if ended.is_none() {
                drop(outbox.send(Err(Status::unavailable("stopping"))).await);
            }
        });
        Ok(Response::new(ReceiverStream::new(messages)))
    }
}

impl Service {
    async fn listen(
        &self,
        mut inbox: Streaming<v1::AgentMessage>,
        outbox: &mpsc::Sender<Result<v1::CoordinatorMessage, Status>>,
    ) {
        while let Ok(Some(message)) = inbox.message().await {
            let message = AgentMessage::try_from(message).expect("the agent sends valid messages");
            if let AgentMessage::Telemetry(position, interval) = &message {
                self.store(*position, interval);
                drop(outbox.send(Ok(CoordinatorMessage::TelemetryAck(*position).into())).await);
            }
            if let AgentMessage::Heartbeat(beat) = &message {
                assert_eq!(beat.engine.is_empty(), beat.holding.digest.is_none(), "{beat:?}");
                self.script.lock().unwrap().holding = beat.holding;
            }
            if let AgentMessage::Progress(Progress { generation, phase, .. }) = &message
                && matches!(phase, Phase::Active | Phase::Failed { .. })
            {
                self.script.lock().unwrap().ended.insert(*generation);
            }
            drop(self.tell.send(message));
        }
    }

    fn store(&self, position: SpoolPosition, interval: &proto::LatencyInterval) {
        let mut script = self.script.lock().unwrap();
        match script.stored.last() {
            Some((last, _)) if last.epoch == position.epoch && position.sequence <= last.sequence => {}
            Some((last, _)) => {
                let before = if last.epoch == position.epoch { last.sequence } else { 0 };
                assert_eq!(position.sequence, before + 1, "a gap");
                script.stored.push((position, interval.clone()));
            }
            None => script.stored.push((position, interval.clone())),
        }
    }
}

#[tonic::async_trait]
impl ArtifactService for Service {
    async fn pieces(
        &self,
        request: Request<v1::PiecesRequest>,
    ) -> Result<Response<v1::PiecesResponse>, Status> {
        let digest: Digest = request.into_inner().digest.parse().unwrap();
        let script = self.script.lock().unwrap();
        let file = script.files.get(&digest).ok_or_else(|| Status::not_found("no such artifact"))?;
        Ok(Response::new(v1::PiecesResponse {
            sha256: Pieces::of(file.pieces.as_ref().unwrap_or(&file.bytes)).to_bytes(),
        }))
    }

    type DownloadStream = Pin<Box<dyn Stream<Item = Result<v1::Chunk, Status>> + Send>>;

    async fn download(
        &self,
        request: Request<v1::DownloadRequest>,
    ) -> Result<Response<Self::DownloadStream>, Status> {
        let request = request.into_inner();
        let digest: Digest = request.digest.parse().unwrap();
        let mut script = self.script.lock().unwrap();
        script.downloads.push((digest, request.offset));
        let file = script.files.get_mut(&digest).ok_or_else(|| Status::not_found("no such artifact"))?;
        let (bytes, cut) = (file.bytes.clone(), file.cuts.pop_front());
        let start = (request.offset as usize).min(bytes.len());
        let end = cut.unwrap_or(bytes.len()).max(start);
        let chunk = move |offset: usize| {
            let data = bytes[offset..end.min(offset + CHUNK)].to_vec();
            Ok(v1::Chunk { offset: offset as u64, data })
        };
        let ending = cut.filter(|_| !file.hangs).map(|_| Err(Status::unavailable("cut")));
        let answers = tokio_stream::iter((start..end).step_by(CHUNK).map(chunk).chain(ending));
        Ok(Response::new(match cut.is_some() && file.hangs {
            true => Box::pin(answers.chain(tokio_stream::pending())),
            false => Box::pin(answers),
        }))
    }
}
