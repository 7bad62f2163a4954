//! Decisions on hand-made fleets, compared as text, and properties of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use proptest::prelude::*;
use proto::{DeviceId, Digest};

use super::{Status, Step, next};
use crate::manifest::Wave;
use crate::rollout::gate::Judgement;
use crate::rollout::state::{Late, Member, Presence, Rollout};
use crate::store::{Outcome, OutcomeRecord};

mod guards;
mod late;
mod orders;
mod waves;

use orders::{Event, event};
use waves::waves;

const LIMIT_MS: u64 = 60_000;

/// A fleet that does what each step says, as the driver would.
#[derive(Clone)]
struct Fleet {
    waves: Vec<Wave>,
    /// Whom waves with a selector are for.
    lab: BTreeSet<DeviceId>,
    paused: bool,
    bake_ms: u64,
    gate: Option<Judgement>,
    needs_approval: bool,
    approved: u32,
    max_concurrent: usize,
    max_failures: usize,
    /// It was complete once: the models that are proven, and what the gate says of others.
    late: Option<(BTreeSet<Digest>, BTreeMap<Digest, Judgement>)>,
    now: u64,
    devices: BTreeMap<DeviceId, (OutcomeRecord, Presence)>,
}

fn id(name: &str) -> DeviceId {
    name.parse().unwrap()
}

fn failed(reason: &str) -> Outcome {
    Outcome::Failed { reason: reason.to_owned() }
}

fn no_fit() -> Outcome {
    Outcome::NoFit {
        ceiling: "params".to_owned(),
        allowed: 10.0,
        smallest: 90.0,
        text: "too small".to_owned(),
    }
}

impl Fleet {
    fn new(waves: &[u8], names: &[&str]) -> Self {
        let mut fleet = Self {
            waves: waves.iter().copied().map(Wave::Percent).collect(),
            lab: BTreeSet::new(),
            paused: false,
            bake_ms: 0,
            gate: None,
            needs_approval: false,
            approved: 0,
            max_concurrent: usize::MAX,
            max_failures: 0,
            late: None,
            now: 1000,
            devices: BTreeMap::new(),
        };
        for name in names {
            fleet.devices.insert(
                id(name),
                (OutcomeRecord::waiting("no profile yet"), Presence::Online { since_unix_ms: 0 }),
            );
            fleet.set(name, Outcome::Fitted);
        }
        fleet
    }

    fn of(waves: Vec<Wave>, lab: BTreeSet<DeviceId>, names: &[&str]) -> Self {
        Self { waves, lab, ..Self::new(&[], names) }
    }

    fn set(&mut self, name: &str, state: Outcome) {
        self.devices.get_mut(&id(name)).unwrap().0.state = state;
    }

    fn active(&mut self, name: &str) {
        self.set(name, Outcome::Active { since_unix_ms: self.now });
    }

    fn presence(&mut self, name: &str, presence: Presence) {
        self.devices.get_mut(&id(name)).unwrap().1 = presence;
    }

    fn rollout(&self) -> Rollout<'_> {
        let selection = self.waves.iter().position(|wave| matches!(wave, Wave::Selector(_)));
        let selected = |id| selection.filter(|_| self.lab.contains(id)).map(|wave| wave as u32);
        let members = self
            .devices
            .iter()
            .map(|(id, (outcome, presence))| {
                (id, Member { outcome, presence: *presence, selected: selected(id) })
            })
            .collect();
        Rollout {
            deployment: "mnist",
            begun_unix_ms: 0,
            paused: self.paused,
            bake_ms: self.bake_ms,
            has_gate: self.gate.is_some(),
            judgement: self.gate.clone().unwrap_or(Judgement::Open),
            needs_approval: self.needs_approval,
            approved: self.approved,
            max_concurrent: self.max_concurrent,
            max_failures: self.max_failures,
            waves: &self.waves,
            late: self.late.as_ref().map(|(proven, judged)| Late { proven, judged }),
            settle_limit_ms: LIMIT_MS,
            members,
        }
    }

    fn step(&mut self) -> Step {
        let step = next(&self.rollout(), self.now);
        for expiry in &step.expired {
            self.devices.get_mut(&expiry.device).unwrap().0.state = failed(&expiry.reason);
        }
        for placement in &step.assign {
            let outcome = &mut self.devices.get_mut(&placement.device).unwrap().0;
            outcome.wave = Some(placement.wave);
            outcome.state = Outcome::Assigned { since_unix_ms: self.now };
        }
        step
    }

    /// The next step as text.
    fn tell(&mut self) -> String {
        let step = self.step();
        let mut text = String::new();
        for placement in &step.assign {
            writeln!(text, "assign {} in wave {}", placement.device, placement.wave).unwrap();
        }
        for (device, why) in &step.held {
            writeln!(text, "hold {device}: {why}").unwrap();
        }
        for expiry in &step.expired {
            writeln!(text, "expire {}: {}", expiry.device, expiry.reason).unwrap();
        }
        match &step.status {
            Status::Waiting { reason } => write!(text, "waiting: {reason}").unwrap(),
            Status::Complete { summary } => write!(text, "complete: {summary}").unwrap(),
            Status::Failed { reason } => write!(text, "failed: {reason}").unwrap(),
        }
        if let Some(wake) = step.wake_unix_ms {
            write!(text, "\nwake at {wake}").unwrap();
        }
        text
    }
}

/// Who was told and has not answered.
fn assigned(fleet: &Fleet) -> Vec<String> {
    let told = |outcome: &OutcomeRecord| matches!(outcome.state, Outcome::Assigned { .. });
    fleet.devices.iter().filter(|(_, (outcome, _))| told(outcome)).map(|(id, _)| id.to_string()).collect()
}

fn all_answer(fleet: &mut Fleet) {
    for name in assigned(fleet) {
        fleet.active(&name);
    }
}

#[test]
fn a_wave_opens_when_the_one_before_serves() {
    let mut fleet = Fleet::new(&[20, 60], &["a", "b", "c", "d", "e"]);
    insta::assert_snapshot!(fleet.tell(), @r"
    assign a in wave 0
    waiting: wave 1 of 3: telling a
    wake at 61000
    ");
    insta::assert_snapshot!(fleet.tell(), @r"
    waiting: wave 1 of 3: waiting for a to serve the new model
    wake at 61000
    ");
    all_answer(&mut fleet);
    fleet.now = 5000;
    insta::assert_snapshot!(fleet.tell(), @r"
    assign d in wave 1
    assign b in wave 1
    waiting: wave 2 of 3: telling d, b
    wake at 65000
    ");
    fleet.active("b");
    insta::assert_snapshot!(fleet.tell(), @r"
    waiting: wave 2 of 3: waiting for d to serve the new model
    wake at 65000
    ");
    all_answer(&mut fleet);
    insta::assert_snapshot!(fleet.tell(), @r"
    assign c in wave 2
    assign e in wave 2
    waiting: wave 3 of 3: telling c, e
    wake at 65000
    ");
    all_answer(&mut fleet);
    insta::assert_snapshot!(fleet.tell(), @"complete: 5 active");
}

#[test]
fn one_failure_stops_the_rollout() {
    let mut fleet = Fleet::new(&[40], &["a", "b", "c", "d", "e"]);
    insta::assert_snapshot!(fleet.tell(), @r"
    assign a in wave 0
    assign d in wave 0
    waiting: wave 1 of 2: telling a, d
    wake at 61000
    ");
    fleet.set("d", failed("self-test differs by 3.1"));
    insta::assert_snapshot!(fleet.tell(), @"failed: device d failed in wave 1 of 2: self-test differs by 3.1; 3 not told, they keep what they serve");
    all_answer(&mut fleet);
    insta::assert_snapshot!(fleet.tell(), @"failed: device d failed in wave 1 of 2: self-test differs by 3.1; 3 not told, they keep what they serve");
}

#[test]
fn a_device_that_takes_too_long_has_failed() {
    let mut fleet = Fleet::new(&[], &["a", "b"]);
    insta::assert_snapshot!(fleet.tell(), @r"
    assign a in wave 0
    assign b in wave 0
    waiting: wave 1 of 1: telling a, b
    wake at 61000
    ");
    fleet.active("a");
    fleet.now = 60_999;
    insta::assert_snapshot!(fleet.tell(), @r"
    waiting: wave 1 of 1: waiting for b to serve the new model
    wake at 61000
    ");
    fleet.now = 61_000;
    insta::assert_snapshot!(fleet.tell(), @r"
    expire b: did not become active within 1 min
    failed: device b failed in wave 1 of 1: did not become active within 1 min
    ");
    insta::assert_snapshot!(fleet.tell(), @"failed: device b failed in wave 1 of 1: did not become active within 1 min");
}

#[test]
fn a_device_that_comes_back_has_its_whole_time_again() {
    let mut fleet = Fleet::new(&[], &["a"]);
    fleet.presence("a", Presence::Offline);
    insta::assert_snapshot!(fleet.tell(), @r"
    assign a in wave 0
    waiting: wave 1 of 1: telling a
    wake at 61000
    ");
    insta::assert_snapshot!(fleet.tell(), @"complete: 0 active, 1 offline that will change over on return");
    fleet.now = 9_000_000;
    fleet.presence("a", Presence::Online { since_unix_ms: 9_000_000 });
    insta::assert_snapshot!(fleet.tell(), @r"
    waiting: wave 1 of 1: waiting for a to serve the new model
    wake at 9060000
    ");
    fleet.active("a");
    insta::assert_snapshot!(fleet.tell(), @"complete: 1 active");
}

#[test]
fn absent_devices_and_those_without_fit_hold_nobody_up() {
    let mut fleet = Fleet::new(&[25], &["a", "b", "c", "d", "e", "f"]);
    fleet.presence("a", Presence::Offline);
    fleet.presence("d", Presence::Offline);
    fleet.set("b", no_fit());
    fleet.set("f", Outcome::Waiting { reason: "no profile yet".to_owned() });
    fleet.presence("f", Presence::Offline);
    insta::assert_snapshot!(fleet.tell(), @r"
    assign c in wave 0
    waiting: wave 1 of 2: telling c
    wake at 61000
    ");
    all_answer(&mut fleet);
    insta::assert_snapshot!(fleet.tell(), @r"
    assign e in wave 1
    assign a in wave 1
    assign d in wave 1
    waiting: wave 2 of 2: telling e, a, d
    wake at 61000
    ");
    fleet.active("c");
    fleet.active("e");
    insta::assert_snapshot!(fleet.tell(), @"complete: 2 active, 2 offline that will change over on return, 1 without fit, 1 without a profile");
    all_answer(&mut fleet);
    insta::assert_snapshot!(fleet.tell(), @"complete: 4 active, 1 without fit, 1 without a profile");
}

#[test]
fn a_banned_device_is_waited_for_by_nobody_and_does_not_count_as_one_that_comes_back() {
    let mut fleet = Fleet::new(&[50], &["a", "b", "c", "d"]);
    fleet.bake_ms = 5000;
    insta::assert_snapshot!(fleet.tell(), @r"
    assign a in wave 0
    assign d in wave 0
    waiting: wave 1 of 2: telling a, d
    wake at 61000
    ");
    fleet.active("a");
    fleet.presence("a", Presence::Banned);
    fleet.presence("d", Presence::Banned);
    insta::assert_snapshot!(fleet.tell(), @r"
    assign b in wave 1
    assign c in wave 1
    waiting: wave 2 of 2: telling b, c
    wake at 61000
    ");
    fleet.active("b");
    fleet.set("c", no_fit());
    fleet.now += 5000;
    insta::assert_snapshot!(fleet.tell(), @"complete: 1 active, 2 banned: `reconvene device unban` lets a, d in again, 1 without fit");
    fleet.presence("d", Presence::Offline);
    insta::assert_snapshot!(fleet.tell(), @"complete: 1 active, 1 offline that will change over on return, 1 banned: `reconvene device unban a` lets it in again, 1 without fit");
}

#[test]
fn devices_without_a_model_yet_are_waited_for_in_plain_words() {
    let mut fleet = Fleet::new(&[50], &["a", "b"]);
    fleet.set("a", Outcome::Deriving);
    fleet.set("b", Outcome::Waiting { reason: "its probes are not timed yet".to_owned() });
    insta::assert_snapshot!(fleet.tell(), @r"
    waiting: waiting for the models of a
    wake at 60000
    ");
    fleet.set("a", no_fit());
    insta::assert_snapshot!(fleet.tell(), @r"
    waiting: waiting for b: its probes are not timed yet
    wake at 60000
    ");
    fleet.set("b", no_fit());
    insta::assert_snapshot!(fleet.tell(), @"complete: 0 active, 2 without fit");
    insta::assert_snapshot!(Fleet::new(&[], &[]).tell(), @"waiting: no device matches the selector yet");
    let mut gone = Fleet::new(&[], &["a"]);
    gone.set("a", Outcome::Waiting { reason: "no profile yet".to_owned() });
    gone.presence("a", Presence::Offline);
    insta::assert_snapshot!(gone.tell(), @"waiting: 1 device matches, it has not sent a profile");
}

#[test]
fn a_device_that_never_sends_a_profile_is_not_waited_for_forever() {
    let mut fleet = Fleet::new(&[], &["a", "b"]);
    fleet.set("b", Outcome::Waiting { reason: "no profile yet".to_owned() });
    insta::assert_snapshot!(fleet.tell(), @r"
    assign a in wave 0
    waiting: wave 1 of 1: telling a
    wake at 60000
    ");
    fleet.active("a");
    insta::assert_snapshot!(fleet.tell(), @r"
    waiting: waiting for b: no profile yet
    wake at 60000
    ");
    fleet.now = LIMIT_MS;
    insta::assert_snapshot!(fleet.tell(), @"complete: 1 active, 1 without a profile");
}

#[test]
fn a_device_of_an_earlier_wave_that_comes_back_is_heard_first() {
    let mut fleet = Fleet::new(&[1], &["a", "b", "c"]);
    fleet.set("a", Outcome::Deriving);
    insta::assert_snapshot!(fleet.tell(), @r"
    assign b in wave 0
    waiting: wave 1 of 2: telling b
    wake at 61000
    ");
    fleet.presence("b", Presence::Offline);
    insta::assert_snapshot!(fleet.tell(), @r"
    assign c in wave 1
    waiting: wave 2 of 2: telling c
    wake at 61000
    ");
    fleet.active("c");
    fleet.presence("b", Presence::Online { since_unix_ms: 1000 });
    fleet.set("a", Outcome::Fitted);
    insta::assert_snapshot!(fleet.tell(), @r"
    waiting: wave 2 of 2: waiting for b to serve the new model
    wake at 61000
    ");
    fleet.active("b");
    insta::assert_snapshot!(fleet.tell(), @r"
    assign a in wave 1
    waiting: wave 2 of 2: telling a
    wake at 61000
    ");
}

#[test]
fn a_newcomer_is_absorbed_and_never_reopens_a_finished_wave() {
    let mut fleet = Fleet::new(&[50], &["a", "b"]);
    insta::assert_snapshot!(fleet.tell(), @r"
    assign a in wave 0
    waiting: wave 1 of 2: telling a
    wake at 61000
    ");
    all_answer(&mut fleet);
    insta::assert_snapshot!(fleet.tell(), @r"
    assign b in wave 1
    waiting: wave 2 of 2: telling b
    wake at 61000
    ");
    fleet.devices.extend(Fleet::new(&[], &["c", "d", "e"]).devices);
    insta::assert_snapshot!(fleet.tell(), @r"
    assign d in wave 1
    assign c in wave 1
    assign e in wave 1
    waiting: wave 2 of 2: telling d, c, e
    wake at 61000
    ");
    all_answer(&mut fleet);
    insta::assert_snapshot!(fleet.tell(), @"complete: 5 active");
    fleet.devices.extend(Fleet::new(&[], &["f"]).devices);
    insta::assert_snapshot!(fleet.tell(), @r"
    assign f in wave 1
    waiting: wave 2 of 2: telling f
    wake at 61000
    ");
}

#[test]
fn a_device_that_was_placed_but_not_told_is_told_in_its_wave() {
    let mut fleet = Fleet::new(&[50], &["a", "b"]);
    insta::assert_snapshot!(fleet.tell(), @r"
    assign a in wave 0
    waiting: wave 1 of 2: telling a
    wake at 61000
    ");
    let name = assigned(&fleet).remove(0);
    fleet.set(&name, Outcome::Fitted);
    insta::assert_snapshot!(fleet.tell(), @r"
    assign a in wave 0
    waiting: wave 1 of 2: telling a
    wake at 61000
    ");
}
