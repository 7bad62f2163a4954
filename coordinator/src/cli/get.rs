//! `reconvene get`: lists.

use proto::v1;

use super::Context;
use super::arguments::{Named, named};
use super::error::CliError;
use super::output::{Header, ListFormat, print_list, print_one};
use super::resource::{Kind, Naming, Resource, only};

/// What to list.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reconvene get devices                       every device
  reconvene get dev -o wide                   with memory, labels and processor
  reconvene get device cam-7 -o yaml          one device, everything
  reconvene get artifacts -o name             names for a script
  reconvene get tokens                        how often each was used, and how long it lasts
  reconvene get telemetry cam-7 --no-headers  what one device measured
  reconvene get deployments -o json | jq '.items[].status.phase'
  reconvene get deployment fashion -o yaml > fashion.yaml   the manifest and its status, to be applied again")]
pub(crate) struct GetArgs {
    /// devices (dev), models, datasets, deployments (deploy), jobs, workers, artifacts (art), tokens, operators or telemetry (tel); or
    /// one of them, as in device/cam-7; an artifact by the beginning of its digest, telemetry by its device
    #[arg(value_parser = named::<Kind>(), hide_possible_values = true)]
    kind: Named<Kind>,
    #[command(flatten)]
    list: ListArgs,
}

/// Which of a kind, and how to print them.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ListArgs {
    /// Only the one of this name; all, where it is left out
    name: Option<String>,
    /// How to print it
    #[arg(short, long, value_enum, default_value = "table")]
    output: ListFormat,
    /// Leave out the table's first line
    #[arg(long)]
    no_headers: bool,
}

pub(crate) async fn run(args: &GetArgs, context: &Context) -> Result<(), CliError> {
    let name = args.kind.name(args.list.name.as_deref())?.map(str::to_owned);
    let list = &ListArgs { name, ..args.list.clone() };
    match args.kind.kind {
        Kind::Datasets => show::<v1::Dataset>(list, context).await,
        Kind::Devices => show::<v1::Device>(list, context).await,
        Kind::Models => show::<v1::Model>(list, context).await,
        Kind::Deployments => show::<v1::Deployment>(list, context).await,
        Kind::Jobs => show::<v1::Job>(list, context).await,
        Kind::Workers => show::<v1::Worker>(list, context).await,
        Kind::Artifacts => show::<v1::Artifact>(list, context).await,
        Kind::Tokens => show::<v1::Token>(list, context).await,
        Kind::Operators => show::<v1::Operator>(list, context).await,
        Kind::Telemetry => show::<v1::TelemetrySummary>(list, context).await,
    }
}

/// Prints those of one kind.
pub(crate) async fn show<T: Resource>(args: &ListArgs, context: &Context) -> Result<(), CliError> {
    let terminal = &context.terminal;
    let header = if args.no_headers { Header::Left } else { Header::Shown };
    match args.name.as_deref() {
        None => print_list(terminal, &context.list::<T>("").await?, args.output, header),
        Some(name) if T::NAMING == Naming::Owner => {
            print_list(terminal, &context.list::<T>(name).await?, args.output, header)
        }
        Some(name) => print_one(terminal, &only(context.list::<T>(name).await?, name)?, args.output, header),
    }
}
