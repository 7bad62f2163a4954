//! Every choice goes through, and what a choice needs is asked for.

use std::ops::ControlFlow;

use super::*;
use crate::budget::Budget;
use crate::graph::Shape;
use crate::plan::Coupled;
use crate::{init, zoo};

fn network() -> Network {
    let graph = zoo::build(zoo::ZooNetwork::ResNet20, Shape::new(1, 8, 8), 4).unwrap();
    Network { weights: init::init(&graph, 1), graph }
}

fn images() -> LabelledImages {
    let numbers = (0..8 * 64).map(|i| ((i * 37 % 101) as f32) / 50.0 - 1.0).collect();
    LabelledImages::new(Shape::new(1, 8, 8), 4, numbers, vec![0, 1, 2, 3, 0, 1, 2, 3])
}

fn go(_: u32, _: u32) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

#[test]
fn every_criterion_measure_and_start_makes_a_network_within_its_budget() {
    let (network, images) = (network(), images());
    let choices = Criterion::ALL
        .iter()
        .map(|&criterion| Pruning { criterion, ..Pruning::default() })
        .chain(Measure::ALL.iter().map(|&measure| Pruning { measure, ..Pruning::default() }))
        .chain(Reinit::ALL.iter().map(|&reinit| Pruning { reinit, ..Pruning::default() }));
    for pruning in choices {
        let pruning = Pruning { rounds: 3, ..pruning };
        let planner = pruning.planner(&network, Some(&images), &mut go).unwrap();
        let budget = Budget { params: Some(40_000), ..Budget::default() };
        let plan = planner.plan(&budget, None, 1).unwrap();
        let pruned = pruning.carry_out(&network, &plan).unwrap();
        assert!(crate::graph::cost::cost(&pruned.graph).params <= 40_000, "{pruning:?}");
        assert_eq!(crate::graph::cost::cost(&pruned.graph), plan.promised, "{pruning:?}");
    }
}

#[test]
fn images_are_asked_for_where_they_are_needed() {
    let network = network();
    let snip = Pruning { criterion: Criterion::Snip, rounds: 1, ..Pruning::default() };
    let probe = Pruning { measure: Measure::Probe, rounds: 1, ..Pruning::default() };
    assert!(snip.needs_images() && probe.needs_images() && !Pruning::default().needs_images());
    assert!(matches!(snip.planner(&network, None, &mut go), Err(PruningError::Scores(_))));
    assert!(matches!(probe.planner(&network, None, &mut go), Err(PruningError::Sensitivity(_))));
}

#[test]
fn choices_are_spelt_alike_everywhere() {
    assert_eq!("flow-gap".parse(), Ok(Measure::FlowGap));
    assert_eq!(serde_json::json!(Criterion::ALL), serde_json::json!(Criterion::NAMES));
    assert_eq!(serde_json::json!(Measure::ALL), serde_json::json!(Measure::NAMES));
    assert_eq!(serde_json::json!(Reinit::ALL), serde_json::json!(Reinit::NAMES));
    assert_eq!(serde_json::json!(Coupled::ALL), serde_json::json!(Coupled::NAMES));
    let unknown = "l1".parse::<Criterion>().unwrap_err();
    assert_eq!(unknown.to_string(), "'l1' is no criterion; known: synflow, snip, grasp, magnitude, random");
}

#[test]
fn the_probe_is_heard_of_layer_by_layer_and_may_be_broken_off() {
    let (network, images) = (network(), images());
    let pruning = Pruning { measure: Measure::Probe, rounds: 2, ..Pruning::default() };
    let mut heard = Vec::new();
    let _ = pruning
        .planner(&network, Some(&images), &mut |done, of| {
            heard.push((done, of));
            ControlFlow::Continue(())
        })
        .unwrap();
    let of = heard[0].1;
    assert_eq!(heard, (1..=of).map(|done| (done, of)).collect::<Vec<_>>());
    assert!(of > 20, "20 layers and more are probed: {of}");
    let broken = pruning.planner(&network, Some(&images), &mut |done, _| {
        if done > 5 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let error = broken.unwrap_err().to_string();
    assert_eq!(error, SaliencyError::Cancelled.to_string());
}

#[test]
fn what_was_scored_plans_for_its_network_and_no_other() {
    let network = network();
    let pruning = Pruning { rounds: 2, ..Pruning::default() };
    let scored = pruning.score(&network, None, &mut go).unwrap();
    let budget = Budget { params: Some(20_000), ..Budget::default() };
    let apart = scored.clone().planner(&network.graph, pruning.widths).unwrap().plan(&budget, None, 1);
    let at_once = pruning.planner(&network, None, &mut go).unwrap().plan(&budget, None, 1);
    assert_eq!(apart.unwrap(), at_once.unwrap());
    let other = zoo::build(zoo::ZooNetwork::ResNet32, network.graph.input_shape(), 3).unwrap();
    let foreign = scored.planner(&other, pruning.widths).unwrap_err();
    assert!(foreign.to_string().starts_with("the scores are of another network: of layer "), "{foreign}");
}
