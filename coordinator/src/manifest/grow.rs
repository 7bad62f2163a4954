//! Whether devices that have room get larger networks by themselves, as an operator writes it.

use serde::{Deserialize, Serialize};

use super::Span;

/// A device whose measured latency leaves room under its ceilings gets a larger network.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct GrowSpec {
    /// Share of each latency ceiling that has to be free, percent.
    pub when_room: f64,
    /// A device grows no more than once in so long.
    pub at_most_every: Span,
    /// Requests to what it serves that a device is judged by.
    pub at_least_requests: u64,
}

impl Default for GrowSpec {
    fn default() -> Self {
        let day = std::time::Duration::from_secs(24 * 60 * 60);
        Self { when_room: 30.0, at_most_every: Span(day), at_least_requests: 1000 }
    }
}
