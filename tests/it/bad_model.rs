//! A model that is too slow meets real agents whose clients never stop asking: it is halted in the first wave and undone, and not one
//! request fails meanwhile.

use std::collections::BTreeMap;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use coordinator::manifest::{BudgetRule, GateSpec, OnFailure, Wave};
use fleet_tests::coordinator::CoordinatorConfig;
use fleet_tests::inference::InferenceClient;
use proto::v1::AuditEntry;

use crate::scene::{DEPLOYMENT, LIMIT, Scene, digests};

const DEVICES: [&str; 3] = ["one", "two", "three"];

/// Asks an agent for an image every few milliseconds, until `stop` is dropped; returns how often. Any failure is the end of the test.
fn ask(address: &str, stop: &Receiver<()>) -> usize {
    let client = InferenceClient::new(address);
    let metadata = client.metadata(DEPLOYMENT).unwrap();
    let request = metadata.request(&vec![7; metadata.shape.iter().product::<u64>() as usize]).unwrap();
    let mut answered = 0;
    while stop.recv_timeout(Duration::from_millis(5)) == Err(RecvTimeoutError::Timeout) {
        client.infer(DEPLOYMENT, &request).unwrap();
        answered += 1;
    }
    answered
}

/// When that was, milliseconds since 1970.
fn at(found: Option<&AuditEntry>) -> u64 {
    found.unwrap().at_unix_ms
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::print_stdout, reason = "the figure is for docs/control-plane.md")]
async fn a_slower_model_is_undone_while_every_request_is_answered() {
    // As where nothing is configured.
    let scene = Scene::start_with(CoordinatorConfig {
        telemetry_interval: Duration::from_secs(10),
        heartbeat_interval: Duration::from_secs(5),
        offline_after: Duration::from_secs(15),
        ..CoordinatorConfig::default()
    })
    .await;
    let mut agents = Vec::new();
    for device in DEVICES {
        agents.push(scene.agent(device, scene.coordinator.address()).await);
    }
    let small = BudgetRule { macs: Some("1/8".parse().unwrap()), ..BudgetRule::default() };
    let good = scene.apply(&scene.manifest(vec![small])).await;
    let served: BTreeMap<String, String> = digests(&scene.settled(good).await);

    let clients = agents.iter().map(|agent| {
        let address = std::fs::read_to_string(agent.state_dir().join("serving-address")).unwrap();
        let (stop, stopped) = mpsc::channel();
        (stop, tokio::task::spawn_blocking(move || ask(&address, &stopped)))
    });
    let clients: Vec<_> = clients.collect();
    scene.reported(&served).await;

    // Eight times the multiply-accumulates: also where other work makes the times of both uneven.
    let mut bad = scene.manifest(Vec::new());
    bad.spec.rollout.waves = vec![Wave::Percent(33)];
    bad.spec.rollout.gate = Some(GateSpec { latency_increase: Some(30.0), ..GateSpec::default() });
    bad.spec.rollout.on_failure = OnFailure::Undo;
    let bad = scene.apply(&bad).await;
    let undone = scene.operator.completed(DEPLOYMENT, bad + 1, LIMIT).await.unwrap();
    assert!(undone.message.contains("wave 1 of 2 did not pass the gate"), "{}", undone.message);
    assert_eq!(digests(&scene.settled(bad + 1).await), served);
    let mut answered = 0;
    for (stop, client) in clients {
        drop(stop);
        answered += client.await.unwrap();
    }
    let telemetry = scene.operator.all_telemetry("").await.unwrap();
    let others = telemetry.iter().filter(|summary| served[&summary.device_id] != summary.digest).count();
    assert_eq!(others, 1, "the second wave was told");

    let log = scene.operator.audit().await.unwrap();
    let of_bad = format!("of {DEPLOYMENT} generation {bad},");
    let assigned_bad = |entry: &&AuditEntry| entry.action == "assign" && entry.after.contains(&of_bad);
    let told = at(log.iter().find(assigned_bad));
    let of_deployment = log.iter().filter(|entry| entry.subject == format!("deployment/{DEPLOYMENT}"));
    let of_deployment: Vec<_> = of_deployment.collect();
    let failed = at(of_deployment.iter().copied().find(|entry| entry.action == "fail"));
    let back = at(of_deployment.iter().copied().rfind(|entry| entry.action == "complete"));
    let since = |later: u64| Duration::from_millis(later - told).as_secs_f64();
    println!(
        "figure: a slower model was halted {:.1} s after the first device was told, and all was as before after {:.1} s; \
         {} requests were answered, none failed",
        since(failed),
        since(back),
        answered,
    );
}
