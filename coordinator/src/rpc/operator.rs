//! The operator's calls: lists, apply, plan, watch. Reads records, makes views; the driver does the rest.

use std::pin::Pin;
use std::time::Duration;

use proto::v1::operator_service_server::OperatorService;
use proto::{DeviceId, Generation, v1};
use pruner_core::Shape;
use pruner_core::graph::cost::cost;
use pruner_core::zoo::{self, ZooNetwork};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::apply::{Wish, requeue_failed};
use super::{
    access, add, authority, backup, delete, elsewhere, guard, import, job, note, status, token, view,
};
use crate::audit::Event;
use crate::clock::unix_ms;
use crate::core::Core;
use crate::identity::Role;
use crate::rollout::control::{Control, Verb};
use crate::rollout::driver::holders;
use crate::store::{DeploymentPhase, DeploymentRecord, DeviceRecord, OutcomeRecord, StoreError, Work};

#[derive(Clone)]
pub(crate) struct OperatorRpc {
    pub(crate) core: Core,
}

type Reply<T> = Result<Response<T>, Status>;
type PartStream = Pin<Box<dyn Stream<Item = Result<v1::ExportArtifactResponse, Status>> + Send>>;
type LogStream = Pin<Box<dyn Stream<Item = Result<v1::ReadJobLogResponse, Status>> + Send>>;
type EventStream = Pin<Box<dyn Stream<Item = Result<v1::DeploymentEvent, Status>> + Send>>;

/// Events that a slow watcher may lag behind; each is the whole state, so the next one says all.
const EVENTS: usize = 4;
/// The networks' figures are listed for this image and number of classes.
const LISTED_INPUT: Shape = Shape::new(3, 32, 32);
const LISTED_CLASSES: usize = 10;

#[tonic::async_trait]
impl OperatorService for OperatorRpc {
    type WatchDeploymentStream = EventStream;
    type ExportArtifactStream = PartStream;
    type ReadJobLogStream = LogStream;
    type BackupStream = backup::Parts;

    async fn backup(&self, request: Request<v1::BackupRequest>) -> Reply<Self::BackupStream> {
        guard::allow(&request, Role::Admin)?;
        let by = guard::caller(&request);
        backup::start(&self.core, by, request.into_inner()).await.map(Response::new)
    }

    async fn export_artifact(
        &self,
        request: Request<v1::ExportArtifactRequest>,
    ) -> Reply<Self::ExportArtifactStream> {
        let parts = elsewhere::export(&self.core, request.into_inner()).await?;
        Ok(Response::new(Box::pin(tokio_stream::iter(parts))))
    }

    async fn import_weights(
        &self,
        request: Request<Streaming<v1::ImportWeightsRequest>>,
    ) -> Reply<v1::ImportWeightsResponse> {
        guard::allow(&request, Role::Operator)?;
        let (core, by) = (self.core.clone(), guard::caller(&request));
        self.to_the_end(async move {
            let imported = elsewhere::import(&core, request.into_inner()).await?;
            let event = Event::new(by, "import-weights", format!("artifact/{}", imported.digest));
            let accuracy = format!("test accuracy {:.4}", imported.test_accuracy);
            note::note(&core, event.changed("", accuracy)).await?;
            Ok(imported)
        })
        .await
    }

    async fn list_devices(&self, request: Request<v1::ListRequest>) -> Reply<v1::DeviceList> {
        let name = request.into_inner().name;
        let devices = self.core.store.call(move |store| {
            let mut devices = store.devices()?;
            devices.retain(|device| name.is_empty() || device.id.as_str() == name);
            let deployments = store.deployments()?;
            let holders = holders(&devices, &deployments);
            let told = |device: DeviceRecord| Ok((store.assignment(&device.id)?, device));
            let devices = devices.into_iter().map(told).collect::<Result<Vec<_>, StoreError>>()?;
            Ok((devices, deployments, holders))
        });
        let (devices, deployments, holders) = devices.await.map_err(status::store)?;
        let devices = devices.into_iter().map(|(told, device)| {
            let known = (self.core.fleet.presence(&device.id), told.as_ref());
            let mut view = view::device(&device, known, &self.core.probes);
            if self.core.admissions.is_banned(&device.id) {
                view.status = "Banned".to_owned();
            }
            if let Some(holder) = holders.get(&device.id) {
                let waits =
                    |it: &&DeploymentRecord| it.name != *holder && !it.is_over() && it.selects(&device);
                view.wanted_by = deployments.iter().filter(waits).map(|it| it.name.clone()).collect();
                view.held_by.clone_from(holder);
            }
            view
        });
        Ok(Response::new(v1::DeviceList { devices: devices.collect() }))
    }

    async fn list_models(&self, request: Request<v1::ListRequest>) -> Reply<v1::ModelList> {
        let name = request.into_inner().name;
        let mut models = Vec::new();
        for network in ZooNetwork::ALL {
            if !name.is_empty() && network.to_string() != name {
                continue;
            }
            let graph = zoo::build(network, LISTED_INPUT, LISTED_CLASSES)
                .map_err(|error| status::internal(format!("building {network}: {error}")))?;
            models.push(view::model(network, &cost(&graph), LISTED_INPUT, LISTED_CLASSES));
        }
        let brought = self.core.store.call(|store| store.models()).await.map_err(status::store)?;
        let brought = brought.iter().filter(|record| name.is_empty() || record.name.as_str() == name);
        models.extend(brought.map(view::imported));
        Ok(Response::new(v1::ModelList { models }))
    }

    async fn list_datasets(&self, request: Request<v1::ListRequest>) -> Reply<v1::DatasetList> {
        let name = request.into_inner().name;
        let datasets = self.core.store.call(|store| store.datasets()).await.map_err(status::store)?;
        let datasets = datasets.iter().filter(|record| name.is_empty() || record.name.as_str() == name);
        Ok(Response::new(v1::DatasetList { datasets: datasets.map(view::dataset).collect() }))
    }

    async fn add_dataset(&self, request: Request<v1::AddDatasetRequest>) -> Reply<v1::AddDatasetResponse> {
        guard::allow(&request, Role::Operator)?;
        let (core, by) = (self.core.clone(), guard::caller(&request));
        self.to_the_end(async move {
            let added = add::add(&core, request.into_inner()).await?;
            if let Some(dataset) = &added.dataset {
                let event = Event::new(by, "add", format!("dataset/{}", dataset.name));
                let was = if added.unchanged { dataset.path.clone() } else { String::new() };
                note::note(&core, event.changed(was, dataset.path.clone())).await?;
            }
            Ok(added)
        })
        .await
    }

    async fn import_model(
        &self,
        request: Request<Streaming<v1::ImportModelRequest>>,
    ) -> Reply<v1::ImportModelResponse> {
        guard::allow(&request, Role::Operator)?;
        let (core, by) = (self.core.clone(), guard::caller(&request));
        self.to_the_end(async move {
            let imported = import::import(&core, request.into_inner()).await?;
            if let Some(model) = &imported.model {
                let event = Event::new(by, "import", format!("model/{}", model.name));
                let was = if imported.unchanged { model.digest.clone() } else { String::new() };
                note::note(&core, event.changed(was, model.digest.clone())).await?;
            }
            Ok(imported)
        })
        .await
    }

    async fn list_deployments(&self, request: Request<v1::ListRequest>) -> Reply<v1::DeploymentList> {
        let name = request.into_inner().name;
        let mut views = Vec::new();
        for record in self.core.store.call(|store| store.deployments()).await.map_err(status::store)? {
            if name.is_empty() || record.name == name {
                views.push(self.view(record).await.map_err(status::store)?);
            }
        }
        Ok(Response::new(v1::DeploymentList { deployments: views }))
    }

    async fn list_artifacts(&self, request: Request<v1::ListRequest>) -> Reply<v1::ArtifactList> {
        let prefix = request.into_inner().name;
        let artifacts = self.core.store.call(|store| store.artifacts()).await.map_err(status::store)?;
        let artifacts = artifacts.iter().filter(|record| record.digest.to_string().starts_with(&prefix));
        Ok(Response::new(v1::ArtifactList { artifacts: artifacts.map(view::artifact).collect() }))
    }

    async fn list_telemetry(&self, request: Request<v1::ListRequest>) -> Reply<v1::TelemetryList> {
        let name = request.into_inner().name;
        let only: Option<DeviceId> =
            if name.is_empty() { None } else { Some(name.parse().map_err(status::invalid)?) };
        let telemetry = self.core.store.call(move |store| {
            let devices = match only {
                Some(device) => vec![device],
                None => store.devices()?.into_iter().map(|device| device.id).collect(),
            };
            let all = devices.iter().map(|device| store.telemetry(device)).collect::<Result<Vec<_>, _>>()?;
            Ok(all.iter().flat_map(|intervals| view::telemetry(intervals)).collect())
        });
        Ok(Response::new(v1::TelemetryList { telemetry: telemetry.await.map_err(status::store)? }))
    }

    async fn list_audit(&self, request: Request<v1::ListAuditRequest>) -> Reply<v1::AuditList> {
        note::list(&self.core, request.into_inner()).await.map(Response::new)
    }

    async fn apply(&self, request: Request<v1::ApplyRequest>) -> Reply<v1::ApplyResponse> {
        guard::allow(&request, Role::Operator)?;
        let (this, by) = (self.clone(), guard::caller(&request));
        let v1::ApplyRequest { manifest, generation } = request.into_inner();
        let over = generation.map(Generation);
        self.to_the_end(async move { this.apply_text(manifest, over, (by, Wish::Apply)).await }).await
    }

    async fn check(&self, request: Request<v1::ApplyRequest>) -> Reply<v1::ApplyResponse> {
        // It looks through images: as plans are.
        guard::allow(&request, Role::Operator)?;
        let v1::ApplyRequest { manifest, generation } = request.into_inner();
        self.check_text(&manifest, generation.map(Generation)).await.map(Response::new)
    }

    async fn create_token(&self, request: Request<v1::CreateTokenRequest>) -> Reply<v1::CreateTokenResponse> {
        self.as_admin(request, token::create).await
    }

    async fn list_tokens(&self, request: Request<v1::ListRequest>) -> Reply<v1::TokenList> {
        guard::allow(&request, Role::Admin)?;
        Ok(Response::new(token::list(&self.core, request.into_inner().name).await?))
    }

    async fn revoke_token(&self, request: Request<v1::RevokeTokenRequest>) -> Reply<v1::Token> {
        self.as_admin(request, token::revoke).await
    }

    async fn list_pending(&self, request: Request<v1::ListRequest>) -> Reply<v1::PendingList> {
        guard::allow(&request, Role::Admin)?;
        Ok(Response::new(access::pending(&self.core, &request.into_inner().name).await?))
    }

    async fn approve_device(
        &self,
        request: Request<v1::ApproveDeviceRequest>,
    ) -> Reply<v1::ApproveDeviceResponse> {
        self.as_admin(request, access::approve_device).await
    }

    async fn control_device(
        &self,
        request: Request<v1::ControlDeviceRequest>,
    ) -> Reply<v1::ControlDeviceResponse> {
        self.as_admin(request, access::control_device).await
    }

    async fn control_operator(
        &self,
        request: Request<v1::ControlOperatorRequest>,
    ) -> Reply<v1::ControlOperatorResponse> {
        self.as_admin(request, access::control_operator).await
    }

    async fn renew_operator(
        &self,
        request: Request<v1::RenewOperatorRequest>,
    ) -> Reply<v1::RenewOperatorResponse> {
        let (core, peer) = (self.core.clone(), guard::peer(&request));
        self.to_the_end(authority::renew(core, peer, request.into_inner())).await
    }

    async fn list_authorities(&self, request: Request<v1::ListRequest>) -> Reply<v1::AuthorityList> {
        Ok(Response::new(authority::list(&self.core, &request.into_inner().name).await?))
    }

    async fn control_authority(&self, request: Request<v1::ControlAuthorityRequest>) -> Reply<v1::Authority> {
        let own = guard::issuer(&request);
        self.as_admin(request, |core, by, request| authority::control(core, (by, own), request)).await
    }

    async fn control_rollout(
        &self,
        request: Request<v1::ControlRolloutRequest>,
    ) -> Reply<v1::ControlRolloutResponse> {
        guard::allow(&request, Role::Operator)?;
        let (this, by) = (self.clone(), guard::caller(&request));
        let request = request.into_inner();
        self.to_the_end(async move { this.control(request, by).await }).await
    }

    async fn plan(&self, request: Request<v1::PlanRequest>) -> Reply<v1::PlanResponse> {
        // It scores networks: whoever may only look must not keep the coordinator busy.
        guard::allow(&request, Role::Operator)?;
        self.plan_text(request.into_inner()).await.map(Response::new)
    }

    async fn delete_deployment(
        &self,
        request: Request<v1::DeleteDeploymentRequest>,
    ) -> Reply<v1::DeleteDeploymentResponse> {
        guard::allow(&request, Role::Operator)?;
        let (core, by) = (self.core.clone(), guard::caller(&request));
        self.to_the_end(delete::delete(core, by, request.into_inner())).await
    }

    async fn list_operators(&self, request: Request<v1::ListRequest>) -> Reply<v1::OperatorList> {
        Ok(Response::new(access::operators(&self.core, &request.into_inner().name).await?))
    }

    async fn list_workers(&self, request: Request<v1::ListRequest>) -> Reply<v1::WorkerList> {
        Ok(Response::new(job::workers(&self.core, &request.into_inner().name).await?))
    }

    async fn list_jobs(&self, request: Request<v1::ListRequest>) -> Reply<v1::JobList> {
        Ok(Response::new(job::list(&self.core, &request.into_inner().name).await?))
    }

    async fn control_job(&self, request: Request<v1::ControlJobRequest>) -> Reply<v1::ControlJobResponse> {
        guard::allow(&request, Role::Operator)?;
        let (core, by) = (self.core.clone(), guard::caller(&request));
        self.to_the_end(job::control(core, by, request.into_inner())).await
    }

    async fn read_job_log(&self, request: Request<v1::ReadJobLogRequest>) -> Reply<LogStream> {
        let (parts, receiver) = mpsc::channel(EVENTS);
        self.core.tasks.spawn(job::read_log(self.core.clone(), request.into_inner(), parts));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn watch_deployment(&self, request: Request<v1::WatchDeploymentRequest>) -> Reply<EventStream> {
        let v1::WatchDeploymentRequest { name, generation } = request.into_inner();
        let record = self.deployment(&name).await?;
        let generation = if generation == 0 { record.generation } else { Generation(generation) };
        let (events, receiver) = mpsc::channel(EVENTS);
        self.core.tasks.spawn(self.clone().watch(name, generation, events));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

impl OperatorRpc {
    /// Carries `work` to its end though the caller may hang up or lose patience: nothing changes without its entry in the
    /// audit log.
    async fn to_the_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Status>> + Send + 'static,
    ) -> Reply<T> {
        let done = self.core.tasks.spawn(work).await;
        done.map_err(|_| status::internal("the call hit a defect; the log says where".to_owned()))?
            .map(Response::new)
    }

    /// What an admin's call does, and by whom, to its end.
    async fn as_admin<M, T: Send + 'static, F: Future<Output = Result<T, Status>> + Send + 'static>(
        &self,
        request: Request<M>,
        work: impl FnOnce(Core, String, M) -> F,
    ) -> Reply<T> {
        guard::allow(&request, Role::Admin)?;
        let by = guard::caller(&request);
        self.to_the_end(work(self.core.clone(), by, request.into_inner())).await
    }

    async fn control(
        &self,
        request: v1::ControlRolloutRequest,
        by: String,
    ) -> Result<v1::ControlRolloutResponse, Status> {
        let v1::ControlRolloutRequest { name, verb } = request;
        let verb: Verb = verb.parse().map_err(Status::invalid_argument)?;
        let record = self.deployment(&name).await?;
        let generation = record.generation;
        let was = format!("generation {generation}: {}", record.message);
        let control = verb.on(&record).map_err(Status::failed_precondition)?;
        // What is applied again is in the log as that.
        let is_applied = matches!(control, Control::Apply(_));
        let (generation, result) = match control {
            Control::Unchanged => (generation, "unchanged"),
            Control::Apply(manifest) => (
                Generation(self.apply_text(manifest, None, (by.clone(), Wish::Retry)).await?.generation),
                "retried",
            ),
            Control::Undo => {
                let reason = "an operator undid it";
                let undone = self
                    .core
                    .store
                    .call(move |store| store.undo_deployment(&record.name, generation, reason, unix_ms()));
                let undone = undone.await.map_err(status::store)?;
                self.core.board.clear(&undone.name);
                self.core.poke.poke();
                (undone.generation, "undone")
            }
            Control::Approve(approved) => {
                self.change(record, move |record| record.approved = record.approved.max(approved)).await?;
                (generation, "approved")
            }
            Control::Admit => {
                self.change(record, move |record| record.proven.extend(record.held_back())).await?;
                (generation, "approved")
            }
            Control::Again => {
                let blobs = self.core.blobs.clone();
                let name = name.clone();
                let requeued = self.core.store.call(move |store| requeue_failed(store, &blobs, &name));
                requeued.await.map_err(status::store)?;
                let failed = record.failed_derivations().map(Work::Train).collect();
                self.core.queue.begin_again(failed).await.map_err(status::store)?;
                self.change(record, DeploymentRecord::begin_failed_again).await?;
                (generation, "retried")
            }
            Control::Pause(paused) => {
                if !paused {
                    // What was cancelled meanwhile was not given up for good.
                    self.core.queue.begin_again(record.awaited()).await.map_err(status::store)?;
                }
                self.change(record, move |record| record.paused = paused).await?;
                (generation, if paused { "paused" } else { "resumed" })
            }
            Control::Abort => {
                let of = record.clone();
                let reason = "an operator aborted it".to_owned();
                self.change(record, move |record| {
                    // It may have ended since it was looked at.
                    if matches!(record.phase, DeploymentPhase::Complete | DeploymentPhase::Failed { .. }) {
                        return;
                    }
                    record.message.clone_from(&reason);
                    record.phase = DeploymentPhase::Failed { reason: reason.clone() };
                })
                .await?;
                job::drop_scoring(&self.core, &of).await?;
                (generation, "aborted")
            }
        };
        if !is_applied {
            let event = Event::new(by, verb.name(), format!("deployment/{name}"));
            note::note(&self.core, event.changed(was, format!("generation {generation}: {result}"))).await?;
        }
        Ok(v1::ControlRolloutResponse { generation: generation.0, result: result.to_owned() })
    }

    async fn deployment(&self, name: &str) -> Result<DeploymentRecord, Status> {
        let wanted = name.to_owned();
        let record = self.core.store.call(move |store| store.deployment(&wanted)).await;
        record.map_err(status::store)?.ok_or_else(|| Status::not_found(format!("no deployment '{name}'")))
    }

    /// Changes the generation that `record` is of, and has everybody look at it again.
    async fn change(
        &self,
        record: DeploymentRecord,
        change: impl Fn(&mut DeploymentRecord) + Send + 'static,
    ) -> Result<(), Status> {
        let DeploymentRecord { name, generation, .. } = record;
        let changed = self.core.store.call(move |store| {
            store.update_deployment(&name, generation, &mut |record| change(record)).map(drop)
        });
        changed.await.map_err(status::store)?;
        self.core.board.wake();
        self.core.poke.poke();
        Ok(())
    }

    async fn view(&self, record: DeploymentRecord) -> Result<v1::Deployment, StoreError> {
        let artifacts = self.core.store.call(|store| store.artifacts()).await?;
        let is_banned = |device: &DeviceId| self.core.admissions.is_banned(device);
        let over = |device: &DeviceId, outcome: &OutcomeRecord| self.core.overruns.of(device, outcome);
        Ok(view::deployment(&record, &artifacts, (&self.core.fleet, is_banned, over)))
    }

    /// Sends the state at once, then after every change, until the generation has ended or the watcher has gone.
    async fn watch(
        self,
        name: String,
        generation: Generation,
        events: mpsc::Sender<Result<v1::DeploymentEvent, Status>>,
    ) {
        let mut changes = self.core.board.subscribe();
        loop {
            changes.mark_unchanged();
            let event = self.event(&name, generation).await;
            let ended = match &event {
                Ok(event) => event.deployment.as_ref().is_none_or(view::is_ended),
                Err(_) => true,
            };
            if events.send(event).await.is_err() || ended {
                return;
            }
            tokio::select! {
                () = self.core.shutdown.cancelled() => return,
                () = events.closed() => return,
                _ = changes.changed() => {}
                () = tokio::time::sleep(WATCH_INTERVAL) => {}
            }
        }
    }

    async fn event(&self, name: &str, generation: Generation) -> Result<v1::DeploymentEvent, Status> {
        let record = self.deployment(name).await?;
        if let Some(undone) = record.undone.as_ref().filter(|undone| undone.generation == generation) {
            return Err(Status::aborted(format!("generation {generation} was undone: {}", undone.reason)));
        }
        if record.generation != generation {
            return Err(Status::aborted(format!(
                "deployment '{name}' is at generation {}, no longer at {generation}",
                record.generation
            )));
        }
        let deployment = self.view(record).await.map_err(status::store)?;
        let jobs = self.core.board.jobs(name).into_iter().map(view::job).collect();
        Ok(v1::DeploymentEvent { deployment: Some(deployment), jobs })
    }
}

/// A watcher hears at least this often: downloads move without a change in the store.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
