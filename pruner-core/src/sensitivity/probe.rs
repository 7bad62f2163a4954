//! The probe: what becomes of the loss when one layer loses filters.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::ranked;
use crate::dataset::LabelledImages;
use crate::exec::{ParamLayout, Role};
use crate::graph::cost::cost;
use crate::graph::{Network, NodeId};
use crate::group;
use crate::saliency::gradient::LossGradient;
use crate::saliency::{SaliencyError, Scores};

/// Share of the filters that a layer loses, rounded down.
const SHARE: f64 = 0.5;
/// Images that are looked at, at most.
const MOST_IMAGES: usize = 100;
/// Multiply-accumulates that one layer's probe may take, so that a network of a hundred times the work does not take a
/// hundred times as long; at least one image is looked at.
const MOST_MACS: u64 = 40_000_000_000;

/// As many images as the work allows.
fn affordable(macs: u64) -> usize {
    usize::try_from(MOST_MACS / macs.max(1)).unwrap_or(MOST_IMAGES).clamp(1, MOST_IMAGES)
}

/// |change of the loss| of every scored layer, relative to the largest. Layers that write the network's outputs cannot
/// lose any and count as 1.
///
/// A filter goes with its bias. A batch norm behind it stays, which at initialisation makes nothing of nothing.
pub(super) fn changes(
    network: &Network,
    scores: &Scores,
    images: &LabelledImages,
    on_layer: &mut dyn FnMut() -> ControlFlow<()>,
) -> Result<BTreeMap<usize, f64>, SaliencyError> {
    let images = &images.spread(affordable(cost(&network.graph).macs));
    let layout = ParamLayout::of(&network.graph);
    let mut weights = layout.gather::<f64>(&network.weights)?;
    let mut loss = LossGradient::new(&network.graph, images, 1.0)?;
    let dense = loss.loss(&weights);
    let frozen: Vec<NodeId> = group::groups(&network.graph)
        .into_iter()
        .filter(|group| group.frozen.is_some())
        .flat_map(|group| group.producers)
        .collect();
    let mut changes = BTreeMap::new();
    for (node, layer) in scores.layers().filter(|(node, _)| !frozen.contains(node)) {
        let order = ranked(layer);
        let lost = &order[order.len() - (SHARE * order.len() as f64) as usize..];
        let own = layout.entries().iter().filter(|entry| entry.node == node);
        let own: Vec<_> = own.filter(|entry| matches!(entry.role, Role::Weight | Role::Bias)).collect();
        let before: Vec<Vec<f64>> = own.iter().map(|entry| weights[entry.range.clone()].to_vec()).collect();
        for entry in &own {
            let each = entry.range.len() / entry.dims[0];
            for filter in lost {
                weights[entry.range.start + filter * each..][..each].fill(0.0);
            }
        }
        changes.insert(node.0, (loss.loss(&weights) - dense).abs());
        for (entry, before) in own.iter().zip(&before) {
            weights[entry.range.clone()].copy_from_slice(before);
        }
        if on_layer().is_break() {
            return Err(SaliencyError::Cancelled);
        }
    }
    let largest = changes.values().fold(0.0, |largest: f64, &change| largest.max(change));
    changes.values_mut().for_each(|change| *change = if largest > 0.0 { *change / largest } else { 0.0 });
    changes.extend(frozen.into_iter().map(|node| (node.0, 1.0)));
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::affordable;

    #[test]
    fn large_networks_are_probed_with_fewer_images() {
        assert_eq!(affordable(0), 100);
        assert_eq!(affordable(313_000_000), 100, "VGG-16 on 32x32");
        assert_eq!(affordable(4_100_000_000), 9, "ResNet-50 on 224x224");
        assert_eq!(affordable(u64::MAX), 1);
    }
}
