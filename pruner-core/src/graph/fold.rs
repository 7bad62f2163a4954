//! Which batch norms melt into the layer before them at inference. Owns the rule, never the arithmetic.

use super::{Graph, NodeId, Op};

/// Per node: the convolution or linear layer that takes this batch norm in, where there is one.
///
/// A batch norm folds when it reads such a layer and nothing else reads that layer's raw output.
pub(crate) fn folded_into(graph: &Graph) -> Vec<Option<NodeId>> {
    let consumers = graph.consumers();
    graph
        .nodes()
        .iter()
        .map(|node| {
            let Op::BatchNorm { .. } = node.op else { return None };
            let source = node.inputs[0];
            let absorbs = matches!(graph.node(source).op, Op::Conv(_) | Op::Linear { .. });
            (absorbs && consumers[source.0].len() == 1).then_some(source)
        })
        .collect()
}

/// Per node: whether a batch norm folds into it, which gives it a bias if it has none.
pub(crate) fn absorbs(folded_into: &[Option<NodeId>]) -> Vec<bool> {
    let mut absorbs = vec![false; folded_into.len()];
    for layer in folded_into.iter().flatten() {
        absorbs[layer.0] = true;
    }
    absorbs
}
