//! Takes channels out: a smaller dense network of the same operators. Owns slicing; never chooses what goes.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};

use crate::graph::tensor::TensorKind;
use crate::graph::{Conv, Graph, GraphError, Network, Node, Op, Weights};
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
    let mut lengths = Lengths::new();
    for (id, kept) in widths {
        let group = shrinkable(groups, *id, *kept)?;
        for Member { tensor, dim, block } in &group.members {
            lengths.insert((tensor.clone(), *dim), kept * block);
        }
    }
    let nodes = graph.nodes().iter().map(|node| Node { op: resized(node, &lengths), ..node.clone() });
    Graph::new(graph.input_shape(), nodes.collect()).map_err(SurgeryError::Graph)
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
    for (id, kept) in keep {
        let group = shrinkable(&groups, *id, kept.len())?;
        if let Some(&channel) = kept.last().filter(|last| **last >= group.width) {
            return Err(SurgeryError::UnknownChannel { group: *id, width: group.width, channel });
        }
        if kept.len() < group.width {
            group.members.iter().try_for_each(|member| slice(&mut weights, group.width, member, kept))?;
        }
    }
    Ok(Network { graph, weights })
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

/// New lengths of tensors' dimensions.
type Lengths = BTreeMap<(String, usize), usize>;

fn resized(node: &Node, lengths: &Lengths) -> Op {
    let weight = node.tensor_name(TensorKind::Weight);
    let length = |dim, before| lengths.get(&(weight.clone(), dim)).copied().unwrap_or(before);
    match node.op {
        Op::Conv(conv) if conv.groups == 1 => {
            Op::Conv(Conv { inputs: length(1, conv.inputs), outputs: length(0, conv.outputs), ..conv })
        }
        Op::Conv(conv) => {
            let outputs = length(0, conv.outputs);
            let groups = conv.groups * outputs / conv.outputs;
            Op::Conv(Conv { inputs: conv.inputs / conv.groups * groups, outputs, groups, ..conv })
        }
        Op::BatchNorm { channels, eps } => Op::BatchNorm { channels: length(0, channels), eps },
        Op::Linear { inputs, outputs, bias } => {
            Op::Linear { inputs: length(1, inputs), outputs: length(0, outputs), bias }
        }
        Op::Input
        | Op::Relu
        | Op::Add
        | Op::MaxPool(_)
        | Op::AvgPool(_)
        | Op::GlobalAvgPool
        | Op::Flatten => node.op.clone(),
    }
}

fn slice(weights: &mut Weights, width: usize, member: &Member, kept: &[usize]) -> Result<(), SurgeryError> {
    let Member { tensor: name, dim, block } = member;
    let tensor = weights.get_mut(name).ok_or_else(|| SurgeryError::MissingTensor { tensor: name.clone() })?;
    let expected = width * block;
    if tensor.dims().get(*dim) != Some(&expected) {
        return Err(SurgeryError::TensorShape { tensor: name.clone(), dim: *dim, expected });
    }
    let indices: Vec<u32> =
        kept.iter().flat_map(|channel| channel * block..(channel + 1) * block).map(|i| i as u32).collect();
    let sliced = Tensor::new(indices, &Device::Cpu)
        .and_then(|indices| tensor.index_select(&indices, *dim))
        .and_then(|sliced| sliced.contiguous());
    *tensor = sliced.map_err(|source| SurgeryError::Slice { tensor: name.clone(), source })?;
    Ok(())
}

#[cfg(test)]
mod tests;
