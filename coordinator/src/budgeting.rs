//! From a device's profile, its labels and the deployment's rules to its budget. Pure.
//!
//! Figures that depend on the device (a share of its own dense latency, a cap from its memory) are rounded down to two
//! significant digits, so that like devices share one artifact. What an operator wrote as a figure stays exact, and so
//! does a share of the dense network's counts: those are equal on all devices anyway.

use std::collections::BTreeMap;

use proto::{ByteSize, HardwareProfile};
use pruner_core::budget::Budget;
use pruner_core::graph::cost::Cost;
use pruner_core::latency::Latency;

use crate::class;
use crate::limit::{Count, Limit, Millis};
use crate::manifest::BudgetRule;

/// Share of the memory that the process may use which a model's weights and activations may take: the engine, its
/// packed copies of the weights and the agent itself need the rest.
const MEMORY_SHARE: f64 = 0.5;

/// What the dense network costs, in general and on one device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DenseFigures {
    /// In general.
    pub cost: Cost,
    /// On this device; `None` where it has no latency model.
    pub latency: Option<Latency>,
}

/// Why a rule gives no budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BudgetError {
    /// A share of an unknown.
    #[error(
        "a latency ceiling is a share of the dense network's, whose latency on this device is not known yet"
    )]
    DenseLatencyUnknown,
}

/// The budget of a device: the first of `rules` whose selector matches, and half of its memory.
pub fn budget(
    profile: &HardwareProfile,
    labels: &BTreeMap<String, String>,
    rules: &[BudgetRule],
    dense: &DenseFigures,
) -> Result<Budget, BudgetError> {
    let device_memory =
        class::usable_memory(profile).map(|bytes| coarse((bytes as f64 * MEMORY_SHARE).floor()) as u64);
    let Some(rule) = rules.iter().find(|rule| rule.selector.matches(labels, Some(profile))) else {
        return Ok(Budget { memory_bytes: device_memory, ..Budget::default() });
    };
    let anywhere = anywhere(rule, &dense.cost);
    Ok(Budget {
        memory_bytes: [anywhere.memory_bytes, device_memory].into_iter().flatten().min(),
        latency_p50_ms: rule
            .latency_p50
            .map(|limit| latency(limit, dense, |dense| dense.p50_ms))
            .transpose()?,
        latency_p95_ms: rule
            .latency_p95
            .map(|limit| latency(limit, dense, |dense| dense.p95_ms))
            .transpose()?,
        ..anywhere
    })
}

/// What a rule allows on whatever device: its ceilings without those of latency.
pub fn anywhere(rule: &BudgetRule, dense: &Cost) -> Budget {
    let bytes = |limit: Option<Limit<ByteSize>>, dense| limit.map(|limit| limit.resolve(ByteSize(dense)).0);
    Budget {
        params: rule.params.map(|limit| limit.resolve(Count(dense.params)).0),
        macs: rule.macs.map(|limit| limit.resolve(Count(dense.macs)).0),
        bytes: bytes(rule.size, dense.bytes),
        memory_bytes: bytes(rule.memory, dense.memory_bytes),
        activation_bytes: bytes(rule.activations, dense.activation_bytes),
        ..Budget::default()
    }
}

fn latency(
    limit: Limit<Millis>,
    dense: &DenseFigures,
    percentile: fn(&Latency) -> f64,
) -> Result<f64, BudgetError> {
    match limit {
        Limit::Absolute(Millis(ms)) => Ok(ms),
        Limit::OfDense(_) => {
            let dense = dense.latency.as_ref().ok_or(BudgetError::DenseLatencyUnknown)?;
            Ok(coarse(limit.resolve(Millis(percentile(dense))).0))
        }
    }
}

/// The largest number of two significant digits that is at most `value`: loses less than a tenth. Zero and what is not
/// finite stay as they are.
fn coarse(value: f64) -> f64 {
    if !(value.is_finite() && value > 0.0) {
        return value;
    }
    let shift = value.log10().floor() as i32 - 1;
    let scale = 10f64.powi(shift.abs());
    // Powers of ten are exact only upwards, so a small number is multiplied up rather than divided by 0.01. The hair
    // keeps a number that has two digits already from losing its last one.
    let digits = if shift < 0 { value * scale } else { value / scale };
    let whole = (digits * (1.0 + 1e-12)).floor();
    if shift < 0 { whole / scale } else { whole * scale }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DENSE: DenseFigures = DenseFigures {
        cost: Cost {
            params: 272_474,
            macs: 40_551_040,
            bytes: 1_100_000,
            memory_bytes: 1_400_000,
            activation_bytes: 300_000,
        },
        latency: Some(Latency { p50_ms: 2.2, p95_ms: 2.987 }),
    };

    fn profile(memory_limit: Option<u64>) -> HardwareProfile {
        HardwareProfile {
            arch: "x86_64".to_owned(),
            os: "linux".to_owned(),
            kernel: None,
            cpu_model: None,
            instruction_sets: Vec::new(),
            logical_cores: 1,
            caches: Vec::new(),
            memory_total: memory_limit.map(|_| ByteSize(8 << 30)),
            memory_limit: memory_limit.map(ByteSize),
            cpu_quota_cores: None,
            inference_threads: 1,
            engine: "rten".to_owned(),
            engine_version: "0.27.0".to_owned(),
            probes: Vec::new(),
            swap_total: None,
            disk_free: None,
            cpu_max_mhz: None,
            cpu_governor: None,
            thermal_zone: None,
            revision: 1,
        }
    }

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    fn rules(json: serde_json::Value) -> Vec<BudgetRule> {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn the_first_rule_that_matches_is_the_budget() {
        let rules = rules(serde_json::json!([
            { "selector": { "tier": "small" }, "params": "1/16.21", "latencyP95": "0.8ms" },
            { "selector": { "tier": "small", "site": "berlin" }, "params": "1" },
            { "size": "200Ki", "macs": "25%", "memory": "1Mi" },
        ]));
        let budget = |pairs| budget(&profile(None), &labels(pairs), &rules, &DENSE).unwrap();
        let small = Budget { params: Some(16_809), latency_p95_ms: Some(0.8), ..Budget::default() };
        assert_eq!(budget(&[("tier", "small"), ("site", "berlin")]), small);
        let other = Budget {
            macs: Some(10_137_760),
            bytes: Some(204_800),
            memory_bytes: Some(1 << 20),
            ..Budget::default()
        };
        assert_eq!(budget(&[("tier", "large")]), other);
    }

    #[test]
    fn no_rule_means_no_ceiling_but_the_devices_memory() {
        let none = labels(&[]);
        assert_eq!(budget(&profile(None), &none, &[], &DENSE), Ok(Budget::default()));
        let capped = Budget { memory_bytes: Some(130_000_000), ..Budget::default() };
        assert_eq!(budget(&profile(Some(256 << 20)), &none, &[], &DENSE), Ok(capped));
        let roomy = rules(serde_json::json!([{ "memory": "1Gi" }]));
        assert_eq!(budget(&profile(Some(256 << 20)), &none, &roomy, &DENSE), Ok(capped));
        let tight = rules(serde_json::json!([{ "memory": "1Mi" }]));
        let ceilings = budget(&profile(Some(256 << 20)), &none, &tight, &DENSE).unwrap();
        assert_eq!(ceilings.memory_bytes, Some(1 << 20));
    }

    #[test]
    fn a_share_of_the_latency_needs_the_dense_latency() {
        let rules = rules(serde_json::json!([{ "latencyP95": "50%" }]));
        let figures = |p95_ms: Option<f64>| DenseFigures {
            latency: p95_ms.map(|p95_ms| Latency { p50_ms: 2.2, p95_ms }),
            ..DENSE
        };
        let budget = |dense| budget(&profile(None), &labels(&[]), &rules, &dense);
        assert_eq!(budget(figures(Some(2.987))).unwrap().latency_p95_ms, Some(1.4));
        assert_eq!(budget(figures(Some(2.91))), budget(figures(Some(2.987))), "like devices, one budget");
        assert_eq!(budget(figures(None)), Err(BudgetError::DenseLatencyUnknown));
    }

    #[test]
    fn every_ceiling_of_a_rule_is_in_the_budget() {
        let rules = rules(serde_json::json!([{
            "params": "1/4", "macs": "1/4", "size": "1/4", "memory": "1/4", "activations": "1/4",
            "latencyP50": "50%", "latencyP95": "50%",
        }]));
        let all = Budget {
            params: Some(68_118),
            macs: Some(10_137_760),
            bytes: Some(275_000),
            memory_bytes: Some(350_000),
            activation_bytes: Some(75_000),
            latency_p50_ms: Some(1.1),
            latency_p95_ms: Some(1.4),
        };
        assert_eq!(budget(&profile(None), &labels(&[]), &rules, &DENSE), Ok(all));
    }

    #[test]
    fn coarse_keeps_two_digits() {
        for (value, want) in
            [(0.8, 0.8), (0.07, 0.07), (1.0, 1.0), (1.4999, 1.4), (99.9, 99.0), (100.0, 100.0), (0.0, 0.0)]
        {
            assert_eq!(coarse(value), want);
        }
    }

    proptest! {
        #[test]
        fn coarse_loses_less_than_a_tenth_and_never_adds(value in 1e-6f64..1e15) {
            let rounded = coarse(value);
            prop_assert!(rounded <= value * (1.0 + 1e-11), "{rounded} above {value}");
            prop_assert!(rounded > value * 0.9, "{rounded} far below {value}");
            prop_assert_eq!(coarse(rounded), rounded);
        }
    }
}
