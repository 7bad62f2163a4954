//! The residual networks of four stages (He et al. 2015, table 1), under torchvision's names. Their stem fits the images.

use super::resnet::{Step, basic_block, shortcut};
use super::stack::{Stack, Stem, conv3x3};
use crate::graph::{Conv, Graph, GraphError, NodeId, Op, Shape, Window};

/// What the stages are made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deep {
    pub(super) block: Block,
    /// Per stage.
    pub(super) blocks: [usize; 4],
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Block {
    /// Two 3x3 convolutions.
    Basic,
    /// A 3x3 convolution between two of 1x1; the last is four times as wide.
    Bottleneck,
}

impl Block {
    /// Output channels per channel of the block's inside.
    const fn expansion(self) -> usize {
        match self {
            Self::Basic => 1,
            Self::Bottleneck => 4,
        }
    }
}

/// Channels of the stem, and of the first stage's inside; each further stage has twice as many.
const WIDTH: usize = 64;

pub(super) fn deep_resnet(input: Shape, classes: usize, deep: Deep, stem: Stem) -> Result<Graph, GraphError> {
    let mut stack = Stack::new(input);
    let mut features = stem_layers(&mut stack, input.channels, stem);
    let mut width = WIDTH;
    for (stage, blocks) in deep.blocks.into_iter().enumerate() {
        let outputs = (WIDTH << stage) * deep.block.expansion();
        for block in 0..blocks {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            let place = format!("layer{}.{block}", stage + 1);
            let step = Step { inputs: width, outputs, stride, projection: "downsample" };
            features = match deep.block {
                Block::Basic => basic_block(&mut stack, &place, features, step),
                Block::Bottleneck => bottleneck(&mut stack, &place, features, step),
            };
            width = outputs;
        }
    }
    stack.classify(width, classes, features);
    stack.finish()
}

fn stem_layers(stack: &mut Stack, channels: usize, stem: Stem) -> NodeId {
    let image = stack.input();
    let window = match stem {
        Stem::LargeImages => Window::square(7, 2, 3),
        Stem::SmallImages => Window::square(3, 1, 1),
    };
    let conv = Op::Conv(Conv { window, ..conv3x3(channels, WIDTH) });
    let x = stack.push("conv1", conv, &[image]);
    let x = stack.batch_norm("bn1", WIDTH, x);
    let x = stack.relu("relu", x);
    match stem {
        Stem::LargeImages => stack.push("maxpool", Op::MaxPool(Window::square(3, 2, 1)), &[x]),
        Stem::SmallImages => x,
    }
}

/// The 3x3 convolution takes the step, as torchvision's does; in the paper the first 1x1 convolution does.
fn bottleneck(stack: &mut Stack, place: &str, from: NodeId, step: Step) -> NodeId {
    let inside = step.outputs / Block::Bottleneck.expansion();
    let pointwise =
        |inputs, outputs| Op::Conv(Conv { window: Window::square(1, 1, 0), ..conv3x3(inputs, outputs) });
    let spatial = Op::Conv(Conv { window: Window::square(3, step.stride, 1), ..conv3x3(inside, inside) });
    let x = stack.push(format!("{place}.conv1"), pointwise(step.inputs, inside), &[from]);
    let x = stack.batch_norm(format!("{place}.bn1"), inside, x);
    let x = stack.relu(format!("{place}.relu1"), x);
    let x = stack.push(format!("{place}.conv2"), spatial, &[x]);
    let x = stack.batch_norm(format!("{place}.bn2"), inside, x);
    let x = stack.relu(format!("{place}.relu2"), x);
    let x = stack.push(format!("{place}.conv3"), pointwise(inside, step.outputs), &[x]);
    let x = stack.batch_norm(format!("{place}.bn3"), step.outputs, x);
    let shortcut = shortcut(stack, place, from, step);
    let x = stack.push(format!("{place}.add"), Op::ADD, &[x, shortcut]);
    stack.relu(format!("{place}.relu3"), x)
}
