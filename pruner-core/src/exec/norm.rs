//! Batch norm, with the ReLU or clip behind it if that is its only reader. Statistics are taken per block in two passes
//! and merged over blocks in their order (Chan, Golub and LeVeque 1979), in f64.

use rayon::prelude::*;

use super::blocks::Blocks;
use super::gemm::Write;
use super::lanes::{sum, sum2, vectorised};
use super::pointwise::{Bounds, Fused};
use super::scalar::Scalar;
use crate::graph::Shape;

/// The share of the newest batch in the running statistics, as PyTorch's default.
const MOMENTUM: f64 = 0.1;

/// A batch norm on features of known shape.
#[derive(Debug, Clone, Copy)]
pub(super) struct Norm {
    pub(super) shape: Shape,
    pub(super) eps: f64,
    pub(super) fused: Fused,
}

/// Which statistics the last forward pass used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Statistics {
    Batch,
    Running,
}

/// Mean and 1 / sqrt(variance + eps) per channel, as the last forward pass used them.
#[derive(Debug, Clone, Default)]
pub(super) struct Moments {
    mean: Vec<f64>,
    inverse_deviation: Vec<f64>,
}

/// Trained parameters per channel.
#[derive(Clone, Copy)]
pub(super) struct Affine<'a, T> {
    pub(super) scale: &'a [T],
    pub(super) shift: &'a [T],
}

/// Running statistics per channel.
pub(super) struct Running<'a, T> {
    pub(super) mean: &'a mut [T],
    pub(super) var: &'a mut [T],
}

/// A pair of sums per block and channel.
pub(super) type Partials = Vec<[f64; 2]>;

impl Norm {
    /// Takes the moments from the running statistics.
    pub(super) fn use_running<T: Scalar>(&self, (mean, var): (&[T], &[T]), moments: &mut Moments) {
        moments.mean.clear();
        moments.mean.extend(mean.iter().map(|mean| mean.to_f64()));
        moments.inverse_deviation.clear();
        moments.inverse_deviation.extend(var.iter().map(|var| 1.0 / (var.to_f64() + self.eps).sqrt()));
    }

    /// Measures the moments of a batch, and moves the running statistics towards them (variance over n - 1 there).
    pub(super) fn measure<T: Scalar>(
        &self,
        blocks: Blocks,
        x: &[T],
        running: Running<'_, T>,
        moments: &mut Moments,
        partials: &mut Partials,
    ) {
        let channels = self.shape.channels;
        partials.clear();
        partials.resize(blocks.count() * channels, [0.0; 2]);
        let work = partials.par_chunks_exact_mut(channels).zip(x.par_chunks(blocks.len(self.shape)));
        work.for_each(|(partials, x)| vectorised!(measure_block(x, partials)));
        moments.mean.resize(channels, 0.0);
        moments.inverse_deviation.resize(channels, 0.0);
        let count = (blocks.batch * self.shape.area()) as f64;
        for channel in 0..channels {
            let (mean, squares) = self.merge(blocks, partials, channel);
            moments.mean[channel] = mean;
            moments.inverse_deviation[channel] = 1.0 / (squares / count + self.eps).sqrt();
            let towards = |old: T, new: f64| T::from_f64((1.0 - MOMENTUM) * old.to_f64() + MOMENTUM * new);
            running.mean[channel] = towards(running.mean[channel], mean);
            running.var[channel] = towards(running.var[channel], squares / (count - 1.0).max(1.0));
        }
    }

    /// Mean and summed squared deviations of one channel, from its blocks' own.
    fn merge(&self, blocks: Blocks, partials: &Partials, channel: usize) -> (f64, f64) {
        let (mut count, mut mean, mut squares) = (0.0, 0.0, 0.0);
        for block in 0..blocks.count() {
            let [block_mean, block_squares] = partials[block * self.shape.channels + channel];
            let images = blocks.group.min(blocks.batch - block * blocks.group);
            let block_count = (images * self.shape.area()) as f64;
            let (total, delta) = (count + block_count, block_mean - mean);
            mean += delta * block_count / total;
            squares += block_squares + delta * delta * count * block_count / total;
            count = total;
        }
        (mean, squares)
    }

    /// `y = fused((x - mean) * inverse_deviation * scale + shift)`.
    pub(super) fn forward<T: Scalar>(
        &self,
        blocks: Blocks,
        x: &[T],
        affine: Affine<'_, T>,
        y: &mut [T],
        moments: &Moments,
    ) {
        let len = blocks.len(self.shape);
        y.par_chunks_mut(len).zip(x.par_chunks(len)).for_each(|(y, x)| {
            let run = x.len() / self.shape.channels;
            for (channel, (y, x)) in y.chunks_exact_mut(run).zip(x.chunks_exact(run)).enumerate() {
                let factor = moments.inverse_deviation[channel] * affine.scale[channel].to_f64();
                let offset = affine.shift[channel].to_f64() - moments.mean[channel] * factor;
                let (factor, offset) = (T::from_f64(factor), T::from_f64(offset));
                vectorised!(match self.fused {
                    Fused::Identity => scale_run(x, y, |x| x * factor + offset),
                    Fused::Clip { min, max } => {
                        let bounds = Bounds::new(min, max);
                        scale_run(x, y, |x| bounds.hold(x * factor + offset));
                    }
                });
            }
        });
    }

    /// Sums per channel what the parameter gradients and the batch statistics' part of the input gradient need:
    /// the output's gradient dz (behind the activation), and dz times the normalised input.
    pub(super) fn reduce<T: Scalar>(
        &self,
        blocks: Blocks,
        (x, y, dy): (&[T], &[T], &[T]),
        moments: &Moments,
        partials: &mut Partials,
    ) {
        let (channels, len) = (self.shape.channels, blocks.len(self.shape));
        partials.clear();
        partials.resize(blocks.count() * channels, [0.0; 2]);
        let work = x.par_chunks(len).zip(y.par_chunks(len)).zip(dy.par_chunks(len));
        partials.par_chunks_exact_mut(channels).zip(work).for_each(|(partials, ((x, y), dy))| {
            let run = x.len() / channels;
            for (channel, partial) in partials.iter_mut().enumerate() {
                let at = channel * run..(channel + 1) * run;
                let (x, y, dy) = (&x[at.clone()], &y[at.clone()], &dy[at]);
                let mean = T::from_f64(moments.mean[channel]);
                let [sum, product] = vectorised!(match self.fused {
                    Fused::Identity => reduce_run(x, dy, mean),
                    Fused::Clip { min, max } => reduce_clipped_run((x, y, dy), mean, Bounds::new(min, max)),
                });
                *partial = [sum.to_f64(), product.to_f64() * moments.inverse_deviation[channel]];
            }
        });
        let (sums, rest) = partials.split_at_mut(channels);
        for block in rest.chunks_exact(channels) {
            for (sum, partial) in sums.iter_mut().zip(block) {
                sum[0] += partial[0];
                sum[1] += partial[1];
            }
        }
    }

    /// The input's gradient, from the sums that [`Norm::reduce`] left in the first `channels` partials.
    pub(super) fn backward<T: Scalar>(
        &self,
        blocks: Blocks,
        (x, y, dy): (&[T], &[T], &[T]),
        (scale, moments, statistics): (&[T], &Moments, Statistics),
        sums: &[[f64; 2]],
        (dx, write): (&mut [T], Write),
    ) {
        let (len, count) = (blocks.len(self.shape), (blocks.batch * self.shape.area()) as f64);
        let work = x.par_chunks(len).zip(y.par_chunks(len)).zip(dy.par_chunks(len));
        dx.par_chunks_mut(len).zip(work).for_each(|(dx, ((x, y), dy))| {
            let run = x.len() / self.shape.channels;
            for channel in 0..self.shape.channels {
                let at = channel * run..(channel + 1) * run;
                let (x, y, dy, dx) = (&x[at.clone()], &y[at.clone()], &dy[at.clone()], &mut dx[at]);
                let (mean, inverse) = (moments.mean[channel], moments.inverse_deviation[channel]);
                let factor = inverse * scale[channel].to_f64();
                // dx = factor (dz - mean(dz) - xhat mean(dz xhat)), as dz * factor + x * slope + offset.
                let [sum, product] = match statistics {
                    Statistics::Batch => sums[channel],
                    Statistics::Running => [0.0; 2],
                };
                let slope = -factor * inverse * product / count;
                let offset = -factor * sum / count - slope * mean;
                let terms = [factor, slope, offset].map(T::from_f64);
                vectorised!(match (self.fused, write) {
                    (Fused::Identity, Write::Set) => {
                        backward_run((x, x, dy), terms, dx, |_| true, |_, new| new)
                    }
                    (Fused::Identity, Write::Add) => {
                        backward_run((x, x, dy), terms, dx, |_| true, |old, new| old + new);
                    }
                    (Fused::Clip { min, max }, Write::Set) => {
                        let bounds = Bounds::new(min, max);
                        backward_run((x, y, dy), terms, dx, |y| bounds.passes(y), |_, new| new);
                    }
                    (Fused::Clip { min, max }, Write::Add) => {
                        let bounds = Bounds::new(min, max);
                        backward_run((x, y, dy), terms, dx, |y| bounds.passes(y), |old, new| old + new);
                    }
                });
            }
        });
    }
}

/// Mean and summed squared deviations of each channel of one block.
#[inline(always)]
fn measure_block<T: Scalar>(x: &[T], partials: &mut [[f64; 2]]) {
    let run = x.len() / partials.len();
    for (x, partial) in x.chunks_exact(run).zip(partials) {
        let mean = sum(x, |x| x).to_f64() / run as f64;
        let rounded = T::from_f64(mean);
        let squares = sum(x, |x| (x - rounded) * (x - rounded)).to_f64();
        *partial = [mean, squares];
    }
}

#[inline(always)]
fn scale_run<T: Scalar>(x: &[T], y: &mut [T], f: impl Fn(T) -> T) {
    y.iter_mut().zip(x).for_each(|(y, &x)| *y = f(x));
}

#[inline(always)]
fn reduce_run<T: Scalar>(x: &[T], dy: &[T], mean: T) -> [T; 2] {
    [sum(dy, |dy| dy), sum2(x, dy, |x, dy| dy * (x - mean))]
}

#[inline(always)]
fn reduce_clipped_run<T: Scalar>((x, y, dy): (&[T], &[T], &[T]), mean: T, bounds: Bounds<T>) -> [T; 2] {
    const LANES: usize = 32;
    let active = |y: T, dy: T| if bounds.passes(y) { dy } else { T::ZERO };
    let (mut sums, mut products) = ([T::ZERO; LANES], [T::ZERO; LANES]);
    let (x_chunks, x_rest) = x.as_chunks::<LANES>();
    let (y_chunks, y_rest) = y.as_chunks::<LANES>();
    let (dy_chunks, dy_rest) = dy.as_chunks::<LANES>();
    for ((x, y), dy) in x_chunks.iter().zip(y_chunks).zip(dy_chunks) {
        for lane in 0..LANES {
            let dz = active(y[lane], dy[lane]);
            sums[lane] += dz;
            products[lane] += dz * (x[lane] - mean);
        }
    }
    for (lane, ((&x, &y), &dy)) in x_rest.iter().zip(y_rest).zip(dy_rest).enumerate() {
        let dz = active(y, dy);
        sums[lane] += dz;
        products[lane] += dz * (x - mean);
    }
    [sum(&sums, |value| value), sum(&products, |value| value)]
}

#[inline(always)]
fn backward_run<T: Scalar>(
    (x, y, dy): (&[T], &[T], &[T]),
    [factor, slope, offset]: [T; 3],
    dx: &mut [T],
    is_active: impl Fn(T) -> bool,
    put: impl Fn(T, T) -> T,
) {
    for (((dx, &x), &y), &dy) in dx.iter_mut().zip(x).zip(y).zip(dy) {
        let dz = if is_active(y) { dy } else { T::ZERO };
        *dx = put(*dx, dz * factor + x * slope + offset);
    }
}
