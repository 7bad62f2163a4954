//! A new model on probation: late answers and deaths of the agent take the device back to the model before, for good.

use std::time::Duration;

use proto::session::{AgentMessage, Assignment};
use proto::{Generation, Probation};

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

/// Makes what was measured of a model ten times as much.
fn slow_down(comparison: &std::path::Path) {
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(comparison).unwrap()).unwrap();
    for contender in json["contenders"].as_array_mut().unwrap() {
        contender["p50_ms"] = (contender["p50_ms"].as_f64().unwrap() * 10.0).into();
    }
    std::fs::write(comparison, json.to_string()).unwrap();
}
