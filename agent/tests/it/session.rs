//! The agent against a coordinator that the test plays: real wire, real files, real models.

use std::time::Duration;

use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use proto::session::{AgentMessage, Holding, Phase};
use proto::{Generation, LatencyInterval};
use serde_json::{Value, json};

use crate::device::Device;
use crate::fake::{Fake, File};
use crate::model::Model;
use crate::poll::until;

fn whole(model: &Model) -> File {
    File::whole(&model.bytes)
}

/// The end of an assignment: active, or the reason why not.
pub(crate) async fn ending(fake: &mut Fake, generation: u64) -> Result<(), String> {
    let what = format!("the end of generation {generation}");
    fake.hear(&what, |message| match message {
        AgentMessage::Progress(progress) if progress.generation == Generation(generation) => {
            match &progress.phase {
                Phase::Active => Some(Ok(())),
                Phase::Failed { reason } => Some(Err(reason.clone())),
                Phase::Downloading { .. } | Phase::Verifying => None,
            }
        }
        _ => None,
    })
    .await
}

pub(crate) fn holding(model: &Model, generation: u64) -> Holding {
    Holding { generation: Generation(generation), digest: Some(model.digest()) }
}

pub(crate) async fn beats_with(fake: &Fake, expected: Holding) {
    until("a heartbeat with the expected model", || fake.holding() == expected).await;
}

pub(crate) fn request(model: &Model, images: usize) -> Value {
    let [c, h, w] = model.manifest.input_shape;
    let image = &model.manifest.self_test.input;
    let data: Vec<&Vec<f32>> = vec![image; images];
    json!({ "id": "7", "inputs": [{ "name": "input", "shape": [images, c, h, w], "datatype": "FP32", "data": data }] })
}

pub(crate) async fn answers_as(device: &Device, model: &Model, images: usize) {
    let (status, body) = device.post("/v2/models/fashion/infer", request(model, images)).await;
    assert_eq!(status, 200, "{body}");
    let output = &body["outputs"][0];
    assert_eq!(output["shape"], json!([images, model.manifest.classes]));
    let got = output["data"].as_array().unwrap();
    let expected = model.manifest.self_test.output.repeat(images);
    assert_eq!(got.len(), expected.len());
    for (got, expected) in got.iter().zip(expected) {
        assert!((got.as_f64().unwrap() - f64::from(expected)).abs() < 1e-3, "{got} {expected}");
    }
}

fn images(interval: &LatencyInterval) -> u64 {
    let histogram: Histogram<u64> = Deserializer::new().deserialize(&mut &*interval.histogram).unwrap();
    assert!(histogram.is_empty() || histogram.min() > 0);
    histogram.len()
}

pub(crate) fn stored_images(fake: &Fake) -> u64 {
    fake.stored().iter().map(|(_, interval)| images(interval)).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_the_probe_to_the_acknowledged_telemetry() {
    let (probe, model) = (Model::of_seed(0), Model::of_seed(1));
    let half = model.bytes.len() / 2;
    let mut fake = Fake::start().await;
    fake.serve_file(probe.digest(), whole(&probe));
    fake.serve_file(model.digest(), File { cuts: [half].into(), ..whole(&model) });
    fake.ask_for(probe.manifest.artifact.clone());
    let dir = tempfile::tempdir().unwrap();
    let device = Device::start(dir.path().to_owned(), fake.address).await;

    let hello = fake
        .hear("hello", |m| if let AgentMessage::Hello(hello) = m { Some(hello.clone()) } else { None })
        .await;
    assert_eq!((hello.device_id.as_str(), hello.holding), ("gw-1", Holding::default()));
    assert_eq!(hello.serving_address, device.api.to_string());
    let profile =
        fake.hear("a profile", |m| {
            if let AgentMessage::Profile(profile) = m { Some(profile.clone()) } else { None }
        })
        .await;
    let [timing] = &profile.probes[..] else { panic!("one probe, not {:?}", profile.probes) };
    assert_eq!((timing.digest, profile.inference_threads), (probe.digest(), 1));
    assert!(timing.runs >= 3 && timing.p50_ms > 0.0 && timing.p50_ms <= timing.p95_ms);
    assert_eq!(device.get("/v2/health/ready").await.0, 503);
    assert_eq!(device.get("/v2/health/live").await.0, 200);

    fake.assign(model.assignment(1)).await;
    assert_eq!(ending(&mut fake, 1).await, Ok(()));
    assert_eq!(fake.offsets(model.digest()), [0, half as u64], "it went on from the cut");
    beats_with(&fake, holding(&model, 1)).await;
    answers_as(&device, &model, 3).await;
    let (status, metadata) = device.get("/v2/models/fashion").await;
    assert_eq!((status, &metadata["inputs"][0]["shape"]), (200, &json!([-1, 1, 28, 28])));
    assert_eq!(metadata["parameters"]["digest"], json!(model.digest().to_string()));
    assert_eq!(metadata["parameters"]["generation"], json!(1));

    let text = device.metrics().await;
    let labels = r#"model="fashion",model_version="1""#;
    for line in [
        r#"reconvene_agent_info{version="0.1.0",device="gw-1"} 1"#,
        "reconvene_session_connected 1",
        &format!("reconvene_images_total{{{labels}}} 3"),
        &format!("reconvene_requests_answered_total{{{labels}}} 1"),
        &format!("reconvene_inference_seconds_count{{{labels}}} 3"),
        "# TYPE process_cpu_seconds counter",
        "# EOF",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }

    until("three images are stored", || stored_images(&fake) == 3).await;
    let (_, interval) = fake.stored().remove(0);
    assert_eq!((interval.digest, interval.generation), (model.digest(), Generation(1)));
    let spool = dir.path().join("telemetry.spool");
    until("the spool is empty", || agent::spool::Spool::count_waiting(&spool).unwrap() == 0).await;
    assert!(std::fs::read_dir(dir.path().join("staging")).unwrap().next().is_none());
    device.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_serves_without_a_coordinator_and_loses_no_count() {
    let model = Model::of_seed(1);
    let mut fake = Fake::start().await;
    fake.serve_file(model.digest(), whole(&model));
    fake.assign(model.assignment(1)).await;
    let dir = tempfile::tempdir().unwrap();
    let device = Device::start(dir.path().to_owned(), fake.address).await;
    assert_eq!(ending(&mut fake, 1).await, Ok(()));
    answers_as(&device, &model, 1).await;
    fake.stop().await;
    answers_as(&device, &model, 2).await;
    device.stop().await;

    let device = Device::start(dir.path().to_owned(), fake.address).await;
    device.ready().await;
    answers_as(&device, &model, 4).await;
    fake.listen().await;
    beats_with(&fake, holding(&model, 1)).await;
    until("all seven images are stored once", || stored_images(&fake) == 7).await;
    assert_eq!(fake.offsets(model.digest()).len(), 1, "the model was fetched once");
    device.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn telemetry_moves_to_the_disk_once_that_takes_it() {
    let model = Model::of_seed(1);
    let mut fake = Fake::start().await;
    fake.serve_file(model.digest(), whole(&model));
    fake.assign(model.assignment(1)).await;
    let dir = tempfile::tempdir().unwrap();
    let (spool, blocked) = (dir.path().join("telemetry.spool"), dir.path().join("telemetry.new"));
    std::fs::create_dir(&blocked).unwrap();
    let device = Device::start(dir.path().to_owned(), fake.address).await;
    assert_eq!(ending(&mut fake, 1).await, Ok(()));
    answers_as(&device, &model, 1).await;
    until("one image is stored from memory", || stored_images(&fake) == 1).await;
    assert!(!spool.exists());

    std::fs::remove_dir(&blocked).unwrap();
    until("the disk has a spool", || spool.exists()).await;
    answers_as(&device, &model, 2).await;
    until("three images are stored once", || stored_images(&fake) == 3).await;
    fake.stop().await;
    answers_as(&device, &model, 4).await;
    let count = || agent::spool::Spool::count_waiting(&spool).unwrap();
    until("an interval waits on the disk", || count() == 1).await;
    device.stop().await;

    fake.listen().await;
    let device = Device::start(dir.path().to_owned(), fake.address).await;
    until("all seven images are stored once", || stored_images(&fake) == 7).await;
    device.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_pass_fails_with_a_reason_and_the_previous_model_serves() {
    let (model, next) = (Model::of_seed(1), Model::of_seed(2));
    let mut fake = Fake::start().await;
    fake.serve_file(model.digest(), whole(&model));
    fake.assign(model.assignment(1)).await;
    let dir = tempfile::tempdir().unwrap();
    let device = Device::start(dir.path().to_owned(), fake.address).await;
    assert_eq!(ending(&mut fake, 1).await, Ok(()));

    let mut altered = next.bytes.clone();
    *altered.last_mut().unwrap() ^= 1;
    fake.serve_file(next.digest(), File::whole(&altered));
    fake.assign(next.assignment(2)).await;
    let reason = ending(&mut fake, 2).await.unwrap_err();
    assert!(reason.contains("corrupt download, 3 times"), "{reason}");
    assert_eq!(fake.offsets(next.digest()), [0, 0, 0]);

    let longer = [&next.bytes[..], &[0]].concat();
    fake.serve_file(next.digest(), File::whole(&longer));
    fake.assign(next.assignment(3)).await;
    let reason = ending(&mut fake, 3).await.unwrap_err();
    assert!(reason.contains("corrupt download, 3 times"), "{reason}");

    // Each answer ends as it should, and ten bytes early.
    let shorter = &next.bytes[..next.bytes.len() - 10];
    let ends_early = File { pieces: Some(next.bytes.clone().into()), ..File::whole(shorter) };
    fake.serve_file(next.digest(), ends_early);
    fake.assign(next.assignment(4)).await;
    let reason = ending(&mut fake, 4).await.unwrap_err();
    let expected = format!("3 times: it ended after {} of {} bytes", shorter.len(), next.bytes.len());
    assert!(reason.contains(&expected), "{reason}");

    for (generation, named) in [(5, "size_bytes"), (6, "self_test")] {
        let mut senseless = next.assignment(generation);
        match named {
            "size_bytes" => senseless.model.artifact.size = proto::ByteSize(0),
            _ => drop(senseless.model.self_test.output.pop()),
        }
        fake.assign(senseless).await;
        let reason = ending(&mut fake, generation).await.unwrap_err();
        assert!(reason.contains(named), "{reason}");
    }

    fake.serve_file(next.digest(), whole(&next));
    let mut lying = next.assignment(7);
    lying.model.self_test.output[3] += 1.0;
    fake.assign(lying).await;
    let reason = ending(&mut fake, 7).await.unwrap_err();
    assert!(reason.starts_with("self-test: output 3 is"), "{reason}");

    let garbage = Model { bytes: vec![0xff; 64], ..next.clone() };
    let mut assignment = next.assignment(8);
    assignment.model.artifact.digest = proto::Digest::of(&garbage.bytes);
    assignment.model.artifact.size = proto::ByteSize(garbage.bytes.len() as u64);
    fake.serve_file(assignment.model.artifact.digest, whole(&garbage));
    fake.assign(assignment).await;
    let reason = ending(&mut fake, 8).await.unwrap_err();
    assert!(reason.contains("the model file is not sound"), "{reason}");

    fake.assign({
        let mut unknown = next.assignment(9);
        unknown.model.artifact.digest = proto::Digest::of(b"nobody has this");
        unknown
    })
    .await;
    let reason = ending(&mut fake, 9).await.unwrap_err();
    assert!(reason.contains("no such artifact"), "{reason}");

    let mut vast = next.assignment(10);
    vast.model.artifact.size = proto::ByteSize(1 << 50);
    fake.assign(vast).await;
    let reason = ending(&mut fake, 10).await.unwrap_err();
    assert!(reason.starts_with("not enough memory to load it: "), "{reason}");

    answers_as(&device, &model, 1).await;
    beats_with(&fake, holding(&model, 1)).await;
    fake.assign(next.assignment(11)).await;
    assert_eq!(ending(&mut fake, 11).await, Ok(()));
    answers_as(&device, &next, 1).await;
    device.stop().await;
}

/// A start that died three times in the check of one installed model, as by lack of memory, begins with the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_installed_model_that_kills_the_agent_is_passed_over() {
    let (model, deadly) = (Model::of_seed(1), Model::of_seed(2));
    let mut fake = Fake::start().await;
    let dir = tempfile::tempdir().unwrap();
    let device = Device::start(dir.path().to_owned(), fake.address).await;
    for (generation, model) in [(1, &model), (2, &deadly)] {
        fake.serve_file(model.digest(), whole(model));
        fake.assign(model.assignment(generation)).await;
        assert_eq!(ending(&mut fake, generation).await, Ok(()));
    }
    answers_as(&device, &deadly, 1).await;
    device.stop().await;
    let checking = |begun: u32| {
        let trial = json!({ "generation": 2, "digest": deadly.digest(), "begun": begun });
        std::fs::write(dir.path().join("checking.json"), trial.to_string()).unwrap();
    };
    for (deaths, serves) in [(2, &deadly), (3, &model)] {
        checking(deaths);
        let device = Device::start(dir.path().to_owned(), fake.address).await;
        device.ready().await;
        answers_as(&device, serves, 1).await;
        device.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn generations_only_go_up_and_known_bytes_are_not_fetched_again() {
    let (model, other) = (Model::of_seed(1), Model::of_seed(2));
    let mut fake = Fake::start().await;
    fake.serve_file(model.digest(), whole(&model));
    fake.serve_file(other.digest(), whole(&other));
    fake.assign(model.assignment(5)).await;
    let dir = tempfile::tempdir().unwrap();
    let device = Device::start(dir.path().to_owned(), fake.address).await;
    assert_eq!(ending(&mut fake, 5).await, Ok(()));
    fake.assign(other.assignment(4)).await;
    fake.assign(other.assignment(5)).await;
    fake.assign(model.assignment(6)).await;
    assert_eq!(ending(&mut fake, 6).await, Ok(()));
    assert!(fake.offsets(other.digest()).is_empty(), "older assignments are ignored");
    fake.assign(other.assignment(7)).await;
    assert_eq!(ending(&mut fake, 7).await, Ok(()));
    fake.assign(model.assignment(8)).await;
    assert_eq!(ending(&mut fake, 8).await, Ok(()));
    answers_as(&device, &model, 1).await;
    assert_eq!((fake.offsets(model.digest()).len(), fake.offsets(other.digest()).len()), (1, 1));
    device.stop().await;

    let device = Device::start(dir.path().to_owned(), fake.address).await;
    assert_eq!(ending(&mut fake, 8).await, Ok(()), "sent again, it is confirmed");
    answers_as(&device, &model, 1).await;
    device.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swap_under_load_drops_no_request() {
    let models = [Model::of_seed(1), Model::of_seed(2)];
    let mut fake = Fake::start().await;
    for model in &models {
        fake.serve_file(model.digest(), whole(model));
    }
    fake.assign(models[0].assignment(1)).await;
    let dir = tempfile::tempdir().unwrap();
    let device = Device::start(dir.path().to_owned(), fake.address).await;
    assert_eq!(ending(&mut fake, 1).await, Ok(()));
    let swap = async {
        for generation in 2..8 {
            fake.assign(models[(generation as usize + 1) % 2].assignment(generation)).await;
            assert_eq!(ending(&mut fake, generation).await, Ok(()));
        }
    };
    let load = async {
        let mut versions = std::collections::BTreeSet::new();
        loop {
            let (status, body) = device.post("/v2/models/fashion/infer", request(&models[0], 1)).await;
            assert_eq!(status, 200, "{body}");
            versions.insert(body["model_version"].as_str().unwrap().to_owned());
            if versions.contains("7") {
                return versions;
            }
        }
    };
    let (versions, ()) = tokio::time::timeout(Duration::from_secs(60), async { tokio::join!(load, swap) })
        .await
        .expect("the last generation answers");
    assert!(versions.len() >= 2, "{versions:?}");
    device.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_make_no_sense_get_one_clear_line() {
    let model = Model::of_seed(1);
    let mut fake = Fake::start().await;
    fake.serve_file(model.digest(), whole(&model));
    let dir = tempfile::tempdir().unwrap();
    let device = Device::start(dir.path().to_owned(), fake.address).await;
    let (status, body) = device.post("/v2/models/fashion/infer", request(&model, 1)).await;
    assert_eq!((status, body["error"].as_str().unwrap().contains("no model serves")), (503, true));
    fake.assign(model.assignment(1)).await;
    assert_eq!(ending(&mut fake, 1).await, Ok(()));
    let (status, body) = device.post("/v2/models/other/infer", request(&model, 1)).await;
    assert_eq!(
        (status, body["error"].as_str().unwrap().contains("it serves 'fashion'")),
        (404, true),
        "{body}"
    );
    for (body, named) in [
        (json!({ "inputs": [] }), "exactly one input"),
        (json!({ "input": 1 }), "missing field `inputs`"),
        (request(&model, 65), "N must be 1 to 64"),
    ] {
        let (status, answer) = device.post("/v2/models/fashion/infer", body).await;
        assert!((400..500).contains(&status), "{status}");
        assert!(answer["error"].as_str().unwrap().contains(named), "{answer}");
    }
    assert_eq!(device.get("/v2/nothing").await.0, 404);
    assert_eq!(device.get("/v2/models/fashion/infer").await.0, 405);
    answers_as(&device, &model, 1).await;
    device.stop().await;
}
