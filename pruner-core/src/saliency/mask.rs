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

/// How many of `total` weights are kept at `density`: total - trunc((1 - density) * total), as the Synaptic-Flow code counts.
pub fn kept_count(total: usize, density: f64) -> usize {
    total - ((1.0 - density) * total as f64) as usize
}

/// Sets the scores of the weights that are dropped to 0. Scores are not negative; a score of 0 is never kept.
pub(super) fn keep(scores: &mut [f64], prunable: &[&ParamEntry], density: f64, selection: Selection) {
    let total: usize = prunable.iter().map(|entry| entry.range.len()).sum();
    let kept = kept_count(total, density);
    // Dropped weights stay at 0 for ever, so a round orders only those that are alive.
    let mut alive: Vec<f64> = Vec::new();
    for entry in prunable {
        alive.extend(scores[entry.range.clone()].iter().filter(|&&score| score > 0.0));
    }
    let threshold = match selection {
        Selection::Exact if alive.len() <= kept => return,
        Selection::Exact => *alive.select_nth_unstable_by(kept - 1, |a, b| b.total_cmp(a)).1,
        Selection::ReferenceStrict if kept == total => return,
        Selection::ReferenceStrict if alive.len() <= kept => 0.0,
        Selection::ReferenceStrict => *alive.select_nth_unstable_by(kept, |a, b| b.total_cmp(a)).1,
    };
    let mut ties = match selection {
        Selection::Exact => kept - alive.iter().filter(|&&score| score > threshold).count(),
        Selection::ReferenceStrict => 0,
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
}
