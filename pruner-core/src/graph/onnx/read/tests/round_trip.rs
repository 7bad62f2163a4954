//! Networks of ours, written and read back: the same operators under the same names, the same weights, the same bytes.

use proptest::prelude::*;

use super::*;
use crate::arbitrary;
use crate::exec::{Executor, ParamLayout};
use crate::graph::onnx::{BatchNorms, encode};
use crate::zoo::{ZooNetwork, build};

/// Name, operator and the names of what it reads, without flattens of vectors, which are no nodes in a file's terms.
fn described(graph: &Graph) -> Vec<(String, Op, Vec<String>)> {
    let is_idle =
        |id: NodeId| graph.node(id).op == Op::Flatten && graph.shape(graph.node(id).inputs[0]).area() == 1;
    let through = |mut id: NodeId| {
        while is_idle(id) {
            id = graph.node(id).inputs[0];
        }
        graph.node(id).name.clone()
    };
    let nodes = graph.nodes().iter().enumerate().filter(|(index, _)| !is_idle(NodeId(*index)));
    let described = |node: &Node| node.inputs.iter().map(|id| through(*id)).collect();
    nodes.map(|(_, node)| (node.name.clone(), node.op.clone(), described(node))).collect()
}

/// The epsilon is an f32 in a file.
fn rounded(graph: &Graph) -> Vec<(String, Op, Vec<String>)> {
    let mut nodes = described(graph);
    for (_, op, _) in &mut nodes {
        if let Op::BatchNorm { eps, .. } = op {
            *eps = f64::from(*eps as f32);
        }
    }
    // The image is called as the file calls it.
    nodes[0].0 = "input".to_owned();
    nodes.iter_mut().flat_map(|(_, _, reads)| reads).for_each(|name| {
        if *name == graph.nodes()[0].name {
            "input".clone_into(name);
        }
    });
    nodes
}

fn logits(network: &Network) -> Vec<f32> {
    let images = arbitrary::images(network.graph.input_shape(), 2, 3);
    let params: Vec<f32> = ParamLayout::of(&network.graph).gather(&network.weights).unwrap();
    Executor::new(&network.graph, 2).unwrap().forward_eval(&params, &images, 2).to_vec()
}

#[test]
fn the_zoo_comes_back() {
    for which in ZooNetwork::ALL {
        let graph = build(which, Shape::new(3, 32, 32), 10).unwrap();
        let network = Network { weights: arbitrary::weights(&graph, 7), graph };
        let bytes = encode(&network, BatchNorms::Kept).unwrap();
        let import = decode(&bytes).unwrap();
        assert!(import.notes.is_empty(), "{:?}", import.notes);
        assert_eq!(described(&import.network.graph), rounded(&network.graph), "{which}");
        assert_eq!(import.network.graph.interface(), network.graph.interface());
        assert!(network.weights.keys().eq(import.network.weights.keys()));
        assert_eq!(logits(&import.network), logits(&network), "{which}");
        assert_eq!(
            crate::group::groups(&import.network.graph).len(),
            crate::group::groups(&network.graph).len()
        );
    }
}

/// Reading what was read and written changes nothing more.
fn assert_settled(import: &Import, norms: BatchNorms) {
    let bytes = encode(&import.network, norms).unwrap();
    let again = decode(&bytes).unwrap();
    assert_eq!(lines(&again), lines(import));
    assert_eq!(encode(&again.network, norms).unwrap(), bytes);
}

#[test]
fn every_operator_comes_back() {
    let graph = Graph::new(Shape::new(6, 4, 5), crate::graph::onnx::tests::all_operators()).unwrap();
    for opset in [9, 10, 11, 13, 17, 21] {
        let output = |name: &str, rank| Output { name: name.to_owned(), rank };
        let outputs = vec![output("map", 4), output("vector", 2)];
        let interface = Interface { input: "image".into(), outputs, opset, ..Interface::default() };
        let graph = graph.clone().with_interface(interface);
        let network = Network { weights: arbitrary::weights(&graph, 1), graph };
        let import = decode(&encode(&network, BatchNorms::Kept).unwrap()).unwrap();
        // Before version 13 a softmax was over everything behind its axis, so it stands between two transpositions.
        let (carried, more) = if opset < 13 { (4, 2) } else { (1, 0) };
        assert_eq!(import.notes.len(), carried, "{:?}", import.notes);
        assert_eq!(import.network.graph.interface(), network.graph.interface());
        // The constant is read three times, so it is three.
        assert_eq!(
            import.network.graph.nodes().len(),
            network.graph.nodes().len() + 1 + more,
            "{:#?}",
            lines(&import)
        );
        assert_settled(&import, BatchNorms::Kept);
    }
}

/// One channel of four positions, flattened to four channels, which are shuffled.
#[test]
fn a_flattened_map_may_be_shuffled() {
    let node =
        |name: &str, op: Op, input: usize| Node { name: name.to_owned(), op, inputs: vec![NodeId(input)] };
    let nodes = vec![
        Node { name: "input".into(), op: Op::Input, inputs: Vec::new() },
        node("relu", Op::RELU, 0),
        node("flatten", Op::Flatten, 1),
        node("shuffle", Op::Shuffle { groups: 2 }, 2),
        node("fc", Op::Linear { inputs: 4, outputs: 3, bias: true }, 3),
    ];
    let graph = Graph::new(Shape::new(1, 2, 2), nodes).unwrap();
    let network = Network { weights: arbitrary::weights(&graph, 1), graph };
    let import = decode(&encode(&network, BatchNorms::Kept).unwrap()).unwrap();
    assert!(import.notes.is_empty(), "{:?}", import.notes);
    assert_eq!(logits(&import.network), logits(&network));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_network_comes_back(network in arbitrary::network()) {
        let import = decode(&encode(&network, BatchNorms::Kept).unwrap()).unwrap();
        prop_assert!(import.notes.is_empty(), "{:?}", import.notes);
        prop_assert_eq!(logits(&import.network), logits(&network));
        assert_settled(&import, BatchNorms::Kept);
        let folded = decode(&encode(&network, BatchNorms::Folded).unwrap()).unwrap();
        prop_assert!(folded.notes.is_empty(), "{:?}", folded.notes);
    }
}
