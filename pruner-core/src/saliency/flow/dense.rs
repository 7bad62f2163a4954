//! Convolutions with most weights alive on maps of some size: three products, none of which copies a weight.
//! A filter's weights lie tap after tap, all channels of a tap together.

use rayon::prelude::*;

use super::geometry::{Geometry, round_up};
use super::product::{Product, Rows, Term};
use super::split::{Part, parts, split};
use crate::exec::{sum2, vectorised};

/// Fewest channels of a group for which vectors over channels are worth their filling.
const WIDE: usize = 8;

/// `out`, a row per filter, from spread features.
pub(super) fn forward(geometry: &Geometry, weights: &[f32], spread: &[f32], out: &mut [f32]) {
    let (row, width) = (geometry.output_row(), round_up(geometry.span, 16));
    let (channels, filter) = (geometry.group_channels(), geometry.filter());
    let terms: Vec<Term> = (0..filter)
        .map(|at| {
            let run = at % channels * geometry.channel + geometry.taps[at / channels];
            Term { factor: at as u32, run: run as u32 }
        })
        .collect();
    let parts = parts(geometry.groups, geometry.group_filters());
    let pieces = split(&parts, out, row);
    parts.par_iter().zip(pieces).for_each(|(part, out)| {
        let product = Product {
            terms: &terms,
            factors: &weights[part.members.start * filter..],
            factor_row: filter,
            runs: &spread[part.group * channels * geometry.channel..],
            out: Rows { values: out, row, width },
        };
        product.compute();
    });
}

/// Each channel's gradient, from each filter's; `collect` is called with a channel and its planes.
pub(super) fn backward_input(geometry: &Geometry, weights: &[f32], gradient: &[f32], dx: &mut [f32]) {
    let plans: Vec<Vec<Term>> =
        (0..geometry.planes.len()).map(|plane| input_terms(geometry, plane)).collect();
    let (channels, filters) = (geometry.group_channels(), geometry.group_filters());
    let parts = parts(geometry.groups, channels);
    let pieces = split(&parts, dx, geometry.input.area());
    parts.par_iter().zip(pieces).for_each(|(part, dx)| {
        let mut spread = vec![0.0; part.members.len() * geometry.channel];
        let first = part.group * filters;
        for (at, (plane, terms)) in geometry.planes.iter().zip(&plans).enumerate() {
            let (start, count) = plane.inside;
            let width = round_up(count, 16);
            let mut out = vec![0.0; part.members.len() * width];
            let product = Product {
                terms,
                factors: &weights[first * geometry.filter() + part.members.start % channels..],
                factor_row: 1,
                runs: &gradient[first * geometry.gradient_row()..],
                out: Rows { values: &mut out, row: width, width },
            };
            product.compute();
            for (spread, out) in spread.chunks_exact_mut(geometry.channel).zip(out.chunks_exact(width.max(1)))
            {
                spread[at * geometry.plane + start..][..count].copy_from_slice(&out[..count]);
            }
        }
        let channels = spread.chunks_exact(geometry.channel).zip(dx.chunks_exact_mut(geometry.input.area()));
        channels.for_each(|(spread, dx)| geometry.collect(spread, dx));
    });
}

/// What flows back into one channel's plane: every filter's gradient under every tap that reads the plane.
fn input_terms(geometry: &Geometry, plane: usize) -> Vec<Term> {
    let (start, _) = geometry.planes[plane].inside;
    let mut terms = Vec::new();
    for filter in 0..geometry.group_filters() {
        for &tap in &geometry.planes[plane].taps {
            let factor = filter * geometry.filter() + tap * geometry.group_channels();
            let shift = geometry.taps[tap] % geometry.plane;
            let run = filter * geometry.gradient_row() + geometry.margin() + start - shift;
            terms.push(Term { factor: factor as u32, run: run as u32 });
        }
    }
    terms
}

/// Each weight's score, `factors` times its size times the sum over positions of input times gradient.
pub(super) fn scores(
    geometry: &Geometry,
    (weights, factors): (&[f32], [f32; 2]),
    (spread, gradient): (&[f32], &[f32]),
    scores: &mut [f32],
) {
    let filter = geometry.filter();
    let parts = parts(geometry.groups, geometry.group_filters());
    let pieces = split(&parts, scores, filter);
    let wide = geometry.group_channels() >= WIDE;
    let transposed = if wide { Transposed::of(geometry, spread) } else { Transposed::default() };
    parts.par_iter().zip(pieces).for_each(|(part, scores)| {
        let gradient = &gradient[part.members.start * geometry.gradient_row()..];
        if wide {
            transposed.sums(geometry, part, gradient, scores);
        } else {
            narrow(
                geometry,
                &spread[part.group * geometry.group_channels() * geometry.channel..],
                gradient,
                scores,
            );
        }
        let weights = &weights[part.members.start * filter..][..scores.len()];
        let [first, second] = factors;
        vectorised!({
            scores.iter_mut().zip(weights).for_each(|(score, weight)| {
                *score = (*score * first) * (*weight * second);
            });
        });
    });
}

/// Sums over positions of input times gradient, one weight after the other.
fn narrow(geometry: &Geometry, spread: &[f32], gradient: &[f32], sums: &mut [f32]) {
    let channels = geometry.group_channels();
    let len = round_up(geometry.span, 16);
    vectorised!({
        let rows = gradient.chunks(geometry.gradient_row());
        for (sums, gradient) in sums.chunks_exact_mut(geometry.filter()).zip(rows) {
            let gradient = &gradient[geometry.margin()..][..len];
            for (at, sum) in sums.iter_mut().enumerate() {
                let start = at % channels * geometry.channel + geometry.taps[at / channels];
                *sum = sum2(&spread[start..][..len], gradient, |x, dy| x * dy);
            }
        }
    });
}

/// Spread features with all channels of a position together, so that one vector serves many weights.
#[derive(Default)]
struct Transposed {
    values: Vec<f32>,
    row: usize,
    terms: Vec<Term>,
}

impl Transposed {
    fn of(geometry: &Geometry, spread: &[f32]) -> Self {
        let channels = geometry.input.channels;
        let mut values = vec![0.0; geometry.channel * channels + 16];
        let rows = values.par_chunks_mut(16 * channels).enumerate();
        rows.for_each(|(block, values)| {
            let positions = 16.min(geometry.channel - (16 * block).min(geometry.channel));
            for channel in 0..channels {
                let from = &spread[channel * geometry.channel + 16 * block..][..positions];
                from.iter().enumerate().for_each(|(at, x)| values[at * channels + channel] = *x);
            }
        });
        let term = |position: usize| Term {
            factor: (geometry.margin() + position) as u32,
            run: (position * channels) as u32,
        };
        Self { values, row: channels, terms: geometry.positions().map(term).collect() }
    }

    fn sums(&self, geometry: &Geometry, part: &Part, gradient: &[f32], sums: &mut [f32]) {
        let channels = geometry.group_channels();
        let width = round_up(channels, 16);
        let mut out = vec![0.0; part.members.len() * width];
        for (tap, start) in geometry.taps.iter().enumerate() {
            let product = Product {
                terms: &self.terms,
                factors: gradient,
                factor_row: geometry.gradient_row(),
                runs: &self.values[start * self.row + part.group * channels..],
                out: Rows { values: &mut out, row: width, width },
            };
            product.compute();
            for (sums, out) in sums.chunks_exact_mut(geometry.filter()).zip(out.chunks_exact(width)) {
                sums[tap * channels..][..channels].copy_from_slice(&out[..channels]);
            }
        }
    }
}
