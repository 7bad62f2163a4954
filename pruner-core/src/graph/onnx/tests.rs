//! The promised length is the written length, the bytes never change, and another engine computes the same from them.

use proptest::prelude::*;
use rten::{Model, Value};

use super::*;
use crate::arbitrary;
use crate::exec::{Executor, ParamLayout, Scalar};
use crate::graph::{
    Activation, Binary, Conv, Coordinates, Interpolation, Node, NodeId, Op, Opaque, Operand, Output, Padding,
    Resize, Shape, Window,
};
use crate::zoo::{ZooNetwork, build};

const BATCH: usize = 2;

fn zoo(which: ZooNetwork, input: Shape) -> Network {
    let graph = build(which, input, 10).unwrap();
    let weights = arbitrary::weights(&graph, 7);
    Network { graph, weights }
}

fn node(name: &str, op: Op, inputs: &[usize]) -> Node {
    Node { name: name.to_owned(), op, inputs: inputs.iter().copied().map(NodeId).collect() }
}

/// Logits of the encoded network by an engine that is not ours.
fn foreign_logits(network: &Network, norms: BatchNorms, images: &[f32]) -> Vec<f32> {
    let model = Model::load(encode(network, norms).unwrap()).unwrap();
    let Shape { channels, height, width } = network.graph.input_shape();
    let input = Value::from_shape([BATCH, channels, height, width], images.to_vec()).unwrap();
    let (from, to) = (model.node_id("input").unwrap(), model.node_id("logits").unwrap());
    let [output] = model.run_n(vec![(from, input.into())], [to], None).unwrap();
    let (shape, logits) = output.into_shape_vec::<f32, 2>().unwrap();
    assert_eq!(shape, [BATCH, network.graph.shape(network.graph.output()).numel()]);
    logits
}

/// A deep network of random weights magnifies the rounding of f32, which is seen in how far our own f32 is from f64: the
/// other engine, and folding, may round as badly several times over.
fn assert_foreign_agrees(network: &Network) {
    let images = arbitrary::images(network.graph.input_shape(), BATCH, 3);
    let ours = logits::<f32>(network, &images);
    let exact = logits::<f64>(network, &images);
    let scale = exact.iter().fold(1.0, |scale: f64, logit| scale.max(logit.abs()));
    let furthest = |logits: &[f64]| {
        logits.iter().zip(&exact).map(|(logit, exact)| (logit - exact).abs()).fold(0.0, f64::max)
    };
    let allowed = 1e-4 * scale + 8.0 * furthest(&ours);
    for norms in [BatchNorms::Folded, BatchNorms::Kept] {
        let theirs: Vec<f64> = foreign_logits(network, norms, &images).into_iter().map(f64::from).collect();
        let off = furthest(&theirs);
        assert!(
            off <= allowed,
            "{norms:?}: {off} off where {allowed} is allowed: {exact:?} became {theirs:?}"
        );
    }
}

fn logits<T: Scalar>(network: &Network, images: &[f32]) -> Vec<f64> {
    let params: Vec<T> = ParamLayout::of(&network.graph).gather(&network.weights).unwrap();
    let images: Vec<T> = images.iter().map(|&pixel| T::from_f32(pixel)).collect();
    let mut executor = Executor::new(&network.graph, BATCH).unwrap();
    executor.forward_eval(&params, &images, BATCH).iter().map(|logit| logit.to_f64()).collect()
}

fn assert_length_is_promised(network: &Network) {
    let bytes = encode(network, BatchNorms::Folded).unwrap();
    assert_eq!(bytes.len() as u64, encoded_len(&network.graph));
}

#[test]
fn another_engine_agrees_on_the_zoo() {
    for which in ZooNetwork::ALL {
        assert_foreign_agrees(&zoo(which, Shape::new(3, 32, 32)));
        assert_length_is_promised(&zoo(which, Shape::new(1, 28, 28)));
    }
}

/// A vector read as an image of one pixel, and an image as output.
#[test]
fn ranks_are_bent_where_the_reader_needs_it() {
    let conv = |inputs, outputs, bias| {
        Op::Conv(Conv { inputs, outputs, window: Window::square(1, 1, 0), groups: 1, bias })
    };
    let nodes = vec![
        node("input", Op::Input, &[]),
        node("flatten", Op::Flatten, &[0]),
        node("conv1", conv(8, 4, true), &[1]),
        node("fc", Op::Linear { inputs: 4, outputs: 4, bias: false }, &[2]),
        node("conv2", conv(4, 4, false), &[3]),
        node("add", Op::ADD, &[3, 4]),
        node("conv3", conv(4, 5, false), &[5]),
    ];
    let graph = Graph::new(Shape::new(2, 2, 2), nodes).unwrap();
    let network = Network { weights: arbitrary::weights(&graph, 1), graph };
    assert_foreign_agrees(&network);
    assert_length_is_promised(&network);
}

fn opaque(operator: &str, operands: Vec<Operand>, outputs: Vec<Vec<usize>>) -> Op {
    let names = |count: usize, what: &str| (0..count).map(|index| format!("{what}{index}")).collect();
    let node = schema::Node {
        input: names(operands.len(), "in"),
        output: names(outputs.len(), "out"),
        op_type: Some(operator.to_owned()),
        ..schema::Node::default()
    };
    let node = node.encode_to_vec();
    Op::Opaque(Opaque { operator: operator.to_owned(), node, operands, outputs }.into())
}

/// Every operator that neither the zoo nor a random network has, and nodes that are carried through.
pub(super) fn all_operators() -> Vec<Node> {
    let slope = Activation::LeakyRelu { slope: 0.1 };
    let activations = [
        slope,
        Activation::Clip { min: -1.0, max: 6.0 },
        Activation::Sigmoid,
        Activation::HardSigmoid { alpha: 0.3, beta: 0.4 },
        Activation::HardSwish,
        Activation::Silu,
        Activation::Tanh,
    ];
    let mut nodes = vec![node("input", Op::Input, &[])];
    for (index, activation) in activations.into_iter().enumerate() {
        nodes.push(node(&format!("act{index}"), Op::Activation(activation), &[index]));
    }
    let resize = Resize {
        height: 7,
        width: 9,
        step: None,
        interpolation: Interpolation::Linear,
        coordinates: Coordinates::HalfPixel,
    };
    let border = Padding { top: 1, left: 0, bottom: 2, right: 3 };
    let shape = Shape::new(6, 1, 1);
    nodes.extend([
        node("prelu", Op::PRelu { channels: 6 }, &[7]),
        node("left", Op::Slice { start: 0, end: 2 }, &[8]),
        node("right", Op::Slice { start: 2, end: 6 }, &[8]),
        node("concat", Op::Concat, &[9, 10]),
        node("shuffle", Op::Shuffle { groups: 2 }, &[11]),
        node("factor", Op::Constant { shape }, &[]),
        node("scaled", Op::Binary(Binary::Mul), &[12, 13]),
        node("shifted", Op::Binary(Binary::Sub), &[14, 13]),
        node("divided", Op::Binary(Binary::Div), &[15, 14]),
        node("padded", Op::Pad { border, value: 0.5 }, &[16]),
        node("resized", Op::Resize(resize), &[17]),
        node("softmax", Op::Softmax, &[18]),
        node("mean", Op::GlobalAvgPool, &[19]),
        node("fc", Op::Linear { inputs: 6, outputs: 6, bias: true }, &[20]),
        node("gated", Op::Binary(Binary::Mul), &[19, 21]),
        node("mystery", opaque("Abs", vec![Operand::Value { rank: 4 }], vec![vec![1, 6, 7, 9]]), &[22]),
        node("turned", Op::Shuffle { groups: 3 }, &[21]),
        node("outputs", Op::Outputs, &[23, 24]),
    ]);
    nodes
}

/// Two outputs, by their names; the numbers are held against our executor's in the property below.
#[test]
fn every_operator_is_one_that_another_engine_runs() {
    let graph = Graph::new(Shape::new(6, 4, 5), all_operators()).unwrap();
    let output = |name: &str, rank| Output { name: name.to_owned(), rank };
    let outputs = vec![output("map", 4), output("vector", 2)];
    let graph = graph.with_interface(Interface { input: "image".into(), outputs, ..Interface::default() });
    let network = Network { weights: arbitrary::weights(&graph, 1), graph };
    assert_length_is_promised(&network);
    let model = Model::load(encode(&network, BatchNorms::Kept).unwrap()).unwrap();
    let images = arbitrary::images(network.graph.input_shape(), BATCH, 3);
    let input = Value::from_shape([BATCH, 6, 4, 5], images).unwrap();
    let ids = ["image", "map", "vector"].map(|name| model.node_id(name).unwrap());
    let [map, vector] = model.run_n(vec![(ids[0], input.into())], [ids[1], ids[2]], None).unwrap();
    assert_eq!(map.into_shape_vec::<f32, 4>().unwrap().0, [BATCH, 6, 7, 9]);
    assert_eq!(vector.into_shape_vec::<f32, 2>().unwrap().0, [BATCH, 6]);
}

/// A file with a node that is carried through stays in the version that the node was written in.
#[test]
fn an_older_version_has_its_own_spelling() {
    let graph = Graph::new(Shape::new(6, 4, 5), all_operators()).unwrap();
    let spelt = |opset: u32| {
        let graph = graph.clone().with_interface(Interface { opset, ..Interface::default() });
        let network = Network { weights: arbitrary::weights(&graph, 1), graph };
        assert_length_is_promised(&network);
        let model = schema::Model::decode(encode(&network, BatchNorms::Kept).unwrap().as_slice()).unwrap();
        assert_eq!(model.opset_import[0].version, Some(i64::from(opset)));
        let nodes = model.graph.unwrap().node.into_iter();
        nodes.map(|node| format!("{} {}", node.op_type(), node.input.len())).collect::<Vec<_>>()
    };
    let (old, new) = (spelt(9), spelt(21));
    // Softmax goes over the last dimension, and a region of interest is given, if only an empty one.
    let between = spelt(12);
    assert!(between.contains(&"Resize 3".to_owned()) && between.contains(&"Softmax 1".to_owned()));
    assert_eq!(between.iter().filter(|node| *node == "Transpose 1").count(), 4, "{between:?}");
    for operator in ["Slice 1", "Clip 1", "Pad 1", "Upsample 2", "HardSigmoid 1"] {
        assert!(old.contains(&operator.to_owned()), "{operator} in {old:?}");
    }
    for operator in ["Slice 4", "Clip 3", "Pad 3", "Resize 3", "HardSwish 1", "Abs 1"] {
        assert!(new.contains(&operator.to_owned()), "{operator} in {new:?}");
    }
}

#[test]
fn only_a_folded_norm_leaves_no_operator_behind() {
    let network = zoo(ZooNetwork::ResNet20, Shape::new(3, 8, 8));
    let operators = |norms| {
        let model = schema::Model::decode(encode(&network, norms).unwrap().as_slice()).unwrap();
        let nodes = model.graph.unwrap().node;
        nodes.iter().filter(|node| node.op_type() == "BatchNormalization").count()
    };
    assert_eq!((operators(BatchNorms::Folded), operators(BatchNorms::Kept)), (0, 21));
}

/// The file's head, field by field as onnx.proto numbers them: IR version, producer, then the graph.
#[test]
fn the_head_is_as_the_format_says() {
    let bytes = encode(&zoo(ZooNetwork::ResNet20, Shape::new(3, 8, 8)), BatchNorms::Folded).unwrap();
    assert_eq!(bytes[..2], [1 << 3, 8]);
    assert_eq!(bytes[2..13], *b"\x12\x09reconvene");
    assert_eq!(bytes[13], 7 << 3 | 2);
    assert!(bytes.ends_with(b"\x42\x04\x0a\x00\x10\x11"), "opset 17 of the default domain");
}

#[test]
fn weights_that_do_not_fit_are_refused() {
    let mut network = zoo(ZooNetwork::ResNet20, Shape::new(3, 8, 8));
    let short = candle_core::Tensor::zeros(3, candle_core::DType::F32, &candle_core::Device::Cpu).unwrap();
    network.weights.insert("bn1.bias".to_owned(), short);
    let error = encode(&network, BatchNorms::Folded).unwrap_err();
    assert_eq!(error.to_string(), "tensor 'bn1.bias' is [3] where the graph needs [16]");
    network.weights.remove("bn1.bias");
    let error = encode(&network, BatchNorms::Kept).unwrap_err();
    assert_eq!(error.to_string(), "the weights have no tensor 'bn1.bias'");
}

/// rten 0.27 asserts, in debug builds alone, that a depthwise convolution's rows have stride 1, which rows of one
/// number need not have.
fn trips_an_assertion_of_rten(graph: &Graph) -> bool {
    graph.nodes().iter().any(|node| {
        let is_one_wide = node.inputs.first().is_some_and(|input| graph.shape(*input).width == 1);
        is_one_wide
            && matches!(node.op, Op::Conv(conv) if conv.groups == conv.inputs && conv.inputs == conv.outputs)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn another_engine_agrees_on_any_network(network in arbitrary::network()) {
        prop_assume!(!trips_an_assertion_of_rten(&network.graph));
        assert_foreign_agrees(&network);
        assert_length_is_promised(&network);
    }
}
