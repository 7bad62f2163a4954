//! Where a convolution's numbers lie: the only place that knows kernels, strides and paddings. Features are spread into
//! planes with their padding, one plane per remainder of the stride, so that under every tap all positions that it
//! reads are one contiguous run. The kernels then see offsets only.

use rayon::prelude::*;

use super::split::fewest;
use crate::graph::{Conv, Shape, Window};

/// Numbers beyond a row's end that a kernel may read or write.
pub(super) const SLACK: usize = 96;

/// A convolution or linear layer on features of known shape.
#[derive(Debug, Clone)]
pub(super) struct Geometry {
    pub(super) groups: usize,
    pub(super) input: Shape,
    pub(super) output: Shape,
    /// Per tap, in the kernel's row-major order: where its first position lies in a channel's planes.
    pub(super) taps: Vec<usize>,
    /// Planes that some tap reads.
    pub(super) planes: Vec<Plane>,
    /// Length of one plane.
    pub(super) plane: usize,
    /// Length of all planes of one channel.
    pub(super) channel: usize,
    /// Distance of two rows, of planes as of outputs.
    pub(super) pitch: usize,
    /// From the first output position to the last, at that pitch.
    pub(super) span: usize,
    axes: [Axis; 2],
}

/// One plane: the padded positions that leave the same remainders when divided by the strides.
#[derive(Debug, Clone)]
pub(super) struct Plane {
    remainders: [usize; 2],
    /// Which taps read it.
    pub(super) taps: Vec<usize>,
    /// The first position that is no padding, and how many there are from it to the last.
    pub(super) inside: (usize, usize),
}

/// A kernel along rows or columns.
#[derive(Debug, Clone, Copy)]
struct Axis {
    kernel: usize,
    stride: usize,
    /// Before the first position.
    padding: usize,
    /// Behind the last.
    after: usize,
    dilation: usize,
}

impl Axis {
    /// The plane's remainder and the place in it of padded position `at`.
    fn split(self, at: usize) -> (usize, usize) {
        (at % self.stride, at / self.stride)
    }

    /// The first and last place that is no padding among those of that remainder; none where all are padding.
    fn inside(self, remainder: usize, len: usize) -> Option<(usize, usize)> {
        let mut places =
            (0..len).map(|at| self.split(at + self.padding)).filter(|(other, _)| *other == remainder);
        let (_, first) = places.next()?;
        Some((first, places.next_back().map_or(first, |(_, last)| last)))
    }
}

impl Geometry {
    /// Of a convolution.
    pub(super) fn conv(conv: Conv, input: Shape, output: Shape) -> Self {
        let Window { kernel, stride, dilation, padding } = conv.window;
        let borders = [(padding.top, padding.bottom), (padding.left, padding.right)];
        let axis = |at: usize| {
            let (padding, after) = borders[at];
            Axis { kernel: kernel[at], stride: stride[at], padding, after, dilation: dilation[at] }
        };
        Self::new([axis(0), axis(1)], conv.groups, input, output)
    }

    /// Of a linear layer.
    pub(super) fn linear(inputs: usize, outputs: usize) -> Self {
        let axis = Axis { kernel: 1, stride: 1, padding: 0, after: 0, dilation: 1 };
        Self::new([axis; 2], 1, Shape::vector(inputs), Shape::vector(outputs))
    }

    fn new(axes: [Axis; 2], groups: usize, input: Shape, output: Shape) -> Self {
        let [rows, columns] = axes;
        // With a step of 1 the padding right of a row serves as the padding left of the next.
        let shared = if columns.stride == 1 {
            columns.padding.max(columns.after)
        } else {
            columns.padding + columns.after
        };
        let pitch = (input.width + shared).div_ceil(columns.stride).max(output.width);
        let height = (input.height + rows.padding + rows.after).div_ceil(rows.stride);
        let plane = height * pitch + shared;
        let mut planes: Vec<Plane> = Vec::new();
        let mut taps = Vec::new();
        for tap in 0..rows.kernel * columns.kernel {
            let (i, row) = rows.split(tap / columns.kernel * rows.dilation);
            let (j, column) = columns.split(tap % columns.kernel * columns.dilation);
            let at = planes.iter().position(|plane| plane.remainders == [i, j]).unwrap_or_else(|| {
                let inside = match (rows.inside(i, input.height), columns.inside(j, input.width)) {
                    (Some((top, bottom)), Some((left, right))) => {
                        (top * pitch + left, (bottom - top) * pitch + right - left + 1)
                    }
                    _ => (0, 0),
                };
                planes.push(Plane { remainders: [i, j], taps: Vec::new(), inside });
                planes.len() - 1
            });
            planes[at].taps.push(tap);
            taps.push(at * plane + row * pitch + column);
        }
        let span = (output.height - 1) * pitch + output.width;
        // Neighbouring channels of small maps lie apart, so that a kernel that adds to one after the other does not
        // wait for its own stores.
        let reach = if span <= 32 { taps.iter().max().unwrap_or(&0) + vectors(span) } else { 0 };
        let channel = (planes.len() * plane).max(if span == 1 { 0 } else { reach });
        Self { groups, input, output, taps, planes, plane, channel, pitch, span, axes }
    }

    /// Input channels of one filter.
    pub(super) fn group_channels(&self) -> usize {
        self.input.channels / self.groups
    }

    /// Filters of one group.
    pub(super) fn group_filters(&self) -> usize {
        self.output.channels / self.groups
    }

    /// Weights of one filter.
    pub(super) fn filter(&self) -> usize {
        self.group_channels() * self.taps.len()
    }

    /// Length of spread features.
    pub(super) fn spread_len(&self) -> usize {
        self.input.channels * self.channel + SLACK
    }

    /// Where the first position of a filter lies in its row of a gradient: so many zeros come before it.
    pub(super) fn margin(&self) -> usize {
        self.taps.iter().map(|tap| tap % self.plane).max().unwrap_or(0)
    }

    /// Length of a filter's row of a gradient: zeros, positions, zeros.
    pub(super) fn gradient_row(&self) -> usize {
        self.margin() + self.plane + SLACK
    }

    /// Length of a filter's row of outputs: one position, or whole vectors.
    pub(super) fn output_row(&self) -> usize {
        vectors(self.span)
    }

    /// Copies features into their planes; the padding keeps what it held, which is 0.
    pub(super) fn spread(&self, x: &[f32], spread: &mut [f32]) {
        let area = self.input.area();
        let channels = spread.par_chunks_exact_mut(self.channel).zip(x.par_chunks_exact(area));
        channels.with_min_len(fewest(self.channel)).for_each(|(spread, x)| {
            self.rows(|row, from, step, run| {
                let (row, to) = (&x[row * self.input.width..][..self.input.width], &mut spread[run]);
                if step == 1 {
                    to.copy_from_slice(&row[from..]);
                } else {
                    to.iter_mut().zip(row[from..].iter().step_by(step)).for_each(|(to, x)| *to = *x);
                }
            });
        });
    }

    /// The reverse of [`Geometry::spread`] for one channel: `x` from its planes; where no tap reads, 0.
    pub(super) fn collect(&self, spread: &[f32], x: &mut [f32]) {
        x.fill(0.0);
        self.rows(|row, from, step, run| {
            let x = &mut x[row * self.input.width..][..self.input.width];
            if step == 1 {
                x[from..].copy_from_slice(&spread[run]);
            } else {
                x[from..].iter_mut().step_by(step).zip(&spread[run]).for_each(|(x, from)| *x = *from);
            }
        });
    }

    /// Calls `each` for every row of every plane with the input's row, its first column, the step, and their places.
    fn rows(&self, mut each: impl FnMut(usize, usize, usize, std::ops::Range<usize>)) {
        let [rows, columns] = self.axes;
        let step = columns.stride;
        for (at, plane) in self.planes.iter().enumerate() {
            let [i, j] = plane.remainders;
            let Some(from) =
                (0..self.input.width.min(step)).find(|at| columns.split(at + columns.padding).0 == j)
            else {
                continue;
            };
            let (_, left) = columns.split(from + columns.padding);
            let count = (self.input.width - from).div_ceil(step);
            for row in 0..self.input.height {
                let (remainder, place) = rows.split(row + rows.padding);
                if remainder == i {
                    let first = at * self.plane + place * self.pitch + left;
                    each(row, from, step, first..first + count);
                }
            }
        }
    }

    /// The output positions, row after row, at the pitch.
    pub(super) fn positions(&self) -> impl Iterator<Item = usize> + use<> {
        let Shape { height, width, .. } = self.output;
        let pitch = self.pitch;
        (0..height).flat_map(move |row| (0..width).map(move |column| row * pitch + column))
    }
}

/// One position, or as many as fill vectors of any machine.
fn vectors(span: usize) -> usize {
    if span == 1 { 1 } else { round_up(span, 16) }
}

/// The least multiple of `step` that is not below `len`.
pub(super) fn round_up(len: usize, step: usize) -> usize {
    len.div_ceil(step) * step
}
