//! Clients that are too many, too slow or send too much: the others are answered, and a stop is not held up.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use proto::inference::ModelInferRequest;
use proto::inference::ServerLiveRequest;
use proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tonic::Code;
use tonic::transport::Endpoint;

use crate::device::{Device, call};
use crate::model::Model;
use crate::poll::within;
use crate::protocol::{request, serving};

/// No coordinator: nothing serves.
async fn alone(state: &std::path::Path) -> Device {
    Device::start(state.to_owned(), "127.0.0.1:9".parse().unwrap()).await
}

/// A connection on which `bytes` were sent.
async fn sent(api: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(api).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream
}

fn head(length: usize) -> Vec<u8> {
    format!(
        "POST /v2/models/fashion/infer HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
    )
    .into_bytes()
}

/// All that comes until the connection is closed.
async fn answer(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    String::from_utf8(bytes).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_sent_requests_keep_nobody_out_and_hold_up_no_stop() {
    let dir = tempfile::tempdir().unwrap();
    let device = alone(dir.path()).await;
    let mut slow = Vec::new();
    for number in 0..300 {
        let half: &[u8] = match number % 3 {
            0 => b"",
            1 => b"POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\n",
            _ => &[head(100), b"{".to_vec()].concat(),
        };
        slow.push(sent(device.api, half).await);
    }
    let (status, _) = device.get("/v2/health/live").await;
    assert_eq!(status, 200);
    let channel = Endpoint::from_shared(format!("http://{}", device.api)).unwrap().connect().await.unwrap();
    let live = GrpcInferenceServiceClient::new(channel.clone()).server_live(ServerLiveRequest {}).await;
    assert!(live.unwrap().into_inner().live);
    // Those that were there first made room for the others.
    let mut first = slow.swap_remove(0);
    assert!(matches!(first.read(&mut [0]).await, Ok(0) | Err(_)));
    let begun = Instant::now();
    device.stop().await;
    // The grace period is 10 s.
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_too_long_is_refused_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let device = alone(dir.path()).await;
    // All is read, so that the client sees the answer; nothing is kept of it.
    let (status, body) =
        call(device.api, "/v2/models/m/infer".to_owned(), Some(json!(vec![0; 4 << 20]))).await;
    assert_eq!(status, 413, "{body}");
    assert!(body["error"].as_str().unwrap().contains("at most 65536 bytes"), "{body}");
    let endless = sent(device.api, &head(1 << 40)).await;
    let said = answer(endless).await;
    assert!(said.starts_with("HTTP/1.1 413") && said.contains("65536"), "{said}");
    let channel = Endpoint::from_shared(format!("http://{}", device.api)).unwrap().connect().await.unwrap();
    let long = ModelInferRequest { raw_input_contents: vec![vec![0; 65 << 10].into()], ..Default::default() };
    let status = GrpcInferenceServiceClient::new(channel).model_infer(long).await.unwrap_err();
    assert_eq!((status.code(), status.message().contains("65536")), (Code::OutOfRange, true), "{status:?}");
    device.stop().await;
}

/// Whether the other side has closed it, and said nothing: one that is given up for its slowness is told so.
fn is_closed(stream: &TcpStream) -> bool {
    match stream.try_read(&mut [0]) {
        Ok(said) => said == 0,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_share_one_room() {
    let (model, dir) = (Model::of_seed(1), tempfile::tempdir().unwrap());
    let (device, _fake) = serving(&model, dir.path()).await;
    // Ten of these leave 0.8 MB of 16 MiB; each waits for its last byte.
    let whole = [head(1_600_000), vec![b' '; 1_600_000]].concat();
    let filled = async || {
        let mut waiting = Vec::new();
        for _ in 0..10 {
            waiting.push(sent(device.api, &whole[..whole.len() - 1]).await);
        }
        waiting
    };
    // One more may be read before the last of them, or a second after the first, and have its room: then all begin anew.
    let (waiting, refusal) = within("there is no room", async || {
        let waiting = filled().await;
        let said = answer(sent(device.api, &whole).await).await;
        said.starts_with("HTTP/1.1 503").then_some((waiting, said))
    })
    .await;
    assert!(refusal.contains("holds 16777216 bytes of requests and answers"), "{refusal}");
    // Whoever lets wait for longest, which is one of those that were first, makes room before long and loses its connection.
    within("there is room for another", async || {
        let said = answer(sent(device.api, &whole).await).await;
        said.starts_with("HTTP/1.1 400").then_some(())
    })
    .await;
    within("one has lost its connection", async || waiting.iter().any(is_closed).then_some(())).await;
    drop(waiting);
    let channel = Endpoint::from_shared(format!("http://{}", device.api)).unwrap().connect().await.unwrap();
    let client = GrpcInferenceServiceClient::new(channel);
    let mut waiting = within("there is no room for gRPC", async || {
        let waiting = filled().await;
        let long =
            ModelInferRequest { raw_input_contents: vec![vec![0; 1_600_000].into()], ..Default::default() };
        let status = client.clone().model_infer(long).await.unwrap_err();
        (status.code() == Code::ResourceExhausted).then_some(waiting)
    })
    .await;
    // What fits is served all the while.
    let tensor =
        json!({ "name": "input", "shape": [1, 1, 28, 28], "datatype": "FP32", "data": vec![0; 784] });
    let (status, body) = device.post("/v2/models/fashion/infer", json!({ "inputs": [tensor] })).await;
    assert_eq!(status, 200, "{body}");
    waiting[0].write_all(b" ").await.unwrap();
    assert!(answer(waiting.remove(0)).await.starts_with("HTTP/1.1 400"));
    // It is given back when the last one has been answered, and when a client goes.
    drop(waiting);
    within("there is room again", async || {
        let said = answer(sent(device.api, &whole).await).await;
        said.starts_with("HTTP/1.1 400").then_some(())
    })
    .await;
    device.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_says_nothing_that_matters_is_read_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let device = alone(dir.path()).await;
    let head = b"POST /v2/repository/index HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n";
    let mut stream = sent(device.api, head).await;
    // It would be answered by now, were the body of no account.
    let early = tokio::time::timeout(Duration::from_millis(200), stream.read_u8()).await;
    assert!(early.is_err(), "{early:?}");
    stream.write_all(b"{}").await.unwrap();
    stream.write_all(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let said = answer(stream).await;
    assert_eq!(said.matches("HTTP/1.1 200").count(), 2, "{said}");
    device.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_will_ask_no_more_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let device = alone(dir.path()).await;
    let mut stream =
        sent(device.api, b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    stream.shutdown().await.unwrap();
    assert!(answer(stream).await.starts_with("HTTP/1.1 200"));
    device.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_nobody_reads_count_until_others_need_their_room() {
    let (model, dir) = (Model::of_seed(1), tempfile::tempdir().unwrap());
    let (device, _fake) = serving(&model, dir.path()).await;
    let channel = Endpoint::from_shared(format!("http://{}", device.api)).unwrap();
    // It has no room for any answer, which repeats what the request was called.
    let channel = channel.initial_stream_window_size(0).connect().await.unwrap();
    let image = vec![vec![0; 4 * 784].into()];
    let asked = ModelInferRequest { id: "x".repeat(1_000_000), raw_input_contents: image, ..request(&model) };
    let whole = [head(1_600_000), vec![b' '; 1_600_000]].concat();
    let mut asking = JoinSet::new();
    within("the connection is cut", async || {
        let (mut client, asked) = (GrpcInferenceServiceClient::new(channel.clone()), asked.clone());
        asking.spawn(async move { client.model_infer(asked).await });
        answer(sent(device.api, &whole).await).await;
        let status = asking.try_join_next()?.unwrap().unwrap_err();
        (status.code() != Code::ResourceExhausted).then_some(())
    })
    .await;
    assert!(answer(sent(device.api, &whole).await).await.starts_with("HTTP/1.1 400"));
    device.stop().await;
}
