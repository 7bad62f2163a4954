//! The daemon put together: opens what must be open before anybody connects, serves, and stops in order.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use proto::SigningKey;
use proto::v1::artifact_service_server::ArtifactServiceServer;
use proto::v1::enrollment_service_server::EnrollmentServiceServer;
use proto::v1::operator_service_server::OperatorServiceServer;
use proto::v1::session_service_server::SessionServiceServer;
use proto::v1::worker_service_server::WorkerServiceServer;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;

use crate::blob::{BlobError, BlobStore};
use crate::board::Board;
use crate::checkpoints::{CheckpointError, Checkpoints};
use crate::clock::unix_ms;
use crate::config::Config;
use crate::core::Core;
use crate::fleet::Fleet;
use crate::fresh::Fresh;
use crate::identity::admissions::Admissions;
use crate::identity::authorities::Authorities;
use crate::identity::authority::AuthorityError;
use crate::identity::issued;
use crate::identity::turnstile::Turnstile;
use crate::jobs::log::JobLogs;
use crate::jobs::queue::{self, Queue};
use crate::jobs::workers::Workers;
use crate::listener::{self, Door, Encryption};
use crate::local::{self, LocalListener};
use crate::overrun::Overruns;
use crate::probes::{ProbeError, ProbeSet};
use crate::refusals::Refusals;
use crate::rollout::driver::{Driver, Poke, Subjects};
use crate::rpc::{ArtifactRpc, EnrollmentRpc, OperatorRpc, Overheard, SessionRpc, WorkerRpc, guard};
use crate::signing::{self, KeyError};
use crate::store::{DerivationKey, DerivationState, SledStore, Store as _, StoreError, StoreHandle};
use crate::worker::{WorkerSettings, local::supervise};

/// The daemon, ready to serve.
pub struct App {
    config: Config,
    store: StoreHandle,
    blobs: BlobStore,
    checkpoints: Checkpoints,
    logs: JobLogs,
    probes: Arc<ProbeSet>,
    signer: Arc<SigningKey>,
    authorities: Option<Arc<Authorities>>,
    admissions: Admissions,
}

/// Why the daemon could not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The state folder cannot be used.
    #[error("cannot use the state folder {}", path.display())]
    StateDir {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The address cannot be bound.
    #[error("cannot listen on {address}; set `listen` to a free one")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The operators' socket cannot be made.
    #[error("cannot listen on {}; socket.path names a file in a folder that the coordinator may write", path.display())]
    Socket {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The artifacts' folder cannot be used.
    #[error(transparent)]
    Blobs(#[from] BlobError),
    /// The checkpoints' folder cannot be used.
    #[error(transparent)]
    Checkpoints(#[from] CheckpointError),
    /// No key to sign with.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// No certificates.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The probe models could not be made.
    #[error(transparent)]
    Probes(#[from] ProbeError),
    /// The system does not let the process hear of signals.
    #[error("cannot listen for SIGTERM and SIGINT")]
    Signal(#[source] io::Error),
    /// The server failed.
    #[error("serving failed")]
    Serve(#[from] tonic::transport::Error),
}

/// The file in the state folder that names the bound address, for scripts and tests that let the system choose.
const ADDRESS_FILE: &str = "listen-address";
/// Calls at once of one connection: an agent has a session and a download or two.
const STREAMS: u32 = 64;
/// A request to be enrolled is at most this long: anybody may send one.
const ENROLLMENT: usize = 64 << 10;
/// A message of a session is at most this long: an agent's whole spool, of which a message has one interval.
const MESSAGE: usize = 1 << 20;
/// A request for a file names it.
const DOWNLOAD: usize = 4 << 10;
/// What a worker found of a network, a line for each channel; its files come in chunks.
const OUTCOME: usize = 64 << 20;
/// An agent that lost its coordinator tries again at least so often.
const AGENTS_WAIT: Duration = Duration::from_secs(30);
/// Running calls and tasks have so long to end once a stop was asked for.
const GRACE: Duration = Duration::from_secs(10);
/// A connection that is silent for so long is asked whether it lives, and closed without an answer in the same time.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// The derivations that a restart goes on with: not ended, and wanted by a deployment.
fn queued(store: &SledStore) -> Result<BTreeSet<String>, StoreError> {
    let deployments = store.deployments()?;
    let outcomes = deployments.iter().flat_map(|deployment| deployment.outcomes.values());
    let wanted: BTreeSet<DerivationKey> = outcomes.filter_map(|outcome| outcome.derivation).collect();
    let derivations = store.derivations()?;
    let queued = derivations
        .iter()
        .filter(|record| record.state == DerivationState::Queued && wanted.contains(&record.key));
    Ok(queued.map(|record| record.key.to_string()).collect())
}

impl App {
    /// Opens store and artifacts, and publishes the probes. Does not listen yet.
    pub fn open(config: Config) -> Result<Self, AppError> {
        let path = &config.state_dir;
        let mut maker = std::fs::DirBuilder::new();
        maker.recursive(true).mode(0o700);
        // The second is this user's, also where root makes the first operator.
        for path in [path.clone(), issued::folder(path)] {
            maker.create(&path).map_err(|source| AppError::StateDir { path, source })?;
        }
        let store = SledStore::open(&path.join("store"))?;
        let signer = Arc::new(signing::open(path)?);
        let blobs = BlobStore::open(path.join("artifacts"))?;
        let probes = Arc::new(ProbeSet::publish(&blobs)?);
        let queued = queued(&store)?;
        let is_queued = |name: &str| queued.contains(name);
        let checkpoints = Checkpoints::open(path.join("checkpoints"), is_queued)?;
        let jobs = match queue::settle(&store, unix_ms()) {
            // Whoever asks for work gives them back.
            Err(StoreError::Full { .. }) => store.jobs()?.into_iter().map(|job| job.name).collect(),
            settled => settled?,
        };
        let folder = path.join("jobs");
        let logs = JobLogs::open(&folder, |name| jobs.iter().any(|job| job == name))
            .map_err(|source| AppError::StateDir { path: folder, source })?;
        let authorities =
            config.tls.is_some().then(|| Authorities::open(&authority_folder(path))).transpose()?;
        let admissions = Admissions::of(&store.identities()?, &store.operators()?);
        let (store, authorities) = (StoreHandle::new(store), authorities.map(Arc::new));
        Ok(Self { config, store, blobs, checkpoints, logs, probes, signer, authorities, admissions })
    }

    /// Binds the configured address and writes it to `listen-address` in the state folder.
    pub async fn listen(&self) -> Result<TcpListener, AppError> {
        let address = self.config.listen;
        let refuse = |source| AppError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(refuse)?;
        let bound = listener.local_addr().map_err(refuse)?;
        let path = self.config.state_dir.join(ADDRESS_FILE);
        write_address(&path, bound).map_err(|source| AppError::StateDir { path, source })?;
        let key = self.signer.verifying();
        tracing::info!(address = %bound, state_dir = %self.config.state_dir.display(), %key, "listening");
        Ok(listener)
    }

    /// Listens on the operators' socket, where one is configured.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn listen_locally(&self) -> Result<Option<LocalListener>, AppError> {
        let Some(config) = &self.config.socket else { return Ok(None) };
        let path = config.path.clone();
        local::bind(config).map(Some).map_err(|source| AppError::Socket { path, source })
    }

    /// Serves until `shutdown`, then stops accepting, ends sessions and jobs, and waits for them for a grace period.
    pub async fn run(
        self,
        listener: TcpListener,
        local: Option<LocalListener>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), AppError> {
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let store = self.store.clone();
        let encryption = self.encryption()?.map(Arc::new);
        let own_worker = self.config.derive.local_worker.then(|| self.own_worker());
        let (driver, services) = self.parts(&tasks, &stop);
        let Services { session, artifact, operator, enrollment, worker, admissions } = services;
        let (children, own_workers) = mpsc::channel(1);
        if let Some(settings) = own_worker {
            let queue = worker.core.queue.clone();
            tasks.spawn(supervise(settings, queue, children, stop.clone()));
        }
        tasks.spawn(driver.run());
        let refusals = operator.core.refusals.clone();
        let door = Door {
            encryption,
            admissions: admissions.clone(),
            turnstile: Turnstile::default(),
            refusals: refusals.clone(),
        };
        let incoming = listener::incoming(listener, (local, own_workers), door, &tasks, stop.clone());
        let (known, taken_back, of_work) = (admissions.clone(), admissions.clone(), admissions.clone());
        let of_workers = InterceptedService::new(
            WorkerServiceServer::new(worker).max_decoding_message_size(OUTCOME),
            move |request| guard::worker(&of_work, request),
        );
        let of_operators = move |request| guard::operator(&taken_back, request);
        let of_devices = move |request| guard::device(&admissions, request);
        let of_confirmed = move |request| guard::confirmed(&known, request);
        let session = SessionServiceServer::new(session).max_decoding_message_size(MESSAGE);
        let of_sessions = InterceptedService::new(session, of_devices);
        let artifact = ArtifactServiceServer::new(artifact).max_decoding_message_size(DOWNLOAD);
        let of_downloads = InterceptedService::new(artifact, of_confirmed);
        let stopped = stop.clone();
        let serving = Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE))
            .max_concurrent_streams(STREAMS)
            .layer(Overheard(refusals))
            .add_service(of_sessions)
            .add_service(of_downloads)
            .add_service(OperatorServiceServer::with_interceptor(operator, of_operators))
            .add_service(of_workers)
            .add_service(EnrollmentServiceServer::new(enrollment).max_decoding_message_size(ENROLLMENT))
            .serve_with_incoming_shutdown(incoming, async move { stopped.cancelled().await });
        tokio::pin!(serving);
        let served = tokio::select! {
            served = &mut serving => served,
            () = shutdown => {
                tracing::info!("stopping");
                stop.cancel();
                tokio::time::timeout(GRACE, serving).await.unwrap_or(Ok(()))
            }
            () = store.lost() => {
                tracing::error!("the disk refused a write; what was acknowledged is on it, and a new start finds it there");
                stop.cancel();
                tokio::time::timeout(GRACE, serving).await.unwrap_or(Ok(()))
            }
        };
        stop.cancel();
        tasks.close();
        if tokio::time::timeout(GRACE, tasks.wait()).await.is_err() {
            tracing::warn!(
                tasks = tasks.len(),
                "tasks are left behind; what they had acknowledged is stored"
            );
        }
        if store.is_lost() {
            return Err(StoreError::Lost.into());
        }
        Ok(served?)
    }

    /// What the coordinator's own worker works with. Its folder is its own, but for the trainings', which people look into.
    fn own_worker(&self) -> WorkerSettings {
        WorkerSettings {
            state_dir: self.config.state_dir.clone(),
            threads: self.config.derive.threads,
            trainer: self.config.trainer.clone(),
            shares_files: true,
        }
    }

    fn encryption(&self) -> Result<Option<Encryption>, AppError> {
        let (Some(tls), Some(authorities)) = (&self.config.tls, &self.authorities) else { return Ok(None) };
        Ok(Some(Encryption::new(authorities.clone(), tls.names.clone())?))
    }

    fn parts(self, tasks: &TaskTracker, stop: &CancellationToken) -> (Driver, Services) {
        let Self { config, store, blobs, checkpoints, logs, probes, signer, authorities, admissions } = self;
        let core = Core {
            state_dir: config.state_dir.into(),
            store: store.clone(),
            blobs: blobs.clone(),
            authorities,
            admissions: admissions.clone(),
            refusals: Refusals::default(),
            fresh: Fresh::default(),
            overruns: Overruns::default(),
            signer,
            checkpoints,
            has_program: config.trainer.is_some(),
            fleet: Fleet::default(),
            board: Board::new(),
            queue: Queue::new(store.clone(), logs.clone()),
            workers: Workers::default(),
            logs,
            probes,
            subjects: Subjects::default(),
            poke: Poke::default(),
            tasks: tasks.clone(),
            shutdown: stop.clone(),
        };
        // An agent waits half a minute at most before it tries again.
        let return_time = AGENTS_WAIT.max(config.session.offline_after);
        let session = SessionRpc::new(core.clone(), config.session);
        let artifact = ArtifactRpc::new(blobs, tasks.clone(), core.refusals.clone());
        let worker = WorkerRpc { core: core.clone() };
        let operator = OperatorRpc { core: core.clone() };
        let lifetime = config.tls.map(|tls| tls.device_lifetime).unwrap_or_default();
        let enrollment = EnrollmentRpc { core: core.clone(), lifetime };
        let driver = Driver { core, started_unix_ms: unix_ms(), return_time };
        (driver, Services { session, artifact, operator, enrollment, worker, admissions })
    }
}

/// What is served, and who is not.
struct Services {
    session: SessionRpc,
    artifact: ArtifactRpc,
    operator: OperatorRpc,
    enrollment: EnrollmentRpc,
    worker: WorkerRpc,
    admissions: Admissions,
}

/// Where the authority's files lie in a state folder.
pub fn authority_folder(state_dir: &Path) -> PathBuf {
    state_dir.join("authority")
}

fn write_address(path: &Path, address: SocketAddr) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    io::Write::write_all(&mut file, format!("{address}\n").as_bytes())?;
    file.persist(path)?;
    Ok(())
}
