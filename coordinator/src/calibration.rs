//! Correction of predicted latency by measured latency. Pure. Nothing here is about quantisation.

use serde::{Deserialize, Serialize};

use crate::histogram::Summary;

/// Requests that a summary needs before its 95th percentile says anything: twenty lie above it then.
pub const MIN_REQUESTS: u64 = 400;
/// No correction goes below or above these: beyond them the model is wrong, not off.
const BOUNDS: (f64, f64) = (0.5, 4.0);
/// Share of the way towards a new ratio, once there is a history.
const WEIGHT: f64 = 0.2;

/// What predicted latencies are multiplied with.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Measured p95 over predicted p95, smoothed; 1 before the first measurement.
    pub factor: f64,
    /// Measurements that it rests on.
    pub samples: u64,
}

impl Default for Calibration {
    fn default() -> Self {
        Self { factor: 1.0, samples: 0 }
    }
}

impl Calibration {
    /// The calibration after one more measurement. `predicted_p95_ms` is the latency model's own word, before any
    /// correction. A summary of fewer than [`MIN_REQUESTS`] requests and a prediction that is no positive number change
    /// nothing. Steps are taken on ratios' logarithms, the first ones larger: the mean, until that moves less than
    /// `WEIGHT`.
    #[must_use]
    pub fn update(self, predicted_p95_ms: f64, measured: &Summary) -> Self {
        let ratio = measured.p95_ms / predicted_p95_ms;
        if measured.count < MIN_REQUESTS || !(ratio.is_finite() && ratio > 0.0) {
            return self;
        }
        let ratio = ratio.clamp(BOUNDS.0, BOUNDS.1);
        let samples = self.samples.saturating_add(1);
        let weight = WEIGHT.max(1.0 / samples as f64);
        let factor = (self.factor.ln() * (1.0 - weight) + ratio.ln() * weight).exp();
        Self { factor: factor.clamp(BOUNDS.0, BOUNDS.1), samples }
    }

    /// A predicted time, corrected, in the unit that it came in.
    pub fn apply(self, predicted: f64) -> f64 {
        predicted * self.factor
    }
}
