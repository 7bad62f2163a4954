//! One convolution's or linear layer's weights, their scores, and the flow through it. Weights only ever die; once
//! few are left, or the map is small, those alive are all that is stored.

use rayon::prelude::*;

use super::dense;
use super::geometry::Geometry;
use super::scaled::{Scaled, align, powers};
use super::sparse::{self, Block};
use super::split::{fewest, split_rows};
use crate::exec::vectorised;
use crate::graph::Shape;
use crate::saliency::LayerScores;

/// Longest span that is stored sparsely from the start: below, the arithmetic is less work than reading the weights.
const SMALL: usize = 32;
/// Share of weights alive below which the sparse loops are taken to be faster than the dense ones: an estimate from the
/// numbers that each reads, not a measurement.
const FEW: f64 = 0.4;

/// A layer with weights.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) geometry: Geometry,
    /// Its first weight's index among all layers' weights.
    first: usize,
    exponent: i32,
    store: Store,
    affine: Affine,
    /// The last input, in planes, and its exponent.
    spread: Scaled,
    /// The last gradient of its outputs, a row per filter.
    gradient: Vec<f32>,
}

/// Sizes of weights, and the scores of the last backward pass.
#[derive(Debug)]
enum Store {
    /// Filter after filter; in each, tap after tap; dead weights are 0.
    Dense {
        weights: Vec<f32>,
        scores: Vec<f32>,
    },
    Sparse(Vec<Block>),
}

/// What is done to each channel: times a factor, plus a shift.
#[derive(Debug)]
pub(super) struct Affine {
    pub(super) factor: Scaled,
    pub(super) shift: Scaled,
}

impl Layer {
    /// `weights` as the network has them, whose first is number `first` of all; `affine` is applied to the outputs.
    pub(super) fn new(geometry: Geometry, first: usize, weights: &[f32], affine: Affine) -> Self {
        let (channels, taps) = (geometry.group_channels(), geometry.taps.len());
        let mut sizes = Scaled { values: vec![0.0; weights.len()], exponent: 0 };
        let filters = sizes.values.par_chunks_exact_mut(geometry.filter());
        filters.zip(weights.par_chunks_exact(geometry.filter())).for_each(|(sizes, weights)| {
            for (channel, weights) in weights.chunks_exact(taps).enumerate() {
                weights.iter().enumerate().for_each(|(tap, w)| sizes[tap * channels + channel] = w.abs());
            }
        });
        sizes.normalise();
        let store = if geometry.span <= SMALL {
            Store::Sparse(sparse::blocks(&geometry, &sizes.values, None))
        } else {
            Store::Dense { scores: vec![0.0; weights.len()], weights: sizes.values }
        };
        let gradient = vec![0.0; geometry.output.channels * geometry.gradient_row()];
        let spread = Scaled::zeros(geometry.spread_len());
        Self { geometry, first, exponent: sizes.exponent, store, affine, spread, gradient }
    }

    /// Outputs from an input; both channels x height x width.
    pub(super) fn forward(&mut self, x: &Scaled, y: &mut Scaled) {
        let geometry = &self.geometry;
        geometry.spread(&x.values, &mut self.spread.values);
        self.spread.exponent = x.exponent;
        let row = geometry.output_row();
        let mut out = vec![0.0; geometry.output.channels * row];
        match &self.store {
            Store::Dense { weights, .. } => dense::forward(geometry, weights, &self.spread.values, &mut out),
            Store::Sparse(blocks) => {
                let lens = blocks.iter().map(|block| block.filters.len() * row);
                let pieces = split_rows(lens, &mut out);
                let work = blocks.par_iter().zip(pieces);
                work.for_each(|(block, out)| block.forward(geometry, &self.spread.values, out));
            }
        }
        let Shape { width, .. } = geometry.output;
        let (exponent, channels) = self.affine.scale(x.exponent + self.exponent);
        let channels: Vec<[f32; 2]> = channels.collect();
        let planes = y.values.par_chunks_exact_mut(geometry.output.area()).zip(out.par_chunks_exact(row));
        planes.zip(&channels).with_min_len(fewest(row)).for_each(|((y, out), &[factor, shift])| {
            for (y, out) in y.chunks_exact_mut(width).zip(out.chunks(geometry.pitch)) {
                y.iter_mut().zip(out).for_each(|(y, out)| *y = out * factor + shift);
            }
        });
        y.exponent = exponent;
        y.normalise();
    }

    /// Scores of all weights in units of 2^-`unit`, and the input's gradient if it is asked for.
    pub(super) fn backward(&mut self, dy: &Scaled, unit: i32, dx: Option<&mut Scaled>) {
        self.take_gradient(dy);
        let exponent = self.exponent + dy.exponent + self.affine.factor.exponent;
        let factors = powers(self.spread.exponent + exponent + unit);
        let (geometry, flow) = (&self.geometry, (&*self.spread.values, &*self.gradient));
        match &mut self.store {
            Store::Dense { weights, scores } => {
                dense::scores(geometry, (weights, factors), flow, scores);
                if let Some(dx) = dx {
                    dense::backward_input(geometry, weights, flow.1, &mut dx.values);
                    dx.exponent = exponent;
                    dx.normalise();
                }
            }
            Store::Sparse(blocks) => {
                let row = geometry.gradient_row();
                blocks.par_iter_mut().for_each(|block| {
                    let gradient = &flow.1[block.filters.start * row..block.filters.end * row];
                    block.backward(geometry, (flow.0, gradient), factors);
                });
                if let Some(dx) = dx {
                    sparse::collect(geometry, blocks, &mut dx.values);
                    dx.exponent = exponent;
                    dx.normalise();
                }
            }
        }
    }

    /// Lays out the gradient of what the filters sum up, before the factor.
    fn take_gradient(&mut self, dy: &Scaled) {
        let geometry = &self.geometry;
        let (row, margin) = (geometry.gradient_row(), geometry.margin());
        let planes = self.gradient.par_chunks_exact_mut(row);
        let planes = planes.zip(dy.values.par_chunks_exact(geometry.output.area()));
        let channels = planes.zip(&self.affine.factor.values).with_min_len(fewest(row));
        channels.for_each(|((gradient, dy), factor)| {
            let rows = gradient[margin..].chunks_mut(geometry.pitch);
            for (dy, gradient) in dy.chunks_exact(geometry.output.width).zip(rows) {
                gradient.iter_mut().zip(dy).for_each(|(gradient, dy)| *gradient = dy * factor);
            }
        });
    }

    /// Nothing that leads to the output reads this layer: all scores are 0.
    pub(super) fn cut_off(&mut self) {
        match &mut self.store {
            Store::Dense { scores, .. } => scores.fill(0.0),
            Store::Sparse(blocks) => blocks.iter_mut().for_each(Block::clear),
        }
    }

    /// All scores above 0, and some zeros, in any order.
    pub(super) fn scores(&self) -> Vec<&[f32]> {
        match &self.store {
            Store::Dense { scores, .. } => scores.chunks(1 << 16).collect(),
            Store::Sparse(blocks) => blocks.iter().map(Block::scores).collect(),
        }
    }

    /// The numbers among all weights of those that score `score`.
    pub(super) fn that_score(&self, score: f32) -> Vec<usize> {
        match &self.store {
            Store::Dense { scores, .. } => {
                let equal = scores.iter().enumerate().filter(|(_, other)| **other == score);
                equal.map(|(at, _)| self.number_of_dense(at)).collect()
            }
            Store::Sparse(blocks) => {
                let entries = blocks.iter().flat_map(Block::entries);
                let equal = entries.filter(|(.., other)| *other == score);
                equal.map(|(filter, offset, _)| self.number_of_sparse(filter, offset)).collect()
            }
        }
    }

    fn number_of_dense(&self, at: usize) -> usize {
        number_of_dense(&self.geometry, self.first, at)
    }

    fn number_of_sparse(&self, filter: usize, offset: u32) -> usize {
        number_of_sparse(&self.geometry, self.first, filter, offset)
    }

    /// Lets the weights die that score below `least`, which is above 0.
    pub(super) fn retain(&mut self, least: f32) {
        match &mut self.store {
            Store::Dense { weights, scores } => {
                let chunks = weights.par_chunks_mut(1 << 14).zip(scores.par_chunks_mut(1 << 14));
                let alive = chunks.map(|(weights, scores)| vectorised!(mask(weights, scores, least)));
                let alive: usize = alive.sum();
                if (alive as f64) < FEW * weights.len() as f64 {
                    self.store = Store::Sparse(sparse::blocks(&self.geometry, weights, Some(scores)));
                }
            }
            Store::Sparse(blocks) => {
                blocks.par_iter_mut().for_each(|block| block.retain(|_, _, score| score >= least));
            }
        }
    }

    /// Lets those weights die that score `equal` and are number `end` among all weights or come later.
    pub(super) fn drop_equal(&mut self, equal: f32, end: usize) {
        let (geometry, first) = (&self.geometry, self.first);
        match &mut self.store {
            Store::Dense { weights, scores } => {
                for (at, (weight, score)) in weights.iter_mut().zip(scores).enumerate() {
                    if *score == equal && number_of_dense(geometry, first, at) >= end {
                        (*weight, *score) = (0.0, 0.0);
                    }
                }
            }
            Store::Sparse(blocks) => blocks.par_iter_mut().for_each(|block| {
                block.retain(|filter, offset, score| {
                    score != equal || number_of_sparse(geometry, first, filter, offset) < end
                });
            }),
        }
    }

    /// Sums up the scores that are left, in units of 2^-`unit`.
    pub(super) fn summary(&self, unit: i32) -> LayerScores {
        let filters: Vec<(f64, usize)> = match &self.store {
            Store::Dense { scores, .. } => scores.chunks_exact(self.geometry.filter()).map(sum).collect(),
            Store::Sparse(blocks) => blocks.iter().flat_map(Block::sums).collect(),
        };
        let weights = self.geometry.filter() as f64;
        let total: usize = filters.iter().map(|(_, alive)| alive).sum();
        LayerScores {
            density: total as f64 / (weights * filters.len() as f64),
            filters: filters.iter().map(|(sum, _)| sum * 2f64.powi(-unit)).collect(),
            alive: filters.iter().map(|(_, alive)| *alive as f64 / weights).collect(),
        }
    }
}

/// Sets weights and scores to 0 where the score is below `least`; returns how many are not.
#[inline(always)]
fn mask(weights: &mut [f32], scores: &mut [f32], least: f32) -> usize {
    let mut alive = 0_u32;
    for (weight, score) in weights.iter_mut().zip(scores) {
        let keeps = *score >= least;
        *weight = if keeps { *weight } else { 0.0 };
        *score = if keeps { *score } else { 0.0 };
        alive += u32::from(keeps);
    }
    alive as usize
}

/// The sum of scores, and how many are above 0.
pub(super) fn sum(scores: &[f32]) -> (f64, usize) {
    let sum = scores.iter().fold(0.0, |sum, &score| sum + f64::from(score));
    (sum, scores.iter().filter(|score| **score > 0.0).count())
}

impl Layer {
    /// Every weight's score as the network has them, in units of 2^-`unit`; dead weights' are 0.
    pub(super) fn weight_scores(&self, unit: i32) -> Vec<f64> {
        let mut all = vec![0.0; self.geometry.output.channels * self.geometry.filter()];
        let mut set = |number: usize, score: f32| {
            all[number - self.first] = f64::from(score) * 2f64.powi(-unit);
        };
        match &self.store {
            Store::Dense { scores, .. } => {
                scores.iter().enumerate().for_each(|(at, &score)| set(self.number_of_dense(at), score));
            }
            Store::Sparse(blocks) => {
                for (filter, offset, score) in blocks.iter().flat_map(Block::entries) {
                    set(self.number_of_sparse(filter, offset), score);
                }
            }
        }
        all
    }
}

fn number_of_dense(geometry: &Geometry, first: usize, at: usize) -> usize {
    let (filter, at) = (at / geometry.filter(), at % geometry.filter());
    let (tap, channel) = (at / geometry.group_channels(), at % geometry.group_channels());
    first + filter * geometry.filter() + channel * geometry.taps.len() + tap
}

fn number_of_sparse(geometry: &Geometry, first: usize, filter: usize, offset: u32) -> usize {
    let (channel, place) = (offset as usize / geometry.channel, offset as usize % geometry.channel);
    let tap = geometry.taps.iter().position(|tap| *tap == place).expect("every offset is some tap's");
    let channel = channel % geometry.group_channels();
    first + filter * geometry.filter() + channel * geometry.taps.len() + tap
}

impl Affine {
    /// Per channel, the factor and the shift that turn numbers of that exponent into results of the one returned.
    fn scale(&self, exponent: i32) -> (i32, impl Iterator<Item = [f32; 2]>) {
        let (exponent, [own, other]) = align(exponent + self.factor.exponent, self.shift.exponent);
        let channels = self.factor.values.iter().zip(&self.shift.values);
        (exponent, channels.map(move |(factor, shift)| [factor * own, shift * other]))
    }

    /// Outputs from an input, where no layer precedes.
    pub(super) fn forward(&self, x: &Scaled, y: &mut Scaled) {
        let area = x.values.len() / self.factor.values.len();
        let (exponent, channels) = self.scale(x.exponent);
        let planes = y.values.chunks_exact_mut(area).zip(x.values.chunks_exact(area));
        for ((y, x), [factor, shift]) in planes.zip(channels) {
            y.iter_mut().zip(x).for_each(|(y, x)| *y = x * factor + shift);
        }
        y.exponent = exponent;
        y.normalise();
    }

    /// The input's gradient.
    pub(super) fn backward(&self, dy: &Scaled, dx: &mut Scaled) {
        let area = dy.values.len() / self.factor.values.len();
        let planes = dx.values.chunks_exact_mut(area).zip(dy.values.chunks_exact(area));
        for ((dx, dy), factor) in planes.zip(&self.factor.values) {
            dx.iter_mut().zip(dy).for_each(|(dx, dy)| *dx = dy * factor);
        }
        dx.exponent = dy.exponent + self.factor.exponent;
        dx.normalise();
    }
}
