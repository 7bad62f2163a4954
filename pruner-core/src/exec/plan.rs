//! What the executor does, in order: the graph's operators with each ReLU folded into the batch norm or sum before
//! it where nobody else reads that, and which gradient buffer holds what when.

use std::ops::Range;

use super::conv::{Geometry, linear};
use super::gemm::Write;
use super::layout::Role;
use super::norm::Norm;
use super::pointwise::Activation;
use super::pool::Pool;
use super::{ExecError, ParamLayout};
use crate::graph::{self, Binary, Divisor, Graph, NodeId, Op, Shape};

/// One operator, or two fused.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) kernel: Kernel,
    pub(super) inputs: Vec<usize>,
    /// Whose value it makes; the ReLU's, if that was folded in.
    pub(super) output: usize,
}

/// What a step computes, and where its parameters lie.
#[derive(Debug, Clone)]
pub(super) enum Kernel {
    Conv { geometry: Geometry, weight: Range<usize>, bias: Option<Range<usize>> },
    Norm { norm: Norm, params: NormParams },
    Relu,
    Add(Activation),
    MaxPool(Pool),
    AvgPool(Pool, Divisor),
    GlobalAvgPool { area: usize },
    Flatten { input: Shape },
}

/// Batch norm's four tensors; consecutive in the layout, in this order.
#[derive(Debug, Clone)]
pub(super) struct NormParams {
    pub(super) scale: Range<usize>,
    pub(super) shift: Range<usize>,
    pub(super) mean: Range<usize>,
    pub(super) var: Range<usize>,
}

/// Where a step's backward pass reads and writes gradients.
#[derive(Debug, Clone)]
pub(super) struct Backward {
    pub(super) step: usize,
    /// Buffer of the output's gradient.
    pub(super) from: usize,
    /// Per input: its buffer, and whether an earlier step has written there; none for the image.
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
        if folded[index] {
            continue;
        }
        let relu = match consumers[index].as_slice() {
            &[only] if graph.node(only).op == Op::RELU => Some(only.0),
            _ => None,
        };
        let fuses = matches!(node.op, Op::BatchNorm { .. }) || node.op == Op::ADD;
        let relu = relu.filter(|_| fuses);
        let activation = if relu.is_some() { Activation::Relu } else { Activation::Identity };
        let Some(kernel) = kernel(graph, layout, NodeId(index), activation)? else { continue };
        if let Some(relu) = relu {
            folded[relu] = true;
        }
        let inputs = node.inputs.iter().map(|input| input.0).collect();
        steps.push(Step { kernel, inputs, output: relu.unwrap_or(index) });
    }
    Ok(steps)
}

/// The kernel of one node; none for the image.
fn kernel(
    graph: &Graph,
    layout: &ParamLayout,
    id: NodeId,
    activation: Activation,
) -> Result<Option<Kernel>, ExecError> {
    let node = graph.node(id);
    let (output, range) = (graph.shape(id), |role| layout.range(id, role));
    let needed = |role| range(role).expect("the layout has every tensor of its graph's operators");
    let input = node.inputs.first().map_or(output, |&input| graph.shape(input));
    Ok(Some(match node.op {
        Op::Input => return Ok(None),
        Op::Conv(conv) => Kernel::Conv {
            geometry: Geometry { conv, input, output },
            weight: needed(Role::Weight),
            bias: range(Role::Bias),
        },
        Op::Linear { inputs, outputs, bias } => Kernel::Conv {
            geometry: linear(inputs, outputs, bias),
            weight: needed(Role::Weight),
            bias: range(Role::Bias),
        },
        Op::BatchNorm { eps, .. } => Kernel::Norm {
            norm: Norm { shape: output, eps, activation },
            params: NormParams {
                scale: needed(Role::Scale),
                shift: needed(Role::Shift),
                mean: needed(Role::RunningMean),
                var: needed(Role::RunningVar),
            },
        },
        Op::Activation(graph::Activation::Relu) => Kernel::Relu,
        Op::Binary(Binary::Add) if input == graph.shape(node.inputs[1]) => Kernel::Add(activation),
        Op::MaxPool(window) => Kernel::MaxPool(Pool { window, input, output }),
        Op::AvgPool { window, divisor } => Kernel::AvgPool(Pool { window, input, output }, divisor),
        Op::GlobalAvgPool => Kernel::GlobalAvgPool { area: input.area() },
        Op::Flatten => Kernel::Flatten { input },
        Op::Activation(_)
        | Op::PRelu { .. }
        | Op::Binary(_)
        | Op::Concat
        | Op::Slice { .. }
        | Op::Shuffle { .. }
        | Op::Pad { .. }
        | Op::Resize(_)
        | Op::Softmax
        | Op::Constant { .. }
        | Op::Opaque(_)
        | Op::Part { .. }
        | Op::Outputs => {
            return Err(ExecError::Unsupported {
                node: node.name.clone(),
                operator: format!("{:?}", node.op),
            });
        }
    }))
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
            if graph.nodes()[input].op == Op::Input {
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
