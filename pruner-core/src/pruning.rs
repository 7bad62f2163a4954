//! The whole of pruning as one value: how channels are chosen, and what the network starts from afterwards.
//! Two steps with a search between them: [`Pruning::score`] looks at the network once, [`Pruning::carry_out`] makes the
//! small one.

use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use crate::dataset::{Dataset, LabelledImages};
use crate::graph::{Graph, Network, NodeId, Op};
use crate::plan::{Planner, PrunePlan, WidthPolicy};
use crate::rectify::{self, Reinit};
use crate::saliency::{self, Criterion, MaskRecipe, SaliencyError, ScoreRecipe, Scores};
use crate::sensitivity::{Evidence, Measure, Sensitivity, SensitivityError, sensitivity};
use crate::surgery::{self, SurgeryError};

/// Training images of each class that criteria and measures which need data look at, as SNIP's and GraSP's authors have
/// them.
pub const IMAGES_PER_CLASS: usize = 10;

/// How channels are chosen, and what the network starts from afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Pruning {
    /// What a weight's score is.
    pub criterion: Criterion,
    /// Rounds of scoring; criteria whose scores do not depend on what was pruned need 1.
    pub rounds: u32,
    /// Share of the weights that the mask keeps after the last round, 0 to 1.
    pub density: f64,
    /// What a layer's sensitivity is taken from.
    pub measure: Measure,
    /// How sensitivities become widths.
    pub widths: WidthPolicy,
    /// Which values the pruned network starts from.
    pub reinit: Reinit,
    /// Of random scores, and of fresh values.
    pub seed: u64,
}

impl Default for Pruning {
    /// Synaptic flow as its authors run it, to the density of the paper's headline.
    fn default() -> Self {
        Self {
            criterion: Criterion::SynFlow,
            rounds: 100,
            density: 1.0 / 16.21,
            measure: Measure::default(),
            widths: WidthPolicy::default(),
            reinit: Reinit::default(),
            seed: 1,
        }
    }
}

/// Why a network cannot be planned for.
#[derive(Debug, thiserror::Error)]
pub enum PruningError {
    /// It has no scores.
    #[error(transparent)]
    Scores(#[from] SaliencyError),
    /// Its layers have no sensitivities.
    #[error(transparent)]
    Sensitivity(#[from] SensitivityError),
}

/// What scoring found of a network: with its shape, all that plans are made from. Takes seconds to minutes to find, and
/// little to keep: two numbers for each channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    /// Of every convolution and linear layer.
    pub scores: Scores,
    /// How badly each takes pruning.
    pub sensitivity: Sensitivity,
}

/// What was scored is another network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the scores are of another network: of layer {layer} they have {found} channels instead of {expected}"
)]
pub struct ForeignScores {
    /// Its number.
    pub layer: usize,
    /// Scored channels; 0 where the layer was not scored.
    pub found: usize,
    /// The layer's channels.
    pub expected: usize,
}

impl Scored {
    /// A planner for the network with this graph.
    ///
    /// # Errors
    /// When it is not the one that was scored.
    pub fn planner(self, graph: &Graph, policy: WidthPolicy) -> Result<Planner, ForeignScores> {
        for (layer, _) in graph.nodes().iter().enumerate().filter(|(_, node)| has_filters(&node.op)) {
            let found = self.scores.layer(NodeId(layer)).map_or(0, |scores| scores.filters.len());
            let expected = graph.shapes()[layer].channels;
            if found != expected {
                return Err(ForeignScores { layer, found, expected });
            }
        }
        Ok(Planner::new(graph, &self.scores, self.sensitivity, policy))
    }
}

impl Pruning {
    /// Whether it looks at labelled images.
    pub const fn needs_images(&self) -> bool {
        self.criterion.needs_images() || self.measure.needs_images()
    }

    /// What it looks at of a data set; `None` where it needs no images.
    pub fn images(&self, dataset: &Dataset) -> Option<LabelledImages> {
        self.needs_images().then(|| dataset.sample(IMAGES_PER_CLASS))
    }

    /// Scores `network` and evaluates its layers. `images` are needed where [`Pruning::needs_images`] says so. `on_round`
    /// hears of every finished round, and of every layer that was probed (done, of), and may break.
    pub fn score(
        &self,
        network: &Network,
        images: Option<&LabelledImages>,
        on_round: &mut dyn FnMut(u32, u32) -> ControlFlow<()>,
    ) -> Result<Scored, PruningError> {
        let Self { criterion, rounds, density, measure, widths: _, reinit: _, seed } = *self;
        let recipe = ScoreRecipe { criterion, rounds, density, seed };
        let total = rounds + if measure == Measure::Probe { probed(network) } else { 0 };
        let on_score = &mut |done: u32, _| on_round(done, total);
        // Only the flow gap looks at single weights, whose places take more memory than all sums.
        let (scores, mask) = if measure == Measure::FlowGap {
            let masked = saliency::mask(network, &MaskRecipe::exact(recipe), images, on_score)?;
            (masked.scores, Some(masked.mask))
        } else {
            (saliency::score_with(network, &recipe, images, on_score)?, None)
        };
        let evidence = Evidence { network, scores: &scores, mask: mask.as_ref(), images };
        let mut done = rounds;
        let sensitivity = sensitivity(&evidence, measure, &mut || {
            done += 1;
            on_round(done.min(total), total)
        })?;
        if done < total && on_round(total, total).is_break() {
            return Err(SaliencyError::Cancelled.into());
        }
        Ok(Scored { scores, sensitivity })
    }

    /// Scores `network` and makes a planner of what was found, at once.
    pub fn planner(
        &self,
        network: &Network,
        images: Option<&LabelledImages>,
        on_round: &mut dyn FnMut(u32, u32) -> ControlFlow<()>,
    ) -> Result<Planner, PruningError> {
        let Scored { scores, sensitivity } = self.score(network, images, on_round)?;
        Ok(Planner::new(&network.graph, &scores, sensitivity, self.widths))
    }

    /// The network that `plan` leaves of `network`, with the values that it starts from.
    pub fn carry_out(&self, network: &Network, plan: &PrunePlan) -> Result<Network, SurgeryError> {
        let pruned = surgery::apply(network, &plan.keep)?;
        Ok(rectify::rectify(pruned, &network.graph, self.reinit, self.seed))
    }
}

fn has_filters(op: &Op) -> bool {
    matches!(op, Op::Conv(_) | Op::Linear { .. })
}

/// Layers that a probe may look at; those that write the outputs it passes over.
fn probed(network: &Network) -> u32 {
    network.graph.nodes().iter().filter(|node| has_filters(&node.op)).count() as u32
}

#[cfg(test)]
mod tests;
