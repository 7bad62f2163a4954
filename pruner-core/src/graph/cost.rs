//! Exact costs of a graph from its structure alone: parameters, MACs, file bytes, memory. Never a time (see `latency`).

use super::tensor::{TensorKind, TensorSpec};
use super::{Graph, Node, NodeId, Op, Shape, fold, onnx};

/// What a network costs, batch 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Cost {
    /// Learnt numbers: weights, biases, batch norm factors and shifts; no running statistics.
    pub params: u64,
    /// Multiply-accumulates of convolutions and linear layers.
    pub macs: u64,
    /// Length of the ONNX file with folded batch norms.
    pub bytes: u64,
    /// Weights with folded batch norms plus the most activations alive at once, f32.
    pub memory_bytes: u64,
    /// The most activations alive at once alone, f32. 0 in records from before it was counted.
    #[serde(default)]
    pub activation_bytes: u64,
}

/// One convolution's, linear layer's or batch norm's share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerCost {
    /// Which node.
    pub node: NodeId,
    /// Its learnt numbers.
    pub params: u64,
    /// Its multiply-accumulates; 0 for a batch norm.
    pub macs: u64,
}

/// The exact cost of `graph`.
pub fn cost(graph: &Graph) -> Cost {
    Cost {
        params: params(graph),
        macs: macs(graph),
        bytes: onnx::encoded_len(graph),
        memory_bytes: memory_bytes(graph),
        activation_bytes: activation_bytes(graph),
    }
}

/// [`Cost::params`] alone.
pub(crate) fn params(graph: &Graph) -> u64 {
    graph.nodes().iter().map(learnt).sum()
}

/// [`Cost::macs`] alone.
pub(crate) fn macs(graph: &Graph) -> u64 {
    graph.nodes().iter().zip(graph.shapes()).map(|(node, shape)| node_macs(node, *shape)).sum()
}

/// [`Cost::memory_bytes`] alone.
pub(crate) fn memory_bytes(graph: &Graph) -> u64 {
    4 * folded_weights(graph) + activation_bytes(graph)
}

/// [`Cost::activation_bytes`] alone.
pub(crate) fn activation_bytes(graph: &Graph) -> u64 {
    4 * peak_activations(graph)
}

/// The share of every node that has parameters, in the nodes' order.
pub fn layer_costs(graph: &Graph) -> Vec<LayerCost> {
    let nodes = graph.nodes().iter().enumerate();
    nodes
        .filter_map(|(index, node)| {
            let (params, macs) = (learnt(node), node_macs(node, graph.shape(NodeId(index))));
            (params > 0).then_some(LayerCost { node: NodeId(index), params, macs })
        })
        .collect()
}

fn numel(tensor: &TensorSpec) -> u64 {
    tensor.numel() as u64
}

fn learnt(node: &Node) -> u64 {
    node.tensors().iter().filter(|tensor| tensor.kind.is_learnt()).map(numel).sum()
}

fn node_macs(node: &Node, output: Shape) -> u64 {
    let weight = node.tensors().into_iter().find(|tensor| tensor.kind == TensorKind::Weight);
    weight.map_or(0, |weight| output.area() as u64 * weight.numel() as u64)
}

/// Numbers in the weights of the folded network, biases that folding adds included.
fn folded_weights(graph: &Graph) -> u64 {
    let folded_into = fold::folded_into(graph);
    let absorbs = fold::absorbs(&folded_into);
    let nodes = graph.nodes().iter().enumerate().filter(|(index, _)| folded_into[*index].is_none());
    nodes
        .map(|(index, node)| {
            let tensors = node.tensors();
            let has_bias = tensors.iter().any(|tensor| tensor.kind == TensorKind::Bias);
            let added = if absorbs[index] && !has_bias { graph.shape(NodeId(index)).channels } else { 0 };
            tensors.iter().map(numel).sum::<u64>() + added as u64
        })
        .sum()
}

/// The most activations alive at once: each output lives until the last node that reads it has run.
/// A folded batch norm costs nothing (its layer writes its output), nor do views:
/// a flatten, another output of an opaque node.
fn peak_activations(graph: &Graph) -> u64 {
    let folded_into = fold::folded_into(graph);
    let mut buffer: Vec<usize> = Vec::with_capacity(graph.nodes().len());
    for (index, node) in graph.nodes().iter().enumerate() {
        let is_view = folded_into[index].is_some() || matches!(node.op, Op::Flatten | Op::Part { .. });
        buffer.push(if is_view { buffer[node.inputs[0].0] } else { index });
    }
    let mut last_use: Vec<usize> = (0..buffer.len()).collect();
    for (index, node) in graph.nodes().iter().enumerate() {
        for input in &node.inputs {
            last_use[buffer[input.0]] = index;
        }
    }
    // Per node: what is read for the last time when it runs.
    let mut done = vec![0; buffer.len()];
    for (index, shape) in graph.shapes().iter().enumerate().filter(|(index, _)| buffer[*index] == *index) {
        done[last_use[index]] += shape.numel() as u64;
    }
    let (mut live, mut peak) = (0, 0);
    for (index, shape) in graph.shapes().iter().enumerate() {
        if buffer[index] == index {
            live += shape.numel() as u64;
        }
        peak = peak.max(live);
        live -= done[index];
    }
    peak
}

#[cfg(test)]
mod tests;
