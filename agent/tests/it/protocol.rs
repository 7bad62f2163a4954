//! The Open Inference Protocol as its clients speak it: gRPC over TCP and a Unix socket, and Triton's own clients.

use std::path::{Path, PathBuf};
use std::process::Command;

use proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use proto::inference::model_infer_request::InferInputTensor;
use proto::inference::{InferTensorContents, ModelInferRequest, ModelStatisticsRequest};
use serde_json::{Value, json};
use tokio_util::task::TaskTracker;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::device::Device;
use crate::fake::{Fake, File};
use crate::model::Model;

/// A device that serves `model`, and the coordinator that gave it.
pub(crate) async fn serving(model: &Model, state: &Path) -> (Device, Fake) {
    let fake = Fake::start().await;
    fake.serve_file(model.digest(), File::whole(&model.bytes));
    let device = Device::start(state.to_owned(), fake.address).await;
    fake.assign(model.assignment(4)).await;
    device.ready().await;
    (device, fake)
}

pub(crate) fn request(model: &Model) -> ModelInferRequest {
    let shape = model.manifest.input_shape.map(i64::from);
    ModelInferRequest {
        model_name: "fashion".to_owned(),
        inputs: vec![InferInputTensor {
            name: "input".to_owned(),
            datatype: "FP32".to_owned(),
            shape: [&[1], &shape[..]].concat(),
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn raw(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn assert_close(got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len());
    assert!(got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-3), "{got:?} {expected:?}");
}

async fn asks_in_every_way(client: &mut GrpcInferenceServiceClient<Channel>, model: &Model) {
    let test = &model.manifest.self_test;
    let mut typed = request(model);
    let contents = InferTensorContents { fp32_contents: test.input.clone(), ..Default::default() };
    typed.inputs[0].contents = Some(contents.clone());
    let answer = client.model_infer(typed.clone()).await.unwrap().into_inner();
    assert_eq!((answer.model_version.as_str(), answer.outputs[0].shape.as_slice()), ("4", &[1, 10][..]));
    assert_close(&answer.outputs[0].contents.clone().unwrap().fp32_contents, &test.output);

    let raw_input_contents = vec![raw(&test.input).into()];
    let as_raw = ModelInferRequest { raw_input_contents, ..request(model) };
    let answer = client.model_infer(as_raw.clone()).await.unwrap().into_inner();
    let bytes = answer.raw_output_contents[0].as_chunks::<4>().0;
    assert_close(&bytes.iter().map(|&b| f32::from_le_bytes(b)).collect::<Vec<_>>(), &test.output);

    let mut both = as_raw.clone();
    both.inputs[0].contents = Some(contents);
    let torn = ModelInferRequest { raw_input_contents: vec![vec![0; 3].into()], ..request(model) };
    let many = ModelInferRequest { raw_input_contents: vec![vec![0; 4].into(); 2], ..request(model) };
    let version = ModelInferRequest { model_version: "3".to_owned(), ..as_raw.clone() };
    let other = ModelInferRequest { model_name: "other".to_owned(), ..as_raw.clone() };
    let swollen = ModelInferRequest { inputs: vec![Default::default(); 300], ..request(model) };
    let huge = ModelInferRequest { raw_input_contents: vec![vec![0; 17 << 20].into()], ..request(model) };
    for (case, code, named) in [
        (both, Code::InvalidArgument, "not both"),
        (torn, Code::InvalidArgument, "3 bytes"),
        (many, Code::InvalidArgument, "2 raw_input_contents for 1 inputs"),
        (request(model), Code::InvalidArgument, "data holds 0"),
        (version, Code::NotFound, "it serves '4'"),
        (other, Code::NotFound, "it serves 'fashion'"),
        (swollen, Code::InvalidArgument, "more than 256"),
        (huge, Code::OutOfRange, "limit"),
    ] {
        let status = client.model_infer(case).await.unwrap_err();
        assert_eq!(status.code(), code, "{status:?}");
        assert!(status.message().contains(named), "{status:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_is_served_beside_rest_and_on_a_socket() {
    let (model, dir) = (Model::of_seed(1), tempfile::tempdir().unwrap());
    let (device, _fake) = serving(&model, dir.path()).await;
    let socket = format!("unix://{}", device.socket.display());
    let mut requests = 0;
    for address in [format!("http://{}", device.api), socket] {
        let channel = Endpoint::from_shared(address).unwrap().connect().await.unwrap();
        let mut client = GrpcInferenceServiceClient::new(channel);
        asks_in_every_way(&mut client, &model).await;
        requests += 2;
        let statistics =
            client.model_statistics(ModelStatisticsRequest::default()).await.unwrap().into_inner();
        let own = &statistics.model_stats[0];
        assert_eq!((own.inference_count, own.execution_count), (requests, requests));
        let counts = own.inference_stats.unwrap();
        let (success, compute) = (counts.success.unwrap(), counts.compute_infer.unwrap());
        assert_eq!((success.count, counts.fail.unwrap().count), (requests, 0));
        assert!(compute.ns > 0 && success.ns >= compute.ns, "{counts:?}");
    }
    device.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_is_never_taken_from_the_living() {
    let (model, dir) = (Model::of_seed(1), tempfile::tempdir().unwrap());
    let (device, _fake) = serving(&model, dir.path()).await;
    let refused = agent::serve::bind_unix(&device.socket).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::AddrInUse);
    let file = dir.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    agent::serve::bind_unix(&file).unwrap_err();
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
    let path = device.socket.clone();
    device.stop().await;
    drop(agent::serve::bind_unix(&path).unwrap());
    drop(agent::serve::bind_unix(&path).expect("one that nobody listens on is replaced"));
}

/// Where `tests/peers/tritonclient.sh` puts the clients. `RECONVENE_TESTS_NEED_TRITONCLIENT` says that they have to be
/// there, as in continuous integration.
#[expect(clippy::print_stderr, reason = "a test that is left out says so")]
fn triton_python() -> Option<Command> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let python = || {
        let mut python = Command::new("python3");
        python.env("PYTHONPATH", target.join("tritonclient")).current_dir(root);
        python
    };
    let found = python().args(["-c", "import tritonclient.grpc, tritonclient.http"]).output();
    if found.is_ok_and(|output| output.status.success()) {
        return Some(python());
    }
    let needed = std::env::var_os("RECONVENE_TESTS_NEED_TRITONCLIENT").is_some();
    assert!(!needed, "no tritonclient; run tests/peers/tritonclient.sh");
    eprintln!("skipped: no tritonclient in {}; run tests/peers/tritonclient.sh", target.display());
    None
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tritons_own_clients_work_unchanged() {
    let Some(mut python) = triton_python() else { return };
    let (model, dir) = (Model::of_seed(1), tempfile::tempdir().unwrap());
    let (device, _fake) = serving(&model, dir.path()).await;
    let image = dir.path().join("image");
    let test = &model.manifest.self_test;
    std::fs::write(&image, raw(&test.input)).unwrap();
    // As reconvene-agent.socket has it.
    std::os::unix::fs::symlink(&device.socket, dir.path().join("inference@localhost.sock")).unwrap();
    python.arg("tests/peers/tritonclient_calls.py").arg(device.api.to_string()).arg(&device.socket);
    python.args(["fashion", "4"]).arg(image).args(model.manifest.input_shape.map(|dim| dim.to_string()));
    let output = TaskTracker::new().spawn_blocking(move || python.output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answers: Value = serde_json::from_slice(&output.stdout).unwrap();
    let ways = [
        ("grpc", 3),
        ("grpc_named", 1),
        ("stream", 3),
        ("socket", 1),
        ("socket_option", 1),
        ("http", 3),
        ("http_json", 1),
        ("http_json_raw", 1),
        ("http_raw_json", 1),
    ];
    for (way, images) in ways {
        let rows: Vec<Vec<f32>> = serde_json::from_value(answers[way].clone()).unwrap();
        assert_eq!(rows.len(), images, "{way}");
        rows.iter().for_each(|row| assert_close(row, &test.output));
    }
    assert_eq!(answers["server"]["name"], "reconvene-agent");
    assert_eq!(answers["model"]["inputs"][0]["shape"], json!(["-1", "1", "28", "28"]));
    assert_eq!(answers["index"], json!([{ "name": "fashion", "version": "4", "state": "READY" }]));
    let input = json!([{ "name": "input", "data_type": "TYPE_FP32", "dims": [1, 28, 28] }]);
    assert_eq!(answers["http_config"]["input"], input);
    assert_eq!(answers["grpc_config"]["input"][0]["dims"], json!(["1", "28", "28"]));
    for config in [&answers["http_config"], &answers["grpc_config"]] {
        assert_eq!((&config["max_batch_size"], &config["name"]), (&json!(64), &json!("fashion")));
        assert_eq!(config["output"][0]["data_type"], "TYPE_FP32");
    }
    // Three images, one, and three streamed.
    assert_eq!(answers["statistics"]["inference_count"], "7");
    for (way, named) in [
        ("stream_refused", "it serves 'fashion'"),
        ("grpc_refused", "NOT_FOUND: no model 'other'"),
        ("grpc_shape", "INVALID_ARGUMENT: the input's shape is [N, 1, 28, 28]"),
        ("http_refused", "404: no model 'other'"),
        ("http_gzip", "415: content-encoding \"gzip\" is not read here"),
        ("http_deflate", "415: content-encoding \"deflate\" is not read here"),
        ("grpc_gzip", "UNIMPLEMENTED: Content is compressed with `gzip`"),
        ("grpc_unserved", "UNIMPLEMENTED: this call is not served here"),
    ] {
        assert!(answers[way].as_str().unwrap().contains(named), "{way}: {}", answers[way]);
    }
    device.stop().await;
}

/// What `reconvene-agent infer` says of a file, and how it exits.
async fn infer(arguments: Vec<String>) -> std::process::Output {
    let mut agent = Command::new(env!("CARGO_BIN_EXE_reconvene-agent"));
    agent.arg("infer").args(arguments);
    TaskTracker::new().spawn_blocking(move || agent.output()).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_asks_what_is_in_a_picture() {
    let (model, dir) = (Model::of_seed(1), tempfile::tempdir().unwrap());
    let (device, _fake) = serving(&model, dir.path()).await;
    let picture = dir.path().join("grey.png");
    image::GrayImage::from_fn(28, 28, |x, y| image::Luma([(x * y % 251) as u8])).save(&picture).unwrap();
    let asked = |path: &Path| {
        let path = path.to_str().unwrap();
        ["--address", &device.api.to_string(), "--image", path, "--top", "10", "-o", "json"]
            .map(str::to_owned)
    };
    let output = infer(asked(&picture).to_vec()).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&seen["model"], &seen["version"]), (&json!("fashion"), &json!("4")));
    let (mean, std) = (model.manifest.mean[0], model.manifest.std[0]);
    let pixel = |i: usize| (f32::from((i % 28 * (i / 28) % 251) as u8) / 255.0 - mean) / std;
    let data: Vec<f32> = (0..28 * 28).map(pixel).collect();
    let tensor = json!({ "name": "input", "shape": [1, 1, 28, 28], "datatype": "FP32", "data": data });
    let (_, answer) = device.post("/v2/models/fashion/infer", json!({ "inputs": [tensor] })).await;
    for class in seen["classes"].as_array().unwrap() {
        let index = class["class"].as_u64().unwrap() as usize;
        let expected = answer["outputs"][0]["data"][index].as_f64().unwrap();
        assert!((class["logit"].as_f64().unwrap() - expected).abs() < 1e-4, "{class} {expected}");
    }
    let (text, huge) = (dir.path().join("text.png"), dir.path().join("huge.png"));
    std::fs::write(&text, "no picture").unwrap();
    std::fs::File::create(&huge).unwrap().set_len(1 << 40).unwrap();
    for (path, why) in [
        (text.as_path(), "is no PNG or JPEG"),
        (&huge, "no image has more than 256.0Mi"),
        (dir.path(), "Is a directory"),
    ] {
        let output = infer(asked(path).to_vec()).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(65), "{said}");
        assert!(said.contains(why), "{said}");
    }
    let nowhere = dir.path().join("nowhere.png");
    let output = infer(asked(&nowhere).to_vec()).await;
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
    let empty = Device::start(dir.path().join("empty"), "127.0.0.1:9".parse().unwrap()).await;
    let output = infer(
        ["--address", &empty.api.to_string(), "--image", picture.to_str().unwrap()]
            .map(str::to_owned)
            .to_vec(),
    )
    .await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(69), "{said}");
    assert!(said.contains("serves no model; `reconvene-agent status` says what is installed"), "{said}");
    empty.stop().await;
    let gone = device.api.to_string();
    device.stop().await;
    let output =
        infer(vec!["--address".into(), gone, "--image".into(), picture.to_str().unwrap().into()]).await;
    assert_eq!(output.status.code(), Some(69), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_no_answer_is_refused_in_words() {
    let (model, dir) = (Model::of_seed(1), tempfile::tempdir().unwrap());
    let (device, _fake) = serving(&model, dir.path()).await;
    // Finite, and too large for what the model does with it.
    let numbers = vec![3e38_f32; 784];
    let images = [vec![0.5; 784], numbers.clone()].concat();
    let tensor = json!({ "name": "input", "shape": [2, 1, 28, 28], "datatype": "FP32", "data": images });
    let (status, body) = device.post("/v2/models/fashion/infer", json!({ "inputs": [tensor] })).await;
    assert_eq!(status, 400, "{body}");
    assert_eq!(
        body["error"].as_str().unwrap(),
        "the model has no finite answer to this: number 784 of data is 3e38; send numbers between -1e6 and 1e6"
    );
    let channel = Endpoint::from_shared(format!("http://{}", device.api)).unwrap().connect().await.unwrap();
    let asked = ModelInferRequest { raw_input_contents: vec![raw(&numbers).into()], ..request(&model) };
    let status = GrpcInferenceServiceClient::new(channel).model_infer(asked).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert!(status.message().contains("no finite answer"), "{status:?}");
    // Neither is the model's failure.
    let metrics = device.metrics().await;
    let failed = metrics.lines().find(|line| line.contains("requests_failed_total{"));
    assert!(failed.is_some_and(|line| line.ends_with(" 0")), "{failed:?}");
    // Which model is meant is looked at before what is asked of it.
    for (path, body, expected, named) in [
        ("/v2/models/other/infer", json!({}), 404, "it serves 'fashion'"),
        ("/v2/models/fashion/infer", json!({}), 400, "missing field `inputs`"),
        ("/v2/models/fashion/infer", json!([null, {}, [], []]), 400, "expected an object"),
    ] {
        let (status, answer) = device.post(path, body).await;
        assert_eq!(status, expected, "{answer}");
        assert!(answer["error"].as_str().unwrap().contains(named), "{answer}");
    }
    device.stop().await;
}

/// Bytes as they are, where a message is meant.
#[derive(Default)]
struct Bytes;

impl Codec for Bytes {
    type Encode = Vec<u8>;
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        prost::bytes::BufMut::put_slice(buffer, &item);
        Ok(())
    }
}

impl Decoder for Bytes {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, _: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        Ok(Some(()))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_and_unknown_services_are_refused_as_grpc_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::start().await;
    let device = Device::start(dir.path().to_owned(), fake.address).await;
    let channel = Endpoint::from_shared(format!("http://{}", device.api)).unwrap().connect().await.unwrap();
    for (path, code, named) in [
        ("/inference.GRPCInferenceService/ModelInfer", Code::InvalidArgument, "failed to decode"),
        ("/inference.GRPCInferenceService/ServerLive", Code::InvalidArgument, "failed to decode"),
        ("/inference.GRPCInferenceService/Fly", Code::Unimplemented, "this call is not served here"),
        (
            "/grpc.health.v1.Health/Check",
            Code::Unimplemented,
            "/grpc.health.v1.Health/Check is not served here",
        ),
    ] {
        let mut client = tonic::client::Grpc::new(channel.clone());
        client.ready().await.unwrap();
        let asked = tonic::Request::new(vec![0xff; 20]);
        let status = client.unary(asked, path.parse().unwrap(), Bytes).await.unwrap_err();
        assert_eq!(status.code(), code, "{path}: {status:?}");
        assert!(status.message().contains(named), "{path}: {status:?}");
    }
    assert_eq!(device.get("/nowhere").await.0, 404);
    device.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_ends_open_streams_after_what_was_asked() {
    let (model, dir) = (Model::of_seed(1), tempfile::tempdir().unwrap());
    let (device, _fake) = serving(&model, dir.path()).await;
    let channel = Endpoint::from_shared(format!("http://{}", device.api)).unwrap().connect().await.unwrap();
    let mut client = GrpcInferenceServiceClient::new(channel);
    let (requests, stream) = tokio::sync::mpsc::channel(4);
    requests
        .send(ModelInferRequest {
            raw_input_contents: vec![raw(&model.manifest.self_test.input).into()],
            ..request(&model)
        })
        .await
        .unwrap();
    let stream = tokio_stream::wrappers::ReceiverStream::new(stream);
    let mut answers = client.model_stream_infer(stream).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap();
    assert_eq!(answer.error_message, "");
    // The client never ends its side.
    device.stop().await;
    assert!(
        answers.message().await.unwrap().is_none(),
        "it ends as a stream does, not as a broken connection"
    );
}
