//! Convolutions of which few weights are alive, or whose maps are so small that reading the weights is all the work:
//! each alive weight is a number and the place of the run it multiplies. What died is not stored.

use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::geometry::{Geometry, SLACK};
use super::layer::sum;
use crate::exec::vectorised;

/// Most blocks that a layer's filters are cut into, whatever the number of threads.
const BLOCKS: usize = 8;

/// Numbers of spread features that are worked on at once: these and as many of their gradient stay in the nearest cache.
const NEAR: usize = 3072;

/// The alive weights of some consecutive filters. They lie in segments, so many channels of one filter each: all
/// filters' weights of the first channels, then all of the next. Within a segment they are in the order of taps, then
/// channels.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) filters: Range<usize>,
    /// Of all groups that the filters belong to.
    channels: Range<usize>,
    /// Where each segment's weights end.
    ends: Vec<usize>,
    /// Where the runs begin in spread features.
    offsets: Vec<u32>,
    weights: Vec<f32>,
    scores: Vec<f32>,
    /// What these filters add to their channels' gradient, spread.
    dx: Vec<f32>,
}

/// The blocks of a layer whose weights lie tap after tap, and their scores if they have any.
pub(super) fn blocks(geometry: &Geometry, weights: &[f32], scores: Option<&[f32]>) -> Vec<Block> {
    let (groups, group) = (geometry.groups, geometry.group_filters());
    let step = if groups == 1 {
        group.div_ceil(BLOCKS).next_multiple_of(8)
    } else {
        groups.div_ceil(BLOCKS) * group
    };
    let total = geometry.output.channels;
    let ranges: Vec<Range<usize>> =
        (0..total).step_by(step).map(|from| from..total.min(from + step)).collect();
    ranges.into_par_iter().map(|filters| Block::of(geometry, filters, weights, scores)).collect()
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
                vectorised!(sum.iter_mut().zip(own).for_each(|(sum, own)| *sum += own));
            }
            geometry.collect(&sum, dx);
        }
    });
}

impl Block {
    fn of(geometry: &Geometry, filters: Range<usize>, weights: &[f32], scores: Option<&[f32]>) -> Self {
        let (group_channels, filter) = (geometry.group_channels(), geometry.filter());
        let first = |filter: usize| filter / geometry.group_filters() * group_channels;
        let channels = first(filters.start)..first(filters.end - 1) + group_channels;
        let own = &weights[filters.start * filter..filters.end * filter];
        let alive = own.iter().filter(|weight| **weight > 0.0).count();
        let mut block = Self {
            filters: filters.clone(),
            channels: channels.clone(),
            ends: Vec::new(),
            offsets: Vec::with_capacity(alive),
            weights: Vec::with_capacity(alive),
            scores: Vec::with_capacity(alive),
            dx: vec![0.0; channels.len() * geometry.channel + SLACK],
        };
        let near = (NEAR / geometry.channel).max(1);
        for from in channels.clone().step_by(near) {
            for index in filters.clone() {
                let group = first(index)..first(index) + group_channels;
                let both = from.max(group.start)..(from + near).min(group.end);
                for (tap, place) in geometry.taps.iter().enumerate() {
                    for channel in both.clone() {
                        let at = index * filter + tap * group_channels + channel - group.start;
                        if weights[at] > 0.0 {
                            block.offsets.push((channel * geometry.channel + place) as u32);
                            block.weights.push(weights[at]);
                            block.scores.push(scores.map_or(0.0, |scores| scores[at]));
                        }
                    }
                }
                block.ends.push(block.weights.len());
            }
        }
        block
    }

    /// Each filter's row of outputs into `out`.
    pub(super) fn forward(&self, geometry: &Geometry, spread: &[f32], out: &mut [f32]) {
        pulp::Arch::new().dispatch(Forward { block: self, spread, out, row: geometry.output_row() });
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
        let base = self.channels.start * geometry.channel;
        let (spread, gradient) = (&spread[base..], &gradient[geometry.margin()..]);
        let (row, width) = (geometry.gradient_row(), geometry.output_row());
        let flow = Gradients { spread, gradient, factors, row, width, base };
        pulp::Arch::new().dispatch(Backward { block: self, flow });
    }

    /// The segments' numbers and the places of their weights.
    fn segments(&self) -> impl Iterator<Item = (usize, Range<usize>)> {
        segments(&self.ends)
    }

    /// Every alive weight's score.
    pub(super) fn scores(&self) -> &[f32] {
        &self.scores
    }

    /// Each filter's sum of scores and number of those above 0.
    pub(super) fn sums(&self) -> Vec<(f64, usize)> {
        let mut sums = vec![(0.0, 0); self.filters.len()];
        for (segment, alive) in self.segments() {
            let (own, count) = sum(&self.scores[alive]);
            let filter = &mut sums[segment % self.filters.len()];
            *filter = (filter.0 + own, filter.1 + count);
        }
        sums
    }

    /// Forgets every score: nothing flows through this layer.
    pub(super) fn clear(&mut self) {
        self.scores.fill(0.0);
    }

    /// Drops the weights that are not to be kept, by filter, offset and score.
    pub(super) fn retain(&mut self, keeps: impl Fn(usize, u32, f32) -> bool) {
        let Self { ends, offsets, weights, scores, filters, .. } = self;
        let (mut from, mut to) = (0, 0);
        for (segment, end) in ends.iter_mut().enumerate() {
            let filter = filters.start + segment % filters.len();
            for at in from..*end {
                let (offset, score) = (offsets[at], scores[at]);
                (offsets[to], weights[to], scores[to]) = (offset, weights[at], score);
                to += usize::from(keeps(filter, offset, score));
            }
            (from, *end) = (*end, to);
        }
        offsets.truncate(to);
        weights.truncate(to);
        scores.truncate(to);
    }

    /// Filter, offset and score of every alive weight.
    pub(super) fn entries(&self) -> impl Iterator<Item = (usize, u32, f32)> {
        self.segments().flat_map(move |(segment, alive)| {
            let filter = self.filters.start + segment % self.filters.len();
            let scores = self.scores[alive.clone()].iter();
            self.offsets[alive].iter().zip(scores).map(move |(&offset, &score)| (filter, offset, score))
        })
    }
}

/// [`Block::forward`]. A struct and no closure, because only so is its body sure to be compiled for the processor's
/// vectors.
struct Forward<'a> {
    block: &'a Block,
    spread: &'a [f32],
    out: &'a mut [f32],
    /// Length of a filter's row: one position, or whole vectors of them.
    row: usize,
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { block, spread, out, row } = self;
        out.fill(0.0);
        let (filters, mut from) = (block.filters.len(), 0);
        for (segment, &end) in block.ends.iter().enumerate() {
            let alive = Alive { offsets: &block.offsets[from..end], weights: &block.weights[from..end] };
            from = end;
            let out = &mut out[segment % filters * row..][..row];
            if row == 1 {
                out[0] += alive.sum_of_one(spread);
                continue;
            }
            for (at, vectors) in cuts::<S>(row) {
                let (out, spread) = (&mut out[at..], &spread[at..]);
                match vectors {
                    1 => alive.add_to::<S, 1, 4>(simd, spread, out),
                    2 => alive.add_to::<S, 2, 3>(simd, spread, out),
                    3 => alive.add_to::<S, 3, 2>(simd, spread, out),
                    4 => alive.add_to::<S, 4, 1>(simd, spread, out),
                    5 => alive.add_to::<S, 5, 1>(simd, spread, out),
                    _ => alive.add_to::<S, 6, 1>(simd, spread, out),
                }
            }
        }
    }
}

/// Where runs of vectors begin in a row of numbers, and how many vectors each has: at most as many as stay in registers
/// with what they are multiplied by.
#[inline(always)]
fn cuts<S: Simd>(row: usize) -> impl Iterator<Item = (usize, usize)> {
    let most = if S::F32_LANES == 8 { 3 } else { 6 };
    let vectors = row / S::F32_LANES;
    let cuts = vectors.div_ceil(most);
    (0..cuts).map(move |cut| {
        let (from, to) = (vectors * cut / cuts, vectors * (cut + 1) / cuts);
        (from * S::F32_LANES, to - from)
    })
}

/// One segment's weights.
#[derive(Clone, Copy)]
struct Alive<'a> {
    offsets: &'a [u32],
    weights: &'a [f32],
}

impl Alive<'_> {
    /// Weight times input, summed up, where features have one position.
    #[inline(always)]
    fn sum_of_one(self, spread: &[f32]) -> f32 {
        let mut sums = [0.0; 4];
        for (at, (&offset, &weight)) in self.offsets.iter().zip(self.weights).enumerate() {
            sums[at % 4] += weight * spread[offset as usize];
        }
        (sums[0] + sums[1]) + (sums[2] + sums[3])
    }

    /// Adds weight times run to V vectors, U weights in turn, so that sums need not wait for one another.
    #[inline(always)]
    fn add_to<S: Simd, const V: usize, const U: usize>(self, simd: S, spread: &[f32], out: &mut [f32]) {
        let mut sums = [[simd.splat_f32s(0.0); V]; U];
        let (offset_chunks, offset_rest) = self.offsets.as_chunks::<U>();
        let (weight_chunks, weight_rest) = self.weights.as_chunks::<U>();
        for (offsets, weights) in offset_chunks.iter().zip(weight_chunks) {
            for turn in 0..U {
                let (run, weight) = (run::<S, V>(spread, offsets[turn]), simd.splat_f32s(weights[turn]));
                for v in 0..V {
                    sums[turn][v] = simd.mul_add_e_f32s(weight, run[v], sums[turn][v]);
                }
            }
        }
        for (&offset, &weight) in offset_rest.iter().zip(weight_rest) {
            let (run, weight) = (run::<S, V>(spread, offset), simd.splat_f32s(weight));
            for v in 0..V {
                sums[0][v] = simd.mul_add_e_f32s(weight, run[v], sums[0][v]);
            }
        }
        let (out, _) = S::as_mut_simd_f32s(&mut out[..V * S::F32_LANES]);
        for v in 0..V {
            for sums in &sums {
                out[v] = simd.add_f32s(out[v], sums[v]);
            }
        }
    }
}

/// V vectors from a place on.
#[inline(always)]
fn run<S: Simd, const V: usize>(values: &[f32], at: u32) -> [S::f32s; V] {
    let (run, _) = S::as_simd_f32s(&values[at as usize..][..V * S::F32_LANES]);
    std::array::from_fn(|v| run[v])
}

/// What [`Block::backward`] reads.
#[derive(Clone, Copy)]
struct Gradients<'a> {
    /// Features from the first channel on that the block reads, and its place among all.
    spread: &'a [f32],
    base: usize,
    /// The filters' gradients, without the first row's margin; a row's length, and how much of it is used.
    gradient: &'a [f32],
    row: usize,
    width: usize,
    factors: [f32; 2],
}

/// [`Block::backward`].
struct Backward<'a> {
    block: &'a mut Block,
    flow: Gradients<'a>,
}

impl WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { block: Block { filters, ends, offsets, weights, scores, dx, .. }, flow } = self;
        let [first, second] = flow.factors;
        let mut from = 0;
        for (segment, &end) in ends.iter().enumerate() {
            let alive = Alive { offsets: &offsets[from..end], weights: &weights[from..end] };
            let scores = &mut scores[from..end];
            from = end;
            scores.fill(0.0);
            let gradient = &flow.gradient[segment % filters.len() * flow.row..];
            if flow.width == 1 {
                alive.back_of_one(flow, gradient[0], (scores, dx));
            } else {
                for (at, vectors) in cuts::<S>(flow.width) {
                    let flow = Gradients { spread: &flow.spread[at..], gradient: &gradient[at..], ..flow };
                    let to = (&mut *scores, &mut dx[at..]);
                    match vectors {
                        1 => alive.back::<S, 1>(simd, flow, to),
                        2 => alive.back::<S, 2>(simd, flow, to),
                        3 => alive.back::<S, 3>(simd, flow, to),
                        4 => alive.back::<S, 4>(simd, flow, to),
                        5 => alive.back::<S, 5>(simd, flow, to),
                        _ => alive.back::<S, 6>(simd, flow, to),
                    }
                }
            }
            for (score, weight) in scores.iter_mut().zip(alive.weights) {
                *score = (*score * first) * (*weight * second);
            }
        }
    }
}

impl Alive<'_> {
    /// Input times gradient to the scores and weight times gradient to the channels, where features have one position.
    #[inline(always)]
    fn back_of_one(self, flow: Gradients<'_>, dy: f32, (scores, dx): (&mut [f32], &mut [f32])) {
        for ((&offset, &weight), score) in self.offsets.iter().zip(self.weights).zip(scores) {
            let at = offset as usize - flow.base;
            *score = flow.spread[at] * dy;
            dx[at] += weight * dy;
        }
    }

    /// The same for V vectors of positions.
    #[inline(always)]
    fn back<S: Simd, const V: usize>(
        self,
        simd: S,
        flow: Gradients<'_>,
        (scores, dx): (&mut [f32], &mut [f32]),
    ) {
        let dy = run::<S, V>(flow.gradient, 0);
        for ((&offset, &weight), score) in self.offsets.iter().zip(self.weights).zip(scores) {
            let at = offset as usize - flow.base;
            let x = run::<S, V>(flow.spread, at as u32);
            let (dx, _) = S::as_mut_simd_f32s(&mut dx[at..][..V * S::F32_LANES]);
            let weight = simd.splat_f32s(weight);
            let mut sum = simd.mul_f32s(x[0], dy[0]);
            dx[0] = simd.mul_add_e_f32s(weight, dy[0], dx[0]);
            for v in 1..V {
                sum = simd.mul_add_e_f32s(x[v], dy[v], sum);
                dx[v] = simd.mul_add_e_f32s(weight, dy[v], dx[v]);
            }
            *score += simd.reduce_sum_f32s(sum);
        }
    }
}

/// The numbers of segments that end there, and their places.
fn segments(ends: &[usize]) -> impl Iterator<Item = (usize, Range<usize>)> {
    let mut from = 0;
    ends.iter().enumerate().map(move |(segment, &end)| (segment, std::mem::replace(&mut from, end)..end))
}
