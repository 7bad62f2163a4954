//! `reconvene describe`: everything about one thing, for people.

mod artifact;
mod deployment;
mod device;
mod model;

use proto::v1;

use super::Context;
use super::arguments::{Named, named};
use super::error::CliError;
use super::resource::only;

/// A kind that can be described.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Subject {
    #[value(aliases = ["devices", "dev"])]
    Device,
    #[value(aliases = ["deployments", "deploy"])]
    Deployment,
    #[value(aliases = ["artifacts", "art"])]
    Artifact,
    #[value(alias = "models")]
    Model,
}

/// What to describe.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reconvene describe device cam-7           means, probes, latencies, and what each deployment gives it
  reconvene describe deployment fashion     what each device gets, and why
  reconvene describe artifact 3f9a          its layers, before and after
  reconvene describe model resnet20")]
pub(crate) struct DescribeArgs {
    /// device (dev), deployment (deploy), artifact (art) or model; or one of them, as in device/cam-7
    #[arg(value_parser = named::<Subject>(), hide_possible_values = true)]
    kind: Named<Subject>,
    /// Its name; for an artifact the beginning of its digest
    name: Option<String>,
}

pub(crate) async fn run(args: &DescribeArgs, context: &Context) -> Result<(), CliError> {
    let name = args.kind.one_name(args.name.as_deref())?;
    let colors = context.terminal.colors;
    let text = match args.kind.kind {
        Subject::Device => {
            let device = only(context.list::<v1::Device>(name).await?, name)?;
            let telemetry = context.list::<v1::TelemetrySummary>(name).await?;
            let deployments = context.list::<v1::Deployment>("").await?;
            device::describe(&device, &telemetry, &deployments, colors)
        }
        Subject::Deployment => {
            deployment::describe(&only(context.list::<v1::Deployment>(name).await?, name)?, colors)
        }
        Subject::Artifact => {
            artifact::describe(&only(context.list::<v1::Artifact>(name).await?, name)?, colors)
        }
        Subject::Model => model::describe(&only(context.list::<v1::Model>(name).await?, name)?, colors),
    };
    context.terminal.data(&text)
}
