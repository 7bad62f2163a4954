//! Takes channels out: a smaller dense network of the same operators. Owns slicing; never chooses what goes.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::{Device, Tensor};

use crate::graph::{Conv, Graph, GraphError, Network, Node, Op, Shape, Weights};
use crate::group::{ChannelGroup, GroupId, Keep, Member, groups};

/// Why channels cannot be taken out.
#[derive(Debug, thiserror::Error)]
pub enum SurgeryError {
    /// The graph has no such group.
    #[error("the graph has no channel group {}", group.0)]
    UnknownGroup {
        /// Which.
        group: GroupId,
    },
    /// The image's channels and the network's outputs stay.
    #[error("channel group {} holds the network's inputs or outputs and cannot shrink", group.0)]
    Frozen {
        /// Which.
        group: GroupId,
    },
    /// Nothing would be left of the group, or more than there is.
    #[error("channel group {} of {width} channels cannot have {kept}", group.0)]
    Width {
        /// Which.
        group: GroupId,
        /// What it has.
        width: usize,
        /// What was asked for.
        kept: usize,
    },
    /// A kept channel is none of the group's.
    #[error("channel group {} of {width} channels has no channel {channel}", group.0)]
    UnknownChannel {
        /// Which group.
        group: GroupId,
        /// What it has.
        width: usize,
        /// What was asked for.
        channel: usize,
    },
    /// The kept channels do not ascend.
    #[error("the kept channels of group {} are not in ascending order", group.0)]
    Unsorted {
        /// Which.
        group: GroupId,
    },
    /// The weights lack a tensor.
    #[error("the weights have no tensor '{tensor}'")]
    MissingTensor {
        /// Its name.
        tensor: String,
    },
    /// A tensor is not as long as the graph says.
    #[error("dimension {dim} of tensor '{tensor}' is not {expected} long")]
    TensorShape {
        /// Its name.
        tensor: String,
        /// Which dimension.
        dim: usize,
        /// The length that the graph needs.
        expected: usize,
    },
    /// A tensor could not be sliced.
    #[error("tensor '{tensor}' cannot be sliced")]
    Slice {
        /// Its name.
        tensor: String,
        /// Why.
        source: candle_core::Error,
    },
    /// The smaller graph does not hold together: `groups` are not this graph's.
    #[error("the smaller graph does not hold together")]
    Graph(#[source] GraphError),
}

/// The structure of `graph` with `groups`, its own, at these widths; groups that are absent keep theirs.
pub fn shrink(
    graph: &Graph,
    groups: &[ChannelGroup],
    widths: &BTreeMap<GroupId, usize>,
) -> Result<Graph, SurgeryError> {
    let mut lost = Lost { outputs: vec![0; graph.nodes().len()], ahead: vec![0; graph.nodes().len()] };
    for (id, kept) in widths {
        let group = shrinkable(groups, *id, *kept)?;
        let dropped = group.width - kept;
        group.spans.iter().for_each(|span| lost.outputs[span.node.0] += dropped * span.per_channel);
        group.ahead.iter().for_each(|span| lost.ahead[span.node.0] += dropped * span.per_channel);
    }
    let resize = |(index, node): (usize, &Node)| {
        let inputs = node.inputs.first().map_or(0, |input| lost.outputs[input.0]);
        let loss = Loss { outputs: lost.outputs[index], inputs, ahead: lost.ahead[index] };
        Node { op: resized(&node.op, loss), ..node.clone() }
    };
    let nodes = graph.nodes().iter().enumerate().map(resize).collect();
    let shrunk = Graph::new(graph.input_shape(), nodes).map_err(SurgeryError::Graph)?;
    Ok(shrunk.with_interface(graph.interface().clone()))
}

/// Channels that go, per node.
struct Lost {
    outputs: Vec<usize>,
    /// Of a slice's input, ahead of what it takes.
    ahead: Vec<usize>,
}

/// The network that keeps these channels, values and all; with an empty `keep` it is the same network.
pub fn apply(network: &Network, keep: &Keep) -> Result<Network, SurgeryError> {
    let groups = groups(&network.graph);
    for (id, kept) in keep {
        if !kept.is_sorted_by(|a, b| a < b) {
            return Err(SurgeryError::Unsorted { group: *id });
        }
    }
    let widths = keep.iter().map(|(id, kept)| (*id, kept.len())).collect();
    let graph = shrink(&network.graph, &groups, &widths)?;
    let mut weights = network.weights.clone();
    for ((tensor, dim), dropped) in dropped(&groups, keep)? {
        let full = full_length(&groups, &tensor, dim);
        slice(&mut weights, (&tensor, dim), full, &dropped)?;
    }
    Ok(Network { graph, weights })
}

/// The indices that go, of every tensor's dimension that loses any: a dimension may run over several groups.
fn dropped(
    groups: &[ChannelGroup],
    keep: &Keep,
) -> Result<BTreeMap<(String, usize), BTreeSet<usize>>, SurgeryError> {
    let mut dropped: BTreeMap<(String, usize), BTreeSet<usize>> = BTreeMap::new();
    for (id, kept) in keep {
        let group = shrinkable(groups, *id, kept.len())?;
        if let Some(&channel) = kept.last().filter(|last| **last >= group.width) {
            return Err(SurgeryError::UnknownChannel { group: *id, width: group.width, channel });
        }
        let kept: BTreeSet<usize> = kept.iter().copied().collect();
        let gone: Vec<usize> = (0..group.width).filter(|channel| !kept.contains(channel)).collect();
        for Member { tensor, dim, block, indices } in group.members.iter().filter(|_| !gone.is_empty()) {
            let indices = gone.iter().flat_map(|channel| &indices[channel * block..(channel + 1) * block]);
            dropped.entry((tensor.clone(), *dim)).or_default().extend(indices);
        }
    }
    Ok(dropped)
}

/// How long the groups say that a tensor's dimension is.
fn full_length(groups: &[ChannelGroup], tensor: &str, dim: usize) -> usize {
    groups.iter().filter_map(|group| group.member(tensor, dim)).map(|member| member.indices.len()).sum()
}

/// The group of that id, if it may have `kept` channels.
fn shrinkable(groups: &[ChannelGroup], id: GroupId, kept: usize) -> Result<&ChannelGroup, SurgeryError> {
    let group = groups.iter().find(|group| group.id == id).ok_or(SurgeryError::UnknownGroup { group: id })?;
    if kept == 0 || kept > group.width {
        return Err(SurgeryError::Width { group: id, width: group.width, kept });
    }
    if group.frozen.is_some() && kept < group.width {
        return Err(SurgeryError::Frozen { group: id });
    }
    Ok(group)
}

/// How many channels a node loses.
#[derive(Clone, Copy)]
struct Loss {
    outputs: usize,
    inputs: usize,
    ahead: usize,
}

fn resized(op: &Op, Loss { outputs: lost, inputs: lost_inputs, ahead }: Loss) -> Op {
    match op {
        Op::Conv(conv) => {
            let inputs = conv.inputs - lost_inputs;
            let groups = if conv.is_depthwise() { inputs } else { conv.groups };
            Op::Conv(Conv { inputs, outputs: conv.outputs - lost, groups, ..*conv })
        }
        Op::BatchNorm { channels, eps } => Op::BatchNorm { channels: channels - lost, eps: *eps },
        Op::PRelu { channels: 1 } => op.clone(),
        Op::PRelu { channels } => Op::PRelu { channels: channels - lost },
        Op::Constant { shape } => Op::Constant { shape: Shape { channels: shape.channels - lost, ..*shape } },
        Op::Slice { start, end } => {
            let start = start - ahead;
            Op::Slice { start, end: end - ahead - lost }
        }
        Op::Linear { inputs, outputs, bias } => {
            Op::Linear { inputs: inputs - lost_inputs, outputs: outputs - lost, bias: *bias }
        }
        Op::Input
        | Op::Activation(_)
        | Op::Binary(_)
        | Op::Concat
        | Op::Shuffle { .. }
        | Op::Pad { .. }
        | Op::MaxPool(_)
        | Op::AvgPool { .. }
        | Op::GlobalAvgPool
        | Op::Resize(_)
        | Op::Softmax
        | Op::Flatten
        | Op::Opaque(_)
        | Op::Part { .. }
        | Op::Outputs => op.clone(),
    }
}

fn slice(
    weights: &mut Weights,
    (name, dim): (&str, usize),
    expected: usize,
    dropped: &BTreeSet<usize>,
) -> Result<(), SurgeryError> {
    let missing = || SurgeryError::MissingTensor { tensor: name.to_owned() };
    let tensor = weights.get_mut(name).ok_or_else(missing)?;
    if tensor.dims().get(dim) != Some(&expected) {
        return Err(SurgeryError::TensorShape { tensor: name.to_owned(), dim, expected });
    }
    let indices: Vec<u32> =
        (0..expected).filter(|index| !dropped.contains(index)).map(|index| index as u32).collect();
    let sliced = Tensor::new(indices, &Device::Cpu)
        .and_then(|indices| tensor.index_select(&indices, dim))
        .and_then(|sliced| sliced.contiguous());
    *tensor = sliced.map_err(|source| SurgeryError::Slice { tensor: name.to_owned(), source })?;
    Ok(())
}

#[cfg(test)]
mod tests;
