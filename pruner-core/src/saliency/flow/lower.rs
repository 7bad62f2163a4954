//! From a graph to the few kernels that flow needs. Activations pass what is never negative as it is, and so do
//! reshapes, since features lie channel by channel: such nodes share their input's value and make no step.
//!
//! Flow is a sum over paths, so what is not linear is taken for a sum: every elementwise operator of two computed values
//! adds them up, an operator that nobody knows spreads what comes in evenly over what goes out, and constants carry
//! nothing. Then all of a layer's scores sum up to the same R in every network (Euler's theorem: R is homogeneous of
//! degree 1 in what flows through any cut).

use super::geometry::Geometry;
use super::layer::{Affine, Layer};
use super::paths;
use super::route::Route;
use super::scaled::Scaled;
use super::window::Window;
use crate::exec::{ParamEntry, ParamLayout, Role};
use crate::graph::{Network, NodeId, Op, Shape};
use crate::saliency::SaliencyError;

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
    /// To other places.
    Route(Route),
    /// Through what nobody knows.
    Spread,
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
    /// Reads one tensor after the other, so that no second copy of all weights exists. Fails where one is missing, has
    /// another shape, or holds what is no finite number.
    pub(super) fn of(network: &Network) -> Result<Self, SaliencyError> {
        let graph = &network.graph;
        let lowering = Lowering { network, layout: ParamLayout::of(graph) };
        for entry in lowering.layout.entries() {
            lowering.read(entry)?;
        }
        let consumers = graph.consumers();
        let mut program =
            Self { steps: Vec::new(), lens: vec![graph.input_shape().numel()], output: 0, weights: 0 };
        let mut values = vec![0; graph.nodes().len()];
        for (index, node) in graph.nodes().iter().enumerate().skip(1) {
            let id = NodeId(index);
            let inputs = lowering.flowing(id);
            if inputs.is_empty() {
                // Nothing flows from here: its value stays 0.
                values[index] = program.lens.len();
                program.lens.push(graph.shape(id).numel());
                continue;
            }
            let shapes: Vec<Shape> = inputs.iter().map(|&input| graph.shape(input)).collect();
            let inputs: Vec<usize> = inputs.iter().map(|input| values[input.0]).collect();
            let only = match consumers[index].as_slice() {
                &[only] => Some(only),
                _ => None,
            };
            let is_folded =
                matches!(node.op, Op::BatchNorm { .. }) && lowering.folds(node.inputs[0], &consumers);
            let kernel = match is_folded {
                true => None,
                false => lowering.kernel((id, only), &shapes, &mut program.weights)?,
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
        Ok(program)
    }
}

struct Lowering<'a> {
    network: &'a Network,
    layout: ParamLayout,
}

impl Lowering<'_> {
    /// Whether a batch norm that reads this node is applied by that node's own step.
    fn folds(&self, id: NodeId, consumers: &[Vec<NodeId>]) -> bool {
        let layer = matches!(self.network.graph.node(id).op, Op::Conv(_) | Op::Linear { .. });
        layer && consumers[id.0].len() == 1
    }

    /// The inputs of a node through which anything comes.
    fn flowing(&self, id: NodeId) -> Vec<NodeId> {
        let graph = &self.network.graph;
        let node = graph.node(id);
        let is_constant = |input: &NodeId| matches!(graph.node(*input).op, Op::Constant { .. });
        match node.op {
            Op::Binary(_) => node.inputs.iter().copied().filter(|input| !is_constant(input)).collect(),
            _ => node.inputs.clone(),
        }
    }

    /// The kernel of a node that makes a step, none where it passes on what it gets; `only` is its only reader, and
    /// `weights` counts those of earlier layers.
    fn kernel(
        &self,
        (id, only): (NodeId, Option<NodeId>),
        inputs: &[Shape],
        weights: &mut usize,
    ) -> Result<Option<Kernel>, SaliencyError> {
        let (input, output) = (inputs[0], self.network.graph.shape(id));
        let route = |route: Route| Ok(Some(Kernel::Route(route)));
        match &self.network.graph.node(id).op {
            Op::Conv(conv) => self.layer((id, only), Geometry::conv(*conv, input, output), weights).map(Some),
            Op::Linear { inputs, outputs, .. } => {
                self.layer((id, only), Geometry::linear(*inputs, *outputs), weights).map(Some)
            }
            Op::BatchNorm { channels, .. } => {
                Ok(Some(Kernel::Affine(self.affine(*channels, None, Some(id))?)))
            }
            Op::Binary(_) if inputs.iter().any(|shape| *shape != output) => {
                route(paths::broadcast(inputs, output))
            }
            Op::Binary(_) if inputs.len() > 1 => Ok(Some(Kernel::Sum)),
            Op::Concat | Op::Outputs => route(paths::join(inputs)),
            Op::Slice { start, .. } => route(paths::slice(*start, output)),
            Op::Shuffle { groups } => route(paths::shuffle(*groups, output)),
            Op::Pad { border, .. } => route(paths::pad(*border, input, output)),
            Op::Resize(resize) => route(paths::resize(resize, input, output)),
            Op::MaxPool(window) => Ok(Some(Kernel::Window(Window::largest(*window, input, output)))),
            Op::AvgPool { window, divisor } => {
                Ok(Some(Kernel::Window(Window::mean((*window, *divisor), input, output))))
            }
            Op::GlobalAvgPool => Ok(Some(Kernel::Window(Window::global_mean(input)))),
            Op::Opaque(_) | Op::Part { .. } => Ok(Some(Kernel::Spread)),
            Op::Input
            | Op::Constant { .. }
            | Op::Activation(_)
            | Op::PRelu { .. }
            | Op::Binary(_)
            | Op::Softmax
            | Op::Flatten => Ok(None),
        }
    }

    fn layer(
        &self,
        (id, only): (NodeId, Option<NodeId>),
        geometry: Geometry,
        weights: &mut usize,
    ) -> Result<Kernel, SaliencyError> {
        let (graph, channels) = (&self.network.graph, geometry.output.channels);
        let norm = only.filter(|only| matches!(graph.node(*only).op, Op::BatchNorm { .. }));
        let affine = self.affine(channels, Some(id), norm)?;
        let values = self.tensor(Some(id), Role::Weight)?.unwrap_or_default();
        let layer = Box::new(Layer::new(geometry, *weights, &values, affine));
        *weights += values.len();
        Ok(Kernel::Layer { node: id, layer })
    }

    /// A layer's bias and a batch norm, either of which may be missing, as one factor and shift per channel. The mean is
    /// left out: it is what a network has seen, and subtracting it would let less flow out than comes in.
    fn affine(
        &self,
        channels: usize,
        layer: Option<NodeId>,
        norm: Option<NodeId>,
    ) -> Result<Affine, SaliencyError> {
        let eps = match norm.map(|norm| &self.network.graph.node(norm).op) {
            Some(Op::BatchNorm { eps, .. }) => *eps,
            _ => 0.0,
        };
        let (bias, variance) = (self.tensor(layer, Role::Bias)?, self.tensor(norm, Role::RunningVar)?);
        let (scale, shift) = (self.tensor(norm, Role::Scale)?, self.tensor(norm, Role::Shift)?);
        let size =
            |values: &Option<Vec<f32>>, at: usize| values.as_ref().map(|values| f64::from(values[at]).abs());
        let factor = |at: usize| {
            let deviation = size(&variance, at).map_or(1.0, |variance| (variance + eps).sqrt());
            size(&scale, at).unwrap_or(1.0) / deviation
        };
        let factors: Vec<f64> = (0..channels).map(factor).collect();
        let sum = |(at, factor): (usize, &f64)| {
            size(&bias, at).unwrap_or(0.0) * factor + size(&shift, at).unwrap_or(0.0)
        };
        let shifts: Vec<f64> = factors.iter().enumerate().map(sum).collect();
        if factors.iter().chain(&shifts).any(|number| !number.is_finite()) {
            return Err(SaliencyError::NotFinite);
        }
        Ok(Affine { factor: Scaled::from_f64(&factors), shift: Scaled::from_f64(&shifts) })
    }

    /// A node's numbers of one kind, if it has them.
    fn tensor(&self, id: Option<NodeId>, role: Role) -> Result<Option<Vec<f32>>, SaliencyError> {
        id.and_then(|id| self.layout.entry(id, role)).map(|entry| self.read(entry)).transpose()
    }

    fn read(&self, entry: &ParamEntry) -> Result<Vec<f32>, SaliencyError> {
        let values = entry.read(&self.network.weights)?;
        let finite = values.iter().all(|value| value.is_finite());
        if finite { Ok(values) } else { Err(SaliencyError::NotFinite) }
    }
}
