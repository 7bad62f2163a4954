//! The main job on a small scale: two devices with different budgets end with a model of their own each, serve it, and
//! tell how long it takes; and go on serving when the coordinator is gone.

use fleet_tests::inference::{InferenceClient, argmax};
use fleet_tests::poll::{Answer, wait_until};
use proto::v1;
use pruner_core::dataset::{Dataset, read_idx};

use crate::scene::{DEPLOYMENT, LIMIT, Scene, ended, params, yaml};

#[tokio::test]
async fn each_device_serves_a_model_within_its_budget_and_reports_its_latency() {
    let mut scene = Scene::start().await;
    let address = scene.coordinator.address();
    let _roomy = scene.agent("roomy", address).await;
    let _tight = scene.agent("tight", address).await;
    let manifest = scene.manifest(vec![params("tight", "1/16.21")]);
    let planned = scene.operator.plan(&yaml(&manifest)).await.unwrap();
    let deployment = scene.complete(&manifest).await;

    let outcome = |device: &str| deployment.devices.iter().find(|o| o.device_id == device).unwrap();
    let (roomy, tight) = (outcome("roomy"), outcome("tight"));
    assert_ne!(roomy.digest, tight.digest);
    assert_eq!(deployment.active, 2);
    let dense = planned.dense.unwrap();
    assert_eq!(roomy.planned.unwrap().params, dense.params);
    let allowed = tight.budget.unwrap().params.unwrap();
    assert_eq!(allowed, (dense.params as f64 / 16.21).floor() as u64);
    assert!(tight.planned.unwrap().params <= allowed, "{tight:?}");
    assert!(tight.predicted_p95_ms.unwrap() < roomy.predicted_p95_ms.unwrap(), "{roomy:?} {tight:?}");

    let dataset = read_idx(&scene.dataset()).unwrap();
    for outcome in [roomy, tight] {
        let artifact = scene.operator.artifact(&outcome.digest).await.unwrap();
        assert_eq!(artifact.test_images as usize, dataset.test.len());
        let served = Served::of(&scene, outcome).await;
        let agreed = served.ask(&dataset).await;
        // The device's answers are those that the coordinator counted, but for rounding on a close call or two.
        let expected = artifact.test_accuracy.unwrap() * dataset.test.len() as f64;
        assert!((agreed as f64 - expected).abs() <= 2.0, "{agreed} of {expected} on {}", outcome.device_id);
        let telemetry = arrived(&scene, outcome, dataset.test.len() as u64).await;
        assert!(telemetry.p50_ms > 0.0 && telemetry.p50_ms <= telemetry.p95_ms, "{telemetry:?}");
        assert_eq!(telemetry.errors, 0);
    }
    // Chance is one in four.
    assert!(roomy.test_accuracy.unwrap() > 0.7, "{roomy:?}");

    let served = Served::of(&scene, roomy).await;
    scene.coordinator.kill9().unwrap();
    assert!(served.ask(&dataset).await > 0, "a device serves on without a coordinator");
}

#[tokio::test]
async fn a_budget_that_nothing_meets_is_a_state_of_its_own() {
    let scene = Scene::start().await;
    let _tiny = scene.agent("tiny", scene.coordinator.address()).await;
    // As long as it is for this device alone, it is refused, and nothing is changed.
    let manifest = scene.manifest(vec![params("tiny", "10")]);
    let refused = format!("{:#}", scene.operator.apply(&yaml(&manifest)).await.unwrap_err());
    let named = "tiny: no network fits: the budget allows 10 parameters, the smallest reachable has ";
    assert!(refused.contains(named) && refused.contains("nothing was changed"), "{refused}");
    assert!(scene.operator.deployment(DEPLOYMENT).await.unwrap().is_none());

    let _roomy = scene.agent("roomy", scene.coordinator.address()).await;
    let deployment = scene.complete(&manifest).await;
    let outcome = deployment.devices.iter().find(|outcome| outcome.device_id == "tiny").unwrap();
    assert_eq!((outcome.state.as_str(), deployment.no_fit, deployment.active), ("NoFit", 1, 1));
    assert!(outcome.reason.contains("param"), "{}", outcome.reason);
    assert!(scene.operator.device("tiny").await.unwrap().unwrap().active_digest.is_empty());

    // Once it is deleted, who served goes on, and the next of its name goes on counting.
    let had = scene.operator.device("roomy").await.unwrap().unwrap().active_digest;
    let deleted = scene.operator.delete(DEPLOYMENT).await.unwrap();
    assert_eq!((deleted.generation, deleted.serving), (deployment.generation, vec!["roomy".to_owned()]));
    assert!(scene.operator.deployment(DEPLOYMENT).await.unwrap().is_none());
    assert_eq!(scene.operator.device("roomy").await.unwrap().unwrap().active_digest, had);
    let again = scene.complete(&manifest).await;
    assert_eq!((again.generation, again.active), (deployment.generation + 1, 1));
    let entries = scene.operator.audit().await.unwrap();
    let entry = entries.iter().find(|entry| entry.action == "delete").unwrap();
    assert!(
        entry.before.starts_with("generation 1: ") && entry.after.starts_with("deleted; 1 "),
        "{entry:?}"
    );
}

/// A device's inference API.
struct Served {
    client: InferenceClient,
}

impl Served {
    async fn of(scene: &Scene, outcome: &v1::DeviceOutcome) -> Self {
        let device = scene.operator.device(&outcome.device_id).await.unwrap().unwrap();
        assert_eq!(device.active_digest, outcome.digest);
        Self { client: InferenceClient::new(&device.serving_address) }
    }

    /// How many test images it answers as labelled.
    async fn ask(&self, dataset: &Dataset) -> usize {
        let (client, test) = (self.client.clone(), dataset.test.clone());
        let asking = move || {
            let metadata = client.metadata(DEPLOYMENT).unwrap();
            let right = |&index: &usize| {
                let request = metadata.request(test.pixels(index)).unwrap();
                argmax(&client.infer(DEPLOYMENT, &request).unwrap()) == usize::from(test.label(index))
            };
            (0..test.len()).filter(right).count()
        };
        tokio::task::spawn_blocking(asking).await.unwrap()
    }
}

async fn arrived(scene: &Scene, outcome: &v1::DeviceOutcome, count: u64) -> v1::TelemetrySummary {
    wait_until("telemetry", LIMIT, async || {
        Ok(match scene.operator.telemetry(&outcome.device_id, &outcome.digest).await? {
            Some(telemetry) if telemetry.count >= count => Answer::Ready(telemetry),
            other => Answer::NotYet(format!("{other:?}")),
        })
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn both_daemons_stop_in_good_order_when_asked() {
    let mut scene = Scene::start().await;
    let mut agent = scene.agent("one", scene.coordinator.address()).await;
    for daemon in [agent.daemon(), scene.coordinator.daemon()] {
        daemon.terminate().unwrap();
        let status = ended(daemon).await;
        assert_eq!(status.code(), Some(0), "{}", daemon.log_tail());
    }
}
