//! Devices that come after the rollout was complete.

use super::*;

fn model(name: &str) -> Digest {
    Digest::of(name.as_bytes())
}

impl Fleet {
    /// Two devices that serve the model "old", which brought the rollout to its end.
    fn complete() -> Self {
        let mut fleet = Self::new(&[20], &["a", "b"]);
        for name in ["a", "b"] {
            fleet.active(name);
            let outcome = &mut fleet.devices.get_mut(&id(name)).unwrap().0;
            (outcome.wave, outcome.digest) = (Some(1), Some(model("old")));
        }
        fleet.late = Some((BTreeSet::from([model("old")]), BTreeMap::new()));
        fleet.gate = Some(Judgement::Open);
        fleet
    }

    fn join(&mut self, names: &[&str], digest: Digest) {
        self.devices.extend(Fleet::new(&[], names).devices);
        for name in names {
            self.devices.get_mut(&id(name)).unwrap().0.digest = Some(digest);
        }
    }

    /// What the gate says of a model.
    fn judge(&mut self, digest: Digest, judgement: Judgement) {
        self.late.as_mut().unwrap().1.insert(digest, judgement);
    }
}

fn short() -> Judgement {
    Judgement::Short { requests: 12, wanted: 400 }
}

#[test]
fn a_model_that_is_proven_is_told_at_once() {
    let mut fleet = Fleet::complete();
    fleet.join(&["c", "d", "e"], model("old"));
    insta::assert_snapshot!(fleet.tell(), @r"
    assign d in wave 1
    assign c in wave 1
    assign e in wave 1
    waiting: wave 2 of 2: telling d, c, e
    wake at 61000
    ");
    all_answer(&mut fleet);
    insta::assert_snapshot!(fleet.tell(), @"complete: 5 active");
}

#[test]
fn a_new_model_is_tried_by_as_many_as_a_first_wave_has() {
    let mut fleet = Fleet::complete();
    fleet.join(&["c", "d", "e", "f", "g", "h"], model("new"));
    fleet.presence("f", Presence::Offline);
    insta::assert_snapshot!(fleet.tell(), @r"
    assign d in wave 1
    assign h in wave 1
    hold c: its model is new here, others try it first; `reconvene rollout approve mnist` gives it to all
    hold g: its model is new here, others try it first; `reconvene rollout approve mnist` gives it to all
    hold e: its model is new here, others try it first; `reconvene rollout approve mnist` gives it to all
    hold f: its model is new here, others try it first; `reconvene rollout approve mnist` gives it to all
    waiting: wave 2 of 2: telling d, h
    wake at 61000
    ");
    all_answer(&mut fleet);
    fleet.judge(model("new"), short());
    insta::assert_snapshot!(fleet.tell(), @r"
    hold c: its model is new here, others try it first: 12 of the 400 requests that the gate wants; `reconvene rollout approve mnist` goes on without
    hold g: its model is new here, others try it first: 12 of the 400 requests that the gate wants; `reconvene rollout approve mnist` goes on without
    hold e: its model is new here, others try it first: 12 of the 400 requests that the gate wants; `reconvene rollout approve mnist` goes on without
    hold f: its model is new here, others try it first: 12 of the 400 requests that the gate wants; `reconvene rollout approve mnist` goes on without
    complete: 4 active, 4 held back; `reconvene explain device/NAME` says why
    ");
    // One of a like model is not held up by it.
    fleet.join(&["z"], model("old"));
    insta::assert_snapshot!(fleet.tell(), @r"
    assign z in wave 1
    hold c: its model is new here, others try it first: 12 of the 400 requests that the gate wants; `reconvene rollout approve mnist` goes on without
    hold g: its model is new here, others try it first: 12 of the 400 requests that the gate wants; `reconvene rollout approve mnist` goes on without
    hold e: its model is new here, others try it first: 12 of the 400 requests that the gate wants; `reconvene rollout approve mnist` goes on without
    hold f: its model is new here, others try it first: 12 of the 400 requests that the gate wants; `reconvene rollout approve mnist` goes on without
    waiting: wave 2 of 2: telling z
    wake at 61000
    ");
    all_answer(&mut fleet);
    fleet.judge(model("new"), Judgement::Open);
    insta::assert_snapshot!(fleet.tell(), @r"
    assign c in wave 1
    assign g in wave 1
    assign e in wave 1
    assign f in wave 1
    waiting: wave 2 of 2: telling c, g, e and 1 more
    wake at 61000
    ");
    all_answer(&mut fleet);
    insta::assert_snapshot!(fleet.tell(), @"complete: 9 active");
}

#[test]
fn a_closed_gate_holds_its_model_back_and_ends_nothing() {
    let mut fleet = Fleet::complete();
    fleet.join(&["c", "d"], model("new"));
    fleet.step();
    all_answer(&mut fleet);
    fleet.judge(model("new"), Judgement::Closed { reason: "9 of 400 requests failed".to_owned() });
    insta::assert_snapshot!(fleet.tell(), @r"
    hold c: its model did not pass the gate: 9 of 400 requests failed; `reconvene rollout approve mnist` gives it all the same
    complete: 3 active, 1 held back; `reconvene explain device/NAME` says why
    ");
    fleet.late.as_mut().unwrap().0.insert(model("new"));
    insta::assert_snapshot!(fleet.tell(), @r"
    assign c in wave 1
    waiting: wave 2 of 2: telling c
    wake at 61000
    ");
}

#[test]
fn a_model_that_devices_gave_up_is_held_back_and_ends_nothing() {
    let mut fleet = Fleet::complete();
    fleet.gate = None;
    fleet.join(&["c"], model("new"));
    fleet.step();
    fleet.set("c", failed("it does not load"));
    fleet.join(&["d"], model("new"));
    fleet.join(&["e"], model("old"));
    insta::assert_snapshot!(fleet.tell(), @r"
    assign e in wave 1
    hold d: 1 device failed with its model; `reconvene rollout retry mnist` tries again
    waiting: wave 2 of 2: telling e
    wake at 61000
    ");
    fleet.max_failures = 1;
    insta::assert_snapshot!(fleet.tell(), @r"
    assign d in wave 1
    waiting: wave 2 of 2: telling d
    wake at 61000
    ");
}

#[test]
fn where_an_operator_approves_he_approves_of_new_models_too() {
    let mut fleet = Fleet::complete();
    (fleet.gate, fleet.needs_approval, fleet.max_concurrent) = (None, true, 1);
    fleet.join(&["c", "d", "e"], model("new"));
    insta::assert_snapshot!(fleet.tell(), @r"
    assign d in wave 1
    waiting: wave 2 of 2: telling d
    wake at 61000
    ");
    all_answer(&mut fleet);
    insta::assert_snapshot!(fleet.tell(), @r"
    hold c: its model is new here, others try it first; `reconvene rollout approve mnist` gives it to all
    hold e: its model is new here, others try it first; `reconvene rollout approve mnist` gives it to all
    complete: 3 active, 2 held back; `reconvene explain device/NAME` says why
    ");
    fleet.late.as_mut().unwrap().0.insert(model("new"));
    insta::assert_snapshot!(fleet.tell(), @r"
    assign c in wave 1
    waiting: wave 2 of 2: telling c
    wake at 61000
    ");
}

proptest! {
    #[test]
    fn no_order_of_events_tells_a_new_model_to_more_than_a_first_wave(
        waves in prop::collection::vec(0u8..=100, 0..3),
        events in prop::collection::vec((event(), any::<usize>()), 0..60),
        late in 1usize..9,
    ) {
        let mut fleet = Fleet::complete();
        fleet.waves = waves.into_iter().map(Wave::Percent).collect();
        fleet.gate = Some(short());
        let names: Vec<_> = (0..late).map(|n| format!("n{n}")).collect();
        fleet.join(&names.iter().map(String::as_str).collect::<Vec<_>>(), model("new"));
        for (event, which) in &events {
            if !matches!(event, Event::Joins) {
                fleet.happens(event, *which);
            }
            let step = fleet.step();
            prop_assert!(!matches!(step.status, Status::Failed { .. }), "{step:?}");
            let told = |(outcome, _): &&(OutcomeRecord, Presence)| {
                outcome.wave.is_some() && outcome.digest == Some(model("new"))
            };
            let told = fleet.devices.values().filter(told).count();
            prop_assert!(told <= fleet.rollout().target(0, late).max(1), "{told} of {late}");
        }
        // Once it has passed, everybody who is there gets it, unless one gave it up.
        fleet.judge(model("new"), Judgement::Open);
        for which in 0..fleet.devices.len() {
            fleet.happens(&Event::Returns, which);
        }
        for _ in 0..2 {
            fleet.step();
            all_answer(&mut fleet);
        }
        let is_lost = |(outcome, _): &(OutcomeRecord, Presence)| matches!(outcome.state, Outcome::Failed { .. });
        if !fleet.devices.values().any(is_lost) {
            for (device, (outcome, _)) in &fleet.devices {
                prop_assert!(matches!(outcome.state, Outcome::Active { .. }), "{device}: {:?}", outcome.state);
            }
        }
    }
}
