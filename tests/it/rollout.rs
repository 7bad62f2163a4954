//! An operator's hand on rollouts: nothing is told while one is paused, and there is a way back from each end.

use std::collections::{BTreeMap, BTreeSet};

use coordinator::manifest::{BudgetRule, Wave};
use fleet_tests::operator::describe;
use fleet_tests::poll::{Answer, wait_until};
use fleet_tests::simulated::{SimulatedDevice, SimulatedMeans};
use proto::v1;

use crate::scene::{DEPLOYMENT, LIMIT, Scene, yaml};

const DEVICES: [&str; 3] = ["sim-1", "sim-2", "sim-3"];

async fn control(scene: &Scene, verb: &str) -> String {
    match scene.operator.control_rollout(DEPLOYMENT, verb).await {
        Ok(v1::ControlRolloutResponse { generation, result }) => format!("{result} {generation}"),
        Err(error) => format!("{error:#}"),
    }
}

async fn until(scene: &Scene, what: &str, is_so: impl Fn(&v1::Deployment) -> bool) -> v1::Deployment {
    wait_until(what, LIMIT, async || {
        let deployment = scene.operator.deployment(DEPLOYMENT).await?.expect("it was applied");
        let text = describe(&deployment);
        Ok(if is_so(&deployment) { Answer::Ready(deployment) } else { Answer::NotYet(text) })
    })
    .await
    .unwrap()
}

fn served(deployment: &v1::Deployment) -> BTreeSet<&str> {
    deployment.devices.iter().map(|outcome| outcome.digest.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_is_paused_resumed_undone_aborted_and_retried() {
    let scene = Scene::start().await;
    let _devices = DEVICES
        .map(|device| SimulatedDevice::start(SimulatedMeans::new(device), scene.coordinator.address()));
    scene.known(DEVICES.len()).await;

    let mut manifest = scene.manifest(Vec::new());
    manifest.spec.rollout.waves = vec![Wave::Percent(34)];
    let first = scene.apply(&manifest).await;
    assert_eq!(control(&scene, "pause").await, "paused 1");
    assert_eq!(control(&scene, "pause").await, "unchanged 1");
    let paused =
        until(&scene, "the pause", |deployment| deployment.message.starts_with("paused, 3 not told")).await;
    assert!(paused.devices.iter().all(|outcome| outcome.state == "Fitted"), "{}", describe(&paused));
    assert_eq!(control(&scene, "resume").await, "resumed 1");
    let old = scene.settled(first).await;
    assert!(control(&scene, "abort").await.contains("there is nothing to abort"));
    assert!(control(&scene, "undo").await.contains("no other manifest"));

    manifest.spec.training.seed = 2;
    let second = scene.apply(&manifest).await;
    let new = scene.settled(second).await;
    assert_ne!(served(&old), served(&new));
    assert_eq!(control(&scene, "undo").await, "undone 3");
    assert_eq!(served(&scene.settled(3).await), served(&old));
    assert_eq!(scene.apply(&manifest).await, second, "it stays undone though a repository still has it");
    let deployment = scene.operator.deployment(DEPLOYMENT).await.unwrap().unwrap();
    assert_eq!((deployment.generation, deployment.phase.as_str()), (3, "Complete"));

    manifest.spec.training.seed = 3;
    scene.apply(&manifest).await;
    assert_eq!(control(&scene, "abort").await, "aborted 4");
    let aborted = until(&scene, "the end", |deployment| deployment.phase == "Failed").await;
    let text = &aborted.message;
    assert!(text.starts_with("an operator aborted it; `reconvene rollout retry "), "{text}");
    assert!(text.contains("`reconvene rollout undo "), "{text}");
    assert_eq!(control(&scene, "abort").await, "unchanged 4");
    wait_until("every device to say that it keeps what it serves", LIMIT, async || {
        let devices = scene.operator.devices().await?;
        let kept =
            devices.iter().filter(|device| served(&old).contains(device.active_digest.as_str())).count();
        Ok(if kept == DEVICES.len() { Answer::Ready(()) } else { Answer::NotYet(format!("{kept} do")) })
    })
    .await
    .unwrap();
    assert!(control(&scene, "pause").await.contains("rollout retry patterns"));
    assert_eq!(control(&scene, "retry").await, "retried 5");
    scene.settled(5).await;
    assert!(control(&scene, "explode").await.contains("allowed: pause, resume, approve, abort, retry, undo"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_skips_no_wave_while_nobody_is_back_yet() {
    let mut scene = Scene::start().await;
    let devices = DEVICES
        .map(|device| SimulatedDevice::start(SimulatedMeans::new(device), scene.coordinator.address()));
    scene.known(DEVICES.len()).await;
    let mut manifest = scene.manifest(Vec::new());
    manifest.spec.rollout.waves = vec![Wave::Percent(33), Wave::Percent(66)];
    manifest.spec.rollout.bake = "20s".parse().unwrap();
    scene.apply(&manifest).await;
    let states = |of: &v1::Deployment| {
        let mut states: Vec<_> = of.devices.iter().map(|outcome| outcome.state.clone()).collect();
        states.sort();
        states.join(" ")
    };
    until(&scene, "the first wave", |now| states(now) == "Active Fitted Fitted").await;
    scene.coordinator.kill9().unwrap();
    drop(devices);
    scene.coordinator.restart().await.unwrap();
    // All are away; those of the third wave are told nothing before those of the second had time to come back.
    let next = until(&scene, "the second wave", |now| states(now) != "Active Fitted Fitted").await;
    assert_eq!(states(&next), "Active Assigned Fitted", "{}", describe(&next));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lab_goes_first_then_so_many_then_the_rest() {
    let scene = Scene::start().await;
    let means = |device: &str| {
        let mut means = SimulatedMeans::new(device);
        if device == "sim-2" {
            means.labels.insert("site".to_owned(), "lab".to_owned());
        }
        means
    };
    let _devices = DEVICES.map(|device| SimulatedDevice::start(means(device), scene.coordinator.address()));
    scene.known(DEVICES.len()).await;
    let mut manifest = scene.manifest(Vec::new());
    let lab = Wave::Selector("site=lab".parse().unwrap());
    (manifest.spec.rollout.waves, manifest.spec.rollout.approval) = (vec![lab, Wave::Count(2)], true);
    let generation = scene.apply(&manifest).await;
    let first =
        until(&scene, "the lab's wave", |now| now.message.starts_with("wave 1 of 3: 2 not told")).await;
    let told = |of: &v1::Deployment| {
        let told = of.devices.iter().filter(|outcome| outcome.wave > 0);
        told.map(|outcome| (outcome.device_id.clone(), outcome.wave)).collect::<Vec<_>>()
    };
    assert_eq!(told(&first), [("sim-2".to_owned(), 1)]);
    assert_eq!(control(&scene, "approve").await, format!("approved {generation}"));
    let second =
        until(&scene, "a second one", |now| now.message.starts_with("wave 2 of 3: 1 not told")).await;
    assert_eq!(told(&second).len(), 2, "{}", describe(&second));
    assert_eq!(control(&scene, "approve").await, format!("approved {generation}"));
    scene.settled(generation).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_keeps_its_devices_until_it_is_deleted() {
    let scene = Scene::start().await;
    let _devices = DEVICES
        .map(|device| SimulatedDevice::start(SimulatedMeans::new(device), scene.coordinator.address()));
    scene.known(DEVICES.len()).await;
    let mut manifest = scene.manifest(Vec::new());
    scene.settled(scene.apply(&manifest).await).await;
    // Before it by name, and for every device.
    manifest.metadata.name = "a".to_owned();
    scene.apply(&manifest).await;
    let of = async |name: &str, what: &str| {
        wait_until(what, LIMIT, async || {
            let deployment = scene.operator.deployment(name).await?.unwrap_or_default();
            let text = describe(&deployment);
            Ok(if text.contains(what) { Answer::Ready(deployment) } else { Answer::NotYet(text) })
        })
        .await
        .unwrap()
    };
    let waits = of("a", "the 3 devices that match belong to other deployments").await;
    assert_eq!((waits.phase.as_str(), waits.devices.len()), ("Pending", 0));
    // It is promised nothing meanwhile.
    let planned = scene.operator.plan(&yaml(&manifest)).await.unwrap();
    let held = format!("it belongs to deployment '{DEPLOYMENT}'");
    let waits = |it: &v1::DeviceOutcome| it.state == "Waiting" && it.reason.starts_with(&held);
    assert!(planned.devices.iter().all(waits), "{:?}", planned.devices);
    assert_eq!((planned.devices.len(), planned.models.len()), (DEVICES.len(), 0));
    // It keeps them through a new generation too, whose outcomes are empty at first.
    manifest.metadata.name = DEPLOYMENT.to_owned();
    manifest.spec.training.seed = 9;
    let kept = scene.settled(scene.apply(&manifest).await).await;
    assert_eq!(kept.devices.len(), DEVICES.len());
    assert_eq!(of("a", "belong to other deployments").await.devices.len(), 0);
    scene.operator.delete(DEPLOYMENT).await.unwrap();
    let taken = of("a", "3 active").await;
    assert_eq!(taken.devices.len(), DEVICES.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_another_budget_is_for_gets_another_model() {
    let scene = Scene::start().await;
    let play = |tier: &str| {
        let labels = [("tier".to_owned(), tier.to_owned())].into();
        let means = SimulatedMeans { labels, ..SimulatedMeans::new("sim-1") };
        SimulatedDevice::start(means, scene.coordinator.address())
    };
    let large = play("large");
    scene.known(1).await;
    let rule = |tier: &str, macs: &str| BudgetRule {
        selector: BTreeMap::from([("tier".to_owned(), tier.to_owned())]).into(),
        macs: Some(macs.parse().unwrap()),
        ..BudgetRule::default()
    };
    let manifest = scene.manifest(vec![rule("small", "1/8"), rule("large", "1/2")]);
    let generation = scene.apply(&manifest).await;
    let macs = |deployment: &v1::Deployment| deployment.devices[0].planned.map_or(0, |planned| planned.macs);
    let before = scene.settled(generation).await;
    drop(large);
    let _small = play("small");
    let after = until(&scene, "a smaller network", |deployment| {
        deployment.devices.iter().all(|outcome| outcome.state == "Active") && macs(deployment) < macs(&before)
    })
    .await;
    assert!(macs(&after) * 3 < macs(&before), "{} -> {}", macs(&before), macs(&after));
    assert_eq!((after.generation, after.phase.as_str()), (generation, "Complete"));
}
