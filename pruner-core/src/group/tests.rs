//! Groups of the two networks, and of each operator that bends indices.

use proptest::prelude::*;

use super::*;
use crate::arbitrary;
use crate::graph::{Activation, Binary, Conv, Network, Node, Opaque, Operand, Shape, Window};
use crate::zoo::{ZooNetwork, build};

const CIFAR: Shape = Shape::new(3, 32, 32);

fn node(name: &str, op: Op, inputs: &[usize]) -> Node {
    Node { name: name.to_owned(), op, inputs: inputs.iter().copied().map(NodeId).collect() }
}

fn conv(inputs: usize, outputs: usize, groups: usize) -> Op {
    Op::Conv(Conv { inputs, outputs, window: Window::square(3, 1, 1), groups, bias: false })
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

/// Every dimension that runs over channels is covered once, whole. None of them are a depthwise kernel's one input, a
/// slope that all channels share, and a constant's rows.
fn assert_covered(graph: &Graph) {
    let groups = groups(graph);
    for node in graph.nodes() {
        let runs_over_channels = |dim: usize| match node.op {
            Op::Conv(conv) => dim == 0 || !conv.is_depthwise(),
            Op::PRelu { channels } => channels > 1,
            Op::Constant { .. } => dim == 0,
            _ => true,
        };
        for spec in node.tensors() {
            for dim in 0..spec.dims.len().min(2) {
                let members =
                    groups.iter().filter_map(|group| Some((group.width, group.member(&spec.name, dim)?)));
                let mut indices: Vec<usize> = members
                    .inspect(|(width, member)| assert_eq!(member.indices.len(), width * member.block))
                    .flat_map(|(_, member)| member.indices.clone())
                    .collect();
                indices.sort_unstable();
                let expected = if runs_over_channels(dim) { spec.dims[dim] } else { 0 };
                assert_eq!(indices, (0..expected).collect::<Vec<_>>(), "{} dimension {dim}", spec.name);
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
        node("relu", Op::RELU, &[3]),
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

/// Six channels in two groups of three: the same place in both groups is one channel, at the input and at the output.
#[test]
fn the_groups_of_a_convolution_lose_alike() {
    let nodes = vec![
        node("input", Op::Input, &[]),
        node("point", conv(3, 6, 1), &[0]),
        node("grouped", conv(6, 4, 2), &[1]),
        node("out", conv(4, 2, 1), &[2]),
    ];
    let graph = Graph::new(Shape::new(3, 4, 4), nodes).unwrap();
    let groups = groups(&graph);
    let (inputs, outputs) = (&groups[1], &groups[2]);
    assert_eq!((inputs.width, outputs.width), (3, 2));
    assert_eq!(members(inputs), [("point.weight", 0, 2), ("grouped.weight", 1, 1)]);
    assert_eq!(inputs.members[0].indices, [0, 3, 1, 4, 2, 5]);
    assert_eq!(members(outputs), [("grouped.weight", 0, 2), ("out.weight", 1, 2)]);
    assert_eq!(outputs.members[0].indices, [0, 2, 1, 3]);
}

/// Test vector T7: of three channels and five joined, channel 1 of the five is channel 4.
#[test]
fn joined_channels_are_offset_by_those_before() {
    let nodes = vec![
        node("input", Op::Input, &[]),
        node("a", conv(1, 3, 1), &[0]),
        node("b", conv(1, 5, 1), &[0]),
        node("concat", Op::Concat, &[1, 2]),
        node("bn", Op::BatchNorm { channels: 8, eps: 1e-5 }, &[3]),
        node("out", conv(8, 2, 1), &[4]),
    ];
    let graph = Graph::new(Shape::new(1, 4, 4), nodes).unwrap();
    let groups = groups(&graph);
    assert_eq!(groups.iter().map(|group| group.width).collect::<Vec<_>>(), [1, 3, 5, 2]);
    let reader = groups[2].member("out.weight", 1).unwrap();
    assert_eq!(reader.indices[1], 4);
    assert_eq!(groups[2].member("bn.running_var", 0).unwrap().indices, [3, 4, 5, 6, 7]);
    assert_eq!(groups[1].member("out.weight", 1).unwrap().indices, [0, 1, 2]);
    assert_coverable(&graph);
}

/// A convolution whose halves go different ways (ShuffleNet V2) has a group for each.
#[test]
fn channels_that_are_split_part_ways() {
    let nodes = vec![
        node("input", Op::Input, &[]),
        node("stem", conv(1, 8, 1), &[0]),
        node("left", Op::Slice { start: 0, end: 4 }, &[1]),
        node("right", Op::Slice { start: 4, end: 8 }, &[1]),
        node("conv", conv(4, 4, 1), &[3]),
        node("concat", Op::Concat, &[2, 4]),
        node("shuffle", Op::Shuffle { groups: 2 }, &[5]),
        node("out", conv(8, 2, 1), &[6]),
    ];
    let graph = Graph::new(Shape::new(1, 4, 4), nodes).unwrap();
    let groups = groups(&graph);
    // The shuffle ties the left half to the convolution's outputs, place by place.
    assert_eq!(groups.iter().map(|group| group.width).collect::<Vec<_>>(), [1, 4, 4, 2]);
    assert_eq!(groups[1].member("stem.weight", 0).unwrap().indices, [0, 1, 2, 3]);
    assert_eq!(groups[1].member("conv.weight", 0).unwrap().indices, [0, 1, 2, 3]);
    assert_eq!(groups[1].member("out.weight", 1).unwrap().indices, [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(groups[2].member("stem.weight", 0).unwrap().indices, [4, 5, 6, 7]);
    assert_eq!(groups[2].ahead, [], "the right half is ahead of no slice");
    assert_eq!(groups[1].ahead, [Span { node: NodeId(3), per_channel: 1 }]);
    assert_coverable(&graph);
}

/// Squeeze and excite: the gate's channels go with those it multiplies.
#[test]
fn a_gate_goes_with_what_it_multiplies() {
    let nodes = vec![
        node("input", Op::Input, &[]),
        node("conv", conv(3, 6, 1), &[0]),
        node("mean", Op::GlobalAvgPool, &[1]),
        node("squeeze", linear(6, 2), &[2]),
        node("excite", linear(2, 6), &[3]),
        node("gate", Op::Activation(Activation::Sigmoid), &[4]),
        node("scaled", Op::Binary(Binary::Mul), &[1, 5]),
        node("out", conv(6, 2, 1), &[6]),
    ];
    let graph = Graph::new(Shape::new(3, 4, 4), nodes).unwrap();
    let groups = groups(&graph);
    assert_eq!(names(&graph, &groups[1].producers), ["conv", "excite"]);
    assert_eq!(names(&graph, &groups[1].consumers), ["squeeze", "out"]);
    assert_eq!((groups[1].width, groups[2].width), (6, 2));
}

/// What nobody knows keeps all its channels, and says so.
#[test]
fn an_unknown_operator_freezes_what_it_touches() {
    let opaque = Opaque {
        operator: "Mystery".into(),
        node: Vec::new(),
        operands: vec![Operand::Value { rank: 4 }],
        outputs: vec![vec![1, 5, 4, 4]],
    };
    let nodes = vec![
        node("input", Op::Input, &[]),
        node("conv", conv(3, 6, 1), &[0]),
        node("mystery", Op::Opaque(opaque.into()), &[1]),
        node("behind", conv(5, 4, 1), &[2]),
        node("out", conv(4, 2, 1), &[3]),
    ];
    let groups = groups(&Graph::new(Shape::new(3, 4, 4), nodes).unwrap());
    let frozen = Frozen::Operator { node: "mystery".into() };
    assert_eq!((groups[1].frozen.as_ref(), groups[2].frozen.as_ref()), (Some(&frozen), Some(&frozen)));
    assert_eq!(groups[3].frozen, None);
    assert_eq!(frozen.to_string(), "needed whole by 'mystery'");
}

fn assert_coverable(graph: &Graph) {
    assert_covered(graph);
    for seed in 0..20 {
        let keep = arbitrary::keep(graph, seed);
        let widths = keep.iter().map(|(id, kept)| (*id, kept.len())).collect();
        let network = Network { graph: graph.clone(), weights: arbitrary::weights(graph, seed) };
        let pruned = crate::surgery::apply(&network, &keep).unwrap();
        assert_eq!(pruned.graph, crate::surgery::shrink(graph, &groups(graph), &widths).unwrap());
        for spec in pruned.graph.tensors() {
            assert_eq!(pruned.weights[&spec.name].dims(), spec.dims, "{}", spec.name);
        }
    }
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
        node("add", Op::ADD, &[2, 4]),
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
        node("add", Op::ADD, &[0, 1]),
        node("out", conv(3, 2, 1), &[2]),
    ];
    let groups = groups(&Graph::new(Shape::new(3, 4, 4), nodes).unwrap());
    assert_eq!(
        groups.iter().map(|group| group.frozen.clone()).collect::<Vec<_>>(),
        [Some(Frozen::Input), Some(Frozen::Output)]
    );
}
