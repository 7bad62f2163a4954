//! The `reconvene` binary: starts the runtime and hands over to the command line. Owns nothing else.

mod cli;

use std::process::ExitCode;

use anyhow::Context;

fn main() -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")?;
    Ok(runtime.block_on(cli::run()))
}
