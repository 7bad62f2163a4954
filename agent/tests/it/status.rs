//! What `status` says of an agent, also where its state directory says little.

use std::path::Path;

use agent::cli::Format;
use serde_json::{Value, json};
use tokio_util::task::TaskTracker;

use crate::device::Device;
use crate::fake::{Fake, File};
use crate::model::Model;
use crate::poll::within;
use crate::probation::damage;
use crate::session::{beats_with, ending, holding};

pub(crate) async fn status(config: &Path, format: Format) -> String {
    let config = config.to_owned();
    let answer = move || agent::cli::status::answer(&config, format).unwrap();
    TaskTracker::new().spawn_blocking(answer).await.unwrap()
}

fn configure(folder: &Path, device: &Device) -> std::path::PathBuf {
    let path = folder.join("agent.toml");
    let text = format!(
        "device_id = 'gw-1'\ncoordinator = 'http://127.0.0.1:9'\nstate_dir = '{}'\n\
         [serve]\nlisten = '{}'\nsocket = '{}'\n",
        folder.join("state").display(),
        device.api,
        device.socket.display()
    );
    std::fs::write(&path, text).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_says_who_serves_what_is_damaged_and_what_was_given_up() {
    let (old, new) = (Model::of_seed(1), Model::of_seed(2));
    let mut fake = Fake::start().await;
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let device = Device::start(state.clone(), fake.address).await;
    // What engines were compared by is no reason against a model.
    std::fs::create_dir_all(state.join("slots/b/comparison.json")).unwrap();
    for (generation, model) in [(1, &old), (2, &new)] {
        fake.serve_file(model.digest(), File::whole(&model.bytes));
        fake.assign(model.assignment(generation)).await;
        assert_eq!(ending(&mut fake, generation).await, Ok(()));
    }
    beats_with(&fake, holding(&new, 2)).await;
    let config = configure(dir.path(), &device);
    // As on a disk that takes no writes.
    std::fs::remove_file(state.join("serving-address")).unwrap();
    let said: Value = serde_json::from_str(&status(&config, Format::Json).await).unwrap();
    assert_eq!(
        (&said["running"], &said["ready"], &said["connected"]),
        (&json!(true), &json!(true), &json!(true))
    );
    assert_eq!(said["serving_address"], json!(device.api.to_string()));
    assert_eq!(said["sockets"][0], json!(device.socket.display().to_string()));
    let [line] = said["damaged"].as_array().unwrap().as_slice() else { panic!("{}", said["damaged"]) };
    assert!(line.as_str().unwrap().ends_with("slots/b/comparison.json: it is a folder"), "{line}");
    assert_eq!(said["previous"]["given_up"], Value::Null);

    fake.stop().await;
    within("the coordinator is missed", async || {
        let text = status(&config, Format::Table).await;
        text.contains("http://127.0.0.1:9, not connected").then_some(())
    })
    .await;
    device.stop().await;

    let text = status(&config, Format::Table).await;
    assert!(text.contains("slots/b/comparison.json: it is a folder (remove what is damaged"), "{text}");

    let given_up = json!([{ "generation": 1, "digest": old.digest(), "reason": "it killed three agents" }]);
    std::fs::write(state.join("given-up.json"), given_up.to_string()).unwrap();
    let text = status(&config, Format::Table).await;
    assert!(text.contains("given up: it killed three agents"), "{text}");
    assert!(text.contains("not running"), "{text}");

    for slot in ["a", "b"] {
        damage(&state.join(format!("slots/{slot}/model.onnx")));
    }
    let device = Device::start(state.clone(), fake.address).await;
    assert_eq!(device.get("/v2/health/ready").await.0, 503);
    let config = configure(dir.path(), &device);
    let text = status(&config, Format::Table).await;
    for slot in ["a", "b"] {
        let damaged = format!("slot {slot}: its model is not the one that its manifest names");
        assert!(text.contains(&damaged), "{text}");
    }
    assert!(text.contains("running, no model serves"), "{text}");
    device.stop().await;
}
