//! What serving costs: the real agent as a process, asked over its socket and its port, against the engine called directly on
//! the same machine in turns, and beside a client with batches; and a call that runs nothing, after a pause as long as an inference, which is as near to nothing
//! as a call comes on this machine. Prints a table of medians, and what memory the process takes.
//!
//! `cargo bench -p agent --bench serving [-- --onnxruntime FILE]`
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a program that talks to a person")]

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use agent::runner::choose::Comparison;
use agent::runner::engine::{Choice, Engine, EngineKind};
use agent::runner::engines::{Engines, LibraryConfig};
use agent::slot::Installed;
use proto::Generation;
use proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use proto::inference::model_infer_request::InferInputTensor;
use proto::inference::{ModelInferRequest, ServerMetadataRequest};
use tonic::transport::{Channel, Endpoint};

#[path = "../tests/it/model.rs"]
#[allow(dead_code, reason = "it is made for tests, which use all of it")]
mod model;

use model::Model;

/// The ways take turns, so many times, with so many requests a turn.
const ROUNDS: usize = 20;
const REQUESTS: usize = 200;

struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A device that has the model, as an update would have left it.
fn install(folder: &Path, model: &Model, library: &LibraryConfig) {
    let slot = folder.join("state/slots/a");
    fs::create_dir_all(&slot).unwrap();
    let installed = Installed {
        probation: Default::default(),
        generation: Generation(1),
        deployment: "bench".to_owned(),
        model: model.manifest.clone(),
    };
    fs::write(slot.join("manifest.json"), serde_json::to_vec(&installed).unwrap()).unwrap();
    fs::write(slot.join("model.onnx"), &model.bytes).unwrap();
    fs::write(folder.join("state/active"), "a").unwrap();
    let onnxruntime = match library {
        LibraryConfig::At(path) => path.to_str().unwrap(),
        LibraryConfig::Auto | LibraryConfig::Off => "off",
    };
    let text = format!(
        "device_id = 'gw-1'\ncoordinator = 'http://127.0.0.1:9'\nstate_dir = '{0}/state'\n\
         [engine]\nthreads = 1\nonnxruntime = '{onnxruntime}'\n[serve]\nlisten = '127.0.0.1:0'\nsocket = '{0}/sock'\n",
        folder.display()
    );
    fs::write(folder.join("agent.toml"), text).unwrap();
}

fn start(folder: &Path) -> Agent {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reconvene-agent"));
    command.args(["run", "--config"]).arg(folder.join("agent.toml")).stderr(Stdio::null());
    Agent(command.spawn().unwrap())
}

/// Lets the agent find out which engine is the fastest, as after an update; the next one finds that on the disk.
fn choose(folder: &Path) -> Choice {
    let _agent = start(folder);
    loop {
        if let Some(known) = Comparison::read(&folder.join("state/slots/a/comparison.json")).unwrap() {
            return known.best().unwrap().choice;
        }
        std::thread::yield_now();
    }
}

/// The argument `--onnxruntime FILE`; cargo gives arguments of its own.
fn library() -> LibraryConfig {
    let mut after = std::env::args().skip_while(|argument| argument != "--onnxruntime").skip(1);
    after.next().map_or(LibraryConfig::Off, |path| LibraryConfig::At(fs::canonicalize(path).unwrap()))
}

/// Proportional share of memory, kB.
fn pss(agent: &Agent) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", agent.0.id())).unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn request(model: &Model) -> ModelInferRequest {
    let raw: Vec<u8> = model.manifest.self_test.input.iter().flat_map(|n| n.to_le_bytes()).collect();
    let shape = model.manifest.input_shape.map(i64::from);
    ModelInferRequest {
        model_name: model.manifest.name.clone(),
        inputs: vec![InferInputTensor {
            name: "input".to_owned(),
            datatype: "FP32".to_owned(),
            shape: [&[1], &shape[..]].concat(),
            ..Default::default()
        }],
        raw_input_contents: vec![raw.into()],
        ..Default::default()
    }
}

fn batch_of(request: &ModelInferRequest, images: usize) -> ModelInferRequest {
    let mut batch = request.clone();
    batch.inputs[0].shape[0] = images as i64;
    batch.raw_input_contents[0] = request.raw_input_contents[0].repeat(images).into();
    batch
}

fn time_engine(engine: &Engine, image: &[f32], times: &mut Vec<Duration>) {
    engine.enter(|| {
        for _ in 0..REQUESTS {
            let started = Instant::now();
            engine.run(image).unwrap();
            times.push(started.elapsed());
        }
    });
}

async fn time_grpc(
    client: &mut GrpcInferenceServiceClient<Channel>,
    request: &ModelInferRequest,
    times: &mut Vec<Duration>,
) {
    for _ in 0..REQUESTS {
        let started = Instant::now();
        client.model_infer(request.clone()).await.unwrap();
        times.push(started.elapsed());
    }
}

/// Calls that run nothing, each after a pause, in which the machine forgets as much as while a model runs.
async fn time_nothing(
    client: &mut GrpcInferenceServiceClient<Channel>,
    pause: Duration,
    times: &mut Vec<Duration>,
) {
    for _ in 0..REQUESTS {
        let until = Instant::now() + pause;
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        let started = Instant::now();
        client.server_metadata(ServerMetadataRequest::default()).await.unwrap();
        times.push(started.elapsed());
    }
}

fn median_us(times: &mut [Duration]) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e6
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let (model, dir) = (Model::of_seed(1), tempfile::tempdir().unwrap());
    let library = library();
    install(dir.path(), &model, &library);
    let choice = choose(dir.path());
    let expected = if library == LibraryConfig::Off { EngineKind::Rten } else { EngineKind::Onnxruntime };
    assert_eq!(choice.engine, expected, "the other one is faster here");
    let started = Instant::now();
    let agent = start(dir.path());
    let (socket, address) = (dir.path().join("sock"), dir.path().join("state/serving-address"));
    let unix = format!("unix://{}", socket.display());
    let over_unix = loop {
        if let Ok(channel) = Endpoint::from_shared(unix.clone()).unwrap().connect().await {
            break channel;
        }
    };
    let mut over_unix = GrpcInferenceServiceClient::new(over_unix);
    let request = request(&model);
    over_unix.model_infer(request.clone()).await.unwrap();
    let first = started.elapsed();
    let port = fs::read_to_string(address).unwrap();
    let over_tcp = Endpoint::from_shared(format!("http://{port}")).unwrap().connect().await.unwrap();
    let mut over_tcp = GrpcInferenceServiceClient::new(over_tcp);

    let engine = Engines::new(Some(1), &library).load(model.bytes.clone(), choice).unwrap();
    let image = &model.manifest.self_test.input;
    let (mut direct, mut unix, mut tcp, mut nothing) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        if round == 1 {
            // The first warms up.
            (direct, unix, tcp, nothing) = Default::default();
        }
        time_engine(&engine, image, &mut direct);
        time_grpc(&mut over_unix, &request, &mut unix).await;
        time_grpc(&mut over_tcp, &request, &mut tcp).await;
        let pause = direct[direct.len() / 2];
        time_nothing(&mut over_unix, pause, &mut nothing).await;
    }
    let statistics = over_unix.model_statistics(proto::inference::ModelStatisticsRequest::default());
    let statistics = statistics.await.unwrap().into_inner().model_stats[0].inference_stats.unwrap();
    let (compute, queue) = (statistics.compute_infer.unwrap(), statistics.queue.unwrap());
    let direct_mean = direct.iter().sum::<Duration>().as_secs_f64() * 1e6 / direct.len() as f64;
    let direct = median_us(&mut direct);
    println!("one image, {REQUESTS} x {ROUNDS} requests, one at a time, medians:");
    println!("{:<37}{direct:8.1} us", format!("{choice}, called directly"));
    println!("{:<37}{:8.1} us", "gRPC on the socket, running nothing", median_us(&mut nothing));
    for (way, times) in [("gRPC on the Unix socket", &mut unix), ("gRPC on the port", &mut tcp)] {
        let median = median_us(times);
        println!("{way:<37}{median:8.1} us  {:+.1} us  {:.3}x", median - direct, median / direct);
    }
    let mean = |span: proto::inference::StatisticDuration| span.ns as f64 / 1e3 / span.count as f64;
    let in_agent = mean(compute);
    println!(
        "in the agent, means: engine {in_agent:.1} us ({:.3}x), queue {:.1} us",
        in_agent / direct_mean,
        mean(queue)
    );
    println!("{:<37}{:8.1} ms", "start to the first answer", first.as_secs_f64() * 1e3);
    println!(
        "{:<37}{:8} kB, of it {} kB of weights",
        "PSS while serving",
        pss(&agent),
        model.bytes.len() / 1000
    );

    let batch = batch_of(&request, 64);
    let mut beside = Vec::new();
    tokio::select! {
        () = time_grpc(&mut over_unix, &request, &mut beside) => {}
        () = async { loop { over_tcp.model_infer(batch.clone()).await.unwrap(); } } => {}
    }
    println!("{:<37}{:8.1} us", "on the socket, beside batches of 64", median_us(&mut beside));
}
