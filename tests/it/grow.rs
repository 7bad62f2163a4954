//! Devices that are faster than their probes promise get larger networks where the deployment's policy says so: once, a
//! part of them first, within their budgets; and what turns out too large is taken back for good.

use coordinator::limit::{Limit, Millis};
use coordinator::manifest::{BudgetRule, GrowSpec, Wave};
use fleet_tests::dataset::patterns::CLASSES;
use fleet_tests::poll::{Answer, wait_until};
use fleet_tests::simulated::{SimulatedDevice, SimulatedMeans};
use proto::v1;
use pruner_core::{Shape, zoo};

use crate::scene::{DEPLOYMENT, LIMIT, PATTERNS, Scene, digests};

const DEVICES: [&str; 3] = ["sim-1", "sim-2", "sim-3"];

fn means(device: &str, slower: f64) -> SimulatedMeans {
    SimulatedMeans { slower, ..SimulatedMeans::new(device) }
}

/// Half of what the dense network takes.
fn ceiling() -> f64 {
    let shape = Shape::new(1, PATTERNS.side, PATTERNS.side);
    let dense = zoo::build("resnet20".parse().unwrap(), shape, CLASSES).unwrap();
    means("any", 1.0).promised_ms(&dense) / 2.0
}

/// Applies a manifest with that ceiling, for one device first, and lets devices grow as often as they like.
async fn apply(scene: &Scene, grow: Option<GrowSpec>) -> u64 {
    let rule = BudgetRule { latency_p95: Some(Limit::Absolute(Millis(ceiling()))), ..BudgetRule::default() };
    let mut manifest = scene.manifest(vec![rule]);
    (manifest.spec.rollout.waves, manifest.spec.rollout.grow) =
        (vec![Wave::Percent(33), Wave::Percent(100)], grow);
    scene.apply(&manifest).await
}

fn often() -> Option<GrowSpec> {
    Some(GrowSpec { at_most_every: "1s".parse().unwrap(), at_least_requests: 400, ..GrowSpec::default() })
}

/// What of the audit log says this, as "subject: what it is after".
async fn entries(scene: &Scene, action: &str) -> Vec<(String, String)> {
    let log = scene.operator.audit().await.unwrap();
    let of = log.into_iter().filter(|entry| entry.action == action);
    of.map(|entry| (entry.subject, entry.after)).collect()
}

/// Waits until each device says that of itself.
async fn each_says(scene: &Scene, devices: &mut [SimulatedDevice], what: &str) -> v1::Deployment {
    wait_until(&format!("each device to say '{what}'"), LIMIT, async || {
        for device in &mut *devices {
            device.ensure_playing().await?;
        }
        let deployment = scene.operator.deployment(DEPLOYMENT).await?.unwrap_or_default();
        let says = |outcome: &&v1::DeviceOutcome| outcome.state == "Active" && outcome.reason.contains(what);
        let all = deployment.devices.iter().filter(says).count() == DEVICES.len();
        let reasons: Vec<_> = deployment.devices.iter().map(|outcome| &outcome.reason).collect();
        let not_yet = format!("{} {reasons:?}", deployment.phase);
        Ok(if all { Answer::Ready(deployment) } else { Answer::NotYet(not_yet) })
    })
    .await
    .unwrap()
}

fn macs(deployment: &v1::Deployment) -> Vec<u64> {
    deployment
        .devices
        .iter()
        .map(|outcome| outcome.planned.unwrap_or_else(|| panic!("{outcome:?}")).macs)
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_known_of_fast_devices_is_used_when_the_policy_is_applied() {
    let scene = Scene::start().await;
    let play = |device| SimulatedDevice::start(means(device, 0.4), scene.coordinator.address());
    let mut devices = DEVICES.map(play);
    scene.known(DEVICES.len()).await;
    let before = scene.settled(apply(&scene, None).await).await;
    assert_eq!(entries(&scene, "grow").await, [], "the policy is off");
    scene.reported(&digests(&before)).await;
    // The same deployment with the policy on, from the same plan: what is known of these devices by then is used at once.
    apply(&scene, often()).await;
    let after = each_says(&scene, &mut devices, "it does not grow").await;
    for (before, after) in macs(&before).into_iter().zip(macs(&after)) {
        assert!(after as f64 >= 1.1 * before as f64, "{before} -> {after}");
        // They take 0.4 of what their probes promise, and no correction goes below 0.5.
        let believed_ms = 0.5 * means("any", 1.0).ms_per_million * after as f64 / 1e6;
        assert!(believed_ms <= ceiling(), "{after} take {believed_ms} ms of {}", ceiling());
    }
    for outcome in &after.devices {
        let measured = scene.operator.telemetry(&outcome.device_id, &outcome.digest).await.unwrap().unwrap();
        assert!(measured.p95_ms <= ceiling(), "{measured:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_that_is_much_faster_than_predicted_grows_once_one_device_first() {
    let scene = Scene::start().await;
    let play = |device| SimulatedDevice::start(means(device, 0.4), scene.coordinator.address());
    let mut devices = DEVICES.map(play);
    scene.known(DEVICES.len()).await;
    let generation = apply(&scene, often()).await;
    let grown = each_says(&scene, &mut devices, "grown by").await;
    let settled = each_says(&scene, &mut devices, "it does not grow").await;
    assert_eq!(macs(&grown), macs(&settled));
    for outcome in &settled.devices {
        let measured = scene.operator.telemetry(&outcome.device_id, &outcome.digest).await.unwrap().unwrap();
        assert!(measured.p95_ms <= ceiling(), "{measured:?}");
    }
    let log = scene.operator.audit().await.unwrap();
    let actions: Vec<_> = log.iter().map(|entry| entry.action.as_str()).collect();
    let at = |action: &str| actions.iter().position(|found| *found == action).unwrap();
    // The first serves its larger network before the others begin.
    let second = actions.iter().enumerate().filter(|(_, action)| **action == "grow").nth(1).unwrap().0;
    assert!(actions[at("grow")..second].contains(&"serve"), "{actions:?}");
    let grown = entries(&scene, "grow").await;
    let mut subjects: Vec<_> = grown.iter().map(|(subject, _)| subject.as_str()).collect();
    subjects.sort_unstable();
    assert_eq!(subjects, ["device/sim-1", "device/sim-2", "device/sim-3"], "each once");
    assert!(grown.iter().all(|(_, after)| after.contains("multiply-accumulates, for p95")), "{grown:?}");
    assert_eq!(entries(&scene, "shrink").await, []);
    assert_eq!(entries(&scene, "refit").await, []);
    assert_eq!(scene.settled(generation).await.generation, generation);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_larger_network_that_a_device_cannot_load_is_taken_back() {
    let scene = Scene::start().await;
    let shape = Shape::new(1, PATTERNS.side, PATTERNS.side);
    let dense = zoo::build("resnet20".parse().unwrap(), shape, CLASSES).unwrap();
    // The first network has about half of the dense one's multiply-accumulates, a larger one nearly all.
    let most_macs = Some(pruner_core::graph::cost::cost(&dense).macs * 3 / 4);
    let play = |device| {
        let means = SimulatedMeans { most_macs, ..means(device, 0.4) };
        SimulatedDevice::start(means, scene.coordinator.address())
    };
    let mut devices = DEVICES.map(play);
    scene.known(DEVICES.len()).await;
    let generation = apply(&scene, often()).await;
    each_says(&scene, &mut devices, "a larger network back").await;
    let settled = scene.settled(generation).await;
    assert_eq!(settled.phase, "Complete", "it is no failure of the rollout");
    let (grown, shrunk) = (entries(&scene, "grow").await, entries(&scene, "shrink").await);
    assert_eq!((grown.len(), shrunk.len()), (1, 1), "{grown:?} {shrunk:?}");
    assert_eq!(grown[0].0, shrunk[0].0);
    assert!(shrunk[0].1.contains("too many for it"), "{shrunk:?}");
}
