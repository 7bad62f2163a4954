//! Puts a pruned network's values right before it is trained: the rectifying half of the resilient layer rectifier
//! (RLR). Owns the rule of what was touched; never the distribution (see `init`).

use std::collections::{BTreeMap, BTreeSet};

use crate::graph::tensor::{TensorKind, TensorSpec};
use crate::graph::{Graph, Network, NodeId, Op, Weights};
use crate::init;
use crate::named::named;

/// Which values a pruned network starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reinit {
    /// Fresh in every layer that is not as wide as before, inputs or outputs, and in the batch norms behind such layers.
    /// Layers of unchanged width keep their values.
    #[default]
    Touched,
    /// Fresh everywhere: the network that `init` makes of the smaller graph.
    Full,
    /// What surgery left, everywhere.
    SliceKept,
    /// What surgery left, weights times sqrt(old fan-in / new fan-in): as many inputs fewer, each that much stronger, so
    /// that the variance stays 2 / fan-in (He et al. 2015) where it was.
    Rescaled,
}

named!(Reinit, "re-initialisation", {
    Touched => "touched",
    Full => "full",
    SliceKept => "slice-kept",
    Rescaled => "rescaled",
});

/// `pruned` with the touched layers fresh, as [`Reinit::Touched`] says.
pub fn reinit(pruned: Network, original: &Graph, seed: u64) -> Network {
    rectify(pruned, original, Reinit::Touched, seed)
}

/// `pruned`, which surgery made of a network of the graph `original`, with the values that `mode` says.
///
/// A fresh value depends on `seed`, the tensor's name and its new shape alone. A constant is part of what the network
/// computes: what surgery left of it stays.
pub fn rectify(mut pruned: Network, original: &Graph, mode: Reinit, seed: u64) -> Network {
    match mode {
        Reinit::Touched => {
            let touched = touched(&pruned.graph, original);
            refresh(&mut pruned, touched, seed);
        }
        Reinit::Full => {
            let all = (0..pruned.graph.nodes().len()).map(NodeId).collect();
            refresh(&mut pruned, all, seed);
        }
        Reinit::SliceKept => {}
        Reinit::Rescaled => rescale(&mut pruned.weights, &pruned.graph, original),
    }
    pruned
}

fn refresh(network: &mut Network, nodes: BTreeSet<NodeId>, seed: u64) {
    for id in nodes {
        let specs = network.graph.node(id).tensors().into_iter();
        for spec in specs.filter(|spec| spec.kind != TensorKind::Value) {
            let fresh = init::tensor(&spec, seed);
            network.weights.insert(spec.name, fresh);
        }
    }
}

fn rescale(weights: &mut Weights, pruned: &Graph, original: &Graph) {
    let kernels = |graph: &Graph| -> BTreeMap<String, usize> {
        let kernels = graph.tensors().filter(|spec| spec.kind == TensorKind::Weight);
        let fan_in = |spec: &TensorSpec| spec.dims[1..].iter().product();
        kernels.map(|spec| (spec.name.clone(), fan_in(&spec))).collect()
    };
    let before = kernels(original);
    for (name, after) in kernels(pruned) {
        let Some(&before) = before.get(&name).filter(|before| **before != after) else { continue };
        if let Some(weight) = weights.get_mut(&name) {
            let factor = (before as f64 / after as f64).sqrt();
            *weight = weight.affine(factor, 0.0).expect("a tensor of f32 on the CPU can be scaled");
        }
    }
}

/// The nodes whose values surgery has put out of proportion.
fn touched(pruned: &Graph, original: &Graph) -> BTreeSet<NodeId> {
    let before: BTreeMap<&str, &Op> =
        original.nodes().iter().map(|node| (node.name.as_str(), &node.op)).collect();
    let mut touched = BTreeSet::new();
    for (index, node) in pruned.nodes().iter().enumerate() {
        let is_resized = before.get(node.name.as_str()) != Some(&&node.op);
        let follows = matches!(node.op, Op::BatchNorm { .. }) && touched.contains(&node.inputs[0]);
        if is_resized || follows {
            touched.insert(NodeId(index));
        }
    }
    touched
}

#[cfg(test)]
mod tests;
