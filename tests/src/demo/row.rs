//! One line of the final table: what a device was allowed, what it got, what was predicted and what it measured.

use anyhow::{Context, Result};
use proto::v1;
use serde::Serialize;

use super::Generation;
use super::fleet::{Fleet, Member, describe};
use super::measure::Measurement;

/// Work by others above which it counts as a cause, in cores.
const DISTURBED: f64 = 0.2;

/// One device with one model.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// The device.
    pub device: String,
    /// Its means, as it reported them.
    pub profile: String,
    /// Threads of its engine.
    pub threads: u32,
    /// Its CPU quota in cores, if there is one.
    pub cpu_quota_cores: Option<f64>,
    /// f32 lanes of its instruction set, if known.
    pub vector_lanes: Option<u32>,
    /// `dense` or `fitted`.
    pub model: &'static str,
    /// The artifact; empty where no model fits.
    pub digest: String,
    /// What it was allowed.
    pub budget: v1::Ceilings,
    /// What it got; `None` where no model fits.
    pub footprint: Option<v1::Footprint>,
    /// On the test images, 0..1.
    pub test_accuracy: Option<f64>,
    /// How many test images.
    pub test_images: u32,
    /// What the coordinator expected, milliseconds.
    pub predicted_p50_ms: Option<f64>,
    /// What the coordinator expected, milliseconds.
    pub predicted_p95_ms: Option<f64>,
    /// What the agent measured, milliseconds.
    pub measured_p50_ms: Option<f64>,
    /// What the agent measured, milliseconds.
    pub measured_p95_ms: Option<f64>,
    /// Images that the measurement rests on.
    pub requests: usize,
    /// Share of them that the device answered as labelled.
    pub agreement: Option<f64>,
    /// Whether the budget was met.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// Whether a budget was met.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "outcome", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Outcome {
    /// There was none.
    Unbounded,
    /// Every ceiling holds, by measurement.
    Met,
    /// No model of this network fits.
    NoFit {
        /// Which ceiling, in the coordinator's words.
        reason: String,
    },
    /// A time is over its ceiling, though it was measured again and again.
    Late {
        /// By how much.
        miss: String,
        /// What was counted meanwhile and is not the model's doing, if anything was.
        cause: Option<String>,
    },
    /// A count is over its ceiling.
    Over {
        /// By how much.
        miss: String,
    },
}

impl Outcome {
    /// Whether a run may end so on any machine. A count over its ceiling is a defect of the planner; a time depends on
    /// whoever else uses the machine, so it is reported and never fails a run.
    pub fn is_sound(&self) -> bool {
        match self {
            Self::Unbounded | Self::Met | Self::Late { .. } => true,
            Self::NoFit { reason } => !reason.is_empty(),
            Self::Over { .. } => false,
        }
    }
}

/// For each device its dense row, then its fitted one.
pub(super) fn rows(fleet: &Fleet, dense: &Generation, fitted: &Generation) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for member in &fleet.members {
        rows.push(row(member, dense, "dense")?);
        rows.push(row(member, fitted, "fitted")?);
    }
    Ok(rows)
}

fn row(member: &Member, generation: &Generation, model: &'static str) -> Result<Row> {
    let profile = &member.profile;
    let outcome = generation.outcome(&profile.id)?;
    let artifact = generation.artifact(&outcome.digest);
    let measurement = generation.measurement(&profile.id);
    let telemetry = measurement.map(|measurement| &measurement.telemetry);
    Ok(Row {
        device: profile.id.clone(),
        profile: describe(&member.agent, profile),
        threads: profile.inference_threads,
        cpu_quota_cores: profile.cpu_quota_cores,
        vector_lanes: profile.vector_lanes,
        model,
        digest: outcome.digest.clone(),
        budget: outcome.budget.unwrap_or_default(),
        footprint: artifact.and_then(|artifact| artifact.footprint),
        test_accuracy: artifact.and_then(|artifact| artifact.test_accuracy),
        test_images: artifact.map_or(0, |artifact| artifact.test_images),
        predicted_p50_ms: outcome.predicted_p50_ms,
        predicted_p95_ms: outcome.predicted_p95_ms,
        measured_p50_ms: telemetry.map(|telemetry| telemetry.p50_ms),
        measured_p95_ms: telemetry.map(|telemetry| telemetry.p95_ms),
        requests: measurement.map_or(0, |measurement| measurement.requests),
        agreement: measurement.map(|m| m.agreed as f64 / m.requests as f64),
        outcome: judge(outcome, artifact, measurement)
            .with_context(|| format!("{} has no judgement of its {model} model", profile.id))?,
    })
}

/// Holds what the device got and measured against every ceiling.
fn judge(
    outcome: &v1::DeviceOutcome,
    artifact: Option<&v1::Artifact>,
    measurement: Option<&Measurement>,
) -> Result<Outcome> {
    match outcome.state.as_str() {
        "NoFit" => return Ok(Outcome::NoFit { reason: outcome.reason.clone() }),
        "Active" => {}
        state => anyhow::bail!("the device ended as {state}: {}", outcome.reason),
    }
    let budget = outcome.budget.unwrap_or_default();
    if budget == v1::Ceilings::default() {
        return Ok(Outcome::Unbounded);
    }
    let got = artifact.and_then(|artifact| artifact.footprint).context("its artifact has no footprint")?;
    let measurement = measurement.context("it was not measured")?;
    let v1::Ceilings { params, macs, bytes, memory_bytes, activation_bytes, latency_p50_ms, latency_p95_ms } =
        budget;
    let counts = [
        ("params", params, got.params),
        ("macs", macs, got.macs),
        ("bytes", bytes, got.bytes),
        ("memory bytes", memory_bytes, got.memory_bytes),
        ("bytes of activations", activation_bytes, got.activation_bytes),
    ];
    for (name, allowed, got) in counts {
        if let Some(allowed) = allowed.filter(|&allowed| got > allowed) {
            return Ok(Outcome::Over { miss: format!("{got} {name}, {allowed} allowed") });
        }
    }
    let telemetry = &measurement.telemetry;
    let times = [
        ("p50", latency_p50_ms, telemetry.p50_ms, outcome.predicted_p50_ms),
        ("p95", latency_p95_ms, telemetry.p95_ms, outcome.predicted_p95_ms),
    ];
    for (name, allowed, ms, predicted) in times {
        if let Some(allowed) = allowed.filter(|&allowed| ms > allowed) {
            let share = (ms / allowed - 1.0) * 100.0;
            let predicted = predicted.map(|ms| format!(", {ms:.3} ms predicted")).unwrap_or_default();
            let miss = format!("{name} {ms:.3} ms, {share:.0} % over {allowed:.3} ms{predicted}");
            return Ok(Outcome::Late { miss, cause: cause(measurement) });
        }
    }
    Ok(Outcome::Met)
}

/// What was counted meanwhile that slows a device down and is not its model's doing.
fn cause(measurement: &Measurement) -> Option<String> {
    let mut causes = Vec::new();
    if measurement.throttled > 0 {
        causes.push(format!("its CPU quota stopped it {} times meanwhile", measurement.throttled));
    }
    if measurement.foreign_cores >= DISTURBED {
        causes.push(format!("other processes took {:.1} cores meanwhile", measurement.foreign_cores));
    }
    (!causes.is_empty()).then(|| causes.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(p95_ms: f64, throttled: u64, foreign_cores: f64) -> Measurement {
        let telemetry = v1::TelemetrySummary { p95_ms, count: 300, ..Default::default() };
        Measurement { device: "gw-x".into(), requests: 300, agreed: 250, telemetry, throttled, foreign_cores }
    }

    fn judged(state: &str, budget: v1::Ceilings, measurement: &Measurement) -> Outcome {
        let footprint = Some(v1::Footprint {
            params: 100,
            macs: 10,
            bytes: 500,
            memory_bytes: 900,
            activation_bytes: 300,
        });
        let artifact = v1::Artifact { footprint, ..Default::default() };
        let outcome = v1::DeviceOutcome {
            state: state.into(),
            reason: "why".into(),
            budget: Some(budget),
            ..Default::default()
        };
        judge(&outcome, Some(&artifact), Some(measurement)).unwrap()
    }

    #[test]
    fn a_budget_is_judged_by_what_was_measured() {
        let budget = |params, latency| v1::Ceilings {
            params: Some(params),
            latency_p95_ms: Some(latency),
            ..Default::default()
        };
        let quiet = measured(0.5, 0, 0.05);
        assert_eq!(judged("Active", v1::Ceilings::default(), &quiet), Outcome::Unbounded);
        assert_eq!(judged("Active", budget(100, 0.5), &quiet), Outcome::Met);
        assert_eq!(judged("NoFit", budget(1, 0.5), &quiet), Outcome::NoFit { reason: "why".into() });
        let over = judged("Active", budget(99, 0.5), &quiet);
        assert_eq!(over, Outcome::Over { miss: "100 params, 99 allowed".into() });
        assert!(!over.is_sound(), "a count is the planner's own affair");
        let late = judged("Active", budget(100, 0.4), &quiet);
        assert_eq!(late, Outcome::Late { miss: "p95 0.500 ms, 25 % over 0.400 ms".into(), cause: None });
        assert!(late.is_sound(), "a time is the machine's");
    }

    #[test]
    fn a_late_answer_is_explained_only_by_what_was_counted() {
        let budget = v1::Ceilings { latency_p95_ms: Some(0.4), ..Default::default() };
        for (measurement, word) in
            [(measured(0.5, 7, 0.0), "quota"), (measured(0.5, 0, 0.9), "other processes")]
        {
            match judged("Active", budget, &measurement) {
                Outcome::Late { cause: Some(cause), .. } => assert!(cause.contains(word), "{cause}"),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_device_that_ended_otherwise_is_an_error() {
        let outcome =
            v1::DeviceOutcome { state: "Failed".into(), reason: "no disk".into(), ..Default::default() };
        assert!(judge(&outcome, None, None).unwrap_err().to_string().contains("no disk"));
    }
}
