//! What an engine pays for, counted on the graph that it runs: batch norms folded, ReLUs nearly free, shapes known.
//!
//! An engine runs a convolution as a matrix product of its filters with the gathered columns, one column per output
//! position, and its kernels take two vector registers of columns at a time (rten: 32 with AVX-512, 16 with AVX2; others
//! are taken to be alike): the positions of a small map are padded to that. So it is they that count in whole tiles here, not channels.

use crate::graph::{Activation, Graph, Node, NodeId, Op, Shape};

/// How many features a network has.
pub(super) const FEATURES: usize = 4;

/// Operators; MACs and numbers gathered into columns, both with output positions in whole tiles; numbers read and written.
pub(super) fn features(graph: &Graph, lanes: u32) -> [f64; FEATURES] {
    per_node(graph, lanes).fold([0.0; FEATURES], |mut sum, one| {
        sum.iter_mut().zip(one).for_each(|(sum, feature)| *sum += feature);
        sum
    })
}

/// The same, node by node.
pub(super) fn per_node(graph: &Graph, lanes: u32) -> impl Iterator<Item = [f64; FEATURES]> {
    graph.nodes().iter().enumerate().map(move |(index, node)| {
        let inputs = node.inputs.iter().map(|&id| graph.shape(id)).collect::<Vec<_>>();
        of_node(node, &inputs, graph.shape(NodeId(index)), lanes as usize).map(|feature| feature as f64)
    })
}

fn of_node(node: &Node, inputs: &[Shape], output: Shape, lanes: usize) -> [usize; FEATURES] {
    let read: usize = inputs.iter().map(|shape| shape.numel()).sum();
    let moved = read + output.numel();
    match &node.op {
        // Folded into the convolution before it, fused into the operator before it, or nothing but a view.
        Op::Input
        | Op::Constant { .. }
        | Op::BatchNorm { .. }
        | Op::Activation(Activation::Relu)
        | Op::Flatten
        | Op::Part { .. }
        | Op::Outputs => [0; FEATURES],
        Op::Conv(conv) => {
            let taps = conv.window.area() * conv.inputs / conv.groups;
            let positions = output.area().next_multiple_of(2 * lanes);
            let columns = if conv.window.area() > 1 { conv.groups * taps * positions } else { 0 };
            [1, taps * conv.outputs * positions, columns, moved + taps * conv.outputs]
        }
        Op::Linear { inputs, outputs, .. } => [1, inputs * outputs, 0, moved + inputs * outputs],
        Op::Activation(_)
        | Op::PRelu { .. }
        | Op::Binary(_)
        | Op::Concat
        | Op::Slice { .. }
        | Op::Shuffle { .. }
        | Op::Pad { .. }
        | Op::MaxPool(_)
        | Op::AvgPool { .. }
        | Op::GlobalAvgPool
        | Op::Resize(_)
        | Op::Softmax
        | Op::Opaque(_) => [1, 0, 0, moved],
    }
}
