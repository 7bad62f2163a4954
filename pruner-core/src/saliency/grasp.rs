//! GraSP (Wang et al. 2020, "Picking winning tickets before training by preserving gradient flow").

use super::SaliencyError;
use super::gradient::LossGradient;
use super::rounds::Saliency;
use crate::dataset::LabelledImages;
use crate::graph::{Activation, Graph, Op};

/// Of the logits: it keeps the softmax far from saturation (the paper's section 4.1).
const TEMPERATURE: f64 = 200.0;

/// The step along the gradient, as a share of the weights' norm, where the loss is smooth.
const SMOOTH_STEP: f64 = 1e-4;

/// How many of the network's kinks one step may be expected to cross.
const CROSSINGS: f64 = 1e-2;

/// w * (H g), g the gradient of the loss and H its Hessian; the lowest are pruned first, as in the Synaptic-Flow code. A
/// high score means that pruning the weight would lessen the norm of the gradient.
///
/// H g is the central difference of gradients along g. ReLUs and max poolings bend the loss, and backpropagation takes H
/// between the bends: a step across one would add a jump divided by the step. So the step is the shorter the more values
/// can bend, down to where f64 still has some five digits of the difference.
pub(super) struct Grasp<'a> {
    loss: LossGradient<'a>,
    step: f64,
    gradient: Vec<f64>,
    moved: Vec<f64>,
    below: Vec<f64>,
}

impl<'a> Grasp<'a> {
    pub(super) fn new(graph: &Graph, images: &'a LabelledImages) -> Result<Self, SaliencyError> {
        let loss = LossGradient::new(graph, images, TEMPERATURE)?;
        let bends = (bends(graph) * images.len()) as f64;
        let step = if bends > 0.0 { SMOOTH_STEP.min(CROSSINGS / bends) } else { SMOOTH_STEP };
        Ok(Self { loss, step, gradient: Vec::new(), moved: Vec::new(), below: Vec::new() })
    }

    fn gradient_at(&mut self, weights: &[f64], step: f64, gradient: &mut [f64]) {
        let along = weights.iter().zip(&self.gradient).map(|(weight, along)| weight + step * along);
        self.moved.clear();
        self.moved.extend(along);
        self.loss.gradient(&self.moved, gradient);
    }
}

impl Saliency for Grasp<'_> {
    fn score(&mut self, weights: &[f64], scores: &mut [f64]) {
        self.loss.gradient(weights, scores);
        // What is pruned has no gradient: its mask is a constant 0.
        let live =
            scores.iter().zip(weights).map(|(slope, weight)| if *weight == 0.0 { 0.0 } else { *slope });
        self.gradient = live.collect();
        let norm = norm(&self.gradient);
        if norm == 0.0 {
            scores.fill(0.0);
            return;
        }
        let step = self.step * self::norm(weights) / norm;
        let mut below = std::mem::take(&mut self.below);
        below.resize(weights.len(), 0.0);
        self.gradient_at(weights, -step, &mut below);
        self.gradient_at(weights, step, scores);
        for ((score, below), weight) in scores.iter_mut().zip(&below).zip(weights) {
            *score = weight * (*score - below) / (2.0 * step);
        }
        self.below = below;
    }

    /// Two bits of the score are left out to make room for its sign.
    fn rank(&self, score: f64) -> f64 {
        let bits = score.to_bits();
        let ordered = if score.is_sign_negative() { !bits } else { bits | 1 << 63 };
        f64::from_bits(ordered >> 2)
    }
}

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|value| value * value).sum::<f64>().sqrt()
}

/// Values of one image at which the network bends.
fn bends(graph: &Graph) -> usize {
    let bending = graph.nodes().iter().filter(|node| match &node.op {
        Op::MaxPool(_) | Op::PRelu { .. } => true,
        Op::Activation(activation) => match activation {
            Activation::Relu
            | Activation::LeakyRelu { .. }
            | Activation::Clip { .. }
            | Activation::HardSigmoid { .. }
            | Activation::HardSwish => true,
            Activation::Sigmoid | Activation::Silu | Activation::Tanh => false,
        },
        Op::Input
        | Op::Conv(_)
        | Op::BatchNorm { .. }
        | Op::Binary(_)
        | Op::Concat
        | Op::Slice { .. }
        | Op::Shuffle { .. }
        | Op::Pad { .. }
        | Op::AvgPool { .. }
        | Op::GlobalAvgPool
        | Op::Resize(_)
        | Op::Softmax
        | Op::Flatten
        | Op::Linear { .. }
        | Op::Constant { .. }
        | Op::Opaque(_)
        | Op::Part { .. }
        | Op::Outputs => false,
    });
    bending.map(|node| graph.shape(node.inputs[0]).numel()).sum()
}

#[cfg(test)]
mod tests;
