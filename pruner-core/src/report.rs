//! What a plan makes of a network, layer by layer: as a value, as an aligned table, and as a picture.
//! Owns the wording and the drawing; decides nothing.

mod picture;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::graph::cost::{Cost, LayerCost, cost, layer_costs};
use crate::graph::{Graph, NodeId, Op};
use crate::group::{Frozen, groups};
use crate::latency::LatencyModel;
use crate::plan::PrunePlan;

pub use picture::PictureError;

/// A network before and after.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The whole network before.
    pub dense: Cost,
    /// The whole network after.
    pub pruned: Cost,
    /// Every convolution and linear layer, in topological order.
    pub layers: Vec<LayerReport>,
    /// What had to keep all its channels, the image's and the network's outputs aside.
    pub frozen: Vec<FrozenReport>,
}

/// One convolution or linear layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LayerReport {
    /// Its name.
    pub name: String,
    /// Output channels.
    pub width: Change<usize>,
    /// How badly it takes pruning, 0 to 1.
    pub sensitivity: f64,
    /// Learnt numbers.
    pub params: Change<u64>,
    /// Multiply-accumulates, batch 1.
    pub macs: Change<u64>,
    /// Predicted share of the median latency, milliseconds; where a device's latency model was given.
    pub predicted_ms: Option<Change<f64>>,
}

/// A figure of the dense network and of the pruned one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Change<T> {
    /// Dense.
    pub before: T,
    /// Pruned.
    pub after: T,
}

/// Layers that had to keep all their channels, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FrozenReport {
    /// Convolutions and linear layers that make these channels.
    pub layers: Vec<String>,
    /// How many channels.
    pub channels: usize,
    /// Why.
    pub reason: String,
}

impl Report {
    /// What `plan` makes of `dense`: `pruned`, by `surgery::apply`. With a latency model each layer has its predicted time.
    pub fn new(dense: &Graph, plan: &PrunePlan, pruned: &Graph, latency: Option<&LatencyModel>) -> Self {
        let (before, after) = (Figures::of(dense, latency), Figures::of(pruned, latency));
        let layers = plan.layers.iter().map(|layer| {
            let (before, after) = (before.layer(&layer.name), after.layer(&layer.name));
            LayerReport {
                name: layer.name.clone(),
                width: Change { before: layer.before, after: layer.after },
                sensitivity: layer.sensitivity,
                params: Change { before: before.params, after: after.params },
                macs: Change { before: before.macs, after: after.macs },
                predicted_ms: before.ms.zip(after.ms).map(|(before, after)| Change { before, after }),
            }
        });
        Self { dense: cost(dense), pruned: cost(pruned), layers: layers.collect(), frozen: frozen(dense) }
    }

    /// A picture of every layer: channels before and after, and its sensitivity. SVG.
    pub fn to_svg(&self) -> Result<String, PictureError> {
        picture::draw(self)
    }
}

/// A graph's figures by the layers' names; surgery keeps names.
struct Figures<'a>(BTreeMap<&'a str, Figure>);

#[derive(Debug, Clone, Copy, Default)]
struct Figure {
    params: u64,
    macs: u64,
    ms: Option<f64>,
}

impl<'a> Figures<'a> {
    fn of(graph: &'a Graph, latency: Option<&LatencyModel>) -> Self {
        let shares = latency.map(|model| model.shares_ms(graph));
        let figure = |LayerCost { node, params, macs }: LayerCost| {
            let ms = shares.as_ref().map(|shares| shares[node.0]);
            (graph.node(node).name.as_str(), Figure { params, macs, ms })
        };
        Self(layer_costs(graph).into_iter().map(figure).collect())
    }

    fn layer(&self, name: &str) -> Figure {
        self.0.get(name).copied().unwrap_or_default()
    }
}

/// What cannot shrink for reasons that a user may not expect.
fn frozen(graph: &Graph) -> Vec<FrozenReport> {
    let mut found: BTreeMap<String, (BTreeSet<NodeId>, usize)> = BTreeMap::new();
    for group in groups(graph) {
        let Some(reason @ Frozen::Operator { .. }) = &group.frozen else { continue };
        if group.producers.is_empty() {
            continue;
        }
        let entry = found.entry(with_operator(graph, reason)).or_default();
        entry.0.extend(&group.producers);
        entry.1 += group.width;
    }
    let report = |(reason, (layers, channels)): (String, (BTreeSet<NodeId>, usize))| {
        let layers = layers.into_iter().map(|id| graph.node(id).name.clone()).collect();
        FrozenReport { layers, channels, reason }
    };
    found.into_iter().map(report).collect()
}

/// The reason, with the operator where nobody knows what it does.
fn with_operator(graph: &Graph, reason: &Frozen) -> String {
    let Frozen::Operator { node } = reason else { return reason.to_string() };
    match graph.find(node).map(|id| &graph.node(id).op) {
        Some(Op::Opaque(opaque)) => format!("{reason} ({}, carried through unchanged)", opaque.operator),
        _ => reason.to_string(),
    }
}

/// One line per layer and one for the whole.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.layers.iter().map(|layer| layer.name.chars().count()).max().unwrap_or(0).max(5);
        writeln!(
            f,
            "{:name$}  {:>11}  {:>11}  {:>23}  {:>27}  {:>15}",
            "layer", "channels", "sensitivity", "params", "MACs", "predicted ms"
        )?;
        for layer in &self.layers {
            let ms =
                layer.predicted_ms.map_or("-".to_owned(), |ms| format!("{:.3} > {:.3}", ms.before, ms.after));
            writeln!(
                f,
                "{:name$}  {:>11}  {:>11.3}  {:>23}  {:>27}  {ms:>15}",
                layer.name,
                layer.width.to_string(),
                layer.sensitivity,
                layer.params.to_string(),
                layer.macs.to_string()
            )?;
        }
        let (dense, pruned) = (&self.dense, &self.pruned);
        let params = Change { before: dense.params, after: pruned.params };
        let macs = Change { before: dense.macs, after: pruned.macs };
        writeln!(
            f,
            "{:name$}  {:>11}  {:>11}  {:>23}  {:>27}",
            "all",
            "",
            "",
            params.to_string(),
            macs.to_string()
        )?;
        for FrozenReport { layers, channels, reason } in &self.frozen {
            writeln!(f, "{channels} channels of {} stay: {reason}", layers.join(", "))?;
        }
        Ok(())
    }
}

impl<T: fmt::Display> fmt::Display for Change<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} > {}", self.before, self.after)
    }
}

#[cfg(test)]
mod tests;
