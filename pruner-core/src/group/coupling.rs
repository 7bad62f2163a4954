//! Which channels are one: every node's output channels as units, joined wherever an operator ties them, and sorted
//! into groups of units that are alike.

use std::collections::BTreeMap;

use super::{Frozen, Span};
use crate::graph::{Conv, Graph, Node, NodeId, Op};

/// One channel of one group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unit {
    pub(super) group: usize,
    pub(super) channel: usize,
}

/// Every node's output channels.
#[derive(Debug)]
pub(super) struct Coupling {
    /// Per node; none at [`Op::Outputs`], which nothing reads.
    pub(super) axes: Vec<Vec<Unit>>,
    /// Per group: what its channels have in common, and how many they are.
    pub(super) groups: Vec<(Signature, usize)>,
}

/// Where a channel occurs and how often. Channels of one signature are alike.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Signature {
    pub(super) frozen: Option<Frozen>,
    pub(super) spans: Vec<Span>,
    pub(super) ahead: Vec<Span>,
}

impl Coupling {
    pub(super) fn of(graph: &Graph) -> Self {
        let mut joining = Joining::default();
        for (index, node) in graph.nodes().iter().enumerate() {
            let axis = joining.axis(graph, NodeId(index), node);
            joining.axes.push(axis);
        }
        joining.freeze(graph.output(), &Frozen::Output);
        joining.finish(graph)
    }
}

/// Units while they are being joined.
#[derive(Default)]
struct Joining {
    axes: Vec<Vec<usize>>,
    /// Of every unit, one that it was joined with, or itself.
    parents: Vec<usize>,
    frozen: BTreeMap<usize, Frozen>,
}

impl Joining {
    fn axis(&mut self, graph: &Graph, id: NodeId, node: &Node) -> Vec<usize> {
        let channels = graph.shape(id).channels;
        let input = |index: usize| node.inputs[index];
        match &node.op {
            Op::Input => {
                let axis = self.fresh(channels);
                axis.iter().for_each(|&unit| self.freeze_unit(unit, &Frozen::Input));
                axis
            }
            Op::Constant { .. } | Op::Linear { .. } => self.fresh(channels),
            Op::Conv(conv) => self.through_conv(*conv, input(0)),
            Op::BatchNorm { .. }
            | Op::Activation(_)
            | Op::PRelu { .. }
            | Op::Pad { .. }
            | Op::MaxPool(_)
            | Op::AvgPool { .. }
            | Op::GlobalAvgPool
            | Op::Resize(_) => self.axes[input(0).0].clone(),
            Op::Softmax => {
                // A channel that is gone would still count as exp(0).
                self.freeze(input(0), &Frozen::Operator { node: node.name.clone() });
                self.axes[input(0).0].clone()
            }
            Op::Binary(_) => self.through_binary(input(0), input(1)),
            Op::Concat => node.inputs.iter().flat_map(|input| self.axes[input.0].clone()).collect(),
            Op::Slice { start, end } => self.axes[input(0).0][*start..*end].to_vec(),
            Op::Shuffle { groups } => self.through_shuffle(*groups, input(0)),
            Op::Flatten => {
                let area = graph.shape(input(0)).area();
                self.axes[input(0).0].iter().flat_map(|&unit| std::iter::repeat_n(unit, area)).collect()
            }
            Op::Opaque(_) | Op::Part { .. } => {
                let reason = Frozen::Operator { node: node.name.clone() };
                node.inputs.iter().for_each(|&input| self.freeze(input, &reason));
                let unit = self.fresh(1)[0];
                self.freeze_unit(unit, &reason);
                vec![unit; channels]
            }
            Op::Outputs => {
                node.inputs.iter().for_each(|&input| self.freeze(input, &Frozen::Output));
                Vec::new()
            }
        }
    }

    fn fresh(&mut self, count: usize) -> Vec<usize> {
        let first = self.parents.len();
        self.parents.extend(first..first + count);
        (first..first + count).collect()
    }

    /// A depthwise convolution passes channels on, each to as many outputs as it has filters for it. Groups of several
    /// channels stay as many and equally large: they lose the same of their inputs, and the same of their outputs.
    fn through_conv(&mut self, conv: Conv, input: NodeId) -> Vec<usize> {
        let (reads, writes) = (conv.inputs / conv.groups, conv.outputs / conv.groups);
        if conv.groups == 1 {
            return self.fresh(conv.outputs);
        }
        if reads == 1 {
            let axis = &self.axes[input.0];
            return axis.iter().flat_map(|&unit| std::iter::repeat_n(unit, writes)).collect();
        }
        self.join_across(conv.groups, input);
        let outputs = self.fresh(writes);
        (0..conv.outputs).map(|output| outputs[output % writes]).collect()
    }

    fn through_binary(&mut self, left: NodeId, right: NodeId) -> Vec<usize> {
        let (a, b) = (self.axes[left.0].clone(), self.axes[right.0].clone());
        // One channel against many is repeated for all of them.
        match (a.len(), b.len()) {
            (1, n) if n > 1 => b,
            (n, 1) if n > 1 => a,
            _ => {
                a.iter().zip(&b).for_each(|(&a, &b)| self.join(a, b));
                a
            }
        }
    }

    /// Every group of a shuffle must stay as long as the others.
    fn through_shuffle(&mut self, groups: usize, input: NodeId) -> Vec<usize> {
        self.join_across(groups, input);
        let axis = &self.axes[input.0];
        let each = axis.len() / groups;
        (0..axis.len()).map(|output| axis[output % groups * each + output / groups]).collect()
    }

    /// Joins the first channels of all groups, the second ones, and so on.
    fn join_across(&mut self, groups: usize, input: NodeId) {
        let axis = self.axes[input.0].clone();
        let each = axis.len() / groups;
        for (index, &unit) in axis.iter().enumerate().skip(each) {
            self.join(axis[index % each], unit);
        }
    }

    fn root(&mut self, unit: usize) -> usize {
        let mut root = unit;
        while self.parents[root] != root {
            self.parents[root] = self.parents[self.parents[root]];
            root = self.parents[root];
        }
        root
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        // The earlier unit stays the root, so that the order of groups does not depend on the order of joins.
        self.parents[a.max(b)] = a.min(b);
    }

    fn freeze(&mut self, node: NodeId, reason: &Frozen) {
        for unit in self.axes[node.0].clone() {
            self.freeze_unit(unit, reason);
        }
    }

    /// The first reason stays.
    fn freeze_unit(&mut self, unit: usize, reason: &Frozen) {
        self.frozen.entry(unit).or_insert_with(|| reason.clone());
    }

    fn finish(mut self, graph: &Graph) -> Coupling {
        let axes: Vec<Vec<usize>> = std::mem::take(&mut self.axes)
            .into_iter()
            .map(|axis| axis.into_iter().map(|unit| self.root(unit)).collect())
            .collect();
        let mut signatures = vec![Signature::default(); self.parents.len()];
        for (unit, reason) in std::mem::take(&mut self.frozen) {
            signatures[self.root(unit)].frozen.get_or_insert(reason);
        }
        for (index, node) in graph.nodes().iter().enumerate() {
            axes[index].iter().for_each(|&unit| count(&mut signatures[unit].spans, NodeId(index)));
            if let Op::Slice { start, .. } = node.op {
                let ahead = &axes[node.inputs[0].0][..start];
                ahead.iter().for_each(|&unit| count(&mut signatures[unit].ahead, NodeId(index)));
            }
        }
        sorted(axes, signatures)
    }
}

/// Nodes come in order, so a node that was counted already is the last.
fn count(spans: &mut Vec<Span>, node: NodeId) {
    match spans.last_mut().filter(|span| span.node == node) {
        Some(span) => span.per_channel += 1,
        None => spans.push(Span { node, per_channel: 1 }),
    }
}

/// Units into groups, in the order in which they first occur.
fn sorted(axes: Vec<Vec<usize>>, signatures: Vec<Signature>) -> Coupling {
    let mut units: Vec<Option<Unit>> = vec![None; signatures.len()];
    let (mut ids, mut groups) = (BTreeMap::<&Signature, usize>::new(), Vec::<(Signature, usize)>::new());
    for &root in axes.iter().flatten() {
        if units[root].is_some() {
            continue;
        }
        let group = *ids.entry(&signatures[root]).or_insert_with(|| {
            groups.push((signatures[root].clone(), 0));
            groups.len() - 1
        });
        units[root] = Some(Unit { group, channel: groups[group].1 });
        groups[group].1 += 1;
    }
    let unit = |root: usize| units[root].expect("every unit of an axis was given a group");
    let axes = axes.into_iter().map(|axis| axis.into_iter().map(unit).collect()).collect();
    Coupling { axes, groups }
}
