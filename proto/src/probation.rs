//! How a new model is watched while it serves.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Invalid, v1};

/// What a new model has to stand before it is kept. In the terms of Kubernetes' probes: it is looked at every `period`, and
/// `failure_threshold` looks that fail in a row end it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Probation {
    /// How long it is watched, milliseconds.
    pub duration_ms: u32,
    /// From one look to the next, milliseconds.
    pub period_ms: u32,
    /// Looks in a row that have to fail.
    pub failure_threshold: u32,
    /// An answer that takes the engine longer is late, milliseconds; `None`: none is.
    pub late_above_ms: Option<f64>,
}

impl Default for Probation {
    fn default() -> Self {
        Self { duration_ms: 600_000, period_ms: 10_000, failure_threshold: 3, late_above_ms: None }
    }
}

impl Probation {
    /// How long it is watched.
    pub fn duration(&self) -> Duration {
        Duration::from_millis(u64::from(self.duration_ms))
    }

    /// From one look to the next.
    pub fn period(&self) -> Duration {
        Duration::from_millis(u64::from(self.period_ms))
    }

    /// An answer that takes the engine longer is late.
    pub fn late_above(&self) -> Option<Duration> {
        self.late_above_ms.map(|ms| Duration::from_secs_f64(ms / 1e3))
    }
}

impl TryFrom<v1::Probation> for Probation {
    type Error = Invalid;

    fn try_from(wire: v1::Probation) -> Result<Self, Invalid> {
        let v1::Probation { duration_ms, period_ms, failure_threshold, late_above_ms } = wire;
        if period_ms == 0 || failure_threshold == 0 {
            return Err(Invalid::new("period_ms, failure_threshold", "zero"));
        }
        if late_above_ms.is_some_and(|ms| !(ms > 0.0 && ms <= 3.6e6)) {
            return Err(Invalid::new("late_above_ms", "it is above zero, and an hour at most"));
        }
        Ok(Self { duration_ms, period_ms, failure_threshold, late_above_ms })
    }
}

impl From<Probation> for v1::Probation {
    fn from(probation: Probation) -> Self {
        let Probation { duration_ms, period_ms, failure_threshold, late_above_ms } = probation;
        Self { duration_ms, period_ms, failure_threshold, late_above_ms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_that_mean_nothing_are_refused() {
        let sound = v1::Probation::from(Probation { late_above_ms: Some(1.5), ..Probation::default() });
        assert_eq!(Probation::try_from(sound).unwrap().late_above(), Some(Duration::from_micros(1500)));
        for broken in [
            v1::Probation { period_ms: 0, ..sound },
            v1::Probation { failure_threshold: 0, ..sound },
            v1::Probation { late_above_ms: Some(0.0), ..sound },
            v1::Probation { late_above_ms: Some(f64::NAN), ..sound },
            v1::Probation { late_above_ms: Some(f64::INFINITY), ..sound },
        ] {
            assert!(Probation::try_from(broken).is_err(), "{broken:?}");
        }
    }
}
