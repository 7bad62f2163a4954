//! How much each weight matters before any training, and which weights a global mask would keep. Scores are made once
//! per network, criterion and seed; every plan after that is a search over what is summed up here.

mod flow;
mod mask;
mod synflow;

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::exec::{ExecError, ParamEntry, ParamLayout, Role};
use crate::graph::{Network, NodeId};

pub use mask::{Selection, kept_count};

/// What a weight's score is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Criterion {
    /// Synaptic flow (Tanaka et al. 2020): |dR/dw * w|, R the sum of the outputs of the network of absolute weights for
    /// an image of ones. Needs no data. Iterative.
    SynFlow,
    /// |w|.
    Magnitude,
    /// Uniform; the baseline.
    Random,
}

/// How a network is scored.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ScoreRecipe {
    /// What a weight's score is.
    pub criterion: Criterion,
    /// Rounds of pruning and scoring again; 1 where the scores do not depend on what was pruned.
    pub rounds: u32,
    /// Share of the weights of convolutions and linear layers that the mask keeps after the last round, 0 to 1.
    pub density: f64,
    /// Of random scores.
    pub seed: u64,
}

/// What is kept of the scores, layer by layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    layers: BTreeMap<usize, LayerScores>,
}

/// One convolution's or linear layer's scores, under the final mask.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerScores {
    /// Share of its weights that the mask keeps.
    pub density: f64,
    /// For each output channel: the sum of the scores of its weights that are kept.
    pub filters: Vec<f64>,
    /// For each output channel: the share of its weights that is kept.
    pub alive: Vec<f64>,
}

/// Why a network has no scores.
#[derive(Debug, thiserror::Error)]
pub enum SaliencyError {
    /// A setting outside its range.
    #[error("{setting} must be {allowed}")]
    Recipe {
        /// Which.
        setting: &'static str,
        /// Its range.
        allowed: &'static str,
    },
    /// The scores are infinite or not a number.
    #[error("the scores are not finite: the weights are, or too large")]
    NotFinite,
    /// The callback broke.
    #[error("scoring was cancelled")]
    Cancelled,
    /// The weights do not fit the graph.
    #[error(transparent)]
    Weights(#[from] ExecError),
}

/// Scores `network`. `on_round` hears of every finished round (done, of) and may break.
pub fn score(
    network: &Network,
    recipe: &ScoreRecipe,
    on_round: &mut dyn FnMut(u32, u32) -> ControlFlow<()>,
) -> Result<Scores, SaliencyError> {
    if recipe.rounds == 0 {
        return Err(SaliencyError::Recipe { setting: "rounds", allowed: "at least 1" });
    }
    if !(recipe.density > 0.0 && recipe.density <= 1.0) {
        return Err(SaliencyError::Recipe { setting: "density", allowed: "more than 0 and at most 1" });
    }
    match recipe.criterion {
        Criterion::SynFlow => synflow::scores(network, recipe, on_round),
        Criterion::Magnitude => one_shot(network, recipe.density, f64::abs),
        Criterion::Random => {
            let mut random = ChaCha8Rng::seed_from_u64(recipe.seed);
            one_shot(network, recipe.density, |_| 1.0 - random.random::<f64>())
        }
    }
}

/// Scores that do not depend on what was pruned: one selection.
fn one_shot(
    network: &Network,
    density: f64,
    mut score: impl FnMut(f64) -> f64,
) -> Result<Scores, SaliencyError> {
    let layout = ParamLayout::of(&network.graph);
    let mut values = layout.gather::<f64>(&network.weights)?;
    let prunable: Vec<&ParamEntry> =
        layout.entries().iter().filter(|entry| entry.role == Role::Weight).collect();
    for entry in &prunable {
        values[entry.range.clone()].iter_mut().for_each(|value| *value = score(*value));
    }
    if values.iter().any(|value| !value.is_finite()) {
        return Err(SaliencyError::NotFinite);
    }
    mask::keep(&mut values, &prunable, density, Selection::Exact);
    Ok(Scores::of(&prunable, &values))
}

impl Scores {
    /// Sums up scores by parameter; what the mask drops has score 0.
    fn of(prunable: &[&ParamEntry], scores: &[f64]) -> Self {
        let layers = prunable.iter().map(|entry| {
            let scores = &scores[entry.range.clone()];
            let filters = scores.chunks(scores.len() / entry.dims[0]);
            let alive = |scores: &[f64]| {
                scores.iter().filter(|&&score| score > 0.0).count() as f64 / scores.len() as f64
            };
            let summed = LayerScores {
                density: alive(scores),
                filters: filters.clone().map(|filter| filter.iter().sum()).collect(),
                alive: filters.map(alive).collect(),
            };
            (entry.node.0, summed)
        });
        Self { layers: layers.collect() }
    }

    /// Of one convolution or linear layer; `None` for other nodes.
    pub fn layer(&self, node: NodeId) -> Option<&LayerScores> {
        self.layers.get(&node.0)
    }

    /// Every convolution and linear layer, in the graph's order.
    pub fn layers(&self) -> impl Iterator<Item = (NodeId, &LayerScores)> {
        self.layers.iter().map(|(&node, scores)| (NodeId(node), scores))
    }
}

#[cfg(test)]
mod tests;
