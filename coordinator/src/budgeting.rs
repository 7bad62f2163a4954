//! From a device's profile, its labels and the deployment's rules to its budget. Pure.
//!
//! Figures that depend on the device (a share of its own dense latency, a cap from its memory) are rounded down to two
//! significant digits, so that like devices share one artifact. What an operator wrote as a figure stays exact, and so
//! does a share of the dense network's counts: those are equal on all devices anyway.

use std::collections::BTreeMap;

use proto::{ByteSize, HardwareProfile};
use serde::{Deserialize, Serialize};

use crate::class;
use crate::limit::{Count, Limit, Millis};
use crate::manifest::BudgetRule;

/// Share of the memory that the process may use which a model's weights and activations may take: the engine, its
/// packed copies of the weights and the agent itself need the rest.
const MEMORY_SHARE: f64 = 0.5;

/// Upper bounds on a model; `None`: no bound.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Ceilings {
    /// Parameters.
    pub params: Option<u64>,
    /// Multiply-accumulates per image.
    pub macs: Option<u64>,
    /// Bytes of the ONNX file.
    pub bytes: Option<u64>,
    /// Bytes of weights and live activations at batch 1.
    pub memory_bytes: Option<u64>,
    /// 95th percentile of the time of one image, milliseconds.
    pub latency_p95_ms: Option<f64>,
}

/// What the dense network costs, in general and on one device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DenseFigures {
    /// Parameters.
    pub params: u64,
    /// Multiply-accumulates per image.
    pub macs: u64,
    /// Bytes of the ONNX file.
    pub bytes: u64,
    /// Bytes of weights and live activations at batch 1.
    pub memory_bytes: u64,
    /// 95th percentile of the time of one image on this device; `None` where it has no latency model.
    pub latency_p95_ms: Option<f64>,
}

/// Why a rule gives no budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BudgetError {
    /// A share of an unknown.
    #[error("latencyP95 is a share of the dense network's, whose latency on this device is not known yet")]
    DenseLatencyUnknown,
}

/// The budget of a device: the first of `rules` whose selector matches `labels`, and half of its memory.
pub fn budget(
    profile: &HardwareProfile,
    labels: &BTreeMap<String, String>,
    rules: &[BudgetRule],
    dense: &DenseFigures,
) -> Result<Ceilings, BudgetError> {
    let device_memory =
        class::usable_memory(profile).map(|bytes| coarse((bytes as f64 * MEMORY_SHARE).floor()) as u64);
    let Some(rule) = rules.iter().find(|rule| matches(&rule.selector, labels)) else {
        return Ok(Ceilings { memory_bytes: device_memory, ..Ceilings::default() });
    };
    let rule_memory = rule.memory.map(|limit| limit.resolve(ByteSize(dense.memory_bytes)).0);
    Ok(Ceilings {
        params: rule.params.map(|limit| limit.resolve(Count(dense.params)).0),
        macs: rule.macs.map(|limit| limit.resolve(Count(dense.macs)).0),
        bytes: rule.size.map(|limit| limit.resolve(ByteSize(dense.bytes)).0),
        memory_bytes: [rule_memory, device_memory].into_iter().flatten().min(),
        latency_p95_ms: rule.latency_p95.map(|limit| latency(limit, dense)).transpose()?,
    })
}

/// Whether `labels` hold everything that `selector` asks for. An empty selector asks for nothing.
pub fn matches(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

fn latency(limit: Limit<Millis>, dense: &DenseFigures) -> Result<f64, BudgetError> {
    match limit {
        Limit::Absolute(Millis(ms)) => Ok(ms),
        Limit::OfDense(_) => {
            let dense_ms = dense.latency_p95_ms.ok_or(BudgetError::DenseLatencyUnknown)?;
            Ok(coarse(limit.resolve(Millis(dense_ms)).0))
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
        params: 272_474,
        macs: 40_551_040,
        bytes: 1_100_000,
        memory_bytes: 1_400_000,
        latency_p95_ms: Some(2.987),
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
        let small = Ceilings { params: Some(16_809), latency_p95_ms: Some(0.8), ..Ceilings::default() };
        assert_eq!(budget(&[("tier", "small"), ("site", "berlin")]), small);
        let other = Ceilings {
            macs: Some(10_137_760),
            bytes: Some(204_800),
            memory_bytes: Some(1 << 20),
            ..Ceilings::default()
        };
        assert_eq!(budget(&[("tier", "large")]), other);
    }

    #[test]
    fn no_rule_means_no_ceiling_but_the_devices_memory() {
        let none = labels(&[]);
        assert_eq!(budget(&profile(None), &none, &[], &DENSE), Ok(Ceilings::default()));
        let capped = Ceilings { memory_bytes: Some(130_000_000), ..Ceilings::default() };
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
        let figures = |latency_p95_ms| DenseFigures { latency_p95_ms, ..DENSE };
        let budget = |dense| budget(&profile(None), &labels(&[]), &rules, &dense);
        assert_eq!(budget(figures(Some(2.987))).unwrap().latency_p95_ms, Some(1.4));
        assert_eq!(budget(figures(Some(2.91))), budget(figures(Some(2.987))), "like devices, one budget");
        assert_eq!(budget(figures(None)), Err(BudgetError::DenseLatencyUnknown));
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
