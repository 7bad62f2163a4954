//! Masks by hand, and what each criterion keeps of a real network against the reference runs.

use std::collections::BTreeSet;

use candle_core::{Device, Tensor};

use super::*;
use crate::graph::cost::layer_costs;
use crate::graph::{Graph, Node, NodeId, Op, Shape};
use crate::saliency::score_with;
use crate::zoo::{self, ZooNetwork};
use crate::{arbitrary, init};

/// The perceptron of test vector T1.
fn perceptron() -> Network {
    let linear = Op::Linear { inputs: 2, outputs: 2, bias: false };
    let ops = [Op::Input, linear.clone(), Op::RELU, linear];
    let nodes = ops.into_iter().enumerate().map(|(index, op)| {
        let inputs = (index > 0).then(|| NodeId(index.max(1) - 1)).into_iter().collect();
        Node { name: ["in", "w1", "relu", "w2"][index].to_owned(), op, inputs }
    });
    let graph = Graph::new(Shape::vector(2), nodes.collect()).unwrap();
    let tensor = |values: [f32; 4]| Tensor::from_slice(&values, (2, 2), &Device::Cpu).unwrap();
    let weights = [("w1.weight", [1.0, -2.0, 3.0, 0.5]), ("w2.weight", [2.0, -1.0, 0.5, 4.0])];
    let weights = weights.map(|(name, values)| (name.to_owned(), tensor(values)));
    Network { graph, weights: weights.into() }
}

fn recipe(criterion: Criterion, rounds: u32, density: f64) -> ScoreRecipe {
    ScoreRecipe { criterion, rounds, density, seed: 1 }
}

fn go(_: u32, _: u32) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Test vector T1: two rounds to a quarter leave the path 0 -> 1 -> 1.
#[test]
fn synflow_masks_a_perceptron() {
    let network = perceptron();
    let exact = MaskRecipe::exact(recipe(Criterion::SynFlow, 2, 0.25));
    let strict = MaskRecipe { selection: Selection::ReferenceStrict, ..exact };
    for recipe in [exact, strict] {
        let Masked { scores, mask } = super::mask(&network, &recipe, None, &mut go).unwrap();
        assert_eq!((mask.kept("w1.weight"), mask.kept("w2.weight")), (Some(&[2][..]), Some(&[3][..])));
        assert_eq!((mask.count(), mask.kept("w3.weight")), (2, None));
        assert_eq!(scores.layer(NodeId(1)).unwrap().filters, [0.0, 12.0]);
        assert_eq!(scores.layer(NodeId(3)).unwrap().filters, [0.0, 12.0]);
    }
    let halves = MaskRecipe { schedule: Schedule::Linear, ..exact };
    let mut densities = Vec::new();
    let mut on_round = |done, of| {
        densities.push((done, of));
        go(done, of)
    };
    super::mask(&network, &halves, None, &mut on_round).unwrap();
    assert_eq!(densities, [(1, 2), (2, 2)]);
}

/// Magnitudes 4 3 2 2 1 1 1/2 1/2: half of eight cuts between the twos and the ones, a quarter among the twos.
#[test]
fn magnitudes_are_masked_exactly_or_as_the_reference_does() {
    let network = perceptron();
    let count = |density, selection| {
        let exact = MaskRecipe::exact(recipe(Criterion::Magnitude, 1, density));
        super::mask(&network, &MaskRecipe { selection, ..exact }, None, &mut go).unwrap().mask
    };
    assert_eq!(count(0.5, Selection::Exact), count(0.5, Selection::ReferenceStrict));
    let exact = count(0.375, Selection::Exact);
    assert_eq!((exact.kept("w1.weight"), exact.kept("w2.weight")), (Some(&[1, 2][..]), Some(&[3][..])));
    let strict = count(0.375, Selection::ReferenceStrict);
    assert_eq!((strict.kept("w1.weight"), strict.kept("w2.weight")), (Some(&[2][..]), Some(&[3][..])));
    assert_eq!(strict.tensors().map(|(name, kept)| (name, kept.len())).collect::<Vec<_>>().len(), 2);
}

/// The two ways to the same scores: of each weight alone, and summed up.
#[test]
fn masks_agree_with_scores() {
    let graph = zoo::build(ZooNetwork::ResNet20, Shape::new(3, 16, 16), 10).unwrap();
    let network = Network { weights: init::init(&graph, 1), graph };
    let images = arbitrary::images(Shape::new(3, 16, 16), 10, 3);
    let images = LabelledImages::new(Shape::new(3, 16, 16), 10, images, (0..10).collect());
    let criteria =
        [Criterion::SynFlow, Criterion::Snip, Criterion::Grasp, Criterion::Magnitude, Criterion::Random];
    let mut masks = BTreeSet::new();
    for criterion in criteria {
        let recipe = recipe(criterion, 3, 0.125);
        let Masked { scores, mask } =
            super::mask(&network, &MaskRecipe::exact(recipe), Some(&images), &mut go).unwrap();
        assert_eq!(mask.count(), super::super::kept_count(270_896, 0.125), "{criterion:?}");
        let summed = score_with(&network, &recipe, Some(&images), &mut go).unwrap();
        for ((node, layer), (_, other)) in scores.layers().zip(summed.layers()) {
            let tensor = format!("{}.weight", network.graph.node(node).name);
            let weights = network.weights[&tensor].elem_count() as f64;
            assert_eq!(layer.density, mask.kept(&tensor).unwrap().len() as f64 / weights, "{criterion:?}");
            assert!((layer.density - other.density).abs() < 1e-3, "{criterion:?} {tensor}");
            assert!(layer.filters.iter().all(|score| *score >= 0.0));
        }
        masks.insert(format!("{mask:?}"));
        assert_eq!(criterion.needs_images(), score_with(&network, &recipe, None, &mut go).is_err());
    }
    assert_eq!(masks.len(), criteria.len(), "no two criteria are one");
}

#[test]
fn images_that_do_not_fit_are_refused() {
    let network = perceptron();
    let recipe = recipe(Criterion::Snip, 1, 0.5);
    let refusal = |images: Option<LabelledImages>| {
        score_with(&network, &recipe, images.as_ref(), &mut go).unwrap_err().to_string()
    };
    let images = |shape: Shape, classes, count: usize| {
        Some(LabelledImages::new(shape, classes, vec![1.0; count * shape.numel()], vec![0; count]))
    };
    assert_eq!(refusal(None), "snip scores a network on labelled images, and none were given");
    assert_eq!(refusal(images(Shape::vector(2), 2, 0)), "there are no images to score the network on");
    let shape = "the network reads images of 2x1x1, those to score it on are 1x2x1";
    assert_eq!(refusal(images(Shape::new(1, 2, 1), 2, 1)), shape);
    let classes = "the network tells 2 classes apart, the images to score it on are of 3";
    assert_eq!(refusal(images(Shape::vector(2), 3, 1)), classes);
}

/// VGG-16 for 100 classes, and what `criterion` keeps of each layer at a tenth.
fn densities(criterion: Criterion, rounds: u32) -> (Vec<f64>, f64) {
    let shape = Shape::new(3, 32, 32);
    let graph = zoo::build(ZooNetwork::Vgg16Bn, shape, 100).unwrap();
    let network = Network { weights: init::init(&graph, 1), graph };
    let labels: Vec<u8> = (0..16).map(|image| image * 6).collect();
    let images = LabelledImages::new(shape, 100, arbitrary::images(shape, labels.len(), 7), labels);
    let scores = score_with(&network, &recipe(criterion, rounds, 0.1), Some(&images), &mut go).unwrap();
    let macs = layer_costs(&network.graph);
    let total: u64 = macs.iter().map(|layer| layer.macs).sum();
    let kept = macs.iter().filter_map(|layer| Some(scores.layer(layer.node)?.density * layer.macs as f64));
    let share = kept.sum::<f64>() / total as f64;
    (scores.layers().map(|(_, layer)| layer.density).collect(), share)
}

/// Test vectors T8 and T9, the stored runs': what SNIP and GraSP keep of each layer at a tenth, and the order of the
/// criteria by the share of MACs that they keep: 0.353, 0.245, 0.219, 0.184 and 0.102. Here SNIP and GraSP see few images,
/// and of white noise, so they are held to a quarter; GraSP keeps most of the first layer, which sees the noise itself.
#[test]
fn criteria_keep_what_the_reference_runs_keep() {
    let snip = [
        0.9149, 0.5697, 0.4082, 0.2806, 0.2053, 0.1482, 0.1707, 0.1222, 0.0776, 0.0803, 0.094, 0.0751,
        0.0807, 0.5347,
    ];
    let grasp = [
        0.4149, 0.3875, 0.3224, 0.2455, 0.1892, 0.1452, 0.1541, 0.121, 0.0894, 0.0905, 0.0938, 0.0742,
        0.0801, 0.3202,
    ];
    let (of_snip, snip_share) = densities(Criterion::Snip, 1);
    let (of_grasp, grasp_share) = densities(Criterion::Grasp, 1);
    let close = |got: &[f64], wanted: &[f64]| {
        got.iter().zip(wanted).all(|(got, wanted)| (got / wanted - 1.0).abs() < 0.25)
    };
    assert!(close(&of_snip, &snip), "{of_snip:?}");
    assert!(close(&of_grasp[1..], &grasp[1..]), "{of_grasp:?}");
    let shares = [
        (densities(Criterion::SynFlow, 10).1, 0.353),
        (densities(Criterion::Magnitude, 1).1, 0.245),
        (snip_share, 0.219),
        (grasp_share, 0.184),
        (densities(Criterion::Random, 1).1, 0.102),
    ];
    assert!(shares.is_sorted_by(|a, b| a.0 > b.0), "{shares:?}");
    assert!(shares.iter().all(|(got, wanted)| (got / wanted - 1.0).abs() < 0.1), "{shares:?}");
}
