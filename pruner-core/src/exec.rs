//! Runs a graph over a batch, forward and backward, on flat vectors of numbers. Owns every buffer it needs, made
//! once; results do not depend on the number of threads. Never changes a graph, never decides a learning rate.

mod blocks;
mod conv;
mod error;
mod gemm;
mod lanes;
mod layout;
mod norm;
mod plan;
mod pointwise;
mod pool;
mod scalar;
mod scratch;
#[cfg(test)]
mod tests;

use blocks::Blocks;
use conv::Gradients;
use gemm::Write;
use norm::{Affine, Moments, Partials, Running, Statistics};
use plan::{Backward, Kernel, NormParams, Plan, Step};
use scratch::Scratch;

pub(crate) use lanes::{sum2, vectorised};

pub use error::ExecError;
pub use layout::{ParamEntry, ParamLayout, Role};
pub use scalar::Scalar;

use crate::graph::{Graph, Op, Shape};

/// Columns that a block's matrix products should have, where the batch allows several blocks all the same.
const BLOCK_COLUMNS: usize = 192;
/// Most images in a block.
const MOST_GROUPED: usize = 16;

/// One graph's steps and buffers, for batches of up to a fixed size.
///
/// Parameters and their gradients are flat vectors in the order of [`ParamLayout::of`] the same graph.
/// Images and their logits are row-major, image after image: N x C x H x W and N x outputs.
#[derive(Debug)]
pub struct Executor<T> {
    plan: Plan,
    layout: ParamLayout,
    input: Shape,
    output: (usize, Shape),
    group: usize,
    max_batch: usize,
    /// Output of every node, in blocks; empty where it is folded into the next.
    values: Vec<Vec<T>>,
    logits: Vec<T>,
    /// Gradient buffers, shared by values in turn.
    slots: Vec<Vec<T>>,
    moments: Vec<Moments>,
    work: Work<T>,
    last: Option<Pass>,
}

/// Room for intermediate sums.
#[derive(Debug)]
struct Work<T> {
    scratch: Scratch<T>,
    partials: Vec<T>,
    flipped: Vec<T>,
    sums: Partials,
}

/// The last forward pass.
#[derive(Debug, Clone, Copy)]
struct Pass {
    batch: usize,
    statistics: Statistics,
}

impl<T: Scalar> Executor<T> {
    /// Makes every buffer for batches of 1 to `max_batch` images.
    pub fn new(graph: &Graph, max_batch: usize) -> Self {
        let layout = ParamLayout::of(graph);
        let plan = Plan::of(graph, &layout);
        let blocks = Blocks { group: group(graph, max_batch), batch: max_batch };
        let mut values = vec![Vec::new(); graph.nodes().len()];
        for index in std::iter::once(0).chain(plan.steps.iter().map(|step| step.output)) {
            values[index] = vec![T::ZERO; max_batch * graph.shapes()[index].numel()];
        }
        let (mut partials, mut flipped) = (0, 0);
        for step in &plan.steps {
            if let Kernel::Conv { geometry, .. } = &step.kernel {
                partials = partials.max(geometry.partials(blocks));
                flipped = flipped.max(geometry.flipped_len(blocks));
            }
        }
        let output = graph.output().0;
        Self {
            input: graph.input_shape(),
            output: (output, graph.shapes()[output]),
            group: blocks.group,
            max_batch,
            values,
            logits: vec![T::ZERO; max_batch * graph.shapes()[output].numel()],
            slots: plan.buffers.iter().map(|len| vec![T::ZERO; max_batch * len]).collect(),
            moments: vec![Moments::default(); plan.steps.len()],
            work: Work {
                scratch: Scratch::new(),
                partials: vec![T::ZERO; partials],
                flipped: vec![T::ZERO; flipped],
                sums: Partials::new(),
            },
            last: None,
            plan,
            layout,
        }
    }

    /// The order of parameters and gradients.
    pub fn layout(&self) -> &ParamLayout {
        &self.layout
    }

    /// Logits of a batch, batch norm with its running statistics. Panics if a slice's length does not fit the graph,
    /// or the batch is empty or larger than this executor's.
    pub fn forward_eval(&mut self, params: &[T], input: &[T], batch: usize) -> &[T] {
        let blocks = self.start(params.len(), input, Pass { batch, statistics: Statistics::Running });
        for index in 0..self.plan.steps.len() {
            if let Kernel::Norm { norm, params: at } = &self.plan.steps[index].kernel {
                norm.use_running(
                    (&params[at.mean.clone()], &params[at.var.clone()]),
                    &mut self.moments[index],
                );
            }
            self.forward_step(index, params, blocks);
        }
        self.finish(blocks)
    }

    /// Logits of a batch, batch norm with the batch's own statistics; moves the running statistics in `params` by a
    /// tenth towards them. Panics as [`Executor::forward_eval`] does.
    pub fn forward_train(&mut self, params: &mut [T], input: &[T], batch: usize) -> &[T] {
        let blocks = self.start(params.len(), input, Pass { batch, statistics: Statistics::Batch });
        for index in 0..self.plan.steps.len() {
            let Step { kernel, inputs, .. } = &self.plan.steps[index];
            if let Kernel::Norm { norm, params: at } = kernel {
                let x = &self.values[inputs[0]][..blocks.batch * norm.shape.numel()];
                let [mean, var] = params
                    .get_disjoint_mut([at.mean.clone(), at.var.clone()])
                    .expect("tensors of one layout are disjoint");
                norm.measure(blocks, x, Running { mean, var }, &mut self.moments[index], &mut self.work.sums);
            }
            self.forward_step(index, params, blocks);
        }
        self.finish(blocks)
    }

    /// Gradients of all parameters for the last forward pass, given the gradient of its logits. Overwrites `grads`;
    /// running statistics get 0. Panics without a forward pass, or if a slice's length does not fit the graph.
    pub fn backward(&mut self, params: &[T], grad_output: &[T], grads: &mut [T]) {
        let Pass { batch, statistics } =
            self.last.expect("a forward pass must come before the backward pass");
        let blocks = Blocks { group: self.group, batch };
        let (_, shape) = self.output;
        assert_eq!(params.len(), self.layout.len(), "length of the parameters");
        assert_eq!(grads.len(), self.layout.len(), "length of the gradients");
        assert_eq!(grad_output.len(), batch * shape.numel(), "length of the logits' gradient");
        grads.fill(T::ZERO);
        let slot = self.plan.backward[0].from;
        blocks::pack(blocks, shape, grad_output, &mut self.slots[slot][..grad_output.len()]);
        for index in 0..self.plan.backward.len() {
            self.backward_step(index, (params, grads), (blocks, statistics));
        }
    }

    fn start(&mut self, params: usize, input: &[T], pass: Pass) -> Blocks {
        assert_eq!(params, self.layout.len(), "length of the parameters");
        assert!((1..=self.max_batch).contains(&pass.batch), "a batch of 1 to {} images", self.max_batch);
        assert_eq!(input.len(), pass.batch * self.input.numel(), "length of the images");
        self.last = Some(pass);
        let blocks = Blocks { group: self.group, batch: pass.batch };
        blocks::pack(blocks, self.input, input, &mut self.values[0][..input.len()]);
        blocks
    }

    fn finish(&mut self, blocks: Blocks) -> &[T] {
        let (output, shape) = self.output;
        let len = blocks.batch * shape.numel();
        blocks::unpack(blocks, shape, &self.values[output][..len], &mut self.logits[..len]);
        &self.logits[..len]
    }

    fn forward_step(&mut self, index: usize, params: &[T], blocks: Blocks) {
        let Step { kernel, inputs, output } = &self.plan.steps[index];
        let (before, after) = self.values.split_at_mut(*output);
        let used = |len: usize| len / self.max_batch * blocks.batch;
        let value = |input: usize| &before[inputs[input]][..used(before[inputs[input]].len())];
        let (x, len) = (value(0), used(after[0].len()));
        let y = &mut after[0][..len];
        match kernel {
            Kernel::Conv { geometry, weight, bias } => {
                let params = (&params[weight.clone()], bias.clone().map(|bias| &params[bias]));
                geometry.forward(blocks, x, params, (y, Write::Set), &self.work.scratch);
            }
            Kernel::Norm { norm, params: NormParams { scale, shift, .. } } => {
                let affine = Affine { scale: &params[scale.clone()], shift: &params[shift.clone()] };
                norm.forward(blocks, x, affine, y, &self.moments[index]);
            }
            Kernel::Relu => pointwise::relu(x, y),
            Kernel::Add(activation) => pointwise::add(x, value(1), *activation, y),
            Kernel::MaxPool(window) => window.max(blocks, x, y),
            Kernel::AvgPool(window) => window.mean(blocks, x, y),
            Kernel::GlobalAvgPool { area } => pool::global_mean(*area, x, y),
            Kernel::Flatten { input } => pool::flatten(blocks, *input, x, y),
        }
    }

    fn backward_step(
        &mut self,
        index: usize,
        (params, grads): (&[T], &mut [T]),
        (blocks, statistics): (Blocks, Statistics),
    ) {
        let Backward { step, from, to } = &self.plan.backward[index];
        let Step { kernel, inputs, output } = &self.plan.steps[*step];
        // Taken out so that the inputs' buffers can be borrowed beside it; put back below.
        let buffer = std::mem::take(&mut self.slots[*from]);
        let value =
            |node: usize| &self.values[node][..self.values[node].len() / self.max_batch * blocks.batch];
        let (x, y) = (value(inputs[0]), value(*output));
        let dy = &buffer[..y.len()];
        let work = &mut self.work;
        match kernel {
            Kernel::Conv { geometry, weight, bias } => {
                let [weights, bias] = conv_gradients(grads, weight.clone(), bias.clone());
                let bias = Some(bias).filter(|bias| !bias.is_empty());
                let gradients = Gradients { weights, bias, partials: &mut work.partials };
                geometry.backward_weights(blocks, (x, dy), gradients, &work.scratch);
            }
            Kernel::Norm { norm, params: at } => {
                norm.reduce(blocks, (x, y, dy), &self.moments[*step], &mut work.sums);
                let sums = &work.sums[..norm.shape.channels];
                let shift = grads[at.shift.clone()].iter_mut();
                shift.zip(sums).for_each(|(gradient, sums)| *gradient = T::from_f64(sums[0]));
                let scale = grads[at.scale.clone()].iter_mut();
                scale.zip(sums).for_each(|(gradient, sums)| *gradient = T::from_f64(sums[1]));
            }
            Kernel::Relu
            | Kernel::Add(_)
            | Kernel::MaxPool(_)
            | Kernel::AvgPool(_)
            | Kernel::GlobalAvgPool { .. }
            | Kernel::Flatten { .. } => {}
        }
        for &(slot, write) in to.iter().flatten() {
            let dx = (&mut self.slots[slot][..x.len()], write);
            match kernel {
                Kernel::Conv { geometry, weight, .. } => {
                    let weights = (&params[weight.clone()], work.flipped.as_mut_slice());
                    geometry.backward_input(blocks, weights, dy, dx, &work.scratch);
                }
                Kernel::Norm { norm, params: at } => {
                    let state = (&params[at.scale.clone()], &self.moments[*step], statistics);
                    norm.backward(blocks, (x, y, dy), state, &work.sums[..norm.shape.channels], dx);
                }
                Kernel::Relu => pointwise::backward(y, dy, pointwise::Activation::Relu, dx),
                Kernel::Add(activation) => pointwise::backward(y, dy, *activation, dx),
                Kernel::MaxPool(window) => window.max_backward(blocks, (x, dy), dx),
                Kernel::AvgPool(window) => window.mean_backward(blocks, dy, dx),
                Kernel::GlobalAvgPool { area } => pool::global_mean_backward(*area, dy, dx),
                Kernel::Flatten { input } => pool::flatten_backward(blocks, *input, dy, dx),
            }
        }
        self.slots[*from] = buffer;
    }
}

/// The weight's and the bias's part of the gradients; the bias's is empty where there is none.
fn conv_gradients<T>(
    grads: &mut [T],
    weight: std::ops::Range<usize>,
    bias: Option<std::ops::Range<usize>>,
) -> [&mut [T]; 2] {
    let bias = bias.unwrap_or(weight.end..weight.end);
    grads.get_disjoint_mut([weight, bias]).expect("tensors of one layout are disjoint")
}

/// Images per block: enough that the smallest feature maps make wide matrices, few enough for several blocks.
fn group(graph: &Graph, max_batch: usize) -> usize {
    let convs = graph.nodes().iter().zip(graph.shapes()).filter(|(node, _)| matches!(node.op, Op::Conv(_)));
    let smallest = convs.map(|(_, shape)| shape.area()).min().unwrap_or(BLOCK_COLUMNS);
    let wide = BLOCK_COLUMNS.div_ceil(smallest).next_power_of_two();
    let several = (max_batch / 4).max(1);
    wide.min(several).clamp(1, MOST_GROUPED)
}
