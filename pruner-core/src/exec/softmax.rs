//! Softmax over the channels at each position, and its gradient.

use rayon::prelude::*;

use super::blocks::Blocks;
use super::gemm::Write;
use super::lanes::vectorised;
use super::scalar::Scalar;
use crate::graph::Shape;

/// Positions that are worked on together; a channel's lie side by side.
const LANES: usize = 32;

/// exp(x) / sum of exp(x); the largest x is taken off first, so that none overflows.
pub(super) fn forward<T: Scalar>(blocks: Blocks, shape: Shape, x: &[T], y: &mut [T]) {
    let len = blocks.len(shape);
    y.par_chunks_mut(len).zip(x.par_chunks(len)).for_each(|(y, x)| {
        let run = x.len() / shape.channels;
        vectorised!({
            for start in (0..run).step_by(LANES) {
                forward_lanes((run, start), x, y);
            }
        });
    });
}

#[inline(always)]
fn forward_lanes<T: Scalar>((run, start): (usize, usize), x: &[T], y: &mut [T]) {
    let end = run.min(start + LANES);
    let (mut largest, mut sums) = ([T::ZERO; LANES], [T::ZERO; LANES]);
    largest[..end - start].copy_from_slice(&x[start..end]);
    for x in x.chunks_exact(run) {
        let lanes = largest.iter_mut().zip(&x[start..end]);
        lanes.for_each(|(largest, &x)| *largest = if x > *largest { x } else { *largest });
    }
    for (y, x) in y.chunks_exact_mut(run).zip(x.chunks_exact(run)) {
        let lanes = y[start..end].iter_mut().zip(&x[start..end]).zip(sums.iter_mut().zip(&largest));
        lanes.for_each(|((y, &x), (sum, &largest))| {
            *y = (x - largest).exp();
            *sum += *y;
        });
    }
    for y in y.chunks_exact_mut(run) {
        y[start..end].iter_mut().zip(&sums).for_each(|(y, &sum)| *y = *y / sum);
    }
}

/// The input's gradient: y (dy - sum of y dy).
pub(super) fn backward<T: Scalar>(
    blocks: Blocks,
    shape: Shape,
    (y, dy): (&[T], &[T]),
    (dx, write): (&mut [T], Write),
) {
    let len = blocks.len(shape);
    let work = dx.par_chunks_mut(len).zip(y.par_chunks(len)).zip(dy.par_chunks(len));
    work.for_each(|((dx, y), dy)| {
        let run = y.len() / shape.channels;
        vectorised!({
            for start in (0..run).step_by(LANES) {
                let lanes = start..run.min(start + LANES);
                let mut sums = [T::ZERO; LANES];
                for (y, dy) in y.chunks_exact(run).zip(dy.chunks_exact(run)) {
                    let given = y[lanes.clone()].iter().zip(&dy[lanes.clone()]);
                    sums.iter_mut().zip(given).for_each(|(sum, (&y, &dy))| *sum += y * dy);
                }
                let channels = dx.chunks_exact_mut(run).zip(y.chunks_exact(run)).zip(dy.chunks_exact(run));
                for ((dx, y), dy) in channels {
                    let given = y[lanes.clone()].iter().zip(&dy[lanes.clone()]).zip(&sums);
                    let pairs = dx[lanes.clone()].iter_mut().zip(given);
                    pairs.for_each(|(dx, ((&y, &dy), &sum))| match write {
                        Write::Set => *dx = y * (dy - sum),
                        Write::Add => *dx += y * (dy - sum),
                    });
                }
            }
        });
    });
}
