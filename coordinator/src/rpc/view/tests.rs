//! What is said of a device, by what it has come to.

use proto::{Digest, Generation};

use super::*;
use crate::room::Room;
use crate::store::PredictedLatency;

fn active(model: &[u8]) -> OutcomeRecord {
    OutcomeRecord {
        state: Outcome::Active { since_unix_ms: 1 },
        digest: Some(Digest::of(model)),
        assignment: Some(Generation(1)),
        predicted: Some(PredictedLatency { p50_ms: 1.0, p95_ms: 2.0 }),
        ..OutcomeRecord::waiting("")
    }
}

/// It serves a larger network than before.
fn grown(outcome: &OutcomeRecord, macs: (u64, u64)) -> OutcomeRecord {
    let (quantile, measured_ms, ceiling_ms) = ("p95".to_owned(), 1.0, 4.0);
    let room = Room { quantile, measured_ms, ceiling_ms, factor: 1.0, requests: 1000 };
    outcome.grown_to(active(b"larger"), room, macs, 1).unwrap()
}

#[test]
fn what_a_device_without_a_budget_has_is_called_whole() {
    let mut outcome = active(b"model");
    let reason = |outcome: &OutcomeRecord, whereabouts: Whereabouts| state(outcome, &whereabouts, None).1;
    let whole = reason(&outcome, Whereabouts::Away);
    assert_eq!(whole, "it is away; it served the whole network, without a budget, when it was last heard of");
    outcome.budget.params = Some(10);
    assert!(reason(&outcome, Whereabouts::Banned).contains("the largest network within its budget"));
}

#[test]
fn a_device_over_its_ceiling_is_not_called_within_its_budget() {
    let mut outcome = active(b"model");
    outcome.budget.latency_p95_ms = Some(1.6);
    let breach =
        |measured_ms| Breach { quantile: "p95".to_owned(), measured_ms, ceiling_ms: 1.6, requests: 500 };
    outcome.breaches = vec![breach(4.0), breach(3.0)];
    let mut spec = crate::rpc::tests::told::manifest().spec;
    let said = |spec: &DeploymentSpec, whereabouts: Whereabouts| {
        state(&outcome, &whereabouts, Some(&Over { breach: breach(2.0), next: helps(spec) })).1
    };
    let text = said(&spec, Whereabouts::Away);
    assert_eq!(
        text,
        "it is away; it served a network that is over its ceiling when it was last heard of: p95 2.000 ms of 500 requests, 25 % over \
         1.600 ms; fitted again 2 times, for p95 3.000 ms of 500 requests, 88 % over 1.600 ms; it is not fitted again, as rollout.refits \
         is 2: apply a higher ceiling, or more refits"
    );
    spec.training.trainer = TrainerKind::External;
    let text = said(&spec, Whereabouts::Banned);
    assert!(
        text.ends_with("; it is not fitted again, as its trainer is external: apply a higher ceiling"),
        "{text}"
    );
}

#[test]
fn a_device_is_called_grown_as_long_as_it_is() {
    let reason = |outcome: &OutcomeRecord| state(outcome, &Whereabouts::Away, None).1;
    let first = grown(&active(b"model"), (100, 150));
    assert!(reason(&first).contains("; grown by +50 % multiply-accumulates, for p95 1.000 ms"));

    let mut second = grown(&first, (150, 180));
    assert!(reason(&second).contains("; grown by +20 % multiply-accumulates"));
    assert!(second.take_back("it failed its self-test".to_owned()));
    let text = reason(&second);
    assert!(text.contains("; grown by +50 % "), "it has what it grew to first: {text}");
    assert!(text.contains("; a larger network (+20 % ") && text.contains("taken back: it failed its self-"));

    assert!(second.take_back("it is late".to_owned()));
    let text = reason(&second);
    assert!(!text.contains("grown by"), "{text}");
    assert!(
        text.contains("; a larger network (+50 % ") && text.ends_with("taken back: it is late"),
        "{text}"
    );
}
