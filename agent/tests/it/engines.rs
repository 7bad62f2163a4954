//! A model in the engines that the device has: the fastest serves, and a library that is none costs nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agent::runner::engine::Choice;
use agent::runner::engines::{Engines, LibraryConfig};
use agent::runner::{Runner, ServedModel};
use agent::slot::{Installed, Slots};
use agent::state::StateDir;
use agent::update::{self, Restored, Testbed, Updater};
use proto::Generation;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Endpoint;

use crate::device::Device;
use crate::fake::{Fake, File};
use crate::model::Model;

/// The library that `tests/peers/onnxruntime.sh` brings. `RECONVENE_TESTS_NEED_ONNXRUNTIME` says that it has to be there, as
/// in continuous integration.
#[expect(clippy::print_stderr, reason = "a test that is left out says so")]
fn library() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/peers/onnxruntime/capi");
    let names = std::fs::read_dir(&folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    let is_it = |path: &PathBuf| path.to_string_lossy().contains("/libonnxruntime.so.");
    let found = names.filter(is_it).max().map(|path| path.canonicalize().unwrap());
    if found.is_none() {
        let needed = std::env::var_os("RECONVENE_TESTS_NEED_ONNXRUNTIME").is_some();
        assert!(!needed, "no onnxruntime; run tests/peers/onnxruntime.sh");
        eprintln!("skipped: no onnxruntime in target/peers; run tests/peers/onnxruntime.sh");
    }
    found
}

/// What the metadata of the model that serves calls its engine.
async fn engine(device: &Device) -> String {
    device.ready().await;
    let (_, metadata) = device.get("/v2/models/fashion").await;
    metadata["parameters"]["engine"].as_str().unwrap().to_owned()
}

/// Engines that were compared, by the file beside the model that serves, with their medians in milliseconds.
fn compared(state: &Path) -> BTreeMap<String, f64> {
    let file = std::fs::read(state.join("slots/a/comparison.json")).unwrap();
    let comparison: Value = serde_json::from_slice(&file).unwrap();
    let contenders = comparison["contenders"].as_array().unwrap().iter();
    contenders
        .map(|it| (it["choice"]["engine"].as_str().unwrap().to_owned(), it["p50_ms"].as_f64().unwrap()))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fastest_engine_serves_also_after_a_restart() {
    let Some(library) = library() else { return };
    let model = Model::of_seed(1);
    let fake = Fake::start().await;
    fake.serve_file(model.digest(), File::whole(&model.bytes));
    let dir = tempfile::tempdir().unwrap();
    let at = || LibraryConfig::At(library.clone());
    let device = Device::start_with(dir.path().to_owned(), fake.address, at()).await;
    fake.assign(model.assignment(1)).await;
    let first = engine(&device).await;
    let times = compared(dir.path());
    assert_eq!(times.len(), 2, "both engines answered as they should: {times:?}");
    // rten was measured first: another one has to be faster by a twentieth.
    let expected = if times["onnxruntime"] < 0.95 * times["rten"] { "onnxruntime" } else { "rten" };
    assert_eq!(first, expected, "{times:?}");
    crate::session::answers_as(&device, &model, 2).await;
    device.stop().await;

    // The choice is on the disk: nothing is measured anew, and the same engine serves from the first request on.
    let comparison = std::fs::read(dir.path().join("slots/a/comparison.json")).unwrap();
    let device = Device::start_with(dir.path().to_owned(), fake.address, at()).await;
    assert_eq!(engine(&device).await, first);
    crate::session::answers_as(&device, &model, 2).await;
    device.stop().await;
    assert_eq!(std::fs::read(dir.path().join("slots/a/comparison.json")).unwrap(), comparison);

    // The library is gone: rten serves at once, and what was measured with it no longer holds.
    let device = Device::start(dir.path().to_owned(), fake.address).await;
    assert_eq!(engine(&device).await, "rten");
    crate::poll::until("engines are compared anew", || compared(dir.path()).keys().eq(["rten"])).await;
    crate::session::answers_as(&device, &model, 2).await;
    device.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_without_the_library_serves_all_the_same() {
    let model = Model::of_seed(1);
    let fake = Fake::start().await;
    fake.serve_file(model.digest(), File::whole(&model.bytes));
    let dir = tempfile::tempdir().unwrap();
    let nowhere = LibraryConfig::At(dir.path().join("libonnxruntime.so"));
    let device = Device::start_with(dir.path().join("state"), fake.address, nowhere).await;
    fake.assign(model.assignment(1)).await;
    assert_eq!(engine(&device).await, "rten");
    assert!(compared(&dir.path().join("state")).keys().eq(["rten"]));
    device.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn engines_are_compared_though_it_cannot_be_noted() {
    let model = Model::of_seed(1);
    let mut fake = Fake::start().await;
    fake.serve_file(model.digest(), File::whole(&model.bytes));
    let dir = tempfile::tempdir().unwrap();
    // As a disk that has become full: the note cannot be written.
    std::fs::create_dir(dir.path().join("comparing.new")).unwrap();
    let device = Device::start(dir.path().to_owned(), fake.address).await;
    fake.assign(model.assignment(1)).await;
    assert_eq!(crate::session::ending(&mut fake, 1).await, Ok(()));
    assert!(compared(dir.path()).keys().eq(["rten"]));
    device.stop().await;
}

/// An updater on what is installed in `state`, without an agent around it, until `has_done` what is waited for. The model
/// serves with two threads until then.
async fn reconsider(state: &Path, has_done: impl Fn(Choice) -> bool) {
    let (state, tracker) = (StateDir::open(state).unwrap(), TaskTracker::new());
    let (mut slots, runner) = (Slots::read(&state), Runner::start(&tracker));
    let engines = Arc::new(Engines::rten(2));
    let testbed = Testbed { engines: engines.clone(), runner, tracker: tracker.clone(), program: None };
    let Restored { model, given_up, .. } = update::restore(&state, &mut slots, &testbed).await;
    let installed = model.unwrap().installed;
    let bytes = slots.model_bytes(slots.active_slot().unwrap()).unwrap().unwrap();
    let runner = testbed.runner.clone();
    runner.swap(ServedModel::new(installed, engines.load(bytes, engines.usual()).unwrap()));
    let (stop, channel) =
        (CancellationToken::new(), Endpoint::from_static("http://127.0.0.1:1").connect_lazy());
    let (progress, assignments) = (watch::channel(None).0, watch::channel(None).1);
    let updater = Updater::new(state, slots, testbed, channel, progress, given_up);
    let task = tracker.spawn(updater.run(assignments, stop.clone()));
    let serves = || has_done(runner.active().unwrap().engine.choice());
    crate::poll::until("engines are reconsidered", serves).await;
    stop.cancel();
    task.await.unwrap();
    runner.stop().await;
    tracker.close();
    tracker.wait().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_runs_is_what_the_comparison_found_best() {
    let model = Model::of_seed(1);
    let fake = Fake::start().await;
    fake.serve_file(model.digest(), File::whole(&model.bytes));
    let dir = tempfile::tempdir().unwrap();
    let device = Device::start(dir.path().to_owned(), fake.address).await;
    fake.assign(model.assignment(1)).await;
    device.ready().await;
    device.stop().await;
    let path = dir.path().join("slots/a/comparison.json");
    let record = || -> Value { serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap() };
    let threads = |it: &Value| it["choice"]["threads"].as_u64().unwrap();
    let choices = |record: &Value| record["conditions"]["choices"].as_array().unwrap().len();
    reconsider(dir.path(), |_| choices(&record()) == 2).await;

    // It holds, and another choice is the best by it.
    let mut altered = record();
    for contender in altered["contenders"].as_array_mut().unwrap() {
        contender["p50_ms"] = (threads(contender) as f64).into();
    }
    std::fs::write(&path, altered.to_string()).unwrap();
    reconsider(dir.path(), |choice| choice.threads == 1).await;
    assert_eq!(record(), altered, "nothing was measured anew");

    // The best is not there any more: the next one serves, and the record says so.
    let mut gone = altered["contenders"][0].clone();
    gone["choice"]["engine"] = "onnxruntime".into();
    gone["p50_ms"] = 0.001.into();
    let mut with_gone = altered.clone();
    with_gone["contenders"].as_array_mut().unwrap().push(gone);
    std::fs::write(&path, with_gone.to_string()).unwrap();
    reconsider(dir.path(), |choice| choice.threads == 1 && record() == altered).await;
}

#[tokio::test]
async fn a_single_image_does_not_wait_for_a_batch() {
    let (runner, served, tracker) = alone();
    let test = Model::chain(50).manifest.self_test;
    let image = &test.input;
    // The batch is asked for first, and each of its images is an image's turn.
    let batch = runner.infer(served.clone(), image.repeat(200_000));
    let one = runner.infer(served.clone(), image.clone());
    let one = tokio::select! {
        biased;
        _ = batch => panic!("the batch came first"),
        one = one => one.unwrap(),
    };
    assert_eq!(one, test.output);
    // Nobody waits for the batch any more: it ends where it is.
    runner.stop().await;
    tracker.close();
    tracker.wait().await;
    let counts = served.statistics.now();
    assert_eq!((counts.success.count, counts.fail.count), (1, 1));
    assert!(counts.compute.count > 1, "images that were run are counted, whoever waits for them");
}

#[tokio::test]
async fn nor_for_more_batches_than_there_are_connections() {
    let (runner, served, tracker) = alone();
    let image = Model::chain(50).manifest.self_test.input;
    let mut batches = JoinSet::new();
    for _ in 0..300 {
        let (runner, served, batch) = (runner.clone(), served.clone(), image.repeat(5_000));
        batches.spawn(async move { runner.infer(served, batch).await });
    }
    // All are asked for.
    tokio::task::yield_now().await;
    runner.infer(served.clone(), image).await.unwrap();
    assert_eq!(served.statistics.now().success.count, 1, "a batch ended before it");
    batches.shutdown().await;
    runner.stop().await;
    tracker.close();
    tracker.wait().await;
}

/// A model that serves, without an agent around it.
fn alone() -> (Runner, Arc<ServedModel>, TaskTracker) {
    let model = Model::chain(50);
    let engines = Engines::rten(1);
    let engine = engines.load(model.bytes, engines.usual()).unwrap();
    let installed = Installed {
        probation: Default::default(),
        generation: Generation(1),
        deployment: "fashion".to_owned(),
        model: model.manifest,
    };
    let tracker = TaskTracker::new();
    let runner = Runner::start(&tracker);
    runner.swap(ServedModel::new(installed, engine));
    let served = runner.active().unwrap();
    (runner, served, tracker)
}
