//! What guards a rollout: the gate that a wave has to pass, and what happens when it fails. As an operator writes it.

use serde::{Deserialize, Serialize};

/// What the devices of a wave have to show before the next one is told.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct GateSpec {
    /// One answer in twenty may take more than so much longer than the device's 95th percentile with the model before, percent.
    /// Left out: latency is not looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_increase: Option<f64>,
    /// Requests that may fail, percent.
    pub errors: f64,
    /// Requests to the new model, of the wave's devices together, before it is judged.
    pub min_requests: u64,
}

/// What happens when a rollout fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// No more devices are told; each keeps what it serves.
    #[default]
    Halt,
    /// Those that were told get back the model before.
    Undo,
}

impl Default for GateSpec {
    fn default() -> Self {
        Self { latency_increase: None, errors: 1.0, min_requests: 400 }
    }
}
