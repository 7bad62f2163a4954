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

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(count: u64, p95_ms: f64) -> Summary {
        Summary { count, p50_ms: p95_ms / 2.0, p95_ms, p99_ms: p95_ms, mean_ms: p95_ms, max_ms: p95_ms }
    }

    #[test]
    fn the_first_measurement_is_believed() {
        let calibration = Calibration::default().update(2.0, &measured(1000, 3.0));
        assert!((calibration.factor - 1.5).abs() < 1e-12, "{calibration:?}");
        assert_eq!(calibration.samples, 1);
        assert!((calibration.apply(4.0) - 6.0).abs() < 1e-12);
    }

    #[test]
    fn a_steady_ratio_is_reached_and_a_stray_one_is_not() {
        let steady = (0..20).fold(Calibration::default(), |c, _| c.update(1.0, &measured(1000, 1.2)));
        assert!((steady.factor - 1.2).abs() < 1e-9);
        let strayed = steady.update(1.0, &measured(1000, 40.0));
        assert!(strayed.factor < 1.55, "one reading of 40 moved it to {}", strayed.factor);
        let moved = (0..20).fold(steady, |c, _| c.update(1.0, &measured(1000, 2.0)));
        assert!((moved.factor / 2.0 - 1.0).abs() < 0.01, "{moved:?}");
    }

    #[test]
    fn it_stays_within_its_bounds() {
        let mut calibration = Calibration::default();
        for p95_ms in [1e-9, 1e9, f64::MAX, 1e-300] {
            calibration = calibration.update(1.0, &measured(1000, p95_ms));
            assert!((0.5..=4.0).contains(&calibration.factor), "{calibration:?}");
        }
        assert_eq!(Calibration::default().update(1.0, &measured(1000, 1e9)).factor, 4.0);
        assert_eq!(Calibration::default().update(1.0, &measured(1000, 1e-9)).factor, 0.5);
    }

    #[test]
    fn too_few_requests_and_senseless_numbers_change_nothing() {
        let calibration = Calibration { factor: 1.3, samples: 4 };
        assert_eq!(calibration.update(1.0, &measured(MIN_REQUESTS - 1, 9.0)), calibration);
        for predicted in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(calibration.update(predicted, &measured(1000, 9.0)), calibration);
        }
        assert_eq!(calibration.update(1.0, &measured(1000, f64::NAN)), calibration);
    }
}
