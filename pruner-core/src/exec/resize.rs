//! Features of another height and width, as ONNX's Resize has them, and borders of one number. A resize is one linear
//! map per axis, kept as the pairs of positions that it ties and their weights; its gradient is the same map reversed.

use rayon::prelude::*;

use super::blocks::Blocks;
use super::gemm::Write;
use super::scalar::Scalar;
use crate::graph::{self, Coordinates, Interpolation, Padding, Shape};

/// A resize of features of known shape.
#[derive(Debug, Clone)]
pub(super) struct Resize {
    input: Shape,
    output: Shape,
    rows: Vec<Tie>,
    columns: Vec<Tie>,
}

/// An output position reads an input position.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Tie {
    output: usize,
    input: usize,
    weight: f64,
}

/// Every input position of a plane with the output position that reads it, and the weight.
pub(crate) fn resize_ties(resize: &graph::Resize, input: Shape, output: Shape) -> Vec<(usize, usize, f64)> {
    let mut ties = Vec::new();
    Resize::new(resize, input, output).ties(|from, to, weight| ties.push((from, to, weight)));
    ties
}

impl Resize {
    pub(super) fn new(resize: &graph::Resize, input: Shape, output: Shape) -> Self {
        let step = |axis: usize| resize.step.map(|step| f64::from(step[axis]));
        let rows = ties(resize, (input.height, output.height), step(0));
        let columns = ties(resize, (input.width, output.width), step(1));
        Self { input, output, rows, columns }
    }

    /// Calls `each` with every input position of a plane, the output position that reads it, and the weight.
    #[inline(always)]
    fn ties<T: Scalar>(&self, mut each: impl FnMut(usize, usize, T)) {
        for row in &self.rows {
            let (from, to) = (row.input * self.input.width, row.output * self.output.width);
            for column in &self.columns {
                each(from + column.input, to + column.output, T::from_f64(row.weight * column.weight));
            }
        }
    }

    /// The features at the new size.
    pub(super) fn forward<T: Scalar>(&self, blocks: Blocks, x: &[T], y: &mut [T]) {
        let pairs = y.par_chunks_mut(blocks.len(self.output)).zip(x.par_chunks(blocks.len(self.input)));
        pairs.for_each(|(y, x)| {
            y.fill(T::ZERO);
            for (y, x) in y.chunks_exact_mut(self.output.area()).zip(x.chunks_exact(self.input.area())) {
                self.ties(|from, to, weight| y[to] += x[from] * weight);
            }
        });
    }

    /// Gradient of [`Resize::forward`].
    pub(super) fn backward<T: Scalar>(&self, blocks: Blocks, dy: &[T], (dx, write): (&mut [T], Write)) {
        let pairs = dx.par_chunks_mut(blocks.len(self.input)).zip(dy.par_chunks(blocks.len(self.output)));
        pairs.for_each(|(dx, dy)| {
            if write == Write::Set {
                dx.fill(T::ZERO);
            }
            for (dx, dy) in dx.chunks_exact_mut(self.input.area()).zip(dy.chunks_exact(self.output.area())) {
                self.ties(|from, to, weight| dx[from] += dy[to] * weight);
            }
        });
    }
}

/// Which input positions the positions of an axis read, and with which weight; those of weight 0 are left out, so that
/// what is not finite there does not spread.
fn ties(resize: &graph::Resize, (input, output): (usize, usize), step: Option<f64>) -> Vec<Tie> {
    let last = (input - 1) as f64;
    let mut ties = Vec::with_capacity(2 * output);
    for place in 0..output {
        let at = coordinate(resize.coordinates, place, (input, output), step);
        let nearest = |at: f64| Tie { output: place, input: at.clamp(0.0, last) as usize, weight: 1.0 };
        match resize.interpolation {
            Interpolation::NearestFloor => ties.push(nearest(at.floor())),
            Interpolation::NearestPreferFloor => ties.push(nearest((at - 0.5).ceil())),
            Interpolation::Linear => {
                let at = at.clamp(0.0, last);
                let (below, above) = (at.floor(), at - at.floor());
                ties.push(Tie { weight: 1.0 - above, ..nearest(below) });
                if above > 0.0 {
                    ties.push(Tie { weight: above, ..nearest(below + 1.0) });
                }
            }
        }
    }
    ties
}

/// The input coordinate of an output position. Without a given step, products come before the division, so that a
/// coordinate that is a whole number comes out as one.
fn coordinate(
    coordinates: Coordinates,
    place: usize,
    (input, output): (usize, usize),
    step: Option<f64>,
) -> f64 {
    let stepped = |place: f64| step.map_or(place * input as f64 / output as f64, |step| place * step);
    let place = place as f64;
    match coordinates {
        Coordinates::PytorchHalfPixel if output == 1 => 0.0,
        Coordinates::HalfPixel | Coordinates::PytorchHalfPixel => stepped(place + 0.5) - 0.5,
        Coordinates::Asymmetric => stepped(place),
        Coordinates::AlignCorners if output == 1 => 0.0,
        Coordinates::AlignCorners => place * (input - 1) as f64 / (output - 1) as f64,
    }
}

/// A border of one number around features of known shape.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pad {
    pub(super) border: Padding,
    pub(super) value: f32,
    pub(super) input: Shape,
    pub(super) output: Shape,
}

impl Pad {
    /// Where an input row's numbers lie in an output plane.
    fn place(&self, row: usize) -> usize {
        (row + self.border.top) * self.output.width + self.border.left
    }

    /// The features within their border.
    pub(super) fn forward<T: Scalar>(&self, blocks: Blocks, x: &[T], y: &mut [T]) {
        let width = self.input.width;
        let pairs = y.par_chunks_mut(blocks.len(self.output)).zip(x.par_chunks(blocks.len(self.input)));
        pairs.for_each(|(y, x)| {
            y.fill(T::from_f32(self.value));
            for (y, x) in y.chunks_exact_mut(self.output.area()).zip(x.chunks_exact(self.input.area())) {
                for (row, x) in x.chunks_exact(width).enumerate() {
                    y[self.place(row)..][..width].copy_from_slice(x);
                }
            }
        });
    }

    /// The gradient inside the border.
    pub(super) fn backward<T: Scalar>(&self, blocks: Blocks, dy: &[T], (dx, write): (&mut [T], Write)) {
        let width = self.input.width;
        let pairs = dx.par_chunks_mut(blocks.len(self.input)).zip(dy.par_chunks(blocks.len(self.output)));
        pairs.for_each(|(dx, dy)| {
            for (dx, dy) in dx.chunks_exact_mut(self.input.area()).zip(dy.chunks_exact(self.output.area())) {
                for (row, dx) in dx.chunks_exact_mut(width).enumerate() {
                    let dy = &dy[self.place(row)..][..width];
                    match write {
                        Write::Set => dx.copy_from_slice(dy),
                        Write::Add => dx.iter_mut().zip(dy).for_each(|(dx, &dy)| *dx += dy),
                    }
                }
            }
        });
    }
}
