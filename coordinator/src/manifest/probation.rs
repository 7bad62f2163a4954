//! How new models are watched on their devices, as an operator writes it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use proto::Probation;
use serde::{Deserialize, Serialize};

/// A new model that takes the agent down, or answers too late in so many looks in a row, is given up by its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct ProbationSpec {
    /// How long a new model is watched; `0s`: not at all.
    pub duration: Span,
    /// From one look to the next.
    pub period: Span,
    /// Looks in a row in which more than half of the answers are later than the device's latency ceiling, or none.
    pub failure_threshold: u32,
}

/// A time as people write it: `10m`, `1h 30m`, `500ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(pub Duration);

impl Default for ProbationSpec {
    fn default() -> Self {
        let usual = Probation::default();
        Self {
            duration: Span(usual.duration()),
            period: Span(usual.period()),
            failure_threshold: usual.failure_threshold,
        }
    }
}

impl ProbationSpec {
    /// What it means for a device with this latency ceiling.
    pub fn with_ceiling(self, late_above_ms: Option<f64>) -> Probation {
        let Self { duration, period, failure_threshold } = self;
        Probation {
            duration_ms: duration.millis(),
            period_ms: period.millis(),
            failure_threshold,
            late_above_ms,
        }
    }
}

impl Span {
    /// Whether it is more than [`Self::millis`] can say.
    pub(super) fn is_too_long(self) -> bool {
        u32::try_from(self.0.as_millis()).is_err()
    }

    /// In days and hours: who wrote 9999d shall know it again, which is no year of 365.24 days.
    pub(super) fn in_days(self) -> String {
        let hours = self.0.as_secs() / 3600;
        match (hours / 24, hours % 24) {
            (days, 0) => format!("{days}d"),
            (days, hours) => format!("{days}d {hours}h"),
        }
    }

    /// Whole milliseconds; 49 days and 17 hours at most.
    pub fn millis(self) -> u32 {
        u32::try_from(self.0.as_millis()).unwrap_or(u32::MAX)
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let duration = humantime::parse_duration(text);
        duration.map(Self).map_err(|_| format!("'{text}' is no time; as in 10m, 30s, 1h 30m"))
    }
}

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_the_device_is_told() {
        let spec: ProbationSpec = serde_saphyr::from_str("duration: 1h 30m\nfailureThreshold: 5\n").unwrap();
        let told = spec.with_ceiling(Some(1.5));
        assert_eq!((told.duration_ms, told.period_ms), (5_400_000, 10_000));
        assert_eq!((told.failure_threshold, told.late_above_ms), (5, Some(1.5)));
        let written = serde_saphyr::to_string(&spec).unwrap();
        assert_eq!(serde_saphyr::from_str::<ProbationSpec>(&written).unwrap(), spec);
        let error = serde_saphyr::from_str::<ProbationSpec>("period: soon\n").unwrap_err().to_string();
        assert!(error.contains("'soon' is no time"), "{error}");
    }
}
