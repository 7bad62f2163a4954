//! Scoring and pruning in turn: the loop of every criterion but synaptic flow, whose engine prunes as it scores, and the
//! criteria that are a line each. Chooses no
//! channels.

use std::ops::{ControlFlow, Range};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::grasp::Grasp;
use super::snip::Snip;
use super::{Criterion, MaskRecipe, SaliencyError, Schedule, mask};
use crate::dataset::LabelledImages;
use crate::exec::{ParamEntry, ParamLayout, Role};
use crate::graph::Network;

/// How much each weight matters.
pub(super) trait Saliency {
    /// The score of every parameter at `weights`, where what is pruned is 0, into `scores`. The highest stay.
    fn score(&mut self, weights: &[f64], scores: &mut [f64]);

    /// A score as a number that is not negative, in the order of scores; what has 0 is never kept.
    fn rank(&self, score: f64) -> f64 {
        score
    }
}

/// The score of every parameter in the last round; of what its mask drops 0, of what it keeps always more than 0.
pub(super) fn masked_scores(
    network: &Network,
    layout: &ParamLayout,
    recipe: &MaskRecipe,
    images: Option<&LabelledImages>,
    on_round: &mut dyn FnMut(u32, u32) -> ControlFlow<()>,
) -> Result<Vec<f64>, SaliencyError> {
    let mut weights = layout.gather::<f64>(&network.weights)?;
    if weights.iter().any(|weight| !weight.is_finite()) {
        return Err(SaliencyError::NotFinite);
    }
    let prunable = prunable(layout);
    let mut saliency = saliency(network, recipe, images, &prunable)?;
    // Scores that do not depend on what was pruned are the same in every round.
    let rounds = if recipe.scores.criterion.is_iterative() { recipe.scores.rounds } else { 1 };
    let mut scores = vec![0.0; weights.len()];
    let mut ranks = vec![f64::INFINITY; weights.len()];
    for round in 1..=rounds {
        saliency.score(&weights, &mut scores);
        for at in prunable.iter().flat_map(|entry| entry.range.clone()) {
            if !scores[at].is_finite() {
                return Err(SaliencyError::NotFinite);
            }
            // What was pruned stays so, whatever it scores now.
            ranks[at] = if ranks[at] == 0.0 { 0.0 } else { saliency.rank(scores[at]) };
        }
        let density = recipe.schedule.density(recipe.scores.density, round, rounds);
        mask::keep(&mut ranks, &prunable, density, recipe.selection);
        for at in prunable.iter().flat_map(|entry| entry.range.clone()).filter(|&at| ranks[at] == 0.0) {
            weights[at] = 0.0;
        }
        if on_round(round, rounds).is_break() {
            return Err(SaliencyError::Cancelled);
        }
    }
    for at in prunable.iter().flat_map(|entry| entry.range.clone()) {
        scores[at] = if ranks[at] == 0.0 { 0.0 } else { scores[at].max(f64::MIN_POSITIVE) };
    }
    Ok(scores)
}

/// Weights of convolutions and linear layers.
pub(super) fn prunable(layout: &ParamLayout) -> Vec<&ParamEntry> {
    layout.entries().iter().filter(|entry| entry.role == Role::Weight).collect()
}

fn saliency<'a>(
    network: &Network,
    recipe: &MaskRecipe,
    images: Option<&'a LabelledImages>,
    prunable: &[&ParamEntry],
) -> Result<Box<dyn Saliency + 'a>, SaliencyError> {
    let criterion = recipe.scores.criterion;
    let images = || images.ok_or(SaliencyError::NeedsImages { criterion });
    Ok(match criterion {
        Criterion::SynFlow => unreachable!("its scores and its pruning are one engine: see `synflow`"),
        Criterion::Snip => Box::new(Snip::new(&network.graph, images()?)?),
        Criterion::Grasp => Box::new(Grasp::new(&network.graph, images()?)?),
        Criterion::Magnitude => Box::new(Magnitude),
        Criterion::Random => {
            let ranges = prunable.iter().map(|entry| entry.range.clone()).collect();
            Box::new(Random { seed: recipe.scores.seed, ranges })
        }
    })
}

impl Schedule {
    /// The share that round `round` of `rounds` leaves, on the way to `last`.
    pub(super) fn density(self, last: f64, round: u32, rounds: u32) -> f64 {
        let done = f64::from(round) / f64::from(rounds);
        match self {
            Self::Exponential => last.powf(done),
            Self::Linear => 1.0 - (1.0 - last) * done,
        }
    }
}

/// |w|.
struct Magnitude;

impl Saliency for Magnitude {
    fn score(&mut self, weights: &[f64], scores: &mut [f64]) {
        scores.iter_mut().zip(weights).for_each(|(score, weight)| *score = weight.abs());
    }
}

/// Uniform, above 0 and up to 1.
struct Random {
    seed: u64,
    ranges: Vec<Range<usize>>,
}

impl Saliency for Random {
    fn score(&mut self, _: &[f64], scores: &mut [f64]) {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        for range in &self.ranges {
            scores[range.clone()].iter_mut().for_each(|score| *score = 1.0 - random.random::<f64>());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Schedule;

    #[test]
    fn densities_of_the_rounds() {
        let of = |schedule: Schedule, last, rounds| -> Vec<f64> {
            (1..=rounds).map(|round| schedule.density(last, round, rounds)).collect()
        };
        let close = |got: &[f64], wanted: &[f64]| {
            got.iter().zip(wanted).all(|(got, wanted)| (got - wanted).abs() < 1e-6)
        };
        let tenth = of(Schedule::Exponential, 0.1, 10);
        assert!(close(&tenth, &[0.794_328, 0.630_957, 0.501_187, 0.398_107, 0.316_228]), "{tenth:?}");
        assert!((tenth[9] - 0.1).abs() < 1e-12);
        let sixteenth = of(Schedule::Exponential, 1.0 / 16.21, 100);
        assert!(close(&sixteenth, &[0.972_528, 0.945_811, 0.919_828, 0.894_558]), "{sixteenth:?}");
        assert!(close(&of(Schedule::Linear, 0.2, 4), &[0.8, 0.6, 0.4, 0.2]));
    }
}
