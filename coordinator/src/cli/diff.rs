//! `reconvene diff` and `apply --dry-run`: what a manifest would change. Changes nothing.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::time::Duration;

use coordinator::manifest::{Document, tree, yaml};
use proto::v1;
use similar::TextDiff;

use super::Context;
use super::apply::check;
use super::error::CliError;
use super::figures::{bytes, count, macs, ms};
use super::manifest_file::ManifestArg;
use super::plan::planned;
use super::table::{Entry, Table};

/// How long the first plan for a network may take: it is scored.
const TIMEOUT: Duration = Duration::from_secs(600);

/// What to compare.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reconvene diff -f fashion.yaml
  git show main:fashion.yaml | reconvene diff -f -

The first lines are the manifest's own differences, the table what each device would get instead of what it serves.
What applying would be refused for, this is in the same words and with the same exit code: 4 if no device can meet its budget,
65 if the manifest or its dataset is at fault, 1 if it was printed of a generation that was replaced since.")]
pub(crate) struct DiffArgs {
    #[command(flatten)]
    manifest: ManifestArg,
}

pub(crate) async fn run(args: &DiffArgs, context: &Context) -> Result<(), CliError> {
    show_all(&args.manifest.read()?, context).await
}

/// Prints what each would change.
pub(crate) async fn show_all(documents: &[Document], context: &Context) -> Result<(), CliError> {
    for document in documents {
        show(document, context).await?;
    }
    Ok(())
}

async fn show(checked: &Document, context: &Context) -> Result<(), CliError> {
    let name = &checked.manifest.metadata.name;
    let mut client = context.server.connect().await?;
    // The judge is the one that applying it has.
    let v1::ApplyResponse { generation, result, note, .. } = check(checked, &mut client, context).await?;
    if result == "unchanged" {
        let why = if note.is_empty() { note } else { format!("; {note}") };
        return context
            .terminal
            .data(&format!("deployment/{name} is as it is applied (generation {generation}){why}"));
    }
    if !note.is_empty() {
        context.terminal.say(&format!("deployment/{name}: {note}"));
    }
    let known = context.list::<v1::Deployment>(name).await?;
    let now = known.into_iter().find(|deployment| deployment.name == *name);
    let wanted = v1::PlanRequest { manifest: checked.text.clone(), strict: true };
    let plan = planned(checked, (wanted, TIMEOUT), &mut client, context).await?;
    let (devices, artifacts) =
        (context.list::<v1::Device>("").await?, context.list::<v1::Artifact>("").await?);
    let title = match &now {
        None => format!("deployment/{name} would be created"),
        Some(now) => {
            format!("deployment/{name} would go from generation {} to {}", now.generation, now.generation + 1)
        }
    };
    // What was made of a printed one is compared with what would be printed.
    let applied = |now: &v1::Deployment| match checked.is_printed {
        true => yaml(&tree(&now.manifest)),
        false => now.manifest.clone(),
    };
    let before = now.as_ref().map(applied).unwrap_or_default();
    let differences = TextDiff::from_lines(&before, &checked.text);
    let differences = differences.unified_diff().header("applied", "given").to_string();
    let applied = now.as_ref().map_or(&[][..], |now| &now.devices);
    let devices = table((&devices, &artifacts), applied, &plan.devices);
    let devices = if devices.is_empty() {
        "no device matches".to_owned()
    } else {
        devices.render(context.terminal.colors)
    };
    let waits = plan.devices.iter().filter(|outcome| outcome.state == "Waiting");
    let why: String = waits.map(|it| format!("\n{}: {}", it.device_id, it.reason)).collect();
    let why = if why.is_empty() { why } else { format!("\n{why}") };
    context.terminal.data(&format!("{title}\n\n{differences}\n{devices}{why}"))
}

/// What a device has, whatever was to be given to it.
#[derive(Clone, Copy, Default)]
struct Has<'a> {
    /// What it is, where that is known.
    model: Option<v1::Footprint>,
    /// What the applied generation gave it, if that is what it serves.
    given: Option<&'a v1::DeviceOutcome>,
}

/// What `device` serves, and whether that is what `now` gave it.
fn has<'a>(
    device: Option<&v1::Device>,
    artifacts: &BTreeMap<&str, &v1::Artifact>,
    now: Option<&'a v1::DeviceOutcome>,
) -> Has<'a> {
    let Some(digest) = device.map(|device| device.active_digest.as_str()).filter(|it| !it.is_empty()) else {
        return Has::default();
    };
    // While another model is made, the one named is from before.
    let is_given = |now: &&v1::DeviceOutcome| {
        now.digest == digest && !matches!(now.state.as_str(), "Waiting" | "Deriving")
    };
    Has { model: artifacts.get(digest).and_then(|artifact| artifact.footprint), given: now.filter(is_given) }
}

/// What each device serves, and what it would get.
fn table(
    (fleet, artifacts): (&[v1::Device], &[v1::Artifact]),
    now: &[v1::DeviceOutcome],
    then: &[v1::DeviceOutcome],
) -> Table {
    let artifacts: BTreeMap<_, _> = artifacts.iter().map(|it| (it.digest.as_str(), it)).collect();
    let fleet: BTreeMap<_, _> = fleet.iter().map(|device| (device.id.as_str(), device)).collect();
    let mut devices: BTreeMap<&str, (Option<&v1::DeviceOutcome>, Option<&v1::DeviceOutcome>)> =
        BTreeMap::new();
    for outcome in now {
        devices.entry(&outcome.device_id).or_default().0 = Some(outcome);
    }
    for outcome in then {
        devices.entry(&outcome.device_id).or_default().1 = Some(outcome);
    }
    let mut table = Table::new(["DEVICE", "CHANGE", "PARAMS", "MACS", "SIZE", "EST-P95"]);
    for (device, (now, then)) in devices {
        let has = has(fleet.get(device).copied(), &artifacts, now);
        let (had, gets) = (has.model, then.and_then(|outcome| outcome.planned));
        let p95 = |outcome: Option<&v1::DeviceOutcome>| outcome.and_then(|outcome| outcome.predicted_p95_ms);
        table.row([
            Entry::text(device),
            Entry::text(change(now.and(Some(has)), then)),
            step(had.map(|f| count(f.params)), gets.map(|f| count(f.params))),
            step(had.map(|f| macs(f.macs)), gets.map(|f| macs(f.macs))),
            step(had.map(|f| bytes(f.bytes)), gets.map(|f| bytes(f.bytes))),
            step(p95(has.given).map(ms), p95(then).map(ms)),
        ]);
    }
    table
}

/// What it means for the device. One that the deployment had nothing for before has nothing to be compared with.
fn change(has: Option<Has>, then: Option<&v1::DeviceOutcome>) -> &'static str {
    let Some(then) = then else { return "matches no more" };
    let Has { model, given } = has.unwrap_or_default();
    let size = |model: v1::Footprint| (model.params, model.macs, model.bytes);
    match (then.state.as_str(), model, then.planned) {
        ("NoFit", ..) => "no fit",
        ("Waiting", ..) => "waits",
        (_, _, None) => "unknown",
        (_, None, Some(_)) => "new model",
        (_, Some(had), Some(gets)) => match size(gets).cmp(&size(had)) {
            Ordering::Less => "smaller",
            Ordering::Greater => "larger",
            Ordering::Equal if given.is_some() => "same size",
            Ordering::Equal => "new model",
        },
    }
}

/// `a -> b`, or one of them where they are alike.
fn step(now: Option<String>, then: Option<String>) -> Entry {
    Entry::figure(match (now, then) {
        (Some(now), Some(then)) if now == then => then,
        (Some(now), Some(then)) => format!("{now} -> {then}"),
        (Some(now), None) => format!("{now} -> -"),
        (None, then) => then.unwrap_or_default(),
    })
}
