//! Plain stacks of 3x3 convolutions with batch norm: conv1, bn1, relu1, ..., pool1, ..., avgpool, fc.

use super::stack::{Stack, conv3x3};
use crate::graph::{Conv, Graph, GraphError, Op, Shape};

/// The widths of the convolutions between poolings. After the last stage comes the global mean instead of
/// a fifth max pooling, so that any image of 16 pixels or more fits.
pub(super) const VGG16: [&[usize]; 5] =
    [&[64, 64], &[128, 128], &[256, 256, 256], &[512, 512, 512], &[512, 512, 512]];

/// The network of these stages; convolutions have a bias.
pub(super) fn vgg(input: Shape, classes: usize, stages: &[&[usize]]) -> Result<Graph, GraphError> {
    let mut stack = Stack::new(input);
    let mut features = stack.input();
    let mut width = input.channels;
    let mut layer = 0;
    for (stage, widths) in stages.iter().enumerate() {
        if stage > 0 {
            features = stack.halve(format!("pool{stage}"), features);
        }
        for &outputs in *widths {
            layer += 1;
            let conv = Op::Conv(Conv { bias: true, ..conv3x3(width, outputs) });
            let x = stack.push(format!("conv{layer}"), conv, &[features]);
            let x = stack.batch_norm(format!("bn{layer}"), outputs, x);
            features = stack.relu(format!("relu{layer}"), x);
            width = outputs;
        }
    }
    stack.classify(width, classes, features);
    stack.finish()
}
