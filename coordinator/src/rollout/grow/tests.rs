//! Who grows when, on hand-made fleets; and a fleet that is played for long, with devices that change, fail and are restarted.

use std::time::Duration;

use proptest::prelude::*;
use proto::Generation;
use pruner_core::budget::Budget;

use super::*;
use crate::fitting::{Growing, LATENCY_HEADROOM, MOST_GAIN};
use crate::histogram::tests::tally;
use crate::manifest::{DeploymentManifest, Span};
use crate::refit::breach;
use crate::room::room;
use crate::store::PredictedLatency;

const CEILING_MS: f64 = 4.0;
/// Multiply-accumulates of the dense network; a thousand of them are promised to take a microsecond.
const DENSE: u64 = 12_000_000;
const HOUR_MS: u64 = 3_600_000;

const GROW: GrowSpec =
    GrowSpec { when_room: 30.0, at_most_every: Span(Duration::from_secs(3600)), at_least_requests: 400 };

fn id(at: usize) -> DeviceId {
    format!("d{at}").parse().unwrap()
}

fn promised_ms(macs: u64) -> f64 {
    macs as f64 / 1e6
}

fn digest(macs: u64) -> Digest {
    Digest::of(&macs.to_be_bytes())
}

/// The largest network that is predicted within the ceiling, less what is kept free.
fn largest(factor: f64, most: u64) -> u64 {
    most.min((CEILING_MS * (1.0 - LATENCY_HEADROOM) / factor * 1e6) as u64)
}

/// A fleet of one class, and what its devices do in truth.
struct Fleet {
    record: DeploymentRecord,
    now: u64,
    /// Served time over the promised one.
    slower: Vec<f64>,
    macs: BTreeMap<Digest, u64>,
    measured: BTreeMap<DeviceId, u64>,
}

impl Fleet {
    fn new(slower: &[f64], waves: &[u8]) -> Self {
        let manifest: DeploymentManifest = serde_json::from_value(serde_json::json!({
            "apiVersion": "reconvene/v1", "kind": "Deployment", "metadata": { "name": "mnist" },
            "spec": {
                "network": "resnet20", "dataset": { "format": "idx", "path": "/data" },
                "rollout": { "waves": waves, "grow": {} },
            },
        }))
        .unwrap();
        let macs = largest(1.0, DENSE);
        let outcome = |at: usize| {
            let outcome = OutcomeRecord {
                class: Some(serde_json::from_str("\"like\"").unwrap()),
                digest: Some(digest(macs)),
                assignment: Some(Generation(1)),
                state: Outcome::Active { since_unix_ms: 0 },
                budget: Budget { latency_p95_ms: Some(CEILING_MS), ..Budget::default() },
                predicted: Some(predicted(macs, 1.0)),
                wave: Some(0),
                ..OutcomeRecord::waiting("")
            };
            (id(at), outcome)
        };
        let record = DeploymentRecord {
            name: "mnist".to_owned(),
            generation: Generation(1),
            manifest,
            manifest_digest: Digest::of(b"manifest"),
            text: String::new(),
            applied_unix_ms: 0,
            phase: DeploymentPhase::Complete,
            message: String::new(),
            outcomes: (0..slower.len()).map(outcome).collect(),
            paused: false,
            was_complete: true,
            proven: Default::default(),
            before: None,
            undone: None,
            undo_due: false,
            approved: 0,
        };
        let (now, slower, measured) = (0, slower.to_vec(), BTreeMap::new());
        Self { record, now, slower, macs: [(digest(macs), macs)].into(), measured }
    }

    fn serve(&mut self, requests: u64) {
        for device in self.record.outcomes.keys() {
            *self.measured.entry(device.clone()).or_default() += requests;
        }
    }

    fn macs_of(&self, device: &DeviceId) -> u64 {
        self.macs[&self.record.outcomes[device].digest.unwrap()]
    }

    fn tally(&self, at: usize) -> crate::histogram::LatencyTally {
        let ms = promised_ms(self.macs_of(&id(at))) * self.slower[at];
        tally(&[(ms, *self.measured.get(&id(at)).unwrap_or(&0))])
    }

    fn readings(&self) -> BTreeMap<DeviceId, Reading> {
        let read = |at: usize| {
            let outcome = &self.record.outcomes[&id(at)];
            let reading = room(&self.tally(at), &outcome.budget, outcome.promised().unwrap(), &GROW);
            is_active(outcome).then(|| (id(at), reading))
        };
        (0..self.slower.len()).filter_map(read).collect()
    }

    fn due(&self) -> Due {
        due(&self.record, &GROW, &self.readings(), self.now)
    }

    /// Who begins to grow now, and what it is given: as the driver does, but without networks.
    fn grow(&mut self) -> Vec<DeviceId> {
        let mut begun = Vec::new();
        for Group { roomy, begin } in self.due().groups {
            let growing = |(device, room): &(DeviceId, Room)| {
                self.record.outcomes[device].growing(room, self.macs_of(device))
            };
            let all: Vec<Growing> = roomy.iter().map(growing).collect();
            let factor = all.iter().map(|growing| growing.factor).fold(0.5, f64::max);
            let least = all.iter().map(|growing| growing.macs).min().unwrap();
            let larger = largest(factor, ((least as f64 * MOST_GAIN) as u64).min(DENSE));
            for ((device, room), growing) in roomy.into_iter().zip(all).take(begin) {
                if !growing.is_step(larger) {
                    continue;
                }
                let before = &self.record.outcomes[&device];
                let fitted = OutcomeRecord {
                    class: before.class.clone(),
                    budget: before.budget,
                    predicted: Some(predicted(larger, factor)),
                    correction: factor,
                    state: Outcome::Deriving,
                    ..OutcomeRecord::waiting("")
                };
                let grown = before.grown_to(fitted, room, (growing.macs, larger), self.now).unwrap();
                self.record.outcomes.insert(device.clone(), grown);
                self.macs.insert(digest(larger), larger);
                begun.push(device);
            }
        }
        begun
    }

    /// What was fitted is trained and told, and what is told is served; or it fails.
    fn change_over(&mut self, fails: &dyn Fn(&DeviceId) -> bool) {
        for (device, outcome) in &mut self.record.outcomes {
            if is_active(outcome) {
                continue;
            }
            if outcome.state == Outcome::Deriving && fails(device) {
                assert!(outcome.take_back("it could not load it".to_owned()));
            } else if let Outcome::Deriving = outcome.state {
                let larger = outcome.growths.last().unwrap().macs.1;
                outcome.digest = Some(digest(larger));
            }
            outcome.assignment = Some(Generation(self.now));
            outcome.state = Outcome::Active { since_unix_ms: self.now };
            self.measured.remove(device);
        }
    }

    /// Who broke its ceiling has its larger network taken back, or is fitted again.
    fn mend(&mut self) {
        for at in 0..self.slower.len() {
            let (tally, macs) = (self.tally(at), self.macs_of(&id(at)));
            let outcome = self.record.outcomes.get_mut(&id(at)).unwrap();
            let Some(breach) = breach(&tally, &outcome.budget).filter(|_| is_active(outcome)) else {
                continue;
            };
            if outcome.take_back(breach.text()) {
                continue;
            }
            outcome.breaches.push(breach);
            let smaller = largest(self.slower[at], macs);
            (outcome.digest, outcome.predicted) = (Some(digest(smaller)), Some(predicted(smaller, 1.0)));
            (outcome.assignment, outcome.correction) = (None, 1.0);
            outcome.state = Outcome::Fitted;
            self.macs.insert(digest(smaller), smaller);
        }
    }
}

fn predicted(macs: u64, correction: f64) -> PredictedLatency {
    let ms = promised_ms(macs) * correction;
    PredictedLatency { p50_ms: ms, p95_ms: ms }
}

#[test]
fn the_first_of_a_class_grow_before_the_others() {
    let mut fleet = Fleet::new(&[0.5; 4], &[25, 100]);
    assert_eq!(fleet.due().groups, [], "nothing was measured");
    fleet.serve(400);
    let first = fleet.grow();
    assert_eq!(first.len(), 1, "a quarter of four");
    fleet.change_over(&|_| false);
    fleet.serve(399);
    assert_eq!(fleet.grow(), [], "it has not had 400 requests");
    assert!(fleet.due().held.values().any(|why| why == AFTER));
    fleet.serve(1);
    assert_eq!(fleet.grow().len(), 3);
    fleet.change_over(&|_| false);
    fleet.serve(400);
    fleet.now += 2 * HOUR_MS;
    assert_eq!(fleet.grow(), [], "what they have fills what plans may");
    let larger: Vec<_> = fleet.record.outcomes.keys().map(|device| fleet.macs_of(device)).collect();
    assert_eq!(larger, [6_400_000; 4]);
}

#[test]
fn one_without_room_holds_its_like() {
    let mut fleet = Fleet::new(&[0.5, 1.0, 0.5], &[100]);
    fleet.serve(400);
    let due = fleet.due();
    assert_eq!(due.groups, []);
    assert_eq!(due.held[&id(0)], "it has room, but d1 has none, and like devices share their models");
    assert_eq!(due.held[&id(1)], "its times leave less than 30 % of a ceiling free");
}

#[test]
fn what_was_given_back_is_not_tried_again_by_anyone() {
    let mut fleet = Fleet::new(&[0.5; 4], &[25, 100]);
    fleet.serve(400);
    let first = fleet.grow();
    fleet.change_over(&|device| *device == first[0]);
    fleet.serve(400);
    fleet.now += 2 * HOUR_MS;
    let due = fleet.due();
    assert_eq!(due.groups, []);
    assert!(due.held[&first[0]].contains("gave a larger network back"));
    let others = due.held.iter().filter(|(device, _)| **device != first[0]);
    assert!(
        others.clone().all(|(_, why)| why.contains(first[0].as_str())),
        "{:?}",
        others.collect::<Vec<_>>()
    );
    assert_eq!(fleet.macs_of(&first[0]), 3_200_000, "it has what it had");
}

#[test]
fn nothing_grows_while_something_changes() {
    let mut fleet = Fleet::new(&[0.5], &[100]);
    assert!(may_begin(&fleet.record));
    fleet.record.paused = true;
    assert!(!may_begin(&fleet.record));
    (fleet.record.paused, fleet.record.phase) = (false, DeploymentPhase::RollingOut);
    assert!(!may_begin(&fleet.record));
}

/// What happens between two looks.
#[derive(Debug, Clone)]
enum Event {
    Serve(u64),
    Wait(u64),
    /// A device gets slower or faster in truth.
    Drift(usize, f64),
    /// The next larger network fails on this device.
    Fail(usize),
    /// The coordinator starts anew from what is stored.
    Restart,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (100..900u64).prop_map(Event::Serve),
        2 => (0..2 * HOUR_MS).prop_map(Event::Wait),
        1 => (0..4usize, 0.3..1.8f64).prop_map(|(at, slower)| Event::Drift(at, slower)),
        1 => (0..4usize).prop_map(Event::Fail),
        1 => Just(Event::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn it_never_flaps_and_comes_to_rest(
        slower in prop::collection::vec(0.3..1.5f64, 4),
        first in 1..100u8,
        events in prop::collection::vec(event(), 0..40),
    ) {
        let mut fleet = Fleet::new(&slower, &[first, 100]);
        let mut failing = None;
        // What happens, then long quiet.
        let quiet = (0..40).flat_map(|_| [Event::Serve(400), Event::Wait(HOUR_MS)]);
        let (mut barred, mut changes) = (BTreeMap::new(), 0);
        for (at, event) in events.iter().cloned().chain(quiet.clone()).enumerate() {
            match event {
                Event::Serve(requests) => fleet.serve(requests),
                Event::Wait(ms) => fleet.now += ms,
                Event::Drift(at, factor) => {
                    fleet.slower[at] = factor;
                    fleet.measured.remove(&id(at));
                }
                Event::Fail(at) => failing = Some(id(at)),
                Event::Restart => {
                    let stored = serde_json::to_vec(&fleet.record).unwrap();
                    let due = fleet.due();
                    fleet.record = serde_json::from_slice(&stored).unwrap();
                    prop_assert_eq!(fleet.due(), due, "a restart changes nothing");
                }
            }
            let before = fleet.record.clone();
            fleet.mend();
            let begun = if fleet.record == before { fleet.grow() } else { Vec::new() };
            changes = if fleet.record == before { changes } else { at };
            fleet.change_over(&|device| failing.as_ref() == Some(device));
            if begun.iter().any(|device| failing.as_ref() == Some(device)) {
                failing = None;
            }
            for (device, outcome) in &fleet.record.outcomes {
                let growths = &outcome.growths;
                if let Some(&count) = barred.get(device) {
                    prop_assert_eq!(growths.len(), count, "it grew after it had broken its budget");
                }
                if outcome.is_barred() {
                    barred.insert(device.clone(), growths.len());
                }
                for pair in growths.windows(2) {
                    prop_assert!(pair[1].at_unix_ms - pair[0].at_unix_ms >= HOUR_MS);
                }
                for growth in growths {
                    prop_assert!(growth.macs.1 as f64 >= 1.1 * growth.macs.0 as f64);
                    prop_assert!(growth.macs.1 as f64 <= 2.0 * growth.macs.0 as f64);
                }
                let most = (DENSE as f64 / 3.2e6).ln() / 1.1f64.ln();
                prop_assert!(growths.len() as f64 <= most);
            }
        }
        prop_assert!(changes < events.len() + 70, "it still changes");
        for at in 0..slower.len() {
            prop_assert!(breach(&fleet.tally(at), &fleet.record.outcomes[&id(at)].budget).is_none());
        }
    }
}
