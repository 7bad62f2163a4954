//! Gradient descent with momentum, Nesterov's or not, as PyTorch's SGD computes it.

use std::ops::Range;

use rayon::prelude::*;

use super::Recipe;
use crate::exec::{ParamLayout, Role};

/// Numbers per parallel task.
const CHUNK: usize = 1 << 14;

/// Momentum, and which numbers it moves.
#[derive(Debug)]
pub(super) struct Sgd {
    momentum: f32,
    nesterov: bool,
    pub(super) velocity: Vec<f32>,
    /// Places in the parameters, and their weight decay; running statistics are in none.
    moved: Vec<(Range<usize>, f32)>,
}

impl Sgd {
    pub(super) fn new(layout: &ParamLayout, recipe: &Recipe) -> Self {
        let trained = layout.entries().iter().filter(|entry| entry.role.is_learnt());
        let decay = |role| match role {
            Role::Weight => recipe.weight_decay,
            Role::Bias
            | Role::Scale
            | Role::Shift
            | Role::Slope
            | Role::Value
            | Role::RunningMean
            | Role::RunningVar => 0.0,
        };
        let moved = trained.map(|entry| (entry.range.clone(), decay(entry.role))).collect();
        Self {
            momentum: recipe.momentum,
            nesterov: recipe.nesterov,
            velocity: vec![0.0; layout.len()],
            moved,
        }
    }

    /// velocity = momentum velocity + gradient; parameters -= rate velocity, or by Nesterov
    /// parameters -= rate (gradient + momentum velocity).
    pub(super) fn step(&mut self, params: &mut [f32], grads: &[f32], rate: f32) {
        let (momentum, nesterov) = (self.momentum, self.nesterov);
        for (range, decay) in &self.moved {
            let params = params[range.clone()].par_chunks_mut(CHUNK);
            let velocity = self.velocity[range.clone()].par_chunks_mut(CHUNK);
            let grads = grads[range.clone()].par_chunks(CHUNK);
            params.zip(velocity).zip(grads).for_each(|((params, velocity), grads)| {
                for ((param, velocity), &grad) in params.iter_mut().zip(velocity).zip(grads) {
                    let grad = grad + decay * *param;
                    *velocity = momentum * *velocity + grad;
                    let ahead = if nesterov { grad + momentum * *velocity } else { *velocity };
                    *param -= rate * ahead;
                }
            });
        }
    }
}
