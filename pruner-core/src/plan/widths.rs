//! Widths of the groups at a scale, and the scales at which any width changes.

use std::collections::BTreeMap;

use super::WidthPolicy;
use crate::graph::{Graph, NodeId};
use crate::group::{self, ChannelGroup, GroupId};
use crate::sensitivity::Sensitivity;

/// The prunable groups.
#[derive(Debug, Clone)]
pub(super) struct Widths {
    groups: Vec<Entry>,
    min_channels: usize,
}

#[derive(Debug, Clone)]
struct Entry {
    id: GroupId,
    width: usize,
    /// d^p, more than 0.
    weight: f64,
}

/// Below this density all layers count alike: with none left at all the rule could not tell widths apart.
const LEAST_DENSITY: f64 = 1e-6;

impl Widths {
    pub(super) fn new<'a>(
        graph: &Graph,
        groups: impl Iterator<Item = &'a ChannelGroup>,
        sensitivity: &Sensitivity,
        policy: WidthPolicy,
    ) -> Self {
        let entry = |group: &ChannelGroup| Entry {
            id: group.id,
            width: group.width,
            weight: density(graph, group, sensitivity).max(LEAST_DENSITY).powf(policy.exponent),
        };
        Self { groups: groups.map(entry).collect(), min_channels: policy.min_channels.max(1) }
    }

    /// Every scale at which a width changes, ascending: at k / (c * d^p) the group has k channels, above it more.
    pub(super) fn scales(&self) -> Vec<f64> {
        let of = |entry: &Entry| {
            let (width, weight) = (entry.width as f64, entry.weight);
            (1..=entry.width).map(move |channels| channels as f64 / (width * weight))
        };
        let mut scales: Vec<f64> = self.groups.iter().flat_map(of).collect();
        scales.sort_by(f64::total_cmp);
        scales.dedup();
        scales
    }

    /// The width of each group that is not full at this scale. A width of at least `round_to` is rounded down to a
    /// multiple of it; a group that the rule leaves whole stays so.
    pub(super) fn at(&self, scale: f64, round_to: usize) -> BTreeMap<GroupId, usize> {
        let width = |entry: &Entry| {
            // The hair keeps a scale from its own list from being rounded up to the next channel.
            let share = (entry.width as f64 * scale * entry.weight - 1e-9).ceil() as usize;
            let share = share.clamp(self.min_channels, entry.width);
            if share == entry.width { share } else { rounded(share, round_to, self.min_channels) }
        };
        let widths = self.groups.iter().map(|entry| (entry, width(entry)));
        widths.filter(|(entry, width)| *width < entry.width).map(|(entry, width)| (entry.id, width)).collect()
    }
}

/// Down to a multiple of `round_to`, unless less than one, or less than `least`, would be left.
fn rounded(channels: usize, round_to: usize, least: usize) -> usize {
    let down = if round_to > 1 { channels - channels % round_to } else { channels };
    if down >= least.max(1) { down } else { channels }
}

/// Mean sensitivity of the group's producers; of a group inside a block, whose one producer feeds one consumer, of both:
/// its channels are columns of the consumer as well. A depthwise convolution passes channels on and does not count: it has
/// few weights, which masks keep for other reasons than the channels'.
fn density(graph: &Graph, group: &ChannelGroup, sensitivity: &Sensitivity) -> f64 {
    let mean = |nodes: &[NodeId]| {
        let of: Vec<f64> = group::mixing(graph, nodes).map(|node| sensitivity.of(node)).collect();
        (of.iter().sum::<f64>() / of.len() as f64, of.len())
    };
    match (mean(&group.producers), mean(&group.consumers)) {
        ((producer, 1), (consumer, 1)) => (producer + consumer) / 2.0,
        ((producers, _), _) => producers,
    }
}

#[cfg(test)]
mod tests {
    use super::{Entry, GroupId, Widths, rounded};

    /// Test vector T7: 64 wide, 10 dropped, multiples of 8.
    #[test]
    fn widths_are_rounded_down_to_whole_vectors() {
        assert_eq!(rounded(54, 8, 2), 48);
        assert_eq!(rounded(48, 16, 2), 48);
        assert_eq!(rounded(7, 8, 2), 7, "less than one vector is left as it is");
        assert_eq!(rounded(9, 8, 9), 9, "never below the least width");
        assert_eq!(rounded(5, 1, 2), 5);
    }

    #[test]
    fn a_group_that_is_left_whole_is_not_rounded() {
        let entry = Entry { id: GroupId(0), width: 20, weight: 1.0 };
        let widths = Widths { groups: vec![entry], min_channels: 2 };
        assert!(widths.at(1.0, 16).is_empty());
        assert_eq!(widths.at(0.95, 16)[&GroupId(0)], 16);
    }
}
