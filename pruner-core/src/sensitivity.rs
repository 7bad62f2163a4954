//! How badly each layer takes structured pruning: the pruning sensitivity evaluator (PSE).
//!
//! That layers differ in it, and that unstructured scores made before training tell which, is the idea of Reconvene
//! (arXiv 2404.16877). Its formulas were not at hand: the measures here are our own design. That the density of a layer
//! under a mask made at initialisation is what decides accuracy, and not which of its weights stay, is the finding of
//! PreCrop and of "Missing the Mark" (Frankle et al. 2021).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::graph::NodeId;
use crate::saliency::{LayerScores, Scores};

/// What a layer's sensitivity is taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Measure {
    /// The share of its weights that the global mask keeps.
    #[default]
    Density,
    /// How evenly its score is spread over its filters: 1 - Gini coefficient. An even spread leaves no channel to drop.
    Concentration,
    /// The share of its filters of which the mask keeps at least one weight (DNNShifter drops the others).
    AliveFilters,
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

/// Every layer's sensitivity by `measure`.
pub fn sensitivity(scores: &Scores, measure: Measure) -> Sensitivity {
    let of = |layer: &LayerScores| match measure {
        Measure::Density => layer.density,
        Measure::Concentration => 1.0 - gini(&layer.filters),
        Measure::AliveFilters => {
            layer.alive.iter().filter(|&&alive| alive > 0.0).count() as f64 / layer.alive.len() as f64
        }
    };
    Sensitivity(scores.layers().map(|(node, layer)| (node.0, of(layer))).collect())
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
mod tests {
    use super::gini;

    #[test]
    fn gini_tells_even_from_uneven() {
        assert!(gini(&[2.0; 5]).abs() < 1e-12);
        assert!((gini(&[0.0, 0.0, 0.0, 1.0]) - 0.75).abs() < 1e-12);
        assert!((gini(&[1.0, 3.0]) - 0.25).abs() < 1e-12);
        assert_eq!(gini(&[0.0, 0.0]), 0.0);
    }
}
