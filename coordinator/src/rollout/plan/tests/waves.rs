//! Waves that are for a number of devices, or for those that a selector matches.

use super::*;
use crate::manifest::Selector;

/// Waves of every kind, and whom a selector is for.
pub(super) fn waves() -> impl Strategy<Value = (Vec<Wave>, BTreeSet<DeviceId>)> {
    let selector = "site=lab".parse::<Selector>().unwrap();
    let wave = prop_oneof![
        4 => (0u8..=100).prop_map(Wave::Percent),
        1 => (1u32..5).prop_map(Wave::Count),
        1 => Just(Wave::Selector(selector)),
    ];
    let lab = prop::collection::btree_set((0..7).prop_map(|n| id(&format!("d{n}"))), 0..4);
    (prop::collection::vec(wave, 0..4), lab)
}

#[test]
fn those_that_a_selector_matches_go_first_and_are_waited_for() {
    let lab: Selector = "site=lab".parse().unwrap();
    let waves = vec![Wave::Selector(lab), Wave::Count(3), Wave::Percent(100)];
    let mut fleet = Fleet::of(waves, [id("c"), id("e")].into(), &["a", "b", "c", "d", "e"]);
    fleet.set("e", Outcome::Deriving);
    insta::assert_snapshot!(fleet.tell(), @r"
    assign c in wave 0
    waiting: wave 1 of 3: telling c
    wake at 61000
    ");
    all_answer(&mut fleet);
    insta::assert_snapshot!(fleet.tell(), @"waiting: wave 1 of 3: waiting for e to have a model, for its selector puts them first");
    fleet.set("e", Outcome::Fitted);
    insta::assert_snapshot!(fleet.tell(), @r"
    assign e in wave 0
    waiting: wave 1 of 3: telling e
    wake at 61000
    ");
    all_answer(&mut fleet);
    insta::assert_snapshot!(fleet.tell(), @r"
    assign a in wave 1
    waiting: wave 2 of 3: telling a
    wake at 61000
    ");
    all_answer(&mut fleet);
    insta::assert_snapshot!(fleet.tell(), @r"
    assign d in wave 2
    assign b in wave 2
    waiting: wave 3 of 3: telling d, b
    wake at 61000
    ");
}

#[test]
fn a_wave_that_nobody_is_in_needs_no_approval() {
    let lab: Selector = "site=lab".parse().unwrap();
    let waves = vec![Wave::Selector(lab), Wave::Count(1)];
    let mut fleet = Fleet::of(waves, BTreeSet::new(), &["a", "b"]);
    fleet.needs_approval = true;
    insta::assert_snapshot!(fleet.tell(), @r"
    assign a in wave 1
    waiting: wave 2 of 3: telling a
    wake at 61000
    ");
    all_answer(&mut fleet);
    insta::assert_snapshot!(fleet.tell(), @"waiting: wave 2 of 3: 1 not told; `reconvene rollout approve mnist` tells the next wave");
}
