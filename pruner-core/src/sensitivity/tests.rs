//! Every measure on networks of a few weights, by hand.

use std::ops::ControlFlow;

use candle_core::{Device, Tensor};

use super::*;
use crate::graph::{Graph, Node, Op, Shape};
use crate::saliency::{Criterion, MaskRecipe, Masked, ScoreRecipe, mask};

fn taken(evidence: &Evidence<'_>, measure: Measure) -> Result<Sensitivity, SensitivityError> {
    sensitivity(evidence, measure, &mut || ControlFlow::Continue(()))
}

/// Linear layers one after the other, of 2 inputs each.
fn network(layers: &[&[f32]]) -> Network {
    let mut nodes = vec![Node { name: "in".to_owned(), op: Op::Input, inputs: Vec::new() }];
    let mut weights = BTreeMap::new();
    for (index, values) in layers.iter().enumerate() {
        let op = Op::Linear { inputs: 2, outputs: values.len() / 2, bias: false };
        nodes.push(Node { name: format!("w{index}"), op, inputs: vec![NodeId(index)] });
        let tensor = Tensor::from_slice(values, (values.len() / 2, 2), &Device::Cpu).unwrap();
        weights.insert(format!("w{index}.weight"), tensor);
    }
    Network { graph: Graph::new(Shape::vector(2), nodes).unwrap(), weights }
}

fn masked(network: &Network, density: f64) -> Masked {
    let recipe = ScoreRecipe { criterion: Criterion::Magnitude, rounds: 1, density, seed: 0 };
    mask(network, &MaskRecipe::exact(recipe), None, &mut |_, _| ControlFlow::Continue(())).unwrap()
}

#[test]
fn gini_tells_even_from_uneven() {
    assert!(gini(&[2.0; 5]).abs() < 1e-12);
    assert!((gini(&[0.0, 0.0, 0.0, 1.0]) - 0.75).abs() < 1e-12);
    assert!((gini(&[1.0, 3.0]) - 0.25).abs() < 1e-12);
    assert_eq!(gini(&[0.0, 0.0]), 0.0);
}

/// The mask keeps 4 and 3, one of each filter of the first layer, and all of the second.
#[test]
fn measures_that_need_no_data() {
    let network = network(&[&[4.0, -1.0, 2.0, 3.0], &[5.0, 5.0]]);
    let Masked { scores, mask } = masked(&network, 0.6);
    let evidence = Evidence { network: &network, scores: &scores, mask: Some(&mask), images: None };
    let of = |measure| {
        let sensitivity = taken(&evidence, measure).unwrap();
        [sensitivity.of(NodeId(1)), sensitivity.of(NodeId(2))]
    };
    assert_eq!(of(Measure::Density), [0.5, 1.0]);
    assert_eq!(taken(&evidence, Measure::Density).unwrap(), density(&scores));
    // (4 + 3) * 5 flow under the mask, (4 + 1) * 5 through the higher-scored filter.
    assert_eq!(of(Measure::FlowGap), [1.0 - 25.0 / 35.0, 0.0]);
    // Scores of 4 and 3: a Gini coefficient of 1/14.
    let concentration = of(Measure::Concentration);
    assert!((concentration[0] - 13.0 / 14.0).abs() < 1e-12 && concentration[1] == 1.0);
    assert_eq!(of(Measure::DeadFilters), [1.0, 1.0]);
    assert_eq!(taken(&evidence, Measure::Density).unwrap().of(NodeId(0)), 1.0, "was not scored");
}

#[test]
fn a_filter_that_the_mask_empties_is_dead() {
    let network = network(&[&[4.0, 3.0, 2.0, 1.0], &[5.0, 6.0]]);
    let Masked { scores, mask } = masked(&network, 0.6);
    let evidence = Evidence { network: &network, scores: &scores, mask: Some(&mask), images: None };
    assert_eq!(taken(&evidence, Measure::DeadFilters).unwrap().of(NodeId(1)), 0.5);
    let gap = taken(&evidence, Measure::FlowGap).unwrap().of(NodeId(1));
    assert_eq!(gap, 0.0, "whole filters are what the mask keeps already");
}

/// h = (1, 2), then (4, 3), which are the logits. Without its first filter the first layer makes them (2, 2), without its
/// second the second (4, 0).
#[test]
fn the_probe_compares_the_losses() {
    let network = network(&[&[1.0, 0.0, 0.0, 2.0], &[2.0, 1.0, 1.0, 1.0], &[1.0, 0.0, 0.0, 1.0]]);
    let scores = masked(&network, 1.0).scores;
    let images = LabelledImages::new(Shape::vector(2), 2, vec![1.0, 1.0], vec![0]);
    let evidence = Evidence { network: &network, scores: &scores, mask: None, images: Some(&images) };
    let probed = taken(&evidence, Measure::Probe).unwrap();
    let loss = |margin: f64| (-margin).exp().ln_1p();
    let (first, second) = (loss(0.0) - loss(1.0), loss(1.0) - loss(4.0));
    assert_eq!(probed.of(NodeId(1)), 1.0);
    assert!((probed.of(NodeId(2)) - second / first).abs() < 1e-12);
    assert_eq!(probed.of(NodeId(3)), 1.0, "the outputs stay");
}

#[test]
fn evidence_that_is_missing_is_named() {
    let network = network(&[&[4.0, -1.0, 2.0, 3.0]]);
    let scores = masked(&network, 0.5).scores;
    let evidence = Evidence { network: &network, scores: &scores, mask: None, images: None };
    let refusal = |measure| taken(&evidence, measure).unwrap_err().to_string();
    assert_eq!(refusal(Measure::FlowGap), "the flow gap is measured under a mask, and none was given");
    assert!(refusal(Measure::Probe).contains("labelled images"));
}
