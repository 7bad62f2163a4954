//! Operators that read a few positions of one channel: pooling. Where they read is listed once, so any window serves.

use super::scaled::Scaled;
use crate::graph::{self, Divisor, Padding, Shape};

/// Which input positions each output position reads, in row-major order, alike in every channel.
#[derive(Debug)]
pub(super) struct Window {
    /// Where each output's places end.
    ends: Vec<usize>,
    places: Vec<u32>,
    kind: Kind,
    areas: (usize, usize),
}

/// What becomes of the places.
#[derive(Debug)]
enum Kind {
    /// The largest, of equals the first; and which it was in the last pass.
    Largest(Vec<u32>),
    /// Their sum times each output's share.
    Share(Vec<f32>),
}

impl Window {
    /// The largest of each window, of equals the first.
    pub(super) fn largest(window: graph::Window, input: Shape, output: Shape) -> Self {
        Self::new(window, input, output, Kind::Largest(vec![0; output.numel()]))
    }

    /// The mean of each window.
    pub(super) fn mean((window, divisor): (graph::Window, Divisor), input: Shape, output: Shape) -> Self {
        let mut pool = Self::new(window, input, output, Kind::Share(Vec::new()));
        let counts = Places::of(&pool.ends, &pool.places).map(|places| match divisor {
            Divisor::Window => window.area(),
            Divisor::Inside => places.len(),
        });
        pool.kind = Kind::Share(counts.map(|count| 1.0 / count as f32).collect());
        pool
    }

    /// The mean of each channel.
    pub(super) fn global_mean(input: Shape) -> Self {
        let area = input.area();
        let places = (0..area as u32).collect();
        Self { ends: vec![area], places, kind: Kind::Share(vec![1.0 / area as f32]), areas: (area, 1) }
    }

    fn new(window: graph::Window, input: Shape, output: Shape, kind: Kind) -> Self {
        let graph::Window { kernel, stride, dilation, padding: Padding { top, left, .. } } = window;
        let inside = |axis: usize, at: usize, (border, len): (usize, usize)| {
            let taps = (0..kernel[axis]).map(|tap| at * stride[axis] + tap * dilation[axis]);
            let places = taps.filter_map(|place| place.checked_sub(border)).filter(|place| *place < len);
            places.collect::<Vec<usize>>()
        };
        let (mut ends, mut places) = (Vec::with_capacity(output.area()), Vec::new());
        for at in 0..output.area() {
            let columns = inside(1, at % output.width, (left, input.width));
            for row in inside(0, at / output.width, (top, input.height)) {
                places.extend(columns.iter().map(|column| (row * input.width + column) as u32));
            }
            ends.push(places.len());
        }
        Self { ends, places, kind, areas: (input.area(), output.area()) }
    }

    pub(super) fn forward(&mut self, x: &Scaled, y: &mut Scaled) {
        let planes = y.values.chunks_exact_mut(self.areas.1).zip(x.values.chunks_exact(self.areas.0));
        match &mut self.kind {
            Kind::Largest(winners) => {
                for ((y, x), winners) in planes.zip(winners.chunks_exact_mut(self.areas.1)) {
                    let outputs = y.iter_mut().zip(winners);
                    for ((y, winner), places) in outputs.zip(Places::of(&self.ends, &self.places)) {
                        // A window covers at least one position: padding is below its size.
                        let (mut best, mut place) = (x[places[0] as usize], places[0]);
                        for &other in &places[1..] {
                            if x[other as usize] > best {
                                (best, place) = (x[other as usize], other);
                            }
                        }
                        (*y, *winner) = (best, place);
                    }
                }
            }
            Kind::Share(shares) => {
                for (y, x) in planes {
                    let outputs = y.iter_mut().zip(Places::of(&self.ends, &self.places));
                    for ((y, places), share) in outputs.zip(&*shares) {
                        *y = places.iter().map(|&place| x[place as usize]).sum::<f32>() * *share;
                    }
                }
            }
        }
        y.exponent = x.exponent;
        y.normalise();
    }

    /// The input's gradient.
    pub(super) fn backward(&self, dy: &Scaled, dx: &mut Scaled) {
        dx.values.fill(0.0);
        let planes = dx.values.chunks_exact_mut(self.areas.0).zip(dy.values.chunks_exact(self.areas.1));
        match &self.kind {
            Kind::Largest(winners) => {
                for ((dx, dy), winners) in planes.zip(winners.chunks_exact(self.areas.1)) {
                    dy.iter().zip(winners).for_each(|(dy, &winner)| dx[winner as usize] += dy);
                }
            }
            Kind::Share(shares) => {
                for (dx, dy) in planes {
                    let outputs = dy.iter().zip(Places::of(&self.ends, &self.places));
                    for ((dy, places), share) in outputs.zip(shares) {
                        places.iter().for_each(|&place| dx[place as usize] += dy * share);
                    }
                }
            }
        }
        dx.exponent = dy.exponent;
        dx.normalise();
    }
}

/// Each output's places.
struct Places<'a> {
    ends: std::slice::Iter<'a, usize>,
    places: &'a [u32],
    from: usize,
}

impl<'a> Places<'a> {
    fn of(ends: &'a [usize], places: &'a [u32]) -> Self {
        Self { ends: ends.iter(), places, from: 0 }
    }
}

impl<'a> Iterator for Places<'a> {
    type Item = &'a [u32];

    fn next(&mut self) -> Option<&'a [u32]> {
        let end = *self.ends.next()?;
        let places = &self.places[self.from..end];
        self.from = end;
        Some(places)
    }
}
