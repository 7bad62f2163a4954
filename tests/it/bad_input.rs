//! What the daemons make of input that is wrong: one line that names the thing, an exit code of its own, no panic, and
//! nothing half-written.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use fleet_tests::agent::{AgentMeans, AgentProcess};
use fleet_tests::binaries::Binaries;
use fleet_tests::daemon::{Confinement, Daemon};
use fleet_tests::poll::{Answer, wait_until};
use fleet_tests::proxy::{Fault, FaultProxy};
use tempfile::TempDir;

use crate::scene::{DEPLOYMENT, LIMIT, Scene, ended, params, yaml};

/// How a process ended, and what it said.
struct Ended {
    code: Option<i32>,
    said: String,
}

async fn run(program: &Path, arguments: &[&str]) -> Ended {
    let folder = tempfile::tempdir().unwrap();
    let mut daemon =
        Daemon::start(program, arguments, &Confinement::None, &folder.path().join("log")).unwrap();
    let status = ended(&mut daemon).await;
    let said = daemon.log().unwrap();
    assert!(!said.contains("panicked"), "{said}");
    Ended { code: status.code(), said }
}

async fn binaries() -> Binaries {
    tokio::task::spawn_blocking(Binaries::build).await.unwrap().unwrap()
}

fn file(folder: &TempDir, name: &str, text: &str) -> String {
    let path = folder.path().join(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let text = format!("listen = \"{address}\"\nstate_dir = {:?}", folder.path().join("state"));
    let config = file(&folder, "coordinator.toml", &text);
    let ended = run(&binaries().await.coordinator, &["serve", "--config", &config]).await;
    assert_eq!(ended.code, Some(71), "{}", ended.said);
    assert!(ended.said.contains(&address), "{}", ended.said);
}

#[tokio::test]
async fn a_coordinator_waits_for_the_one_that_was_killed_before_it() {
    let scene = Scene::start().await;
    let state = scene.coordinator.state_dir();
    let folder = tempfile::tempdir().unwrap();
    let config =
        file(&folder, "coordinator.toml", &format!("listen = \"127.0.0.1:0\"\nstate_dir = {state:?}"));
    let start = || {
        let log = folder.path().join("log");
        Daemon::start(&scene.binaries.coordinator, &["serve", "--config", &config], &Confinement::None, &log)
    };
    let says = async |daemon: &Daemon, what: &str| {
        let said = async || {
            let log = daemon.log()?;
            Ok(if log.contains(what) { Answer::Ready(()) } else { Answer::NotYet(log) })
        };
        wait_until(what, LIMIT, said).await.unwrap();
    };
    let mut second = start().unwrap();
    says(&second, "waiting up to 5 s for it to end").await;
    assert_eq!(ended(&mut second).await.code(), Some(71), "{}", second.log().unwrap());
    fs::remove_file(folder.path().join("log")).unwrap();
    let third = start().unwrap();
    says(&third, "waiting up to 5 s for it to end").await;
    drop(scene.coordinator);
    says(&third, "listening").await;
}

#[tokio::test]
async fn an_unknown_key_is_named() {
    let binaries = binaries().await;
    let folder = tempfile::tempdir().unwrap();
    let config = file(&folder, "coordinator.toml", "[session]\nheartbeats = \"5s\"");
    let ended = run(&binaries.coordinator, &["serve", "--config", &config]).await;
    assert_eq!(ended.code, Some(64), "{}", ended.said);
    assert!(ended.said.contains("heartbeats") && ended.said.contains(&config), "{}", ended.said);

    let text = "device_id = \"a\"\ncoordinator = \"http://127.0.0.1:1\"\ncolour = 1";
    let config = file(&folder, "agent.toml", text);
    let ended = run(&binaries.agent, &["run", "--config", &config]).await;
    assert_eq!(ended.code, Some(64), "{}", ended.said);
    assert!(ended.said.contains("colour") && ended.said.contains(&config), "{}", ended.said);
}

#[tokio::test]
async fn a_missing_config_file_is_named() {
    let binaries = binaries().await;
    for (program, verb) in [(&binaries.coordinator, "serve"), (&binaries.agent, "run")] {
        let ended = run(program, &[verb, "--config", "/nowhere/at-all.toml"]).await;
        assert_eq!(ended.code, Some(64), "{}", ended.said);
        assert!(ended.said.contains("/nowhere/at-all.toml"), "{}", ended.said);
    }
}

#[tokio::test]
async fn a_coordinator_that_is_not_there_is_named() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let url = format!("http://{free}");
    let ended = run(&binaries().await.coordinator, &["--server", &url, "get", "devices"]).await;
    assert_eq!(ended.code, Some(69), "{}", ended.said);
    assert!(ended.said.contains(&free), "{}", ended.said);
    assert_eq!(ended.said.trim_end().lines().count(), 1, "{}", ended.said);
}

#[tokio::test]
async fn an_agent_waits_for_a_coordinator_that_is_not_there_yet() {
    let scene = Scene::start().await;
    let proxy =
        FaultProxy::start(TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let means = AgentMeans::new("early", 1);
    let mut agent = AgentProcess::start(&scene.binaries, folder.path(), means, proxy.address()).unwrap();
    wait_until("three attempts", LIMIT, async || {
        agent.daemon().ensure_running()?;
        let attempts = proxy.connections();
        Ok(if attempts >= 3 { Answer::Ready(()) } else { Answer::NotYet(attempts.to_string()) })
    })
    .await
    .unwrap();
    assert!(!agent.daemon().log().unwrap().contains("panicked"));
}

#[tokio::test]
async fn a_truncated_data_set_is_refused_and_the_file_named() {
    let scene = Scene::start().await;
    let images = scene.dataset().join("train-images-idx3-ubyte");
    let bytes = fs::read(&images).unwrap();
    fs::write(&images, &bytes[..bytes.len() / 2]).unwrap();
    let error = scene.operator.apply(&yaml(&scene.manifest(Vec::new()))).await.unwrap_err();
    let text = format!("{error:#}");
    assert!(text.contains("spec.dataset") && text.contains(images.to_str().unwrap()), "{text}");
    assert!(scene.operator.deployment(DEPLOYMENT).await.unwrap().is_none(), "nothing was kept of it");
}

#[tokio::test]
async fn an_unknown_network_is_refused_with_the_known_ones() {
    let scene = Scene::start().await;
    let mut manifest = scene.manifest(vec![params("one", "1/4")]);
    manifest.spec.network = "resnet21".to_owned();
    let error = scene.operator.apply(&yaml(&manifest)).await.unwrap_err();
    let text = format!("{error:#}");
    assert!(text.contains("resnet21") && text.contains("resnet20") && text.contains("vgg16-bn"), "{text}");
    assert!(scene.operator.deployment(DEPLOYMENT).await.unwrap().is_none(), "nothing was kept of it");
}

#[tokio::test]
async fn an_artifact_that_was_damaged_on_disk_never_serves() {
    let scene = Scene::start().await;
    let proxy = FaultProxy::start(scene.coordinator.address()).await.unwrap();
    let mut agent = scene.agent("one", proxy.address()).await;
    proxy.set(Fault::HoldAfter(0));
    scene.apply(&scene.manifest(Vec::new())).await;
    let digest = wait_until("the assignment", LIMIT, async || {
        let deployment = scene.operator.deployment(DEPLOYMENT).await?.expect("it was applied");
        Ok(match deployment.devices.iter().find(|outcome| outcome.state == "Assigned") {
            Some(outcome) => Answer::Ready(outcome.digest.clone()),
            None => Answer::NotYet(deployment.phase),
        })
    })
    .await
    .unwrap();
    let path = scene.coordinator.state_dir().join("artifacts").join(&digest);
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    proxy.set(Fault::None);
    let reason = wait_until("the refusal", LIMIT, async || {
        agent.daemon().ensure_running()?;
        let deployment = scene.operator.deployment(DEPLOYMENT).await?.expect("it was applied");
        let outcome = deployment.devices[0].clone();
        Ok(match outcome.state.as_str() {
            "Failed" => Answer::Ready(outcome.reason),
            state => Answer::NotYet(format!("{state} {}", outcome.reason)),
        })
    })
    .await
    .unwrap();
    assert!(reason.contains("digest") || reason.contains(&digest[..12]), "{reason}");
    assert!(scene.operator.device("one").await.unwrap().unwrap().active_digest.is_empty());
}
