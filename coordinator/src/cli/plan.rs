//! `reconvene plan`: what each device would get from a deployment, and why. Changes nothing.

use std::time::Duration;

use proto::v1;
use tonic::Request;

use super::Context;
use super::error::CliError;
use super::figures::{bytes, count, macs, ratio};
use super::manifest_file::ManifestArg;
use super::output::{Notation, object, write};
use super::terminal::Tone;
use super::{layers, outcome};

/// What to plan.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reconvene plan -f fashion.yaml              one line per device, and the reasons
  reconvene plan -f fashion.yaml -o wide      with the width of every layer
  reconvene plan -f fashion.yaml -o json | jq '.devices[] | select(.state == \"NoFit\")'

Exit code 4 if no device can meet its budget.")]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    manifest: ManifestArg,
    /// How to print it
    #[arg(short, long, value_enum, default_value = "table")]
    output: PlanFormat,
    /// Give up after this long; the first plan for a network has to score it
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum PlanFormat {
    /// One line per device.
    Table,
    /// The same, and the layers of each model.
    Wide,
    /// Everything.
    Json,
    /// The same as YAML.
    Yaml,
}

pub(crate) async fn run(args: &PlanArgs, context: &Context) -> Result<(), CliError> {
    let checked = args.manifest.read_one()?;
    let mut client = context.server.connect().await?;
    let mut request = Request::new(v1::PlanRequest { manifest: checked.text, strict: false });
    request.set_timeout(args.timeout);
    if context.terminal.redraws {
        let network = &checked.manifest.spec.network;
        context.terminal.say(&format!("planning {network} for the fleet; the first time, it is scored"));
    }
    let plan = client.plan(request).await.map_err(|status| context.server.refusal(status))?.into_inner();
    let text = match args.output {
        PlanFormat::Table => table(&plan, context),
        PlanFormat::Wide => format!("{}{}", table(&plan, context), models(&plan, context)),
        PlanFormat::Json => write(&object("Plan", &plan)?, Notation::Json)?,
        PlanFormat::Yaml => write(&object("Plan", &plan)?, Notation::Yaml)?,
    };
    context.terminal.data(&text)?;
    verdict(&plan)
}

fn table(plan: &v1::PlanResponse, context: &Context) -> String {
    let colors = context.terminal.colors;
    let devices = outcome::by_device(&plan.devices);
    let table = outcome::plan_table(&devices, &plan.dense.unwrap_or_default()).render(colors);
    let why = outcome::reasons(&devices).replace('\n', "\n  ");
    format!("{table}\n\n{}\n  {why}\n", colors.paint(Tone::Heading, "Reasons:"))
}

fn models(plan: &v1::PlanResponse, context: &Context) -> String {
    let colors = context.terminal.colors;
    let model = |model: &v1::PlannedModel| {
        let footprint = model.footprint.unwrap_or_default();
        let share = plan.dense.map_or_else(String::new, |dense| ratio(footprint.params, dense.params));
        let title = format!(
            "Model for {}: {} params ({share}), {} MACs, {}",
            model.device_ids.join(", "),
            count(footprint.params),
            macs(footprint.macs),
            bytes(footprint.bytes),
        );
        let layers = layers::table(&model.layers).render(colors).replace('\n', "\n  ");
        format!("\n{}\n  {layers}\n", colors.paint(Tone::Heading, &title))
    };
    plan.models.iter().map(model).collect()
}

fn verdict(plan: &v1::PlanResponse) -> Result<(), CliError> {
    let is_without_fit = |outcome: &v1::DeviceOutcome| outcome.state == "NoFit";
    if !plan.devices.is_empty() && plan.devices.iter().all(is_without_fit) {
        let text = format!("deployment '{}': no device can meet its budget", plan.name);
        return Err(CliError::NoFit(text));
    }
    Ok(())
}
