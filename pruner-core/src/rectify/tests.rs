//! What is fresh, what is kept, and that one layer's fate does not touch another's.

use super::*;
use crate::arbitrary;
use crate::graph::Shape;
use crate::group::{Keep, groups};
use crate::surgery::apply;
use crate::zoo::{ZooNetwork, build};

const SEED: u64 = 11;

/// The modes keep, slice or draw the values of every tensor as they say.
#[test]
fn modes_differ_in_what_is_fresh() {
    let network = trained();
    let pruned = halved(&network, "layer2.1.conv1");
    let with = |mode| rectify(pruned.clone(), &network.graph, mode, SEED);
    let same = |one: &Network, other: &Network| {
        one.weights.keys().filter(|name| values(one, name) == values(other, name)).count()
    };
    let all = pruned.weights.len();
    assert_eq!(same(&with(Reinit::SliceKept), &pruned), all);
    let fresh = Network { weights: init::init(&pruned.graph, SEED), graph: pruned.graph.clone() };
    assert_eq!(same(&with(Reinit::Full), &fresh), all);
    assert_eq!(same(&with(Reinit::Touched), &reinit(pruned.clone(), &network.graph, SEED)), all);
    // Two convolutions and two batch norms of four tensors.
    assert_eq!(same(&with(Reinit::Touched), &pruned), all - 10);
    let rescaled = with(Reinit::Rescaled);
    assert_eq!(same(&rescaled, &pruned), all - 1, "one layer alone reads fewer channels");
    let (old, new) = (values(&pruned, "layer2.1.conv2.weight"), values(&rescaled, "layer2.1.conv2.weight"));
    assert!(old.iter().zip(&new).all(|(old, new)| (new / old / 2f32.sqrt() - 1.0).abs() < 1e-6));
    assert_eq!(Reinit::default(), Reinit::Touched);
}

/// The variance of rescaled slices of initial weights is that of fresh ones: 2 / fan-in, within five standard errors, and
/// slices that are only kept are short of it by the share of inputs that went.
#[test]
fn rescaled_slices_have_the_variance_of_fresh_weights() {
    let graph = build(ZooNetwork::ResNet20, Shape::new(3, 8, 8), 10).unwrap();
    let network = Network { weights: init::init(&graph, 5), graph };
    let pruned = halved(&network, "layer3.1.conv1");
    let variance = |mode| {
        let rectified = rectify(pruned.clone(), &network.graph, mode, SEED);
        let weights = values(&rectified, "layer3.1.conv2.weight");
        weights.iter().map(|weight| f64::from(*weight).powi(2)).sum::<f64>() / weights.len() as f64
    };
    let wanted = 2.0 / (32.0 * 9.0);
    let tolerance = 5.0 * (2.0 / (64.0 * 32.0 * 9.0_f64)).sqrt();
    for (mode, expected) in [
        (Reinit::Touched, wanted),
        (Reinit::Full, wanted),
        (Reinit::Rescaled, wanted),
        (Reinit::SliceKept, wanted / 2.0),
    ] {
        assert!((variance(mode) / expected - 1.0).abs() < tolerance, "{mode:?}: {}", variance(mode));
    }
}

fn trained() -> Network {
    let graph = build(ZooNetwork::ResNet20, Shape::new(3, 8, 8), 10).unwrap();
    let weights = arbitrary::weights(&graph, 1);
    Network { graph, weights }
}

/// Halves the group that `producer` writes.
fn halved(network: &Network, producer: &str) -> Network {
    let id = network.graph.find(producer).unwrap();
    let groups = groups(&network.graph);
    let group = groups.iter().find(|group| group.producers.contains(&id)).unwrap();
    apply(network, &Keep::from([(group.id, (0..group.width / 2).collect())])).unwrap()
}

fn values(network: &Network, name: &str) -> Vec<f32> {
    network.weights[name].flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn touched_layers_and_their_norms_are_fresh_and_no_others() {
    let network = trained();
    let pruned = halved(&network, "layer2.1.conv1");
    let rectified = reinit(pruned.clone(), &network.graph, SEED);
    let fresh = init::init(&pruned.graph, SEED);
    let fresh_layers = ["layer2.1.conv1.", "layer2.1.bn1.", "layer2.1.conv2.", "layer2.1.bn2."];
    for name in rectified.weights.keys() {
        let is_fresh = fresh_layers.iter().any(|layer| name.starts_with(layer));
        let expected = if is_fresh {
            fresh[name].flatten_all().unwrap().to_vec1().unwrap()
        } else {
            values(&network, name)
        };
        assert_eq!(values(&rectified, name), expected, "{name}");
    }
}

#[test]
fn a_stage_group_refreshes_every_layer_on_it() {
    let network = trained();
    let pruned = halved(&network, "layer3.0.shortcut.0");
    let names: Vec<String> = touched(&pruned.graph, &network.graph)
        .into_iter()
        .map(|id| pruned.graph.node(id).name.clone())
        .collect();
    let expected = [
        "layer3.0.conv2",
        "layer3.0.bn2",
        "layer3.0.shortcut.0",
        "layer3.0.shortcut.1",
        "layer3.1.conv1",
        "layer3.1.bn1",
        "layer3.1.conv2",
        "layer3.1.bn2",
        "layer3.2.conv1",
        "layer3.2.bn1",
        "layer3.2.conv2",
        "layer3.2.bn2",
        "fc",
    ];
    assert_eq!(names, expected);
}

#[test]
fn an_unpruned_network_keeps_everything() {
    let network = trained();
    let same = reinit(network.clone(), &network.graph, SEED);
    assert!(same.weights.keys().all(|name| values(&same, name) == values(&network, name)));
}

#[test]
fn a_layers_fresh_values_ignore_what_else_was_pruned() {
    let network = trained();
    let one = reinit(halved(&network, "layer2.1.conv1"), &network.graph, SEED);
    let two = reinit(halved(&halved(&network, "layer2.1.conv1"), "layer1.0.conv1"), &network.graph, SEED);
    assert_eq!(values(&one, "layer2.1.conv1.weight"), values(&two, "layer2.1.conv1.weight"));
}
