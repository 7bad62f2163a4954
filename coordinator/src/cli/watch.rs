//! `reconvene watch`: looks on until a deployment has ended.

use std::time::Duration;

use super::Context;
use super::arguments::{Named, named};
use super::error::CliError;
use super::follow::{self, Followed};

/// A kind that can be watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Subject {
    #[value(aliases = ["deployments", "deploy"])]
    Deployment,
}

/// What to watch.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reconvene watch deployment fashion
  reconvene watch deploy fashion --timeout 10m

Exit code 0 once complete, 1 if a device failed, 4 if no device can meet its budget.")]
pub(crate) struct WatchArgs {
    /// deployment (deploy), or which, as in deployment/fashion
    #[arg(value_parser = named::<Subject>(), hide_possible_values = true)]
    kind: Named<Subject>,
    /// Its name
    name: Option<String>,
    /// Give up after this long; the deployment goes on
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,
}

pub(crate) async fn run(args: &WatchArgs, context: &Context) -> Result<(), CliError> {
    match args.kind.kind {
        Subject::Deployment => {
            let followed = Followed {
                name: args.kind.one_name(args.name.as_deref())?,
                generation: 0,
                timeout: args.timeout,
            };
            follow::conclude(context, &follow::until_ended(context, &followed).await?)
        }
    }
}
