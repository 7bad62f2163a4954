//! The loop closes: devices that are slower than their probes promise are fitted again, from what they measured, until
//! they are within their budgets.

use std::collections::{BTreeMap, BTreeSet};

use coordinator::limit::{Limit, Millis};
use coordinator::manifest::BudgetRule;
use fleet_tests::dataset::patterns::CLASSES;
use fleet_tests::poll::{Answer, wait_until};
use fleet_tests::simulated::{SimulatedDevice, SimulatedMeans};
use proto::v1;
use pruner_core::{Shape, zoo};

use crate::scene::{DEPLOYMENT, LIMIT, PATTERNS, Scene};

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

/// What each device serves now: its state, its time, and what the coordinator says of it.
async fn served(scene: &Scene) -> BTreeMap<String, (String, f64, String)> {
    let deployment: v1::Deployment = scene.operator.deployment(DEPLOYMENT).await.unwrap().unwrap();
    let mut served = BTreeMap::new();
    for outcome in deployment.devices {
        let telemetry = scene.operator.telemetry(&outcome.device_id, &outcome.digest).await.unwrap();
        let p95 = telemetry.map_or(f64::INFINITY, |summary| summary.p95_ms);
        served.insert(outcome.device_id, (outcome.state, p95, outcome.reason));
    }
    served
}

async fn within_budget(scene: &Scene, devices: &mut [SimulatedDevice]) -> BTreeMap<String, String> {
    wait_until("every device within its budget", LIMIT, async || {
        for device in &mut *devices {
            device.ensure_playing().await?;
        }
        let served = served(scene).await;
        let is_met = |(state, p95, _): &(String, f64, String)| state == "Active" && *p95 <= ceiling();
        let met = served.len() == DEVICES.len() && served.values().all(is_met);
        Ok(if met { Answer::Ready(()) } else { Answer::NotYet(format!("{served:?}")) })
    })
    .await
    .unwrap();
    served(scene).await.into_iter().map(|(device, (_, _, reason))| (device, reason)).collect()
}

/// More intervals than a device sends between two looks of the coordinator, which looks every 5 s at least.
const LOOKED_AT: u64 = 35;

/// Waits until the coordinator has had more than one look at each device.
async fn looked_at_again(scene: &Scene) {
    let mut wanted = BTreeMap::new();
    wait_until("more telemetry of every device", LIMIT, async || {
        let mut looked_at = BTreeSet::new();
        for summary in scene.operator.all_telemetry("").await? {
            // Those of models that a device serves no more do not grow.
            let series = (summary.device_id.clone(), summary.generation);
            if summary.intervals >= *wanted.entry(series).or_insert(summary.intervals + LOOKED_AT) {
                looked_at.insert(summary.device_id);
            }
        }
        let all = looked_at.len() == DEVICES.len();
        Ok(if all { Answer::Ready(()) } else { Answer::NotYet(format!("{looked_at:?}")) })
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_that_is_forty_percent_slower_than_predicted_ends_within_its_budgets() {
    let scene = Scene::start().await;
    let play = |device| SimulatedDevice::start(means(device, 1.4), scene.coordinator.address());
    let mut devices = DEVICES.map(play);
    let rule = BudgetRule { latency_p95: Some(Limit::Absolute(Millis(ceiling()))), ..BudgetRule::default() };
    let generation = scene.apply(&scene.manifest(vec![rule])).await;
    let reasons = within_budget(&scene, &mut devices).await;
    for (device, reason) in &reasons {
        let once = reason.contains("fitted again once") && reason.contains("% over");
        let twice = reason.contains("fitted again 2 times") && reason.contains("% over");
        assert!(once || twice, "{device}: {reason}");
    }
    // Whoever is within the budget is left alone.
    let before = scene.settled(generation).await;
    looked_at_again(&scene).await;
    let after = scene.settled(generation).await;
    assert_eq!(before, after);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_may_forbid_it() {
    let scene = Scene::start().await;
    let play = |device| SimulatedDevice::start(means(device, 1.4), scene.coordinator.address());
    let devices = DEVICES.map(play);
    let rule = BudgetRule { latency_p95: Some(Limit::Absolute(Millis(ceiling()))), ..BudgetRule::default() };
    let mut manifest = scene.manifest(vec![rule]);
    manifest.spec.rollout.refits = 0;
    let generation = scene.apply(&manifest).await;
    let before = scene.settled(generation).await;
    looked_at_again(&scene).await;
    let after = scene.settled(generation).await;
    let given = |deployment: &v1::Deployment| {
        let each = deployment.devices.iter().map(|outcome| (outcome.state.clone(), outcome.digest.clone()));
        each.collect::<Vec<_>>()
    };
    assert_eq!(given(&before), given(&after));
    // What is not mended is said.
    assert_eq!(after.over_ceiling as usize, DEVICES.len(), "{after:?}");
    for v1::DeviceOutcome { reason, .. } in &after.devices {
        assert!(
            reason.contains("over its ceiling: p95") && reason.contains("rollout.refits is 0"),
            "{reason}"
        );
    }
    let late = served(&scene).await.into_values().filter(|(_, p95, _)| *p95 > ceiling()).count();
    assert_eq!(late, DEVICES.len());
    drop(devices);
}
