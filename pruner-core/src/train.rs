//! Training by stochastic gradient descent, and accuracy. Same network, dataset, recipe: the same result to the
//! bit, on any number of threads of one machine. Never prunes, never reads files.

mod augment;
mod checkpoint;
mod error;
mod evaluate;
pub(crate) mod loss;
mod recipe;
mod schedule;
mod sgd;
#[cfg(test)]
mod tests;
mod trainer;

use std::ops::ControlFlow;

pub use augment::Flip;
pub use checkpoint::Checkpoint;
pub use error::TrainError;
pub use evaluate::{Evaluation, evaluate};
pub use recipe::{Distillation, EarlyStop, Recipe, Schedule};
pub use trainer::Trainer;

use crate::dataset::Dataset;
use crate::graph::{Graph, Network};

/// Where training stands after a step.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// From 1.
    pub epoch: usize,
    /// In all.
    pub epochs: usize,
    /// From 1, over all epochs.
    pub step: usize,
    /// In all.
    pub steps: usize,
    /// Mean over this epoch's steps so far.
    pub loss: f64,
    /// Share of this epoch's images so far that were classified rightly before their step.
    pub accuracy: f64,
    /// Speed since the start, the callback's time not counted.
    pub images_per_second: f64,
}

/// For people: `epoch 3/10 loss 0.412 accuracy 86.0 % 5100 images/s`.
impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { epoch, epochs, loss, accuracy, images_per_second, .. } = self;
        let percent = 100.0 * accuracy;
        write!(
            f,
            "epoch {epoch}/{epochs} loss {loss:.3} accuracy {percent:.1} % {images_per_second:.0} images/s"
        )
    }
}

/// Trains `network` on `dataset.train`. `on_step` hears of every step and may break, which ends in
/// [`TrainError::Cancelled`]. A loss that is no finite number ends in [`TrainError::Diverged`].
pub fn fit(
    network: Network,
    dataset: &Dataset,
    recipe: &Recipe,
    on_step: &mut dyn FnMut(&Step) -> ControlFlow<()>,
) -> Result<Network, TrainError> {
    let mut trainer = Trainer::new(network, dataset, recipe)?;
    while !trainer.is_done() {
        trainer.epoch(on_step)?;
    }
    trainer.finish()
}

/// Whether the network reads such images and tells such classes apart.
fn check_shapes(graph: &Graph, dataset: &Dataset) -> Result<(), TrainError> {
    let (input, outputs) = (graph.input_shape(), graph.shape(graph.output()).numel());
    if input != dataset.shape {
        return Err(TrainError::Images { network: input, dataset: dataset.shape });
    }
    if outputs != dataset.classes {
        return Err(TrainError::Classes { network: outputs, dataset: dataset.classes });
    }
    Ok(())
}
