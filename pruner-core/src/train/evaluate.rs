//! Accuracy and loss of a network over a whole split.

use rayon::prelude::*;

use super::loss::CrossEntropy;
use super::{TrainError, check_shapes};
use crate::dataset::{Dataset, Split};
use crate::exec::{Executor, ParamLayout};
use crate::graph::{Graph, Network};

/// Images per forward pass.
const BATCH: usize = 64;

/// How well a network does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Evaluation {
    /// Share of images whose label has the highest logit, 0..=1.
    pub accuracy: f64,
    /// Mean cross-entropy.
    pub loss: f64,
    /// How many images were looked at: all of the split.
    pub images: usize,
}

/// Accuracy and loss of `network` over every image of `split`, normalised as `dataset` says, batch norm with its
/// running statistics. An empty split and a network for other images or classes are errors.
pub fn evaluate(network: &Network, dataset: &Dataset, split: &Split) -> Result<Evaluation, TrainError> {
    check_shapes(&network.graph, dataset)?;
    let params = ParamLayout::of(&network.graph).gather(&network.weights)?;
    run(&network.graph, &params, dataset, split)
}

/// The same for weights in a flat vector.
pub(super) fn run(
    graph: &Graph,
    params: &[f32],
    dataset: &Dataset,
    split: &Split,
) -> Result<Evaluation, TrainError> {
    if split.is_empty() {
        return Err(TrainError::Empty);
    }
    let batch = BATCH.min(split.len());
    let mut executor = Executor::<f32>::new(graph, batch)?;
    let mut cross_entropy = CrossEntropy::new(dataset.classes, 0.0);
    let mut images = vec![0.0; batch * dataset.shape.numel()];
    let (mut loss, mut correct) = (0.0, 0);
    for start in (0..split.len()).step_by(batch) {
        let count = batch.min(split.len() - start);
        let images = &mut images[..count * dataset.shape.numel()];
        let each = images.par_chunks_exact_mut(dataset.shape.numel()).enumerate();
        each.for_each(|(index, image)| dataset.normalise(split.pixels(start + index), image));
        let labels: Vec<u8> = (start..start + count).map(|index| split.label(index)).collect();
        let logits = executor.forward_eval(params, images, count);
        let (batch_loss, batch_correct) = cross_entropy.measure(logits, &labels);
        loss += batch_loss * count as f64;
        correct += batch_correct;
    }
    let images = split.len();
    Ok(Evaluation { accuracy: correct as f64 / images as f64, loss: loss / images as f64, images })
}
