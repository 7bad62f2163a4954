//! Whether what a device measured leaves room under its latency ceilings, so that a larger network may be tried. Pure.
//!
//! A ceiling on a quantile `q` lets a share of `1 - q` of the requests be later. There is room under it when fewer requests than
//! chance makes of that share (`chance`) are later than the ceiling less the room that is asked for: were the device's true
//! quantile no lower than that, so few would be seen about once in seven hundred looks.

use pruner_core::budget::Budget;
use serde::{Deserialize, Serialize};

use crate::chance::least;
use crate::histogram::LatencyTally;
use crate::manifest::GrowSpec;

/// What a device's own times leave of the ceiling that they fill most.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Room {
    /// `p50` or `p95`.
    pub quantile: String,
    /// What it is, milliseconds.
    pub measured_ms: f64,
    /// What is allowed, milliseconds.
    pub ceiling_ms: f64,
    /// Measured over predicted, before any correction; of several ceilings the largest.
    pub factor: f64,
    /// Requests that it rests on.
    pub requests: u64,
}

/// What a device's times say of its room.
#[derive(Debug, Clone, PartialEq)]
pub enum Reading {
    /// Too few of them.
    Short {
        /// So many.
        requests: u64,
    },
    /// There is less than is asked for, or it may be chance.
    Full {
        /// Requests that it rests on.
        requests: u64,
    },
    /// There is.
    Roomy(Room),
}

/// Predicted times, before any correction, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Promised {
    /// Median.
    pub p50_ms: f64,
    /// 95th percentile.
    pub p95_ms: f64,
}

impl Room {
    /// For an operator.
    pub fn text(&self) -> String {
        let Self { quantile, measured_ms, ceiling_ms, requests, .. } = self;
        let free = (1.0 - measured_ms / ceiling_ms) * 100.0;
        format!("{quantile} {measured_ms:.3} ms of {requests} requests, {free:.0} % under {ceiling_ms:.3} ms")
    }
}

impl Reading {
    /// Requests that it rests on.
    pub fn requests(&self) -> u64 {
        match self {
            Self::Short { requests } | Self::Full { requests } => *requests,
            Self::Roomy(room) => room.requests,
        }
    }
}

/// What `tally` says of the room under the latency ceilings of `budget`. Without such a ceiling there is none to speak of.
pub fn room(tally: &LatencyTally, budget: &Budget, promised: Promised, grow: &GrowSpec) -> Reading {
    let enough = tally.summary().filter(|summary| summary.count >= grow.at_least_requests);
    let Some(summary) = enough else { return Reading::Short { requests: tally.count() } };
    let requests = summary.count;
    let ceilings = [
        ("p95", 0.95, budget.latency_p95_ms, summary.p95_ms, promised.p95_ms),
        ("p50", 0.50, budget.latency_p50_ms, summary.p50_ms, promised.p50_ms),
    ];
    let mut fullest: Option<Room> = None;
    for (quantile, share, ceiling, measured_ms, promised_ms) in ceilings {
        let Some(ceiling_ms) = ceiling else { continue };
        let limit_ms = ceiling_ms * (1.0 - grow.when_room / 100.0);
        let factor = measured_ms / promised_ms;
        let has_room = (tally.above(limit_ms) as f64) < least(requests, 1.0 - share);
        if !(has_room && factor.is_finite() && factor > 0.0) {
            return Reading::Full { requests };
        }
        let most = fullest.as_ref().map_or(factor, |room| room.factor.max(factor));
        let is_fuller =
            fullest.as_ref().is_none_or(|room| measured_ms / ceiling_ms > room.measured_ms / room.ceiling_ms);
        if is_fuller {
            fullest =
                Some(Room { quantile: quantile.to_owned(), measured_ms, ceiling_ms, factor: most, requests });
        } else if let Some(room) = &mut fullest {
            room.factor = most;
        }
    }
    fullest.map_or(Reading::Full { requests }, Reading::Roomy)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::histogram::tests::tally as tally_of;
    use crate::refit::breach;

    const GROW: GrowSpec = GrowSpec {
        when_room: 30.0,
        at_most_every: crate::manifest::Span(std::time::Duration::ZERO),
        at_least_requests: 1000,
    };
    const PROMISED: Promised = Promised { p50_ms: 1.0, p95_ms: 2.0 };

    /// `slow` of `count` requests take 2 ms, the others 1 ms.
    fn tally(count: u64, slow: u64) -> LatencyTally {
        tally_of(&[(1.0, count - slow), (2.0, slow)])
    }

    fn ceilings(p50: Option<f64>, p95: Option<f64>) -> Budget {
        Budget { latency_p50_ms: p50, latency_p95_ms: p95, ..Budget::default() }
    }

    fn has_room(tally: &LatencyTally, budget: &Budget) -> bool {
        matches!(room(tally, budget, PROMISED, &GROW), Reading::Roomy(_))
    }

    #[test]
    fn there_is_room_when_fewer_than_chance_are_late() {
        // Of 1000, 50 may be later than the limit, and chance makes 20.7 less of it: 30 prove nothing.
        for (slow, roomy) in [(0, true), (29, true), (30, false), (50, false), (1000, false)] {
            assert_eq!(has_room(&tally(1000, slow), &ceilings(None, Some(2.5))), roomy, "{slow}");
        }
        for (slow, roomy) in [(452, true), (453, false)] {
            assert_eq!(has_room(&tally(1000, slow), &ceilings(Some(2.5), None)), roomy, "{slow}");
        }
    }

    #[test]
    fn it_takes_requests_and_room_under_every_ceiling() {
        let requests = |count| room(&tally(count, 0), &ceilings(None, Some(9.0)), PROMISED, &GROW);
        assert_eq!(requests(999), Reading::Short { requests: 999 });
        let Reading::Roomy(found) = requests(1000) else { panic!("1000 are enough") };
        assert_eq!((found.requests, found.factor), (1000, 0.5), "measured 1 ms, promised 2 ms");
        assert_eq!(found.text(), "p95 1.000 ms of 1000 requests, 89 % under 9.000 ms");
        assert!(!has_room(&tally(1000, 0), &Budget::default()), "no ceiling");
        assert!(!has_room(&tally(1000, 0), &ceilings(Some(1.2), Some(9.0))), "none under the median's");
        let both = room(&tally(1000, 0), &ceilings(Some(2.0), Some(9.0)), PROMISED, &GROW);
        let Reading::Roomy(both) = both else { panic!("room under both") };
        assert_eq!((both.quantile.as_str(), both.factor), ("p50", 1.0));
    }

    proptest! {
        #[test]
        fn what_has_room_breaks_nothing(
            slow in 0..2000u64,
            p50 in prop::option::of(0.5..4.0),
            p95 in prop::option::of(0.5..4.0),
            when_room in 20.0..95.0,
        ) {
            let (tally, budget) = (tally(2000, slow), ceilings(p50, p95));
            let grow = GrowSpec { when_room, ..GROW };
            if let Reading::Roomy(room) = room(&tally, &budget, PROMISED, &grow) {
                prop_assert!(breach(&tally, &budget).is_none());
                prop_assert!(room.measured_ms < room.ceiling_ms);
            }
        }
    }
}
