//! `reconvene serve`: the daemon, until it is told to stop.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use coordinator::store::StoreError;
use coordinator::{App, AppError, Config};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep};
use tracing_subscriber::EnvFilter;

use super::error::CliError;

/// Run the coordinator until SIGTERM or SIGINT.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The file has to be there, and may be empty: every key has a default, which the packaged file names. \
A variable RECONVENE__KEY or RECONVENE__SECTION__KEY overrides the file's key. The log goes to \
standard error; RUST_LOG sets what is in it (default: info,h2=error). A stop takes at most 20 s; \
what was acknowledged is on the disk whenever the process ends. --server and --identity are for \
the other verbs.

Exit codes: 64 bad configuration, 71 address or state folder in use, 73 state folder not writable.

Examples:
  reconvene serve
  reconvene serve --config /etc/reconvene/coordinator.toml
  RECONVENE__STATE_DIR=/tmp/state reconvene serve --config coordinator.toml
  RUST_LOG=debug,h2=error reconvene serve --config coordinator.toml")]
pub(crate) struct ServeArgs {
    /// The configuration file, TOML
    #[arg(long, value_name = "FILE", default_value = "/etc/reconvene/coordinator.toml")]
    config: PathBuf,
}

pub(crate) async fn run(args: &ServeArgs) -> Result<(), CliError> {
    let config = Config::read(&args.config).map_err(CliError::Config)?;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,h2=error"));
    let ansi = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(ansi).with_writer(std::io::stderr).init();
    let failed = |error| CliError::Serve(Box::new(error));
    let app = open(&config).await.map_err(failed)?;
    let listener = app.listen().await.map_err(failed)?;
    let local = app.listen_locally().map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(AppError::Signal).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(AppError::Signal).map_err(failed)?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    app.run(listener, local, stop).await.map_err(failed)
}

/// A coordinator that was killed a moment ago may hold its store for so long: the kernel still tears it down.
const PREDECESSOR: Duration = Duration::from_secs(5);
/// From one look to the next.
const LOOK: Duration = Duration::from_millis(100);

async fn open(config: &Config) -> Result<App, AppError> {
    let deadline = Instant::now() + PREDECESSOR;
    let mut is_told = false;
    loop {
        match tokio::task::block_in_place(|| App::open(config.clone())) {
            Err(AppError::Store(error @ StoreError::Locked { .. })) if Instant::now() < deadline => {
                if !is_told {
                    tracing::warn!(%error, "waiting up to {} s for it to end", PREDECESSOR.as_secs());
                    is_told = true;
                }
                sleep(LOOK).await;
            }
            opened => return opened,
        }
    }
}
