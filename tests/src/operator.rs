//! What an operator sees and asks for, over the coordinator's own service. Adds nothing to its answers.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use proto::v1::import_model_request::Part;
use proto::v1::operator_service_client::OperatorServiceClient;
use proto::{ArtifactRef, ByteSize, Digest, v1};
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use crate::poll::{Answer, wait_until};

/// A list of many devices outgrows the usual 4 MiB.
const LARGEST_REPLY: usize = 64 << 20;

/// A client of the operator service; reconnects by itself when the coordinator comes back.
#[derive(Debug, Clone)]
pub struct Operator {
    client: OperatorServiceClient<Channel>,
}

impl Operator {
    /// A client of the coordinator at `address`; connects at the first call.
    ///
    /// # Errors
    /// When the address makes no endpoint.
    pub fn new(address: SocketAddr) -> Result<Self> {
        let endpoint =
            Endpoint::from_shared(format!("http://{address}"))?.connect_timeout(Duration::from_secs(2));
        let client = OperatorServiceClient::new(endpoint.connect_lazy());
        Ok(Self { client: client.max_decoding_message_size(LARGEST_REPLY) })
    }

    /// All devices.
    ///
    /// # Errors
    /// The coordinator's status.
    pub async fn devices(&self) -> Result<Vec<v1::Device>> {
        let answer = self.client.clone().list_devices(all()).await.context("cannot list devices")?;
        Ok(answer.into_inner().devices)
    }

    /// One device.
    ///
    /// # Errors
    /// The coordinator's status.
    pub async fn device(&self, id: &str) -> Result<Option<v1::Device>> {
        Ok(self.devices().await?.into_iter().find(|device| device.id == id))
    }

    /// The networks that the coordinator knows.
    ///
    /// # Errors
    /// The coordinator's status.
    pub async fn models(&self) -> Result<Vec<v1::Model>> {
        let answer = self.client.clone().list_models(all()).await.context("cannot list models")?;
        Ok(answer.into_inner().models)
    }

    /// One deployment.
    ///
    /// # Errors
    /// The coordinator's status.
    pub async fn deployment(&self, name: &str) -> Result<Option<v1::Deployment>> {
        let answer = self.client.clone().list_deployments(all()).await.context("cannot list deployments")?;
        Ok(answer.into_inner().deployments.into_iter().find(|deployment| deployment.name == name))
    }

    /// The artifact with this digest.
    ///
    /// # Errors
    /// The coordinator's status; when there is none.
    pub async fn artifact(&self, digest: &str) -> Result<v1::Artifact> {
        let request = v1::ListRequest { name: digest.to_owned() };
        let answer = self.client.clone().list_artifacts(request).await.context("cannot list artifacts")?;
        let mut artifacts = answer.into_inner().artifacts.into_iter();
        artifacts
            .find(|a| a.digest == digest)
            .with_context(|| format!("the coordinator has no artifact {digest}"))
    }

    /// What `device` measured while it served `digest`, if anything yet.
    ///
    /// # Errors
    /// The coordinator's status.
    pub async fn telemetry(&self, device: &str, digest: &str) -> Result<Option<v1::TelemetrySummary>> {
        let matching = |t: &v1::TelemetrySummary| t.device_id == device && t.digest == digest;
        // The newest generation, should the same artifact have been assigned more than once.
        Ok(self.all_telemetry(device).await?.into_iter().filter(matching).max_by_key(|t| t.generation))
    }

    /// What was measured of everything that a device served; of all devices, if it has no name.
    ///
    /// # Errors
    /// The coordinator's status.
    pub async fn all_telemetry(&self, device: &str) -> Result<Vec<v1::TelemetrySummary>> {
        let request = v1::ListRequest { name: device.to_owned() };
        let answer = self.client.clone().list_telemetry(request).await.context("cannot list telemetry")?;
        Ok(answer.into_inner().telemetry)
    }

    /// The audit log from its first entry on, at most a thousand.
    ///
    /// # Errors
    /// The coordinator's status.
    pub async fn audit(&self) -> Result<Vec<v1::AuditEntry>> {
        let request = v1::ListAuditRequest::default();
        let answer = self.client.clone().list_audit(request).await.context("cannot list the audit log")?;
        Ok(answer.into_inner().entries)
    }

    /// Brings a network in.
    ///
    /// # Errors
    /// The coordinator's status.
    pub async fn import(&self, name: &str, file: Vec<u8>) -> Result<v1::ImportModelResponse> {
        let announced = ArtifactRef { digest: Digest::of(&file), size: ByteSize(file.len() as u64) };
        let header = v1::ImportModelHeader { name: name.to_owned(), file: Some(announced.into()) };
        let chunks = file.chunks(64 << 10).map(|chunk| Part::Chunk(chunk.to_vec())).collect::<Vec<_>>();
        let parts = std::iter::once(Part::Header(header)).chain(chunks);
        let parts: Vec<_> = parts.map(|part| v1::ImportModelRequest { part: Some(part) }).collect();
        let answer = self.client.clone().import_model(tokio_stream::iter(parts)).await;
        Ok(answer.context("cannot import the network")?.into_inner())
    }

    /// Gives the dataset in a folder of the coordinator's host a name.
    ///
    /// # Errors
    /// The coordinator's status.
    pub async fn add_dataset(&self, name: &str, path: &Path) -> Result<v1::AddDatasetResponse> {
        let path = path.to_str().context("a path that is no text")?.to_owned();
        let request = v1::AddDatasetRequest { name: name.to_owned(), path, ..Default::default() };
        let answer = self.client.clone().add_dataset(request).await.context("cannot add the dataset")?;
        Ok(answer.into_inner())
    }

    /// Applies a manifest.
    ///
    /// # Errors
    /// The coordinator's status.
    pub async fn apply(&self, manifest: &str) -> Result<v1::ApplyResponse> {
        let request = v1::ApplyRequest { manifest: manifest.to_owned(), ..Default::default() };
        Ok(self.client.clone().apply(request).await.context("cannot apply the manifest")?.into_inner())
    }

    /// Forgets a deployment that is not under way.
    ///
    /// # Errors
    /// The coordinator's status.
    pub async fn delete(&self, name: &str) -> Result<v1::DeleteDeploymentResponse> {
        let request = v1::DeleteDeploymentRequest { name: name.to_owned(), force: false };
        let answer = self.client.clone().delete_deployment(request).await;
        Ok(answer.context("cannot delete the deployment")?.into_inner())
    }

    /// Pauses, resumes, aborts, retries or undoes a rollout.
    ///
    /// # Errors
    /// The coordinator's status.
    pub async fn control_rollout(&self, name: &str, verb: &str) -> Result<v1::ControlRolloutResponse> {
        let request = v1::ControlRolloutRequest { name: name.to_owned(), verb: verb.to_owned() };
        Ok(self.client.clone().control_rollout(request).await?.into_inner())
    }

    /// What each device would get of a manifest.
    ///
    /// # Errors
    /// The coordinator's status.
    pub async fn plan(&self, manifest: &str) -> Result<v1::PlanResponse> {
        let request = v1::PlanRequest { manifest: manifest.to_owned(), strict: false };
        Ok(self.client.clone().plan(request).await.context("cannot plan the manifest")?.into_inner())
    }

    /// A deployment's progress, until it has ended.
    ///
    /// # Errors
    /// The coordinator's status.
    pub async fn watch(&self, name: &str, generation: u64) -> Result<Streaming<v1::DeploymentEvent>> {
        let request = v1::WatchDeploymentRequest { name: name.to_owned(), generation };
        Ok(self
            .client
            .clone()
            .watch_deployment(request)
            .await
            .context("cannot watch the deployment")?
            .into_inner())
    }

    /// Waits for a generation of a deployment to be complete.
    ///
    /// # Errors
    /// When it fails, with the coordinator's reason; when `limit` has passed.
    pub async fn completed(&self, name: &str, generation: u64, limit: Duration) -> Result<v1::Deployment> {
        wait_until(&format!("deployment {name} generation {generation}"), limit, async || {
            let Some(deployment) = self.deployment(name).await? else {
                return Ok(Answer::NotYet("unknown to the coordinator".to_owned()));
            };
            if deployment.generation == generation && deployment.phase == "Complete" {
                return Ok(Answer::Ready(deployment));
            }
            if deployment.generation == generation && deployment.phase == "Failed" {
                bail!("deployment {name} failed: {}", deployment.message);
            }
            Ok(Answer::NotYet(describe(&deployment)))
        })
        .await
    }
}

/// A deployment's state in one line.
pub fn describe(deployment: &v1::Deployment) -> String {
    let devices: Vec<String> =
        deployment.devices.iter().map(|d| format!("{} {} {}", d.device_id, d.state, d.reason)).collect();
    format!(
        "generation {} {} {} [{}]",
        deployment.generation,
        deployment.phase,
        deployment.message,
        devices.join("; ")
    )
}

fn all() -> v1::ListRequest {
    v1::ListRequest { name: String::new() }
}
