//! Coupled channels: which indices of which tensors must be kept or dropped together. Owns the coupling rule;
//! never scores or chooses.

use std::collections::BTreeMap;

use crate::graph::tensor::TensorKind;
use crate::graph::{Conv, Graph, NodeId, Op};

/// A group's position in [`groups`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct GroupId(pub usize);

/// Channels that share one mask.
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
    /// Why it must keep all channels, where it must.
    pub frozen: Option<Frozen>,
}

/// A tensor's dimension that runs over a group's channels: channel i is indices i * block..(i + 1) * block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Which tensor.
    pub tensor: String,
    /// Which of its dimensions.
    pub dim: usize,
    /// Indices per channel: the area behind a flatten, a group's channels at a grouped convolution, else 1.
    pub block: usize,
}

/// Why a group must keep all its channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frozen {
    /// They are the image's.
    Input,
    /// They are the network's outputs.
    Output,
}

/// The kept channels, ascending, of every group that shrinks; a group that is absent keeps all.
pub type Keep = BTreeMap<GroupId, Vec<usize>>;

/// Every group of `graph`, in the order in which their first channels appear.
pub fn groups(graph: &Graph) -> Vec<ChannelGroup> {
    let coupling = Coupling::of(graph);
    let mut groups: Vec<ChannelGroup> = Vec::new();
    let mut ids: BTreeMap<usize, usize> = BTreeMap::new();
    for axis in &coupling.outputs {
        ids.entry(axis.class).or_insert_with(|| {
            let (id, width) = (GroupId(groups.len()), coupling.widths[axis.class]);
            let (producers, consumers, members) = (Vec::new(), Vec::new(), Vec::new());
            groups.push(ChannelGroup { id, width, producers, consumers, members, frozen: None });
            groups.len() - 1
        });
    }
    for (index, node) in graph.nodes().iter().enumerate() {
        let output = coupling.outputs[index];
        if matches!(node.op, Op::Conv(_) | Op::Linear { .. }) {
            let input = coupling.outputs[node.inputs[0].0];
            groups[ids[&input.class]].consumers.push(NodeId(index));
            groups[ids[&output.class]].producers.push(NodeId(index));
            let is_grouped = matches!(node.op, Op::Conv(conv) if conv.groups > 1);
            if !is_grouped {
                let tensor = node.tensor_name(TensorKind::Weight);
                groups[ids[&input.class]].members.push(Member { tensor, dim: 1, block: input.block });
            }
        }
        for spec in node.tensors() {
            let member = Member { tensor: spec.name, dim: 0, block: output.block };
            groups[ids[&output.class]].members.push(member);
        }
    }
    let last = coupling.outputs[graph.output().0];
    groups[ids[&last.class]].frozen = Some(Frozen::Output);
    groups[ids[&coupling.outputs[0].class]].frozen = Some(Frozen::Input);
    groups
}

/// How a node's output channels run over a class of coupled ones.
#[derive(Debug, Clone, Copy)]
struct Axis {
    class: usize,
    block: usize,
}

/// Every node's output channels sorted into classes; `widths[class] * axis.block` is the axis's length.
struct Coupling {
    outputs: Vec<Axis>,
    widths: Vec<usize>,
}

impl Coupling {
    fn of(graph: &Graph) -> Self {
        let mut coupling = Self { outputs: Vec::new(), widths: Vec::new() };
        for (index, node) in graph.nodes().iter().enumerate() {
            let channels = graph.shape(NodeId(index)).channels;
            let axis = match node.op {
                Op::Input | Op::Linear { .. } => coupling.fresh(channels),
                Op::Conv(conv) if conv.groups == 1 => coupling.fresh(channels),
                Op::Conv(conv) => coupling.through_grouped(conv, node.inputs[0]),
                Op::BatchNorm { .. } | Op::Relu | Op::MaxPool(_) | Op::AvgPool(_) | Op::GlobalAvgPool => {
                    coupling.outputs[node.inputs[0].0]
                }
                Op::Flatten => {
                    let Axis { class, block } = coupling.outputs[node.inputs[0].0];
                    Axis { class, block: block * graph.shape(node.inputs[0]).area() }
                }
                Op::Add => coupling.couple(node.inputs[0], node.inputs[1]),
            };
            coupling.outputs.push(axis);
        }
        coupling
    }

    fn fresh(&mut self, width: usize) -> Axis {
        self.widths.push(width);
        Axis { class: self.widths.len() - 1, block: 1 }
    }

    /// A grouped convolution loses whole groups, inputs and outputs together; a depthwise one single channels.
    fn through_grouped(&mut self, conv: Conv, input: NodeId) -> Axis {
        let group = conv.inputs / conv.groups;
        let block = self.outputs[input.0].block;
        self.coarsen(input, lcm(block, group) / block);
        let Axis { class, block } = self.outputs[input.0];
        Axis { class, block: block / group * (conv.outputs / conv.groups) }
    }

    fn couple(&mut self, left: NodeId, right: NodeId) -> Axis {
        let (a, b) = (self.outputs[left.0], self.outputs[right.0]);
        if a.class != b.class {
            let block = lcm(a.block, b.block);
            self.coarsen(left, block / a.block);
            self.coarsen(right, block / b.block);
            for axis in self.outputs.iter_mut().filter(|axis| axis.class == b.class) {
                axis.class = a.class;
            }
        }
        self.outputs[left.0]
    }

    /// Makes every `factor` neighbouring channels of a node's class one. The factor divides the class's width,
    /// for the axis's length is a multiple of the block asked for.
    fn coarsen(&mut self, node: NodeId, factor: usize) {
        let class = self.outputs[node.0].class;
        self.widths[class] /= factor;
        for axis in self.outputs.iter_mut().filter(|axis| axis.class == class) {
            axis.block *= factor;
        }
    }
}

fn lcm(a: usize, b: usize) -> usize {
    let (mut x, mut y) = (a, b);
    while y > 0 {
        (x, y) = (y, x % y);
    }
    a / x * b
}

#[cfg(test)]
mod tests;
