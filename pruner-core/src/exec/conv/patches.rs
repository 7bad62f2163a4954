//! Patches of a tile: one row per tap (input channel, kernel row, kernel column), one column per output position.

use super::{Geometry, Part};
use crate::exec::scalar::Scalar;
use crate::graph::{Conv, Window};

/// Copies each tap's input values into its row; zero where the kernel hangs over the border.
#[inline(always)]
pub(super) fn gather<T: Scalar>(geometry: &Geometry, part: Part, x: &[T], patches: &mut [T]) {
    let columns = patches.len() / geometry.taps();
    let window = geometry.conv.window;
    let keeps_width = window.stride == [1, 1] && geometry.input.width == geometry.output.width;
    for (tap, row) in patches.chunks_exact_mut(columns).enumerate() {
        let tap = Tap::of(geometry, part, tap);
        let channel =
            &x[tap.channel * part.images * geometry.input.area()..][..part.images * geometry.input.area()];
        if keeps_width {
            gather_shifted(geometry, part, tap, channel, row);
        } else {
            gather_strided(geometry, part, tap, channel, row);
        }
    }
}

/// Adds each tap's row back to the input positions that it came from.
#[inline(always)]
pub(super) fn scatter<T: Scalar>(geometry: &Geometry, part: Part, patches: &[T], dx: &mut [T]) {
    let columns = patches.len() / geometry.taps();
    let (area, width) = (geometry.input.area(), geometry.input.width);
    for (tap, row) in patches.chunks_exact(columns).enumerate() {
        let tap = Tap::of(geometry, part, tap);
        let channel = &mut dx[tap.channel * part.images * area..][..part.images * area];
        let (from, to) = tap.valid_columns(geometry);
        let lines = Lines::of(geometry, part, tap);
        for ((image, input_row), line) in lines.zip(row.chunks_exact(geometry.output.width)) {
            let Some(input_row) = input_row else { continue };
            let input = &mut channel[image * area + input_row * width..][..width];
            if from < to {
                let (step, left) = (geometry.conv.window.stride[1], geometry.conv.window.padding.left);
                let places = input[from * step + tap.column - left..].iter_mut().step_by(step);
                places.zip(&line[from..to]).for_each(|(place, &value)| *place += value);
            }
        }
    }
}

/// One row of the patches: a channel, and how far below and right of a window's corner it reads.
#[derive(Clone, Copy)]
struct Tap {
    channel: usize,
    row: usize,
    column: usize,
}

impl Tap {
    #[inline(always)]
    fn of(geometry: &Geometry, part: Part, tap: usize) -> Self {
        let Conv { window, inputs, groups, .. } = geometry.conv;
        let Window { kernel: [rows, columns], dilation, .. } = window;
        let channel = part.group * (inputs / groups) + tap / (rows * columns);
        let (row, column) = (tap / columns % rows, tap % columns);
        Self { channel, row: row * dilation[0], column: column * dilation[1] }
    }

    /// The output columns whose input column lies inside the image.
    #[inline(always)]
    fn valid_columns(self, geometry: &Geometry) -> (usize, usize) {
        let Window { stride, padding, .. } = geometry.conv.window;
        valid(self.column, (geometry.input.width, geometry.output.width), (stride[1], padding.left))
    }
}

/// Outputs `from..to` whose input `output * stride + tap - padding` lies in `0..input`.
#[inline(always)]
pub(super) fn valid(
    tap: usize,
    (input, output): (usize, usize),
    (stride, padding): (usize, usize),
) -> (usize, usize) {
    let from = padding.saturating_sub(tap).div_ceil(stride);
    let to = (input + padding).saturating_sub(tap).div_ceil(stride).min(output);
    (from.min(to), to)
}

/// For each output row of a tile: its image, and the input row that a tap reads there, if inside.
struct Lines {
    part: Part,
    tap_row: usize,
    window: Window,
    input_rows: usize,
    at: usize,
}

impl Lines {
    #[inline(always)]
    fn of(geometry: &Geometry, part: Part, tap: Tap) -> Self {
        let (window, input_rows) = (geometry.conv.window, geometry.input.height);
        Self { part, tap_row: tap.row, window, input_rows, at: 0 }
    }
}

impl Iterator for Lines {
    type Item = (usize, Option<usize>);

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        let tile = self.part.tile;
        let (image, row) = (tile.image + self.at / tile.rows, tile.row + self.at % tile.rows);
        self.at += 1;
        let input_row = (row * self.window.stride[0] + self.tap_row).checked_sub(self.window.padding.top);
        Some((image, input_row.filter(|&row| row < self.input_rows)))
    }
}

/// Any geometry, one output row at a time.
#[inline(always)]
fn gather_strided<T: Scalar>(geometry: &Geometry, part: Part, tap: Tap, channel: &[T], row: &mut [T]) {
    let (area, width) = (geometry.input.area(), geometry.input.width);
    let (from, to) = tap.valid_columns(geometry);
    let lines = Lines::of(geometry, part, tap);
    for ((image, input_row), line) in lines.zip(row.chunks_exact_mut(geometry.output.width)) {
        line.fill(T::ZERO);
        let Some(input_row) = input_row.filter(|_| from < to) else { continue };
        let input = &channel[image * area + input_row * width..][..width];
        let (step, left) = (geometry.conv.window.stride[1], geometry.conv.window.padding.left);
        let values = input[from * step + tap.column - left..].iter().step_by(step);
        line[from..to].iter_mut().zip(values).for_each(|(place, &value)| *place = value);
    }
}

/// Stride 1 and equal widths: a tap's row is the channel shifted, so one long copy per image and zeros at the borders.
#[inline(always)]
fn gather_shifted<T: Scalar>(geometry: &Geometry, part: Part, tap: Tap, channel: &[T], row: &mut [T]) {
    let (tile, width) = (part.tile, geometry.input.width);
    let Window { stride, padding, .. } = geometry.conv.window;
    let heights = (geometry.input.height, geometry.output.height);
    let (from, to) = valid(tap.row, heights, (stride[0], padding.top));
    let (from, to) = (from.clamp(tile.row, tile.row + tile.rows), to.clamp(tile.row, tile.row + tile.rows));
    let (left, right) = tap.valid_columns(geometry);
    for (index, lines) in row.chunks_exact_mut(tile.rows * width).enumerate() {
        let image = &channel[(tile.image + index) * geometry.input.area()..][..geometry.input.area()];
        let (above, rest) = lines.split_at_mut((from - tile.row) * width);
        let (inside, below) = rest.split_at_mut(to.saturating_sub(from) * width);
        above.fill(T::ZERO);
        below.fill(T::ZERO);
        if inside.is_empty() {
            continue;
        }
        // Output position p reads input position p + shift; the ends that fall outside are border columns.
        let start = (from + tap.row - padding.top) * width;
        let (skip, first) = if tap.column >= padding.left {
            (0, start + tap.column - padding.left)
        } else {
            let before = padding.left - tap.column;
            (before.saturating_sub(start), start.saturating_sub(before))
        };
        let skip = skip.min(inside.len());
        let len = (inside.len() - skip).min(image.len().saturating_sub(first));
        inside[skip..skip + len].copy_from_slice(&image[first.min(image.len())..][..len]);
        for column in (0..left).chain(right..width) {
            inside[column..].iter_mut().step_by(width).for_each(|value| *value = T::ZERO);
        }
    }
}
