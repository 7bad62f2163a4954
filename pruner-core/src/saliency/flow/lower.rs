//! From a graph to the few kernels that flow needs. Activations pass what is never negative as it is, and so do
//! reshapes, since features lie channel by channel: such nodes share their input's value and make no step.

use super::geometry::Geometry;
use super::layer::{Affine, Layer};
use super::scaled::Scaled;
use super::window::Window;
use crate::exec::{ParamLayout, Role};
use crate::graph::{Graph, NodeId, Op};

/// What makes one value from others.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) kernel: Kernel,
    /// Which values it reads.
    pub(super) inputs: Vec<usize>,
    /// Which value it makes.
    pub(super) output: usize,
}

/// The ways in which something flows.
#[derive(Debug)]
pub(super) enum Kernel {
    /// Through weights, and the batch norm behind them where nobody else reads them.
    Layer { node: NodeId, layer: Box<Layer> },
    /// Through a batch norm on its own.
    Affine(Affine),
    /// From several inputs of one shape, added up.
    Sum,
    /// Through a pooling.
    Window(Window),
}

/// Steps in the graph's order, and the lengths of the values; the image is value 0.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) steps: Vec<Step>,
    pub(super) lens: Vec<usize>,
    pub(super) output: usize,
    /// Weights of all layers.
    pub(super) weights: usize,
}

impl Program {
    /// `params` are in the order of `layout`.
    pub(super) fn of(graph: &Graph, layout: &ParamLayout, params: &[f32]) -> Self {
        let lowering = Lowering { graph, layout, params };
        let consumers = graph.consumers();
        let mut program =
            Self { steps: Vec::new(), lens: vec![graph.input_shape().numel()], output: 0, weights: 0 };
        let mut values = vec![0; graph.nodes().len()];
        for (index, node) in graph.nodes().iter().enumerate().skip(1) {
            let id = NodeId(index);
            let inputs: Vec<usize> = node.inputs.iter().map(|input| values[input.0]).collect();
            let only = match consumers[index].as_slice() {
                &[only] => Some(only),
                _ => None,
            };
            let kernel = match node.op {
                Op::Input | Op::Relu | Op::Flatten => None,
                // Was folded into the layer before it.
                Op::BatchNorm { .. } if lowering.folds(node.inputs[0], &consumers) => None,
                _ => lowering.kernel(id, only, &mut program.weights),
            };
            let Some(kernel) = kernel else {
                values[index] = inputs[0];
                continue;
            };
            values[index] = program.lens.len();
            program.lens.push(graph.shape(id).numel());
            program.steps.push(Step { kernel, inputs, output: values[index] });
        }
        program.output = values[graph.output().0];
        program
    }
}

struct Lowering<'a> {
    graph: &'a Graph,
    layout: &'a ParamLayout,
    params: &'a [f32],
}

impl Lowering<'_> {
    /// Whether a batch norm that reads this node is applied by that node's own step.
    fn folds(&self, id: NodeId, consumers: &[Vec<NodeId>]) -> bool {
        let layer = matches!(self.graph.node(id).op, Op::Conv(_) | Op::Linear { .. });
        layer && consumers[id.0].len() == 1
    }

    /// The kernel of a node that makes a step; `only` is its only reader, and `weights` counts those of earlier layers.
    fn kernel(&self, id: NodeId, only: Option<NodeId>, weights: &mut usize) -> Option<Kernel> {
        let node = self.graph.node(id);
        let (input, output) = (self.graph.shape(*node.inputs.first()?), self.graph.shape(id));
        let geometry = match node.op {
            Op::Conv(conv) => Geometry::conv(conv, input, output),
            Op::Linear { inputs, outputs, .. } => Geometry::linear(inputs, outputs),
            Op::BatchNorm { channels, .. } => {
                return Some(Kernel::Affine(self.affine(channels, None, Some(id))));
            }
            Op::Add => return Some(Kernel::Sum),
            Op::MaxPool(pool) => return Some(Kernel::Window(Window::largest(pool, input, output))),
            Op::AvgPool(pool) => return Some(Kernel::Window(Window::mean(pool, input, output))),
            Op::GlobalAvgPool => return Some(Kernel::Window(Window::global_mean(input))),
            Op::Input | Op::Relu | Op::Flatten => return None,
        };
        let norm = only.filter(|only| matches!(self.graph.node(*only).op, Op::BatchNorm { .. }));
        let affine = self.affine(output.channels, Some(id), norm);
        let values = self.tensor(id, Role::Weight)?;
        let layer = Box::new(Layer::new(geometry, *weights, values, affine));
        *weights += values.len();
        Some(Kernel::Layer { node: id, layer })
    }

    /// A layer's bias and a batch norm, either of which may be missing, as one factor and shift per channel. The mean is
    /// left out: it is what a network has seen, and subtracting it would let less flow than comes in.
    fn affine(&self, channels: usize, layer: Option<NodeId>, norm: Option<NodeId>) -> Affine {
        let size = |node: Option<NodeId>, role: Role, at: usize| {
            let values = node.and_then(|node| self.tensor(node, role));
            values.map(|values| f64::from(values[at]).abs())
        };
        let eps = match norm.map(|norm| &self.graph.node(norm).op) {
            Some(Op::BatchNorm { eps, .. }) => *eps,
            _ => 0.0,
        };
        let factor = |at: usize| {
            let deviation = size(norm, Role::RunningVar, at).map_or(1.0, |var| (var + eps).sqrt());
            size(norm, Role::Scale, at).unwrap_or(1.0) / deviation
        };
        let shift = |at: usize| {
            let bias = size(layer, Role::Bias, at).unwrap_or(0.0);
            bias * factor(at) + size(norm, Role::Shift, at).unwrap_or(0.0)
        };
        let of = |numbers: &dyn Fn(usize) -> f64| {
            Scaled::from_f64(&(0..channels).map(numbers).collect::<Vec<f64>>())
        };
        Affine { factor: of(&factor), shift: of(&shift) }
    }

    /// A node's numbers of one kind.
    fn tensor(&self, id: NodeId, role: Role) -> Option<&[f32]> {
        self.layout.range(id, role).map(|range| &self.params[range])
    }
}
