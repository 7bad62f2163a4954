//! `run`: the daemon. Owns the order in which a start can fail: configuration, state, address.

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use super::CliError;
use crate::app::App;
use crate::config::{self, ServeConfig};
use crate::serve::{self, Listeners};
use crate::systemd;

/// What the runtime waits for blocking work that did not end within the grace period.
const LEFTOVERS: Duration = Duration::from_millis(200);

/// Runs the agent until SIGTERM or SIGINT.
pub fn run(path: &Path) -> Result<(), CliError> {
    let config = config::load(path)?;
    start_log();
    // This very program, though an upgrade has replaced its file since.
    let app = App::open(config.clone())?.with_program("/proc/self/exe".into());
    // The engine has threads of its own; two serve the network well.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(CliError::process("start the runtime"))?;
    let result = runtime.block_on(async {
        let signals = Signals::listen().map_err(CliError::process("listen for signals"))?;
        let listeners = listen(&config.serve).await?;
        Ok(app.run(listeners, signals.stop()).await?)
    });
    runtime.shutdown_timeout(LEFTOVERS);
    result
}

async fn listen(config: &ServeConfig) -> Result<Listeners, CliError> {
    let refuse = |path: &Path| {
        let path = path.to_owned();
        move |source: std::io::Error| match source.kind() {
            std::io::ErrorKind::AlreadyExists => CliError::InTheWay { path },
            _ => CliError::Socket { path, source },
        }
    };
    let mut unix =
        systemd::sockets().map_err(CliError::process("take the sockets of the service manager"))?;
    if let Some(path) = config.socket.as_deref() {
        unix.push(serve::bind_unix(path).map_err(refuse(path))?);
    }
    let tcp = bind(config.listen).await?;
    if !config.listen.ip().is_loopback() {
        tracing::warn!(
            address = %config.listen,
            "whoever reaches this address may use the inference API: it asks for no password and does not encrypt"
        );
    }
    Ok(Listeners { tcp, unix })
}

async fn bind(address: SocketAddr) -> Result<TcpListener, CliError> {
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        std::io::ErrorKind::AddrInUse => CliError::AddressInUse { address },
        _ => CliError::Listen { address, source },
    })
}

fn start_log() {
    // Targets and levels alone: what else a filter can say takes a megabyte of regular expressions.
    let filter =
        config::log_filter().parse().unwrap_or_else(|_| Targets::new().with_default(LevelFilter::INFO));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        // A log that nobody reads any more must not stop the agent.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal());
    tracing_subscriber::registry().with(lines.with_filter(filter)).init();
}

/// The signals that are heard; whatever else would end the process is left to do so.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Until one that means stop.
    async fn stop(mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                Some(()) = self.hangup.recv() => {
                    tracing::warn!("SIGHUP changes nothing: a new configuration counts after a restart");
                }
            }
        }
    }
}
