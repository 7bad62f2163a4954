//! The coordinator's own worker: a process beside it, less important than it, on a socket that nobody else has. Started
//! again whenever it ends.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::pin::Pin;
use std::process::{ExitStatus, Stdio};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use super::WorkerSettings;
use crate::causes::chain;
use crate::jobs::queue::Queue;

/// Before it is started again, if it ended by itself; longer each time until it has lived for a while.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// It has lived: what ended it is not its start.
const LIVED: Duration = Duration::from_secs(10);
/// Between asking it to end and ending it; below what the coordinator gives itself to stop.
const GRACE: Duration = Duration::from_secs(7);

/// Keeps a worker running until `stop`. `connections` take the coordinator's end of each one's socket.
pub(crate) async fn supervise(
    settings: WorkerSettings,
    queue: Queue,
    connections: mpsc::Sender<UnixStream>,
    stop: CancellationToken,
) {
    let mut pause = FIRST_PAUSE;
    while !stop.is_cancelled() {
        let begun = std::time::Instant::now();
        let why = match start(&settings) {
            Ok((child, socket)) => {
                if connections.send(socket).await.is_err() {
                    return; // nobody serves any more
                }
                attend(child, &stop).await
            }
            Err(error) => Some(format!("it could not be started: {error}")),
        };
        if let Err(error) = queue.own_ended(why.clone()).await {
            tracing::error!(error = chain(&error), "what the worker had could not be given back");
        }
        let Some(why) = why else { return };
        tracing::warn!(why, "the coordinator's own worker has ended; it is started again");
        pause = if begun.elapsed() > LIVED { FIRST_PAUSE } else { (2 * pause).min(LONGEST_PAUSE) };
        let _ = tokio::time::timeout(pause, stop.cancelled()).await;
    }
}

fn start(settings: &WorkerSettings) -> io::Result<(Child, UnixStream)> {
    let (ours, theirs) = StdStream::pair()?;
    ours.set_nonblocking(true)?;
    let child = Command::new("/proc/self/exe") // also where a newer package has replaced the file
        .args(["worker", "--local", &serde_json::to_string(settings)?])
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    Ok((child, UnixStream::from_std(ours)?))
}

/// Waits for its end, or ends it; says why it ended where nobody told it to.
async fn attend(mut child: Child, stop: &CancellationToken) -> Option<String> {
    tokio::select! {
        ended = child.wait() => return Some(describe(ended)),
        () = stop.cancelled() => {}
    }
    if let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
        let _ = kill_process(pid, Signal::TERM); // it may have ended meanwhile
    }
    if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
    None
}

fn describe(ended: io::Result<ExitStatus>) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match ended.map(|status| (status.code(), status.signal())) {
        Ok((_, Some(9))) => {
            "it ended with signal 9: somebody killed it, or the system did for want of memory".to_owned()
        }
        Ok((_, Some(signal))) => format!("it ended with signal {signal}"),
        Ok((code, None)) => format!("it ended with code {}", code.unwrap_or_default()),
        Err(error) => format!("it cannot be waited for: {error}"),
    }
}

/// The worker's side: the connection that it was started with as standard input. `gone` is cancelled when the coordinator
/// has closed it, or died.
///
/// # Errors
/// When standard input is no such connection.
pub async fn connect(gone: CancellationToken) -> Result<Channel, tonic::transport::Error> {
    let mut once = Some(gone);
    let take = move |_| {
        let gone = once.take();
        async move {
            // There is one connection; the process ends with it.
            let gone = gone.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))?;
            let socket = StdStream::from(rustix::io::dup(rustix::stdio::stdin())?);
            socket.set_nonblocking(true)?;
            Ok::<_, io::Error>(TokioIo::new(Watched { io: UnixStream::from_std(socket)?, gone }))
        }
    };
    Endpoint::from_static("http://coordinator").connect_with_connector(tower::service_fn(take)).await
}

/// Says when the other end is gone.
struct Watched {
    io: UnixStream,
    gone: CancellationToken,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        let is_over = match &read {
            Poll::Ready(Ok(())) => buf.filled().len() == before && buf.remaining() > 0,
            Poll::Ready(Err(_)) => true,
            Poll::Pending => false,
        };
        if is_over {
            self.gone.cancel();
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Makes this process less important than the coordinator: for the processor, and where memory runs out.
pub fn step_back() {
    if let Err(error) = rustix::process::nice(19) {
        tracing::debug!(%error, "no lower priority");
    }
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", "500") {
        tracing::debug!(%error, "not the first to go");
    }
}
