//! Which paths an operator that only moves or repeats features has. Features lie channel by channel, row-major.

use super::route::{Path, Route};
use crate::exec::resize_ties;
use crate::graph::{Padding, Resize, Shape};

/// The inputs one behind the other, as joined channels and as several outputs lie.
pub(super) fn join(inputs: &[Shape]) -> Route {
    let mut start = 0;
    let of = |shape: &Shape| {
        let paths = (0..shape.numel()).map(|at| path(at, start + at, 1.0)).collect();
        start += shape.numel();
        paths
    };
    Route::new(inputs.iter().map(of).collect())
}

/// The channels from `start` on, as many as the output has.
pub(super) fn slice(start: usize, output: Shape) -> Route {
    let skipped = start * output.area();
    Route::new(vec![(0..output.numel()).map(|at| path(skipped + at, at, 1.0)).collect()])
}

/// Channels as `groups` x n to n x `groups`.
pub(super) fn shuffle(groups: usize, shape: Shape) -> Route {
    let (each, area) = (shape.channels / groups, shape.area());
    let place = |to: usize| {
        let (channel, at) = (to / area, to % area);
        path((channel % groups * each + channel / groups) * area + at, to, 1.0)
    };
    Route::new(vec![(0..shape.numel()).map(place).collect()])
}

/// Into the middle of a border, through which nothing flows.
pub(super) fn pad(border: Padding, input: Shape, output: Shape) -> Route {
    let place = |from: usize| {
        let (row, column) = (from / input.width, from % input.width);
        let (channel, row) = (row / input.height, row % input.height);
        let to = (channel * output.height + row + border.top) * output.width + column + border.left;
        path(from, to, 1.0)
    };
    Route::new(vec![(0..input.numel()).map(place).collect()])
}

/// To another height and width.
pub(super) fn resize(resize: &Resize, input: Shape, output: Shape) -> Route {
    let ties = resize_ties(resize, input, output);
    let channels = (0..input.channels).flat_map(|channel| {
        let (from, to) = (channel * input.area(), channel * output.area());
        ties.iter().map(move |tie| path(from + tie.0, to + tie.1, tie.2 as f32))
    });
    Route::new(vec![channels.collect()])
}

/// A sum of inputs of which a dimension of 1 is repeated along the output's.
pub(super) fn broadcast(inputs: &[Shape], output: Shape) -> Route {
    let of = |input: &Shape| {
        let repeated = |length: usize, at: usize| if length == 1 { 0 } else { at };
        let place = |to: usize| {
            let (row, column) = (to / output.width, to % output.width);
            let (channel, row) = (row / output.height, row % output.height);
            let channel = repeated(input.channels, channel);
            let row = channel * input.height + repeated(input.height, row);
            path(row * input.width + repeated(input.width, column), to, 1.0)
        };
        (0..output.numel()).map(place).collect()
    };
    Route::new(inputs.iter().map(of).collect())
}

fn path(from: usize, to: usize, share: f32) -> Path {
    (from as u32, to as u32, share)
}
