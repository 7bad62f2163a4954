//! A new model on probation: late answers and deaths of the agent take the device back to the model before, for good.

use std::time::Duration;

use agent::App;
use agent::runner::engines::LibraryConfig;
use proto::session::{AgentMessage, Assignment};
use proto::{Generation, Probation};
use serde_json::json;

use crate::device::Device;
use crate::fake::{Fake, File};
use crate::model::Model;
use crate::poll::until;
use crate::session::{answers_as, beats_with, ending, holding, request};

/// Looked at every 50 ms.
fn watched(assignment: Assignment, late_above_ms: Option<f64>, duration_ms: u32) -> Assignment {
    let probation = Probation { period_ms: 50, failure_threshold: 3, late_above_ms, duration_ms };
    Assignment { probation, ..assignment }
}

/// Asks for images without end.
async fn load(device: &Device, model: &Model) {
    loop {
        // Whichever model answers.
        device.post("/v2/models/fashion/infer", request(model, 5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_answers_bring_the_model_before_back_for_good() {
    let (old, new) = (Model::of_seed(1), Model::of_seed(2));
    let mut fake = Fake::start().await;
    for model in [&old, &new] {
        fake.serve_file(model.digest(), File::whole(&model.bytes));
    }
    let dir = tempfile::tempdir().unwrap();
    let device = Device::start(dir.path().to_owned(), fake.address).await;
    fake.assign(old.assignment(1)).await;
    assert_eq!(ending(&mut fake, 1).await, Ok(()));
    // Both take as long, and whichever was measured a little slower is not this test's affair.
    std::fs::remove_file(dir.path().join("slots/a/comparison.json")).unwrap();

    // No engine answers within a nanosecond.
    fake.assign(watched(new.assignment(2), Some(1e-6), 600_000)).await;
    assert_eq!(ending(&mut fake, 2).await, Ok(()), "it serves before it is judged");
    let reason = tokio::select! {
        ended = ending(&mut fake, 2) => ended.unwrap_err(),
        () = load(&device, &old) => unreachable!("it asks without end"),
    };
    assert!(reason.contains("took longer than 0.000 ms, 0 failed; generation 1 serves again"), "{reason}");
    beats_with(&fake, holding(&old, 1)).await;
    answers_as(&device, &old, 1).await;
    device.stop().await;

    // The coordinator insists, and the agent has not forgotten.
    fake.forget();
    let device = Device::start(dir.path().to_owned(), fake.address).await;
    assert_eq!(ending(&mut fake, 2).await, Err(reason));
    device.ready().await;
    answers_as(&device, &old, 1).await;
    assert_eq!(fake.offsets(new.digest()), [0], "it was not fetched again");

    fake.assign(watched(new.assignment(3), Some(60_000.0), 200)).await;
    assert_eq!(ending(&mut fake, 3).await, Ok(()), "another generation is another chance");
    until("it is kept after its time", || !dir.path().join("probation.json").exists()).await;
    answers_as(&device, &new, 1).await;
    device.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_is_judged_while_the_next_one_hangs_on_its_way() {
    let (old, late, next) = (Model::of_seed(1), Model::of_seed(2), Model::of_seed(3));
    let mut fake = Fake::start().await;
    for model in [&old, &late] {
        fake.serve_file(model.digest(), File::whole(&model.bytes));
    }
    fake.serve_file(next.digest(), File { hangs: true, cuts: [1000].into(), ..File::whole(&next.bytes) });
    let dir = tempfile::tempdir().unwrap();
    let device = Device::start(dir.path().to_owned(), fake.address).await;
    fake.assign(old.assignment(1)).await;
    assert_eq!(ending(&mut fake, 1).await, Ok(()));
    std::fs::remove_file(dir.path().join("slots/a/comparison.json")).unwrap();
    fake.assign(watched(late.assignment(2), Some(1e-6), 600_000)).await;
    assert_eq!(ending(&mut fake, 2).await, Ok(()));
    fake.assign(next.assignment(3)).await;
    until("the download has begun", || fake.offsets(next.digest()) == [0]).await;
    let reason = tokio::select! {
        ended = ending(&mut fake, 2) => ended.unwrap_err(),
        () = load(&device, &old) => unreachable!("it asks without end"),
    };
    assert!(reason.contains("generation 1 serves again"), "{reason}");
    answers_as(&device, &old, 1).await;
    let begun = fake.offsets(next.digest()).into_iter().filter(|&offset| offset == 0).count();
    assert_eq!(begun, 1, "the download goes on");
    device.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_model_and_a_faster_one_serve_on_however_late_they_are() {
    let (first, second) = (Model::of_seed(1), Model::of_seed(2));
    let mut fake = Fake::start().await;
    for model in [&first, &second] {
        fake.serve_file(model.digest(), File::whole(&model.bytes));
    }
    let dir = tempfile::tempdir().unwrap();
    let device = Device::start(dir.path().to_owned(), fake.address).await;
    for (generation, model) in [(1, &first), (2, &second)] {
        fake.assign(watched(model.assignment(generation), Some(1e-6), 600_000)).await;
        assert_eq!(ending(&mut fake, generation).await, Ok(()));
        if generation == 2 {
            slow_down(&dir.path().join("slots/a/comparison.json"));
            // The device has been throttled since both were measured.
            for slot in ["a", "b"] {
                measured_elsewhere(&dir.path().join("slots").join(slot).join("comparison.json"));
            }
        }
        tokio::select! {
            () = until("its probation has ended", || !dir.path().join("probation.json").exists()) => {}
            () = load(&device, &first) => unreachable!("it asks without end"),
        }
        answers_as(&device, model, 1).await;
    }
    let failed = fake.hear("anything more", |message| match message {
        AgentMessage::Progress(progress) if progress.generation == Generation(2) => Some(progress.clone()),
        _ => None,
    });
    let failed = tokio::time::timeout(Duration::from_millis(300), failed).await;
    assert!(failed.is_err(), "{failed:?}");
    device.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_throttled_device_measured_before_tells_which_model_is_slower() {
    let (first, second) = (Model::of_seed(1), Model::of_seed(2));
    let mut fake = Fake::start().await;
    for model in [&first, &second] {
        fake.serve_file(model.digest(), File::whole(&model.bytes));
    }
    let dir = tempfile::tempdir().unwrap();
    let comparison = |slot: &str| dir.path().join("slots").join(slot).join("comparison.json");
    let device = Device::start(dir.path().to_owned(), fake.address).await;
    for (generation, model) in [(1, &first), (2, &second)] {
        fake.assign(watched(model.assignment(generation), Some(1e-6), 600_000)).await;
        assert_eq!(ending(&mut fake, generation).await, Ok(()));
    }
    device.stop().await;
    slow_down(&comparison("a"));
    for slot in ["a", "b"] {
        measured_elsewhere(&comparison(slot));
    }
    // The one that serves is measured anew, the one before it is not.
    let device = Device::start(dir.path().to_owned(), fake.address).await;
    let is_anew = || !std::fs::read_to_string(comparison("b")).unwrap().contains(":4096");
    until("engines are compared anew", is_anew).await;
    tokio::select! {
        () = until("its probation has ended", || !dir.path().join("probation.json").exists()) => {}
        () = load(&device, &first) => unreachable!("it asks without end"),
    }
    answers_as(&device, &second, 1).await;
    device.stop().await;
}

/// What so many deaths in a row leave behind.
fn die(state: &std::path::Path, file: &str, of: &Assignment, deaths: u32) {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let since = rustix::time::clock_gettime(rustix::time::ClockId::Boottime).tv_sec;
    let (generation, digest) = (of.generation, of.model.artifact.digest);
    let trial = json!([{ "generation": generation, "digest": digest, "begun": deaths, "boot": boot.trim(),
        "since": since, "last": since }]);
    std::fs::write(state.join(file), trial.to_string()).unwrap();
}

/// Changes one bit.
pub(crate) fn damage(path: &std::path::Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_was_given_up_never_serves_again_whatever_else_fails() {
    let (old, deadly, next) = (Model::of_seed(1), Model::of_seed(2), Model::of_seed(3));
    let mut fake = Fake::start().await;
    for model in [&old, &deadly, &next] {
        fake.serve_file(model.digest(), File::whole(&model.bytes));
    }
    let dir = tempfile::tempdir().unwrap();
    let device = Device::start(dir.path().to_owned(), fake.address).await;
    for (generation, model) in [(1, &old), (22, &deadly)] {
        fake.assign(model.assignment(generation)).await;
        assert_eq!(ending(&mut fake, generation).await, Ok(()));
    }
    device.stop().await;
    die(dir.path(), "probation.json", &deadly.assignment(22), 3);
    let device = Device::start(dir.path().to_owned(), fake.address).await;
    let reason = ending(&mut fake, 22).await.unwrap_err();
    assert!(reason.contains("died 3 times while this model was on probation"), "{reason}");
    answers_as(&device, &old, 1).await;

    // It is not the last one that was given up, and it is the only one whole.
    let mut unknown = next.assignment(50);
    unknown.model.artifact.digest = proto::Digest::of(b"nobody has this");
    fake.assign(unknown).await;
    ending(&mut fake, 50).await.unwrap_err();
    device.stop().await;
    fake.stop().await;
    damage(&dir.path().join("slots/a/model.onnx"));
    let device = Device::start(dir.path().to_owned(), fake.address).await;
    assert_eq!(device.get("/v2/health/ready").await.0, 503);

    fake.listen().await;
    fake.assign(next.assignment(51)).await;
    assert_eq!(ending(&mut fake, 51).await, Ok(()));
    answers_as(&device, &next, 1).await;

    // Nor is it a model to fall back on.
    let late = Assignment {
        probation: watched(next.assignment(51), Some(1e-6), 600_000).probation,
        ..next.assignment(52)
    };
    fake.assign(late).await;
    assert_eq!(ending(&mut fake, 52).await, Ok(()));
    tokio::select! {
        () = until("its probation has ended", || !dir.path().join("probation.json").exists()) => {}
        () = load(&device, &next) => unreachable!("it asks without end"),
    }
    answers_as(&device, &next, 1).await;
    device.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_loop_after_the_probation_ends_with_the_model_before() {
    let (old, deadly) = (Model::of_seed(1), Model::of_seed(2));
    let mut fake = Fake::start().await;
    let dir = tempfile::tempdir().unwrap();
    let device = Device::start(dir.path().to_owned(), fake.address).await;
    for (generation, model) in [(1, &old), (2, &deadly)] {
        fake.serve_file(model.digest(), File::whole(&model.bytes));
        fake.assign(watched(model.assignment(generation), None, 100)).await;
        assert_eq!(ending(&mut fake, generation).await, Ok(()));
        until("it is kept", || !dir.path().join("probation.json").exists()).await;
    }
    device.stop().await;
    for (deaths, serves) in [(2, &deadly), (3, &old)] {
        die(dir.path(), "serving.json", &deadly.assignment(2), deaths);
        let device = Device::start(dir.path().to_owned(), fake.address).await;
        answers_as(&device, serves, 1).await;
        device.stop().await;
    }
    fake.forget();
    let device = Device::start(dir.path().to_owned(), fake.address).await;
    let reason = ending(&mut fake, 2).await.unwrap_err();
    assert!(reason.contains("died 3 times within an hour while this model served"), "{reason}");
    answers_as(&device, &old, 1).await;
    device.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_it_is_not_known_what_was_given_up_nothing_is_proven() {
    let model = Model::of_seed(1);
    let mut fake = Fake::start().await;
    fake.serve_file(model.digest(), File::whole(&model.bytes));
    fake.assign(watched(model.assignment(1), None, 100)).await;
    let dir = tempfile::tempdir().unwrap();
    let device = Device::start(dir.path().to_owned(), fake.address).await;
    assert_eq!(ending(&mut fake, 1).await, Ok(()));
    let probation = dir.path().join("probation.json");
    until("it is kept", || !probation.exists()).await;
    device.stop().await;

    fake.stop().await;
    let given_up = dir.path().join("given-up.json");
    std::fs::write(&given_up, "{").unwrap();
    // Long enough to be seen.
    let manifest = dir.path().join("slots/a/manifest.json");
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&manifest).unwrap()).unwrap();
    json["probation"]["duration_ms"] = 600_000.into();
    std::fs::write(&manifest, json.to_string()).unwrap();
    for _ in 0..2 {
        let device = Device::start(dir.path().to_owned(), fake.address).await;
        answers_as(&device, &model, 1).await;
        assert!(probation.exists(), "it is watched, and a death counts");
        assert_eq!(std::fs::read_to_string(&given_up).unwrap(), "[]");
        device.stop().await;
    }
}

/// As [`Device::start`], with little patience where nothing serves.
async fn start_impatient(state: &std::path::Path, fake: &Fake) -> Device {
    let change = |app: App| app.with_last_resort_after(Duration::from_millis(300));
    Device::start_as(state.to_owned(), fake.address, LibraryConfig::Off, change).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_given_up_is_tried_again_where_nothing_else_can_serve() {
    let (first, second) = (Model::of_seed(1), Model::of_seed(2));
    let mut fake = Fake::start().await;
    for model in [&first, &second] {
        fake.serve_file(model.digest(), File::whole(&model.bytes));
    }
    let dir = tempfile::tempdir().unwrap();
    let device = Device::start(dir.path().to_owned(), fake.address).await;
    fake.assign(first.assignment(1)).await;
    assert_eq!(ending(&mut fake, 1).await, Ok(()));
    device.stop().await;

    for (file, while_) in [("probation.json", "on probation"), ("checking.json", "while checking")] {
        die(dir.path(), file, &first.assignment(1), 3);
        fake.forget();
        let device = start_impatient(dir.path(), &fake).await;
        let reason = ending(&mut fake, 1).await.unwrap_err();
        assert!(reason.contains("the agent died 3 times") && reason.contains(while_), "{reason}");
        // It may have said so more than once.
        while ending(&mut fake, 1).await.is_err() {}
        beats_with(&fake, holding(&first, 1)).await;
        answers_as(&device, &first, 1).await;
        assert!(dir.path().join("probation.json").exists(), "its deaths are counted anew");
        assert!(!dir.path().join("checking.json").exists());
        device.stop().await;
    }

    // A restart serves it at once, and the coordinator hears that it does.
    fake.forget();
    let device = Device::start(dir.path().to_owned(), fake.address).await;
    assert_eq!(ending(&mut fake, 1).await, Ok(()));
    fake.assign(second.assignment(2)).await;
    assert_eq!(ending(&mut fake, 2).await, Ok(()));
    device.stop().await;

    // Both were given up, the second one last: the first has another chance before it.
    for (generation, model) in [(1, &first), (2, &second)] {
        die(dir.path(), "probation.json", &model.assignment(generation), 3);
        std::fs::write(dir.path().join("active"), if generation == 1 { "a" } else { "b" }).unwrap();
        Device::start(dir.path().to_owned(), fake.address).await.stop().await;
    }
    let device = start_impatient(dir.path(), &fake).await;
    device.ready().await;
    answers_as(&device, &first, 1).await;
    device.stop().await;
    // Then it is the second one's turn, nor does it wait for a download that hangs.
    let next = Model::of_seed(3);
    let cuts = std::iter::repeat_n(1000, 100).collect();
    fake.serve_file(next.digest(), File { hangs: true, cuts, ..File::whole(&next.bytes) });
    fake.stop().await;
    fake.assign(next.assignment(3)).await;
    fake.listen().await;
    die(dir.path(), "probation.json", &first.assignment(1), 3);
    let device = start_impatient(dir.path(), &fake).await;
    device.ready().await;
    answers_as(&device, &second, 1).await;
    device.stop().await;
    // The other one is not forgotten.
    damage(&dir.path().join("slots/a/model.onnx"));
    let device = start_impatient(dir.path(), &fake).await;
    device.ready().await;
    answers_as(&device, &second, 1).await;
    device.stop().await;
}

/// Makes what was measured of a model ten times as much.
fn slow_down(comparison: &std::path::Path) {
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(comparison).unwrap()).unwrap();
    for contender in json["contenders"].as_array_mut().unwrap() {
        contender["p50_ms"] = (contender["p50_ms"].as_f64().unwrap() * 10.0).into();
    }
    std::fs::write(comparison, json.to_string()).unwrap();
}

/// Makes what was measured of a model be of a device that is not this one, as it is now.
fn measured_elsewhere(comparison: &std::path::Path) {
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(comparison).unwrap()).unwrap();
    json["conditions"]["device"]["logical_cores"] = 4096.into();
    std::fs::write(comparison, json.to_string()).unwrap();
}
