//! Random small networks for property tests, random weights, images and channels to keep. Which operators a network
//! has is in `graph`.

mod graph;

use candle_core::{Device, Tensor};
use proptest::prelude::*;

use crate::graph::tensor::TensorKind;
use crate::graph::{Graph, Network, Shape, Weights};
use crate::group::{Keep, groups};
use graph::STEPS;

/// A network of a few operators, with weights that leave no tensor trivial.
pub(crate) fn network() -> impl Strategy<Value = Network> {
    let steps = proptest::collection::vec((0..STEPS, any::<u8>(), any::<u8>()), 1..14);
    (1..4_usize, 4..8_usize, 4..8_usize, steps, any::<u64>()).prop_map(
        |(channels, height, width, steps, seed)| {
            let graph = graph::graph(Shape::new(channels, height, width), &steps);
            let weights = weights(&graph, seed);
            Network { graph, weights }
        },
    )
}

/// A network and the channels to keep in it: some group shrinks, unless all are frozen.
pub(crate) fn network_and_keep() -> impl Strategy<Value = (Network, Keep)> {
    (network(), any::<u64>()).prop_map(|(network, seed)| {
        let keep = keep(&network.graph, seed);
        (network, keep)
    })
}

/// Random channels to keep, at least one, of about two thirds of the groups.
pub(crate) fn keep(graph: &Graph, seed: u64) -> Keep {
    let mut rng = SplitMix(seed);
    let mut keep = Keep::new();
    for group in groups(graph).iter().filter(|group| group.frozen.is_none()) {
        if rng.below(3) > 0 {
            let mut kept: Vec<usize> = (0..group.width).filter(|_| rng.below(5) < 3).collect();
            if kept.is_empty() {
                kept.push(rng.below(group.width));
            }
            keep.insert(group.id, kept);
        }
    }
    keep
}

/// `count` images of about unit deviation, flat.
pub(crate) fn images(shape: Shape, count: usize, seed: u64) -> Vec<f32> {
    let mut rng = SplitMix(seed);
    (0..count * shape.numel()).map(|_| rng.between(-1.7, 1.7)).collect()
}

/// Random values for every tensor: weights of the usual scale, batch norms far from the identity.
pub(crate) fn weights(graph: &Graph, seed: u64) -> Weights {
    let mut rng = SplitMix(seed);
    let tensors = graph.tensors().map(|spec| {
        let scale = match spec.kind {
            TensorKind::Slope | TensorKind::Value => 1.0,
            TensorKind::Weight => (6.0 / spec.dims[1..].iter().product::<usize>() as f32).sqrt(),
            TensorKind::Bias | TensorKind::Shift | TensorKind::RunningMean => 0.5,
            TensorKind::Scale | TensorKind::RunningVar => 0.0,
        };
        let value = |_| match spec.kind {
            TensorKind::Scale | TensorKind::RunningVar => rng.between(0.5, 2.0),
            TensorKind::Weight
            | TensorKind::Bias
            | TensorKind::Shift
            | TensorKind::Slope
            | TensorKind::Value
            | TensorKind::RunningMean => rng.between(-scale, scale),
        };
        let values: Vec<f32> = (0..spec.numel()).map(value).collect();
        let tensor = Tensor::from_vec(values, spec.dims.as_slice(), &Device::Cpu).unwrap();
        (spec.name, tensor)
    });
    tensors.collect()
}

/// A small generator (Steele et al. 2014), compiled with this crate and so fast in tests too.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * (self.next() >> 40) as f32 / (1_u64 << 24) as f32
    }
}
