//! PReLU: a line through the origin that bends there by its channel's slope, or by one that all channels share.

use rayon::prelude::*;

use super::blocks::Blocks;
use super::gemm::Write;
use super::lanes::{sum2, vectorised};
use super::norm::Partials;
use super::scalar::Scalar;
use crate::graph::Shape;

/// The slope of one channel.
#[inline(always)]
fn slope_of<T: Scalar>(slopes: &[T], channel: usize) -> T {
    if slopes.len() == 1 { slopes[0] } else { slopes[channel] }
}

/// x where x > 0, else x times the slope.
pub(super) fn forward<T: Scalar>(blocks: Blocks, shape: Shape, x: &[T], slopes: &[T], y: &mut [T]) {
    let len = blocks.len(shape);
    y.par_chunks_mut(len).zip(x.par_chunks(len)).for_each(|(y, x)| {
        let run = x.len() / shape.channels;
        for (channel, (y, x)) in y.chunks_exact_mut(run).zip(x.chunks_exact(run)).enumerate() {
            let slope = slope_of(slopes, channel);
            vectorised!({
                y.iter_mut().zip(x).for_each(|(y, &x)| *y = if x > T::ZERO { x } else { slope * x });
            });
        }
    });
}

/// The slopes' gradients: summed within blocks, then over blocks and shared channels in their order.
pub(super) fn backward_slopes<T: Scalar>(
    blocks: Blocks,
    shape: Shape,
    (x, dy): (&[T], &[T]),
    gradients: &mut [T],
    partials: &mut Partials,
) {
    let (channels, len) = (shape.channels, blocks.len(shape));
    partials.clear();
    partials.resize(blocks.count() * channels, [0.0; 2]);
    let work = partials.par_chunks_exact_mut(channels).zip(x.par_chunks(len)).zip(dy.par_chunks(len));
    work.for_each(|((partials, x), dy)| {
        let run = x.len() / channels;
        for ((partial, x), dy) in partials.iter_mut().zip(x.chunks_exact(run)).zip(dy.chunks_exact(run)) {
            let below = |x: T, dy: T| if x > T::ZERO { T::ZERO } else { x * dy };
            partial[0] = vectorised!(sum2(x, dy, below)).to_f64();
        }
    });
    let mut sums = vec![0.0; gradients.len()];
    for (index, [partial, _]) in partials.iter().enumerate() {
        sums[if gradients.len() == 1 { 0 } else { index % channels }] += partial;
    }
    gradients.iter_mut().zip(sums).for_each(|(gradient, sum)| *gradient = T::from_f64(sum));
}

/// The input's gradient.
pub(super) fn backward<T: Scalar>(
    blocks: Blocks,
    shape: Shape,
    (x, slopes, dy): (&[T], &[T], &[T]),
    (dx, write): (&mut [T], Write),
) {
    let len = blocks.len(shape);
    let work = dx.par_chunks_mut(len).zip(x.par_chunks(len)).zip(dy.par_chunks(len));
    work.for_each(|((dx, x), dy)| {
        let run = x.len() / shape.channels;
        let runs = dx.chunks_exact_mut(run).zip(x.chunks_exact(run)).zip(dy.chunks_exact(run));
        for (channel, ((dx, x), dy)) in runs.enumerate() {
            let slope = slope_of(slopes, channel);
            let bent = |x: T, dy: T| if x > T::ZERO { dy } else { slope * dy };
            let given = dx.iter_mut().zip(x).zip(dy);
            vectorised!(match write {
                Write::Set => given.for_each(|((dx, &x), &dy)| *dx = bent(x, dy)),
                Write::Add => given.for_each(|((dx, &x), &dy)| *dx += bent(x, dy)),
            });
        }
    });
}
