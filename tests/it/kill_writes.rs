//! The coordinator killed at every write to its store that a rollout makes. What it acknowledged is there after the restart,
//! and every rollout ends as if nothing had happened.

use coordinator::manifest::{BudgetRule, DeploymentManifest, Wave};
use fleet_tests::poll::{Answer, wait_until};
use fleet_tests::simulated::{SimulatedDevice, SimulatedMeans};
use fleet_tests::tracer::{Tracer, may_trace};

use crate::scene::{DEPLOYMENT, LIMIT, Scene, digests, yaml};

const DEVICES: usize = 12;
/// sled writes a record into its log by the first, and it counts once the second has returned.
const CALLS: &str = "pwrite64,fdatasync";
/// A rollout of twelve devices, one after the other, makes more such calls than this.
const LEAST: usize = 60;

/// Whether the coordinator was killed before the rollout that was begun had ended.
async fn is_killed(scene: &mut Scene, generation: Option<u64>) -> bool {
    wait_until("the coordinator's death, or the rollout's end", LIMIT, async || {
        if scene.coordinator.daemon().ended()?.is_some() {
            return Ok(Answer::Ready(true));
        }
        let Ok(Some(now)) = scene.operator.deployment(DEPLOYMENT).await else {
            return Ok(Answer::NotYet("it does not answer".to_owned()));
        };
        let is_active = now.devices.iter().all(|outcome| outcome.state == "Active");
        let has_ended = Some(now.generation) == generation && now.phase == "Complete" && is_active;
        Ok(if has_ended { Answer::Ready(false) } else { Answer::NotYet(now.message) })
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_killed_at_any_write_of_a_rollout_ends_it_after_its_restart() {
    if !may_trace().unwrap() {
        return;
    }
    let mut scene = Scene::start().await;
    let play = |index: usize| {
        let means = SimulatedMeans { requests: 0, ..SimulatedMeans::new(&format!("sim-{index}")) };
        SimulatedDevice::start_lasting(means, scene.coordinator.address())
    };
    let _devices: Vec<_> = (0..DEVICES).map(play).collect();
    scene.known(DEVICES).await;
    let manifests: [DeploymentManifest; 2] = ["1/2", "1/3"].map(|macs| {
        let rule = BudgetRule { macs: Some(macs.parse().unwrap()), ..BudgetRule::default() };
        let mut manifest = scene.manifest(vec![rule]);
        manifest.spec.rollout.waves = vec![Wave::Percent(20), Wave::Percent(60)];
        manifest.spec.rollout.max_concurrent = Some(1);
        manifest
    });
    let mut models = Vec::new();
    for manifest in &manifests {
        let generation = scene.apply(manifest).await;
        models.push(digests(&scene.settled(generation).await));
        assert_eq!(models[models.len() - 1].len(), DEVICES);
    }
    let store = scene.coordinator.state_dir().join("store/db");
    assert!(store.exists());
    let mut cells = 0;
    for nth in 1.. {
        // Both models are there: it is the rollout alone that is cut short.
        let which = cells % 2;
        let tracer = Tracer::kill_after(scene.coordinator.pid(), &store, CALLS, nth).await.unwrap();
        let applied = scene.operator.apply(&yaml(&manifests[which])).await.map(|applied| applied.generation);
        let is_killed = is_killed(&mut scene, applied.as_ref().ok().copied()).await;
        drop(tracer);
        if !is_killed {
            break;
        }
        cells += 1;
        scene.coordinator.restart().await.unwrap();
        // Whoever got no answer asks again.
        let generation = match applied {
            Ok(generation) => generation,
            Err(_) => scene.apply(&manifests[which]).await,
        };
        let ended = scene.settled(generation).await;
        assert_eq!(digests(&ended), models[which], "killed after call {nth}");
    }
    assert!(cells >= LEAST, "only {cells} calls were met");
}
