//! A convolution's gradients: of its input, block by block, and of its weights, summed over fixed runs of blocks.

use rayon::prelude::*;

use super::{Geometry, Part, Tile, patches};
use crate::exec::blocks::Blocks;
use crate::exec::gemm::{Matrix, MatrixMut, Write, gemm};
use crate::exec::lanes::{sum, vectorised};
use crate::exec::scalar::Scalar;
use crate::exec::scratch::Scratch;
use crate::graph::{Conv, Padding, Window};

/// Most partial sums of one layer's weight gradient, for small layers.
const MOST_RUNS: usize = 16;
/// Most numbers in all partial sums of one layer, if two runs allow it.
const PARTIAL_LIMIT: usize = 10_000_000;

/// Where a convolution's parameter gradients go.
pub(in crate::exec) struct Gradients<'a, T> {
    pub(in crate::exec) weights: &'a mut [T],
    pub(in crate::exec) bias: Option<&'a mut [T]>,
    /// Room for [`Geometry::partials`] numbers.
    pub(in crate::exec) partials: &'a mut [T],
}

impl Geometry {
    /// Partial sums of the weight gradient: fixed by the layer, so that results do not depend on threads.
    fn runs(&self) -> usize {
        (PARTIAL_LIMIT / self.partial_len()).clamp(2, MOST_RUNS)
    }

    /// Weights and one bias per output, whether or not the layer has one.
    fn partial_len(&self) -> usize {
        self.weights() + self.conv.outputs
    }

    /// Length of the buffer for partial sums.
    pub(in crate::exec) fn partials(&self, blocks: Blocks) -> usize {
        self.partial_len() * blocks.count().min(self.runs())
    }

    /// Gradients of weights and bias from the input and the output's gradient.
    pub(in crate::exec) fn backward_weights<T: Scalar>(
        &self,
        blocks: Blocks,
        (x, dy): (&[T], &[T]),
        gradients: Gradients<'_, T>,
        scratch: &Scratch<T>,
    ) {
        let per_run = blocks.per_run(self.runs());
        let (x_len, dy_len, len) = (blocks.len(self.input), blocks.len(self.output), self.partial_len());
        let runs = blocks.count().div_ceil(per_run);
        let partials = &mut gradients.partials[..runs * len];
        let work = x.par_chunks(x_len * per_run).zip(dy.par_chunks(dy_len * per_run));
        partials.par_chunks_exact_mut(len).zip(work).for_each(|(partial, (x, dy))| {
            let (weights, bias) = partial.split_at_mut(self.weights());
            bias.fill(T::ZERO);
            let mut write = Write::Set;
            for (x, dy) in x.chunks(x_len).zip(dy.chunks(dy_len)) {
                let images = dy.len() / self.output.numel();
                if gradients.bias.is_some() {
                    let rows = dy.chunks_exact(images * self.output.area());
                    rows.zip(bias.iter_mut()).for_each(|(row, bias)| *bias += sum(row, |value| value));
                }
                scratch.with(self.patch_len(images), |buffer| {
                    self.weights_of_block((x, dy), (weights, &mut write), buffer);
                });
            }
        });
        if self.is_thin() {
            self.total_turned(partials, gradients.weights);
        } else {
            self.total(partials, 0, gradients.weights);
        }
        if let Some(bias) = gradients.bias {
            self.total(partials, self.weights(), bias);
        }
    }

    /// Whether partial sums hold each group's gradient as taps x filters, not filters x taps: with few filters the
    /// matrix product is nearly twice as fast that way round, with many turning the sum back costs more than it gains.
    /// A depthwise one is no matrix product.
    fn is_thin(&self) -> bool {
        self.filters() <= 128 && !self.conv.is_depthwise()
    }

    /// Adds a block's part to a partial sum.
    fn weights_of_block<T: Scalar>(
        &self,
        (x, dy): (&[T], &[T]),
        (weights, write): (&mut [T], &mut Write),
        buffer: &mut [T],
    ) {
        if self.conv.is_depthwise() {
            if std::mem::replace(write, Write::Add) == Write::Set {
                weights.fill(T::ZERO);
            }
            return self.depthwise_weights((x, dy), weights, buffer);
        }
        let images = dy.len() / self.output.numel();
        let stride = images * self.output.area();
        let (filters, taps) = (self.filters(), self.taps());
        for tile in self.tiles(images) {
            let (first, columns) = self.columns(tile);
            for group in 0..self.conv.groups {
                let dy = Matrix::rows(&dy[group * filters * stride + first..], filters, columns, stride);
                let weights = &mut weights[group * filters * taps..][..filters * taps];
                self.patches(Part { images, group, tile }, x, buffer, |patches| {
                    if self.is_thin() {
                        let mut sum = MatrixMut::rows(weights, taps, filters, filters);
                        gemm(&mut sum, patches, dy.transposed(), *write);
                    } else {
                        let mut sum = MatrixMut::rows(weights, filters, taps, taps);
                        gemm(&mut sum, dy, patches.transposed(), *write);
                    }
                });
            }
            *write = Write::Add;
        }
    }

    /// Sums the weights' partials in their order, and turns taps x filters to filters x taps.
    fn total_turned<T: Scalar>(&self, partials: &[T], sums: &mut [T]) {
        let (filters, taps) = (self.filters(), self.taps());
        // Filters are strided over in the partials: as many at once as share a cache line or two.
        const FILTERS: usize = 16;
        for (group, sums) in sums.chunks_exact_mut(filters * taps).enumerate() {
            sums.par_chunks_mut(FILTERS * taps).enumerate().for_each(|(chunk, rows)| {
                let count = rows.len() / taps;
                for tap in 0..taps {
                    let at = (group * taps + tap) * filters + chunk * FILTERS;
                    let mut sum = [T::ZERO; FILTERS];
                    for partial in partials.chunks_exact(self.partial_len()) {
                        sum.iter_mut().zip(&partial[at..at + count]).for_each(|(sum, &value)| *sum += value);
                    }
                    for (row, sum) in sum[..count].iter().enumerate() {
                        rows[row * taps + tap] = *sum;
                    }
                }
            });
        }
    }

    /// Sums the partials' numbers from a place on, in their order.
    fn total<T: Scalar>(&self, partials: &[T], from: usize, sums: &mut [T]) {
        const CHUNK: usize = 1 << 14;
        sums.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, sums)| {
            let at = from + chunk * CHUNK;
            sums.copy_from_slice(&partials[at..][..sums.len()]);
            for partial in partials.chunks_exact(self.partial_len()).skip(1) {
                sums.iter_mut().zip(&partial[at..]).for_each(|(sum, &value)| *sum += value);
            }
        });
    }

    /// Gradient of the input, set or added.
    pub(in crate::exec) fn backward_input<T: Scalar>(
        &self,
        blocks: Blocks,
        (weights, flipped): (&[T], &mut [T]),
        dy: &[T],
        (dx, write): (&mut [T], Write),
        scratch: &Scratch<T>,
    ) {
        if let Some(reverse) = self.reverse().filter(|_| self.flipping_pays(blocks)) {
            let flipped = &mut flipped[..self.weights()];
            self.flip(weights, flipped);
            return reverse.forward(blocks, dy, (flipped, None), (dx, write), scratch);
        }
        let pairs = dx.par_chunks_mut(blocks.len(self.input)).zip(dy.par_chunks(blocks.len(self.output)));
        pairs.for_each(|(dx, dy)| {
            if write == Write::Set {
                dx.fill(T::ZERO);
            }
            let images = dy.len() / self.output.numel();
            if self.conv.is_depthwise() {
                return scratch.with(self.depthwise_len(images), |buffer| {
                    self.depthwise_input((images, weights), (dy, dx), buffer);
                });
            }
            for tile in self.tiles(images) {
                let len = self.taps() * self.columns(tile).1;
                scratch.with(len, |buffer| self.scatter_tile((images, tile), weights, (dy, dx), buffer));
            }
        });
    }

    fn scatter_tile<T: Scalar>(
        &self,
        (images, tile): (usize, Tile),
        weights: &[T],
        (dy, dx): (&[T], &mut [T]),
        buffer: &mut [T],
    ) {
        let (first, columns) = self.columns(tile);
        let (filters, taps) = (self.filters(), self.taps());
        let stride = images * self.output.area();
        for group in 0..self.conv.groups {
            let weights = Matrix::rows(&weights[group * filters * taps..], filters, taps, taps).transposed();
            let dy = Matrix::rows(&dy[group * filters * stride + first..], filters, columns, stride);
            gemm(&mut MatrixMut::rows(buffer, taps, columns, columns), weights, dy, Write::Set);
            vectorised!(patches::scatter(self, Part { images, group, tile }, buffer, dx));
        }
    }

    /// At stride 1 the input's gradient (a depthwise one's aside) is itself a convolution of the output's, by the flipped kernel.
    fn reverse(&self) -> Option<Geometry> {
        let Conv { inputs, outputs, window, groups, .. } = self.conv;
        if window.stride != [1, 1] || self.conv.is_depthwise() {
            return None;
        }
        let ([rows, columns], Padding { top, left, bottom, right }) = (window.extent(), window.padding);
        let rest = |extent: usize, border: usize| (extent - 1).checked_sub(border);
        let padding = Padding {
            top: rest(rows, top)?,
            left: rest(columns, left)?,
            bottom: rest(rows, bottom)?,
            right: rest(columns, right)?,
        };
        let window = Window { padding, ..window };
        let conv = Conv { inputs: outputs, outputs: inputs, window, groups, bias: false };
        Some(Geometry { conv, input: self.output, output: self.input })
    }

    /// Flipping touches every weight at a stride; scattering touches every patch.
    fn flipping_pays(&self, blocks: Blocks) -> bool {
        self.conv.outputs <= blocks.batch * self.output.area()
    }

    /// Length of the flipped kernel's buffer.
    pub(in crate::exec) fn flipped_len(&self, blocks: Blocks) -> usize {
        if self.reverse().is_some() && self.flipping_pays(blocks) { self.weights() } else { 0 }
    }

    /// (group, output, input, tap) to (group, input, output, last tap - tap).
    fn flip<T: Scalar>(&self, weights: &[T], flipped: &mut [T]) {
        let (filters, area) = (self.filters(), self.conv.window.area());
        let inputs = self.conv.inputs / self.conv.groups;
        flipped.par_chunks_exact_mut(filters * area).enumerate().for_each(|(channel, kernels)| {
            let (group, input) = (channel / inputs, channel % inputs);
            for (filter, kernel) in kernels.chunks_exact_mut(area).enumerate() {
                let from = &weights[((group * filters + filter) * inputs + input) * area..][..area];
                kernel.iter_mut().zip(from.iter().rev()).for_each(|(to, &from)| *to = from);
            }
        });
    }
}
