//! Whether what a device measured breaks its budget, so that it is to be fitted again, tighter. Pure.
//!
//! A ceiling on a quantile `q` lets a share of `1 - q` of the requests be later. It is broken when more are than chance makes of that
//! share (`chance`).

use pruner_core::budget::Budget;
use serde::{Deserialize, Serialize};

use crate::calibration::MIN_REQUESTS;
use crate::chance::most;
use crate::histogram::LatencyTally;
use crate::manifest::{DeploymentSpec, TrainerKind};

/// A ceiling that a device's own times break.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Breach {
    /// `p50` or `p95`.
    pub quantile: String,
    /// What it was, milliseconds.
    pub measured_ms: f64,
    /// What was allowed, milliseconds.
    pub ceiling_ms: f64,
    /// Requests that it rests on.
    pub requests: u64,
}

impl Breach {
    /// For an operator.
    pub fn text(&self) -> String {
        let Self { quantile, measured_ms, ceiling_ms, requests } = self;
        let share = (measured_ms / ceiling_ms - 1.0) * 100.0;
        format!("{quantile} {measured_ms:.3} ms of {requests} requests, {share:.0} % over {ceiling_ms:.3} ms")
    }
}

/// How often a device of such a deployment is fitted again.
pub fn most_refits(spec: &DeploymentSpec) -> usize {
    match spec.training.trainer {
        // A person trains each network: none is asked for unasked.
        TrainerKind::External => 0,
        TrainerKind::Builtin | TrainerKind::Command => spec.rollout.refits as usize,
    }
}

/// The ceiling of `budget` that `tally` breaks, if it breaks one; of fewer than [`MIN_REQUESTS`] requests it is not told.
pub fn breach(tally: &LatencyTally, budget: &Budget) -> Option<Breach> {
    let summary = tally.summary().filter(|summary| summary.count >= MIN_REQUESTS)?;
    let ceilings = [
        ("p95", 0.95, budget.latency_p95_ms, summary.p95_ms),
        ("p50", 0.50, budget.latency_p50_ms, summary.p50_ms),
    ];
    ceilings.into_iter().find_map(|(quantile, share, ceiling, measured_ms)| {
        let ceiling_ms = ceiling?;
        let is_broken = tally.above(ceiling_ms) as f64 > most(summary.count, 1.0 - share);
        is_broken.then(|| Breach {
            quantile: quantile.to_owned(),
            measured_ms,
            ceiling_ms,
            requests: summary.count,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::histogram::tests::tally as tally_of;

    /// `slow` of `count` requests take 2 ms, the others 1 ms.
    fn tally(count: u64, slow: u64) -> LatencyTally {
        tally_of(&[(1.0, count - slow), (2.0, slow)])
    }

    fn p95(ceiling: f64) -> Budget {
        Budget { latency_p95_ms: Some(ceiling), ..Budget::default() }
    }

    #[test]
    fn a_ceiling_is_broken_by_more_than_chance() {
        // Of 1000, 50 may be late, and chance makes 6.9 more or less of it: up to 70 prove nothing.
        for (slow, broken) in [(0, false), (50, false), (70, false), (71, true), (1000, true)] {
            assert_eq!(breach(&tally(1000, slow), &p95(1.5)).is_some(), broken, "{slow}");
        }
        let p50 = Budget { latency_p50_ms: Some(1.5), ..Budget::default() };
        for (slow, broken) in [(500, false), (547, false), (548, true)] {
            assert_eq!(breach(&tally(1000, slow), &p50).is_some(), broken, "{slow}");
        }
    }

    #[test]
    fn few_requests_and_no_ceiling_prove_nothing() {
        assert_eq!(breach(&tally(MIN_REQUESTS - 1, MIN_REQUESTS - 1), &p95(1.5)), None);
        assert_eq!(breach(&tally(1000, 1000), &Budget::default()), None);
        assert_eq!(breach(&LatencyTally::default(), &p95(1.5)), None);
        assert_eq!(breach(&tally(1000, 1000), &p95(2.5)), None, "late, and within its ceiling");
    }

    #[test]
    fn it_reads_as_a_person_would_say_it() {
        let text = breach(&tally(500, 500), &p95(1.6)).unwrap().text();
        assert_eq!(text, "p95 2.000 ms of 500 requests, 25 % over 1.600 ms");
    }
}
