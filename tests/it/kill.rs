//! Power cuts in the worst moments. Whatever is killed, after its restart the fleet ends as if nothing had happened: a
//! derivation makes the same bytes again, and a device ends with the same digest.

use std::collections::BTreeMap;

use anyhow::bail;
use coordinator::manifest::DeploymentManifest;
use fleet_tests::poll::{Answer, wait_until};
use fleet_tests::proxy::{Fault, FaultProxy};
use tokio::sync::OnceCell;

use crate::scene::{DEPLOYMENT, LIMIT, Scene, digests, params};

/// `one` keeps the dense network, `two` gets a quarter of its parameters.
fn manifest(scene: &Scene) -> DeploymentManifest {
    scene.manifest(vec![params("two", "1/4")])
}

/// What both devices end with when nothing is killed.
async fn undisturbed() -> &'static BTreeMap<String, String> {
    static DIGESTS: OnceCell<BTreeMap<String, String>> = OnceCell::const_new();
    DIGESTS
        .get_or_init(async || {
            let scene = Scene::start().await;
            let _one = scene.agent("one", scene.coordinator.address()).await;
            let _two = scene.agent("two", scene.coordinator.address()).await;
            let digests = digests(&scene.complete(&manifest(&scene)).await);
            assert_ne!(digests["one"], digests["two"]);
            digests
        })
        .await
}

#[tokio::test]
async fn a_coordinator_killed_while_it_trains_ends_in_the_same_state() {
    let mut scene = Scene::start().await;
    let _one = scene.agent("one", scene.coordinator.address()).await;
    let _two = scene.agent("two", scene.coordinator.address()).await;
    let generation = scene.apply(&manifest(&scene)).await;
    let checkpoints = scene.coordinator.state_dir().join("checkpoints");
    wait_until("an epoch that is written down", LIMIT, async || {
        let mut files = std::fs::read_dir(&checkpoints)?.flatten();
        let whole = files.any(|file| file.path().extension().is_some_and(|end| end == "safetensors"));
        Ok(if whole { Answer::Ready(()) } else { Answer::NotYet("it trains".to_owned()) })
    })
    .await
    .unwrap();
    scene.coordinator.kill9().unwrap();
    scene.coordinator.restart().await.unwrap();
    let found = scene.operator.deployment(DEPLOYMENT).await.unwrap().expect("what was applied is kept");
    assert_eq!(found.generation, generation);
    assert_ne!(found.phase, "Complete", "it was not killed in the middle");
    let deployment = scene.settled(generation).await;
    assert_eq!(&digests(&deployment), undisturbed().await);
    let log = scene.coordinator.daemon().log_tail();
    assert!(log.contains("training goes on from its checkpoint"), "{log}");
    assert_eq!(std::fs::read_dir(checkpoints).unwrap().count(), 0, "nothing is left to go on with");
}

#[tokio::test]
async fn a_coordinator_killed_while_it_rolls_out_ends_in_the_same_state() {
    let mut scene = Scene::start().await;
    let _one = scene.agent("one", scene.coordinator.address()).await;
    let proxy = FaultProxy::start(scene.coordinator.address()).await.unwrap();
    let _two = scene.agent("two", proxy.address()).await;
    // Nothing reaches the second device from now on, not even its assignment.
    proxy.set(Fault::HoldAfter(0));
    let generation = scene.apply(&manifest(&scene)).await;
    states(&scene, "one Active, two Assigned").await;
    scene.coordinator.kill9().unwrap();
    proxy.set(Fault::None);
    scene.coordinator.restart().await.unwrap();
    let deployment = scene.settled(generation).await;
    assert_eq!(&digests(&deployment), undisturbed().await);
}

#[tokio::test]
async fn an_agent_killed_in_a_download_ends_in_the_same_state() {
    let scene = Scene::start().await;
    let proxy = FaultProxy::start(scene.coordinator.address()).await.unwrap();
    let mut one = scene.agent("one", proxy.address()).await;
    // The dense network's file has about 1.1 MB: this stops in the middle of it.
    proxy.set(Fault::HoldAfter(400_000));
    let generation = scene.apply(&manifest(&scene)).await;
    wait_until("half a download", LIMIT, async || {
        one.daemon().ensure_running()?;
        let brought = proxy.brought();
        Ok(if brought >= 400_000 { Answer::Ready(()) } else { Answer::NotYet(format!("{brought} bytes")) })
    })
    .await
    .unwrap();
    states(&scene, "one Assigned").await;
    one.kill9().unwrap();
    proxy.set(Fault::None);
    one.restart().unwrap();
    let deployment = scene.settled(generation).await;
    let expected = &undisturbed().await["one"];
    assert_eq!(&digests(&deployment)["one"], expected);
    let device = scene.operator.device("one").await.unwrap().unwrap();
    assert_eq!(&device.active_digest, expected);
}

#[tokio::test]
async fn a_download_that_is_cut_again_and_again_goes_on_where_it_was() {
    let scene = Scene::start().await;
    let proxy = FaultProxy::start(scene.coordinator.address()).await.unwrap();
    let _one = scene.agent("one", proxy.address()).await;
    // No connection brings the whole file: one that began anew each time would never end.
    proxy.set(Fault::CutAfter(400_000));
    let generation = scene.apply(&manifest(&scene)).await;
    let deployment = scene.settled(generation).await;
    assert_eq!(digests(&deployment)["one"], undisturbed().await["one"]);
    let size = scene.operator.artifact(&digests(&deployment)["one"]).await.unwrap().footprint.unwrap().bytes;
    assert!(size > 800_000, "{size} bytes come through in less than three connections");
    assert!(proxy.cuts() >= 2, "{} cuts", proxy.cuts());
}

/// Waits until the devices' states are these, `DEVICE STATE` each, in order of device.
async fn states(scene: &Scene, wanted: &str) {
    wait_until(wanted, LIMIT, async || {
        let Some(deployment) = scene.operator.deployment(DEPLOYMENT).await? else {
            bail!("the deployment is gone");
        };
        let states: Vec<String> =
            deployment.devices.iter().map(|d| format!("{} {}", d.device_id, d.state)).collect();
        let states = states.join(", ");
        Ok(if states == wanted {
            Answer::Ready(())
        } else {
            Answer::NotYet(format!("{states} ({} {})", deployment.phase, deployment.message))
        })
    })
    .await
    .unwrap();
}
