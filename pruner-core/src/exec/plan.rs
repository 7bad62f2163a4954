//! What the executor does, in order: the graph's operators with each ReLU or clip folded into the batch norm or sum
//! before it where nobody else reads that, and which gradient buffer holds what when.

use super::gemm::Write;
use super::kernel::Kernel;
use super::pointwise::Fused;
use super::{ExecError, ParamLayout};
use crate::graph::{Graph, NodeId, Op};

/// One operator, or two fused.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) kernel: Kernel,
    pub(super) inputs: Vec<usize>,
    /// Whose value it makes; the activation's, if that was folded in.
    pub(super) output: usize,
}

/// Where a step's backward pass reads and writes gradients.
#[derive(Debug, Clone)]
pub(super) struct Backward {
    pub(super) step: usize,
    /// Buffer of the output's gradient.
    pub(super) from: usize,
    /// Per input: its buffer, and whether an earlier step has written there; none for the image and for constants.
    pub(super) to: Vec<Option<(usize, Write)>>,
}

/// Steps both ways, and how long each gradient buffer must be, per image.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    pub(super) backward: Vec<Backward>,
    pub(super) buffers: Vec<usize>,
}

impl Plan {
    pub(super) fn of(graph: &Graph, layout: &ParamLayout) -> Result<Self, ExecError> {
        let steps = steps(graph, layout)?;
        let (backward, buffers) = backward(graph, &steps);
        Ok(Self { steps, backward, buffers })
    }
}

fn steps(graph: &Graph, layout: &ParamLayout) -> Result<Vec<Step>, ExecError> {
    let consumers = graph.consumers();
    let mut folded = vec![false; graph.nodes().len()];
    let mut steps = Vec::new();
    for (index, node) in graph.nodes().iter().enumerate() {
        if folded[index] || node.op == Op::Input {
            continue;
        }
        let behind = match consumers[index].as_slice() {
            &[only] if fuses(graph, NodeId(index)) => activation(graph, only),
            _ => None,
        };
        let fused = behind.map_or(Fused::Identity, |(_, fused)| fused);
        let output = behind.map_or(index, |(activation, _)| activation.0);
        folded[output] = true;
        let kernel = Kernel::of(graph, layout, NodeId(index), fused)?;
        let inputs = node.inputs.iter().map(|input| input.0).collect();
        steps.push(Step { kernel, inputs, output });
    }
    Ok(steps)
}

/// Whether a node's kernel can do an activation on the way.
fn fuses(graph: &Graph, id: NodeId) -> bool {
    let node = graph.node(id);
    let is_plain_sum = || node.op == Op::ADD && graph.shape(node.inputs[0]) == graph.shape(node.inputs[1]);
    matches!(node.op, Op::BatchNorm { .. }) || is_plain_sum()
}

/// The node, if it is an activation that can be done on the way.
fn activation(graph: &Graph, id: NodeId) -> Option<(NodeId, Fused)> {
    let Op::Activation(activation) = graph.node(id).op else { return None };
    Fused::of(activation).map(|fused| (id, fused))
}

/// Assigns gradient buffers: one is free again once the step that made its value has used it.
fn backward(graph: &Graph, steps: &[Step]) -> (Vec<Backward>, Vec<usize>) {
    let mut holds: Vec<Option<usize>> = vec![None; graph.nodes().len()];
    let (mut buffers, mut free) = (Vec::<usize>::new(), Vec::<usize>::new());
    let mut take = |len: usize, free: &mut Vec<usize>| {
        // The smallest that is long enough, else the longest, made longer.
        let rank = |&slot: &usize| {
            if buffers[slot] >= len { (0, buffers[slot]) } else { (1, usize::MAX - buffers[slot]) }
        };
        let best = (0..free.len()).min_by_key(|&index| rank(&free[index]));
        let slot = best.map(|index| free.swap_remove(index)).unwrap_or_else(|| {
            buffers.push(0);
            buffers.len() - 1
        });
        buffers[slot] = buffers[slot].max(len);
        slot
    };
    let output = graph.output();
    holds[output.0] = Some(take(graph.shape(output).numel(), &mut free));
    let mut order = Vec::new();
    for (step, Step { inputs, output, .. }) in steps.iter().enumerate().rev() {
        // Nothing that leads to the output reads it: its gradient is zero.
        let Some(from) = holds[*output] else { continue };
        let to = inputs.iter().map(|&input| {
            if matches!(graph.nodes()[input].op, Op::Input | Op::Constant { .. }) {
                return None;
            }
            Some(match holds[input] {
                Some(slot) => (slot, Write::Add),
                None => {
                    let slot = take(graph.shapes()[input].numel(), &mut free);
                    holds[input] = Some(slot);
                    (slot, Write::Set)
                }
            })
        });
        order.push(Backward { step, from, to: to.collect() });
        free.push(from);
    }
    (order, buffers)
}
