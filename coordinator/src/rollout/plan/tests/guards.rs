//! What holds a rollout up or ends it beside its devices' answers: an operator, time, the gate, the number of failures.

use std::time::Duration;

use super::*;

#[test]
fn a_paused_rollout_tells_nobody_and_says_so() {
    let mut fleet = Fleet::new(&[50], &["a", "b", "c"]);
    fleet.paused = true;
    let step = next(&fleet.rollout(), fleet.now);
    let reason = "paused, 3 not told; `reconvene rollout resume mnist` goes on".to_owned();
    assert_eq!((step.assign.len(), step.status), (0, Status::Waiting { reason }));
    for name in ["a", "b", "c"] {
        fleet.active(name);
    }
    let step = next(&fleet.rollout(), fleet.now);
    assert_eq!(step.status, Status::Complete { summary: "3 active".to_owned() }, "nothing is left to pause");
    fleet.set("b", failed("no disk"));
    let step = next(&fleet.rollout(), fleet.now);
    assert!(matches!(step.status, Status::Failed { .. }), "a failure is not put off");
}

#[test]
fn two_devices_that_serve_are_said_to() {
    let mut fleet = Fleet::new(&[66], &["a", "b", "c"]);
    fleet.bake_ms = 30_000;
    let told: Vec<_> = fleet.step().assign.iter().map(|placement| placement.device.to_string()).collect();
    told.iter().for_each(|device| fleet.active(device));
    let said = format!("{:?}", next(&fleet.rollout(), fleet.now).status);
    assert!(said.contains(&format!("{} serve the new model", told.join(", "))), "{said}");
}

#[test]
fn the_next_wave_waits_until_the_one_before_has_served_for_a_while() {
    let mut fleet = Fleet::new(&[33], &["a", "b", "c"]);
    fleet.bake_ms = 30_000;
    let first = fleet.step().assign[0].device.to_string();
    fleet.active(&first);
    let step = next(&fleet.rollout(), fleet.now);
    assert_eq!((step.assign.len(), step.wake_unix_ms), (0, Some(fleet.now + 30_000)));
    let until = std::time::UNIX_EPOCH + Duration::from_secs((fleet.now + 30_000).div_ceil(1000));
    let until = humantime::format_rfc3339_seconds(until);
    let reason = format!("wave 1 of 2: {first} serves the new model; the next wave at {until}");
    assert_eq!(step.status, Status::Waiting { reason: reason.clone() });
    fleet.now += 7_000;
    let step = next(&fleet.rollout(), fleet.now);
    assert_eq!(step.status, Status::Waiting { reason: reason.clone() }, "it is as true later");
    fleet.needs_approval = true;
    let approve = "once `reconvene rollout approve mnist` says so, not before";
    let held = reason.replace("wave at", &format!("wave {approve}"));
    assert_eq!(next(&fleet.rollout(), fleet.now).status, Status::Waiting { reason: held });
    fleet.approved = 1;
    let approved = reason.replace("wave at", "wave, which is approved, at");
    assert_eq!(next(&fleet.rollout(), fleet.now).status, Status::Waiting { reason: approved });
    fleet.now += 23_000;
    assert_eq!(next(&fleet.rollout(), fleet.now).assign.len(), 2);
    for name in ["a", "b", "c"] {
        fleet.active(name);
    }
    let step = next(&fleet.rollout(), fleet.now);
    assert_eq!(
        step.status,
        Status::Complete { summary: "3 active".to_owned() },
        "nobody waits for the last one"
    );
}

#[test]
fn a_canary_that_is_fitted_again_holds_up_the_others() {
    let mut fleet = Fleet::new(&[33], &["a", "b", "c"]);
    let first = fleet.step().assign[0].device.to_string();
    fleet.set(&first, Outcome::Deriving);
    let step = next(&fleet.rollout(), fleet.now);
    assert_eq!(step.assign.len(), 0);
    assert!(
        matches!(step.status, Status::Waiting { reason } if reason.contains("waiting for the models of"))
    );
}

fn short() -> Option<Judgement> {
    Some(Judgement::Short { requests: 12, wanted: 400 })
}

#[test]
fn a_wave_is_told_once_the_one_before_has_passed_the_gate() {
    let mut fleet = Fleet::new(&[20, 60], &["a", "b", "c", "d", "e"]);
    fleet.gate = short();
    insta::assert_snapshot!(fleet.tell(), @r"
    assign a in wave 0
    waiting: wave 1 of 3: telling a
    wake at 61000
    ");
    all_answer(&mut fleet);
    insta::assert_snapshot!(fleet.tell(), @"waiting: wave 1 of 3: 12 of the 400 requests that the gate wants; `reconvene rollout approve mnist` goes on without");
    fleet.gate = Some(Judgement::Open);
    insta::assert_snapshot!(fleet.tell(), @r"
    assign d in wave 1
    assign b in wave 1
    waiting: wave 2 of 3: telling d, b
    wake at 61000
    ");
    all_answer(&mut fleet);
    // An operator who need not wait for requests that never come.
    fleet.gate = short();
    insta::assert_snapshot!(fleet.tell(), @"waiting: wave 2 of 3: 12 of the 400 requests that the gate wants; `reconvene rollout approve mnist` goes on without");
    fleet.approved = 2;
    insta::assert_snapshot!(fleet.tell(), @r"
    assign c in wave 2
    assign e in wave 2
    waiting: wave 3 of 3: telling c, e
    wake at 61000
    ");
    all_answer(&mut fleet);
    insta::assert_snapshot!(fleet.tell(), @"complete: 5 active");
}

#[test]
fn a_closed_gate_ends_it() {
    let mut fleet = Fleet::new(&[40], &["a", "b", "c", "d", "e"]);
    fleet.gate = short();
    insta::assert_snapshot!(fleet.tell(), @r"
    assign a in wave 0
    assign d in wave 0
    waiting: wave 1 of 2: telling a, d
    wake at 61000
    ");
    fleet.gate = Some(Judgement::Closed { reason: "9 of 400 requests failed".to_owned() });
    fleet.approved = 1;
    insta::assert_snapshot!(fleet.tell(), @"failed: wave 1 of 2 did not pass the gate: 9 of 400 requests failed; 3 not told, they keep what they serve");
}

#[test]
fn a_wave_whose_devices_are_away_has_shown_nothing() {
    let mut fleet = Fleet::new(&[50], &["a", "b"]);
    fleet.gate = short();
    for name in ["a", "b"] {
        fleet.presence(name, Presence::Offline);
    }
    insta::assert_snapshot!(fleet.tell(), @r"
    assign a in wave 0
    waiting: wave 1 of 2: telling a
    wake at 61000
    ");
    insta::assert_snapshot!(fleet.tell(), @"waiting: wave 1 of 2: 12 of the 400 requests that the gate wants; `reconvene rollout approve mnist` goes on without");
}

#[test]
fn each_wave_waits_for_an_operator() {
    let mut fleet = Fleet::new(&[20, 60], &["a", "b", "c", "d", "e"]);
    fleet.needs_approval = true;
    insta::assert_snapshot!(fleet.tell(), @r"
    assign a in wave 0
    waiting: wave 1 of 3: telling a
    wake at 61000
    ");
    all_answer(&mut fleet);
    insta::assert_snapshot!(fleet.tell(), @"waiting: wave 1 of 3: 4 not told; `reconvene rollout approve mnist` tells the next wave");
    fleet.approved = 1;
    insta::assert_snapshot!(fleet.tell(), @r"
    assign d in wave 1
    assign b in wave 1
    waiting: wave 2 of 3: telling d, b
    wake at 61000
    ");
    all_answer(&mut fleet);
    insta::assert_snapshot!(fleet.tell(), @"waiting: wave 2 of 3: 2 not told; `reconvene rollout approve mnist` tells the next wave");
    fleet.approved = 2;
    insta::assert_snapshot!(fleet.tell(), @r"
    assign c in wave 2
    assign e in wave 2
    waiting: wave 3 of 3: telling c, e
    wake at 61000
    ");
}

#[test]
fn few_change_over_at_one_time() {
    let mut fleet = Fleet::new(&[80], &["a", "b", "c", "d", "e"]);
    fleet.max_concurrent = 2;
    insta::assert_snapshot!(fleet.tell(), @r"
    assign a in wave 0
    assign d in wave 0
    waiting: wave 1 of 2: telling a, d
    wake at 61000
    ");
    insta::assert_snapshot!(fleet.tell(), @r"
    waiting: wave 1 of 2: waiting for a, d to serve the new model
    wake at 61000
    ");
    let first = assigned(&fleet).remove(0);
    fleet.active(&first);
    insta::assert_snapshot!(fleet.tell(), @r"
    assign b in wave 0
    waiting: wave 1 of 2: telling b
    wake at 61000
    ");
    all_answer(&mut fleet);
    insta::assert_snapshot!(fleet.tell(), @r"
    assign c in wave 0
    waiting: wave 1 of 2: telling c
    wake at 61000
    ");
    all_answer(&mut fleet);
    insta::assert_snapshot!(fleet.tell(), @r"
    assign e in wave 1
    waiting: wave 2 of 2: telling e
    wake at 61000
    ");
}

#[test]
fn as_many_may_fail_as_the_manifest_says() {
    let mut fleet = Fleet::new(&[40], &["a", "b", "c", "d", "e"]);
    fleet.max_failures = 1;
    fleet.step();
    let told = assigned(&fleet);
    fleet.set(&told[0], failed("no disk"));
    fleet.active(&told[1]);
    insta::assert_snapshot!(fleet.tell(), @r"
    assign b in wave 1
    assign c in wave 1
    assign e in wave 1
    waiting: wave 2 of 2: telling b, c, e
    wake at 61000
    ");
    let told = assigned(&fleet);
    all_answer(&mut fleet);
    insta::assert_snapshot!(fleet.tell(), @"complete: 4 active, 1 failed");
    fleet.set(&told[0], failed("no disk either"));
    insta::assert_snapshot!(fleet.tell(), @"failed: device a failed in wave 1 of 2: no disk; 1 more failed");
}

/// What may change beside the devices.
#[derive(Debug, Clone)]
enum Turn {
    Device(Event, usize),
    Gate(Judgement),
    Approve,
    Restart,
}

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        16 => (event(), any::<usize>()).prop_map(|(event, which)| Turn::Device(event, which)),
        2 => Just(Turn::Gate(Judgement::Open)),
        2 => Just(Turn::Gate(short().unwrap())),
        1 => Just(Turn::Approve),
        1 => Just(Turn::Restart),
    ]
}

impl Fleet {
    fn reached(&self) -> u32 {
        self.devices.values().filter_map(|(outcome, _)| outcome.wave).max().unwrap_or(0)
    }

    /// A step, and what the guards promise of it.
    fn guarded_step(&mut self) -> Result<Step, TestCaseError> {
        let (before, reached) = (self.clone(), self.reached());
        let step = self.checked_step()?;
        let mut beyond: Vec<_> = step.assign.iter().map(|placement| placement.wave).collect();
        beyond.retain(|&wave| wave > reached);
        beyond.dedup();
        if !beyond.is_empty() {
            // Whom nobody was told before has nothing to wait for.
            let is_first = before.devices.values().all(|(outcome, _)| outcome.wave.is_none());
            let is_allowed = is_first || before.rollout().may_leave(reached);
            prop_assert!(is_allowed, "nobody allowed it: {step:?}");
        }
        if self.gate.is_some() || self.needs_approval {
            prop_assert!(beyond.len() <= 1, "a wave was told that had shown nothing: {step:?}");
        }
        let is_moving = |(outcome, presence): &&(OutcomeRecord, Presence)| {
            matches!(outcome.state, Outcome::Assigned { .. }) && presence.is_online()
        };
        if !step.assign.is_empty() {
            let moving = self.devices.values().filter(is_moving).count();
            prop_assert!(moving <= self.max_concurrent, "{moving} at one time: {step:?}");
        }
        Ok(step)
    }
}

proptest! {
    #[test]
    fn every_order_of_events_keeps_to_the_guards_and_ends(
        (waves, lab) in waves(),
        names in 1usize..7,
        (has_gate, needs_approval, max_concurrent, max_failures) in (any::<bool>(), any::<bool>(), 1usize..4, 0usize..3),
        turns in prop::collection::vec(turn(), 0..60),
    ) {
        let names: Vec<_> = (0..names).map(|n| format!("d{n}")).collect();
        let mut fleet = Fleet::of(waves, lab, &names.iter().map(String::as_str).collect::<Vec<_>>());
        fleet.gate = if has_gate { short() } else { None };
        (fleet.needs_approval, fleet.max_concurrent, fleet.max_failures) =
            (needs_approval, max_concurrent, max_failures);
        for turn in &turns {
            match turn {
                Turn::Device(event, which) => fleet.happens(event, *which),
                Turn::Gate(judgement) if has_gate => fleet.gate = Some(judgement.clone()),
                Turn::Gate(_) => {}
                Turn::Approve => fleet.approved = fleet.reached() + 1,
                // The coordinator forgets its sessions and nothing else.
                Turn::Restart => {
                    for (_, presence) in fleet.devices.values_mut().filter(|(_, it)| it.is_online()) {
                        *presence = Presence::Offline;
                    }
                }
            }
            fleet.guarded_step()?;
        }
        // From now on everybody is there and does what is asked of it, and an operator looks on.
        for which in 0..fleet.devices.len() {
            fleet.happens(&Event::Returns, which);
            fleet.happens(&Event::Profiled, which);
            fleet.happens(&Event::Derived, which);
        }
        for _ in 0..=2 * fleet.devices.len() {
            fleet.approved = fleet.reached() + 1;
            match fleet.guarded_step()?.status {
                Status::Waiting { .. } => all_answer(&mut fleet),
                Status::Failed { .. } | Status::Complete { .. } => return Ok(()),
            }
        }
        prop_assert!(false, "did not end: {}", fleet.tell());
    }
}

#[test]
fn who_may_come_back_after_a_start_is_named_among_those_that_are_waited_for() {
    let mut fleet = Fleet::new(&[100], &["a", "b"]);
    fleet.tell();
    fleet.presence("a", Presence::Returning { since_unix_ms: 900, for_ms: 30_000 });
    insta::assert_snapshot!(fleet.tell(), @r"
    waiting: wave 1 of 1: waiting for a, b to serve the new model; a may take up to 30 s to come back: the coordinator has just started
    wake at 61000
    ");
    fleet.presence("a", Presence::Offline);
    insta::assert_snapshot!(fleet.tell(), @r"
    waiting: wave 1 of 1: waiting for b to serve the new model
    wake at 61000
    ");
}
