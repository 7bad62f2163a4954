//! Latencies on their way to the store while both ends are killed again and again: what an agent's disk holds is stored,
//! and stored once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agent::spool::{self, Spool};
use coordinator::histogram::LatencyTally;
use coordinator::manifest::{ProbationSpec, RolloutSpec, Span};
use fleet_tests::agent::AgentProcess;
use fleet_tests::coordinator::CoordinatorConfig;
use fleet_tests::inference::InferenceClient;
use fleet_tests::poll::{Answer, wait_until};
use proto::v1::TelemetrySummary;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::scene::{DEPLOYMENT, LIMIT, Scene, digests};

/// Each kills both sides once.
const ROUNDS: usize = 50;

/// What is stored, or will be: images, and intervals.
type Counts = (u64, u64);

/// Asks one agent for images until the agent dies, and counts the answers.
fn ask_until_it_dies(address: &str, answered: &AtomicU64) {
    let client = InferenceClient::new(address);
    let Ok(metadata) = client.metadata(DEPLOYMENT) else { return };
    let pixels = vec![7; metadata.shape.iter().product::<u64>() as usize];
    let request = metadata.request(&pixels).unwrap();
    while client.infer(DEPLOYMENT, &request).is_ok() {
        answered.fetch_add(1, Ordering::Relaxed);
    }
}

async fn stored(scene: &Scene, digest: &str) -> Counts {
    let summary: Option<TelemetrySummary> = scene.operator.telemetry("one", digest).await.unwrap();
    summary.map_or((0, 0), |summary| (summary.count, summary.intervals))
}

/// What the store will hold once it has all that the dead agent's disk holds.
async fn expected(scene: &Scene, digest: &str, agent: &AgentProcess) -> Counts {
    let (mut images, mut intervals) = stored(scene, digest).await;
    let copy = tempfile::tempdir().unwrap();
    let path = copy.path().join("spool");
    std::fs::copy(agent.state_dir().join("telemetry.spool"), &path).unwrap();
    let spool = Spool::open(&path, spool::LIMIT).unwrap();
    assert!(spool.acked() <= intervals, "{} acknowledged, {intervals} stored", spool.acked());
    while let Some((position, interval)) = spool.after(intervals) {
        assert_eq!(position.sequence, intervals + 1, "a gap");
        let mut tally = LatencyTally::default();
        tally.add(&interval.histogram).unwrap();
        images += tally.summary().map_or(0, |summary| summary.count);
        intervals += 1;
    }
    (images, intervals)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_on_disk_is_lost_or_stored_twice_over_a_hundred_kills() {
    let mut scene = Scene::start_with(CoordinatorConfig {
        telemetry_interval: Duration::from_millis(50),
        heartbeat_interval: Duration::from_millis(200),
        ..CoordinatorConfig::default()
    })
    .await;
    let mut agent = scene.agent("one", scene.coordinator.address()).await;
    let mut manifest = scene.manifest(Vec::new());
    // An agent that is killed again and again would else blame its new model.
    let probation = ProbationSpec { duration: Span(Duration::ZERO), ..ProbationSpec::default() };
    manifest.spec.rollout = RolloutSpec { probation, ..RolloutSpec::default() };
    let digest = digests(&scene.complete(&manifest).await)["one"].clone();

    let answered = Arc::new(AtomicU64::new(0));
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let mut last = (0, 0);
    for round in 0..ROUNDS {
        let address = std::fs::read_to_string(agent.state_dir().join("serving-address")).unwrap();
        let asking = {
            let answered = answered.clone();
            tokio::task::spawn_blocking(move || ask_until_it_dies(&address, &answered))
        };
        let agent_first = rng.random::<bool>();
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..400))).await;
        if agent_first {
            agent.kill9().unwrap();
        } else {
            scene.coordinator.kill9().unwrap();
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..200))).await;
        if agent_first {
            scene.coordinator.kill9().unwrap();
        } else {
            agent.kill9().unwrap();
        }
        asking.await.unwrap();
        scene.coordinator.restart().await.unwrap();
        let wanted = expected(&scene, &digest, &agent).await;
        assert!(wanted >= last, "round {round}: {last:?} were stored, {wanted:?} are left");
        std::fs::remove_file(agent.state_dir().join("serving-address")).unwrap();
        agent.restart().unwrap();
        wait_until(&format!("round {round}: {wanted:?} images and intervals"), LIMIT, async || {
            agent.daemon().ensure_running()?;
            let serves = agent.state_dir().join("serving-address").exists();
            let found = stored(&scene, &digest).await;
            Ok(if serves && found == wanted {
                Answer::Ready(())
            } else {
                Answer::NotYet(format!("{found:?}"))
            })
        })
        .await
        .unwrap();
        last = wanted;
    }
    let answered = answered.load(Ordering::Relaxed);
    // One answer of each round may have been on its way.
    assert!(
        last.0 > ROUNDS as u64 && last.0 <= answered + ROUNDS as u64,
        "{} stored, {answered} answered",
        last.0
    );
}
