//! Each device answers for itself: real test images, one at a time, while the other agents and the trainer rest. The
//! times are the agent's own, as they reached the coordinator.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use proto::v1;
use pruner_core::dataset::{Split, read_idx};

use super::DEPLOYMENT;
use super::fleet::{Fleet, Member};
use super::load::Load;
use super::progress::Talk;
use crate::daemon::Confinement;
use crate::inference::{InferenceClient, argmax};
use crate::poll::{Answer, wait_until};

/// How long telemetry may take to arrive: some intervals, and a reconnection.
const TELEMETRY_LIMIT: Duration = Duration::from_secs(30);

/// How often a device is asked about all images, at most, while its times are over a ceiling. What a neighbour on the
/// same machine does for a moment then weighs less; no answer is left out of the percentiles.
const ROUNDS: usize = 4;

/// The images that every device is asked about.
#[derive(Debug, Clone)]
pub(super) struct TestImages {
    images: Split,
}

impl TestImages {
    /// The first `count` test images of the data set in `folder`.
    pub(super) fn read(folder: &Path, count: usize) -> Result<Self> {
        Ok(Self { images: read_idx(folder)?.test.take(count) })
    }
}

/// What one device did with them.
#[derive(Debug)]
pub(super) struct Measurement {
    pub(super) device: String,
    /// Images asked about.
    pub(super) requests: usize,
    /// Answers that agreed with the label.
    pub(super) agreed: usize,
    /// As the coordinator holds it.
    pub(super) telemetry: v1::TelemetrySummary,
    /// Periods in which the CPU quota stopped the agent; 0 without one.
    pub(super) throttled: u64,
    /// Cores' worth of work that other processes did meanwhile.
    pub(super) foreign_cores: f64,
}

/// Measures every device that the deployment made active, one after the other.
pub(super) async fn all(
    talk: &Talk,
    fleet: &mut Fleet,
    deployment: &v1::Deployment,
    images: &TestImages,
) -> Result<Vec<Measurement>> {
    let mut measurements = Vec::new();
    for outcome in deployment.devices.iter().filter(|outcome| outcome.state == "Active") {
        fleet.ensure_running()?;
        let member = fleet.members.iter().find(|member| member.profile.id == outcome.device_id);
        let member = member.with_context(|| format!("{} is none of ours", outcome.device_id))?;
        let measurement = one(talk, fleet, member, outcome, images).await?;
        talk.say(format!(
            "  {}: {} of {} images as labelled, p50 {:.3} ms, p95 {:.3} ms",
            measurement.device,
            measurement.agreed,
            measurement.requests,
            measurement.telemetry.p50_ms,
            measurement.telemetry.p95_ms
        ));
        measurements.push(measurement);
    }
    Ok(measurements)
}

async fn one(
    talk: &Talk,
    fleet: &Fleet,
    member: &Member,
    outcome: &v1::DeviceOutcome,
    images: &TestImages,
) -> Result<Measurement> {
    let (device, digest) = (&member.profile.id, &outcome.digest);
    let address = serving_address(fleet, device, digest).await?;
    let throttled_before = throttled(member)?;
    let mut measurement = Measurement {
        device: device.clone(),
        requests: 0,
        agreed: 0,
        telemetry: v1::TelemetrySummary::default(),
        throttled: 0,
        foreign_cores: 0.0,
    };
    for _ in 0..ROUNDS {
        let bar = talk.bar(&format!("measure {device}"), images.images.len() as u64);
        let asking = {
            let (images, bar, address) = (images.images.clone(), bar.clone(), address.clone());
            tokio::task::spawn_blocking(move || ask(&InferenceClient::new(&address), &images, || bar.inc(1)))
        };
        let load = Load::now(&[member.agent.pid(), std::process::id()])?;
        measurement.agreed += asking.await?.with_context(|| format!("{device} did not answer"))?;
        measurement.foreign_cores = measurement.foreign_cores.max(load.foreign_cores()?);
        bar.finish_and_clear();
        measurement.requests += images.images.len();
        measurement.telemetry = arrived(fleet, device, digest, measurement.requests as u64).await?;
        if !is_late(&outcome.budget.unwrap_or_default(), &measurement.telemetry) {
            break;
        }
    }
    measurement.throttled = throttled(member)? - throttled_before;
    Ok(measurement)
}

/// Whether a time is over its ceiling.
fn is_late(budget: &v1::Ceilings, telemetry: &v1::TelemetrySummary) -> bool {
    budget.latency_p50_ms.is_some_and(|ms| telemetry.p50_ms > ms)
        || budget.latency_p95_ms.is_some_and(|ms| telemetry.p95_ms > ms)
}

/// Where the device serves, once it serves `digest`.
async fn serving_address(fleet: &Fleet, device: &str, digest: &str) -> Result<String> {
    wait_until(&format!("{device} serving {digest}"), TELEMETRY_LIMIT, async || {
        let Some(seen) = fleet.operator.device(device).await? else {
            return Ok(Answer::NotYet("unknown".to_owned()));
        };
        let serves = seen.active_digest == digest && !seen.serving_address.is_empty();
        let state = format!("'{}' at '{}'", seen.active_digest, seen.serving_address);
        Ok(if serves { Answer::Ready(seen.serving_address) } else { Answer::NotYet(state) })
    })
    .await
}

/// Asks about every image and counts the answers that agree with the label. The bodies are made beforehand, so that
/// the client does not compete with the agent.
fn ask(client: &InferenceClient, images: &Split, mut on_answer: impl FnMut()) -> Result<usize> {
    let metadata = client.metadata(DEPLOYMENT)?;
    let requests =
        (0..images.len()).map(|index| metadata.request(images.pixels(index))).collect::<Result<Vec<_>>>()?;
    let mut agreed = 0;
    for (index, request) in requests.iter().enumerate() {
        let logits = client.infer(DEPLOYMENT, request)?;
        agreed += usize::from(argmax(&logits) == usize::from(images.label(index)));
        on_answer();
    }
    Ok(agreed)
}

fn throttled(member: &Member) -> Result<u64> {
    match member.agent.confinement() {
        Confinement::Quota(quota) => quota.times_throttled(),
        Confinement::None | Confinement::OneCore(_) => Ok(0),
    }
}

/// What the coordinator holds of these requests, once it holds all of them.
async fn arrived(fleet: &Fleet, device: &str, digest: &str, requests: u64) -> Result<v1::TelemetrySummary> {
    let telemetry = wait_until(&format!("the telemetry of {device}"), TELEMETRY_LIMIT, async || {
        Ok(match fleet.operator.telemetry(device, digest).await? {
            Some(summary) if summary.count >= requests => Answer::Ready(summary),
            Some(summary) => Answer::NotYet(format!("{} of {requests} requests", summary.count)),
            None => Answer::NotYet("none".to_owned()),
        })
    })
    .await?;
    ensure!(telemetry.count == requests, "{device} counted {} of {requests} requests", telemetry.count);
    ensure!(telemetry.errors == 0, "{device} answered {} requests with an error", telemetry.errors);
    Ok(telemetry)
}
