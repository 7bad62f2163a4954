//! Groups of the two networks, and of each operator that bends indices.

use proptest::prelude::*;

use super::*;
use crate::arbitrary;
use crate::graph::{Node, Shape};
use crate::zoo::{ZooNetwork, build};

const CIFAR: Shape = Shape::new(3, 32, 32);

fn node(name: &str, op: Op, inputs: &[usize]) -> Node {
    Node { name: name.to_owned(), op, inputs: inputs.iter().copied().map(NodeId).collect() }
}

fn conv(inputs: usize, outputs: usize, groups: usize) -> Op {
    Op::Conv(Conv { inputs, outputs, kernel: 3, stride: 1, padding: 1, groups, bias: false })
}

fn linear(inputs: usize, outputs: usize) -> Op {
    Op::Linear { inputs, outputs, bias: true }
}

fn names(graph: &Graph, nodes: &[NodeId]) -> Vec<String> {
    nodes.iter().map(|id| graph.node(*id).name.clone()).collect()
}

fn members(group: &ChannelGroup) -> Vec<(&str, usize, usize)> {
    group.members.iter().map(|member| (member.tensor.as_str(), member.dim, member.block)).collect()
}

#[test]
fn resnet20_has_nine_inner_and_three_stage_groups() {
    let graph = build(ZooNetwork::ResNet20, CIFAR, 10).unwrap();
    let groups = groups(&graph);
    let widths: Vec<usize> = groups.iter().map(|group| group.width).collect();
    assert_eq!(widths, [3, 16, 16, 16, 16, 32, 32, 32, 32, 64, 64, 64, 64, 10]);
    assert_eq!(groups[0].frozen, Some(Frozen::Input));
    assert_eq!(groups[13].frozen, Some(Frozen::Output));
    assert!(groups[1..13].iter().all(|group| group.frozen.is_none()));
    let stages: Vec<&ChannelGroup> = groups.iter().filter(|group| group.producers.len() > 1).collect();
    assert_eq!(stages.len(), 3);
    assert_eq!(
        names(&graph, &stages[0].producers),
        ["conv1", "layer1.0.conv2", "layer1.1.conv2", "layer1.2.conv2"]
    );
    assert_eq!(
        names(&graph, &stages[0].consumers),
        ["layer1.0.conv1", "layer1.1.conv1", "layer1.2.conv1", "layer2.0.conv1", "layer2.0.shortcut.0"]
    );
    assert_eq!(
        names(&graph, &stages[2].producers),
        ["layer3.0.conv2", "layer3.0.shortcut.0", "layer3.1.conv2", "layer3.2.conv2"]
    );
    assert_eq!(names(&graph, &stages[2].consumers), ["layer3.1.conv1", "layer3.2.conv1", "fc"]);
}

#[test]
fn vgg16_has_a_group_per_convolution() {
    let graph = build(ZooNetwork::Vgg16Bn, CIFAR, 10).unwrap();
    let groups = groups(&graph);
    assert_eq!(groups.len(), 15);
    for (index, group) in groups[1..14].iter().enumerate() {
        assert_eq!(names(&graph, &group.producers), [format!("conv{}", index + 1)]);
        let reader = if index == 12 { "fc".to_owned() } else { format!("conv{}", index + 2) };
        assert_eq!(names(&graph, &group.consumers), [reader]);
        assert_eq!(group.members.len(), 2 + 4 + 1, "weight, bias, batch norm, the reader's weight");
    }
}

/// Every dimension that runs over channels is covered once, whole; a grouped kernel's inputs go with its outputs.
fn assert_covered(graph: &Graph) {
    let groups = groups(graph);
    for node in graph.nodes() {
        let is_grouped = matches!(node.op, Op::Conv(conv) if conv.groups > 1);
        for spec in node.tensors() {
            for dim in 0..spec.dims.len().min(2) {
                let lengths: Vec<usize> = groups
                    .iter()
                    .flat_map(|group| group.members.iter().map(move |member| (group.width, member)))
                    .filter(|(_, member)| member.tensor == spec.name && member.dim == dim)
                    .map(|(width, member)| width * member.block)
                    .collect();
                let expected = if is_grouped && dim == 1 { vec![] } else { vec![spec.dims[dim]] };
                assert_eq!(lengths, expected, "{} dimension {dim}", spec.name);
            }
        }
    }
}

#[test]
fn the_zoos_tensors_are_covered() {
    for network in ZooNetwork::ALL {
        assert_covered(&build(network, CIFAR, 10).unwrap());
    }
}

proptest! {
    #[test]
    fn any_networks_tensors_are_covered(network in arbitrary::network()) {
        assert_covered(&network.graph);
    }
}

/// Of four positions per channel, channel 2 is features 8 to 11 of the linear layer.
#[test]
fn flatten_multiplies_the_block_by_the_area() {
    let nodes = vec![
        node("input", Op::Input, &[]),
        node("conv", conv(1, 5, 1), &[0]),
        node("flatten", Op::Flatten, &[1]),
        node("fc1", linear(20, 7), &[2]),
        node("relu", Op::Relu, &[3]),
        node("fc2", linear(7, 3), &[4]),
    ];
    let graph = Graph::new(Shape::new(1, 2, 2), nodes).unwrap();
    let groups = groups(&graph);
    assert_eq!(groups.len(), 4);
    assert_eq!(members(&groups[1]), [("conv.weight", 0, 1), ("fc1.weight", 1, 4)]);
    assert_eq!(members(&groups[2]), [("fc1.weight", 0, 1), ("fc1.bias", 0, 1), ("fc2.weight", 1, 1)]);
    assert_eq!((groups[1].width, groups[2].width), (5, 7));
}

#[test]
fn a_depthwise_convolution_passes_its_channels_through() {
    let nodes = vec![
        node("input", Op::Input, &[]),
        node("point", conv(3, 6, 1), &[0]),
        node("depth", conv(6, 12, 6), &[1]),
        node("out", conv(12, 2, 1), &[2]),
    ];
    let graph = Graph::new(Shape::new(3, 4, 4), nodes).unwrap();
    let groups = groups(&graph);
    assert_eq!(groups.len(), 3);
    assert_eq!(members(&groups[1]), [("point.weight", 0, 1), ("depth.weight", 0, 2), ("out.weight", 1, 2)]);
    assert_eq!(names(&graph, &groups[1].producers), ["point", "depth"]);
    assert_eq!(names(&graph, &groups[1].consumers), ["depth", "out"]);
}

/// Six channels in two groups of three: a channel of the coupled group is three at the input and two behind.
#[test]
fn a_grouped_convolution_loses_whole_groups() {
    let nodes = vec![
        node("input", Op::Input, &[]),
        node("point", conv(3, 6, 1), &[0]),
        node("grouped", conv(6, 4, 2), &[1]),
        node("out", conv(4, 2, 1), &[2]),
    ];
    let graph = Graph::new(Shape::new(3, 4, 4), nodes).unwrap();
    let group = &groups(&graph)[1];
    assert_eq!(group.width, 2);
    assert_eq!(members(group), [("point.weight", 0, 3), ("grouped.weight", 0, 2), ("out.weight", 1, 2)]);
}

/// Behind a flatten the features of one channel stand together; what is added to them must go with them.
#[test]
fn adding_to_a_flatten_couples_in_its_blocks() {
    let nodes = vec![
        node("input", Op::Input, &[]),
        node("conv", conv(1, 3, 1), &[0]),
        node("left", Op::Flatten, &[1]),
        node("flat", Op::Flatten, &[0]),
        node("right", linear(4, 12), &[3]),
        node("add", Op::Add, &[2, 4]),
        node("fc", linear(12, 2), &[5]),
    ];
    let graph = Graph::new(Shape::new(1, 2, 2), nodes).unwrap();
    let group = &groups(&graph)[1];
    assert_eq!(group.width, 3);
    assert_eq!(
        members(group),
        [("conv.weight", 0, 1), ("right.weight", 0, 4), ("right.bias", 0, 4), ("fc.weight", 1, 4)]
    );
}

#[test]
fn a_residual_with_the_image_is_frozen() {
    let nodes = vec![
        node("input", Op::Input, &[]),
        node("conv", conv(3, 3, 1), &[0]),
        node("add", Op::Add, &[0, 1]),
        node("out", conv(3, 2, 1), &[2]),
    ];
    let groups = groups(&Graph::new(Shape::new(3, 4, 4), nodes).unwrap());
    assert_eq!(
        groups.iter().map(|group| group.frozen).collect::<Vec<_>>(),
        [Some(Frozen::Input), Some(Frozen::Output)]
    );
}
