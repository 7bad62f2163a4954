//! The flow gap: what whole filters carry of the synaptic flow that a mask of single weights carries.

use std::collections::BTreeMap;

use super::ranked;
use crate::exec::{ExecError, Executor, ParamLayout, Role};
use crate::graph::{Graph, Network};
use crate::saliency::{Mask, Scores};

/// 1 - F(filters) / F(mask) of every scored layer, 0 to 1, all other layers dense. F is the sum of the outputs of the
/// network of absolute weights for an image of ones (Tanaka et al. 2020), the filters are the highest-scored, as many as
/// the mask's density times their number, rounded up.
pub(super) fn gaps(
    network: &Network,
    scores: &Scores,
    mask: &Mask,
) -> Result<BTreeMap<usize, f64>, ExecError> {
    let layout = ParamLayout::of(&network.graph);
    let mut weights = layout.gather::<f64>(&network.weights)?;
    weights.iter_mut().for_each(|weight| *weight = weight.abs());
    let mut flow = Flow::new(&network.graph)?;
    let mut gaps = BTreeMap::new();
    for entry in layout.entries().iter().filter(|entry| entry.role == Role::Weight) {
        let (Some(layer), Some(kept)) = (scores.layer(entry.node), mask.kept(&entry.tensor)) else {
            continue;
        };
        let dense = weights[entry.range.clone()].to_vec();
        let mut with = |kept: &mut dyn Iterator<Item = usize>| {
            weights[entry.range.clone()].fill(0.0);
            kept.for_each(|at| weights[entry.range.start + at] = dense[at]);
            flow.of(&weights)
        };
        let masked = with(&mut kept.iter().map(|&at| at as usize));
        let filters = entry.dims[0];
        let (each, count) = (dense.len() / filters, kept.len().div_ceil(dense.len() / filters));
        let whole =
            with(&mut ranked(layer)[..count].iter().flat_map(|filter| filter * each..(filter + 1) * each));
        weights[entry.range.clone()].copy_from_slice(&dense);
        // Where the mask lets nothing through there is nothing to lose.
        let gap = if masked > 0.0 { (1.0 - whole / masked).clamp(0.0, 1.0) } else { 0.0 };
        gaps.insert(entry.node.0, gap);
    }
    Ok(gaps)
}

struct Flow {
    executor: Executor<f64>,
    ones: Vec<f64>,
}

impl Flow {
    fn new(graph: &Graph) -> Result<Self, ExecError> {
        Ok(Self { executor: Executor::new(graph, 1)?, ones: vec![1.0; graph.input_shape().numel()] })
    }

    fn of(&mut self, weights: &[f64]) -> f64 {
        self.executor.forward_eval(weights, &self.ones, 1).iter().sum()
    }
}
