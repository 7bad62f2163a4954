//! `reconvene apply`: hands a deployment to the coordinator.

use std::time::Duration;

use proto::v1;

use super::connect::soon;
use super::error::CliError;
use super::follow::{self, Followed};
use super::manifest_file::ManifestArg;
use super::{Context, diff};

/// What to apply.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reconvene apply -f fashion.yaml
  reconvene apply -f fashion.yaml --dry-run
  reconvene apply -f fashion.yaml --wait --timeout 1h
  sed 's/epochs: 10/epochs: 30/' fashion.yaml | reconvene apply -f -

With --wait: exit code 0 once complete, 1 if a device failed, 4 if no device can meet its budget.")]
pub(crate) struct ApplyArgs {
    #[command(flatten)]
    manifest: ManifestArg,
    /// Only tell what it would change, as `reconvene diff` does
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,
    /// Stay until every device has its model, showing the progress
    #[arg(long)]
    wait: bool,
    /// Give up waiting after this long; the deployment goes on
    #[arg(long, value_name = "DURATION", default_value = "30m", value_parser = humantime::parse_duration, requires = "wait")]
    timeout: Duration,
}

pub(crate) async fn run(args: &ApplyArgs, context: &Context) -> Result<(), CliError> {
    let checked = args.manifest.read()?;
    if args.dry_run {
        return diff::show(&checked, context).await;
    }
    let mut client = context.server.connect().await?;
    let reply = client.apply(soon(v1::ApplyRequest { manifest: checked.text })).await;
    let v1::ApplyResponse { name, generation, result } =
        reply.map_err(|status| context.server.refusal(status))?.into_inner();
    let line = format!("deployment/{name} {result} (generation {generation})");
    if !args.wait {
        return context.terminal.data(&line);
    }
    context.terminal.say(&line);
    let followed = Followed { name: &name, generation, timeout: Some(args.timeout) };
    follow::conclude(context, &follow::until_ended(context, &followed).await?)
}
