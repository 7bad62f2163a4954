//! Which channels stay, so that a network is the largest within a budget: the choosing half of the resilient layer
//! rectifier (RLR). A plan is a value; `surgery` carries it out.
//!
//! The width of group g at scale s is `c_g * min(1, s * d_g^p)`, c_g its full width, d_g the mean sensitivity of its
//! layers. A group is resilient at scale s where s * d_g^p < 1: as s falls, the most resilient are pruned first and
//! hardest. Kept channels are the highest-scored ones, so plans nest: a tighter budget never keeps more.

mod search;
mod widths;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::budget::{Broken, Budget, Ceiling};
use crate::graph::cost::{Cost, cost};
use crate::graph::tensor::TensorKind;
use crate::graph::{Graph, NodeId, Op};
use crate::group::{self, ChannelGroup, GroupId, Keep};
use crate::latency::{Latency, LatencyModel};
use crate::named::named;
use crate::saliency::Scores;
use crate::sensitivity::Sensitivity;
use crate::surgery;
use widths::Widths;

/// How sensitivities become widths.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct WidthPolicy {
    /// p. With 0.5, a layer whose inputs and outputs both shrink keeps a share of weights that is proportional to its
    /// density; 0 makes all layers alike. docs/study.md compares 0, 0.25, 0.5 and 1: the first three are equally
    /// accurate, 0.25 takes 0.5 to 0.6 of the MACs that 0.5 takes and still spares the layers that bear pruning least.
    pub exponent: f64,
    /// No group is left with fewer channels.
    pub min_channels: usize,
    /// Whether channels that residual additions couple may go.
    pub coupled: Coupled,
}

/// What happens to groups with several producers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Coupled {
    /// They shrink as a whole.
    #[default]
    #[serde(rename = "prune")]
    PruneWholeGroup,
    /// They keep all channels.
    Skip,
}

named!(Coupled, "choice for coupled channels", {
    PruneWholeGroup => "prune",
    Skip => "skip",
});

impl WidthPolicy {
    /// Exponents that are taken, on the command line and in deployments.
    pub const EXPONENTS: RangeInclusive<f64> = 0.0..=4.0;
}

impl Default for WidthPolicy {
    fn default() -> Self {
        Self { exponent: 0.25, min_channels: 2, coupled: Coupled::PruneWholeGroup }
    }
}

/// Which channels stay, and what that promises.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PrunePlan {
    /// The kept channels of every group that shrinks.
    pub keep: Keep,
    /// What the network will cost.
    pub promised: Cost,
    /// How long one image will take, where a latency model was given.
    pub predicted: Option<Latency>,
    /// Every convolution and linear layer.
    pub layers: Vec<LayerPlan>,
}

/// One layer before and after.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerPlan {
    /// Its name.
    pub name: String,
    /// Output channels of the dense network.
    pub before: usize,
    /// Output channels kept.
    pub after: usize,
    /// How badly it takes pruning, 0 to 1.
    pub sensitivity: f64,
}

impl PrunePlan {
    /// Whether everything stays.
    pub fn is_identity(&self) -> bool {
        self.keep.is_empty()
    }
}

/// Why there is no plan.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// Even the smallest network breaks a ceiling.
    #[error(
        "no network fits: the budget allows {}, the smallest reachable has {}",
        ceiling.figure(*allowed), ceiling.figure(*smallest)
    )]
    NoFit {
        /// Which ceiling.
        ceiling: Ceiling,
        /// Most that the budget allows, in the ceiling's unit.
        allowed: f64,
        /// What the smallest network has.
        smallest: f64,
    },
    /// A latency ceiling says nothing without a model of the device.
    #[error("the budget bounds latency, but there is no latency model of the device")]
    NoLatencyModel,
}

/// Plans for one scored network; made once, asked for each budget.
#[derive(Debug, Clone)]
pub struct Planner {
    graph: Graph,
    groups: Vec<ChannelGroup>,
    sensitivity: Sensitivity,
    widths: Widths,
    /// Every scale at which a width changes, ascending: costs only fall as the scale falls.
    scales: Vec<f64>,
    /// Each prunable group's channels, the highest-scored first.
    ranking: BTreeMap<GroupId, Vec<usize>>,
}

impl Planner {
    /// A planner for `graph` that takes widths from `sensitivity`, and channels from `scores`.
    pub fn new(graph: &Graph, scores: &Scores, sensitivity: Sensitivity, policy: WidthPolicy) -> Self {
        let groups = group::groups(graph);
        let prunable = |group: &&ChannelGroup| is_prunable(graph, group, policy);
        let ranking =
            groups.iter().filter(prunable).map(|group| (group.id, ranked(graph, group, scores))).collect();
        let widths = Widths::new(graph, groups.iter().filter(prunable), &sensitivity, policy);
        Self { graph: graph.clone(), groups, sensitivity, scales: widths.scales(), widths, ranking }
    }

    /// The largest network within every ceiling of `budget`. Widths that leave at least `round_to` channels are whole
    /// multiples of it: the device's vector width. With no ceiling everything stays. A tighter budget never keeps more.
    pub fn plan(
        &self,
        budget: &Budget,
        latency: Option<&LatencyModel>,
        round_to: usize,
    ) -> Result<PrunePlan, PlanError> {
        if budget.bounds_latency() && latency.is_none() {
            return Err(PlanError::NoLatencyModel);
        }
        let Some(broken) = budget.broken_by(&self.graph, latency) else {
            return Ok(self.describe(BTreeMap::new(), &self.graph, latency));
        };
        if self.scales.is_empty() {
            return Err(no_fit(broken));
        }
        let shrunk = |index: usize| self.shrink(&self.widths.at(self.scales[index], round_to));
        let fits = search::last_fit(self.scales.len(), |index| budget.broken_by(&shrunk(index), latency));
        let widths = self.widths.at(self.scales[fits.map_err(no_fit)?], round_to);
        let graph = self.shrink(&widths);
        Ok(self.describe(widths, &graph, latency))
    }

    fn shrink(&self, widths: &BTreeMap<GroupId, usize>) -> Graph {
        surgery::shrink(&self.graph, &self.groups, widths)
            .expect("widths are of this graph's prunable groups, 1 to full")
    }

    fn describe(
        &self,
        widths: BTreeMap<GroupId, usize>,
        graph: &Graph,
        latency: Option<&LatencyModel>,
    ) -> PrunePlan {
        let keep = widths.into_iter().map(|(group, width)| {
            let mut kept = self.ranking[&group][..width].to_vec();
            kept.sort_unstable();
            (group, kept)
        });
        PrunePlan {
            keep: keep.collect(),
            promised: cost(graph),
            predicted: latency.map(|model| model.predict(graph)),
            layers: self.layers(graph),
        }
    }

    fn layers(&self, shrunk: &Graph) -> Vec<LayerPlan> {
        let nodes = self.graph.nodes().iter().enumerate();
        let layers = nodes.filter(|(_, node)| matches!(node.op, Op::Conv(_) | Op::Linear { .. }));
        layers
            .map(|(index, node)| LayerPlan {
                name: node.name.clone(),
                before: self.graph.shapes()[index].channels,
                after: shrunk.shapes()[index].channels,
                sensitivity: self.sensitivity.of(NodeId(index)),
            })
            .collect()
    }
}

fn is_prunable(graph: &Graph, group: &ChannelGroup, policy: WidthPolicy) -> bool {
    let skipped = group.is_coupled(graph) && policy.coupled == Coupled::Skip;
    group.frozen.is_none() && !skipped && group.width > policy.min_channels
}

/// The smallest network that any plan for `graph` leaves, whatever the scores: every prunable group at its least width.
pub fn smallest(graph: &Graph, policy: WidthPolicy) -> Graph {
    let groups = group::groups(graph);
    let least = policy.min_channels.max(1);
    let shrinks = groups.iter().filter(|group| is_prunable(graph, group, policy) && group.width > least);
    let widths = shrinks.map(|group| (group.id, least)).collect();
    surgery::shrink(graph, &groups, &widths).expect("widths are of this graph's prunable groups, 1 to full")
}

fn no_fit(Broken { ceiling, allowed, actual }: Broken) -> PlanError {
    PlanError::NoFit { ceiling, allowed, smallest: actual }
}

/// The group's channels by the sum of their scores over all producers, each layer's mean made 1; ties to the lower.
fn ranked(graph: &Graph, group: &ChannelGroup, scores: &Scores) -> Vec<usize> {
    let mut sums = vec![0.0; group.width];
    for &node in &group.producers {
        let weight = graph.node(node).tensor_name(TensorKind::Weight);
        let (Some(layer), Some(member)) = (scores.layer(node), group.member(&weight, 0)) else { continue };
        let total: f64 = layer.filters.iter().sum();
        for (sum, filters) in sums.iter_mut().zip(member.indices.chunks(member.block)) {
            let score: f64 = filters.iter().map(|&filter| layer.filters[filter]).sum();
            *sum += if total > 0.0 { score / total } else { 0.0 };
        }
    }
    let mut channels: Vec<usize> = (0..group.width).collect();
    channels.sort_by(|&a, &b| sums[b].total_cmp(&sums[a]));
    channels
}

#[cfg(test)]
mod tests;
