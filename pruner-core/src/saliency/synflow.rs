//! Synaptic flow (Tanaka et al. 2020, "Pruning neural networks without any data by iteratively conserving synaptic flow").

use std::ops::ControlFlow;

use super::mask::{self, Selection};
use super::{SaliencyError, ScoreRecipe};
use crate::exec::{ExecError, Executor, ParamEntry};
use crate::graph::Graph;

/// The score of every parameter after the last round, 0 for what the mask drops. In each round the density falls along
/// density^(round / rounds). In f64: the flow of a deep network is too large for f32.
pub(super) fn scores(
    graph: &Graph,
    mut weights: Vec<f64>,
    prunable: &[&ParamEntry],
    recipe: &ScoreRecipe,
    on_round: &mut dyn FnMut(u32, u32) -> ControlFlow<()>,
) -> Result<Vec<f64>, SaliencyError> {
    weights.iter_mut().for_each(|weight| *weight = weight.abs());
    let mut flow = Flow::new(graph)?;
    let mut scores = vec![0.0; weights.len()];
    for round in 1..=recipe.rounds {
        flow.score(&weights, &mut scores);
        if scores.iter().any(|score| !score.is_finite()) {
            return Err(SaliencyError::NotFinite);
        }
        let density = recipe.density.powf(f64::from(round) / f64::from(recipe.rounds));
        mask::keep(&mut scores, prunable, density, Selection::Exact);
        for entry in prunable {
            let range = entry.range.clone();
            for (weight, score) in weights[range.clone()].iter_mut().zip(&scores[range]) {
                if *score == 0.0 {
                    *weight = 0.0;
                }
            }
        }
        if on_round(round, recipe.rounds).is_break() {
            return Err(SaliencyError::Cancelled);
        }
    }
    Ok(scores)
}

/// One pass forwards and backwards over the network of absolute weights.
pub(super) struct Flow {
    executor: Executor<f64>,
    ones: Vec<f64>,
    out: Vec<f64>,
}

impl Flow {
    pub(super) fn new(graph: &Graph) -> Result<Self, ExecError> {
        let outputs = graph.shape(graph.output()).numel();
        let ones = vec![1.0; graph.input_shape().numel()];
        Ok(Self { executor: Executor::new(graph, 1)?, ones, out: vec![1.0; outputs] })
    }

    /// |dR/dw * w| of every parameter into `scores`; returns R.
    pub(super) fn score(&mut self, weights: &[f64], scores: &mut [f64]) -> f64 {
        let flow = self.executor.forward_eval(weights, &self.ones, 1).iter().sum();
        self.executor.backward(weights, &self.out, scores);
        for (score, weight) in scores.iter_mut().zip(weights) {
            *score = (*score * weight).abs();
        }
        flow
    }
}
