//! A coordinator that answers from fixed replies, on a port of its own: a test double for the operator's service.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use coordinator::manifest::DeploymentManifest;
use proto::v1::import_model_request::Part;
use proto::v1::operator_service_server::{OperatorService, OperatorServiceServer};
use proto::{ArtifactRef, ByteSize, Digest, v1};
use tokio::runtime::Runtime;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

/// What the double answers, and what it was sent.
#[derive(Debug, Default)]
pub(crate) struct Replies {
    pub(crate) devices: Vec<v1::Device>,
    pub(crate) models: Vec<v1::Model>,
    pub(crate) datasets: Vec<v1::Dataset>,
    pub(crate) deployments: Vec<v1::Deployment>,
    pub(crate) artifacts: Vec<v1::Artifact>,
    pub(crate) jobs: Vec<v1::Job>,
    pub(crate) telemetry: Vec<v1::TelemetrySummary>,
    pub(crate) plan: v1::PlanResponse,
    /// Whether a plan's network is being scored for as long as anybody asks.
    pub(crate) is_scoring: bool,
    pub(crate) audit: Vec<v1::AuditEntry>,
    /// One stream of events per call.
    pub(crate) watches: Mutex<Vec<Vec<v1::DeploymentEvent>>>,
    /// What follows a stream's last event.
    pub(crate) afterwards: Afterwards,
    /// Whether a job's log was read until nothing more was said: the job has ended.
    pub(crate) read_to_the_end: Mutex<bool>,
    /// Manifests, as they arrived.
    pub(crate) applied: Mutex<Vec<String>>,
}

/// How a stream of events goes on after its last event.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) enum Afterwards {
    #[default]
    Ends,
    StaysOpen,
}

/// The running double; it stops when dropped, and its connections break.
pub(crate) struct Fake {
    pub(crate) url: String,
    pub(crate) address: SocketAddr,
    pub(crate) replies: Arc<Replies>,
    _runtime: Runtime,
}

impl Fake {
    pub(crate) fn start(replies: Replies) -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into(), replies)
    }

    pub(crate) fn start_at(address: SocketAddr, replies: Replies) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let replies = Arc::new(replies);
        let listener = runtime.block_on(tokio::net::TcpListener::bind(address)).unwrap();
        let address = listener.local_addr().unwrap();
        let service = OperatorServiceServer::new(Service(replies.clone()));
        let server = tonic::transport::Server::builder().add_service(service);
        runtime.spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Self { url: format!("http://{address}"), address, replies, _runtime: runtime }
    }
}

struct Service(Arc<Replies>);

fn named<T: Clone>(items: &[T], request: Request<v1::ListRequest>, name: impl Fn(&T) -> &str) -> Vec<T> {
    let wanted = request.into_inner().name;
    items.iter().filter(|item| wanted.is_empty() || name(item).starts_with(&wanted)).cloned().collect()
}

fn no_fit() -> Status {
    let mut status = Status::failed_precondition("no device can meet its budget: cam-1: no network fits");
    let (key, reason) = coordinator::fitting::REASON;
    status.metadata_mut().insert(key, reason.parse().unwrap());
    status
}

/// The manifest, if it is not refused. What it is to replace is at its first generation.
fn judged(v1::ApplyRequest { manifest, generation }: v1::ApplyRequest) -> Result<String, Status> {
    if manifest.contains("/nowhere") {
        return Err(Status::invalid_argument("dataset: /nowhere/t10k-labels-idx1-ubyte: no such file"));
    }
    if manifest.contains("params: 10\n") {
        return Err(no_fit());
    }
    if generation.is_some_and(|generation| generation != 1) {
        return Err(Status::aborted("deployment 'fashion-mnist' is at generation 1"));
    }
    Ok(manifest)
}

#[tonic::async_trait]
impl OperatorService for Service {
    type WatchDeploymentStream = Pin<Box<dyn Stream<Item = Result<v1::DeploymentEvent, Status>> + Send>>;
    type ExportArtifactStream =
        Pin<Box<dyn Stream<Item = Result<v1::ExportArtifactResponse, Status>> + Send>>;
    type BackupStream = Pin<Box<dyn Stream<Item = Result<v1::BackupResponse, Status>> + Send>>;

    async fn backup(&self, _: Request<v1::BackupRequest>) -> Result<Response<Self::BackupStream>, Status> {
        use v1::backup_response::Part;
        // The connection is lost within the first header.
        let header = v1::BackupHeader { size: 4096, digest: String::new(), held_us: 1 };
        let parts = [Part::Header(header), Part::Chunk(b"reconvene-backup".to_vec())];
        let parts = parts.map(|part| Ok(v1::BackupResponse { part: Some(part) }));
        Ok(Response::new(Box::pin(tokio_stream::iter(parts))))
    }

    type ReadJobLogStream = Pin<Box<dyn Stream<Item = Result<v1::ReadJobLogResponse, Status>> + Send>>;

    async fn list_jobs(&self, r: Request<v1::ListRequest>) -> Result<Response<v1::JobList>, Status> {
        let mut jobs = named(&self.0.jobs, r, |job| &job.name);
        if *self.0.read_to_the_end.lock().unwrap() {
            jobs.iter_mut().for_each(|job| job.state = "Done".to_owned());
        }
        Ok(Response::new(v1::JobList { jobs }))
    }

    async fn read_job_log(
        &self,
        r: Request<v1::ReadJobLogRequest>,
    ) -> Result<Response<Self::ReadJobLogStream>, Status> {
        let v1::ReadJobLogRequest { name, follow, offset } = r.into_inner();
        if !self.0.jobs.iter().any(|job| job.name == name) {
            return Err(Status::not_found(format!("no job '{name}'")));
        }
        // A log that is followed breaks off after its first line, as if the coordinator had stopped.
        let (text, end) = if offset == 0 { ("epoch 1/2\n", 10) } else { ("done\n", 15) };
        *self.0.read_to_the_end.lock().unwrap() = follow && offset == 10;
        let part = Ok(v1::ReadJobLogResponse { text: text.to_owned(), end });
        Ok(Response::new(Box::pin(tokio_stream::iter([part]))))
    }

    async fn control_job(
        &self,
        r: Request<v1::ControlJobRequest>,
    ) -> Result<Response<v1::ControlJobResponse>, Status> {
        match r.into_inner() {
            v1::ControlJobRequest { name, verb } if verb == "cancel" && name == self.0.jobs[0].name => {
                Ok(Response::new(v1::ControlJobResponse { result: "cancelled".to_owned() }))
            }
            v1::ControlJobRequest { name, .. } => Err(Status::not_found(format!("no job '{name}'"))),
        }
    }

    async fn export_artifact(
        &self,
        r: Request<v1::ExportArtifactRequest>,
    ) -> Result<Response<Self::ExportArtifactStream>, Status> {
        use v1::export_artifact_response::Part as Outgoing;
        let v1::ExportArtifactRequest { name, format } = r.into_inner();
        if !self.0.artifacts[0].digest.starts_with(&name) {
            return Err(Status::not_found(format!("no network '{name}'")));
        }
        // The file's announced length is right for one of the formats only.
        let file = format.repeat(100_000).into_bytes();
        let announced =
            ArtifactRef { digest: Digest::of(&file), size: ByteSize("onnx".len() as u64 * 100_000) };
        let header = v1::ExportArtifactHeader {
            name: self.0.artifacts[0].digest.clone(),
            file: Some(announced.into()),
            network: "resnet20".to_owned(),
            trained: true,
            input_shape: vec![1, 28, 28],
            mean: vec![0.25],
            std: vec![0.5],
        };
        let chunks: Vec<_> = file.chunks(100_000).map(|chunk| Outgoing::Chunk(chunk.to_vec())).collect();
        let parts = std::iter::once(Outgoing::Header(header)).chain(chunks);
        let parts = parts.map(|part| Ok(v1::ExportArtifactResponse { part: Some(part) }));
        Ok(Response::new(Box::pin(tokio_stream::iter(parts))))
    }

    async fn import_weights(
        &self,
        r: Request<Streaming<v1::ImportWeightsRequest>>,
    ) -> Result<Response<v1::ImportWeightsResponse>, Status> {
        use v1::import_weights_request::Part as Incoming;
        let mut parts = r.into_inner();
        let mut bytes = 0;
        while let Some(part) = parts.next().await.transpose()? {
            if let Some(Incoming::Chunk(chunk)) = part.part {
                bytes += chunk.len();
            }
        }
        // As good as the file is long, so that a test chooses.
        Ok(Response::new(v1::ImportWeightsResponse {
            digest: self.0.artifacts[0].digest.clone(),
            test_accuracy: bytes as f64 / 1e6,
            test_images: 10_000,
            classes: 10,
        }))
    }

    async fn list_devices(&self, r: Request<v1::ListRequest>) -> Result<Response<v1::DeviceList>, Status> {
        Ok(Response::new(v1::DeviceList { devices: named(&self.0.devices, r, |d| &d.id) }))
    }

    async fn list_models(&self, r: Request<v1::ListRequest>) -> Result<Response<v1::ModelList>, Status> {
        Ok(Response::new(v1::ModelList { models: named(&self.0.models, r, |m| &m.name) }))
    }

    async fn list_datasets(&self, r: Request<v1::ListRequest>) -> Result<Response<v1::DatasetList>, Status> {
        Ok(Response::new(v1::DatasetList { datasets: named(&self.0.datasets, r, |d| &d.name) }))
    }

    async fn add_dataset(
        &self,
        r: Request<v1::AddDatasetRequest>,
    ) -> Result<Response<v1::AddDatasetResponse>, Status> {
        let v1::AddDatasetRequest { name, path, format, test_share } = r.into_inner();
        if let Some(known) = self.0.datasets.iter().find(|dataset| dataset.name == name) {
            return Err(Status::already_exists(format!("'{name}' is {} already", known.path)));
        }
        let dataset = v1::Dataset { name, path, format, test_share, ..self.0.datasets[0].clone() };
        Ok(Response::new(v1::AddDatasetResponse { dataset: Some(dataset), unchanged: false }))
    }

    async fn list_deployments(
        &self,
        r: Request<v1::ListRequest>,
    ) -> Result<Response<v1::DeploymentList>, Status> {
        let deployments = named(&self.0.deployments, r, |d| &d.name);
        Ok(Response::new(v1::DeploymentList { deployments }))
    }

    async fn list_artifacts(
        &self,
        r: Request<v1::ListRequest>,
    ) -> Result<Response<v1::ArtifactList>, Status> {
        Ok(Response::new(v1::ArtifactList { artifacts: named(&self.0.artifacts, r, |a| &a.digest) }))
    }

    async fn list_telemetry(
        &self,
        r: Request<v1::ListRequest>,
    ) -> Result<Response<v1::TelemetryList>, Status> {
        Ok(Response::new(v1::TelemetryList { telemetry: named(&self.0.telemetry, r, |t| &t.device_id) }))
    }

    async fn list_audit(&self, r: Request<v1::ListAuditRequest>) -> Result<Response<v1::AuditList>, Status> {
        let v1::ListAuditRequest { subject, after, last } = r.into_inner();
        let mut entries = self.0.audit.clone();
        entries.retain(|entry| entry.sequence > after && (subject.is_empty() || entry.subject == subject));
        let first = if last == 0 { 0 } else { entries.len().saturating_sub(last as usize) };
        Ok(Response::new(v1::AuditList { entries: entries.split_off(first) }))
    }

    async fn check(&self, r: Request<v1::ApplyRequest>) -> Result<Response<v1::ApplyResponse>, Status> {
        let manifest = judged(r.into_inner())?;
        let meant = DeploymentManifest::read(&manifest).unwrap();
        let name = meant.metadata.name.clone();
        let known = self.0.deployments.iter().find(|deployment| deployment.name == name);
        let is_same = |known: &&v1::Deployment| {
            DeploymentManifest::read(&known.manifest).is_ok_and(|manifest| manifest == meant)
        };
        let result = if known.filter(is_same).is_some() { "unchanged" } else { "configured" }.to_owned();
        Ok(Response::new(v1::ApplyResponse { name, generation: 1, result, note: String::new() }))
    }

    async fn apply(&self, r: Request<v1::ApplyRequest>) -> Result<Response<v1::ApplyResponse>, Status> {
        let manifest = judged(r.into_inner())?;
        let mut applied = self.0.applied.lock().unwrap();
        applied.push(manifest);
        let generation = applied.len() as u64;
        let result = if generation == 1 { "created" } else { "configured" }.to_owned();
        let (name, note) = ("fashion-mnist".to_owned(), String::new());
        Ok(Response::new(v1::ApplyResponse { name, generation, result, note }))
    }

    async fn import_model(
        &self,
        r: Request<Streaming<v1::ImportModelRequest>>,
    ) -> Result<Response<v1::ImportModelResponse>, Status> {
        let mut parts = r.into_inner();
        let (mut model, mut bytes) = (self.0.models[0].clone(), 0);
        while let Some(part) = parts.next().await.transpose()? {
            match part.part.unwrap() {
                Part::Header(header) => model.name = header.name,
                Part::Chunk(chunk) => bytes += chunk.len() as u64,
            }
        }
        model.bytes = bytes;
        model.notes = vec!["'head' (Einsum) is carried through unchanged".to_owned()];
        Ok(Response::new(v1::ImportModelResponse { model: Some(model), unchanged: false }))
    }

    async fn create_token(
        &self,
        request: Request<v1::CreateTokenRequest>,
    ) -> Result<Response<v1::CreateTokenResponse>, Status> {
        let v1::CreateTokenRequest { uses, labels, .. } = request.into_inner();
        let token = v1::Token { id: "3f9a2b71".to_owned(), uses, labels, ..Default::default() };
        let join_file = "reconvene-join-1 3f9a2b71.secret\n-----BEGIN\n".to_owned();
        Ok(Response::new(v1::CreateTokenResponse { token: Some(token), join_file }))
    }

    async fn list_tokens(&self, _: Request<v1::ListRequest>) -> Result<Response<v1::TokenList>, Status> {
        let token = v1::Token {
            id: "3f9a2b71".to_owned(),
            uses: 5,
            used_by: vec!["cam-1".to_owned()],
            labels: [("site".to_owned(), "lab".to_owned())].into(),
            created_unix_ms: 1,
            expires_unix_ms: 2,
            approval: false,
            revoked: false,
        };
        Ok(Response::new(v1::TokenList { tokens: vec![token] }))
    }

    async fn revoke_token(
        &self,
        request: Request<v1::RevokeTokenRequest>,
    ) -> Result<Response<v1::Token>, Status> {
        match request.into_inner().id.as_str() {
            "3f9a2b71" => Ok(Response::new(v1::Token::default())),
            id => Err(Status::not_found(format!("no token '{id}'"))),
        }
    }

    async fn control_device(
        &self,
        request: Request<v1::ControlDeviceRequest>,
    ) -> Result<Response<v1::ControlDeviceResponse>, Status> {
        let v1::ControlDeviceRequest { name, verb } = request.into_inner();
        match name.as_str() {
            "cam-1" => Ok(Response::new(v1::ControlDeviceResponse { result: format!("{verb}ned") })),
            _ => Err(Status::not_found("no such device")),
        }
    }

    async fn control_operator(
        &self,
        request: Request<v1::ControlOperatorRequest>,
    ) -> Result<Response<v1::ControlOperatorResponse>, Status> {
        let v1::ControlOperatorRequest { name, verb } = request.into_inner();
        let unknown = name == "nobody";
        Ok(Response::new(v1::ControlOperatorResponse { result: format!("{verb}d"), unknown }))
    }

    async fn delete_deployment(
        &self,
        request: Request<v1::DeleteDeploymentRequest>,
    ) -> Result<Response<v1::DeleteDeploymentResponse>, Status> {
        let v1::DeleteDeploymentRequest { name, force } = request.into_inner();
        match (name.as_str(), force) {
            ("fashion-mnist", true) => {
                let serving = vec!["cam-1".to_owned()];
                Ok(Response::new(v1::DeleteDeploymentResponse { generation: 4, serving }))
            }
            ("fashion-mnist", false) => {
                Err(Status::failed_precondition("deployment 'fashion-mnist' is under way"))
            }
            _ => Err(Status::not_found("no such deployment")),
        }
    }

    async fn list_operators(
        &self,
        r: Request<v1::ListRequest>,
    ) -> Result<Response<v1::OperatorList>, Status> {
        let operator = |name: &str, role: &str, expires_unix_ms, revoked| v1::Operator {
            name: name.to_owned(),
            role: role.to_owned(),
            expires_unix_ms,
            revoked,
            ..Default::default()
        };
        let all = [operator("alice", "admin", 5, false), operator("bob", "", 0, true)];
        Ok(Response::new(v1::OperatorList { operators: named(&all, r, |it| &it.name) }))
    }

    async fn list_workers(&self, r: Request<v1::ListRequest>) -> Result<Response<v1::WorkerList>, Status> {
        let worker = v1::Worker {
            name: "gpu-1".to_owned(),
            state: "Busy".to_owned(),
            job: "train-3f9a2b71c04d".to_owned(),
            ..Default::default()
        };
        Ok(Response::new(v1::WorkerList { workers: named(&[worker], r, |it| &it.name) }))
    }

    async fn list_pending(&self, _: Request<v1::ListRequest>) -> Result<Response<v1::PendingList>, Status> {
        Ok(Response::new(v1::PendingList::default()))
    }

    async fn approve_device(
        &self,
        r: Request<v1::ApproveDeviceRequest>,
    ) -> Result<Response<v1::ApproveDeviceResponse>, Status> {
        let name = r.into_inner().name;
        let (already, pending) = (name.starts_with("cam-"), name == "cam-2");
        Ok(Response::new(v1::ApproveDeviceResponse { already, pending }))
    }

    async fn renew_operator(
        &self,
        _: Request<v1::RenewOperatorRequest>,
    ) -> Result<Response<v1::RenewOperatorResponse>, Status> {
        Err(Status::failed_precondition("only who has an operator's certificate gets another"))
    }

    async fn list_authorities(
        &self,
        _: Request<v1::ListRequest>,
    ) -> Result<Response<v1::AuthorityList>, Status> {
        let authority = |name: &str, phase: &str, devices| v1::Authority {
            name: name.to_owned(),
            phase: phase.to_owned(),
            devices,
            ..Default::default()
        };
        let authorities = vec![authority("1", "superseded", 3), authority("2", "active", 9)];
        Ok(Response::new(v1::AuthorityList { authorities }))
    }

    async fn control_authority(
        &self,
        request: Request<v1::ControlAuthorityRequest>,
    ) -> Result<Response<v1::Authority>, Status> {
        let phase = format!("{}d", request.into_inner().verb);
        Ok(Response::new(v1::Authority { name: "3".to_owned(), phase, ..Default::default() }))
    }

    async fn control_rollout(
        &self,
        request: Request<v1::ControlRolloutRequest>,
    ) -> Result<Response<v1::ControlRolloutResponse>, Status> {
        let v1::ControlRolloutRequest { name, verb } = request.into_inner();
        match name.as_str() {
            "fashion-mnist" => {
                Ok(Response::new(v1::ControlRolloutResponse { generation: 4, result: format!("{verb}d") }))
            }
            "done" => Err(Status::failed_precondition("deployment 'done' is complete")),
            _ => Err(Status::not_found("no such deployment")),
        }
    }

    async fn plan(&self, r: Request<v1::PlanRequest>) -> Result<Response<v1::PlanResponse>, Status> {
        let v1::PlanRequest { manifest, strict } = r.into_inner();
        if strict && manifest.contains("params: 10\n") {
            return Err(no_fit());
        }
        if self.0.is_scoring {
            std::future::pending::<()>().await;
        }
        Ok(Response::new(self.0.plan.clone()))
    }

    async fn watch_deployment(
        &self,
        r: Request<v1::WatchDeploymentRequest>,
    ) -> Result<Response<Self::WatchDeploymentStream>, Status> {
        let mut watches = self.0.watches.lock().unwrap();
        if watches.is_empty() {
            return Err(Status::not_found(format!("no deployment '{}'", r.into_inner().name)));
        }
        let events = tokio_stream::iter(watches.remove(0).into_iter().map(Ok));
        Ok(Response::new(match self.0.afterwards {
            Afterwards::Ends => Box::pin(events),
            Afterwards::StaysOpen => Box::pin(events.chain(tokio_stream::pending())),
        }))
    }
}
