//! Coupled channels: which indices of which tensors must be kept or dropped together. Owns the groups and what they
//! hold; the rule is in `coupling`. Never scores or chooses.

mod coupling;

use std::collections::BTreeMap;

use coupling::{Coupling, Unit};

use crate::graph::tensor::TensorKind;
use crate::graph::{Graph, Node, NodeId, Op};

/// A group's position in [`groups`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct GroupId(pub usize);

/// Channels that are alike: each of them runs through the same nodes the same number of times, so that how many of them
/// stay is one number, the group's width.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelGroup {
    /// Its position.
    pub id: GroupId,
    /// Channels.
    pub width: usize,
    /// Convolutions and linear layers whose outputs these channels are, in topological order.
    pub producers: Vec<NodeId>,
    /// Convolutions and linear layers whose inputs these channels are, in topological order.
    pub consumers: Vec<NodeId>,
    /// Every tensor that loses indices with a channel.
    pub members: Vec<Member>,
    /// Every node whose output holds these channels.
    pub spans: Vec<Span>,
    /// Every [`Op::Slice`] whose input holds these channels ahead of what it takes.
    pub ahead: Vec<Span>,
    /// Why it must keep all channels, where it must.
    pub frozen: Option<Frozen>,
}

/// A tensor's dimension that runs over a group's channels, alone or among others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Which tensor.
    pub tensor: String,
    /// Which of its dimensions.
    pub dim: usize,
    /// Indices per channel: the area behind a flatten, a group count at a grouped convolution, else 1.
    pub block: usize,
    /// Channel i is the indices `indices[i * block..(i + 1) * block]`.
    pub indices: Vec<usize>,
}

/// How often each channel of a group occurs at a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// Which node.
    pub node: NodeId,
    /// How often.
    pub per_channel: usize,
}

/// Why a group must keep all its channels.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Frozen {
    /// They are the image's.
    Input,
    /// They are the network's outputs.
    Output,
    /// The operator of this node needs all of them, or nobody knows what it does.
    Operator {
        /// Its name.
        node: String,
    },
}

impl std::fmt::Display for Frozen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Input => f.write_str("the image's channels"),
            Self::Output => f.write_str("the network's outputs"),
            Self::Operator { node } => write!(f, "needed whole by '{node}'"),
        }
    }
}

/// The kept channels, ascending, of every group that shrinks; a group that is absent keeps all.
pub type Keep = BTreeMap<GroupId, Vec<usize>>;

impl ChannelGroup {
    /// Whether several layers write these channels, as at a residual sum. A depthwise convolution only passes them on.
    pub fn is_coupled(&self, graph: &Graph) -> bool {
        mixing(graph, &self.producers).count() > 1
    }

    /// The dimension of a tensor that runs over these channels.
    pub fn member(&self, tensor: &str, dim: usize) -> Option<&Member> {
        self.members.iter().find(|member| member.tensor == tensor && member.dim == dim)
    }
}

/// Those of `layers` that make channels of their own. A depthwise convolution only passes them on.
pub(crate) fn mixing<'a>(graph: &'a Graph, layers: &'a [NodeId]) -> impl Iterator<Item = NodeId> + 'a {
    let passes_on = |id: NodeId| matches!(graph.node(id).op, Op::Conv(conv) if conv.is_depthwise());
    layers.iter().copied().filter(move |&id| !passes_on(id))
}

/// Every group of `graph`, in the order in which their first channels appear.
pub fn groups(graph: &Graph) -> Vec<ChannelGroup> {
    let coupling = Coupling::of(graph);
    let mut groups: Vec<ChannelGroup> = Vec::new();
    for (signature, width) in &coupling.groups {
        groups.push(ChannelGroup {
            id: GroupId(groups.len()),
            width: *width,
            producers: Vec::new(),
            consumers: Vec::new(),
            members: Vec::new(),
            spans: signature.spans.clone(),
            ahead: signature.ahead.clone(),
            frozen: signature.frozen.clone(),
        });
    }
    for (index, node) in graph.nodes().iter().enumerate() {
        for (tensor, dim, axis) in axes(node, NodeId(index), &coupling) {
            for (group, indices) in by_group(axis, groups.len()) {
                let width = groups[group].width;
                let block = indices.len() / width;
                let mut ordered = vec![Vec::with_capacity(block); width];
                indices.into_iter().for_each(|(channel, at)| ordered[channel].push(at));
                let indices = ordered.concat();
                groups[group].members.push(Member { tensor: tensor.clone(), dim, block, indices });
            }
        }
        if matches!(node.op, Op::Conv(_) | Op::Linear { .. }) {
            distinct(&coupling.axes[node.inputs[0].0])
                .for_each(|group| groups[group].consumers.push(NodeId(index)));
            distinct(&coupling.axes[index]).for_each(|group| groups[group].producers.push(NodeId(index)));
        }
    }
    groups
}

/// Every dimension of the node's tensors that runs over channels, and over which.
fn axes<'a>(node: &Node, id: NodeId, coupling: &'a Coupling) -> Vec<(String, usize, &'a [Unit])> {
    let outputs = coupling.axes[id.0].as_slice();
    let inputs = node.inputs.first().map_or(&[][..], |input| &coupling.axes[input.0]);
    let mut axes = Vec::new();
    for spec in node.tensors() {
        // A slope that all channels share goes with none of them.
        if spec.dims[0] == outputs.len() && !matches!(node.op, Op::PRelu { channels: 1 }) {
            axes.push((spec.name.clone(), 0, outputs));
        }
        // Each of a convolution's groups reads alike: the first speaks for all. A depthwise one has no such dimension.
        let reads = match node.op {
            Op::Conv(conv) if !conv.is_depthwise() => conv.inputs / conv.groups,
            Op::Linear { inputs, .. } => inputs,
            _ => 0,
        };
        if spec.kind == TensorKind::Weight && reads > 0 {
            axes.push((spec.name, 1, &inputs[..reads]));
        }
    }
    axes
}

/// (channel, index) of an axis by the groups on it.
fn by_group(axis: &[Unit], groups: usize) -> Vec<(usize, Vec<(usize, usize)>)> {
    let mut found: Vec<Vec<(usize, usize)>> = vec![Vec::new(); groups];
    for (index, unit) in axis.iter().enumerate() {
        found[unit.group].push((unit.channel, index));
    }
    found.into_iter().enumerate().filter(|(_, indices)| !indices.is_empty()).collect()
}

fn distinct(axis: &[Unit]) -> impl Iterator<Item = usize> {
    let groups: std::collections::BTreeSet<usize> = axis.iter().map(|unit| unit.group).collect();
    groups.into_iter()
}

#[cfg(test)]
mod tests;
