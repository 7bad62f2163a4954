//! How badly each layer takes structured pruning: the pruning sensitivity evaluator (PSE). Prunes nothing itself.
//!
//! That layers differ in it, and that unstructured scores made before training tell which, is the idea of Reconvene
//! (arXiv 2404.16877). Its formulas were not at hand: the measures here are our own design. That the density of a layer
//! under a mask made at initialisation is what decides accuracy, and not which of its weights stay, is the finding of
//! PreCrop and of "Missing the Mark" (Frankle et al. 2021).

mod flow_gap;
mod probe;

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use crate::dataset::LabelledImages;
use crate::exec::ExecError;
use crate::graph::{Network, NodeId};
use crate::named::named;
use crate::saliency::{LayerScores, Mask, SaliencyError, Scores};

/// What a layer's sensitivity is taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// A: the share of its weights that the global mask keeps.
    #[default]
    Density,
    /// B: the share of the synaptic flow under its mask that is lost where the mask keeps whole filters instead, as many
    /// as its density says. Needs the mask; two forward passes of one image per layer.
    FlowGap,
    /// C: how evenly its score is spread over its filters, 1 - Gini coefficient. An even spread leaves no channel to drop.
    Concentration,
    /// D: how much the loss moves when it alone loses half of its filters, the lowest-scored, relative to the layer that
    /// moves it most. Needs labelled images; one forward pass of at most 100 of them per layer, fewer for large networks.
    Probe,
    /// E: the share of its filters of which the mask keeps at least one weight; DNNShifter drops the others, the dead.
    DeadFilters,
}

named!(Measure, "measure of sensitivity", {
    Density => "density",
    FlowGap => "flow-gap",
    Concentration => "concentration",
    Probe => "probe",
    DeadFilters => "dead-filters",
});

impl Measure {
    /// Whether it runs the network on labelled images.
    pub const fn needs_images(self) -> bool {
        matches!(self, Self::Probe)
    }
}

/// What the measures look at.
#[derive(Debug, Clone, Copy)]
pub struct Evidence<'a> {
    /// What was scored, with the weights that it was scored with.
    pub network: &'a Network,
    /// Its scores.
    pub scores: &'a Scores,
    /// The mask that the scores were made with: for the flow gap alone.
    pub mask: Option<&'a Mask>,
    /// For the probe alone.
    pub images: Option<&'a LabelledImages>,
}

/// Why a measure cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum SensitivityError {
    /// The flow gap without a mask.
    #[error("the flow gap is measured under a mask, and none was given")]
    NeedsMask,
    /// The probe without images.
    #[error("the probe measures the loss on labelled images, and none were given")]
    NeedsImages,
    /// The images do not fit the network.
    #[error(transparent)]
    Images(#[from] SaliencyError),
    /// The network cannot be run.
    #[error(transparent)]
    Run(#[from] ExecError),
}

/// Each convolution's and linear layer's sensitivity, from 0 (resilient) to 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sensitivity(BTreeMap<usize, f64>);

impl Sensitivity {
    /// Of one layer; 1 for a node that was not scored.
    pub fn of(&self, node: NodeId) -> f64 {
        self.0.get(&node.0).copied().unwrap_or(1.0)
    }
}

/// Every layer's sensitivity by `measure`. Fails where the evidence that it needs is missing or does not fit. `on_layer`
/// hears of every layer that the probe is done with, and may break.
pub fn sensitivity(
    evidence: &Evidence<'_>,
    measure: Measure,
    on_layer: &mut dyn FnMut() -> ControlFlow<()>,
) -> Result<Sensitivity, SensitivityError> {
    let Evidence { network, scores, mask, images } = *evidence;
    Ok(match measure {
        Measure::Density => density(scores),
        Measure::FlowGap => {
            Sensitivity(flow_gap::gaps(network, scores, mask.ok_or(SensitivityError::NeedsMask)?)?)
        }
        Measure::Concentration => by_layer(scores, |layer| 1.0 - gini(&layer.filters)),
        Measure::Probe => {
            let images = images.ok_or(SensitivityError::NeedsImages)?;
            Sensitivity(probe::changes(network, scores, images, on_layer)?)
        }
        Measure::DeadFilters => by_layer(scores, |layer| {
            layer.alive.iter().filter(|&&alive| alive > 0.0).count() as f64 / layer.alive.len() as f64
        }),
    })
}

/// Every layer's sensitivity by [`Measure::Density`], which needs nothing but the scores.
pub fn density(scores: &Scores) -> Sensitivity {
    by_layer(scores, |layer| layer.density)
}

fn by_layer(scores: &Scores, of: impl Fn(&LayerScores) -> f64) -> Sensitivity {
    Sensitivity(scores.layers().map(|(node, layer)| (node.0, of(layer))).collect())
}

/// A layer's filters, the highest-scored first; ties to the lower.
fn ranked(layer: &LayerScores) -> Vec<usize> {
    let mut filters: Vec<usize> = (0..layer.filters.len()).collect();
    filters.sort_by(|&a, &b| layer.filters[b].total_cmp(&layer.filters[a]));
    filters
}

/// The Gini coefficient of non-negative values: 0 where all are equal, towards 1 where one has everything.
fn gini(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let total: f64 = sorted.iter().sum();
    if total == 0.0 {
        return 0.0;
    }
    let n = sorted.len() as f64;
    let ranked: f64 = sorted.iter().enumerate().map(|(rank, value)| (rank as f64 + 1.0) * value).sum();
    2.0 * ranked / (n * total) - (n + 1.0) / n
}

#[cfg(test)]
mod tests;
