//! How much each weight matters before any training, and which weights a global mask would keep. Scores are made once
//! per network, criterion and seed; every plan after that is a search over what is summed up here.

mod flow;
pub(crate) mod gradient;
mod grasp;
mod mask;
mod rounds;
mod snip;
mod synflow;
mod unstructured;

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use crate::dataset::LabelledImages;
use crate::exec::{ExecError, ParamEntry, ParamLayout};
use crate::graph::{Network, NodeId, Shape};
use crate::named::named;

pub use mask::{Selection, kept_count};
pub use unstructured::{Mask, MaskRecipe, Masked, Schedule, mask};

/// What a weight's score is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Criterion {
    /// Synaptic flow (Tanaka et al. 2020): |dR/dw * w|, R the sum of the outputs of the network of absolute weights for
    /// an image of ones. Needs no data. Iterative.
    #[default]
    #[serde(rename = "synflow")]
    SynFlow,
    /// Connection sensitivity (SNIP, Lee et al. 2019): |w * dL/dw|, L the mean cross-entropy of some labelled images.
    Snip,
    /// Gradient flow (GraSP, Wang et al. 2020): w * (H g), g the gradient of that loss, its logits divided by 200, and H
    /// its Hessian. May be negative.
    Grasp,
    /// |w|.
    Magnitude,
    /// Uniform; the baseline.
    Random,
}

named!(Criterion, "criterion", {
    SynFlow => "synflow",
    Snip => "snip",
    Grasp => "grasp",
    Magnitude => "magnitude",
    Random => "random",
});

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
    /// For each output channel: the sum of the scores of its weights that are kept, negative ones counted as 0.
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
    /// SNIP and GraSP score a network on labelled images.
    #[error("{criterion} scores a network on labelled images, and none were given")]
    NeedsImages {
        /// Which criterion.
        criterion: Criterion,
    },
    /// No labelled image at all.
    #[error("there are no images to score the network on")]
    NoImages,
    /// Images of another shape than the network's.
    #[error("the network reads images of {network}, those to score it on are {images}")]
    Images {
        /// What the network reads.
        network: Shape,
        /// What was given.
        images: Shape,
    },
    /// Other classes than the network's.
    #[error("the network tells {network} classes apart, the images to score it on are of {images}")]
    Classes {
        /// What the network has.
        network: usize,
        /// What was given.
        images: usize,
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

/// Scores `network` by a criterion that needs no data. `on_round` hears of every finished round (done, of) and may break.
pub fn score(
    network: &Network,
    recipe: &ScoreRecipe,
    on_round: &mut dyn FnMut(u32, u32) -> ControlFlow<()>,
) -> Result<Scores, SaliencyError> {
    score_with(network, recipe, None, on_round)
}

/// Scores `network`, as [`score`] does; `images` are for the criteria that need some.
pub fn score_with(
    network: &Network,
    recipe: &ScoreRecipe,
    images: Option<&LabelledImages>,
    on_round: &mut dyn FnMut(u32, u32) -> ControlFlow<()>,
) -> Result<Scores, SaliencyError> {
    check(recipe)?;
    match recipe.criterion {
        Criterion::SynFlow => Ok(synflow::flow(network, &MaskRecipe::exact(*recipe), on_round)?.scores()),
        Criterion::Snip | Criterion::Grasp | Criterion::Magnitude | Criterion::Random => {
            let layout = ParamLayout::of(&network.graph);
            let recipe = MaskRecipe::exact(*recipe);
            let scores = rounds::masked_scores(network, &layout, &recipe, images, on_round)?;
            Ok(Scores::of(&rounds::prunable(&layout), &scores))
        }
    }
}

fn check(recipe: &ScoreRecipe) -> Result<(), SaliencyError> {
    if recipe.rounds == 0 {
        return Err(SaliencyError::Recipe { setting: "rounds", allowed: "at least 1" });
    }
    if !(recipe.density > 0.0 && recipe.density <= 1.0) {
        return Err(SaliencyError::Recipe { setting: "density", allowed: "more than 0 and at most 1" });
    }
    Ok(())
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
