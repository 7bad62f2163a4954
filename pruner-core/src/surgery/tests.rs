//! Promises kept: identity, counts, and every way to ask for nonsense.

mod exact;

use proptest::prelude::*;

use super::*;
use crate::arbitrary;
use crate::graph::cost::cost;
use crate::graph::onnx::{BatchNorms, encode};
use crate::graph::{NodeId, Shape, Window};
use crate::init::init;
use crate::zoo::{ZooNetwork, build};

fn values(network: &Network, name: &str) -> Vec<f32> {
    network.weights[name].flatten_all().unwrap().to_vec1().unwrap()
}

fn zoo(which: ZooNetwork) -> Network {
    let graph = build(which, Shape::new(1, 16, 16), 10).unwrap();
    let weights = arbitrary::weights(&graph, 0);
    Network { graph, weights }
}

/// conv (5 filters on one 2x2 image) - flatten - fc of 20 inputs whose weight is its own index.
fn flattened() -> Network {
    let conv = Conv { inputs: 1, outputs: 5, window: Window::square(1, 1, 0), groups: 1, bias: true };
    let node = |name: &str, op, inputs: &[usize]| Node {
        name: name.to_owned(),
        op,
        inputs: inputs.iter().copied().map(NodeId).collect(),
    };
    let nodes = vec![
        node("input", Op::Input, &[]),
        node("conv", Op::Conv(conv), &[0]),
        node("flatten", Op::Flatten, &[1]),
        node("fc", Op::Linear { inputs: 20, outputs: 1, bias: false }, &[2]),
    ];
    let graph = Graph::new(Shape::new(1, 2, 2), nodes).unwrap();
    let mut weights = init(&graph, 0);
    let index: Vec<f32> = (0..20_u8).map(f32::from).collect();
    weights.insert("fc.weight".to_owned(), Tensor::from_vec(index, (1, 20), &Device::Cpu).unwrap());
    Network { graph, weights }
}

/// Channel 2 is features 8 to 11 behind a flatten of four positions; dropping it drops those.
#[test]
fn a_flattened_channel_goes_with_its_features() {
    let network = flattened();
    let pruned = apply(&network, &Keep::from([(GroupId(1), vec![0, 1, 3, 4])])).unwrap();
    let expected: Vec<f32> = (0..8_u8).chain(12..20).map(f32::from).collect();
    assert_eq!(values(&pruned, "fc.weight"), expected);
    let only = apply(&network, &Keep::from([(GroupId(1), vec![2])])).unwrap();
    assert_eq!(values(&only, "fc.weight"), [8.0, 9.0, 10.0, 11.0]);
    assert_eq!(values(&only, "conv.weight"), values(&network, "conv.weight")[2..3]);
}

#[test]
fn nonsense_is_refused_by_name() {
    let network = flattened();
    let refuse = |group: usize, kept: &[usize]| {
        apply(&network, &Keep::from([(GroupId(group), kept.to_vec())])).unwrap_err().to_string()
    };
    assert_eq!(refuse(7, &[0]), "the graph has no channel group 7");
    assert_eq!(refuse(1, &[]), "channel group 1 of 5 channels cannot have 0");
    assert_eq!(refuse(1, &[0, 5]), "channel group 1 of 5 channels has no channel 5");
    assert_eq!(refuse(1, &[2, 1]), "the kept channels of group 1 are not in ascending order");
    assert_eq!(refuse(1, &[1, 1]), "the kept channels of group 1 are not in ascending order");
    assert_eq!(refuse(2, &[]), "channel group 2 of 1 channels cannot have 0");
    let vgg = zoo(ZooNetwork::Vgg16Bn);
    let error = apply(&vgg, &Keep::from([(GroupId(14), vec![1])])).unwrap_err();
    assert_eq!(error.to_string(), "channel group 14 holds the network's inputs or outputs and cannot shrink");
}

#[test]
fn weights_that_do_not_fit_are_refused() {
    let keep = Keep::from([(GroupId(1), vec![0])]);
    let mut network = flattened();
    network
        .weights
        .insert("conv.bias".to_owned(), Tensor::zeros(4, candle_core::DType::F32, &Device::Cpu).unwrap());
    let error = apply(&network, &keep).unwrap_err();
    assert_eq!(error.to_string(), "dimension 0 of tensor 'conv.bias' is not 5 long");
    network.weights.remove("conv.bias");
    let error = apply(&network, &keep).unwrap_err();
    assert_eq!(error.to_string(), "the weights have no tensor 'conv.bias'");
}

#[test]
fn full_widths_are_the_identity() {
    for which in ZooNetwork::ALL {
        let network = zoo(which);
        let all: Keep =
            groups(&network.graph).iter().map(|group| (group.id, (0..group.width).collect())).collect();
        for keep in [Keep::new(), all] {
            let same = apply(&network, &keep).unwrap();
            assert_eq!(same.graph, network.graph);
            assert!(same.weights.keys().eq(network.weights.keys()));
            assert!(same.weights.keys().all(|name| values(&same, name) == values(&network, name)), "{which}");
        }
    }
}

/// The whole promise at once: structure, tensors' shapes, and the file's length.
fn assert_promise_holds(network: &Network, keep: &Keep) {
    let widths = keep.iter().map(|(id, kept)| (*id, kept.len())).collect();
    let promised = shrink(&network.graph, &groups(&network.graph), &widths).unwrap();
    let pruned = apply(network, keep).unwrap();
    assert_eq!(promised, pruned.graph);
    let specs: Vec<_> = pruned.graph.tensors().collect();
    assert_eq!(specs.len(), pruned.weights.len());
    for spec in specs {
        assert_eq!(pruned.weights[&spec.name].dims(), spec.dims, "{}", spec.name);
        assert!(pruned.weights[&spec.name].is_contiguous(), "{}", spec.name);
    }
    let bytes = encode(&pruned, BatchNorms::Folded).unwrap();
    assert_eq!(cost(&promised).bytes, bytes.len() as u64);
}

#[test]
fn the_zoo_keeps_its_promises() {
    for which in ZooNetwork::ALL {
        let network = zoo(which);
        for seed in 0..3 {
            assert_promise_holds(&network, &arbitrary::keep(&network.graph, seed));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_network_keeps_its_promises((network, keep) in arbitrary::network_and_keep()) {
        assert_promise_holds(&network, &keep);
    }

    #[test]
    fn shrinking_never_costs_more((network, keep) in arbitrary::network_and_keep()) {
        let (before, after) = (cost(&network.graph), cost(&apply(&network, &keep).unwrap().graph));
        prop_assert!(after.params <= before.params && after.macs <= before.macs);
        prop_assert!(after.bytes <= before.bytes && after.memory_bytes <= before.memory_bytes);
    }
}
