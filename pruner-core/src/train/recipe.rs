//! How to train, and which settings make sense. Owns defaults and their limits; trains nothing.

use serde::{Deserialize, Serialize};

use super::{Flip, TrainError};
use crate::dataset::Split;
use crate::named::named;

/// How to train.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// Passes over the training images; each leaves out the images that fill no batch, other ones each time.
    pub epochs: usize,
    /// Images per step.
    pub batch: usize,
    /// The highest learning rate.
    pub learning_rate: f32,
    /// How the learning rate goes on after the warm-up.
    pub schedule: Schedule,
    /// Epochs in which the learning rate rises linearly; the one-cycle schedule has a rise of its own.
    pub warmup_epochs: f32,
    /// Of stochastic gradient descent.
    pub momentum: f32,
    /// Whether the step looks ahead along the momentum (Nesterov), as PyTorch computes it.
    pub nesterov: bool,
    /// L2 penalty on weights of convolutions and linear layers; none on biases and batch norm.
    pub weight_decay: f32,
    /// Share of the target spread evenly over all classes; 0 for plain cross-entropy.
    pub label_smoothing: f32,
    /// Of the order of images, and of flips and shifts.
    pub seed: u64,
    /// Whether images are mirrored at random.
    pub flip: Flip,
    /// Most pixels by which images are moved at random in each direction; black comes in.
    pub shift: u8,
    /// When to end before the last epoch.
    pub early_stop: Option<EarlyStop>,
    /// How to learn from a teacher, where one is given.
    pub distillation: Distillation,
}

/// How the learning rate goes on after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// Half a cosine down to 0 (Loshchilov and Hutter 2017, one cycle).
    #[default]
    Cosine,
    /// A tenth after half of the epochs, a hundredth after three quarters (He et al. 2016).
    Step,
    /// Half a cosine from a 25th up to the highest in the first 30 % of the steps, then half a cosine down to
    /// a 250,000th (Smith 2018; PyTorch's defaults, the momentum left as it is).
    OneCycle,
}

named!(Schedule, "schedule", {
    Cosine => "cosine",
    Step => "step",
    OneCycle => "one-cycle",
});

/// Ends training when images that were held out stop getting better.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct EarlyStop {
    /// Share of the training images that is held out, more than 0 and at most a half.
    pub held_out: f32,
    /// Epochs without a lower loss on them, after which training ends with the weights of the best epoch.
    pub patience: usize,
}

/// Learning from a teacher's logits (Hinton et al. 2015): the loss is (1 - weight) times cross-entropy with the labels plus
/// weight x temperature^2 times the divergence from the teacher's softened probabilities.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Distillation {
    /// 0: labels alone; 1: the teacher alone.
    pub weight: f32,
    /// What both sides' logits are divided by.
    pub temperature: f32,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            epochs: 10,
            batch: 128,
            learning_rate: 0.1,
            schedule: Schedule::Cosine,
            warmup_epochs: 0.5,
            momentum: 0.9,
            nesterov: true,
            weight_decay: 1e-4,
            label_smoothing: 0.0,
            seed: 0,
            flip: Flip::Horizontal,
            shift: 0,
            early_stop: None,
            distillation: Distillation { weight: 0.7, temperature: 4.0 },
        }
    }
}

impl Recipe {
    /// The first setting outside its range, and that range.
    pub fn problem(&self) -> Option<(&'static str, &'static str)> {
        let rules = [
            (self.epochs > 0, "epochs", "at least 1"),
            (self.batch > 0, "batch", "at least 1"),
            (self.learning_rate > 0.0 && self.learning_rate.is_finite(), "learning_rate", "above 0"),
            ((0.0..1.0).contains(&self.momentum), "momentum", "from 0 to below 1"),
            (self.weight_decay >= 0.0 && self.weight_decay.is_finite(), "weight_decay", "at least 0"),
            (self.warmup_epochs >= 0.0 && self.warmup_epochs.is_finite(), "warmup_epochs", "at least 0"),
            ((0.0..1.0).contains(&self.label_smoothing), "label_smoothing", "from 0 to below 1"),
            (
                self.early_stop.is_none_or(|stop| stop.held_out > 0.0 && stop.held_out <= 0.5),
                "early_stop.held_out",
                "more than 0 and at most a half",
            ),
            (self.early_stop.is_none_or(|stop| stop.patience > 0), "early_stop.patience", "at least 1"),
            ((0.0..=1.0).contains(&self.distillation.weight), "distillation.weight", "from 0 to 1"),
            (
                self.distillation.temperature > 0.0 && self.distillation.temperature.is_finite(),
                "distillation.temperature",
                "above 0",
            ),
        ];
        rules.into_iter().find(|(holds, ..)| !holds).map(|(_, setting, allowed)| (setting, allowed))
    }

    /// Refuses settings outside their ranges, and too few images for one step.
    pub(super) fn check(&self, train: &Split) -> Result<(), TrainError> {
        if let Some((setting, allowed)) = self.problem() {
            return Err(TrainError::Recipe { setting, allowed });
        }
        if train.len() < self.batch {
            return Err(TrainError::TooFewImages { images: train.len(), batch: self.batch });
        }
        Ok(())
    }
}
