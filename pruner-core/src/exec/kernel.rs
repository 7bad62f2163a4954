//! What one step computes, forward and backward: which kernel a node gets, where its parameters lie, and the calls.
//! Never computes itself.

use std::ops::Range;

use super::blocks::{self, Blocks};
use super::broadcast::Broadcast;
use super::channels::Rearrangement;
use super::conv::{Geometry, Gradients, linear};
use super::gemm::Write;
use super::layout::Role;
use super::norm::{Affine, Moments, Norm, Partials, Statistics};
use super::pointwise::{self, Fused};
use super::pool::{self, Flatten, Pool};
use super::resize::{Pad, Resize};
use super::scalar::Scalar;
use super::scratch::Scratch;
use super::{ExecError, ParamLayout, prelu, softmax};
use crate::graph::{Activation, Binary, Divisor, Graph, NodeId, Op, Shape};

/// What a step computes, and where its parameters lie.
#[derive(Debug, Clone)]
pub(super) enum Kernel {
    Conv {
        geometry: Geometry,
        weight: Range<usize>,
        bias: Option<Range<usize>>,
    },
    Norm {
        norm: Norm,
        params: NormParams,
    },
    Activation(Activation),
    PRelu {
        shape: Shape,
        slopes: Range<usize>,
    },
    /// Of equal shapes.
    Add(Fused),
    Binary(Broadcast),
    Rearrange(Rearrangement),
    Pad(Pad),
    MaxPool(Pool),
    AvgPool(Pool, Divisor),
    GlobalAvgPool {
        area: usize,
    },
    Resize(Resize),
    Softmax(Shape),
    Flatten(Flatten),
    Constant {
        shape: Shape,
        value: Range<usize>,
    },
}

/// Batch norm's four tensors; consecutive in the layout, in this order.
#[derive(Debug, Clone)]
pub(super) struct NormParams {
    pub(super) scale: Range<usize>,
    pub(super) shift: Range<usize>,
    pub(super) mean: Range<usize>,
    pub(super) var: Range<usize>,
}

/// What a step may read.
pub(super) struct Given<'a, T> {
    pub(super) blocks: Blocks,
    /// Which the forward pass used.
    pub(super) statistics: Statistics,
    pub(super) params: &'a [T],
    /// The inputs' values.
    pub(super) inputs: Vec<&'a [T]>,
    pub(super) moments: &'a Moments,
    pub(super) scratch: &'a Scratch<T>,
}

/// Room for a backward step's intermediate sums.
#[derive(Debug)]
pub(super) struct Work<T> {
    pub(super) partials: Vec<T>,
    pub(super) flipped: Vec<T>,
    pub(super) sums: Partials,
}

impl Kernel {
    /// The kernel of one node, which is not the image; `fused` is done on the way where the node can do that.
    pub(super) fn of(
        graph: &Graph,
        layout: &ParamLayout,
        id: NodeId,
        fused: Fused,
    ) -> Result<Self, ExecError> {
        let node = graph.node(id);
        let (output, range) = (graph.shape(id), |role| layout.range(id, role));
        let needed = |role| range(role).expect("the layout has every tensor of its graph's operators");
        let inputs = || node.inputs.iter().map(|&input| graph.shape(input));
        let input = inputs().next().unwrap_or(output);
        let unsupported = |operator: &str| {
            Err(ExecError::Unsupported { node: node.name.clone(), operator: operator.to_owned() })
        };
        Ok(match &node.op {
            Op::Input => unreachable!("the image is given, not computed"),
            Op::Conv(conv) => Self::Conv {
                geometry: Geometry { conv: *conv, input, output },
                weight: needed(Role::Weight),
                bias: range(Role::Bias),
            },
            Op::Linear { inputs, outputs, bias } => Self::Conv {
                geometry: linear(*inputs, *outputs, *bias),
                weight: needed(Role::Weight),
                bias: range(Role::Bias),
            },
            Op::BatchNorm { eps, .. } => Self::Norm {
                norm: Norm { shape: output, eps: *eps, fused },
                params: NormParams {
                    scale: needed(Role::Scale),
                    shift: needed(Role::Shift),
                    mean: needed(Role::RunningMean),
                    var: needed(Role::RunningVar),
                },
            },
            Op::Activation(activation) => Self::Activation(*activation),
            Op::PRelu { .. } => Self::PRelu { shape: output, slopes: needed(Role::Slope) },
            Op::Binary(op) => {
                let inputs = [input, graph.shape(node.inputs[1])];
                match op {
                    Binary::Add if inputs[0] == inputs[1] => Self::Add(fused),
                    Binary::Add | Binary::Sub | Binary::Mul | Binary::Div => {
                        Self::Binary(Broadcast { op: *op, inputs, output })
                    }
                }
            }
            Op::Concat => Self::Rearrange(Rearrangement::concat(inputs(), output)),
            Op::Slice { start, .. } => Self::Rearrange(Rearrangement::slice(*start, input, output)),
            Op::Shuffle { groups } => Self::Rearrange(Rearrangement::shuffle(*groups, output)),
            Op::Pad { border, value } => Self::Pad(Pad { border: *border, value: *value, input, output }),
            Op::MaxPool(window) => Self::MaxPool(Pool::new(*window, input, output)),
            Op::AvgPool { window, divisor } => Self::AvgPool(Pool::new(*window, input, output), *divisor),
            Op::GlobalAvgPool => Self::GlobalAvgPool { area: input.area() },
            Op::Resize(resize) => Self::Resize(Resize::new(resize, input, output)),
            Op::Softmax => Self::Softmax(output),
            Op::Flatten | Op::Outputs => Self::Flatten(Flatten::of(inputs())),
            Op::Constant { shape } => Self::Constant { shape: *shape, value: needed(Role::Value) },
            Op::Opaque(opaque) => return unsupported(&opaque.operator),
            Op::Part { .. } => return unsupported("a further output of an operator"),
        })
    }

    /// The step's value.
    pub(super) fn forward<T: Scalar>(&self, given: &Given<'_, T>, y: &mut [T]) {
        let (blocks, params) = (given.blocks, given.params);
        let x = given.inputs.first().copied().unwrap_or_default();
        match self {
            Self::Conv { geometry, weight, bias } => {
                let params = (&params[weight.clone()], bias.clone().map(|bias| &params[bias]));
                geometry.forward(blocks, x, params, (y, Write::Set), given.scratch);
            }
            Self::Norm { norm, params: NormParams { scale, shift, .. } } => {
                let affine = Affine { scale: &params[scale.clone()], shift: &params[shift.clone()] };
                norm.forward(blocks, x, affine, y, given.moments);
            }
            Self::Activation(activation) => pointwise::activate(*activation, x, y),
            Self::PRelu { shape, slopes } => prelu::forward(blocks, *shape, x, &params[slopes.clone()], y),
            Self::Add(fused) => pointwise::add(x, given.inputs[1], *fused, y),
            Self::Binary(broadcast) => broadcast.forward(blocks, [x, given.inputs[1]], y),
            Self::Rearrange(rearrangement) => {
                let inputs = given.inputs.iter().enumerate();
                inputs.for_each(|(which, x)| rearrangement.forward(blocks, which, x, y));
            }
            Self::Pad(pad) => pad.forward(blocks, x, y),
            Self::MaxPool(pool) => pool.max(blocks, x, y),
            Self::AvgPool(pool, divisor) => pool.mean(blocks, *divisor, x, y),
            Self::GlobalAvgPool { area } => pool::global_mean(*area, x, y),
            Self::Resize(resize) => resize.forward(blocks, x, y),
            Self::Softmax(shape) => softmax::forward(blocks, *shape, x, y),
            Self::Flatten(flatten) => {
                let inputs = given.inputs.iter().enumerate();
                inputs.for_each(|(which, x)| flatten.forward(blocks, which, x, y));
            }
            Self::Constant { shape, value } => blocks::repeat(blocks, *shape, &params[value.clone()], y),
        }
    }

    /// The gradients of the step's own parameters, into their places in `grads`.
    pub(super) fn backward_params<T: Scalar>(
        &self,
        given: &Given<'_, T>,
        (y, dy): (&[T], &[T]),
        grads: &mut [T],
        work: &mut Work<T>,
    ) {
        let blocks = given.blocks;
        match self {
            Self::Conv { geometry, weight, bias } => {
                let [weights, bias] = conv_gradients(grads, weight.clone(), bias.clone());
                let bias = Some(bias).filter(|bias| !bias.is_empty());
                let gradients = Gradients { weights, bias, partials: &mut work.partials };
                geometry.backward_weights(blocks, (given.inputs[0], dy), gradients, given.scratch);
            }
            Self::Norm { norm, params: at } => {
                norm.reduce(blocks, (given.inputs[0], y, dy), given.moments, &mut work.sums);
                let sums = &work.sums[..norm.shape.channels];
                let shift = grads[at.shift.clone()].iter_mut();
                shift.zip(sums).for_each(|(gradient, sums)| *gradient = T::from_f64(sums[0]));
                let scale = grads[at.scale.clone()].iter_mut();
                scale.zip(sums).for_each(|(gradient, sums)| *gradient = T::from_f64(sums[1]));
            }
            Self::PRelu { shape, slopes } => {
                let (given, slopes) = ((given.inputs[0], dy), &mut grads[slopes.clone()]);
                prelu::backward_slopes(blocks, *shape, given, slopes, &mut work.sums);
            }
            Self::Activation(_)
            | Self::Add(_)
            | Self::Binary(_)
            | Self::Rearrange(_)
            | Self::Pad(_)
            | Self::MaxPool(_)
            | Self::AvgPool(..)
            | Self::GlobalAvgPool { .. }
            | Self::Resize(_)
            | Self::Softmax(_)
            | Self::Flatten(_)
            | Self::Constant { .. } => {}
        }
    }

    /// The gradient of input `which`; [`Kernel::backward_params`] comes first and leaves its sums in `work`.
    pub(super) fn backward_input<T: Scalar>(
        &self,
        given: &Given<'_, T>,
        which: usize,
        (y, dy): (&[T], &[T]),
        dx: (&mut [T], Write),
        work: &mut Work<T>,
    ) {
        let (blocks, params, x) = (given.blocks, given.params, given.inputs[which]);
        match self {
            Self::Conv { geometry, weight, .. } => {
                let weights = (&params[weight.clone()], work.flipped.as_mut_slice());
                geometry.backward_input(blocks, weights, dy, dx, given.scratch);
            }
            Self::Norm { norm, params: at } => {
                let state = (&params[at.scale.clone()], given.moments, given.statistics);
                norm.backward(blocks, (x, y, dy), state, &work.sums[..norm.shape.channels], dx);
            }
            Self::Activation(activation) => pointwise::activate_backward(*activation, (x, y, dy), dx),
            Self::PRelu { shape, slopes } => {
                prelu::backward(blocks, *shape, (x, &params[slopes.clone()], dy), dx);
            }
            Self::Add(fused) => pointwise::add_backward(y, dy, *fused, dx),
            Self::Binary(broadcast) => {
                let inputs = [given.inputs[0], given.inputs[1]];
                broadcast.backward(blocks, which, (inputs, dy), dx);
            }
            Self::Rearrange(rearrangement) => rearrangement.backward(blocks, which, dy, dx),
            Self::Pad(pad) => pad.backward(blocks, dy, dx),
            Self::MaxPool(pool) => pool.max_backward(blocks, (x, dy), dx),
            Self::AvgPool(pool, divisor) => pool.mean_backward(blocks, *divisor, dy, dx),
            Self::GlobalAvgPool { area } => pool::global_mean_backward(*area, dy, dx),
            Self::Resize(resize) => resize.backward(blocks, dy, dx),
            Self::Softmax(shape) => softmax::backward(blocks, *shape, (y, dy), dx),
            Self::Flatten(flatten) => flatten.backward(blocks, which, dy, dx),
            Self::Constant { .. } => unreachable!("a constant has no inputs"),
        }
    }
}

/// The weight's and the bias's part of the gradients; the bias's is empty where there is none.
fn conv_gradients<T>(grads: &mut [T], weight: Range<usize>, bias: Option<Range<usize>>) -> [&mut [T]; 2] {
    let bias = bias.unwrap_or(weight.end..weight.end);
    grads.get_disjoint_mut([weight, bias]).expect("tensors of one layout are disjoint")
}
