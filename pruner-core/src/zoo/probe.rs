//! Small models that a device times, so that a latency model can be fitted to it. Owns the choice of models only.

use super::resnet::{Size, resnet};
use super::vgg::vgg;
use crate::graph::{Graph, GraphError, Network, Shape};
use crate::init::init;

/// A model to time.
#[derive(Debug, Clone)]
pub struct Probe {
    /// Unique among the probes, for example `resnet-w8-1x28x28`.
    pub name: String,
    /// What to run.
    pub network: Network,
}

/// The seed of the probes' weights: fixed, so that their files and digests never change.
const SEED: u64 = 0;
const CLASSES: usize = 10;
const GREY: Shape = Shape::new(1, 28, 28);
const COLOUR: Shape = Shape::new(3, 32, 32);

/// The probe models, each under 1 MB and 41 million MACs, about 3 MB together.
///
/// They spread three things apart: operators per image (a ResNet-20 has 60), MACs per operator at widths from 4
/// to 256, and bytes moved per MAC (the last one is mostly weights, the first mostly activations).
pub fn probes() -> Vec<Probe> {
    let graphs: [(&str, Result<Graph, GraphError>); 8] = [
        ("resnet-w4-3x32x32", resnet(COLOUR, CLASSES, Size { stem: 4, blocks: 3 })),
        ("resnet-w8-1x28x28", resnet(GREY, CLASSES, Size { stem: 8, blocks: 3 })),
        ("resnet-w8-3x32x32", resnet(COLOUR, CLASSES, Size { stem: 8, blocks: 3 })),
        ("resnet-w16-1x28x28", resnet(GREY, CLASSES, Size { stem: 16, blocks: 3 })),
        ("resnet-w32-1x28x28", resnet(GREY, CLASSES, Size { stem: 32, blocks: 1 })),
        ("vgg-w16-3x32x32", vgg(COLOUR, CLASSES, &[&[16, 16], &[32, 32], &[64, 64]])),
        ("vgg-w48-1x28x28", vgg(GREY, CLASSES, &[&[48, 48], &[64], &[96]])),
        ("vgg-w128-1x28x28", vgg(GREY, CLASSES, &[&[8], &[16], &[32], &[128], &[128]])),
    ];
    graphs
        .into_iter()
        .map(|(name, graph)| {
            let graph = graph.expect("the probes' shapes fit");
            let weights = init(&graph, SEED);
            Probe { name: name.to_owned(), network: Network { graph, weights } }
        })
        .collect()
}
