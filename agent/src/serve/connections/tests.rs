//! Who is closed when, on a clock that stands still until everybody waits.

use axum::Extension;
use axum::body::Body;
use axum::routing::{get, post};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio_stream::{StreamExt as _, pending};

use super::*;

fn router() -> Router {
    let slow = async || sleep(4 * PATIENCE).await;
    let body = async |Extension(ongoing): Extension<Arc<Ongoing>>| {
        let _rest = ongoing.receiving();
        sleep(4 * PATIENCE).await;
    };
    // Its answer begins at once.
    let stream = async |Extension(ongoing): Extension<Arc<Ongoing>>| {
        let rest = ongoing.receiving();
        let messages = pending::<&[u8]>().timeout(4 * PATIENCE);
        Body::from_stream(messages.map(move |message| {
            let _held = (&ongoing, &rest);
            message
        }))
    };
    let quick = Router::new().route("/", get(async || "here")).route("/slow", post(slow));
    quick.route("/body", post(body)).route("/stream", post(stream))
}

fn connect(connections: &Connections) -> DuplexStream {
    let (own, theirs) = tokio::io::duplex(4096);
    connections.take(theirs, &router());
    own
}

/// What comes until the connection is closed, and how long that takes.
async fn rest(mut stream: DuplexStream) -> (String, Duration) {
    let (begun, mut bytes) = (Instant::now(), Vec::new());
    stream.read_to_end(&mut bytes).await.unwrap();
    (String::from_utf8_lossy(&bytes).into_owned(), begun.elapsed())
}

#[test]
fn half_of_the_descriptors_are_left() {
    let cases = [(None, 256), (Some(1 << 20), 256), (Some(256), 128), (Some(1), 1)];
    for (descriptors, connections) in cases {
        assert_eq!(most(descriptors), connections, "{descriptors:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_sends_no_request_is_closed() {
    let connections = Connections::with_most(9, CancellationToken::new());
    for sent in ["", "GE", "GET / HTTP/1.1\r\nHost: x\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut client = connect(&connections);
        client.write_all(sent.as_bytes()).await.unwrap();
        let (_, elapsed) = rest(client).await;
        assert!((PATIENCE..PATIENCE + 2 * LINGER).contains(&elapsed), "{sent:?}: {elapsed:?}");
    }
    let mut client = connect(&connections);
    sleep(PATIENCE / 2).await;
    client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let (said, elapsed) = rest(client).await;
    assert!(said.ends_with("here"), "{said}");
    assert!((PATIENCE..PATIENCE + 2 * LINGER).contains(&elapsed), "from its request on: {elapsed:?}");
    assert!(connections.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_answer_may_take_its_time() {
    let stop = CancellationToken::new();
    let connections = Connections::with_most(1, stop.clone());
    let mut client = connect(&connections);
    client.write_all(b"POST /slow HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    sleep(PATIENCE).await;
    // Nobody else gets its place, and it is answered though all is to end.
    assert_eq!(rest(connect(&connections)).await.1, Duration::ZERO);
    stop.cancel();
    let (said, elapsed) = rest(client).await;
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
    assert_eq!(elapsed, 3 * PATIENCE);
}

#[tokio::test(start_paused = true)]
async fn the_client_that_was_silent_longest_makes_room() {
    let connections = Connections::with_most(2, CancellationToken::new());
    let (mut first, mut second) = (connect(&connections), connect(&connections));
    second.write_all(b"GET / HT").await.unwrap();
    sleep(PATIENCE / 4).await;
    first.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = [0; 12];
    first.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    let third = connect(&connections);
    assert_eq!(rest(second).await.1, Duration::ZERO);
    assert_eq!(connections.lock().len(), 2);
    // The others have their time.
    assert!(rest(third).await.1 >= PATIENCE);
    assert!(rest(first).await.0.ends_with("here"));
}

#[tokio::test(start_paused = true)]
async fn who_has_never_had_an_answer_goes_before_a_client_that_has() {
    let connections = Connections::with_most(3, CancellationToken::new());
    let mut client = connect(&connections);
    client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    sleep(PATIENCE / 8).await;
    let mut halves = Vec::new();
    for half in ["GET / HT", "POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf"] {
        let mut other = connect(&connections);
        other.write_all(half.as_bytes()).await.unwrap();
        sleep(PATIENCE / 8).await;
        halves.push(other);
    }
    let mut others = Vec::new();
    for half in halves {
        others.push(connect(&connections));
        assert_eq!(rest(half).await.1, Duration::ZERO);
    }
    let (said, elapsed) = rest(client).await;
    assert!(said.ends_with("here"), "{said}");
    assert!(elapsed >= PATIENCE / 2, "it is closed for its silence alone: {elapsed:?}");
}

#[tokio::test(start_paused = true)]
async fn those_that_have_just_come_do_not_close_each_other() {
    let connections = Connections::with_most(3, CancellationToken::new());
    let mut clients = Vec::new();
    for wait in [IDLE, IDLE, FIRST_ANSWER] {
        let mut client = connect(&connections);
        client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        clients.push(client);
        sleep(wait).await;
    }
    let newcomers = [connect(&connections), connect(&connections), connect(&connections)];
    let busy = clients.pop().unwrap();
    for idle in clients {
        assert_eq!(rest(idle).await.1, Duration::ZERO);
    }
    // Nor does one of them close a client that asked a moment ago.
    let [first, second, third] = newcomers;
    assert_eq!(rest(first).await.1, Duration::ZERO);
    assert!(rest(busy).await.1 >= PATIENCE - 2 * FIRST_ANSWER);
    drop((second, third));
}

#[tokio::test(start_paused = true)]
async fn a_stream_between_two_messages_is_let_go_of_last() {
    let connections = Connections::with_most(2, CancellationToken::new());
    let mut stream = connect(&connections);
    stream.write_all(b"POST /stream HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    sleep(PATIENCE / 2).await;
    let silent = connect(&connections);
    sleep(PATIENCE / 4).await;
    let another = connect(&connections);
    assert_eq!(rest(silent).await.1, Duration::ZERO);
    drop(another);
    assert!(rest(stream).await.0.starts_with("HTTP/1.1 200"));
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_no_client() {
    let stop = CancellationToken::new();
    let connections = Connections::with_most(9, stop.clone());
    let clients = ["", "GET / HTTP/1.1\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
        .map(|sent| (connect(&connections), sent));
    let mut open = Vec::new();
    for (mut client, sent) in clients {
        client.write_all(sent.as_bytes()).await.unwrap();
        open.push(client);
    }
    sleep(LINGER).await;
    stop.cancel();
    let begun = Instant::now();
    connections.ended().await;
    assert!(begun.elapsed() <= LINGER, "{:?}", begun.elapsed());
}
