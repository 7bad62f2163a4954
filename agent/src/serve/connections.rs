//! The connections of the local API: how many there may be, how long one may be silent, and how they end. Owns the limits on
//! sockets, so that the agent has descriptors left for its own work; knows nothing of the protocol.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::http::Request;
use axum::serve::Listener;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use rustix::process::{Resource, getrlimit};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tower::{ServiceExt as _, service_fn};

/// Connections at most, where the process may have as many descriptors as it likes.
const MOST: usize = 256;

/// A connection without a request for so long is closed: its client may have sent nothing, or half a head.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// A client that is served has had an answer by then.
const FIRST_ANSWER: Duration = Duration::from_secs(1);

/// A client that asks nothing for so long is not busy.
const IDLE: Duration = Duration::from_secs(10);

/// For the last answer to leave, and for the client to read that there will be no more.
const LINGER: Duration = Duration::from_millis(500);

/// What one connection's head, and what is read ahead of its bodies, may take.
const BUFFER: usize = 64 << 10;

/// What an HTTP/2 client may send of a body before it is read.
const WINDOW: u32 = 256 << 10;

/// Calls at once on one HTTP/2 connection; more wait in the client.
const STREAMS: u32 = 64;

/// The head of one call over HTTP/2, as gRPC's own libraries bound it.
const HEAD: u32 = 8 << 10;

/// Every connection of the API; clones share them.
#[derive(Clone)]
pub(super) struct Connections {
    open: Arc<Mutex<Vec<Arc<Activity>>>>,
    most: usize,
    started: Instant,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// What one connection does.
struct Activity {
    /// Without an answer yet.
    requests: TaskTracker,
    /// Of them, those whose client has not sent all.
    receiving: AtomicUsize,
    /// Whether one has been answered: whoever only sends halves of requests has none.
    has_answered: AtomicBool,
    started: Instant,
    /// When its last request ended, in milliseconds since the start.
    quiet_since: AtomicU64,
    /// Its place is needed.
    evicted: CancellationToken,
}

/// A request that has no answer yet; each has it among its extensions.
pub(super) struct Ongoing {
    activity: Arc<Activity>,
    /// Let go of last.
    _token: TaskTrackerToken,
}

impl Activity {
    fn new(started: Instant) -> Self {
        let activity = Self {
            requests: TaskTracker::new(),
            receiving: AtomicUsize::new(0),
            has_answered: AtomicBool::new(false),
            started,
            quiet_since: AtomicU64::new(0),
            evicted: CancellationToken::new(),
        };
        activity.note_time();
        activity
    }

    /// Counts a request until what is returned is dropped.
    fn begin(self: &Arc<Self>) -> Ongoing {
        Ongoing { activity: self.clone(), _token: self.requests.token() }
    }

    fn note_time(&self) {
        let elapsed = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.quiet_since.store(elapsed, Ordering::Relaxed);
    }

    fn quiet_since(&self) -> Instant {
        self.started + Duration::from_millis(self.quiet_since.load(Ordering::Relaxed))
    }

    /// Who is let go of first: those that have not had an answer for a while, then those that have asked nothing for long, those
    /// that have just come, those that asked a moment ago, the others last; among equals whoever has been quiet for longest.
    fn worth(&self) -> (u8, Instant) {
        let (since, quiet) = (self.quiet_since(), self.quiet_since().elapsed());
        let rank = match (self.has_answered.load(Ordering::Relaxed), self.requests.is_empty()) {
            (false, _) if quiet >= FIRST_ANSWER => 0,
            (true, true) if quiet >= IDLE => 1,
            (false, _) => 2,
            (true, true) => 3,
            (true, false) => 4,
        };
        (rank, since)
    }

    /// Whether it is the client's turn in all that goes on.
    fn waits_for_client(&self) -> bool {
        self.requests.len() <= self.receiving.load(Ordering::Relaxed)
    }

    /// Waits until there has been no request for [`PATIENCE`].
    async fn silence(&self) {
        loop {
            let now = Instant::now();
            let since = if self.requests.is_empty() { self.quiet_since() } else { now };
            if since + PATIENCE <= now {
                return;
            }
            sleep_until(since + PATIENCE).await;
        }
    }
}

impl Ongoing {
    /// The connection that it came over.
    pub(super) fn connection(&self) -> Connection {
        Connection(self.activity.clone())
    }

    /// The rest of its body is waited for, until what is returned is dropped.
    pub(super) fn receiving(&self) -> Receiving {
        self.activity.receiving.fetch_add(1, Ordering::Relaxed);
        Receiving(self.activity.clone())
    }
}

/// One connection, for those who hold what it brought.
pub(super) struct Connection(Arc<Activity>);

impl Connection {
    /// Ends it, whatever is going on.
    pub(super) fn cut(&self) {
        self.0.evicted.cancel();
    }
}

/// A wait for a client.
pub(super) struct Receiving(Arc<Activity>);

impl Drop for Receiving {
    fn drop(&mut self) {
        self.0.receiving.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Ongoing {
    fn drop(&mut self) {
        self.activity.note_time();
    }
}

/// A connection's place among the others, until it is dropped.
struct Place {
    connections: Connections,
    activity: Arc<Activity>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.lock().retain(|other| !Arc::ptr_eq(other, &self.activity));
    }
}

impl Connections {
    /// None yet; all end soon after `stop`.
    pub(super) fn new(stop: CancellationToken) -> Self {
        Self::with_most(most(getrlimit(Resource::Nofile).current), stop)
    }

    fn with_most(most: usize, stop: CancellationToken) -> Self {
        let open = Arc::default();
        Self { open, most, started: Instant::now(), stop, tasks: TaskTracker::new() }
    }

    /// Serves whoever connects, until the stop.
    pub(super) async fn accept(self, mut listener: impl Listener, router: Router) {
        loop {
            let io = tokio::select! {
                (io, _) = listener.accept() => io,
                () = self.stop.cancelled() => return,
            };
            self.take(io, &router);
        }
    }

    /// Waits until the last connection has ended.
    pub(super) async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Serves one connection, if there is a place for it.
    fn take(&self, io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, router: &Router) {
        match self.place() {
            Some(place) => drop(self.tasks.spawn(converse(io, router.clone(), place))),
            None => {
                tracing::debug!(most = self.most, "a connection is refused: all others are being answered")
            }
        }
    }

    /// Where there is none left, one that waits for its client makes room, as [`Activity::worth`] orders them; last of all one
    /// with a request that the client has yet to go on with, as a stream between two messages.
    fn place(&self) -> Option<Place> {
        let mut open = self.lock();
        if open.len() >= self.most {
            let waited_for = open.iter().enumerate().filter(|(_, activity)| activity.waits_for_client());
            let (least, _) = waited_for.min_by_key(|(_, activity)| activity.worth())?;
            open.swap_remove(least).evicted.cancel();
            tracing::debug!(
                most = self.most,
                "a connection that waits for its client makes room for another"
            );
        }
        let activity = Arc::new(Activity::new(self.started));
        open.push(activity.clone());
        Some(Place { connections: self.clone(), activity })
    }

    /// A list stays sound when a holder panics.
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Activity>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// At most half of the descriptors that the process may have.
fn most(descriptors: Option<u64>) -> usize {
    let half = descriptors.and_then(|most| usize::try_from(most / 2).ok());
    half.map_or(MOST, |half| half.clamp(1, MOST))
}

/// HTTP/1 and HTTP/2, whichever the client begins with.
async fn converse(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, router: Router, place: Place) {
    let Place { activity, connections } = &place;
    let mut http = Builder::new(TokioExecutor::new());
    // Who has asked may say that he will ask no more.
    http.http1().max_buf_size(BUFFER).half_close(true);
    http.http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PATIENCE)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(2 * WINDOW)
        .max_header_list_size(HEAD)
        .max_concurrent_streams(STREAMS);
    let own = activity.clone();
    let counted = service_fn(move |mut request: Request<_>| {
        let ongoing = Arc::new(own.begin());
        request.extensions_mut().insert(ongoing.clone());
        let (own, answer) = (own.clone(), router.clone().oneshot(request));
        async move {
            let answer = answer.await;
            own.has_answered.store(true, Ordering::Relaxed);
            drop(ongoing);
            answer
        }
    });
    let connection = http.serve_connection(TokioIo::new(io), TowerToHyperService::new(counted));
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        () = activity.evicted.cancelled() => return,
        () = activity.silence() => {}
        () = connections.stop.cancelled() => {}
    }
    connection.as_mut().graceful_shutdown();
    activity.requests.close();
    let answered = async {
        activity.requests.wait().await;
        sleep(LINGER).await;
    };
    tokio::select! {
        _ = connection => {}
        () = answered => {}
    }
}

#[cfg(test)]
mod tests;
