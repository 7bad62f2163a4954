//! What requests bring with them, and their answers: how much of it the agent holds at once, and how long it waits for it. Owns
//! the count of bytes, and the ends of bodies that are too long, too slow or too many; reads nothing of what they say.

use std::error::Error;
use std::future::Future as _;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::BoxError;
use axum::body::{Body, BodyDataStream, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep};
use tokio_stream::{Stream, StreamExt as _};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::Status;

use super::connections::{Connection, Ongoing, Receiving};
use super::inference::{Inference, Refusal};

/// For a body to arrive, from its request's head on. A stream of requests has no such limit.
const PATIENCE: Duration = Duration::from_secs(30);

/// All bodies that are held may take this, or that many of the longest, whichever is more.
const ROOM: usize = 16 << 20;
const LONGEST: usize = 4;

/// Beside its bytes a request takes about this, and what its head says: the buffers of its stream and of its decoder, which are
/// there for half a body, too.
const REQUEST: usize = 16 << 10;

/// A client may let the agent wait for so long with what it holds; then it makes room for others, if they need it.
const GRACE: Duration = Duration::from_secs(1);

/// Of a body that is refused, what is read over and let go, so that its client reads the refusal instead of a reset.
const READ_OVER: usize = 64 << 20;

/// The call whose requests have no end.
const STREAM: &str = "/ModelStreamInfer";

/// The bytes of all bodies that are held; clones share them.
#[derive(Clone)]
pub(super) struct Intake {
    held: Arc<AtomicUsize>,
    /// Whose they are; of some that have ended, too.
    shares: Arc<Mutex<Vec<Weak<Share>>>>,
    inference: Inference,
}

impl Intake {
    /// Nothing is held yet.
    pub(super) fn new(inference: Inference) -> Self {
        Self { held: Arc::default(), shares: Arc::default(), inference }
    }

    /// Of a request that has brought nothing yet. None leads to a connection in a router that has none.
    fn share(&self, most: usize, ongoing: Option<&Ongoing>) -> Arc<Share> {
        let share = Arc::new(Share {
            intake: self.clone(),
            bytes: AtomicUsize::new(0),
            body: AtomicUsize::new(0),
            most,
            waited_since: Mutex::new(None),
            connection: ongoing.map(Ongoing::connection),
        });
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if shares.len() == shares.capacity() {
            shares.retain(|share| share.strong_count() > 0);
        }
        shares.push(Arc::downgrade(&share));
        share
    }

    /// Cuts the connection whose client has been waited for longest. Whether there was one: its bytes count no more, and leave
    /// as soon as it is dropped.
    fn make_room(&self) -> bool {
        let shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        let waited_for = shares.iter().filter_map(Weak::upgrade).filter_map(|share| {
            let since = share.waited_since().filter(|since| since.elapsed() >= GRACE)?;
            Some((since, share)).filter(|(_, share)| share.bytes.load(Ordering::Relaxed) > 0)
        });
        let Some((_, longest)) = waited_for.min_by_key(|(since, _)| *since) else { return false };
        self.held.fetch_sub(longest.bytes.swap(0, Ordering::Relaxed), Ordering::Relaxed);
        if let Some(connection) = &longest.connection {
            connection.cut();
        }
        tracing::debug!("the client that was waited for longest makes room for another's request");
        true
    }
}

/// Why a body was not read to its end: what REST says, and what gRPC finds.
#[derive(Debug, thiserror::Error)]
#[error("{refusal}")]
struct Cut {
    refusal: Refusal,
    #[source]
    status: Status,
}

impl From<Refusal> for Cut {
    fn from(refusal: Refusal) -> Self {
        Self { status: refusal.clone().into(), refusal }
    }
}

/// Counts what a request's body brings, and its answer, until that was read: over HTTP/2 a client may ask much and read nothing.
pub(super) async fn meter(State(intake): State<Intake>, request: Request, next: Next) -> Response {
    let ongoing = request.extensions().get::<Arc<Ongoing>>().cloned();
    let head: usize = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if request.body().is_end_stream() {
        let share = intake.share(0, ongoing.as_deref());
        if let Err(refusal) = share.grow(REQUEST + head) {
            return refusal.into_response();
        }
        return share.until_read(next.run(request).await);
    }
    let most = intake.inference.longest();
    let path = request.uri().path();
    let is_stream = path.ends_with(STREAM);
    let is_grpc = is_stream || path.starts_with("/inference.");
    let declared = request.body().size_hint().lower();
    if !is_grpc && declared > (most + READ_OVER) as u64 {
        return too_long(most).into_response();
    }
    let share = intake.share(most, ongoing.as_deref());
    if let Err(refusal) = share.grow(REQUEST + head) {
        let cut = Cut::from(refusal);
        return if is_grpc { cut.status.into_http() } else { cut.refusal.into_response() };
    }
    let (head, body) = request.into_parts();
    let body = Metered {
        body: body.into_data_stream(),
        allowed: (!is_grpc).then_some(most),
        cut: None,
        read_over: if is_stream { 0 } else { READ_OVER },
        receiving: None,
        patience: (!is_stream).then(|| Box::pin(tokio::time::sleep(PATIENCE))),
        stop: Box::pin(intake.inference.stop.clone().cancelled_owned()),
        ongoing,
        share: share.clone(),
    };
    let response = next.run(Request::from_parts(head, Body::from_stream(body))).await;
    // Until here its numbers took the place of its bytes; of these, what the answer repeats.
    share.until_read(response)
}

/// The whole of a body, in one piece, which goes back to the system as one.
pub(super) async fn read(body: Body) -> Result<Vec<u8>, Refusal> {
    let mut bytes = Vec::new();
    let mut parts = body.into_data_stream();
    while let Some(part) = parts.next().await {
        bytes.extend_from_slice(&part.map_err(|error| why(&error))?);
    }
    Ok(bytes)
}

fn why(error: &(dyn Error + 'static)) -> Refusal {
    let mut causes = std::iter::successors(Some(error), |&error| error.source());
    let cut = causes.find_map(|error| error.downcast_ref::<Cut>());
    cut.map_or_else(|| Refusal::Invalid("the body ended early".to_owned()), |cut| cut.refusal.clone())
}

fn too_long(most: usize) -> Refusal {
    Refusal::TooLong(format!("a request to what serves here has at most {most} bytes"))
}

/// What one request has of all that is held.
struct Share {
    intake: Intake,
    /// What is counted of it, all in all.
    bytes: AtomicUsize,
    /// Of its body.
    body: AtomicUsize,
    most: usize,
    /// Since when it has been the client's turn, if it is: to send, or to read.
    waited_since: Mutex<Option<Instant>>,
    connection: Option<Connection>,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.intake.held.fetch_sub(*self.bytes.get_mut(), Ordering::Relaxed);
    }
}

impl Share {
    /// Holds what the request has, and counts its answer, until the connection has taken the answer.
    fn until_read(self: Arc<Self>, response: Response) -> Response {
        let bytes = response.body().size_hint().exact().and_then(|bytes| usize::try_from(bytes).ok());
        self.wait(true);
        match self.grow(bytes.unwrap_or(0)) {
            Ok(()) => response.map(|body| Body::new(Answer { body, _share: self })),
            Err(refusal) => refusal.into_response(),
        }
    }

    /// Counts a body's bytes, up to the longest request's: of a stream no more is held at once.
    fn take(&self, bytes: usize) -> Result<(), Refusal> {
        let left = self.most.saturating_sub(self.body.load(Ordering::Relaxed));
        self.grow(bytes.min(left))?;
        self.body.fetch_add(bytes.min(left), Ordering::Relaxed);
        Ok(())
    }

    fn grow(&self, bytes: usize) -> Result<(), Refusal> {
        let room = ROOM.max(LONGEST * self.most);
        let fits = |held: usize| Some(held + bytes).filter(|&held| held <= room);
        while self.intake.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_err() {
            if !self.intake.make_room() {
                return Err(Refusal::Full(format!(
                    "the device is busy: it holds {room} bytes of requests and answers already"
                )));
            }
        }
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Whose turn it is: a wait that goes on keeps its beginning.
    fn wait(&self, for_client: bool) {
        let mut since = self.waited_since.lock().unwrap_or_else(PoisonError::into_inner);
        *since = for_client.then(|| since.unwrap_or_else(Instant::now));
    }

    fn waited_since(&self) -> Option<Instant> {
        *self.waited_since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An answer that counts until the connection has it.
struct Answer {
    body: Body,
    _share: Arc<Share>,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A body that is counted while it is read.
struct Metered {
    body: BodyDataStream,
    /// What REST may still send; gRPC counts messages by itself.
    allowed: Option<usize>,
    /// Why the rest is read over, and how much that may be.
    cut: Option<Refusal>,
    read_over: usize,
    receiving: Option<Receiving>,
    patience: Option<Pin<Box<Sleep>>>,
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
    /// A stream of requests goes on after its answer has begun.
    ongoing: Option<Arc<Ongoing>>,
    share: Arc<Share>,
}

impl Stream for Metered {
    type Item = Result<Bytes, BoxError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            let Poll::Ready(part) = Pin::new(&mut this.body).poll_next(context) else {
                return this.wait(context).map(|refusal| Some(Err(Cut::from(refusal).into())));
            };
            this.receiving = None;
            this.share.wait(false);
            match (part, this.cut.take()) {
                (Some(Ok(bytes)), None) => match this.count(bytes.len()) {
                    Ok(()) => return Poll::Ready(Some(Ok(bytes))),
                    Err(refusal) => this.cut = Some(refusal),
                },
                (Some(Ok(bytes)), Some(refusal)) if bytes.len() <= this.read_over => {
                    this.read_over -= bytes.len();
                    this.cut = Some(refusal);
                }
                (_, Some(refusal)) => return Poll::Ready(Some(Err(Cut::from(refusal).into()))),
                (part, None) => return Poll::Ready(part.map(|part| part.map_err(BoxError::from))),
            }
            if this.read_over == 0
                && let Some(refusal) = this.cut.take()
            {
                return Poll::Ready(Some(Err(Cut::from(refusal).into())));
            }
        }
    }
}

impl Metered {
    fn count(&mut self, bytes: usize) -> Result<(), Refusal> {
        if let Some(allowed) = &mut self.allowed {
            *allowed = allowed.checked_sub(bytes).ok_or_else(|| too_long(self.share.most))?;
        }
        self.share.take(bytes)
    }

    /// Why no more is waited for.
    fn wait(&mut self, context: &mut Context<'_>) -> Poll<Refusal> {
        let ongoing = self.ongoing.as_deref();
        self.receiving = self.receiving.take().or_else(|| ongoing.map(Ongoing::receiving));
        self.share.wait(true);
        if self.stop.as_mut().poll(context).is_ready() {
            return Poll::Ready(Refusal::Unavailable("the agent is stopping".to_owned()));
        }
        let Some(patience) = &mut self.patience else { return Poll::Pending };
        ready!(patience.as_mut().poll(context));
        let refusal = || Refusal::Slow(format!("the body took more than {} s to arrive", PATIENCE.as_secs()));
        Poll::Ready(self.cut.take().unwrap_or_else(refusal))
    }
}

#[cfg(test)]
mod tests;
