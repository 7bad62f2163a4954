//! Residual networks for small images: a stem, three stages of basic blocks, mean, linear.

use super::stack::{Stack, conv3x3};
use crate::graph::{Conv, Graph, GraphError, NodeId, Op, Shape, Window};

/// How wide and how deep.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    /// Channels of the stem and the first stage; the second and third have twice and four times as many.
    pub(super) stem: usize,
    /// Basic blocks per stage; ResNet-20 has 3.
    pub(super) blocks: usize,
}

/// The network; nodes are named as torchvision names them, `shortcut` for the 1x1 projection.
pub(super) fn resnet(input: Shape, classes: usize, size: Size) -> Result<Graph, GraphError> {
    let mut stack = Stack::new(input);
    let image = stack.input();
    let stem = stack.push("conv1", Op::Conv(conv3x3(input.channels, size.stem)), &[image]);
    let stem = stack.batch_norm("bn1", size.stem, stem);
    let mut features = stack.relu("relu", stem);
    let mut width = size.stem;
    for stage in 0..3 {
        let outputs = size.stem << stage;
        for block in 0..size.blocks {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            let place = format!("layer{}.{block}", stage + 1);
            let step = Step { inputs: width, outputs, stride, projection: "shortcut" };
            features = basic_block(&mut stack, &place, features, step);
            width = outputs;
        }
    }
    stack.classify(width, classes, features);
    stack.finish()
}

/// What a block makes of the features' width and size.
#[derive(Clone, Copy)]
pub(super) struct Step {
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    pub(super) stride: usize,
    /// What the 1x1 convolution and its batch norm beside the block are called.
    pub(super) projection: &'static str,
}

/// Two 3x3 convolutions; the first takes the step.
pub(super) fn basic_block(stack: &mut Stack, place: &str, from: NodeId, step: Step) -> NodeId {
    let Step { inputs, outputs, stride, .. } = step;
    let first = Op::Conv(Conv { window: Window::square(3, stride, 1), ..conv3x3(inputs, outputs) });
    let x = stack.push(format!("{place}.conv1"), first, &[from]);
    let x = stack.batch_norm(format!("{place}.bn1"), outputs, x);
    let x = stack.relu(format!("{place}.relu1"), x);
    let x = stack.push(format!("{place}.conv2"), Op::Conv(conv3x3(outputs, outputs)), &[x]);
    let x = stack.batch_norm(format!("{place}.bn2"), outputs, x);
    let shortcut = shortcut(stack, place, from, step);
    let x = stack.push(format!("{place}.add"), Op::ADD, &[x, shortcut]);
    stack.relu(format!("{place}.relu2"), x)
}

/// What runs past a block: the features themselves, or projected to its width and size (option B of the paper).
pub(super) fn shortcut(stack: &mut Stack, place: &str, from: NodeId, step: Step) -> NodeId {
    let Step { inputs, outputs, stride, projection } = step;
    if inputs == outputs && stride == 1 {
        return from;
    }
    let conv = Op::Conv(Conv { window: Window::square(1, stride, 0), ..conv3x3(inputs, outputs) });
    let y = stack.push(format!("{place}.{projection}.0"), conv, &[from]);
    stack.batch_norm(format!("{place}.{projection}.1"), outputs, y)
}
