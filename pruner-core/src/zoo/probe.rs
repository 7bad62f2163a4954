//! Small models that a device times, so that a latency model can be fitted to it. Owns the choice of models only.

use super::resnet::{Size, resnet};
use super::stack::{Stack, conv3x3};
use super::vgg::vgg;
use crate::graph::{Conv, Graph, GraphError, Network, Op, Shape, Window};
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
/// They spread three things apart: operators per image, MACs per operator at widths from 4 to 256, and bytes
/// moved per MAC, by activations in the narrow networks and by weights in those that end at one pixel.
pub fn probes() -> Vec<Probe> {
    let graphs: [(&str, Result<Graph, GraphError>); 8] = [
        ("resnet-w4-3x32x32", resnet(COLOUR, CLASSES, Size { stem: 4, blocks: 3 })),
        ("resnet-w8-1x28x28", resnet(GREY, CLASSES, Size { stem: 8, blocks: 3 })),
        ("resnet-w8-3x32x32", resnet(COLOUR, CLASSES, Size { stem: 8, blocks: 3 })),
        ("resnet-w16-3x32x32", resnet(COLOUR, CLASSES, Size { stem: 16, blocks: 2 })),
        ("vgg-w16-3x32x32", vgg(COLOUR, CLASSES, &[&[16, 16], &[32, 32], &[64, 64]])),
        ("vgg-w64-1x28x28", vgg(GREY, CLASSES, &[&[64, 64], &[64]])),
        ("vgg-w128-1x28x28", vgg(GREY, CLASSES, &[&[8], &[16], &[32], &[128], &[128]])),
        ("pointwise-w128-3x32x32", pointwise(COLOUR, CLASSES)),
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

/// A strided 3x3 convolution, four 1x1 convolutions of 128, one of 256 at half the size, and two linear layers.
fn pointwise(input: Shape, classes: usize) -> Result<Graph, GraphError> {
    let mut stack = Stack::new(input);
    let image = stack.input();
    let stem = Op::Conv(Conv { window: Window::square(3, 2, 1), ..conv3x3(input.channels, 32) });
    let x = stack.push("conv1", stem, &[image]);
    let x = stack.batch_norm("bn1", 32, x);
    let mut features = stack.relu("relu1", x);
    let mut width = 32;
    for (layer, outputs) in (2..).zip([128, 128, 128, 128, 256]) {
        if outputs == 256 {
            features = stack.halve("pool", features);
        }
        let conv = Op::Conv(Conv { window: Window::square(1, 1, 0), ..conv3x3(width, outputs) });
        let x = stack.push(format!("conv{layer}"), conv, &[features]);
        let x = stack.batch_norm(format!("bn{layer}"), outputs, x);
        features = stack.relu(format!("relu{layer}"), x);
        width = outputs;
    }
    let x = stack.push("avgpool", Op::GlobalAvgPool, &[features]);
    let x = stack.push("fc1", Op::Linear { inputs: width, outputs: 256, bias: true }, &[x]);
    let x = stack.relu("relu7", x);
    stack.push("fc2", Op::Linear { inputs: 256, outputs: classes, bias: true }, &[x]);
    stack.finish()
}
