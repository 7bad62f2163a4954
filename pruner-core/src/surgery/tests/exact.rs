//! The smaller network computes what the larger one does with the dropped channels silenced.

use proptest::prelude::*;

use super::*;
use crate::exec::{Executor, ParamLayout};

const BATCH: usize = 3;

/// The network in which nobody listens to a dropped channel: what the convolutions and linear layers that read it
/// weigh it with is zero.
fn silenced(network: &Network, keep: &Keep) -> Network {
    let mut network = network.clone();
    for group in groups(&network.graph) {
        let Some(kept) = keep.get(&group.id) else { continue };
        for Member { tensor, block, indices, .. } in group.members.iter().filter(|member| member.dim == 1) {
            let before = &network.weights[tensor];
            let (length, row) = (before.dims()[1], before.dims()[2..].iter().product::<usize>());
            let mut values: Vec<f32> = before.flatten_all().unwrap().to_vec1().unwrap();
            for (at, values) in values.chunks_exact_mut(row).enumerate() {
                let listens = indices.iter().position(|index| *index == at % length);
                if listens.is_some_and(|place| !kept.contains(&(place / block))) {
                    values.fill(0.0);
                }
            }
            let after = Tensor::from_vec(values, before.dims(), &Device::Cpu).unwrap();
            network.weights.insert(tensor.clone(), after);
        }
    }
    network
}

/// Logits in f64, so that a difference is an error and not rounding.
fn logits(network: &Network, images: &[f32]) -> Vec<f64> {
    let params: Vec<f64> = ParamLayout::of(&network.graph).gather(&network.weights).unwrap();
    let images: Vec<f64> = images.iter().copied().map(f64::from).collect();
    Executor::new(&network.graph, BATCH).unwrap().forward_eval(&params, &images, BATCH).to_vec()
}

fn assert_exact(network: &Network, keep: &Keep) {
    let images = arbitrary::images(network.graph.input_shape(), BATCH, 5);
    let dense = logits(&silenced(network, keep), &images);
    let rebuilt = logits(&apply(network, keep).unwrap(), &images);
    assert_eq!(dense.len(), rebuilt.len());
    let scale = dense.iter().fold(1.0, |scale: f64, logit| scale.max(logit.abs()));
    for (dense, rebuilt) in dense.iter().zip(&rebuilt) {
        assert!((dense - rebuilt).abs() <= 1e-10 * scale, "{dense} became {rebuilt}, {keep:?}");
    }
}

#[test]
fn the_zoo_is_rebuilt_exactly() {
    for which in ZooNetwork::ALL {
        let network = zoo(which);
        for seed in 0..2 {
            assert_exact(&network, &arbitrary::keep(&network.graph, seed));
        }
    }
}

/// Silencing must matter, or the comparison above would hold for any surgery.
#[test]
fn silencing_changes_the_output() {
    let network = zoo(ZooNetwork::ResNet20);
    let keep = arbitrary::keep(&network.graph, 0);
    let images = arbitrary::images(network.graph.input_shape(), BATCH, 5);
    assert_ne!(logits(&network, &images), logits(&silenced(&network, &keep), &images));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_network_is_rebuilt_exactly((network, keep) in arbitrary::network_and_keep()) {
        assert_exact(&network, &keep);
    }
}
