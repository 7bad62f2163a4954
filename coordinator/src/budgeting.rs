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
