//! Depthwise convolution, forward and backward: every output channel reads one input channel, so a matrix product would
//! have a single row. Each channel's planes are spread into rows of one length with their border of zeros, one plane
//! per phase of the stride; then every tap of the kernel is a plain shift of one long run of numbers.

use super::Geometry;
use super::patches::valid;
use crate::exec::gemm::Write;
use crate::exec::lanes::{sum2, vectorised};
use crate::exec::scalar::Scalar;
use crate::graph::Window;

/// Numbers that are worked on together.
const LANES: usize = 32;
/// Numbers in the spread planes of images that are worked on together, so that they stay in the cache.
const STACK: usize = 1 << 12;

/// How planes are spread.
#[derive(Debug, Clone, Copy)]
struct Spread<'a> {
    geometry: &'a Geometry,
    /// Rows of an image in one phase's plane: the output's, and those that its last windows reach into.
    rows: usize,
    /// Length of a row, likewise.
    pitch: usize,
    /// The largest shift of a tap.
    reach: usize,
}

/// A tap of the kernel: which phase's plane it reads, how far ahead.
#[derive(Debug, Clone, Copy)]
struct Tap {
    phase: usize,
    shift: usize,
}

impl<'a> Spread<'a> {
    fn of(geometry: &'a Geometry) -> Self {
        let Window { stride, .. } = geometry.conv.window;
        let extent = geometry.conv.window.extent();
        let over = [0, 1].map(|axis| (extent[axis] - 1) / stride[axis]);
        let (rows, pitch) = (geometry.output.height + over[0], geometry.output.width + over[1]);
        Self { geometry, rows, pitch, reach: over[0] * pitch + over[1] }
    }

    fn phases(&self) -> usize {
        self.geometry.conv.window.stride.iter().product()
    }

    /// Images that are worked on together.
    fn stack(&self, images: usize) -> usize {
        (STACK / (self.rows * self.pitch)).clamp(1, images)
    }

    /// Positions of one phase of so many images, rounded up to whole lanes.
    fn positions(&self, images: usize) -> usize {
        (images * self.rows * self.pitch).next_multiple_of(LANES)
    }

    /// Length of one phase of so many images, with room for the longest shift at the last position.
    fn phase_len(&self, images: usize) -> usize {
        self.positions(images) + self.reach.next_multiple_of(LANES)
    }

    /// Length of the buffer that any of the three passes needs.
    fn buffer_len(&self, images: usize) -> usize {
        (self.phases() + 1) * self.phase_len(self.stack(images))
    }

    /// The kernel's taps, row by row.
    fn taps(&self) -> Vec<Tap> {
        let Window { kernel, stride, dilation, .. } = self.geometry.conv.window;
        let tap = |index: usize| {
            let (row, column) = (index / kernel[1] * dilation[0], index % kernel[1] * dilation[1]);
            let phase = row % stride[0] * stride[1] + column % stride[1];
            Tap { phase, shift: row / stride[0] * self.pitch + column / stride[1] }
        };
        (0..kernel[0] * kernel[1]).map(tap).collect()
    }

    /// Calls `each` with every piece of an input row that a phase holds: its place in the phase of all images, and its
    /// first place and length in the planes. Within the planes its numbers are a horizontal stride apart.
    #[inline(always)]
    fn pieces(&self, phase: usize, images: usize, mut each: impl FnMut(usize, usize, usize)) {
        let Window { stride, padding, .. } = self.geometry.conv.window;
        let input = self.geometry.input;
        let (above, beside) = (phase / stride[1], phase % stride[1]);
        let rows = valid(above, (input.height, self.rows), (stride[0], padding.top));
        let (from, to) = valid(beside, (input.width, self.pitch), (stride[1], padding.left));
        if from == to {
            return;
        }
        for image in 0..images {
            for row in rows.0..rows.1 {
                let source = row * stride[0] + above - padding.top;
                let first = (image * input.height + source) * input.width + from * stride[1] + beside;
                each((image * self.rows + row) * self.pitch + from, first - padding.left, to - from);
            }
        }
    }

    /// Input planes to phases, zeros where there is no input.
    #[inline(always)]
    fn spread<T: Scalar>(&self, x: &[T], images: usize, phases: &mut [T]) {
        let step = self.geometry.conv.window.stride[1];
        phases.fill(T::ZERO);
        for (phase, to) in phases.chunks_exact_mut(self.phase_len(images)).enumerate() {
            self.pieces(phase, images, |place, first, len| {
                let to = &mut to[place..place + len];
                match step {
                    1 => to.iter_mut().zip(&x[first..]).for_each(|(to, &x)| *to = x),
                    _ => to.iter_mut().zip(x[first..].iter().step_by(step)).for_each(|(to, &x)| *to = x),
                }
            });
        }
    }

    /// Adds phases to the input planes that they were spread from.
    #[inline(always)]
    fn collect<T: Scalar>(&self, phases: &[T], images: usize, dx: &mut [T]) {
        let step = self.geometry.conv.window.stride[1];
        for (phase, from) in phases.chunks_exact(self.phase_len(images)).enumerate() {
            self.pieces(phase, images, |place, first, len| {
                let from = &from[place..place + len];
                match step {
                    1 => dx[first..].iter_mut().zip(from).for_each(|(dx, &value)| *dx += value),
                    _ => {
                        let places = dx[first..].iter_mut().step_by(step);
                        places.zip(from).for_each(|(dx, &value)| *dx += value);
                    }
                }
            });
        }
    }

    /// Output planes to rows of the phases' length, zeros between; they begin behind `ahead` zeros.
    #[inline(always)]
    fn spread_output<T: Scalar>(&self, dy: &[T], ahead: usize, spread: &mut [T]) {
        let (width, height) = (self.geometry.output.width, self.geometry.output.height);
        spread.fill(T::ZERO);
        for (row, dy) in dy.chunks_exact(width).enumerate() {
            let place = ahead + (row / height * self.rows + row % height) * self.pitch;
            spread[place..place + width].iter_mut().zip(dy).for_each(|(to, &dy)| *to = dy);
        }
    }

    /// The other way round: out of the rows' beginnings.
    #[inline(always)]
    fn collect_output<T: Scalar>(&self, spread: &[T], (y, write): (&mut [T], Write)) {
        let (width, height) = (self.geometry.output.width, self.geometry.output.height);
        for (row, y) in y.chunks_exact_mut(width).enumerate() {
            let from = &spread[(row / height * self.rows + row % height) * self.pitch..][..width];
            match write {
                Write::Set => y.iter_mut().zip(from).for_each(|(y, &value)| *y = value),
                Write::Add => y.iter_mut().zip(from).for_each(|(y, &value)| *y += value),
            }
        }
    }

    /// Calls `each` with every stack of one channel's images: how many, and their numbers' places among a channel's
    /// planes of this area.
    #[inline(always)]
    fn stacks(&self, images: usize, mut each: impl FnMut(usize, usize)) {
        let stack = self.stack(images);
        (0..images).step_by(stack).for_each(|first| each(first, stack.min(images - first)));
    }
}

/// `to[i]` is, or is raised by, the sum of `weight * from[place + i]` over the taps.
#[inline(always)]
fn correlate<T: Scalar>(from: &[T], taps: &[(usize, T)], to: &mut [T], write: Write) {
    for (index, to) in to.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
        let mut sums = match write {
            Write::Set => [T::ZERO; LANES],
            Write::Add => *to,
        };
        for &(place, weight) in taps {
            let from = &from[place + index * LANES..][..LANES];
            for lane in 0..LANES {
                sums[lane] += weight * from[lane];
            }
        }
        *to = sums;
    }
}

impl Geometry {
    /// Length of the buffer that a depthwise pass over a block of so many images needs.
    pub(super) fn depthwise_len(&self, images: usize) -> usize {
        Spread::of(self).buffer_len(images)
    }

    /// Forward pass over a block, without the bias.
    pub(super) fn depthwise_forward<T: Scalar>(
        &self,
        x: &[T],
        weights: &[T],
        (y, write): (&mut [T], Write),
        buffer: &mut [T],
    ) {
        let (spread, images) = (Spread::of(self), y.len() / self.output.numel());
        let (area, from_area, to_area) = (self.taps(), self.input.area(), self.output.area());
        let taps = spread.taps();
        let mut weighted = vec![(0, T::ZERO); area];
        vectorised!({
            spread.stacks(images, |first, stack| {
                let (phases, out) = buffer.split_at_mut(spread.phases() * spread.phase_len(stack));
                let out = &mut out[..spread.positions(stack)];
                for filter in 0..self.conv.outputs {
                    let channel = filter / self.filters();
                    if filter % self.filters() == 0 {
                        let x = &x[(channel * images + first) * from_area..][..stack * from_area];
                        spread.spread(x, stack, phases);
                    }
                    for ((to, tap), &weight) in weighted.iter_mut().zip(&taps).zip(&weights[filter * area..])
                    {
                        *to = (tap.phase * spread.phase_len(stack) + tap.shift, weight);
                    }
                    correlate(phases, &weighted, out, Write::Set);
                    let y = &mut y[(filter * images + first) * to_area..][..stack * to_area];
                    spread.collect_output(out, (y, write));
                }
            });
        });
    }

    /// The input's gradient of a block, added.
    pub(super) fn depthwise_input<T: Scalar>(
        &self,
        (images, weights): (usize, &[T]),
        (dy, dx): (&[T], &mut [T]),
        buffer: &mut [T],
    ) {
        let spread = Spread::of(self);
        let (area, from_area, to_area) = (self.taps(), self.input.area(), self.output.area());
        let taps = spread.taps();
        let mut weighted = Vec::with_capacity(area);
        vectorised!({
            spread.stacks(images, |first, stack| {
                let len = spread.phase_len(stack);
                let (phases, spread_dy) = buffer.split_at_mut(spread.phases() * len);
                let spread_dy = &mut spread_dy[..len];
                for filter in 0..self.conv.outputs {
                    let (channel, nth) = (filter / self.filters(), filter % self.filters());
                    let dy = &dy[(filter * images + first) * to_area..][..stack * to_area];
                    spread.spread_output(dy, spread.reach, spread_dy);
                    let write = if nth == 0 { Write::Set } else { Write::Add };
                    for (phase, to) in phases.chunks_exact_mut(len).enumerate() {
                        let own =
                            taps.iter().zip(&weights[filter * area..]).filter(|(tap, _)| tap.phase == phase);
                        weighted.clear();
                        weighted.extend(own.map(|(tap, &weight)| (spread.reach - tap.shift, weight)));
                        correlate(spread_dy, &weighted, &mut to[..spread.positions(stack)], write);
                    }
                    if nth + 1 == self.filters() {
                        let dx = &mut dx[(channel * images + first) * from_area..][..stack * from_area];
                        spread.collect(phases, stack, dx);
                    }
                }
            });
        });
    }

    /// The weights' gradient of a block, added.
    pub(super) fn depthwise_weights<T: Scalar>(
        &self,
        (x, dy): (&[T], &[T]),
        weights: &mut [T],
        buffer: &mut [T],
    ) {
        let (spread, images) = (Spread::of(self), dy.len() / self.output.numel());
        let (area, from_area, to_area) = (self.taps(), self.input.area(), self.output.area());
        let taps = spread.taps();
        vectorised!({
            spread.stacks(images, |first, stack| {
                let len = spread.phase_len(stack);
                let (phases, spread_dy) = buffer.split_at_mut(spread.phases() * len);
                let spread_dy = &mut spread_dy[..spread.positions(stack)];
                for (filter, weights) in weights.chunks_exact_mut(area).enumerate() {
                    if filter % self.filters() == 0 {
                        let channel = filter / self.filters();
                        let x = &x[(channel * images + first) * from_area..][..stack * from_area];
                        spread.spread(x, stack, phases);
                    }
                    let dy = &dy[(filter * images + first) * to_area..][..stack * to_area];
                    spread.spread_output(dy, 0, spread_dy);
                    for (weight, tap) in weights.iter_mut().zip(&taps) {
                        let x = &phases[tap.phase * len + tap.shift..][..spread_dy.len()];
                        *weight += sum2(x, spread_dy, |x, dy| x * dy);
                    }
                }
            });
        });
    }
}
