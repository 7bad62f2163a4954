//! A coordinator with a small data set in a folder of its own, and manifests for it. What the other tests start from.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use coordinator::calibration::MIN_REQUESTS;
use coordinator::manifest::{
    BudgetRule, DatasetFormat, DatasetSpec, DeploymentManifest, DeploymentSpec, Metadata, PruningSpec,
    RolloutSpec, Selector, TrainingSpec,
};
use fleet_tests::agent::{AgentMeans, AgentProcess};
use fleet_tests::binaries::Binaries;
use fleet_tests::coordinator::{CoordinatorConfig, CoordinatorProcess};
use fleet_tests::daemon::Daemon;
use fleet_tests::dataset::patterns::Patterns;
use fleet_tests::operator::{Operator, describe};
use fleet_tests::poll::{Answer, wait_until};
use proto::v1;
use tempfile::TempDir;

/// How long scoring, training and rolling out may take here: generous, as the tests share two cores.
pub(crate) const LIMIT: Duration = Duration::from_secs(240);

/// The name of every deployment here.
pub(crate) const DEPLOYMENT: &str = "patterns";

/// Images that take the networks down to 3 by 3 pixels.
pub(crate) const PATTERNS: Patterns = Patterns { side: 12, train: 768, test: 200, seed: 5 };

/// A running coordinator, and everything around it. The processes end before the folder goes.
pub(crate) struct Scene {
    pub(crate) coordinator: CoordinatorProcess,
    pub(crate) operator: Operator,
    pub(crate) binaries: Binaries,
    folder: TempDir,
}

impl Scene {
    /// A fresh one.
    pub(crate) async fn start() -> Self {
        Self::start_with(CoordinatorConfig::default()).await
    }

    /// A fresh one, its coordinator configured so.
    pub(crate) async fn start_with(config: CoordinatorConfig) -> Self {
        let binaries = tokio::task::spawn_blocking(Binaries::build).await.unwrap().unwrap();
        let folder = tempfile::tempdir().unwrap();
        PATTERNS.write(&folder.path().join("dataset")).unwrap();
        let coordinator =
            CoordinatorProcess::start(&binaries, &folder.path().join("coordinator"), config).await.unwrap();
        let operator = coordinator.operator().unwrap();
        Self { coordinator, operator, binaries, folder }
    }

    /// The folder of the data set.
    pub(crate) fn dataset(&self) -> PathBuf {
        self.folder.path().join("dataset")
    }

    /// An agent with one thread that was waited for until it is profiled.
    pub(crate) async fn agent(&self, device: &str, coordinator: SocketAddr) -> AgentProcess {
        let means = AgentMeans::new(device, 1);
        let mut agent = AgentProcess::start(&self.binaries, self.folder.path(), means, coordinator).unwrap();
        agent.profiled(&self.operator).await.unwrap();
        agent
    }

    /// Waits until so many devices have sent what their probes took.
    pub(crate) async fn known(&self, count: usize) {
        wait_until("every device to be known", LIMIT, async || {
            let devices = self.operator.devices().await?;
            let known = devices.iter().filter(|device| !device.probes.is_empty()).count();
            Ok(if known == count { Answer::Ready(()) } else { Answer::NotYet(format!("{known} are")) })
        })
        .await
        .unwrap();
    }

    /// A manifest for the scene's data set.
    pub(crate) fn manifest(&self, budgets: Vec<BudgetRule>) -> DeploymentManifest {
        manifest(&self.dataset(), budgets)
    }

    /// Applies a manifest and returns its generation.
    pub(crate) async fn apply(&self, manifest: &DeploymentManifest) -> u64 {
        self.operator.apply(&yaml(manifest)).await.unwrap().generation
    }

    /// Applies a manifest and waits for its completion.
    pub(crate) async fn complete(&self, manifest: &DeploymentManifest) -> v1::Deployment {
        let generation = self.apply(manifest).await;
        self.operator.completed(DEPLOYMENT, generation, LIMIT).await.unwrap()
    }
}

impl Scene {
    /// A deployment, once every device serves what it was given. One that was away when the deployment completed gets
    /// there later.
    pub(crate) async fn settled(&self, generation: u64) -> v1::Deployment {
        wait_until("every device to be active", LIMIT, async || {
            let deployment = self.operator.completed(DEPLOYMENT, generation, LIMIT).await?;
            let is_settled = deployment.devices.iter().all(|outcome| outcome.state == "Active");
            Ok(if is_settled { Answer::Ready(deployment) } else { Answer::NotYet(describe(&deployment)) })
        })
        .await
        .unwrap()
    }
}

impl Scene {
    /// Waits until each device has sent as many times of its model as a judgement takes.
    pub(crate) async fn reported(&self, served: &BTreeMap<String, String>) {
        wait_until("every device to have reported", LIMIT, async || {
            let mut reported = 0;
            for (device, digest) in served {
                let telemetry = self.operator.telemetry(device, digest).await;
                let is_enough = |summary: v1::TelemetrySummary| summary.count >= MIN_REQUESTS;
                reported += usize::from(telemetry.is_ok_and(|summary| summary.is_some_and(is_enough)));
            }
            let all = reported == served.len();
            Ok(if all { Answer::Ready(()) } else { Answer::NotYet(format!("{reported} have")) })
        })
        .await
        .unwrap();
    }
}

/// A process's status, once it has ended by itself.
pub(crate) async fn ended(daemon: &mut Daemon) -> ExitStatus {
    wait_until("the end of the process", Duration::from_secs(60), async || {
        Ok(match daemon.ended()? {
            Some(status) => Answer::Ready(status),
            None => Answer::NotYet("it runs".to_owned()),
        })
    })
    .await
    .unwrap()
}

/// The manifest as an operator would send it.
pub(crate) fn yaml(manifest: &DeploymentManifest) -> String {
    serde_saphyr::to_string(manifest).unwrap()
}

/// ResNet-20, few rounds, a training of about a second.
fn manifest(dataset: &Path, budgets: Vec<BudgetRule>) -> DeploymentManifest {
    DeploymentManifest {
        api_version: "reconvene/v1".to_owned(),
        kind: "Deployment".to_owned(),
        metadata: Metadata { name: DEPLOYMENT.to_owned() },
        spec: DeploymentSpec {
            selector: Selector::default(),
            network: "resnet20".to_owned(),
            dataset: DatasetSpec { format: DatasetFormat::Idx, path: dataset.to_owned(), test_share: None },
            pruning: PruningSpec { rounds: 10, ..PruningSpec::default() },
            training: TrainingSpec { epochs: 2, batch: 32, learning_rate: 0.05, ..TrainingSpec::default() },
            budgets,
            rollout: RolloutSpec::default(),
        },
    }
}

/// A ceiling on one device's parameters, as an operator writes it.
pub(crate) fn params(device: &str, limit: &str) -> BudgetRule {
    BudgetRule {
        selector: BTreeMap::from([("device".to_owned(), device.to_owned())]).into(),
        params: Some(limit.parse().unwrap()),
        ..BudgetRule::default()
    }
}

/// What each device ended with.
pub(crate) fn digests(deployment: &v1::Deployment) -> BTreeMap<String, String> {
    deployment
        .devices
        .iter()
        .map(|outcome| {
            assert_eq!(outcome.state, "Active", "{outcome:?}");
            (outcome.device_id.clone(), outcome.digest.clone())
        })
        .collect()
}
