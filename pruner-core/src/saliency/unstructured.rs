//! Masks of single weights: what pruning at initialisation keeps without taking structure out. Never applied here.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::{Criterion, SaliencyError, ScoreRecipe, Scores, Selection, check, rounds, synflow};
use crate::dataset::LabelledImages;
use crate::exec::{ParamEntry, ParamLayout};
use crate::graph::tensor::TensorKind;
use crate::graph::{Network, NodeId};

/// How a mask is made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MaskRecipe {
    /// What the weights are scored by, and how many are kept.
    pub scores: ScoreRecipe,
    /// How the density falls from round to round.
    pub schedule: Schedule,
    /// What happens at the threshold.
    pub selection: Selection,
}

/// How the density falls from 1 to the last, round e of n leaving d_e.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Schedule {
    /// d_e = d^(e / n), as synaptic flow's authors have it.
    #[default]
    Exponential,
    /// d_e = 1 - (1 - d) e / n.
    Linear,
}

/// Which weights of convolutions and linear layers stay, over all layers at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask(BTreeMap<String, Vec<u32>>);

/// A mask, and the scores that it was made by.
#[derive(Debug, Clone, PartialEq)]
pub struct Masked {
    /// Summed up, layer by layer.
    pub scores: Scores,
    /// What is kept.
    pub mask: Mask,
}

impl MaskRecipe {
    /// Exactly as many weights as the density says, by the schedule of [`super::score`].
    pub fn exact(scores: ScoreRecipe) -> Self {
        Self { scores, schedule: Schedule::Exponential, selection: Selection::Exact }
    }
}

impl Criterion {
    /// Whether it scores the network on labelled images.
    pub const fn needs_images(self) -> bool {
        match self {
            Self::Snip | Self::Grasp => true,
            Self::SynFlow | Self::Magnitude | Self::Random => false,
        }
    }

    /// Whether a weight's score depends on which others are pruned.
    pub const fn is_iterative(self) -> bool {
        match self {
            Self::SynFlow | Self::Snip | Self::Grasp => true,
            Self::Magnitude | Self::Random => false,
        }
    }
}

impl Mask {
    /// The places that stay in a tensor's row-major numbers, ascending; `None` for tensors that no mask prunes.
    pub fn kept(&self, tensor: &str) -> Option<&[u32]> {
        self.0.get(tensor).map(Vec::as_slice)
    }

    /// Every tensor that can be pruned, by name, with its places that stay.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &[u32])> {
        self.0.iter().map(|(tensor, kept)| (tensor.as_str(), kept.as_slice()))
    }

    /// Weights that stay, in all.
    pub fn count(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }
}

/// Masks `network` by `recipe`; `images` are for the criteria that need some. `on_round` hears of every finished round
/// (done, of) and may break.
pub fn mask(
    network: &Network,
    recipe: &MaskRecipe,
    images: Option<&LabelledImages>,
    on_round: &mut dyn FnMut(u32, u32) -> ControlFlow<()>,
) -> Result<Masked, SaliencyError> {
    check(&recipe.scores)?;
    match recipe.scores.criterion {
        Criterion::SynFlow => {
            let flow = synflow::flow(network, recipe, on_round)?;
            let tensor = |node: NodeId| network.graph.node(node).tensor_name(TensorKind::Weight);
            let kept = flow.by_weight().map(|(node, scores)| (tensor(node), kept(&scores)));
            Ok(Masked { mask: Mask(kept.collect()), scores: flow.scores() })
        }
        Criterion::Snip | Criterion::Grasp | Criterion::Magnitude | Criterion::Random => {
            let layout = ParamLayout::of(&network.graph);
            let scores = rounds::masked_scores(network, &layout, recipe, images, on_round)?;
            let prunable = rounds::prunable(&layout);
            let of = |entry: &&ParamEntry| (entry.tensor.clone(), kept(&scores[entry.range.clone()]));
            let mask = Mask(prunable.iter().map(of).collect());
            Ok(Masked { scores: Scores::of(&prunable, &scores), mask })
        }
    }
}

/// Where the scores are of weights that stay.
fn kept(scores: &[f64]) -> Vec<u32> {
    (0..).zip(scores).filter(|(_, score)| **score > 0.0).map(|(index, _)| index).collect()
}

#[cfg(test)]
mod tests;
