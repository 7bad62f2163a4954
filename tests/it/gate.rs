//! Bad models meet a guarded rollout: the first wave shows it, nobody else is told, and who was told goes back.

use std::collections::BTreeMap;

use coordinator::manifest::{BudgetRule, DeploymentManifest, GateSpec, OnFailure, Wave};
use fleet_tests::operator::describe;
use fleet_tests::poll::{Answer, wait_until};
use fleet_tests::simulated::{SimulatedDevice, SimulatedMeans};
use proto::v1;

use crate::scene::{DEPLOYMENT, LIMIT, Scene, digests};

const DEVICES: [&str; 3] = ["sim-1", "sim-2", "sim-3"];

/// A fleet that serves a network of half the multiply-accumulates, and a manifest for the whole one, which takes twice as long.
struct Guarded {
    scene: Scene,
    _devices: [SimulatedDevice; 3],
    served: BTreeMap<String, String>,
    bad: DeploymentManifest,
}

impl Guarded {
    async fn start(most_macs: Option<u64>) -> Self {
        let scene = Scene::start().await;
        let devices = DEVICES.map(|device| {
            let means = SimulatedMeans { most_macs, ..SimulatedMeans::new(device) };
            SimulatedDevice::start(means, scene.coordinator.address())
        });
        scene.known(DEVICES.len()).await;
        let half = BudgetRule { macs: Some("1/2".parse().unwrap()), ..BudgetRule::default() };
        let good = scene.manifest(vec![half]);
        let generation = scene.apply(&good).await;
        let served = digests(&scene.settled(generation).await);
        scene.reported(&served).await;
        let mut bad = scene.manifest(Vec::new());
        bad.spec.rollout.waves = vec![Wave::Percent(33)];
        Self { scene, _devices: devices, served, bad }
    }

    async fn until(&self, what: &str, is_so: impl Fn(&v1::Deployment) -> bool) -> v1::Deployment {
        wait_until(what, LIMIT, async || {
            let deployment = self.scene.operator.deployment(DEPLOYMENT).await?.expect("it was applied");
            let text = describe(&deployment);
            Ok(if is_so(&deployment) { Answer::Ready(deployment) } else { Answer::NotYet(text) })
        })
        .await
        .unwrap()
    }

    /// Applies the bad model; returns what was said once all devices serve again what they served.
    async fn undone(&self) -> String {
        let generation = self.scene.apply(&self.bad).await;
        let undone = self
            .until("the way back", |now| now.generation == generation + 1 && now.phase == "Complete")
            .await;
        assert_eq!(digests(&self.scene.settled(generation + 1).await), self.served);
        undone.message
    }

    /// How many devices ever served another model than they do now.
    async fn others(&self) -> usize {
        let telemetry = self.scene.operator.all_telemetry("").await.unwrap();
        telemetry.iter().filter(|summary| self.served[&summary.device_id] != summary.digest).count()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slower_model_is_halted_in_the_first_wave_and_undone() {
    let mut guarded = Guarded::start(None).await;
    let rollout = &mut guarded.bad.spec.rollout;
    rollout.gate = Some(GateSpec { latency_increase: Some(30.0), ..GateSpec::default() });
    rollout.on_failure = OnFailure::Undo;
    let message = guarded.undone().await;
    assert!(message.starts_with("generation 2 is undone: wave 1 of 2 did not pass the gate: "), "{message}");
    assert!(message.contains("answers took over 30 % more than the p95 of the model before"), "{message}");
    assert_eq!(guarded.others().await, 1, "the second wave was told");
    let log = guarded.scene.operator.audit().await.unwrap();
    let told = |generation: u64| {
        let text = format!("of {DEPLOYMENT} generation {generation},");
        log.iter().filter(|entry| entry.action == "assign" && entry.after.contains(&text)).count()
    };
    assert_eq!([told(1), told(2), told(3)], [3, 1, 3]);
    let of_deployment = log.iter().filter(|entry| entry.subject == format!("deployment/{DEPLOYMENT}"));
    let actions: Vec<_> = of_deployment.map(|entry| entry.action.as_str()).collect();
    assert_eq!(actions, ["apply", "complete", "apply", "fail", "undo", "complete"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_does_not_load_is_undone() {
    let mut guarded = Guarded::start(Some(4_000_000)).await;
    guarded.bad.spec.rollout.on_failure = OnFailure::Undo;
    let message = guarded.undone().await;
    assert!(message.contains("are too many for it"), "{message}");
    assert_eq!(guarded.others().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_wave_waits_for_an_operators_word() {
    let mut guarded = Guarded::start(None).await;
    guarded.bad.spec.rollout.approval = true;
    let generation = guarded.scene.apply(&guarded.bad).await;
    let held = guarded.until("the first wave", |now| now.message.contains("rollout approve")).await;
    let serving = held.devices.iter().filter(|outcome| outcome.state == "Active").count();
    assert_eq!((serving, held.phase.as_str()), (1, "RollingOut"), "{}", describe(&held));
    let approved = guarded.scene.operator.control_rollout(DEPLOYMENT, "approve").await.unwrap();
    assert_eq!(approved.result, "approved");
    guarded.scene.settled(generation).await;
    let late = guarded.scene.operator.control_rollout(DEPLOYMENT, "approve").await.unwrap_err();
    assert!(format!("{late:#}").contains("nobody waits"), "{late:#}");
    // What they have is proven: one that comes later is not held back.
    let _like = play(&guarded.scene, "sim-4", None);
    let active =
        |now: &v1::Deployment| now.devices.iter().filter(|outcome| outcome.state == "Active").count();
    let all = guarded.until("the late one to serve", |now| active(now) == DEVICES.len() + 1).await;
    assert_eq!((all.generation, all.phase.as_str()), (generation, "Complete"), "{}", describe(&all));
}

/// A gated deployment that is complete, with a network of a quarter for late devices.
async fn complete(scene: &Scene) -> (Vec<SimulatedDevice>, u64) {
    let devices = DEVICES.map(|device| play(scene, device, None));
    scene.known(DEVICES.len()).await;
    let rule = |part: &str| BudgetRule { macs: Some(part.parse().unwrap()), ..BudgetRule::default() };
    let late = |device: &str| BudgetRule {
        selector: BTreeMap::from([("device".to_owned(), device.to_owned())]).into(),
        ..rule("1/4")
    };
    let mut manifest = scene.manifest(vec![late(LATE[0]), late(LATE[1]), rule("1/2")]);
    manifest.spec.rollout.waves = vec![Wave::Percent(33)];
    manifest.spec.rollout.gate = Some(GateSpec::default());
    let generation = scene.apply(&manifest).await;
    scene.settled(generation).await;
    (devices.into(), generation)
}

const LATE: [&str; 2] = ["late-1", "late-2"];

fn play(scene: &Scene, device: &str, most_macs: Option<u64>) -> SimulatedDevice {
    let means = SimulatedMeans { most_macs, ..SimulatedMeans::new(device) };
    SimulatedDevice::start(means, scene.coordinator.address())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_that_come_late_try_a_new_model_one_after_the_other() {
    let scene = Scene::start().await;
    let (_devices, generation) = complete(&scene).await;
    let _like = play(&scene, "sim-4", None);
    let _late = LATE.map(|device| play(&scene, device, None));
    scene.known(DEVICES.len() + 3).await;
    let settled = wait_until("the late ones to serve", LIMIT, async || {
        let deployment = scene.operator.deployment(DEPLOYMENT).await?.unwrap_or_default();
        let active = deployment.devices.iter().filter(|outcome| outcome.state == "Active").count();
        let text = describe(&deployment);
        Ok(if active == DEVICES.len() + 3 { Answer::Ready(deployment) } else { Answer::NotYet(text) })
    })
    .await
    .unwrap();
    assert_eq!(settled.generation, generation);
    let log = scene.operator.audit().await.unwrap();
    let of_late = |entry: &&v1::AuditEntry| entry.subject.starts_with("device/late-");
    let told: Vec<_> = log.iter().filter(of_late).map(|entry| entry.action.as_str()).collect();
    let told: Vec<_> = told.into_iter().filter(|action| ["assign", "serve"].contains(action)).collect();
    assert_eq!(told, ["assign", "serve", "assign", "serve"], "the second waits for what the first shows");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_device_that_fails_is_no_failure_of_the_others() {
    let scene = Scene::start().await;
    let (_devices, _) = complete(&scene).await;
    let _late = LATE.map(|device| play(&scene, device, Some(1)));
    let _like = play(&scene, "sim-4", None);
    let held = wait_until("one late device to fail and the other to be held", LIMIT, async || {
        let deployment = scene.operator.deployment(DEPLOYMENT).await?.unwrap_or_default();
        let count = |state: &str, what: &str| {
            let is_so =
                |outcome: &&v1::DeviceOutcome| outcome.state == state && outcome.reason.contains(what);
            deployment.devices.iter().filter(is_so).count()
        };
        let is_so = (count("Active", ""), count("Failed", "too many for it")) == (4, 1)
            && count("Fitted", "1 device failed with its model") == 1
            && deployment.phase == "Complete";
        let text = describe(&deployment);
        Ok(if is_so { Answer::Ready(deployment) } else { Answer::NotYet(text) })
    })
    .await
    .unwrap();
    assert!(held.message.contains("4 active, 1 failed, 1 held back"), "{}", held.message);
    let again = scene.operator.control_rollout(DEPLOYMENT, "retry").await.unwrap();
    assert_eq!((again.result.as_str(), again.generation), ("retried", held.generation));
    wait_until("a late device to be told anew", LIMIT, async || {
        let log = scene.operator.audit().await?;
        let is_late =
            |entry: &&v1::AuditEntry| entry.action == "assign" && entry.subject.starts_with("device/late-");
        let told = log.iter().filter(is_late).count();
        Ok(if told > 1 { Answer::Ready(()) } else { Answer::NotYet(format!("told {told} times")) })
    })
    .await
    .unwrap();
}
