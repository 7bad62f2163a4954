//! Runs a graph over a batch, forward and backward, on flat vectors of numbers. Owns every buffer it needs, made
//! once; results do not depend on the number of threads. Never changes a graph, never decides a learning rate.

mod blocks;
mod broadcast;
mod channels;
mod conv;
mod error;
mod gemm;
mod kernel;
mod lanes;
mod layout;
mod norm;
mod plan;
mod pointwise;
mod pool;
mod prelu;
mod resize;
mod scalar;
mod scratch;
mod softmax;
#[cfg(test)]
mod tests;

use blocks::Blocks;
use kernel::{Given, Kernel, Work};
use norm::{Moments, Partials, Running, Statistics};
use plan::{Backward, Plan, Step};
use scratch::Scratch;

pub(crate) use lanes::{sum2, vectorised};
pub(crate) use resize::resize_ties;

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
    scratch: Scratch<T>,
    work: Work<T>,
    last: Option<Pass>,
}

/// The last forward pass.
#[derive(Debug, Clone, Copy)]
struct Pass {
    batch: usize,
    statistics: Statistics,
}

impl<T: Scalar> Executor<T> {
    /// Makes every buffer for batches of 1 to `max_batch` images. An operator that cannot be run is an error.
    pub fn new(graph: &Graph, max_batch: usize) -> Result<Self, ExecError> {
        let layout = ParamLayout::of(graph);
        let plan = Plan::of(graph, &layout)?;
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
        Ok(Self {
            input: graph.input_shape(),
            output: (output, graph.shapes()[output]),
            group: blocks.group,
            max_batch,
            values,
            logits: vec![T::ZERO; max_batch * graph.shapes()[output].numel()],
            slots: plan.buffers.iter().map(|len| vec![T::ZERO; max_batch * len]).collect(),
            moments: vec![Moments::default(); plan.steps.len()],
            scratch: Scratch::new(),
            work: Work {
                partials: vec![T::ZERO; partials],
                flipped: vec![T::ZERO; flipped],
                sums: Partials::new(),
            },
            last: None,
            plan,
            layout,
        })
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
        let inputs = inputs.iter().map(|&input| &before[input][..used(before[input].len())]).collect();
        let (moments, scratch) = (&self.moments[index], &self.scratch);
        let given = Given { blocks, statistics: Statistics::Running, params, inputs, moments, scratch };
        let len = used(after[0].len());
        kernel.forward(&given, &mut after[0][..len]);
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
        let inputs: Vec<&[T]> = inputs.iter().map(|&input| value(input)).collect();
        let lens: Vec<usize> = inputs.iter().map(|input| input.len()).collect();
        let (moments, scratch) = (&self.moments[*step], &self.scratch);
        let given = Given { blocks, statistics, params, inputs, moments, scratch };
        let y = value(*output);
        let dy = &buffer[..y.len()];
        kernel.backward_params(&given, (y, dy), grads, &mut self.work);
        for (which, target) in to.iter().enumerate() {
            let Some((slot, write)) = *target else { continue };
            let dx = (&mut self.slots[slot][..lens[which]], write);
            kernel.backward_input(&given, which, (y, dy), dx, &mut self.work);
        }
        self.slots[*from] = buffer;
    }
}

/// Images per block: enough that the smallest feature maps make wide matrices, few enough for several blocks.
fn group(graph: &Graph, max_batch: usize) -> usize {
    let convs = graph.nodes().iter().zip(graph.shapes()).filter(|(node, _)| matches!(node.op, Op::Conv(_)));
    // On single positions, as in a gate, a convolution is a linear layer: too small to cut the batch by.
    let areas = convs.map(|(_, shape)| shape.area()).filter(|&area| area > 1);
    let smallest = areas.min().unwrap_or(BLOCK_COLUMNS);
    let wide = BLOCK_COLUMNS.div_ceil(smallest).next_power_of_two();
    let several = (max_batch / 4).max(1);
    wide.min(several).clamp(1, MOST_GROUPED)
}
