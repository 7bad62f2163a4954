//! Records as the operator sees them. Formats nothing: that is the command line's.

use std::collections::BTreeMap;

use proto::session::Phase;
use proto::{DeviceId, v1};
use pruner_core::Shape;
use pruner_core::budget::Budget;
use pruner_core::graph::cost::Cost;
use pruner_core::plan::LayerPlan;
use pruner_core::zoo::ZooNetwork;

use crate::board::Job;
use crate::causes::chain;
use crate::class;
use crate::derive::Subject;
use crate::fitting::{Fitting, Verdict};
use crate::fleet::{Fleet, Presence};
use crate::histogram::{LatencyTally, Summary};
use crate::manifest::{DeploymentSpec, TrainerKind};
use crate::probes::ProbeSet;
use crate::refit::{self, Breach};
use crate::store::{
    ArtifactRecord, AssignmentRecord, DatasetRecord, DeploymentPhase, DeploymentRecord, DeviceRecord,
    LayerRecord, ModelRecord, Outcome, OutcomeRecord, TelemetryRecord,
};

pub(super) fn device(
    record: &DeviceRecord,
    (presence, told): (Option<Presence>, Option<&AssignmentRecord>),
    probes: &ProbeSet,
) -> v1::Device {
    let holding = presence.as_ref().map_or(record.holding, |presence| presence.holding.into());
    // One that went back to what it had before serves what another assignment gave it, which is not kept.
    let told = told.filter(|told| holding.digest == Some(told.digest()));
    let unreadable = record.unreadable.as_ref();
    let mut view = v1::Device {
        id: record.id.to_string(),
        labels: record.labels.clone().into_iter().collect(),
        status: if presence.is_some() { "Online" } else { "Offline" }.to_owned(),
        generation: holding.generation.0,
        active_digest: holding.digest.map(|digest| digest.to_string()).unwrap_or_default(),
        told_by: told.map(|told| told.order.deployment.clone()).unwrap_or_default(),
        unreadable_intervals: unreadable.map_or(0, |unreadable| unreadable.intervals),
        unreadable_reason: unreadable.map(|unreadable| unreadable.reason.clone()).unwrap_or_default(),
        takeovers: presence.as_ref().map_or(0, |presence| presence.takeovers.len() as u32),
        serving_engine: presence.as_ref().map(|presence| presence.engine.clone()).unwrap_or_default(),
        last_seen_unix_ms: presence.map_or(record.last_seen_unix_ms, |presence| presence.last_seen_unix_ms),
        agent_version: record.agent_version.clone(),
        serving_address: record.serving_address.clone(),
        ..v1::Device::default()
    };
    let Some(profile) = &record.profile else { return view };
    view.class_id = class::class(profile).map(|class| class.to_string()).unwrap_or_default();
    view.arch = profile.arch.clone();
    view.cpu_model = profile.cpu_model.clone().unwrap_or_default();
    view.instruction_sets = profile.instruction_sets.clone();
    view.logical_cores = profile.logical_cores;
    view.inference_threads = profile.inference_threads;
    view.cpu_quota_cores = profile.cpu_quota_cores;
    view.memory_total_bytes = profile.memory_total.map(|size| size.0);
    view.memory_limit_bytes = profile.memory_limit.map(|size| size.0);
    view.engine = format!("{} {}", profile.engine, profile.engine_version);
    view.vector_lanes = profile.vector_lanes();
    view.swap_total_bytes = profile.swap_total.map(|size| size.0);
    view.disk_free_bytes = profile.disk_free.map(|size| size.0);
    view.cpu_max_mhz = profile.cpu_max_mhz;
    view.cpu_governor = profile.cpu_governor.clone();
    view.thermal_zone = profile.thermal_zone.clone();
    view.profile_revision = profile.revision;
    let model = probes.latency_model(profile).ok();
    for probe in probes.iter() {
        let timing = profile.probes.iter().find(|timing| timing.digest == probe.artifact.digest);
        view.probes.extend(timing.map(|timing| v1::ProbeResult {
            name: probe.name.clone(),
            p50_ms: timing.p50_ms,
            p95_ms: timing.p95_ms,
            fitted_p95_ms: model.as_ref().map_or(0.0, |model| model.predict(&probe.graph).p95_ms),
        }));
    }
    view
}

pub(super) fn model(network: ZooNetwork, cost: &Cost, input: Shape, classes: usize) -> v1::Model {
    v1::Model {
        name: network.to_string(),
        input_shape: vec![input.channels as u32, input.height as u32, input.width as u32],
        classes: classes as u32,
        params: cost.params,
        macs: cost.macs,
        bytes: cost.bytes,
        origin: "zoo".to_owned(),
        digest: String::new(),
        notes: Vec::new(),
    }
}

pub(super) fn imported(record: &ModelRecord) -> v1::Model {
    v1::Model {
        name: record.name.to_string(),
        input_shape: record.input_shape.to_vec(),
        classes: record.classes,
        params: record.footprint.params,
        macs: record.footprint.macs,
        bytes: record.footprint.bytes,
        origin: "imported".to_owned(),
        digest: record.file.digest.to_string(),
        notes: record.notes.clone(),
    }
}

pub(super) fn dataset(record: &DatasetRecord) -> v1::Dataset {
    v1::Dataset {
        name: record.name.to_string(),
        format: record.spec.format.name().to_owned(),
        path: record.spec.path.display().to_string(),
        test_share: record.spec.test_share.map(f64::from),
        input_shape: record.input_shape.to_vec(),
        classes: record.classes,
        train_images: record.train_images,
        test_images: record.test_images,
        added_unix_ms: record.added_unix_ms,
    }
}

pub(super) fn artifact(record: &ArtifactRecord) -> v1::Artifact {
    v1::Artifact {
        digest: record.digest.to_string(),
        network: record.network.clone(),
        footprint: Some(footprint(record)),
        test_accuracy: record.test_accuracy,
        test_images: record.test_images,
        train_images: record.train_images,
        epochs: record.epochs,
        seconds_to_prune: record.seconds_to_prune,
        seconds_to_train: record.seconds_to_train,
        layers: record.layers.iter().map(layer).collect(),
    }
}

fn footprint(record: &ArtifactRecord) -> v1::Footprint {
    let crate::store::Footprint { params, macs, bytes, memory_bytes, activation_bytes } = record.footprint;
    v1::Footprint { params, macs, bytes, memory_bytes, activation_bytes }
}

fn layer(layer: &LayerRecord) -> v1::LayerWidth {
    let LayerRecord { layer, before, after, sensitivity } = layer.clone();
    v1::LayerWidth { layer, before, after, sensitivity }
}

/// One summary per artifact and generation that the device served, in order of time.
pub(super) fn telemetry(intervals: &[TelemetryRecord]) -> Vec<v1::TelemetrySummary> {
    let mut served: BTreeMap<_, Vec<&TelemetryRecord>> = BTreeMap::new();
    for record in intervals {
        served.entry((record.interval.generation, record.interval.digest)).or_default().push(record);
    }
    let summaries = served.into_iter().filter_map(|((generation, digest), records)| {
        let mut tally = LatencyTally::default();
        // Intervals that cannot be read are counted as errors: one must not hide the others.
        let unreadable =
            records.iter().filter(|record| tally.add(&record.interval.histogram).is_err()).count() as u64;
        let summary = tally.summary();
        let last = records.last()?;
        let hottest = records.iter().filter_map(|record| record.interval.millicelsius).max();
        let of = |figure: fn(&Summary) -> f64| summary.as_ref().map_or(0.0, figure);
        Some(v1::TelemetrySummary {
            device_id: last.device.to_string(),
            digest: digest.to_string(),
            generation: generation.0,
            count: summary.as_ref().map_or(0, |summary| summary.count),
            errors: records.iter().fold(unreadable, |sum, record| sum.saturating_add(record.interval.errors)),
            p50_ms: of(|summary| summary.p50_ms),
            p95_ms: of(|summary| summary.p95_ms),
            p99_ms: of(|summary| summary.p99_ms),
            mean_ms: of(|summary| summary.mean_ms),
            max_ms: of(|summary| summary.max_ms),
            intervals: records.len() as u64,
            rss_bytes: last.interval.rss.map(|size| size.0),
            cpu_cores: cores(&records),
            temperature: hottest.map(|millicelsius| f64::from(millicelsius) / 1e3),
        })
    });
    summaries.collect()
}

/// Cores that the agent kept busy on average, over the intervals that say so.
fn cores(records: &[&TelemetryRecord]) -> Option<f64> {
    let told =
        records.iter().filter_map(|record| Some((record.interval.cpu_ms?, record.interval.interval_ms)));
    let (busy, lasted) = told.fold((0, 0), |(busy, lasted), (ms, of)| (busy + ms, lasted + of));
    (lasted > 0).then(|| busy as f64 / lasted as f64)
}

pub(super) fn deployment(
    record: &DeploymentRecord,
    artifacts: &[ArtifactRecord],
    (fleet, is_banned, over): (
        &Fleet,
        impl Fn(&DeviceId) -> bool,
        impl Fn(&DeviceId, &OutcomeRecord) -> Option<Breach>,
    ),
) -> v1::Deployment {
    let count = |wanted: fn(&Outcome) -> bool| {
        record.outcomes.values().filter(|outcome| wanted(&outcome.state)).count() as u32
    };
    let is_active = |(id, outcome): &(&DeviceId, &OutcomeRecord)| {
        matches!(outcome.state, Outcome::Active { .. }) && !is_banned(id)
    };
    let whereabouts = |id: &DeviceId| match fleet.presence(id) {
        _ if is_banned(id) => Whereabouts::Banned,
        Some(presence) => Whereabouts::Online(presence),
        None => Whereabouts::Away,
    };
    let over = |id: &DeviceId, outcome: &OutcomeRecord| {
        Some(Over { breach: over(id, outcome)?, next: helps(&record.manifest.spec) })
    };
    let mut over_ceiling = 0;
    let mut devices = Vec::with_capacity(record.outcomes.len());
    for (id, outcome) in &record.outcomes {
        let over = over(id, outcome);
        over_ceiling += u32::from(over.is_some() && !is_banned(id));
        let mut view = outcome_of((id, outcome), artifacts, whereabouts(id), over.as_ref());
        if is_failed(record) && is_untold(outcome) {
            view.reason = "it is not told: the deployment has failed; it keeps what it serves".to_owned();
        }
        devices.push(view);
    }
    v1::Deployment {
        name: record.name.clone(),
        generation: record.generation.0,
        network: record.manifest.spec.network.clone(),
        phase: phase(&record.phase).to_owned(),
        message: message(record),
        paused: record.paused && !is_failed(record),
        matched: record.outcomes.len() as u32,
        active: record.outcomes.iter().filter(is_active).count() as u32,
        no_fit: count(|state| matches!(state, Outcome::NoFit { .. })),
        failed: count(|state| matches!(state, Outcome::Failed { .. })),
        devices,
        manifest: record.text.clone(),
        over_ceiling,
    }
}

fn is_failed(record: &DeploymentRecord) -> bool {
    matches!(record.phase, DeploymentPhase::Failed { .. })
}

/// Whether it is to get something yet.
fn is_untold(outcome: &OutcomeRecord) -> bool {
    matches!(outcome.state, Outcome::Waiting { .. } | Outcome::Deriving | Outcome::Fitted)
}

/// A ceiling that a device breaks with the model that it has, and gets no other for.
struct Over {
    breach: Breach,
    /// What helps.
    next: String,
}

/// What helps a device that is over its ceiling. A manifest that differs is fitted to it anew, by what it has measured.
fn helps(spec: &DeploymentSpec) -> String {
    match spec.training.trainer {
        TrainerKind::External => {
            "it is not fitted again, as its trainer is external: apply a higher ceiling".to_owned()
        }
        TrainerKind::Builtin | TrainerKind::Command => {
            let most = refit::most_refits(spec);
            format!(
                "it is not fitted again, as rollout.refits is {most}: apply a higher ceiling, or more refits"
            )
        }
    }
}

/// Where a device of a deployment is.
enum Whereabouts {
    Online(Presence),
    Away,
    Banned,
}

/// What it waits for, or how it ended and what takes it on from there. A complete one that is paused waits for nothing, and
/// still keeps from devices what they would get.
pub(super) fn message(record: &DeploymentRecord) -> String {
    let DeploymentRecord { name, message, paused, phase, .. } = record;
    if *paused && *phase == DeploymentPhase::Complete {
        return format!(
            "{message}; paused: a device that comes is told nothing until `reconvene rollout resume {name}`"
        );
    }
    if is_failed(record) && !record.undo_due {
        let back = match record.way_back() {
            Some(_) => format!(", `reconvene rollout undo {name}` goes back to the manifest before"),
            None => String::new(),
        };
        return format!(
            "{message}; `reconvene rollout retry {name}` begins it again, a changed manifest replaces it{back}"
        );
    }
    message.clone()
}

fn phase(phase: &DeploymentPhase) -> &'static str {
    match phase {
        DeploymentPhase::Pending => "Pending",
        DeploymentPhase::Scoring => "Scoring",
        DeploymentPhase::Deriving => "Deriving",
        DeploymentPhase::RollingOut => "RollingOut",
        DeploymentPhase::Complete => "Complete",
        DeploymentPhase::Failed { .. } => "Failed",
    }
}

/// Whether a deployment changes no more of itself.
pub(super) fn is_ended(deployment: &v1::Deployment) -> bool {
    matches!(deployment.phase.as_str(), "Complete" | "Failed")
}

fn outcome_of(
    (id, outcome): (&DeviceId, &OutcomeRecord),
    artifacts: &[ArtifactRecord],
    whereabouts: Whereabouts,
    over: Option<&Over>,
) -> v1::DeviceOutcome {
    let artifact =
        outcome.digest.and_then(|digest| artifacts.iter().find(|artifact| artifact.digest == digest));
    let (state, reason) = state(outcome, &whereabouts, over);
    let presence = match whereabouts {
        Whereabouts::Online(presence) => Some(presence),
        Whereabouts::Away | Whereabouts::Banned => None,
    };
    let downloaded = presence.and_then(|presence| presence.progress).map(|progress| match progress.phase {
        Phase::Downloading { done } if Some(progress.generation) == outcome.assignment => done,
        _ => 0,
    });
    v1::DeviceOutcome {
        device_id: id.to_string(),
        state: state.to_owned(),
        reason,
        class_id: outcome.class.as_ref().map(|class| class.to_string()).unwrap_or_default(),
        digest: outcome.digest.map(|digest| digest.to_string()).unwrap_or_default(),
        budget: Some(ceilings(&outcome.budget)),
        planned: artifact.map(footprint),
        predicted_p50_ms: outcome.predicted.map(|predicted| predicted.p50_ms),
        predicted_p95_ms: outcome.predicted.map(|predicted| predicted.p95_ms),
        test_accuracy: artifact.and_then(|artifact| artifact.test_accuracy),
        wave: outcome.wave.map_or(0, |wave| wave + 1),
        download_bytes: downloaded.unwrap_or(0),
    }
}

fn state(outcome: &OutcomeRecord, whereabouts: &Whereabouts, over: Option<&Over>) -> (&'static str, String) {
    let (state, mut reason) = bare_state(outcome, whereabouts, over);
    if let Some(last) = outcome.breaches.last() {
        let times = match outcome.breaches.len() {
            1 => "once".to_owned(),
            more => format!("{more} times"),
        };
        reason += &format!("; fitted again {times}, for {}", last.text());
    }
    if let Some(growth) = outcome.grown() {
        reason += &format!("; grown by {}", growth.text());
    }
    if let Some((growth, why)) = outcome.taken_back() {
        reason += &format!("; a larger network ({}) was taken back: {why}", growth.text());
    }
    match (&outcome.state, &outcome.held) {
        (Outcome::Active { .. }, Some(held)) => reason += &format!("; it does not grow: {held}"),
        (Outcome::Deriving, Some(held)) => reason = format!("its model is not being made: {held}"),
        (Outcome::Fitted, Some(held)) => reason = format!("its model is ready; it is not told yet: {held}"),
        _ => {}
    }
    if let Some(Over { next, .. }) = over {
        reason += &format!("; {next}");
    }
    (state, reason)
}

fn bare_state(
    outcome: &OutcomeRecord,
    whereabouts: &Whereabouts,
    over: Option<&Over>,
) -> (&'static str, String) {
    match &outcome.state {
        Outcome::Waiting { reason } => ("Waiting", reason.clone()),
        Outcome::Deriving => ("Deriving", "its model is being pruned and trained".to_owned()),
        Outcome::NoFit { text, .. } => ("NoFit", text.clone()),
        Outcome::Fitted => ("Fitted", "its model is ready; its wave has not come".to_owned()),
        Outcome::Assigned { .. } => {
            let reason = match whereabouts {
                Whereabouts::Online(_) => "it was told and is changing over",
                Whereabouts::Away => "it is away and changes over when it comes back",
                Whereabouts::Banned => "it is banned; it changes over once it is let in again",
            };
            ("Assigned", reason.to_owned())
        }
        Outcome::Active { .. } => {
            let network = match over {
                _ if outcome.budget == Budget::default() => "the whole network, without a budget,",
                Some(_) => "a network that is over its ceiling",
                None => "the largest network within its budget",
            };
            let mut reason = match whereabouts {
                Whereabouts::Online(_) => format!("it serves {}", network.trim_end_matches(',')),
                Whereabouts::Away => format!("it is away; it served {network} when it was last heard of"),
                Whereabouts::Banned => format!("it is banned; it served {network} when it was last heard of"),
            };
            if let Some(Over { breach, .. }) = over {
                reason += &format!(": {}", breach.text());
            }
            ("Active", reason)
        }
        Outcome::Failed { reason } => ("Failed", reason.clone()),
    }
}

fn ceilings(budget: &Budget) -> v1::Ceilings {
    let Budget { params, macs, bytes, memory_bytes, activation_bytes, latency_p50_ms, latency_p95_ms } =
        *budget;
    v1::Ceilings { params, macs, bytes, memory_bytes, latency_p95_ms, latency_p50_ms, activation_bytes }
}

/// A device that cannot be planned for yet.
pub(super) fn waiting(id: &DeviceId, reason: &str) -> v1::DeviceOutcome {
    v1::DeviceOutcome {
        device_id: id.to_string(),
        state: "Waiting".to_owned(),
        reason: reason.to_owned(),
        ..v1::DeviceOutcome::default()
    }
}

pub(super) fn plan(
    name: String,
    subject: &Subject,
    fittings: &[Fitting],
    waiting: Vec<v1::DeviceOutcome>,
) -> v1::PlanResponse {
    let mut models: Vec<v1::PlannedModel> = Vec::new();
    let mut devices = waiting;
    for fitting in fittings {
        let mut outcome = v1::DeviceOutcome {
            device_id: fitting.id.to_string(),
            class_id: fitting.class.id().to_string(),
            budget: Some(ceilings(&fitting.budget)),
            ..v1::DeviceOutcome::default()
        };
        match &fitting.verdict {
            Verdict::Fit { plan, predicted } => {
                let footprint = cost(&plan.promised);
                outcome.state = "Fitted".to_owned();
                outcome.reason = if fitting.budget == Budget::default() {
                    "no rule of spec.budgets sets it a ceiling: it gets the whole network".to_owned()
                } else if plan.is_identity() {
                    "the dense network is within every ceiling".to_owned()
                } else {
                    "the largest network within every ceiling".to_owned()
                };
                outcome.planned = Some(footprint);
                outcome.predicted_p50_ms = Some(predicted.p50_ms);
                outcome.predicted_p95_ms = Some(predicted.p95_ms);
                let layers: Vec<_> = plan.layers.iter().map(planned_layer).collect();
                match models.iter_mut().find(|model| model.layers == layers) {
                    Some(model) => model.device_ids.push(fitting.id.to_string()),
                    None => models.push(v1::PlannedModel {
                        device_ids: vec![fitting.id.to_string()],
                        footprint: Some(footprint),
                        layers,
                    }),
                }
            }
            Verdict::NoFit { text, .. } => {
                outcome.state = "NoFit".to_owned();
                outcome.reason = text.clone();
            }
            Verdict::Unusable(error) => {
                outcome.state = "Failed".to_owned();
                outcome.reason = chain(error);
            }
        }
        devices.push(outcome);
    }
    devices.sort_by(|a, b| a.device_id.cmp(&b.device_id));
    v1::PlanResponse { name, dense: Some(cost(&subject.cost)), devices, models }
}

fn planned_layer(layer: &LayerPlan) -> v1::LayerWidth {
    v1::LayerWidth {
        layer: layer.name.clone(),
        before: layer.before as u32,
        after: layer.after as u32,
        sensitivity: layer.sensitivity,
    }
}

fn cost(cost: &Cost) -> v1::Footprint {
    let Cost { params, macs, bytes, memory_bytes, activation_bytes } = *cost;
    v1::Footprint { params, macs, bytes, memory_bytes, activation_bytes }
}

pub(super) fn job((title, job): (String, Job)) -> v1::JobProgress {
    let Job { done, total, message, finished } = job;
    v1::JobProgress { job: title, done, total, message, finished }
}

#[cfg(test)]
mod tests;
