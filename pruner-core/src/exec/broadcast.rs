//! Two inputs number by number, where a dimension of 1 is repeated along the other's; its gradient is summed there.

use std::ops::Range;

use rayon::prelude::*;

use super::blocks::Blocks;
use super::gemm::Write;
use super::lanes::{sum2, vectorised};
use super::scalar::Scalar;
use crate::graph::{Binary, Shape};

/// An operator on features of known shapes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Broadcast {
    pub(super) op: Binary,
    pub(super) inputs: [Shape; 2],
    pub(super) output: Shape,
}

impl Broadcast {
    /// Numbers that lie together in the output and, unless they are one number repeated, in both inputs: a whole
    /// plane, else a row.
    fn line(&self) -> usize {
        let Shape { height, width, .. } = self.output;
        let whole = |shape: &Shape| shape.area() == 1 || (shape.height, shape.width) == (height, width);
        if self.inputs.iter().all(whole) { height * width } else { width }
    }

    /// Calls `each` with the place of every line of a block, in the output and in the inputs.
    #[inline(always)]
    fn lines(&self, images: usize, mut each: impl FnMut(Range<usize>, [Range<usize>; 2])) {
        let line = self.line();
        let rows = self.output.area() / line;
        for channel in 0..self.output.channels {
            for image in 0..images {
                for row in 0..rows {
                    let place = |shape: Shape| {
                        let channel = if shape.channels == 1 { 0 } else { channel };
                        let row = if shape.height == 1 { 0 } else { row };
                        let start = (channel * images + image) * shape.area() + row * shape.width;
                        start..start + if rows == 1 { shape.area() } else { shape.width }
                    };
                    let at = ((channel * images + image) * rows + row) * line;
                    each(at..at + line, self.inputs.map(place));
                }
            }
        }
    }

    /// The operator's result.
    pub(super) fn forward<T: Scalar>(&self, blocks: Blocks, [a, b]: [&[T]; 2], y: &mut [T]) {
        let [a_len, b_len] = self.inputs.map(|shape| blocks.len(shape));
        let inputs = a.par_chunks(a_len).zip(b.par_chunks(b_len));
        y.par_chunks_mut(blocks.len(self.output)).zip(inputs).for_each(|(y, (a, b))| {
            vectorised!({
                self.lines(y.len() / self.output.numel(), |line, [of_a, of_b]| {
                    self.forward_line(&a[of_a], &b[of_b], &mut y[line]);
                });
            });
        });
    }

    #[inline(always)]
    fn forward_line<T: Scalar>(&self, a: &[T], b: &[T], y: &mut [T]) {
        match self.op {
            Binary::Add => combine(a, b, y, |a, b| a + b),
            Binary::Sub => combine(a, b, y, |a, b| a - b),
            Binary::Mul => combine(a, b, y, |a, b| a * b),
            Binary::Div => combine(a, b, y, |a, b| a / b),
        }
    }

    /// Gradient of input `which`, from both inputs and the output's gradient.
    pub(super) fn backward<T: Scalar>(
        &self,
        blocks: Blocks,
        which: usize,
        (inputs, dy): ([&[T]; 2], &[T]),
        (dx, write): (&mut [T], Write),
    ) {
        let (own, other) = (inputs[which], inputs[1 - which]);
        let (own_len, other_len) = (blocks.len(self.inputs[which]), blocks.len(self.inputs[1 - which]));
        let given = own.par_chunks(own_len).zip(other.par_chunks(other_len));
        let work = dx.par_chunks_mut(own_len).zip(given).zip(dy.par_chunks(blocks.len(self.output)));
        work.for_each(|((dx, (own, other)), dy)| {
            if write == Write::Set {
                dx.fill(T::ZERO);
            }
            vectorised!({
                self.lines(dy.len() / self.output.numel(), |line, places| {
                    let (at, beside) = (places[which].clone(), places[1 - which].clone());
                    self.backward_line(which, (&own[at.clone()], &other[beside]), &dy[line], &mut dx[at]);
                });
            });
        });
    }

    #[inline(always)]
    fn backward_line<T: Scalar>(&self, which: usize, given: (&[T], &[T]), dy: &[T], dx: &mut [T]) {
        match (self.op, which) {
            (Binary::Add, _) | (Binary::Sub, 0) => accumulate(given, dy, dx, |_, _, dy| dy),
            (Binary::Sub, _) => accumulate(given, dy, dx, |_, _, dy| -dy),
            (Binary::Mul, _) => accumulate(given, dy, dx, |_, other, dy| dy * other),
            (Binary::Div, 0) => accumulate(given, dy, dx, |_, below, dy| dy / below),
            (Binary::Div, _) => accumulate(given, dy, dx, |own, above, dy| -dy * above / (own * own)),
        }
    }
}

/// `f` of two lines, of which one may be a single number.
#[inline(always)]
fn combine<T: Scalar>(a: &[T], b: &[T], y: &mut [T], f: impl Fn(T, T) -> T) {
    if a.len() == b.len() {
        y.iter_mut().zip(a).zip(b).for_each(|((y, &a), &b)| *y = f(a, b));
    } else if let [b] = *b {
        y.iter_mut().zip(a).for_each(|(y, &a)| *y = f(a, b));
    } else {
        let a = a[0];
        y.iter_mut().zip(b).for_each(|(y, &b)| *y = f(a, b));
    }
}

/// Adds `f(own, other, dy)` to a line, or its sum to a single number.
#[inline(always)]
fn accumulate<T: Scalar>((own, other): (&[T], &[T]), dy: &[T], dx: &mut [T], f: impl Fn(T, T, T) -> T) {
    if own.len() == other.len() {
        let given = own.iter().zip(other).zip(dy);
        dx.iter_mut().zip(given).for_each(|(dx, ((&own, &other), &dy))| *dx += f(own, other, dy));
    } else if let [other] = *other {
        dx.iter_mut().zip(own).zip(dy).for_each(|((dx, &own), &dy)| *dx += f(own, other, dy));
    } else {
        let own = own[0];
        dx[0] += sum2(other, dy, |other, dy| f(own, other, dy));
    }
}
