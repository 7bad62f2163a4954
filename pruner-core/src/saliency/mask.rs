//! Which weights a global mask keeps: so many of the highest scores, over all layers at once.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::exec::ParamEntry;

/// What happens at the threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selection {
    /// Exactly as many as asked for are kept; of equal scores those that come first.
    Exact,
    /// As the Synaptic-Flow code does: everything up to and including the threshold goes, so ties drop more.
    ReferenceStrict,
}

/// How many of `total` weights are kept at `density`: total - trunc((1 - density) * total), as the Synaptic-Flow code
/// counts, but at least one: a density too small for 1 - density to tell from 1 would keep none.
pub fn kept_count(total: usize, density: f64) -> usize {
    (total - ((1.0 - density) * total as f64) as usize).max(1)
}

/// A number that scores are stored as: finite and not negative.
pub(super) trait Score: Copy + PartialOrd + Send + Sync {
    /// Nothing flows.
    const ZERO: Self;
    /// The leading 16 bits, which order numbers that are not negative.
    fn leading(self) -> usize;
}

impl Score for f32 {
    const ZERO: Self = 0.0;

    fn leading(self) -> usize {
        (self.to_bits() >> 16) as usize
    }
}

impl Score for f64 {
    const ZERO: Self = 0.0;

    fn leading(self) -> usize {
        (self.to_bits() >> 48) as usize
    }
}

/// The lowest score that is kept, and how many of the weights that have it: those that come first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Cut<T> {
    pub(super) threshold: T,
    pub(super) ties: Ties,
}

impl Cut<f32> {
    /// The least score that is kept, where ties are taken as all kept unless none is; never 0.
    pub(super) fn least(self) -> f32 {
        let least = match self.ties {
            Ties::None => self.threshold.next_up(),
            Ties::All | Ties::First(_) => self.threshold,
        };
        least.max(f32::from_bits(1))
    }
}

/// Which weights that score exactly the threshold are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ties {
    None,
    All,
    First(usize),
}

/// Where to cut so that `kept` of `total` weights are left. `scores` has all that are above 0, in any order; scores of 0
/// may be missing.
pub(super) fn cut<T: Score>(scores: &[&[T]], (kept, total): (usize, usize), selection: Selection) -> Cut<T> {
    if total >= MANY
        && let Some(cut) = sampled_cut(scores, (kept, total), selection)
    {
        return cut;
    }
    let ranks = Ranks::of(scores);
    let all = Cut { threshold: T::ZERO, ties: Ties::None };
    match selection {
        Selection::Exact | Selection::ReferenceStrict if ranks.alive <= kept => all,
        Selection::Exact => exact(ranks.at(kept - 1, scores), kept),
        Selection::ReferenceStrict if kept == total => all,
        Selection::ReferenceStrict => Cut { threshold: ranks.at(kept, scores).score, ties: Ties::None },
    }
}

/// Fewest weights for which a sample of the scores pays.
const MANY: usize = 1 << 20;
/// About how many scores a sample has.
const SAMPLE: usize = 1 << 15;

/// As [`cut`], if a sample's guess holds of which scores the threshold lies between: then only those are ranked, and
/// the others are counted, which takes a tenth of the time.
fn sampled_cut<T: Score>(
    scores: &[&[T]],
    (kept, total): (usize, usize),
    selection: Selection,
) -> Option<Cut<T>> {
    let len: usize = scores.iter().map(|scores| scores.len()).sum();
    let step = len.div_ceil(SAMPLE).max(1);
    let some = |scores: &[&[T]]| -> Vec<T> {
        scores.iter().flat_map(|scores| scores.iter().step_by(step)).copied().collect()
    };
    let sample = tasks(scores).into_par_iter().map(some).collect::<Vec<_>>().concat();
    let guess = kept / step;
    // Six standard deviations of a rank in a sample, and some more for scores that come in no random order.
    let spread = guess as f64 * (1.0 - guess as f64 / sample.len() as f64).max(0.0);
    let error = 6 * spread.sqrt() as usize + 32;
    if step == 1 || guess <= error || guess + error >= sample.len() {
        return None;
    }
    let sample = [sample.as_slice()];
    let ranks = Ranks::of(&sample);
    let bounds = (ranks.at(guess + error, &sample).score, ranks.at(guess - error, &sample).score);
    let between: Vec<Between<T>> = tasks(scores)
        .into_par_iter()
        .map(|scores| pulp::Arch::new().dispatch(Search { scores, bounds }))
        .collect();
    let above: usize = between.iter().map(|part| part.above).sum();
    let close: Vec<&[T]> = between.iter().map(|part| part.scores.as_slice()).collect();
    let found: usize = close.iter().map(|scores| scores.len()).sum();
    // Both the last that is kept and the first that is not must be among them.
    if bounds.0 == T::ZERO || kept <= above || kept >= above + found {
        return None;
    }
    let (kept, total) = (kept - above, total - above);
    let place = |rank| Ranks::of(&close).at(rank, &close);
    Some(match selection {
        Selection::Exact => exact(place(kept - 1), kept),
        Selection::ReferenceStrict if kept == total => Cut { threshold: T::ZERO, ties: Ties::None },
        Selection::ReferenceStrict => Cut { threshold: place(kept).score, ties: Ties::None },
    })
}

/// Where to cut to keep so many, given the last of them.
fn exact<T>(last: Place<T>, kept: usize) -> Cut<T> {
    let ties = kept - last.higher;
    let ties = if ties == last.equal { Ties::All } else { Ties::First(ties) };
    Cut { threshold: last.score, ties }
}

/// The scores between two bounds, both included, and how many lie above.
struct Between<T> {
    scores: Vec<T>,
    above: usize,
}

impl<T: Score> Between<T> {
    #[inline(always)]
    fn take(&mut self, scores: &[T], (low, high): (T, T)) {
        let (mut above, mut below) = (0_u32, 0_u32);
        for &score in scores {
            above += u32::from(score > high);
            below += u32::from(score < low);
        }
        self.above += above as usize;
        if ((above + below) as usize) < scores.len() {
            // Which of them it is cannot be foretold, so no branch depends on it.
            let (mut found, mut count) = ([T::ZERO; CHUNK], 0);
            for &score in scores {
                found[count] = score;
                count += usize::from((score >= low) & (score <= high));
            }
            self.scores.extend_from_slice(&found[..count]);
        }
    }
}

/// Scores that are compared at once.
const CHUNK: usize = 16;

/// Finds them. A struct and no closure, because only so is its body sure to be compiled for the processor's vectors.
struct Search<'a, T> {
    scores: &'a [&'a [T]],
    bounds: (T, T),
}

impl<T: Score> WithSimd for Search<'_, T> {
    type Output = Between<T>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Between<T> {
        let (low, high) = self.bounds;
        let mut between = Between { scores: Vec::new(), above: 0 };
        for scores in self.scores {
            let (chunks, rest) = scores.as_chunks::<CHUNK>();
            for scores in chunks {
                between.take(scores, (low, high));
            }
            between.take(rest, (low, high));
        }
        between
    }
}

/// Sets the scores of the weights that are dropped to 0. Scores are finite and not negative; a score of 0 is never kept.
pub(super) fn keep(scores: &mut [f64], prunable: &[&ParamEntry], density: f64, selection: Selection) {
    let total: usize = prunable.iter().map(|entry| entry.range.len()).sum();
    let slices: Vec<&[f64]> = prunable.iter().map(|entry| &scores[entry.range.clone()]).collect();
    let Cut { threshold, ties } = cut(&slices, (kept_count(total, density), total), selection);
    let mut ties = match ties {
        Ties::None => 0,
        Ties::All => usize::MAX,
        Ties::First(count) => count,
    };
    for entry in prunable {
        for score in &mut scores[entry.range.clone()] {
            if *score > threshold {
                continue;
            }
            if *score == threshold && ties > 0 {
                ties -= 1;
            } else {
                *score = 0.0;
            }
        }
    }
}

/// Scores counted by their leading bits: with millions of scores, finding one by its rank so takes two passes and sorts
/// next to nothing.
struct Ranks {
    counts: Vec<u32>,
    /// Scores above 0.
    alive: usize,
}

/// One score among all.
struct Place<T> {
    score: T,
    higher: usize,
    equal: usize,
}

/// Tasks that scores are counted in; more would spend their time adding up counts.
const TASKS: usize = 4;

impl Ranks {
    fn of<T: Score>(scores: &[&[T]]) -> Self {
        let count = |scores: &[&[T]]| {
            let (mut counts, mut zeros) = (vec![0; 1 << 15], 0);
            for &score in scores.iter().copied().flatten() {
                counts[score.leading()] += 1;
                zeros += usize::from(score == T::ZERO);
            }
            (counts, scores.iter().map(|scores| scores.len()).sum::<usize>() - zeros)
        };
        let add = |(mut counts, alive): (Vec<u32>, usize), (others, other_alive): (Vec<u32>, usize)| {
            counts.iter_mut().zip(&others).for_each(|(count, other)| *count += other);
            (counts, alive + other_alive)
        };
        let (counts, alive) =
            tasks(scores).into_par_iter().map(count).reduce_with(add).unwrap_or((vec![0; 1 << 15], 0));
        Self { counts, alive }
    }

    /// The score with `rank` others before it when the highest come first.
    fn at<T: Score>(&self, rank: usize, scores: &[&[T]]) -> Place<T> {
        let mut before = 0;
        let bucket = self.counts.iter().enumerate().rev().find(|(_, count)| {
            before += **count as usize;
            before > rank
        });
        let (bucket, count) = bucket.expect("the rank is one of the scores'");
        before -= *count as usize;
        let close = |scores: &[&[T]]| -> Vec<T> {
            scores.iter().copied().flatten().copied().filter(|score| score.leading() == bucket).collect()
        };
        let close: Vec<Vec<T>> = tasks(scores).into_par_iter().map(close).collect();
        let mut close = close.concat();
        let order = |a: &T, b: &T| b.partial_cmp(a).expect("scores are finite");
        let (higher, &mut score, lower) = close.select_nth_unstable_by(rank - before, order);
        let equal = |scores: &[T]| scores.iter().filter(|&&other| other == score).count();
        let (equal_before, equal_after) = (equal(higher), equal(lower));
        Place { score, higher: before + higher.len() - equal_before, equal: equal_before + 1 + equal_after }
    }
}

/// The slices in runs of about as many scores.
fn tasks<'a, 'b, T>(scores: &'a [&'b [T]]) -> Vec<&'a [&'b [T]]> {
    let total: usize = scores.iter().map(|scores| scores.len()).sum();
    let mut done = 0;
    let mut task = |scores: &&[T]| {
        done += scores.len();
        (done - scores.len()) * TASKS / total.max(1)
    };
    let numbers: Vec<usize> = scores.iter().map(&mut task).collect();
    let mut rest = scores;
    numbers
        .chunk_by(|a, b| a == b)
        .map(|run| {
            let (task, others) = rest.split_at(run.len());
            rest = others;
            task
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::Role;
    use crate::graph::NodeId;

    #[test]
    fn counts_are_those_of_the_reference_runs() {
        // pruning at initialisation of VGG-16 for 100 and for 10 classes; the first five equal stored reference runs
        for (total, density, kept) in [
            (14_761_664, 10f64.powf(-0.5), 4_668_049),
            (14_761_664, 0.1, 1_476_167),
            (14_761_664, 10f64.powf(-1.5), 466_805),
            (14_761_664, 0.01, 147_617),
            (14_761_664, 0.001, 14_762),
            (14_715_584, 0.5, 7_357_792),
            (14_715_584, 0.25, 3_678_896),
            (14_715_584, 0.125, 1_839_448),
            (14_715_584, 1.0 / 16.0, 919_724),
            (14_715_584, 1.0 / 32.0, 459_862),
            (14_715_584, 1.0 / 64.0, 229_931),
            (14_715_584, 1.0 / 128.0, 114_966),
            (14_715_584, 1.0 / 256.0, 57_483),
        ] {
            assert_eq!(kept_count(total, density), kept, "{total} at {density}");
        }
        assert_eq!(kept_count(1000, f64::MIN_POSITIVE), 1);
    }

    #[test]
    fn ties_are_broken_by_place_or_dropped_together() {
        let dims = vec![2, 3];
        let entry = ParamEntry { tensor: "w".into(), node: NodeId(1), role: Role::Weight, dims, range: 0..6 };
        let scores = [3.0, 1.0, 2.0, 2.0, 2.0, 0.5];
        let kept = |density, selection| {
            let mut scores = scores;
            keep(&mut scores, &[&entry], density, selection);
            scores
        };
        assert_eq!(kept(0.5, Selection::Exact), [3.0, 0.0, 2.0, 2.0, 0.0, 0.0]);
        assert_eq!(kept(0.5, Selection::ReferenceStrict), [3.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(kept(1.0, Selection::Exact), scores);
        assert_eq!(kept(1.0, Selection::ReferenceStrict), scores);
    }

    #[test]
    fn as_many_are_kept_as_sorting_them_all_would_keep() {
        // Two layers, scores from the least positive number up, every fourth one 0 and many alike.
        let score = |i: usize| match i % 4 {
            0 => 0.0,
            1 => f64::from_bits(i as u64),
            _ => 10f64.powi((i * 37 % 600) as i32 - 300),
        };
        let scores: Vec<f64> = (0..4000).map(score).collect();
        let entry = |range: std::ops::Range<usize>| ParamEntry {
            tensor: "w".into(),
            node: NodeId(1),
            role: Role::Weight,
            dims: vec![range.len()],
            range,
        };
        let (first, second) = (entry(0..1000), entry(1000..4000));
        let mut sorted: Vec<usize> = (0..4000).collect();
        sorted.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        for density in [0.001, 0.1, 0.25, 0.6, 0.75, 0.9] {
            let mut masked = scores.clone();
            keep(&mut masked, &[&first, &second], density, Selection::Exact);
            let mut expected = vec![0.0; 4000];
            for &i in &sorted[..kept_count(4000, density)] {
                expected[i] = scores[i];
            }
            assert_eq!(masked, expected, "{density}");
        }
    }

    /// Beyond a million scores a sample says where to look; the answer is the same, ties in plenty or none.
    #[test]
    fn a_sample_changes_no_cut() {
        let many = 3 << 19;
        let scores = |values: usize| -> Vec<f32> {
            (0..many).map(|i: usize| (i.wrapping_mul(0x9e37_79b9) % values) as f32).collect()
        };
        for values in [50, 1 << 23] {
            let scores = scores(values);
            let halves = scores.split_at(many / 3);
            let mut sorted = scores.clone();
            sorted.sort_by(|a, b| b.total_cmp(a));
            for kept in [1, 1000, many / 3, many * 9 / 10] {
                let slices = [halves.0, halves.1];
                let exact = cut(&slices, (kept, many), Selection::Exact);
                assert_eq!(exact.threshold, sorted[kept - 1]);
                let above = sorted.partition_point(|score| *score > exact.threshold);
                let equal = sorted.partition_point(|score| *score >= exact.threshold) - above;
                let ties = if above + equal == kept { Ties::All } else { Ties::First(kept - above) };
                assert_eq!(exact.ties, ties, "{kept} of {values}");
                let strict = cut(&slices, (kept, many), Selection::ReferenceStrict);
                assert_eq!(strict, Cut { threshold: sorted[kept], ties: Ties::None });
            }
        }
    }
}
