//! Names, shapes and the probes' promises.

use std::collections::BTreeSet;

use super::*;
use crate::graph::NodeId;
use crate::graph::cost::cost;
use crate::graph::onnx::{BatchNorms, encode};

#[test]
fn names_round_trip() {
    for network in ZooNetwork::ALL {
        assert_eq!(network.to_string().parse(), Ok(network));
    }
}

#[test]
fn an_unknown_name_lists_the_known_ones() {
    let error = "resnet-20".parse::<ZooNetwork>().unwrap_err();
    assert_eq!(error.to_string(), "there is no network 'resnet-20'; known: resnet20, vgg16-bn");
}

#[test]
fn every_network_takes_the_usual_images() {
    for network in ZooNetwork::ALL {
        for input in
            [Shape::new(3, 32, 32), Shape::new(1, 28, 28), Shape::new(3, 64, 64), Shape::new(1, 17, 23)]
        {
            let graph = build(network, input, 7).unwrap();
            assert_eq!(graph.shape(graph.output()), Shape::vector(7), "{network} on {input}");
        }
    }
}

#[test]
fn impossible_shapes_are_refused() {
    assert!(build(ZooNetwork::Vgg16Bn, Shape::new(3, 8, 8), 10).is_err(), "four poolings need 16 pixels");
    for network in ZooNetwork::ALL {
        assert!(build(network, Shape::new(0, 32, 32), 10).is_err());
        assert!(build(network, Shape::new(3, 32, 32), 0).is_err());
    }
}

#[test]
fn resnet20_is_named_as_its_state_dict() {
    let graph = build(ZooNetwork::ResNet20, Shape::new(3, 32, 32), 10).unwrap();
    let names: Vec<String> = graph.tensors().map(|tensor| tensor.name).collect();
    for name in ["conv1.weight", "bn1.running_mean", "layer1.0.conv1.weight", "layer2.0.shortcut.0.weight"] {
        assert!(names.iter().any(|known| known == name), "{name}");
    }
    for name in ["layer3.2.bn2.running_var", "layer3.0.shortcut.1.bias", "fc.weight", "fc.bias"] {
        assert!(names.iter().any(|known| known == name), "{name}");
    }
    assert_eq!(graph.find("conv1"), Some(NodeId(1)));
}

#[test]
fn probes_are_small_and_told_apart() {
    let probes = probes();
    assert!((6..=8).contains(&probes.len()));
    let names: BTreeSet<&str> = probes.iter().map(|probe| probe.name.as_str()).collect();
    assert_eq!(names.len(), probes.len());
    let mut bytes_in_all = 0;
    for Probe { name, network } in &probes {
        let cost = cost(&network.graph);
        assert!(cost.bytes < 1_000_000, "{name} has {} bytes", cost.bytes);
        assert!(cost.macs < 41_000_000, "{name} has {} MACs", cost.macs);
        bytes_in_all += cost.bytes;
    }
    assert!(bytes_in_all < 3_500_000, "{bytes_in_all} bytes");
}

/// Devices keep what they measured by a file's digest: a change here makes the whole fleet measure anew.
#[test]
fn probes_have_the_same_bytes_for_ever() {
    let checksums: Vec<u64> = probes()
        .iter()
        .map(|probe| {
            let bytes = encode(&probe.network, BatchNorms::Folded).unwrap();
            bytes.iter().fold(0, |sum: u64, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)))
        })
        .collect();
    assert_eq!(
        checksums,
        [
            0x16440819f303b5f1,
            0x6b20315ab55d3742,
            0x601bb67eb6730217,
            0x8a44abecd052876e,
            0x245abca16fbddb63,
            0x2f56db95c653604a,
            0xe3f85f0602225a5e,
            0x912ac5588b443bab
        ]
    );
}
