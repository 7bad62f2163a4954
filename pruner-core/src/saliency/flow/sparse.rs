//! Convolutions of which few weights are alive, or whose maps are so small that reading the weights is all the work:
//! each alive weight is a number and the place of the run it multiplies. What died is not stored.

use std::ops::Range;

use rayon::prelude::*;

use super::geometry::{Geometry, SLACK};
use crate::exec::vectorised;

/// Most blocks that a layer's filters are cut into, whatever the number of threads.
const BLOCKS: usize = 8;

/// The alive weights of some consecutive filters. Within a filter they are in the order of taps, then channels.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) filters: Range<usize>,
    /// Of all groups that the filters belong to.
    channels: Range<usize>,
    /// Where each filter's weights end.
    ends: Vec<usize>,
    /// Where the runs begin in spread features.
    offsets: Vec<u32>,
    weights: Vec<f32>,
    scores: Vec<f32>,
    /// What these filters add to their channels' gradient, spread.
    dx: Vec<f32>,
}

/// The blocks of a layer whose weights lie tap after tap.
pub(super) fn blocks(geometry: &Geometry, weights: &[f32]) -> Vec<Block> {
    let (groups, group) = (geometry.groups, geometry.group_filters());
    let step = if groups == 1 {
        group.div_ceil(BLOCKS).next_multiple_of(8)
    } else {
        groups.div_ceil(BLOCKS) * group
    };
    let total = geometry.output.channels;
    let ranges: Vec<Range<usize>> =
        (0..total).step_by(step).map(|from| from..total.min(from + step)).collect();
    ranges.into_par_iter().map(|filters| Block::of(geometry, filters, weights)).collect()
}

/// The blocks of a layer that was dense until now, its scores with it.
pub(super) fn of_dense(geometry: &Geometry, weights: &[f32], scores: &[f32]) -> Vec<Block> {
    let mut blocks = blocks(geometry, weights);
    for block in &mut blocks {
        let places = block.filters.start * geometry.filter()..block.filters.end * geometry.filter();
        let alive = weights[places.clone()].iter().zip(&scores[places]).filter(|(weight, _)| **weight > 0.0);
        block.scores.iter_mut().zip(alive).for_each(|(score, (_, other))| *score = *other);
    }
    blocks
}

/// Adds up what the blocks let flow back.
pub(super) fn collect(geometry: &Geometry, blocks: &[Block], dx: &mut [f32]) {
    let step = geometry.input.channels.div_ceil(BLOCKS);
    dx.par_chunks_mut(step * geometry.input.area()).enumerate().for_each(|(part, dx)| {
        let mut sum = vec![0.0; geometry.channel];
        for (at, dx) in dx.chunks_exact_mut(geometry.input.area()).enumerate() {
            let channel = part * step + at;
            sum.fill(0.0);
            for block in blocks.iter().filter(|block| block.channels.contains(&channel)) {
                let start = (channel - block.channels.start) * geometry.channel;
                let own = &block.dx[start..][..geometry.channel];
                vectorised(|| sum.iter_mut().zip(own).for_each(|(sum, own)| *sum += own));
            }
            geometry.collect(&sum, dx);
        }
    });
}

impl Block {
    fn of(geometry: &Geometry, filters: Range<usize>, weights: &[f32]) -> Self {
        let (channels, filter) = (geometry.group_channels(), geometry.filter());
        let group = |filter: usize| filter / geometry.group_filters() * channels;
        let reads = group(filters.start)..group(filters.end - 1) + channels;
        let dx = vec![0.0; reads.len() * geometry.channel + SLACK];
        let own = &weights[filters.start * filter..filters.end * filter];
        let alive = own.iter().filter(|weight| **weight > 0.0).count();
        let mut block = Self {
            filters: filters.clone(),
            channels: reads,
            ends: Vec::with_capacity(filters.len()),
            offsets: Vec::with_capacity(alive),
            weights: Vec::with_capacity(alive),
            scores: vec![0.0; alive],
            dx,
        };
        for (index, weights) in filters.zip(own.chunks_exact(filter)) {
            for (at, &weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
                let channel = group(index) + at % channels;
                block.offsets.push((channel * geometry.channel + geometry.taps[at / channels]) as u32);
                block.weights.push(weight);
            }
            block.ends.push(block.weights.len());
        }
        block
    }

    /// Each filter's row of outputs into `out`.
    pub(super) fn forward(&self, geometry: &Geometry, spread: &[f32], out: &mut [f32]) {
        let row = geometry.output_row();
        match geometry.block() {
            1 => self.forward_rows::<1, 8>(spread, out, (row, geometry.span)),
            8 => self.forward_rows::<8, 4>(spread, out, (row, geometry.span)),
            16 => self.forward_rows::<16, 4>(spread, out, (row, geometry.span)),
            24 => self.forward_rows::<24, 4>(spread, out, (row, geometry.span)),
            32 => self.forward_rows::<32, 2>(spread, out, (row, geometry.span)),
            48 => self.forward_rows::<48, 2>(spread, out, (row, geometry.span)),
            _ => self.forward_rows::<72, 1>(spread, out, (row, geometry.span)),
        }
    }

    /// B positions at once, U weights in turn, so that sums need not wait for one another.
    fn forward_rows<const B: usize, const U: usize>(
        &self,
        spread: &[f32],
        out: &mut [f32],
        (row, span): (usize, usize),
    ) {
        vectorised(|| {
            for (filter, out) in out.chunks_exact_mut(row).enumerate() {
                let alive = self.filter(filter);
                let (offsets, weights) = (&self.offsets[alive.clone()], &self.weights[alive]);
                for (pass, out) in out.chunks_exact_mut(B).take(span.div_ceil(B)).enumerate() {
                    out.copy_from_slice(&run_sums::<B, U>(offsets, weights, &spread[pass * B..]));
                }
            }
        });
    }

    /// Scores, and what flows back to the channels; `factors` times a weight times the sum over positions of input
    /// times gradient is its score.
    pub(super) fn backward(
        &mut self,
        geometry: &Geometry,
        (spread, gradient): (&[f32], &[f32]),
        factors: [f32; 2],
    ) {
        self.dx.fill(0.0);
        match geometry.block() {
            1 => self.backward_rows::<1>(geometry, spread, gradient),
            8 => self.backward_rows::<8>(geometry, spread, gradient),
            16 => self.backward_rows::<16>(geometry, spread, gradient),
            24 => self.backward_rows::<24>(geometry, spread, gradient),
            32 => self.backward_rows::<32>(geometry, spread, gradient),
            48 => self.backward_rows::<48>(geometry, spread, gradient),
            _ => self.backward_rows::<72>(geometry, spread, gradient),
        }
        let [first, second] = factors;
        vectorised(|| {
            self.scores.iter_mut().zip(&self.weights).for_each(|(score, weight)| {
                *score = (*score * first) * (*weight * second);
            });
        });
    }

    fn backward_rows<const B: usize>(&mut self, geometry: &Geometry, spread: &[f32], gradient: &[f32]) {
        let spread = &spread[self.channels.start * geometry.channel..];
        let base = (self.channels.start * geometry.channel) as u32;
        let (row, margin) = (geometry.gradient_row(), geometry.margin());
        let passes = geometry.span.div_ceil(B);
        vectorised(|| {
            for (filter, gradient) in gradient.chunks_exact(row).enumerate() {
                let alive = self.filter(filter);
                let (offsets, weights) = (&self.offsets[alive.clone()], &self.weights[alive.clone()]);
                let scores = &mut self.scores[alive];
                scores.fill(0.0);
                for pass in 0..passes {
                    let dy = gradient[margin + pass * B..].first_chunk::<B>().expect("slack follows a row");
                    let (spread, dx) = (&spread[pass * B..], &mut self.dx[pass * B..]);
                    for ((&offset, &weight), score) in offsets.iter().zip(weights).zip(&mut *scores) {
                        let at = (offset - base) as usize;
                        let x = spread[at..].first_chunk::<B>().expect("slack follows the features");
                        let dx = dx[at..].first_chunk_mut::<B>().expect("slack follows the features");
                        *score += dot(x, dy);
                        for lane in 0..B {
                            dx[lane] += weight * dy[lane];
                        }
                    }
                }
            }
        });
    }

    /// The place of one of the block's filters' weights.
    fn filter(&self, filter: usize) -> Range<usize> {
        let start = if filter == 0 { 0 } else { self.ends[filter - 1] };
        start..self.ends[filter]
    }

    /// Every alive weight's score.
    pub(super) fn scores(&self) -> &[f32] {
        &self.scores
    }

    /// Each filter's scores.
    pub(super) fn filter_scores(&self) -> impl Iterator<Item = &[f32]> {
        (0..self.ends.len()).map(|filter| &self.scores[self.filter(filter)])
    }

    /// Forgets every score: nothing flows through this layer.
    pub(super) fn clear(&mut self) {
        self.scores.fill(0.0);
    }

    /// Drops the weights that are not to be kept, by filter, offset and score.
    pub(super) fn retain(&mut self, keeps: impl Fn(usize, u32, f32) -> bool) {
        let (mut from, mut to) = (0, 0);
        for (filter, end) in self.ends.iter_mut().enumerate() {
            for at in from..*end {
                let (offset, score) = (self.offsets[at], self.scores[at]);
                (self.offsets[to], self.weights[to], self.scores[to]) = (offset, self.weights[at], score);
                to += usize::from(keeps(self.filters.start + filter, offset, score));
            }
            (from, *end) = (*end, to);
        }
        self.offsets.truncate(to);
        self.weights.truncate(to);
        self.scores.truncate(to);
    }

    /// Filter, offset and score of every alive weight.
    pub(super) fn entries(&self) -> impl Iterator<Item = (usize, u32, f32)> {
        (0..self.ends.len()).flat_map(move |filter| {
            let alive = self.filter(filter);
            let scores = self.scores[alive.clone()].iter();
            self.offsets[alive]
                .iter()
                .zip(scores)
                .map(move |(&offset, &score)| (self.filters.start + filter, offset, score))
        })
    }
}

/// The sum over weights of weight times run, B positions long.
#[inline(always)]
fn run_sums<const B: usize, const U: usize>(offsets: &[u32], weights: &[f32], spread: &[f32]) -> [f32; B] {
    let mut sums = [[0.0; B]; U];
    let run = |offset: u32| spread[offset as usize..].first_chunk::<B>().expect("slack follows the features");
    let (offset_chunks, offset_rest) = offsets.as_chunks::<U>();
    let (weight_chunks, weight_rest) = weights.as_chunks::<U>();
    for (offsets, weights) in offset_chunks.iter().zip(weight_chunks) {
        for turn in 0..U {
            let (x, weight) = (run(offsets[turn]), weights[turn]);
            for lane in 0..B {
                sums[turn][lane] += weight * x[lane];
            }
        }
    }
    for (&offset, &weight) in offset_rest.iter().zip(weight_rest) {
        let x = run(offset);
        for lane in 0..B {
            sums[0][lane] += weight * x[lane];
        }
    }
    let mut total = sums[0];
    for other in &sums[1..] {
        for lane in 0..B {
            total[lane] += other[lane];
        }
    }
    total
}

/// The sum of products, in a fixed tree.
#[inline(always)]
fn dot<const B: usize>(x: &[f32; B], dy: &[f32; B]) -> f32 {
    if B == 1 {
        return x[0] * dy[0];
    }
    let mut eight = [0.0; 8];
    for start in (0..B).step_by(8) {
        for lane in 0..8 {
            eight[lane] += x[start + lane] * dy[start + lane];
        }
    }
    let four: [f32; 4] = std::array::from_fn(|lane| eight[lane] + eight[lane + 4]);
    (four[0] + four[2]) + (four[1] + four[3])
}
