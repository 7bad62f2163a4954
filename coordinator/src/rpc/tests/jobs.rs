//! What becomes of a deployment whose job is cancelled.

use proto::v1::operator_service_client::OperatorServiceClient;

use super::told::{holds, manifest};
use super::*;
use crate::fitting::reach::tests::profile;
use crate::manifest::{DatasetFormat, DatasetSpec, DeploymentManifest};

/// A deployment that has a network scored for its only device.
fn wanting(store: &SledStore) {
    let mut wanted = manifest();
    wanted.spec.selector = Default::default();
    wanting_as(store, wanted);
}

fn wanting_as(store: &SledStore, wanted: DeploymentManifest) {
    store.apply_deployment(&wanted, super::told::TEXT, None, 1).unwrap();
    holds(store, 1, None);
    store.update_device(&gw(1), &mut |device| device.profile = Some(profile(0.05))).unwrap();
}

struct Operator(OperatorServiceClient<Channel>);

impl Operator {
    async fn rollout(&mut self, verb: &str) {
        let request = v1::ControlRolloutRequest { name: "d".to_owned(), verb: verb.to_owned() };
        self.0.control_rollout(request).await.unwrap();
    }

    async fn delete(&mut self, name: &str) {
        let request = v1::DeleteDeploymentRequest { name: name.to_owned(), force: true };
        self.0.delete_deployment(request).await.unwrap();
    }

    async fn cancel(&mut self, job: &v1::Job) {
        let request = v1::ControlJobRequest { name: job.name.clone(), verb: "cancel".to_owned() };
        self.0.control_job(request).await.unwrap();
    }

    /// The only job, once it is in that state.
    async fn job(&mut self, state: &str) -> v1::Job {
        loop {
            let jobs = self.0.list_jobs(v1::ListRequest::default()).await.unwrap().into_inner().jobs;
            if let Some(job) = jobs.into_iter().find(|job| job.state == state) {
                return job;
            }
        }
    }

    /// The only deployment, once this is said of it.
    async fn deployment(&mut self, part: &str) -> v1::Deployment {
        loop {
            let list = self.0.list_deployments(v1::ListRequest::default()).await.unwrap().into_inner();
            if let Some(found) = list.deployments.into_iter().find(|it| it.message.contains(part)) {
                return found;
            }
        }
    }
}

#[tokio::test]
async fn a_cancelled_job_leaves_a_paused_deployment_paused_and_begins_again_when_it_is_resumed() {
    let host = Host::start_with(wanting).await;
    let mut operator = Operator(OperatorServiceClient::new(host.channel().await));
    let job = operator.job("Queued").await;
    operator.rollout("pause").await;
    operator.cancel(&job).await;
    let why =
        format!("somebody on this host cancelled {}; `reconvene rollout resume d` begins it again", job.name);
    let paused = operator.deployment(&why).await;
    assert_eq!((paused.phase.as_str(), paused.paused), ("Scoring", true));
    assert_eq!(paused.message, format!("paused; {why}"));
    assert_eq!(paused.devices[0].reason, format!("its model is not being made: {why}"));
    operator.job("Cancelled").await;

    operator.rollout("resume").await;
    operator.job("Queued").await;
    let resumed = operator.deployment("waiting for the models of gw-1").await;
    assert_eq!(resumed.devices[0].reason, "its model is being pruned and trained");

    // One that is not paused fails by it.
    operator.cancel(&job).await;
    let failed = operator.deployment(&format!("somebody on this host cancelled {}", job.name)).await;
    assert_eq!((failed.phase.as_str(), failed.paused), ("Failed", false));
    assert!(failed.message.contains("; `reconvene rollout retry d` begins it again"), "{failed:?}");
    host.stopped().await;
}

#[tokio::test]
async fn a_deployment_that_is_aborted_says_what_takes_it_on() {
    let host = Host::start_with(wanting).await;
    let mut operator = Operator(OperatorServiceClient::new(host.channel().await));
    operator.job("Queued").await;
    operator.rollout("abort").await;
    let aborted = operator.deployment("an operator aborted it").await;
    let next =
        "an operator aborted it; `reconvene rollout retry d` begins it again, a changed manifest replaces it";
    assert_eq!(aborted.message, next);
    operator.job("Unwanted").await;
    let reason = &aborted.devices[0].reason;
    assert_eq!(reason, "it is not told: the deployment has failed; it keeps what it serves");
    host.stopped().await;
}

#[tokio::test]
async fn what_was_scored_for_a_deployment_that_is_deleted_is_dropped_once_no_other_waits_for_it() {
    let host = Host::start_with(|store| {
        wanting(store);
        let mut other = manifest();
        (other.metadata.name, other.spec.selector) = ("e".to_owned(), Default::default());
        store.apply_deployment(&other, super::told::TEXT, None, 1).unwrap();
    })
    .await;
    let mut operator = Operator(OperatorServiceClient::new(host.channel().await));
    let job = operator.job("Queued").await;
    operator.delete("d").await;
    assert_eq!(operator.job("Queued").await.name, job.name, "the other one waits for it");
    operator.delete("e").await;
    operator.job("Unwanted").await;
    host.stopped().await;
}

#[tokio::test]
async fn a_plan_that_waits_for_scores_goes_on_waiting_when_the_deployment_is_deleted() {
    let images = tempfile::tempdir().unwrap();
    for file in ["train.bin", "test.bin"] {
        std::fs::write(images.path().join(file), [&[7, 7][..], &[1; 3072]].concat()).unwrap();
    }
    let path = images.path().to_owned();
    let files = DatasetSpec { format: DatasetFormat::Cifar100, path: path.clone(), test_share: None };
    let host = Host::start_with(|store| {
        let mut wanted = manifest();
        (wanted.spec.selector, wanted.spec.dataset) = (Default::default(), files);
        wanting_as(store, wanted);
    })
    .await;
    let mut operator = Operator(OperatorServiceClient::new(host.channel().await));
    let job = operator.job("Queued").await;
    let text = super::told::TEXT
        .replace("format: idx, path: /data", &format!("format: cifar100, path: '{}'", path.display()));
    let mut planner = OperatorServiceClient::new(host.channel().await);
    let planned = TaskTracker::new()
        .spawn(async move { planner.plan(v1::PlanRequest { manifest: text, strict: false }).await });
    operator.delete("d").await;
    assert_eq!(operator.job("Queued").await.name, job.name);
    operator.cancel(&job).await;
    let refused = planned.await.unwrap().unwrap_err();
    assert!(refused.message().contains(&format!("cancelled {}", job.name)), "{refused:?}");
    host.stopped().await;
}
