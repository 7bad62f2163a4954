//! `crowd`: many played devices at one coordinator, and what was measured of it as a table.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use fleet_tests::crowd;

/// Has many played devices join a real coordinator, deploys to them, and has more join; prints how long each took.
#[derive(Debug, Parser)]
#[command(
    name = "crowd",
    after_help = "Example:\n  cargo run --release -p fleet-tests --bin crowd -- --devices 1000"
)]
struct Arguments {
    /// How many
    #[arg(long, default_value_t = 200)]
    devices: usize,
    /// Seconds from one heartbeat of a device to the next
    #[arg(long, default_value_t = 5)]
    beat: u64,
}

#[tokio::main]
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the table is for whoever runs this")]
async fn main() -> ExitCode {
    let Arguments { devices, beat } = Arguments::parse();
    match crowd::run(devices, Duration::from_secs(beat)).await {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("crowd: {error:#}");
            ExitCode::FAILURE
        }
    }
}
