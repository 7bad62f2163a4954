//! The recipe's settings as arguments, each named and defaulted as in a deployment's manifest.

use coordinator::manifest::TrainingSpec;
use pruner_core::train::{EarlyStop, Flip, Recipe, Schedule};

use crate::cli::arguments::{one_of, parse_share};

/// How to train.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Recipe")]
pub(super) struct RecipeArgs {
    /// Passes over the training images
    #[arg(long, default_value_t = usual().epochs)]
    epochs: u32,
    /// Images per step
    #[arg(long, default_value_t = usual().batch)]
    batch: usize,
    /// Peak learning rate
    #[arg(long, default_value_t = usual().learning_rate)]
    learning_rate: f32,
    /// How the learning rate goes on after the warm-up
    #[arg(long, default_value_t = usual().schedule, value_parser = one_of::<Schedule>(Schedule::NAMES))]
    schedule: Schedule,
    /// Epochs in which the learning rate rises linearly; one-cycle has a rise of its own
    #[arg(long, default_value_t = usual().warmup_epochs)]
    warmup_epochs: f32,
    /// Of stochastic gradient descent
    #[arg(long, default_value_t = usual().momentum)]
    momentum: f32,
    /// Whether a step looks ahead along the momentum
    #[arg(long, default_value_t = usual().nesterov, action = clap::ArgAction::Set, value_name = "BOOL")]
    nesterov: bool,
    /// L2 penalty on weights
    #[arg(long, default_value_t = usual().weight_decay)]
    weight_decay: f32,
    /// Share of the target spread evenly over all classes
    #[arg(long, default_value_t = usual().label_smoothing)]
    label_smoothing: f32,
    /// Whether images are mirrored at random
    #[arg(long, default_value_t = usual().flip, value_parser = one_of::<Flip>(Flip::NAMES))]
    flip: Flip,
    /// Most pixels by which images are moved at random in each direction
    #[arg(long, default_value_t = usual().shift)]
    shift: u8,
    /// Hold out this share of the training images, and stop when their loss gets no lower: 0.1, 10% or 1/10
    #[arg(long, value_name = "SHARE", value_parser = parse_share)]
    hold_out: Option<f64>,
    /// Epochs without a lower loss on images held out, after which training stops
    #[arg(long, default_value_t = 3, requires = "hold_out")]
    patience: usize,
    /// Seed of fresh weights, of the order of images and of augmentation
    #[arg(long, default_value_t = usual().seed)]
    seed: u64,
}

fn usual() -> TrainingSpec {
    TrainingSpec::default()
}

impl RecipeArgs {
    pub(super) fn seed(&self) -> u64 {
        self.seed
    }

    pub(super) fn recipe(&self) -> Recipe {
        let Self { epochs, batch, learning_rate, schedule, warmup_epochs, momentum, nesterov, .. } = *self;
        let Self { weight_decay, label_smoothing, flip, shift, hold_out, patience, seed, .. } = *self;
        let early_stop = hold_out.map(|share| EarlyStop { held_out: share as f32, patience });
        let epochs = epochs as usize;
        Recipe {
            epochs,
            batch,
            learning_rate,
            schedule,
            warmup_epochs,
            momentum,
            nesterov,
            weight_decay,
            label_smoothing,
            flip,
            shift,
            early_stop,
            seed,
            ..Recipe::default()
        }
    }
}
