//! `reconvene plan`: what each device would get from a deployment, and why. Changes nothing.

use std::time::Duration;

use coordinator::manifest::{API_VERSION, Document, LIST};
use proto::v1;
use serde_json::{Value, json};

use super::Context;
use super::apply::check;
use super::connect::Client;
use super::error::CliError;
use super::figures::{bytes, count, macs, ratio};
use super::manifest_file::{ManifestArg, within};
use super::output::{Notation, object, write};
use super::resource::Resource as _;
use super::terminal::Tone;
use super::{layers, outcome};

/// What to plan.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reconvene plan -f fashion.yaml              one line per device, and the reasons
  reconvene plan -f fashion.yaml -o wide      with the width of every layer
  reconvene plan -f fashion.yaml -o json | jq '.devices[] | select(.state == \"NoFit\")'

Of several deployments each is planned as if it were alone. What applying would be refused for, this is in the same words and
with the same exit code; but where no device can meet the budget, it says what each could meet, and ends with exit code 4.")]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    manifest: ManifestArg,
    /// How to print it
    #[arg(short, long, value_enum, default_value = "table")]
    output: PlanFormat,
    /// Give up after this long; the first plan for a network has to score it, which goes on
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
    let documents = args.manifest.read()?;
    let mut client = context.server.connect().await?;
    let (mut plans, mut verdict) = (Vec::new(), Ok(()));
    for document in &documents {
        // The judge is the one that applying it has. A budget that nobody can meet is what a plan explains.
        match check(document, &mut client, context).await {
            Err(error) if error.is_no_fit() => verdict = verdict.and(Err(error)),
            checked => drop(checked?),
        }
        if context.terminal.redraws {
            let network = &document.manifest.spec.network;
            context.terminal.say(&format!("planning {network} for the fleet; the first time, it is scored"));
        }
        let wanted = v1::PlanRequest { manifest: document.text.clone(), strict: false };
        plans.push(planned(document, (wanted, args.timeout), &mut client, context).await?);
    }
    let text = match args.output {
        PlanFormat::Table => tables(&plans, context, |plan| table(plan, context)),
        PlanFormat::Wide => {
            tables(&plans, context, |plan| format!("{}{}", table(plan, context), models(plan, context)))
        }
        PlanFormat::Json => write(&value(&plans)?, Notation::Json)?,
        PlanFormat::Yaml => write(&value(&plans)?, Notation::Yaml)?,
    };
    context.terminal.data(&text)?;
    verdict.and_then(|()| plans.iter().try_for_each(fits))
}

/// The coordinator's answer. One that does not come in time is no failure of the coordinator's, which goes on.
pub(crate) async fn planned(
    document: &Document,
    (wanted, limit): (v1::PlanRequest, Duration),
    client: &mut Client,
    context: &Context,
) -> Result<v1::PlanResponse, CliError> {
    let answer = match tokio::time::timeout(limit, client.plan(wanted)).await {
        Ok(answer) => answer.map_err(|status| context.server.refusal(status)),
        Err(_) => Err(not_ready(&document.manifest.metadata.name, limit, client).await),
    };
    Ok(answer.map_err(within(document))?.into_inner())
}

async fn not_ready(name: &str, limit: Duration, client: &mut Client) -> CliError {
    let scores = |job: &v1::Job| {
        let is_open = matches!(job.state.as_str(), "Queued" | "Running" | "Stalled");
        job.deployment == name && job.name.starts_with("score-") && is_open
    };
    // Which job it is helps, and is not always known: another deployment may have asked for it first.
    let jobs = v1::Job::list(client, "").await.unwrap_or_default();
    let way_on = match jobs.into_iter().find(scores) {
        Some(job) => format!(
            "scoring goes on as job/{}: `reconvene get jobs` shows how far it is, then run this again",
            job.name
        ),
        None => {
            "run this again, `reconvene get jobs` shows whether its network is still being scored".to_owned()
        }
    };
    let limit = humantime::format_duration(limit);
    CliError::Failed(format!("the plan for deployment '{name}' is not ready after {limit}; {way_on}"))
}

/// Those of all plans, each under its deployment where there are several.
fn tables(
    plans: &[v1::PlanResponse],
    context: &Context,
    table: impl Fn(&v1::PlanResponse) -> String,
) -> String {
    if let [only] = plans {
        return table(only);
    }
    let heading = |name: &str| context.terminal.colors.paint(Tone::Heading, &format!("deployment/{name}"));
    plans
        .iter()
        .map(|plan| format!("{}\n\n{}", heading(&plan.name), table(plan)))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The plan as itself, several as a list.
fn value(plans: &[v1::PlanResponse]) -> Result<Value, CliError> {
    if let [only] = plans {
        return object("Plan", only);
    }
    let items = plans.iter().map(|plan| object("Plan", plan)).collect::<Result<Vec<_>, _>>()?;
    Ok(json!({ "apiVersion": API_VERSION, "kind": LIST, "items": items }))
}

fn table(plan: &v1::PlanResponse, context: &Context) -> String {
    let colors = context.terminal.colors;
    let devices = outcome::by_device(&plan.devices);
    let table = outcome::plan_table(&devices, &plan.dense.unwrap_or_default()).render(colors);
    let why = outcome::reasons(&devices, outcome::NO_DEVICE).replace('\n', "\n  ");
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

fn fits(plan: &v1::PlanResponse) -> Result<(), CliError> {
    let is_without_fit = |outcome: &v1::DeviceOutcome| outcome.state == "NoFit";
    if !plan.devices.is_empty() && plan.devices.iter().all(is_without_fit) {
        let text = format!("deployment '{}': no device can meet its budget", plan.name);
        return Err(CliError::NoFit(text));
    }
    Ok(())
}
