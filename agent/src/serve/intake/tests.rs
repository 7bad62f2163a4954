//! Which bodies are waited for, and for how long.

use axum::Router;
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use axum::routing::post;
use tokio::time::advance;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::*;
use crate::runner::Runner;

const CALL: &str = "/inference.GRPCInferenceService/ModelStreamInfer";

fn router(stop: &CancellationToken) -> Router {
    let runner = Runner::start(&TaskTracker::new());
    let intake = Intake::new(Inference { runner, stop: stop.clone() });
    let read = async |body: Body| read(body).await.map(|body| body.len().to_string());
    let long = async || vec![b'x'; ROOM / 2 - REQUEST];
    let router = Router::new().route("/", post(read)).route(CALL, post(read)).route("/long", post(long));
    router.layer(from_fn_with_state(intake, meter))
}

/// A request whose body has begun and does not end.
fn begun(path: &str) -> Request {
    let body = tokio_stream::once(Ok::<_, std::io::Error>("begun")).chain(tokio_stream::pending());
    Request::post(path).body(Body::from_stream(body)).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_end_is_given_up() {
    let stop = CancellationToken::new();
    let mut asked = std::pin::pin!(router(&stop).oneshot(begun("/")));
    for elapsed in [Duration::ZERO, PATIENCE - Duration::from_secs(1)] {
        advance(elapsed).await;
        assert!(poll_once(asked.as_mut()).await.is_none(), "{elapsed:?}");
    }
    advance(Duration::from_secs(2)).await;
    let answer = poll_once(asked).await.unwrap().unwrap();
    assert_eq!(answer.status(), StatusCode::REQUEST_TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_requests_may_last_until_the_stop() {
    let stop = CancellationToken::new();
    let mut asked = std::pin::pin!(router(&stop).oneshot(begun(CALL)));
    for _ in 0..3 {
        assert!(poll_once(asked.as_mut()).await.is_none());
        advance(PATIENCE).await;
    }
    stop.cancel();
    let answer = poll_once(asked).await.unwrap().unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
}

/// An answer that takes half of the room.
async fn long(router: &Router) -> Response {
    router.clone().oneshot(Request::post("/long").body(Body::empty()).unwrap()).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_answer_counts_until_it_is_read_or_let_go() {
    let router = router(&CancellationToken::new());
    let asked = || long(&router);
    let unread = [asked().await, asked().await];
    assert_eq!(unread.each_ref().map(Response::status), [StatusCode::OK; 2]);
    assert_eq!(asked().await.status(), StatusCode::SERVICE_UNAVAILABLE);
    let [first, second] = unread;
    assert_eq!(read(first.into_body()).await.unwrap().len(), ROOM / 2 - REQUEST);
    let third = asked().await;
    assert_eq!((third.status(), asked().await.status()), (StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE));
    drop(second);
    assert_eq!(asked().await.status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn who_lets_wait_longest_makes_room_for_others() {
    let router = router(&CancellationToken::new());
    let first = long(&router).await;
    advance(GRACE / 2).await;
    // A body that was begun holds some of the rest.
    let mut begun = std::pin::pin!(router.clone().oneshot(begun("/")));
    assert!(poll_once(begun.as_mut()).await.is_none());
    assert_eq!(long(&router).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    advance(GRACE / 2).await;
    let second = long(&router).await;
    assert_eq!((first.status(), second.status()), (StatusCode::OK, StatusCode::OK));
    // By now the body that was begun has, and its few bytes are what was lacking.
    advance(GRACE / 2).await;
    let third = long(&router).await;
    assert_eq!(third.status(), StatusCode::OK);
    assert_eq!(long(&router).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    // What has made room already gives none back.
    drop(first);
    assert_eq!(long(&router).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    drop(second);
    assert_eq!(long(&router).await.status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_request_counts_for_more_than_its_bytes() {
    let router = router(&CancellationToken::new());
    let mut asked: Vec<_> =
        (0..ROOM / REQUEST).map(|_| Box::pin(router.clone().oneshot(begun("/")))).collect();
    for request in &mut asked {
        poll_once(request.as_mut()).await;
    }
    assert_eq!(long(&router).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    advance(GRACE).await;
    assert_eq!(long(&router).await.status(), StatusCode::OK);
}

/// What is there at once.
async fn poll_once<T>(future: Pin<&mut impl Future<Output = T>>) -> Option<T> {
    tokio::select! {
        biased;
        output = future => Some(output),
        () = std::future::ready(()) => None,
    }
}
