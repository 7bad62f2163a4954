//! Which weights a global mask keeps: so many of the highest scores, over all layers at once.

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

/// Sets the scores of the weights that are dropped to 0. Scores are finite and not negative; a score of 0 is never kept.
pub(super) fn keep(scores: &mut [f64], prunable: &[&ParamEntry], density: f64, selection: Selection) {
    let total: usize = prunable.iter().map(|entry| entry.range.len()).sum();
    let kept = kept_count(total, density);
    let ranks = Ranks::of(scores, prunable);
    let (threshold, mut ties) = match selection {
        Selection::Exact if ranks.alive <= kept => return,
        Selection::Exact => {
            let (threshold, higher) = ranks.at(kept - 1, scores, prunable);
            (threshold, kept - higher)
        }
        Selection::ReferenceStrict if kept == total => return,
        Selection::ReferenceStrict if ranks.alive <= kept => (0.0, 0),
        Selection::ReferenceStrict => (ranks.at(kept, scores, prunable).0, 0),
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

/// Scores counted by their leading 16 bits, which order numbers that are not negative: with millions of scores, finding
/// one by its rank so takes two passes and sorts next to nothing.
struct Ranks {
    counts: Vec<usize>,
    /// Scores above 0.
    alive: usize,
}

fn leading(score: f64) -> usize {
    (score.to_bits() >> 48) as usize
}

impl Ranks {
    fn of(scores: &[f64], prunable: &[&ParamEntry]) -> Self {
        let (mut counts, mut alive) = (vec![0; 1 << 16], 0);
        for entry in prunable {
            for &score in &scores[entry.range.clone()] {
                counts[leading(score)] += 1;
                alive += usize::from(score > 0.0);
            }
        }
        Self { counts, alive }
    }

    /// The score with `rank` others before it when the highest come first, and how many are higher than it.
    fn at(&self, rank: usize, scores: &[f64], prunable: &[&ParamEntry]) -> (f64, usize) {
        let mut before = 0;
        let bucket = self.counts.iter().enumerate().rev().find(|(_, count)| {
            before += **count;
            before > rank
        });
        let (bucket, count) = bucket.expect("the rank is one of the scores'");
        before -= count;
        let mut close: Vec<f64> = Vec::with_capacity(*count);
        for entry in prunable {
            let scores = scores[entry.range.clone()].iter();
            close.extend(scores.filter(|score| leading(**score) == bucket));
        }
        let (higher, &mut score, _) = close.select_nth_unstable_by(rank - before, |a, b| b.total_cmp(a));
        (score, before + higher.iter().filter(|&&other| other > score).count())
    }
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
}
