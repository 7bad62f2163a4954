//! Freshly initialises what surgery touched. Owns the rule of what was touched; never the distribution (see `init`).

use std::collections::{BTreeMap, BTreeSet};

use crate::graph::tensor::TensorKind;
use crate::graph::{Graph, Network, NodeId, Op};
use crate::init;

/// `pruned` with fresh values in every layer that is not as wide as in `original`, inputs or outputs, and in the
/// batch norms behind such layers. Layers of unchanged width keep their values.
///
/// A fresh value depends on `seed`, the tensor's name and its new shape alone.
pub fn reinit(mut pruned: Network, original: &Graph, seed: u64) -> Network {
    for id in touched(&pruned.graph, original) {
        // A constant is part of what the network computes: what surgery left of it stays.
        let specs = pruned.graph.node(id).tensors().into_iter().filter(|spec| spec.kind != TensorKind::Value);
        for spec in specs {
            let fresh = init::tensor(&spec, seed);
            pruned.weights.insert(spec.name, fresh);
        }
    }
    pruned
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
