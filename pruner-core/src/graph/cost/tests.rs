//! Counts of the two networks against the literature's, and of small graphs by hand.

use super::*;
use crate::graph::{Conv, Node, Window};
use crate::zoo::{ZooNetwork, build};

const CIFAR: Shape = Shape::new(3, 32, 32);

fn node(name: &str, op: Op, inputs: &[usize]) -> Node {
    Node { name: name.to_owned(), op, inputs: inputs.iter().copied().map(NodeId).collect() }
}

#[test]
fn resnet20_counts() {
    let cost = cost(&build(ZooNetwork::ResNet20, CIFAR, 10).unwrap());
    assert_eq!((cost.params, cost.macs), (272_474, 40_813_184));
}

#[test]
fn vgg16_counts() {
    for (classes, params, macs) in [(10, 14_728_266, 313_201_664), (100, 14_774_436, 313_247_744)] {
        let cost = cost(&build(ZooNetwork::Vgg16Bn, CIFAR, classes).unwrap());
        assert_eq!((cost.params, cost.macs), (params, macs), "{classes} classes");
    }
}

#[test]
fn vgg16_macs_per_layer() {
    let graph = build(ZooNetwork::Vgg16Bn, CIFAR, 10).unwrap();
    let layers = layer_costs(&graph);
    let macs: Vec<u64> = layers.iter().map(|layer| layer.macs).filter(|macs| *macs > 0).collect();
    let (wide, narrow) = (37_748_736, 18_874_368);
    let late = 9_437_184;
    let expected =
        [1_769_472, wide, narrow, wide, narrow, wide, wide, narrow, wide, wide, late, late, late, 5_120];
    assert_eq!(macs, expected);
}

/// The input (2x4x4) and the convolution's output (3x4x4) live together: 80 numbers. The batch norm folds, the
/// relu needs 48 + 48 = 96 at once, the pooling 48 + 12. Weights: 54 + a bias of 3 that folding adds.
#[test]
fn memory_of_a_chain() {
    let conv = Conv { inputs: 2, outputs: 3, window: Window::square(3, 1, 1), groups: 1, bias: false };
    let nodes = vec![
        node("input", Op::Input, &[]),
        node("conv", Op::Conv(conv), &[0]),
        node("bn", Op::BatchNorm { channels: 3, eps: 1e-5 }, &[1]),
        node("relu", Op::RELU, &[2]),
        node("pool", Op::MaxPool(Window::square(2, 2, 0)), &[3]),
    ];
    let graph = Graph::new(Shape::new(2, 4, 4), nodes).unwrap();
    let cost = cost(&graph);
    assert_eq!(cost.params, 54 + 6);
    assert_eq!(cost.macs, 54 * 16);
    assert_eq!(cost.memory_bytes, 4 * (57 + 96));
}

/// The input is read again by the add, so it stays alive over both relus: 3 x 16 numbers.
#[test]
fn memory_of_a_residual() {
    let nodes = vec![
        node("input", Op::Input, &[]),
        node("relu1", Op::RELU, &[0]),
        node("relu2", Op::RELU, &[1]),
        node("add", Op::ADD, &[2, 0]),
        node("flatten", Op::Flatten, &[3]),
    ];
    let graph = Graph::new(Shape::new(1, 4, 4), nodes).unwrap();
    assert_eq!(cost(&graph).memory_bytes, 4 * 48);
}

/// A second reader of the convolution keeps the batch norm apart: its four tensors count as weights.
#[test]
fn a_norm_beside_another_reader_is_not_folded() {
    let conv = Conv { inputs: 1, outputs: 2, window: Window::square(1, 1, 0), groups: 1, bias: false };
    let nodes = vec![
        node("input", Op::Input, &[]),
        node("conv", Op::Conv(conv), &[0]),
        node("bn", Op::BatchNorm { channels: 2, eps: 1e-5 }, &[1]),
        node("add", Op::ADD, &[1, 2]),
    ];
    let graph = Graph::new(Shape::new(1, 1, 1), nodes).unwrap();
    assert_eq!(cost(&graph).memory_bytes, 4 * (2 + 8 + 6));
}
