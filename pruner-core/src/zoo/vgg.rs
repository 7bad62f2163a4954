//! Plain stacks of 3x3 convolutions with batch norm: conv1, bn1, relu1, ..., pool1, ..., avgpool, fc.

use super::stack::{Stack, conv3x3};
use crate::graph::{Conv, Graph, GraphError, Op, Shape};

/// Between them are the poolings. After the last stage comes the global mean instead of a fifth max pooling, so that any
/// image of 16 pixels or more fits.
pub(super) const STAGES: usize = 5;

/// The widths of the convolutions of each stage (Simonyan and Zisserman 2014, table 1).
pub(super) const VGG11: [&[usize]; STAGES] = [&[64], &[128], &[256; 2], &[512; 2], &[512; 2]];
pub(super) const VGG13: [&[usize]; STAGES] = [&[64; 2], &[128; 2], &[256; 2], &[512; 2], &[512; 2]];
pub(super) const VGG16: [&[usize]; STAGES] = [&[64; 2], &[128; 2], &[256; 3], &[512; 3], &[512; 3]];
pub(super) const VGG19: [&[usize]; STAGES] = [&[64; 2], &[128; 2], &[256; 4], &[512; 4], &[512; 4]];

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
