//! `reconvene explain`: why a device has what it has, in sentences.

use coordinator::fitting::LATENCY_HEADROOM;
use coordinator::manifest::{DeploymentManifest, GrowSpec};
use proto::v1;

use super::Context;
use super::error::CliError;
use super::figures::{bytes, count, macs, ms, percent, short};
use super::resource::columns::ago;
use super::resource::only;

/// What to explain.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  reconvene explain device/cam-7
  reconvene history device/cam-7      when it came to that")]
pub(crate) struct ExplainArgs {
    /// device/NAME
    #[arg(value_name = "device/NAME", value_parser = parse_device)]
    device: String,
}

pub(crate) async fn run(args: &ExplainArgs, context: &Context) -> Result<(), CliError> {
    let name = args.device.as_str();
    let device = only(context.list::<v1::Device>(name).await?, name)?;
    let telemetry = context.list::<v1::TelemetrySummary>(name).await?;
    let deployments = context.list::<v1::Deployment>("").await?;
    context.terminal.data(&explain(&device, &telemetry, &deployments))
}

fn parse_device(text: &str) -> Result<String, String> {
    match text.strip_prefix("device/") {
        Some(name) if !name.is_empty() => Ok(name.to_owned()),
        _ => Err("write device/NAME, as in device/cam-7".to_owned()),
    }
}

/// One figure of a model beside its ceiling.
struct Use {
    figure: &'static str,
    text: String,
    /// Of what the ceiling leaves to a plan, 1: all.
    share: f64,
}

fn explain(
    device: &v1::Device,
    telemetry: &[v1::TelemetrySummary],
    deployments: &[v1::Deployment],
) -> String {
    let mut text = means(device);
    let mut is_given = false;
    for deployment in deployments {
        for outcome in deployment.devices.iter().filter(|outcome| outcome.device_id == device.id) {
            is_given = true;
            text += &format!("\n\n{}", given(device, deployment, outcome));
            // What it measured with what it does not serve says nothing of what it has.
            let measured = |summary: &&v1::TelemetrySummary| {
                summary.digest == outcome.digest && summary.digest == device.active_digest
            };
            let newest = telemetry.iter().filter(measured).max_by_key(|summary| summary.generation);
            if let Some(summary) = newest.filter(|summary| summary.count > 0) {
                text += &format!("\n  {}", measured_sentence(outcome, summary));
                text += unused_room(deployment, outcome, summary).unwrap_or_default();
            }
        }
    }
    let v1::Device { held_by, wanted_by, .. } = device;
    for name in wanted_by {
        text += &format!(
            "\n\n{name}: selects it too, and waits: it belongs to deployment/{held_by}, until that is deleted or does not select it \
             any more."
        );
    }
    if !is_given && wanted_by.is_empty() {
        text += "\n\nNo deployment's selector matches its labels.";
        text += &left_over(device, deployments);
    }
    text
}

/// What it serves though no deployment is about it.
fn left_over(device: &v1::Device, deployments: &[v1::Deployment]) -> String {
    let v1::Device { active_digest, generation, told_by, .. } = device;
    if active_digest.is_empty() {
        return String::new();
    }
    let from = match told_by.as_str() {
        "" => "which deployment gave it that is not known any more".to_owned(),
        name if deployments.iter().any(|deployment| deployment.name == name) => {
            format!("deployment/{name} gave it that, and does not select it any more")
        }
        name => format!("deployment/{name} gave it that, and was deleted since"),
    };
    format!(
        " It goes on serving model {} (generation {generation}): {from}. The next deployment that selects it gives it another.",
        short(active_digest)
    )
}

/// What it is, by what it measured of itself.
fn means(device: &v1::Device) -> String {
    let v1::Device { id, class_id, arch, logical_cores, .. } = device;
    let status = match last_heard(device) {
        _ if device.status == "Banned" => {
            format!("banned (`reconvene device unban {id}` lets it in again)")
        }
        Some(heard) => format!("away, last heard of {heard} ago"),
        None => device.status.to_lowercase(),
    };
    if class_id.is_empty() {
        return format!(
            "{id} is {status}. It has not timed its probes yet: nothing can be predicted for it."
        );
    }
    let quota = device.cpu_quota_cores.map(|cores| format!(", {cores:.2} of them by quota"));
    let memory = device.memory_limit_bytes.or(device.memory_total_bytes);
    let memory = memory.map(|memory| format!(", {} of memory", bytes(memory)));
    format!(
        "{id} is {status}: {arch}, {logical_cores} cores{}{}. Its class is {class_id}; devices of a class share their models.",
        quota.unwrap_or_default(),
        memory.unwrap_or_default()
    )
}

/// How long ago a device was heard of that is away.
fn last_heard(device: &v1::Device) -> Option<String> {
    (device.status == "Offline" && device.last_seen_unix_ms > 0).then(|| ago(device.last_seen_unix_ms))
}

fn given(device: &v1::Device, deployment: &v1::Deployment, outcome: &v1::DeviceOutcome) -> String {
    let v1::DeviceOutcome { state, reason, .. } = outcome;
    // What a device that is away does now is not known.
    let state = match last_heard(device).filter(|_| state == "Active") {
        _ if device.status == "Banned" && state == "Active" => "banned, was Active".to_owned(),
        Some(heard) => format!("away for {heard}, was Active"),
        None => state.clone(),
    };
    let mut head = format!("{} (generation {}): {state}. {reason}.", deployment.name, deployment.generation);
    if deployment.phase == "Failed" {
        head += &format!(" The deployment has failed: {}.", deployment.message);
    }
    if deployment.paused {
        let name = &deployment.name;
        head += &format!(
            " The deployment is paused: it tells no device anything until `reconvene rollout resume {name}`."
        );
    }
    let model = models(device, deployment, outcome);
    let Some(planned) = outcome.planned else { return format!("{head}\n  {model}") };
    // What it is to get is not known yet, or there is none: the ceilings are no matter of what it has.
    if matches!(outcome.state.as_str(), "Waiting" | "Deriving" | "NoFit") {
        return format!("{head}\n  {model}");
    }
    let mut uses = uses(outcome, &planned);
    uses.sort_by(|a, b| b.share.total_cmp(&a.share));
    let ceilings = match uses.first() {
        None => "It has no ceiling: it gets the whole network.".to_owned(),
        Some(fullest) => {
            let all: Vec<_> = uses.iter().map(|used| used.text.as_str()).collect();
            format!("Of its ceilings {} is the one that holds it back: {}.", fullest.figure, all.join("; "))
        }
    };
    format!("{head}\n  {model}\n  {ceilings}")
}

/// What it serves, by its own word, and what it gets instead where that is another model.
fn models(device: &v1::Device, deployment: &v1::Deployment, outcome: &v1::DeviceOutcome) -> String {
    let v1::Device { active_digest, generation, .. } = device;
    let state = outcome.state.as_str();
    let serves = match (active_digest.as_str(), state) {
        ("", _) => "It serves nothing".to_owned(),
        (model, "NoFit" | "Failed") => {
            format!("It goes on serving model {} (generation {generation})", short(model))
        }
        (model, _) => format!("It serves model {} (generation {generation})", short(model)),
    };
    let Some(planned) = outcome.planned else { return serves + "." };
    let accuracy =
        outcome.test_accuracy.map(|share| format!(", right for {} of its test images", percent(share)));
    let figures = format!(
        "{} parameters, {} MACs, {}{}",
        count(planned.params),
        macs(planned.macs),
        bytes(planned.bytes),
        accuracy.unwrap_or_default()
    );
    if outcome.digest == *active_digest {
        return format!("{serves}: {figures}.");
    }
    let gets = match state {
        "Assigned" => "It gets",
        "Fitted" if deployment.phase == "Failed" => "It would have got",
        "Fitted" => "It would get",
        "Failed" => "It was to get",
        "Active" => "It was given",
        // The one named is from before: what it is to get is not made, or there is none.
        _ => return serves + ".",
    };
    format!("{serves}. {gets} model {}: {figures}.", short(&outcome.digest))
}

fn uses(outcome: &v1::DeviceOutcome, planned: &v1::Footprint) -> Vec<Use> {
    let Some(ceilings) = outcome.budget else { return Vec::new() };
    let amount = |figure, used: u64, ceiling: Option<u64>, print: fn(u64) -> String| {
        let ceiling = ceiling.filter(|&ceiling| ceiling > 0)?;
        let text = format!("{figure} {} of {}", print(used), print(ceiling));
        Some(Use { figure, text, share: used as f64 / ceiling as f64 })
    };
    let time = |figure, predicted: Option<f64>, ceiling: Option<f64>| {
        let (predicted, ceiling) = predicted.zip(ceiling)?;
        let text = format!("{figure} {} of {}, predicted", ms(predicted), ms(ceiling));
        Some(Use { figure, text, share: predicted / (ceiling * (1.0 - LATENCY_HEADROOM)) })
    };
    let uses = [
        amount("params", planned.params, ceilings.params, count),
        amount("macs", planned.macs, ceilings.macs, macs),
        amount("size", planned.bytes, ceilings.bytes, bytes),
        amount("memory", planned.memory_bytes, ceilings.memory_bytes, bytes),
        amount("activations", planned.activation_bytes, ceilings.activation_bytes, bytes),
        time("p50", outcome.predicted_p50_ms, ceilings.latency_p50_ms),
        time("p95", outcome.predicted_p95_ms, ceilings.latency_p95_ms),
    ];
    uses.into_iter().flatten().collect()
}

fn measured_sentence(outcome: &v1::DeviceOutcome, summary: &v1::TelemetrySummary) -> String {
    let mut text = format!(
        "It measured p95 {} over {} requests, {} failed",
        ms(summary.p95_ms),
        count(summary.count),
        count(summary.errors)
    );
    // While another is made, that one's time is what is predicted.
    let predicted = outcome.predicted_p95_ms.filter(|_| outcome.state != "Deriving");
    if let Some(predicted) = predicted.filter(|&predicted| predicted > 0.0) {
        let off = (summary.p95_ms / predicted - 1.0) * 100.0;
        let side = if off < 0.0 { "under" } else { "over" };
        text += &format!(": {:.0}% {side} what was predicted", off.abs());
    }
    if let Some(ceiling) = outcome.budget.and_then(|budget| budget.latency_p95_ms) {
        let side = if summary.p95_ms <= ceiling { "within" } else { "over" };
        text += &format!(", {side} its ceiling");
    }
    text + "."
}

/// What is to be said where there is room, and the policy to use it is off.
fn unused_room(
    deployment: &v1::Deployment,
    outcome: &v1::DeviceOutcome,
    summary: &v1::TelemetrySummary,
) -> Option<&'static str> {
    let manifest = DeploymentManifest::read(&deployment.manifest).ok()?;
    let usual = GrowSpec::default();
    let ceilings = outcome.budget?;
    let times = [
        ceilings.latency_p50_ms.map(|ceiling| summary.p50_ms / ceiling),
        ceilings.latency_p95_ms.map(|ceiling| summary.p95_ms / ceiling),
    ];
    let fullest = times.into_iter().flatten().max_by(f64::total_cmp)?;
    let has_room = fullest < 1.0 - usual.when_room / 100.0 && summary.count >= usual.at_least_requests;
    (has_room && manifest.spec.rollout.grow.is_none())
        .then_some(" It has room for a larger network, but the deployment's policy, rollout.grow, is off.")
}
