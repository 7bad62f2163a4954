//! Synaptic flow (Tanaka et al. 2020, "Pruning neural networks without any data by iteratively conserving synaptic flow").

use std::ops::ControlFlow;

use super::flow::Flow;
use super::mask::kept_count;
use super::{MaskRecipe, SaliencyError};
use crate::graph::Network;

/// The flow after the last round of scoring and pruning, of what the mask keeps.
pub(super) fn flow(
    network: &Network,
    recipe: &MaskRecipe,
    on_round: &mut dyn FnMut(u32, u32) -> ControlFlow<()>,
) -> Result<Flow, SaliencyError> {
    let mut flow = Flow::new(network)?;
    let rounds = recipe.scores.rounds;
    for round in 1..=rounds {
        flow.score();
        let density = recipe.schedule.density(recipe.scores.density, round, rounds);
        flow.keep(kept_count(flow.weights(), density), recipe.selection);
        if on_round(round, rounds).is_break() {
            return Err(SaliencyError::Cancelled);
        }
    }
    Ok(flow)
}
