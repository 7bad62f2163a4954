//! Pooling over windows, over whole channels, and the reordering that flattening is.

use rayon::prelude::*;

use super::blocks::Blocks;
use super::gemm::Write;
use super::scalar::Scalar;
use crate::graph::{Divisor, Padding, Shape, Window};

/// A pooling window on features of known shape.
#[derive(Debug, Clone)]
pub(super) struct Pool {
    input: Shape,
    output: Shape,
    /// Positions that a window reads, padding included.
    area: usize,
    /// The input positions of every output position's window, in row-major order, padding aside; window after window.
    places: Vec<usize>,
    /// Where each window begins among them, and behind the last window.
    starts: Vec<usize>,
}

impl Pool {
    pub(super) fn new(window: Window, input: Shape, output: Shape) -> Self {
        let (mut places, mut starts) = (Vec::new(), vec![0]);
        for index in 0..output.area() {
            let (row, column) = (index / output.width, index % output.width);
            for row in taps(&window, 0, row, input.height) {
                places.extend(taps(&window, 1, column, input.width).map(|column| row * input.width + column));
            }
            starts.push(places.len());
        }
        Self { input, output, area: window.area(), places, starts }
    }

    /// The window of every output position; never empty.
    #[inline(always)]
    fn windows(&self) -> impl Iterator<Item = &[usize]> {
        self.starts.windows(2).map(|bounds| &self.places[bounds[0]..bounds[1]])
    }

    /// Calls `each` with every (input plane, output plane) pair, blocks in parallel.
    fn planes<T: Scalar>(&self, blocks: Blocks, x: &[T], y: &mut [T], each: impl Fn(&[T], &mut [T]) + Sync) {
        let pairs = y.par_chunks_mut(blocks.len(self.output)).zip(x.par_chunks(blocks.len(self.input)));
        pairs.for_each(|(y, x)| {
            let planes = y.chunks_exact_mut(self.output.area()).zip(x.chunks_exact(self.input.area()));
            planes.for_each(|(y, x)| each(x, y));
        });
    }

    /// The largest number of each window.
    pub(super) fn max<T: Scalar>(&self, blocks: Blocks, x: &[T], y: &mut [T]) {
        self.planes(blocks, x, y, |x, y| {
            y.iter_mut().zip(self.windows()).for_each(|(y, window)| *y = x[largest(x, window)]);
        });
    }

    /// The mean of each window.
    pub(super) fn mean<T: Scalar>(&self, blocks: Blocks, divisor: Divisor, x: &[T], y: &mut [T]) {
        self.planes(blocks, x, y, |x, y| {
            for (y, window) in y.iter_mut().zip(self.windows()) {
                let sum = window.iter().fold(T::ZERO, |sum, &place| sum + x[place]);
                *y = sum * self.share(divisor, window);
            }
        });
    }

    /// One divided by what the sum of a window is divided by.
    #[inline(always)]
    fn share<T: Scalar>(&self, divisor: Divisor, window: &[usize]) -> T {
        let count = match divisor {
            Divisor::Window => self.area,
            Divisor::Inside => window.len(),
        };
        T::from_f64(1.0 / count as f64)
    }

    /// Gradient of [`Pool::max`]: all to the largest.
    pub(super) fn max_backward<T: Scalar>(
        &self,
        blocks: Blocks,
        (x, dy): (&[T], &[T]),
        (dx, write): (&mut [T], Write),
    ) {
        let (x_len, dy_len) = (blocks.len(self.input), blocks.len(self.output));
        let work = dx.par_chunks_mut(x_len).zip(x.par_chunks(x_len)).zip(dy.par_chunks(dy_len));
        work.for_each(|((dx, x), dy)| {
            let (area, planes) = (self.input.area(), dy.chunks_exact(self.output.area()));
            for ((dx, x), dy) in dx.chunks_exact_mut(area).zip(x.chunks_exact(area)).zip(planes) {
                clear(dx, write);
                dy.iter().zip(self.windows()).for_each(|(&dy, window)| dx[largest(x, window)] += dy);
            }
        });
    }

    /// Gradient of [`Pool::mean`].
    pub(super) fn mean_backward<T: Scalar>(
        &self,
        blocks: Blocks,
        divisor: Divisor,
        dy: &[T],
        (dx, write): (&mut [T], Write),
    ) {
        let work = dx.par_chunks_mut(blocks.len(self.input)).zip(dy.par_chunks(blocks.len(self.output)));
        work.for_each(|(dx, dy)| {
            let planes = dx.chunks_exact_mut(self.input.area()).zip(dy.chunks_exact(self.output.area()));
            for (dx, dy) in planes {
                clear(dx, write);
                for (&dy, window) in dy.iter().zip(self.windows()) {
                    let share = dy * self.share(divisor, window);
                    window.iter().for_each(|&place| dx[place] += share);
                }
            }
        });
    }
}

/// Where the largest number of a window is; the first of equals, a NaN before all.
#[inline(always)]
fn largest<T: Scalar>(x: &[T], window: &[usize]) -> usize {
    let (mut best, mut most, mut sum) = (window[0], x[window[0]], T::ZERO);
    for &place in window {
        let value = x[place];
        let within = value <= most;
        // Which is larger cannot be foretold, so this must become a selection, not a branch: that is why it is so plain.
        (best, most) = if within { (best, most) } else { (place, value) };
        sum += value;
    }
    // A NaN among the numbers, or infinities of both signs.
    if sum.to_f64().is_nan() {
        return window.iter().copied().find(|&place| x[place].to_f64().is_nan()).unwrap_or(best);
    }
    best
}

/// The input rows (axis 0) or columns (axis 1) that a window at an output row or column reads.
fn taps(window: &Window, axis: usize, at: usize, length: usize) -> impl Iterator<Item = usize> {
    let Window { kernel, stride, dilation, padding: Padding { top, left, .. } } = *window;
    let (corner, border) = (at * stride[axis], [top, left][axis]);
    let taps = (0..kernel[axis]).map(move |tap| corner + tap * dilation[axis]);
    taps.filter_map(move |place| place.checked_sub(border)).filter(move |&place| place < length)
}

fn clear<T: Scalar>(dx: &mut [T], write: Write) {
    match write {
        Write::Set => dx.fill(T::ZERO),
        Write::Add => {}
    }
}

/// The mean of each channel of each image; in blocks, the mean of each run of `area` numbers.
pub(super) fn global_mean<T: Scalar>(area: usize, x: &[T], y: &mut [T]) {
    let share = T::from_f64(1.0 / area as f64);
    for (y, x) in y.iter_mut().zip(x.chunks_exact(area)) {
        *y = x.iter().fold(T::ZERO, |sum, &x| sum + x) * share;
    }
}

/// Gradient of [`global_mean`].
pub(super) fn global_mean_backward<T: Scalar>(area: usize, dy: &[T], (dx, write): (&mut [T], Write)) {
    let share = T::from_f64(1.0 / area as f64);
    for (&dy, dx) in dy.iter().zip(dx.chunks_exact_mut(area)) {
        clear(dx, write);
        dx.iter_mut().for_each(|dx| *dx += dy * share);
    }
}

/// Inputs that become one vector: positions become channels, one input after the other.
#[derive(Debug, Clone)]
pub(super) struct Flatten {
    inputs: Vec<Shape>,
    length: usize,
}

impl Flatten {
    pub(super) fn of(inputs: impl Iterator<Item = Shape>) -> Self {
        let inputs: Vec<Shape> = inputs.collect();
        let length = inputs.iter().map(|shape| shape.numel()).sum();
        Self { inputs, length }
    }

    /// Within a block, channel x image x position to channel x position x image.
    pub(super) fn forward<T: Scalar>(&self, blocks: Blocks, which: usize, x: &[T], y: &mut [T]) {
        self.permute(blocks, which, |inner, outer| y[outer] = x[inner]);
    }

    /// Gradient of [`Flatten::forward`].
    pub(super) fn backward<T: Scalar>(
        &self,
        blocks: Blocks,
        which: usize,
        dy: &[T],
        (dx, write): (&mut [T], Write),
    ) {
        self.permute(blocks, which, |inner, outer| match write {
            Write::Set => dx[inner] = dy[outer],
            Write::Add => dx[inner] += dy[outer],
        });
    }

    /// Calls `each` with every number's place before and after.
    fn permute(&self, blocks: Blocks, which: usize, mut each: impl FnMut(usize, usize)) {
        let (shape, area) = (self.inputs[which], self.inputs[which].area());
        let ahead: usize = self.inputs[..which].iter().map(|shape| shape.numel()).sum();
        for block in 0..blocks.count() {
            let start = block * blocks.group;
            let images = blocks.group.min(blocks.batch - start);
            for index in 0..images * shape.numel() {
                let (channel, image, place) = (index / area / images, index / area % images, index % area);
                let feature = ahead + channel * area + place;
                each(start * shape.numel() + index, start * self.length + feature * images + image);
            }
        }
    }
}
