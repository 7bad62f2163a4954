//! The gate: whether what the devices of a wave measured allows the next one. Pure.
//!
//! Each device's answers are held against its own past: its 95th percentile with the model before, and what the manifest
//! allows on top. One answer in twenty may be later than that. The wave's late answers are added up, and the gate closes when
//! they are more than chance makes of that share (`chance`), the past being a sample too. Failed requests are counted alike.
//! A wave that passed is looked at again only when it has half as many requests more: each look is a chance to err.

use std::collections::BTreeMap;

use proto::Digest;

use crate::calibration::MIN_REQUESTS;
use crate::chance::{most, most_by_sample};
use crate::histogram::LatencyTally;
use crate::manifest::GateSpec;

/// Of answers that may be later than a 95th percentile.
const LATE: f64 = 0.05;

/// What one device of a wave measured.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    /// With the model before.
    pub before: LatencyTally,
    /// With the new one.
    pub after: LatencyTally,
    /// Requests to the new one that failed.
    pub errors: u64,
}

/// What the gate says of a wave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Judgement {
    /// The next one may be told.
    #[default]
    Open,
    /// Too little was measured.
    Short {
        /// Requests so far.
        requests: u64,
        /// As many as it takes.
        wanted: u64,
    },
    /// The model is bad.
    Closed {
        /// What was found, for an operator.
        reason: String,
    },
}

/// What the gate says of a rollout.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Judged {
    /// Of the wave that was told last.
    pub wave: Judgement,
    /// Of models that devices got only after the rollout was complete.
    pub models: BTreeMap<Digest, Judgement>,
}

/// Requests, failed ones included. What a device says of its failures may be any number: sums stay at the highest.
pub fn requests(wave: &[Measured]) -> u64 {
    sum(wave, |device| device.after.count().saturating_add(device.errors))
}

fn sum(wave: &[Measured], count: impl Fn(&Measured) -> u64) -> u64 {
    wave.iter().map(count).fold(0, u64::saturating_add)
}

/// Judges a wave by what its devices measured.
pub fn judge(gate: &GateSpec, wave: &[Measured]) -> Judgement {
    let errors = sum(wave, |device| device.errors);
    let requests = requests(wave);
    if requests < gate.min_requests {
        return Judgement::Short { requests, wanted: gate.min_requests };
    }
    if errors as f64 > most(requests, gate.errors / 100.0) {
        let reason = format!("{errors} of {requests} requests failed, the gate allows {} %", gate.errors);
        return Judgement::Closed { reason };
    }
    match gate.latency_increase.and_then(|increase| too_late(increase, wave)) {
        Some(reason) => Judgement::Closed { reason },
        None => Judgement::Open,
    }
}

/// What is wrong with the latencies. Devices of whose past too little is known are left out.
fn too_late(increase: f64, wave: &[Measured]) -> Option<String> {
    let (mut late, mut answers, mut known) = (0, 0, 0);
    let (mut worst, mut change) = (None, 0.0);
    for device in wave {
        let before = device.before.summary().filter(|before| before.count >= MIN_REQUESTS);
        let (Some(before), Some(after)) = (before, device.after.summary()) else { continue };
        late += device.after.above(before.p95_ms * (1.0 + increase / 100.0));
        answers += after.count;
        known += before.count;
        if worst.is_none() || after.p95_ms / before.p95_ms > change {
            change = after.p95_ms / before.p95_ms;
            worst = Some((before.p95_ms, after.p95_ms));
        }
    }
    let (before, after) = worst?;
    (late as f64 > most_by_sample(answers, LATE, known)).then(|| {
        format!(
            "{late} of {answers} answers took over {increase} % more than the p95 of the model before, the gate allows 5 %; \
             at worst p95 {before:.3} -> {after:.3} ms, {:+.0} %",
            (change - 1.0) * 100.0
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::histogram::tests::tally;

    const GATE: GateSpec = GateSpec { latency_increase: Some(10.0), errors: 1.0, min_requests: 400 };

    /// All answers at once took so long, milliseconds.
    fn device(before: f64, after: f64, requests: u64) -> Measured {
        Measured { before: tally(&[(before, 1000)]), after: tally(&[(after, requests)]), errors: 0 }
    }

    fn closed(judgement: Judgement) -> String {
        match judgement {
            Judgement::Closed { reason } => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_model_that_is_as_fast_as_before_passes() {
        for after in [0.5, 1.0, 1.09] {
            assert_eq!(judge(&GATE, &[device(1.0, after, 400)]), Judgement::Open, "{after}");
        }
    }

    #[test]
    fn a_model_that_is_thirty_percent_slower_does_not() {
        let reason = closed(judge(&GATE, &[device(1.0, 1.3, 400)]));
        assert!(reason.starts_with("400 of 400 answers took over 10 % more"), "{reason}");
        assert!(reason.ends_with("+30 %"), "{reason}");
        let blind = GateSpec { latency_increase: None, ..GATE };
        assert_eq!(judge(&blind, &[device(1.0, 1.3, 400)]), Judgement::Open);
    }

    #[test]
    fn each_device_is_held_against_its_own_past() {
        // Merged, the fast device's tenfold would vanish below the slow one's usual times.
        let wave = [device(1.0, 10.0, 400), device(20.0, 20.0, 400)];
        let reason = closed(judge(&GATE, &wave));
        assert!(reason.starts_with("400 of 800"), "{reason}");
    }

    #[test]
    fn chance_closes_nothing() {
        // 5 % of 1000 are 50, and 29.2 more are within chance: the past is known by 1000 requests.
        let wave = |late: u64| {
            let after = tally(&[(1.0, 1000 - late), (2.0, late)]);
            [Measured { before: tally(&[(1.0, 1000)]), after, errors: 0 }]
        };
        assert_eq!(judge(&GATE, &wave(79)), Judgement::Open);
        closed(judge(&GATE, &wave(80)));
    }

    #[test]
    fn failed_requests_count() {
        let with = |errors| [Measured { errors, ..device(1.0, 1.0, 1000 - errors) }];
        assert_eq!(judge(&GATE, &with(19)), Judgement::Open);
        let reason = closed(judge(&GATE, &with(20)));
        assert_eq!(reason, "20 of 1000 requests failed, the gate allows 1 %");
        closed(judge(&GateSpec { errors: 0.0, ..GATE }, &with(1)));
        closed(judge(&GATE, &[Measured { errors: 400, ..Measured::default() }]));
    }

    #[test]
    fn failures_beyond_all_numbers_close_it_too() {
        let lying = || Measured { errors: u64::MAX, ..device(1.0, 1.0, 400) };
        assert_eq!(requests(&[lying(), lying()]), u64::MAX);
        closed(judge(&GATE, &[lying(), lying()]));
    }

    #[test]
    fn little_proves_nothing() {
        let short = Judgement::Short { requests: 399, wanted: 400 };
        assert_eq!(judge(&GATE, &[device(1.0, 9.0, 199), device(1.0, 9.0, 200)]), short);
        assert_eq!(judge(&GATE, &[]), Judgement::Short { requests: 0, wanted: 400 });
        let newcomer = Measured { before: LatencyTally::default(), ..device(1.0, 9.0, 400) };
        assert_eq!(judge(&GATE, &[newcomer]), Judgement::Open, "there is nothing to hold it against");
    }
}
