//! What the service manager is told: ready, alive, stopping. Without one, nothing happens.

use std::io;
use std::time::Duration;

use listenfd::ListenFd;
use sd_notify::NotifyState;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use crate::runner::Runner;
use crate::session::Pulse;

/// Where `reconvene-agent.socket` listens.
pub const SOCKET: &str = "/run/reconvene/inference.sock";

/// The session's loop turns at least every few seconds; connecting and waiting to connect again included.
const SESSION_LIMIT: Duration = Duration::from_secs(120);

/// The Unix sockets that the service manager has opened for this process; what else it has opened is left alone.
///
/// # Errors
/// When what it has opened is no socket.
pub fn sockets() -> io::Result<Vec<UnixListener>> {
    let mut handed = ListenFd::from_env();
    let mut sockets = Vec::new();
    for index in 0..handed.len() {
        if let Some(listener) = handed.take_unix_listener(index)? {
            listener.set_nonblocking(true)?;
            sockets.push(UnixListener::from_std(listener)?);
        }
    }
    Ok(sockets)
}

/// The agent serves, or is ready to as soon as it has a model.
pub fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The agent has begun to stop.
pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// Keeps the watchdog fed while the inference thread answers and the session's loop turns, until `stop`; says what
/// serves whenever that changes.
pub async fn run(runner: Runner, pulse: Pulse, stop: CancellationToken) {
    let watchdog = sd_notify::watchdog_enabled();
    let limit = watchdog.unwrap_or(SESSION_LIMIT);
    let mut tick = tokio::time::interval(limit / 3);
    let mut active = runner.subscribe();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Ok(()) = active.changed() => {
                let status = status(&runner);
                notify(&[NotifyState::Status(&status)]);
            }
            _ = tick.tick() => {
                let alive = runner.is_alive(limit / 2).await && pulse.age() < SESSION_LIMIT;
                if alive && watchdog.is_some() {
                    notify(&[NotifyState::Watchdog]);
                } else if !alive {
                    tracing::error!(session_age_s = pulse.age().as_secs(), "inference or session hangs");
                }
            }
        }
    }
}

/// One line for `systemctl status`.
pub fn status(runner: &Runner) -> String {
    match (runner.active(), runner.passed_over().as_slice()) {
        (Some(model), _) => format!(
            "serving {} (generation {}, {}) in {}",
            model.installed.model.name,
            model.installed.generation,
            model.installed.digest().short(),
            model.engine.choice()
        ),
        (None, []) => "no model yet; waiting for the first assignment".to_owned(),
        (None, reasons) => format!(
            "no model serves; waiting for an assignment, and what is installed is tried again every ten minutes ({})",
            reasons.join("; ")
        ),
    }
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager was not told");
    }
}
