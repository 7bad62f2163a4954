//! `reconvene worker`: scores and trains for a coordinator.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use coordinator::config::TrainerConfig;
use coordinator::worker::{self, RunError, WorkerSettings};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use super::Context;
use super::connect::Server;
use super::error::CliError;

/// Score and train for a coordinator, until SIGTERM or SIGINT
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A job that is cut off goes on from its last epoch, here or on another worker. Datasets are downloaded from the coordinator
once and kept in the state folder. A coordinator that is not there is waited for; one that does not take the worker's
certificate any more is not. That is one of the role worker:

Examples:
  reconvene operator create gpu-1 --role worker --out gpu-1     on the coordinator's host, once
  reconvene worker --coordinator https://fleet.example.org:7370 --identity gpu-1
  reconvene worker --coordinator 127.0.0.1:7370 --threads 4 --train python3 --train /srv/train.py")]
pub(crate) struct WorkerArgs {
    /// The coordinator's address, as for --server
    #[arg(long, value_name = "URL")]
    coordinator: Option<String>,
    /// Where downloaded datasets and trainings under way are kept
    #[arg(long, value_name = "DIR", default_value = "/var/lib/reconvene-worker")]
    state_dir: PathBuf,
    /// Threads that compute; 0: every core
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// The program that trains where a deployment says `trainer: command`; once for it, and once for each of its arguments
    #[arg(long = "train", value_name = "WORD", allow_hyphen_values = true)]
    program: Vec<String>,
    /// How long that program may take for one network
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = humantime::parse_duration)]
    train_limit: Duration,
    /// The settings of a worker that a coordinator has started
    #[arg(long, hide = true, value_name = "JSON")]
    local: Option<String>,
}

pub(crate) async fn run(args: &WorkerArgs, context: &Context) -> Result<(), CliError> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,h2=error"));
    let ansi = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(ansi).with_writer(std::io::stderr).init();
    let stop = CancellationToken::new();
    let hears =
        |kind| signal(kind).map_err(|error| CliError::Failed(format!("cannot hear of signals: {error}")));
    let (mut terminate, mut interrupt) = (hears(SignalKind::terminate())?, hears(SignalKind::interrupt())?);
    let server = match &args.coordinator {
        Some(url) => Server::new(Some(url), context.server.identity()),
        None => context.server.clone(),
    };
    let (channel, settings) = match &args.local {
        Some(json) => {
            let settings = serde_json::from_str(json)
                .map_err(|error| CliError::Usage(format!("--local is not for people: {error}")))?;
            worker::step_back();
            let channel = worker::connect(stop.clone()).await;
            (channel.map_err(|error| CliError::Failed(error.to_string()))?, settings)
        }
        None => (server.patient_channel().await?, settings(args)),
    };
    let working = worker::run(channel, settings, stop.clone());
    tokio::pin!(working);
    let done = tokio::select! {
        done = &mut working => done,
        _ = terminate.recv() => { stop.cancel(); working.await }
        _ = interrupt.recv() => { stop.cancel(); working.await }
    };
    done.map_err(|error| match error {
        RunError::LockedOut(status) => server.refusal(*status),
        other => CliError::Failed(coordinator::causes::chain(&other)),
    })
}

fn settings(args: &WorkerArgs) -> WorkerSettings {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let trainer = (!args.program.is_empty())
        .then(|| TrainerConfig { command: args.program.clone(), time_limit: args.train_limit });
    WorkerSettings {
        state_dir: args.state_dir.clone(),
        threads: if args.threads == 0 { cores } else { args.threads },
        trainer,
        shares_files: false,
    }
}
