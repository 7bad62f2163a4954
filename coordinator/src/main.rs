//! The `reconvene` binary: starts the runtime and hands over to the command line. Owns nothing else.

mod cli;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;

/// For what still runs once all is said.
const LEFTOVERS: Duration = Duration::from_secs(1);

fn main() -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")?;
    let code = runtime.block_on(cli::run());
    // A call of the store that waits for a broken disk may never end.
    runtime.shutdown_timeout(LEFTOVERS);
    Ok(code)
}
