//! `cargo demo`: runs the demonstration and prints its table. Ends with 1 when a step fails or a count is over its ceiling, with
//! 130 when interrupted; the processes that it started end with it either way.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use fleet_tests::demo::{self, Scale};
use tokio::signal::unix::{SignalKind, signal};

/// A coordinator and three unlike devices on this machine: profiles, budgets, pruning, training, rollout, measurement.
#[derive(Debug, Parser)]
#[command(name = "demo")]
struct Arguments {
    /// Fewer images and epochs: under three minutes.
    #[arg(long)]
    quick: bool,
}

#[tokio::main]
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the table is for whoever runs this")]
async fn main() -> ExitCode {
    let scale = if Arguments::parse().quick { Scale::Quick } else { Scale::Full };
    let ended = tokio::select! {
        report = demo::run(scale) => report.map(Some),
        stopped = interrupted() => stopped.map(|()| None),
    };
    match ended {
        Ok(Some(report)) => {
            println!("{}", report.to_text());
            if report.is_sound() {
                return ExitCode::SUCCESS;
            }
            eprintln!("demo: a model is larger than its budget allows; see the table's last column");
            ExitCode::FAILURE
        }
        Ok(None) => {
            eprintln!("demo: interrupted");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Returns when somebody wants this to end.
async fn interrupted() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    tokio::select! {
        interrupt = tokio::signal::ctrl_c() => interrupt.context("cannot listen for SIGINT"),
        _ = terminate.recv() => Ok(()),
    }
}
