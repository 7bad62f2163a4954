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
    /// An operator that is only carried through.
    #[error(
        "node '{node}' computes {operator}, which cannot be run here; \
         prune without training and train the pruned network elsewhere"
    )]
    Unsupported {
        /// Which node.
        node: String,
        /// What it computes.
        operator: String,
    },
    /// A mask that is of another network.
    #[error("the mask keeps number {place} of {tensor}, which has {length}")]
    Mask {
        /// Which tensor.
        tensor: String,
        /// Counted from 0.
        place: u32,
        /// How many numbers it has.
        length: usize,
    },
    /// Nothing that this training can go on from.
    #[error("the checkpoint cannot be used: {problem}")]
    Checkpoint {
        /// Why.
        problem: String,
    },
    /// The weights do not fit the graph.
    #[error(transparent)]
    Weights(ExecError),
}

impl From<ExecError> for TrainError {
    fn from(error: ExecError) -> Self {
        match error {
            ExecError::Unsupported { node, operator } => Self::Unsupported { node, operator },
            ExecError::Missing { .. }
            | ExecError::Shape { .. }
            | ExecError::Length { .. }
            | ExecError::Tensor { .. } => Self::Weights(error),
        }
    }
}
