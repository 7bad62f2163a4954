//! Workers, as real processes: killed in the middle, on another machine, of another's certificate, and jobs that end them.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use coordinator::manifest::{DeploymentManifest, TrainerKind};
use fleet_tests::coordinator::CoordinatorConfig;
use fleet_tests::daemon::{Confinement, Daemon};
use fleet_tests::poll::{Answer, wait_until};
use rustix::process::{Pid, Signal, kill_process};

use crate::encrypted::{Fleet, complaint};
use crate::scene::{DEPLOYMENT, LIMIT, PATTERNS, Scene, ended, params};

/// `reconvene` as an operator runs it.
fn reconvene(scene: &Scene, arguments: &[&str]) -> Output {
    let server = format!("http://{}", scene.coordinator.address());
    let mut command = Command::new(&scene.binaries.coordinator);
    command.args(["--server", &server]).args(arguments).output().unwrap()
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}", complaint(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The coordinator's own worker.
fn own_worker(scene: &Scene) -> Option<i32> {
    let children = fs::read_dir("/proc").unwrap().flatten();
    let coordinator = scene.coordinator.pid().to_string();
    let mut pids = children.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.find(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The parent is the second field after the name, which stands in brackets.
        stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)) == Some(&coordinator)
    })
}

/// Longer than the others', so that it can be killed in the middle.
fn long(scene: &Scene) -> DeploymentManifest {
    let mut manifest = scene.manifest(vec![params("one", "1/4")]);
    manifest.spec.training.epochs = 6;
    manifest
}

async fn checkpoint(scene: &Scene) {
    let checkpoints = scene.coordinator.state_dir().join("checkpoints");
    wait_until("an epoch that is written down", LIMIT, async || {
        let mut files = fs::read_dir(&checkpoints)?.flatten();
        let whole = files.any(|file| file.path().extension().is_some_and(|end| end == "safetensors"));
        Ok(if whole { Answer::Ready(()) } else { Answer::NotYet("it trains".to_owned()) })
    })
    .await
    .unwrap();
}

fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

/// The line of the job's table whose name begins so.
fn job(scene: &Scene, kind: &str) -> Option<Vec<String>> {
    let table = said(&reconvene(scene, &["get", "jobs", "--no-headers"]));
    let line = table.lines().find(|line| line.starts_with(kind))?;
    Some(line.split_whitespace().map(str::to_owned).collect())
}

#[tokio::test]
async fn a_worker_killed_in_the_middle_costs_an_epoch_at_most() {
    let scene = Scene::start().await;
    let _one = scene.agent("one", scene.coordinator.address()).await;
    let generation = scene.apply(&long(&scene)).await;
    checkpoint(&scene).await;
    let worker = own_worker(&scene).expect("the coordinator has a worker");
    let nice = fs::read_to_string(format!("/proc/{worker}/stat")).unwrap();
    assert_eq!(nice.rsplit(')').next().unwrap().split_whitespace().nth(16), Some("19"), "{nice}");
    kill(worker);
    let deployment = scene.settled(generation).await;
    assert_eq!(deployment.devices[0].state, "Active");
    let train = job(&scene, "train-").unwrap();
    assert_eq!(train[1..3], [DEPLOYMENT, "Done"], "{train:?}");
    let log = said(&reconvene(&scene, &["logs", &format!("job/{}", train[0])]));
    let resumed = log.lines().find(|line| line.contains(" goes on after epoch ")).expect(&log);
    let after: usize = resumed.rsplit(' ').next().unwrap().parse().unwrap();
    let begun = log.lines().filter(|line| line.contains(&format!("epoch {}/6", after + 1))).count();
    assert!((1..=2).contains(&begun), "each epoch is trained once, but for the one that was cut off: {log}");
    for epoch in (1..=6).filter(|&epoch| epoch != after + 1) {
        let trained = log.lines().filter(|line| line.contains(&format!("epoch {epoch}/6"))).count();
        assert_eq!(trained, 1, "epoch {epoch}: {log}");
    }
}

#[tokio::test]
async fn a_job_that_ends_its_workers_is_given_up_and_the_fleet_hears_why() {
    let trainer = ["sh", "-c", "kill -9 $PPID"].map(str::to_owned).to_vec();
    let config = CoordinatorConfig { trainer: Some(trainer), ..CoordinatorConfig::default() };
    let scene = Scene::start_with(config).await;
    let _one = scene.agent("one", scene.coordinator.address()).await;
    let mut manifest = scene.manifest(vec![]);
    manifest.spec.training.trainer = TrainerKind::Command;
    let generation = scene.apply(&manifest).await;
    let failed = scene.operator.completed(DEPLOYMENT, generation, LIMIT).await.unwrap_err();
    let failed = format!("{failed:#}");
    let why = "it was tried 3 times and ended its worker each time; the last time, it ended with signal 9";
    assert!(failed.contains(why), "{failed}");
    let train = job(&scene, "train-").unwrap();
    assert_eq!((train[2].as_str(), train[5].as_str()), ("Failed", "3"), "{train:?}");
}

#[tokio::test]
async fn a_cancelled_job_fails_its_deployment_and_is_done_when_that_is_tried_again() {
    let trainer = ["sh", "-c", "cat; exit 1"].map(str::to_owned).to_vec();
    let config = CoordinatorConfig { trainer: Some(trainer), ..CoordinatorConfig::default() };
    let scene = Scene::start_with(config).await;
    let _one = scene.agent("one", scene.coordinator.address()).await;
    let mut manifest = scene.manifest(vec![]);
    manifest.spec.training.trainer = TrainerKind::Command;
    let generation = scene.apply(&manifest).await;
    let name = running(&scene).await;
    assert_eq!(said(&reconvene(&scene, &["job", "cancel", &name])), format!("job/{name} cancelled\n"));
    let failed = scene.operator.completed(DEPLOYMENT, generation, LIMIT).await.unwrap_err();
    assert!(format!("{failed:#}").contains(&format!("somebody on this host cancelled {name}")), "{failed:#}");
    let twice = reconvene(&scene, &["job", "cancel", &name]);
    assert!(complaint(&twice).contains(&format!("job {name} has ended: Cancelled")), "{}", complaint(&twice));
    assert_eq!(reconvene(&scene, &["logs", "job/train-0"]).status.code(), Some(3));
    let manifest = scene.dataset().with_file_name("again.yaml");
    fs::write(&manifest, scene.operator.deployment(DEPLOYMENT).await.unwrap().unwrap().manifest).unwrap();
    let unchanged = reconvene(&scene, &["apply", "-f", manifest.to_str().unwrap()]);
    assert!(said(&unchanged).contains(" unchanged (generation "), "{unchanged:?}");
    let stderr = String::from_utf8_lossy(&unchanged.stderr).into_owned();
    assert!(stderr.contains(&format!("`reconvene rollout retry {DEPLOYMENT}` begins it again")), "{stderr}");
    said(&reconvene(&scene, &["rollout", "retry", DEPLOYMENT]));
    assert_eq!(running(&scene).await, name, "it is begun anew");
}

/// The training that a worker has.
async fn running(scene: &Scene) -> String {
    wait_until("a training under way", LIMIT, async || {
        let found = job(scene, "train-").filter(|job| job[2] == "Running");
        Ok(found.map_or_else(|| Answer::NotYet("none".to_owned()), |job| Answer::Ready(job[0].clone())))
    })
    .await
    .unwrap()
}

fn remote(scene: &Scene, name: &str) -> (Daemon, PathBuf) {
    let folder = scene.dataset().with_file_name(name);
    let address = scene.coordinator.address().to_string();
    let state = folder.join("state").display().to_string();
    fs::create_dir_all(&folder).unwrap();
    let arguments = ["worker", "--coordinator", &address, "--state-dir", &state, "--threads", "1"];
    let log = folder.join("log");
    (Daemon::start(&scene.binaries.coordinator, &arguments, &Confinement::None, &log).unwrap(), log)
}

#[tokio::test]
async fn a_worker_elsewhere_takes_over_what_another_was_killed_at() {
    let config = CoordinatorConfig { local_worker: false, ..CoordinatorConfig::default() };
    let mut scene = Scene::start_with(config).await;
    assert_eq!(own_worker(&scene), None);
    let _one = scene.agent("one", scene.coordinator.address()).await;
    let generation = scene.apply(&long(&scene)).await;
    let (mut first, _) = remote(&scene, "first");
    checkpoint(&scene).await;
    first.kill9().unwrap();
    // The coordinator's own end is no reason to begin again either: leases are kept.
    scene.coordinator.kill9().unwrap();
    scene.coordinator.restart().await.unwrap();
    let (mut second, log) = remote(&scene, "second");
    let deployment = scene.settled(generation).await;
    assert_eq!(deployment.devices[0].state, "Active");
    let log = fs::read_to_string(log).unwrap();
    assert!(log.contains("fetching") && log.contains("goes on after epoch"), "{log}");
    second.terminate().unwrap();
    assert!(ended(&mut second).await.success(), "it ends when it is told to");
}

#[tokio::test]
async fn a_worker_needs_a_workers_certificate_which_is_good_for_nothing_else() {
    let session = "heartbeat_interval = '200ms'\noffline_after = '2s'\n[derive]\nlocal_worker = false\n";
    let fleet = Fleet::start_with("1h", session).await;
    fleet.create_operator("worker");
    PATTERNS.write(&fleet.path("dataset")).unwrap();
    let start = |identity: &str| {
        let server = format!("https://{}", fleet.address);
        let (identity, state) = (fleet.path(identity), fleet.path(&format!("{identity}-state")));
        let (identity, state) = (identity.display().to_string(), state.display().to_string());
        let arguments = ["worker", "--coordinator", &server, "--identity", &identity, "--state-dir", &state];
        let log = fleet.path("worker.log");
        (Daemon::start(&fleet.binaries.coordinator, &arguments, &Confinement::None, &log).unwrap(), log)
    };
    let (mut viewer, log) = start("viewer");
    assert_eq!(ended(&mut viewer).await.code(), Some(1));
    let complaint_of = fs::read_to_string(log).unwrap();
    assert!(complaint_of.contains("this call is for workers"), "{complaint_of}");
    let looks = fleet.run(&fleet.path("worker"), &["get", "devices"]);
    assert_eq!(looks.status.code(), Some(1));
    assert!(complaint(&looks).contains("has the role worker"), "{}", complaint(&looks));

    let manifest = format!(
        "apiVersion: reconvene/v1\nkind: Deployment\nmetadata: {{name: p}}\nspec:\n  network: resnet20\n  \
         dataset: {{format: idx, path: {}}}\n  pruning: {{rounds: 3}}\n",
        fleet.path("dataset").display()
    );
    fs::write(fleet.path("p.yaml"), manifest).unwrap();
    let (mut worker, log) = start("worker");
    let path = fleet.path("p.yaml").display().to_string();
    let planned = fleet.run(&fleet.path("admin"), &["plan", "-f", &path]);
    let jobs = fleet.admin(&["get", "jobs", "--no-headers"]);
    let log = fs::read_to_string(log).unwrap();
    assert!(jobs.contains("score-") && jobs.contains("Done"), "{jobs}\n{}\n{log}", complaint(&planned));
    worker.ensure_running().unwrap();
    fleet.admin(&["operator", "revoke", "worker"]);
    assert_eq!(ended(&mut worker).await.code(), Some(1), "a revoked worker ends");
}

#[tokio::test]
async fn a_worker_whose_authority_is_retired_ends_as_every_verb_does() {
    let mut fleet =
        Fleet::start_with("1h", "heartbeat_interval = '200ms'\n[derive]\nlocal_worker = false\n").await;
    fleet.create_operator("worker");
    for verb in [&["authority", "prepare"][..], &["authority", "activate"], &["operator", "renew"]] {
        fleet.admin(verb);
    }
    fleet.admin(&["authority", "retire"]);
    fleet.restart().await;
    let server = format!("https://{}", fleet.address);
    let [identity, state] = ["worker", "state"].map(|name| fleet.path(name).display().to_string());
    let arguments = ["worker", "--coordinator", &server, "--identity", &identity, "--state-dir", &state];
    let log = fleet.path("worker.log");
    let mut worker =
        Daemon::start(&fleet.binaries.coordinator, &arguments, &Confinement::None, &log).unwrap();
    assert_eq!(ended(&mut worker).await.code(), Some(69));
    let log = fs::read_to_string(log).unwrap();
    assert!(log.contains("`reconvene operator create`") && !log.contains("source:"), "{log}");
}
