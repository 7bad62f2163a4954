//! Training by others: a program of the coordinator's host, and a person who takes the network away and brings it back.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use coordinator::manifest::{DeploymentManifest, TrainerKind};
use fleet_tests::binaries::workspace_root;
use fleet_tests::coordinator::CoordinatorConfig;
use fleet_tests::poll::{Answer, wait_until};

use crate::scene::{DEPLOYMENT, LIMIT, Scene, params};

/// `one` gets a quarter of the dense network's parameters, whoever trains it.
fn manifest(scene: &Scene, trainer: TrainerKind) -> DeploymentManifest {
    let mut manifest = scene.manifest(vec![params("one", "1/4")]);
    manifest.spec.training.trainer = trainer;
    manifest
}

/// A scene whose coordinator has this program.
async fn with_trainer(command: &[&str]) -> Scene {
    let trainer = Some(command.iter().map(|&part| part.to_owned()).collect());
    Scene::start_with(CoordinatorConfig { trainer, ..CoordinatorConfig::default() }).await
}

/// `reconvene` as an operator runs it.
fn reconvene(scene: &Scene, arguments: &[&str]) -> Output {
    let server = format!("http://{}", scene.coordinator.address());
    let mut command = Command::new(&scene.binaries.coordinator);
    command.args(["--server", &server]).args(arguments).output().unwrap()
}

fn succeed(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn refused(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The networks that a deployment says it waits for.
async fn awaited(scene: &Scene) -> Vec<String> {
    wait_until("networks that wait to be trained", LIMIT, async || {
        let deployment = scene.operator.deployment(DEPLOYMENT).await?.unwrap_or_default();
        let list = deployment
            .message
            .split_once("to be trained elsewhere: ")
            .and_then(|(_, list)| list.split_once(';'));
        Ok(match list {
            Some((names, _)) => Answer::Ready(names.split(", ").map(str::to_owned).collect()),
            None => Answer::NotYet(format!("{}: {}", deployment.phase, deployment.message)),
        })
    })
    .await
    .unwrap()
}

fn export(scene: &Scene, name: &str, format: &str, folder: &Path) -> PathBuf {
    let out = folder.join(format!("pruned.{format}"));
    let path = out.to_str().unwrap();
    let _ = succeed(&reconvene(scene, &["artifact", "export", name, "--format", format, "--out", path]));
    out
}

fn import(scene: &Scene, name: &str, file: &Path) -> Output {
    reconvene(scene, &["artifact", "import-weights", name, file.to_str().unwrap()])
}

#[tokio::test]
async fn weights_that_a_person_brings_are_rolled_out() {
    let mut scene = Scene::start().await;
    let _one = scene.agent("one", scene.coordinator.address()).await;
    let generation = scene.apply(&manifest(&scene, TrainerKind::External)).await;
    let names = awaited(&scene).await;
    let [name] = names.as_slice() else { panic!("{names:?}") };
    // Nothing of it is in memory alone.
    scene.coordinator.kill9().unwrap();
    scene.coordinator.restart().await.unwrap();

    let folder = tempfile::tempdir().unwrap();
    let weights = export(&scene, name, "safetensors", folder.path());
    let onnx = export(&scene, name, "onnx", folder.path());
    assert!(std::fs::metadata(onnx).unwrap().len() > std::fs::metadata(&weights).unwrap().len());
    let whole = std::fs::read(&weights).unwrap();
    let cut = folder.path().join("cut.safetensors");
    std::fs::write(&cut, &whole[..whole.len() - 1]).unwrap();
    let line = refused(&import(&scene, name, &cut), 65);
    assert!(line.contains("this network's weights: it is no safetensors file"), "{line}");
    assert!(refused(&import(&scene, "0123456789ab", &weights), 3).contains("no network '0123456789ab'"));
    assert!(refused(&import(&scene, "abc", &weights), 65).contains("first 4 characters"));
    let line = refused(&import(&scene, name, &overflowing(&whole, folder.path())), 65);
    assert!(line.contains("outputs are infinite or no numbers"), "{line}");
    assert_eq!(awaited(&scene).await, names, "a refusal changes nothing");

    let said = succeed(&import(&scene, name, &weights));
    let deployment = scene.settled(generation).await;
    let digest = &deployment.devices[0].digest;
    assert!(said.starts_with(digest.as_str()), "{said}");
    let artifact = scene.operator.artifact(digest).await.unwrap();
    assert_eq!((artifact.epochs, artifact.seconds_to_train), (None, None));
    assert!(artifact.test_accuracy.is_some());
    let line = refused(&import(&scene, name, &weights), 65);
    assert!(line.contains("has its weights already"), "{line}");
    // What devices got can be taken out as well.
    let served = export(&scene, &digest[..12], "onnx", folder.path());
    assert_eq!(std::fs::metadata(served).unwrap().len(), artifact.footprint.unwrap().bytes);
}

/// The same weights but for the last layer's: each is finite, and their sums are not.
fn overflowing(whole: &[u8], folder: &Path) -> PathBuf {
    let length = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&whole[8..8 + length]).unwrap();
    let at =
        |index: usize| 8 + length + header["fc.weight"]["data_offsets"][index].as_u64().unwrap() as usize;
    let mut changed = whole.to_vec();
    changed[at(0)..at(1)]
        .chunks_exact_mut(4)
        .for_each(|number| number.copy_from_slice(&f32::MAX.to_le_bytes()));
    let file = folder.join("overflowing.safetensors");
    std::fs::write(&file, changed).unwrap();
    file
}

/// Waits to be stopped at the first start, by a signal or the end of its input, and hands the initial weights back at the second.
const FORGETFUL: &str = r#"cd "$(dirname "$1")"
if [ -e checkpoints/begun ]; then cp weights.safetensors new && mv new trained.safetensors; exit; fi
echo '{"epoch": 1, "epochs": 2, "loss": 0.7}'; touch checkpoints/begun
trap 'touch ../ended; exit 1' TERM; cat; touch ../ended; exit 1"#;

#[tokio::test]
async fn a_program_goes_on_after_the_coordinator_was_killed() {
    let mut scene = with_trainer(&["sh", "-c", FORGETFUL, "trainer"]).await;
    let _one = scene.agent("one", scene.coordinator.address()).await;
    let generation = scene.apply(&manifest(&scene, TrainerKind::Command)).await;
    let training = scene.coordinator.state_dir().join("training");
    wait_until("the program's checkpoint", LIMIT, async || {
        let mut runs = std::fs::read_dir(&training)?.flatten();
        let begun = runs.any(|run| run.path().join("checkpoints/begun").exists());
        Ok(if begun { Answer::Ready(()) } else { Answer::NotYet("it has not begun".to_owned()) })
    })
    .await
    .unwrap();
    scene.coordinator.kill9().unwrap();
    wait_until("the program to hear of it", LIMIT, async || {
        let ended = training.join("ended").exists();
        Ok(if ended { Answer::Ready(()) } else { Answer::NotYet("it runs".to_owned()) })
    })
    .await
    .unwrap();
    scene.coordinator.restart().await.unwrap();
    let deployment = scene.settled(generation).await;
    let artifact = scene.operator.artifact(&deployment.devices[0].digest).await.unwrap();
    assert_eq!(artifact.epochs, Some(2));
    assert_eq!(std::fs::read_dir(training).unwrap().count(), 0, "nothing is left behind");
}

#[tokio::test]
async fn a_program_that_fails_says_why_and_none_is_refused_at_once() {
    let scene = with_trainer(&["sh", "-c", "echo 'no GPU here' >&2; exit 3"]).await;
    let _one = scene.agent("one", scene.coordinator.address()).await;
    let generation = scene.apply(&manifest(&scene, TrainerKind::Command)).await;
    let failed = scene.operator.completed(DEPLOYMENT, generation, LIMIT).await.unwrap_err();
    let failed = format!("{failed:#}");
    assert!(failed.contains("the trainer ended with exit code 3: no GPU here"), "{failed}");
    let without = Scene::start().await;
    let text = crate::scene::yaml(&manifest(&without, TrainerKind::Command));
    let refused = format!("{:#}", without.operator.apply(&text).await.unwrap_err());
    assert!(refused.contains("set trainer.command there"), "{refused}");
}

/// Python with PyTorch and ONNX. `RECONVENE_TESTS_NEED_TORCH` says that it has to be there, as in continuous integration.
fn python() -> Option<&'static str> {
    let imports = ["-c", "import torch, onnx, numpy"];
    let found = ["/usr/bin/python3", "python3"].into_iter().find(|python| {
        Command::new(python).args(imports).output().is_ok_and(|output| output.status.success())
    });
    let needed = std::env::var_os("RECONVENE_TESTS_NEED_TORCH").is_some();
    assert!(found.is_some() || !needed, "no python3 has torch, onnx and numpy");
    found
}

fn example() -> String {
    workspace_root().join("deploy/examples/train_torch.py").display().to_string()
}

#[tokio::test]
async fn pytorch_trains_as_the_coordinators_program() {
    let Some(python) = python() else { return };
    let scene = with_trainer(&[python, &example()]).await;
    let _one = scene.agent("one", scene.coordinator.address()).await;
    let deployment = scene.complete(&manifest(&scene, TrainerKind::Command)).await;
    learned(&scene, &deployment.devices[0].digest).await;
}

#[tokio::test]
async fn pytorch_trains_what_a_person_takes_to_it() {
    let Some(python) = python() else { return };
    let scene = Scene::start().await;
    let _one = scene.agent("one", scene.coordinator.address()).await;
    let generation = scene.apply(&manifest(&scene, TrainerKind::External)).await;
    let names = awaited(&scene).await;
    let folder = tempfile::tempdir().unwrap();
    let pruned = export(&scene, &names[0], "onnx", folder.path());
    let trained = folder.path().join("trained.safetensors");
    let output = Command::new(python)
        .arg(example())
        .args(["--epochs", "2", "--batch", "32", "--learning-rate", "0.05", "--model"])
        .arg(pruned)
        .arg("--images")
        .arg(scene.dataset())
        .arg("--out")
        .arg(&trained)
        .output()
        .unwrap();
    let _ = succeed(&output);
    let _ = succeed(&import(&scene, &names[0], &trained));
    let deployment = scene.settled(generation).await;
    learned(&scene, &deployment.devices[0].digest).await;
}

/// The patterns are easy: two epochs of a network that learns at all are far above guessing one of ten.
async fn learned(scene: &Scene, digest: &str) {
    let accuracy = scene.operator.artifact(digest).await.unwrap().test_accuracy.unwrap();
    assert!(accuracy > 0.5, "{accuracy}");
}
