//! Synaptic flow (Tanaka et al. 2020, "Pruning neural networks without any data by iteratively conserving synaptic flow").

use std::ops::ControlFlow;

use super::flow::Flow;
use super::mask::{Selection, kept_count};
use super::{SaliencyError, ScoreRecipe, Scores};
use crate::graph::Network;

/// The scores after the last round, without what the mask drops. In each round the density falls along
/// density^(round / rounds).
pub(super) fn scores(
    network: &Network,
    recipe: &ScoreRecipe,
    on_round: &mut dyn FnMut(u32, u32) -> ControlFlow<()>,
) -> Result<Scores, SaliencyError> {
    let mut flow = Flow::new(network)?;
    for round in 1..=recipe.rounds {
        flow.score();
        let density = recipe.density.powf(f64::from(round) / f64::from(recipe.rounds));
        flow.keep(kept_count(flow.weights(), density), Selection::Exact);
        if on_round(round, recipe.rounds).is_break() {
            return Err(SaliencyError::Cancelled);
        }
    }
    Ok(Scores { layers: flow.summary().map(|(node, scores)| (node.0, scores)).collect() })
}
