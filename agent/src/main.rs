//! The `reconvene-agent` binary: parse, do, map the error to an exit code.

use std::io::Write as _;
use std::process::ExitCode;

use agent::causes::describe;
use agent::cli::{Cli, execute};
use clap::Parser as _;

fn main() -> ExitCode {
    let Err(error) = execute(Cli::parse()) else { return ExitCode::SUCCESS };
    // Where even standard error is gone, the exit code still speaks.
    drop(writeln!(std::io::stderr(), "reconvene-agent: {}", describe(&error)));
    ExitCode::from(error.exit_code())
}
