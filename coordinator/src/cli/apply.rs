//! `reconvene apply`: hands a deployment to the coordinator.

use std::collections::BTreeMap;
use std::time::Duration;

use coordinator::manifest::Document;
use proto::v1;

use super::connect::{Client, soon};
use super::error::CliError;
use super::follow::{self, Followed};
use super::manifest_file::{ManifestArg, request, within};
use super::resource::Resource as _;
use super::{Context, diff};

/// Devices that are named before it says "and n more".
const NAMES: usize = 10;

/// What to apply.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reconvene apply -f fashion.yaml
  reconvene apply -f fashion.yaml --dry-run
  reconvene apply -f fashion.yaml --wait --timeout 1h
  sed 's/epochs: 10/epochs: 30/' fashion.yaml | reconvene apply -f -
  reconvene get deployments -o yaml > all.yaml; reconvene apply -f all.yaml

Of several deployments each is checked before the first is applied: where one would be refused, nothing is changed. One that
was printed by `get` replaces the generation that it was printed of, and no later one; without metadata.generation, any.

Exit code 4 if no device can meet its budget, even with the smallest network: nothing is changed then.
With --wait: exit code 0 once complete, 1 if a device failed, 4 if none could be fitted.")]
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
    let documents = args.manifest.read()?;
    if args.dry_run {
        return diff::show_all(&documents, context).await;
    }
    let mut client = context.server.connect().await?;
    if documents.len() > 1 {
        // All or nothing, as far as it can be told before.
        for document in &documents {
            check(document, &mut client, context).await?;
        }
    }
    let mut applied = Vec::new();
    for document in &documents {
        let reply = client.apply(soon(request(document))).await;
        let refused = |status| within(document)(context.server.refusal(status));
        let reply = reply.map_err(refused)?.into_inner();
        let v1::ApplyResponse { name, generation, result, note } = &reply;
        let line = format!("deployment/{name} {result} (generation {generation})");
        if args.wait {
            context.terminal.say(&line);
        } else {
            context.terminal.data(&line)?;
        }
        if !note.is_empty() {
            context.terminal.say(&format!("deployment/{name}: {note}"));
        }
        applied.push(reply);
    }
    say_withheld(&applied, &mut client, context).await;
    let mut verdict = Ok(());
    for v1::ApplyResponse { name, generation, .. } in applied.iter().filter(|_| args.wait) {
        let followed = Followed { name, generation: *generation, timeout: Some(args.timeout) };
        let ended = follow::until_ended(context, &followed).await;
        verdict = verdict.and(ended.and_then(|ended| follow::conclude(context, &ended)));
    }
    verdict
}

/// Names the devices that a deployment selects and does not get yet. What was applied stays so where that is not known.
async fn say_withheld(applied: &[v1::ApplyResponse], client: &mut Client, context: &Context) {
    let Ok(devices) = v1::Device::list(client, "").await else { return };
    let mut withheld: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for device in &devices {
        for it in applied.iter().filter(|it| device.wanted_by.contains(&it.name)) {
            withheld.entry((&it.name, &device.held_by)).or_default().push(&device.id);
        }
    }
    for ((name, holder), devices) in withheld {
        let (they, belong, select) = match devices.as_slice() {
            [_] => ("it", "belongs", "it"),
            _ => ("they", "belong", "them"),
        };
        let names = match devices.split_at_checked(NAMES) {
            Some((first, more @ [_, ..])) => format!("{} and {} more", first.join(", "), more.len()),
            _ => devices.join(", "),
        };
        context.terminal.say(&format!(
            "deployment/{name} waits for {names}: {they} {belong} to deployment/{holder}, until that is deleted or does not \
             select {select} any more"
        ));
    }
}

/// What applying it would come to, or the refusal.
pub(crate) async fn check(
    document: &Document,
    client: &mut Client,
    context: &Context,
) -> Result<v1::ApplyResponse, CliError> {
    let reply = client.check(soon(request(document))).await;
    Ok(reply.map_err(|status| within(document)(context.server.refusal(status)))?.into_inner())
}
