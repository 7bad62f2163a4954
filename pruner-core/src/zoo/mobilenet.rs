//! MobileNetV2 (Sandler et al. 2018): inverted residual blocks around depthwise convolutions, under torchvision's names.

use super::stack::{Stack, Stem, conv3x3};
use crate::graph::{Activation, Conv, Graph, GraphError, NodeId, Op, Shape, Window};

/// Table 2 of the paper: expansion, output channels, blocks, step of the first one.
const STAGES: [(usize, usize, usize, usize); 7] = [
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
];
const STEM: usize = 32;
const HEAD: usize = 1280;
const RELU6: Op = Op::Activation(Activation::Clip { min: 0.0, max: 6.0 });

/// The network; dropout, which is nothing once trained, is left out. For small images only the stem keeps their size.
pub(super) fn mobilenet_v2(input: Shape, classes: usize, stem: Stem) -> Result<Graph, GraphError> {
    let mut stack = Stack::new(input);
    let image = stack.input();
    let stride = match stem {
        Stem::LargeImages => 2,
        Stem::SmallImages => 1,
    };
    let conv = Conv { window: Window::square(3, stride, 1), ..conv3x3(input.channels, STEM) };
    let mut features = activated(&mut stack, "features.0", conv, image);
    let (mut width, mut index) = (STEM, 1);
    for (expansion, outputs, blocks, first_stride) in STAGES {
        for block in 0..blocks {
            let stride = if block == 0 { first_stride } else { 1 };
            let inverted = Inverted { inputs: width, hidden: width * expansion, outputs, stride };
            features = inverted_residual(&mut stack, &format!("features.{index}"), features, inverted);
            (width, index) = (outputs, index + 1);
        }
    }
    features = activated(&mut stack, &format!("features.{index}"), pointwise(width, HEAD), features);
    let pooled = stack.push("avgpool", Op::GlobalAvgPool, &[features]);
    stack.push("classifier.1", Op::Linear { inputs: HEAD, outputs: classes, bias: true }, &[pooled]);
    stack.finish()
}

#[derive(Clone, Copy)]
struct Inverted {
    inputs: usize,
    hidden: usize,
    outputs: usize,
    stride: usize,
}

/// Widened, filtered channel by channel, narrowed; the narrow ends are added where they are alike.
fn inverted_residual(stack: &mut Stack, place: &str, from: NodeId, inverted: Inverted) -> NodeId {
    let Inverted { inputs, hidden, outputs, stride } = inverted;
    let (mut x, mut part) = (from, 0);
    if hidden != inputs {
        x = activated(stack, &format!("{place}.conv.{part}"), pointwise(inputs, hidden), x);
        part += 1;
    }
    let depthwise = Conv { groups: hidden, window: Window::square(3, stride, 1), ..conv3x3(hidden, hidden) };
    x = activated(stack, &format!("{place}.conv.{part}"), depthwise, x);
    x = stack.push(format!("{place}.conv.{}", part + 1), Op::Conv(pointwise(hidden, outputs)), &[x]);
    x = stack.batch_norm(format!("{place}.conv.{}", part + 2), outputs, x);
    if inputs == outputs && stride == 1 {
        x = stack.push(format!("{place}.add"), Op::ADD, &[from, x]);
    }
    x
}

/// A convolution, its batch norm and a ReLU6: parts 0, 1 and 2 of `place`.
fn activated(stack: &mut Stack, place: &str, conv: Conv, from: NodeId) -> NodeId {
    let x = stack.push(format!("{place}.0"), Op::Conv(conv), &[from]);
    let x = stack.batch_norm(format!("{place}.1"), conv.outputs, x);
    stack.push(format!("{place}.2"), RELU6, &[x])
}

fn pointwise(inputs: usize, outputs: usize) -> Conv {
    Conv { window: Window::square(1, 1, 0), ..conv3x3(inputs, outputs) }
}
