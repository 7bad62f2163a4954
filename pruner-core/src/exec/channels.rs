//! Channels that change places and nothing else: concatenation, slices, shuffles. In a block a channel is one run of
//! numbers, so each is a list of runs to copy, and its gradient the same list the other way.

use rayon::prelude::*;

use super::blocks::Blocks;
use super::gemm::Write;
use super::scalar::Scalar;
use crate::graph::Shape;

/// Which channels of each input become which of the output.
#[derive(Debug, Clone)]
pub(super) struct Rearrangement {
    inputs: Vec<(Shape, Vec<Move>)>,
    output: Shape,
}

/// Consecutive channels.
#[derive(Debug, Clone, Copy)]
struct Move {
    from: usize,
    to: usize,
    count: usize,
}

impl Rearrangement {
    /// One input after the other.
    pub(super) fn concat(inputs: impl Iterator<Item = Shape>, output: Shape) -> Self {
        let after = |to: &mut usize, shape: Shape| {
            let all = Move { from: 0, to: *to, count: shape.channels };
            *to += shape.channels;
            Some((shape, vec![all]))
        };
        Self { inputs: inputs.scan(0, after).collect(), output }
    }

    /// The output's channels are the input's from `start` on.
    pub(super) fn slice(start: usize, input: Shape, output: Shape) -> Self {
        let range = Move { from: start, to: 0, count: output.channels };
        Self { inputs: vec![(input, vec![range])], output }
    }

    /// Channels seen as `groups` x n, transposed.
    pub(super) fn shuffle(groups: usize, shape: Shape) -> Self {
        let each = shape.channels / groups;
        let source = |to: usize| Move { from: to % groups * each + to / groups, to, count: 1 };
        Self { inputs: vec![(shape, (0..shape.channels).map(source).collect())], output: shape }
    }

    /// Copies the channels of one input to their places.
    pub(super) fn forward<T: Scalar>(&self, blocks: Blocks, which: usize, x: &[T], y: &mut [T]) {
        let (input, moves) = &self.inputs[which];
        let pairs = y.par_chunks_mut(blocks.len(self.output)).zip(x.par_chunks(blocks.len(*input)));
        pairs.for_each(|(y, x)| {
            let run = x.len() / input.channels;
            for Move { from, to, count } in moves {
                y[to * run..][..count * run].copy_from_slice(&x[from * run..][..count * run]);
            }
        });
    }

    /// The gradient of one input.
    pub(super) fn backward<T: Scalar>(
        &self,
        blocks: Blocks,
        which: usize,
        dy: &[T],
        (dx, write): (&mut [T], Write),
    ) {
        let (input, moves) = &self.inputs[which];
        let is_whole = moves.iter().map(|range| range.count).sum::<usize>() == input.channels;
        let pairs = dx.par_chunks_mut(blocks.len(*input)).zip(dy.par_chunks(blocks.len(self.output)));
        pairs.for_each(|(dx, dy)| {
            let run = dx.len() / input.channels;
            if write == Write::Set && !is_whole {
                dx.fill(T::ZERO);
            }
            for Move { from, to, count } in moves {
                let (dx, dy) = (&mut dx[from * run..][..count * run], &dy[to * run..][..count * run]);
                match write {
                    Write::Set => dx.copy_from_slice(dy),
                    Write::Add => dx.iter_mut().zip(dy).for_each(|(dx, &dy)| *dx += dy),
                }
            }
        });
    }
}
