//! Why training or evaluation ended without a result.

use crate::exec::ExecError;
use crate::graph::Shape;

/// What stopped it.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The callback broke.
    #[error("training was cancelled after step {step}")]
    Cancelled {
        /// Steps done.
        step: usize,
    },
    /// The loss is infinite or not a number.
    #[error("training diverged at step {step}: the loss is not finite; try a lower learning rate")]
    Diverged {
        /// From 1.
        step: usize,
    },
    /// A setting of the recipe is outside its range.
    #[error("the recipe's {setting} must be {allowed}")]
    Recipe {
        /// Which.
        setting: &'static str,
        /// Its range.
        allowed: &'static str,
    },
    /// Not even one batch.
    #[error("{images} training images do not fill one batch of {batch}; use a smaller batch or more images")]
    TooFewImages {
        /// How many there are.
        images: usize,
        /// How many a batch needs.
        batch: usize,
    },
    /// Nothing to evaluate on.
    #[error("the split to evaluate on has no images")]
    Empty,
    /// Images of another shape than the network reads.
    #[error("the network reads {network} images but the dataset's are {dataset}")]
    Images {
        /// What the network reads.
        network: Shape,
        /// What the dataset holds.
        dataset: Shape,
    },
    /// Another number of classes than the network has outputs.
    #[error("the network has {network} outputs but the dataset {dataset} classes")]
    Classes {
        /// Outputs.
        network: usize,
        /// Classes.
        dataset: usize,
    },
    /// The weights do not fit the graph.
    #[error(transparent)]
    Weights(#[from] ExecError),
}
