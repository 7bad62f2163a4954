//! Names, shapes and the probes' promises.

use std::collections::BTreeSet;

use super::*;
use crate::graph::cost::{cost, layer_costs};
use crate::graph::onnx::{BatchNorms, encode};
use crate::graph::{NodeId, Op};
use crate::group::groups;

#[test]
fn names_round_trip() {
    for network in ZooNetwork::ALL {
        assert_eq!(network.to_string().parse(), Ok(network));
    }
}

#[test]
fn an_unknown_name_lists_the_known_ones() {
    let error = "resnet-20".parse::<ZooNetwork>().unwrap_err();
    assert_eq!(
        error.to_string(),
        "there is no network 'resnet-20'; known: resnet20, resnet32, resnet44, resnet56, resnet18, resnet34, \
         resnet50, resnet18-cifar, resnet34-cifar, resnet50-cifar, vgg11-bn, vgg13-bn, vgg16-bn, vgg19-bn, \
         mobilenet-v2, mobilenet-v2-cifar"
    );
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
    let error = build(ZooNetwork::Vgg16Bn, Shape::new(3, 32, 15), 10).unwrap_err();
    assert_eq!(error.to_string(), "vgg16-bn needs images of at least 16x16 pixels, not 32x15");
    for network in ZooNetwork::ALL {
        let side = network.least_side();
        let refusal = |input, classes| build(network, input, classes).unwrap_err().to_string();
        assert!(build(network, Shape::new(1, side, side), 2).is_ok(), "{network}");
        let least = format!("{network} needs images of at least {side}x{side} pixels, not {0}x{0}", side - 1);
        assert_eq!(refusal(Shape::new(1, side - 1, side - 1), 2), least);
        let no_channels = format!("{network} needs images of at least one channel");
        assert_eq!(refusal(Shape::new(0, 32, 32), 10), no_channels);
        assert_eq!(refusal(Shape::new(3, 32, 32), 0), format!("{network} needs at least one class"));
    }
}

/// Learnt numbers and MACs, counted node by node: the networks need not be writable for it.
fn counts(network: ZooNetwork, side: usize, classes: usize) -> (u64, u64) {
    let layers = layer_costs(&build(network, Shape::new(3, side, side), classes).unwrap());
    let params = layers.iter().map(|layer| layer.params).sum();
    (params, layers.iter().map(|layer| layer.macs).sum())
}

/// The widths of the papers' tables, summed by hand; ResNet-20's and VGG-16's as reference code has them.
#[test]
fn networks_for_small_images_have_the_published_counts() {
    for (network, classes, params, macs) in [
        (ZooNetwork::Vgg11Bn, 10, 9_231_114, 152_769_536),
        (ZooNetwork::Vgg13Bn, 10, 9_416_010, 228_267_008),
        (ZooNetwork::Vgg16Bn, 10, 14_728_266, 313_201_664),
        (ZooNetwork::Vgg16Bn, 100, 14_774_436, 313_247_744),
        (ZooNetwork::Vgg19Bn, 10, 20_040_522, 398_136_320),
        (ZooNetwork::ResNet20, 10, 272_474, 40_813_184),
        (ZooNetwork::ResNet32, 10, 466_906, 69_124_736),
        (ZooNetwork::ResNet44, 10, 661_338, 97_436_288),
        (ZooNetwork::ResNet56, 10, 855_770, 125_747_840),
        (ZooNetwork::ResNet18Cifar, 10, 11_173_962, 555_422_720),
        (ZooNetwork::ResNet34Cifar, 10, 21_282_122, 1_159_402_496),
        (ZooNetwork::ResNet50Cifar, 10, 23_520_842, 1_297_829_888),
    ] {
        assert_eq!(counts(network, 32, classes), (params, macs), "{network}");
    }
}

/// The two stems of ResNet-18 differ 15 times in MACs on the same images.
#[test]
fn resnet18_of_both_stems_on_images_of_64_pixels() {
    assert_eq!(counts(ZooNetwork::ResNet18Cifar, 64, 200), (11_271_432, 2_221_772_800));
    assert_eq!(counts(ZooNetwork::ResNet18, 64, 200), (11_279_112, 148_148_224));
}

/// Parameters as torchvision lists them; MACs of convolutions and linear layers, which it lists rounded.
#[test]
fn networks_for_large_images_have_the_published_counts() {
    for (network, params, macs) in [
        (ZooNetwork::ResNet18, 11_689_512, 1_814_073_344),
        (ZooNetwork::ResNet34, 21_797_672, 3_663_761_408),
        (ZooNetwork::ResNet50, 25_557_032, 4_089_184_256),
        (ZooNetwork::MobileNetV2, 3_504_872, 300_774_272),
        (ZooNetwork::MobileNetV2Cifar, 3_504_872, 1_199_257_088),
    ] {
        assert_eq!(counts(network, 224, 1000), (params, macs), "{network}");
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
fn the_others_are_named_as_torchvisions_state_dicts() {
    let large = Shape::new(3, 224, 224);
    for (network, tensors) in [
        (ZooNetwork::ResNet50, ["layer3.5.conv3.weight", "layer1.0.downsample.1.running_var", "fc.bias"]),
        (ZooNetwork::ResNet18, ["layer4.1.bn2.bias", "layer2.0.downsample.0.weight", "bn1.running_mean"]),
        (
            ZooNetwork::MobileNetV2,
            ["features.1.conv.1.weight", "features.17.conv.3.bias", "classifier.1.bias"],
        ),
        (
            ZooNetwork::MobileNetV2,
            ["features.0.1.weight", "features.2.conv.1.0.weight", "features.18.0.weight"],
        ),
    ] {
        let graph = build(network, large, 1000).unwrap();
        let names: BTreeSet<String> = graph.tensors().map(|tensor| tensor.name).collect();
        assert!(tensors.iter().all(|name| names.contains(*name)), "{network} has {tensors:?}");
    }
}

/// The hidden channels of each block go through its depthwise convolution; those between blocks are shared by residual
/// sums where a stage has several blocks.
#[test]
fn channels_of_mobilenet_v2_are_grouped_by_block_and_by_stage() {
    let graph = build(ZooNetwork::MobileNetV2, Shape::new(3, 224, 224), 1000).unwrap();
    let groups = groups(&graph);
    // The image, the stem with the first block's inside, sixteen hidden ones, seven stages, the head, the classes.
    assert_eq!(groups.len(), 1 + 1 + 16 + 7 + 1 + 1);
    assert_eq!(groups.iter().filter(|group| group.frozen.is_some()).count(), 2);
    let coupled: Vec<usize> =
        groups.iter().filter(|group| group.is_coupled(&graph)).map(|group| group.width).collect();
    assert_eq!(coupled, [24, 32, 64, 96, 160]);
    let depthwise = |id: &NodeId| matches!(graph.node(*id).op, Op::Conv(conv) if conv.is_depthwise());
    let mut hidden = groups.iter().filter(|group| group.producers.iter().any(depthwise));
    let names =
        |ids: &[NodeId]| -> Vec<String> { ids.iter().map(|id| graph.node(*id).name.clone()).collect() };
    assert_eq!(hidden.clone().count(), 17);
    let last = hidden.next_back().unwrap();
    assert_eq!(names(&last.producers), ["features.17.conv.0.0", "features.17.conv.1.0"]);
    assert_eq!(names(&last.consumers), ["features.17.conv.1.0", "features.17.conv.2"]);
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
