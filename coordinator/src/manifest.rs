//! The deployment as an operator writes it: YAML in, a checked value out. Owns defaults and messages about the text.

mod change;
mod check;
mod dataset;
mod document;
mod grow;
mod guard;
mod place;
mod probation;
mod read;
mod selector;
mod trainer;
mod usual;
mod wave;

use proto::ByteSize;
use pruner_core::plan::{Coupled, WidthPolicy};
use pruner_core::pruning::Pruning;
use pruner_core::rectify::Reinit;
use pruner_core::saliency::Criterion;
use pruner_core::sensitivity::Measure;
use pruner_core::train::{EarlyStop, Flip, Recipe, Schedule};
use serde::{Deserialize, Serialize};

pub use change::changes;
pub use dataset::{DatasetRef, DatasetSpec};
pub use document::{Document, LIST, tree, yaml};
pub use grow::GrowSpec;
pub use guard::{GateSpec, OnFailure};
pub use place::Place;
pub use probation::{ProbationSpec, Span};
pub use pruner_core::dataset::Format as DatasetFormat;
pub use read::ManifestError;
pub use selector::{Field, Selector};
pub use trainer::TrainerKind;
pub use wave::Wave;

use crate::limit::{Count, Limit, Millis};

/// The only `apiVersion` there is.
pub const API_VERSION: &str = "reconvene/v1";

/// The only `kind` that can be applied.
pub const KIND: &str = "Deployment";

/// `apiVersion`, `kind`, `metadata`, `spec`. Its dataset is where the files are, or what an operator wrote: perhaps a name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct DeploymentManifest<D = DatasetSpec> {
    /// `reconvene/v1`.
    pub api_version: String,
    /// `Deployment`.
    pub kind: String,
    /// Its name.
    pub metadata: Metadata,
    /// What is wanted.
    pub spec: DeploymentSpec<D>,
}

/// Names the deployment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Metadata {
    /// 1 to 63 of `a-z 0-9 - .`; also the name under which devices serve the model.
    pub name: String,
}

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct DeploymentSpec<D = DatasetSpec> {
    /// Which devices: by labels and what they measured. Empty: every device.
    #[serde(default)]
    pub selector: Selector,
    /// The dense network.
    pub network: String,
    /// What it learns.
    pub dataset: D,
    /// How channels are chosen.
    #[serde(default)]
    pub pruning: PruningSpec,
    /// How the pruned network is trained.
    #[serde(default)]
    pub training: TrainingSpec,
    /// Ceilings; of the rules whose selector matches a device, the first is its budget. No rule: no ceiling.
    #[serde(default)]
    pub budgets: Vec<BudgetRule>,
    /// How the fleet is changed over.
    #[serde(default)]
    pub rollout: RolloutSpec,
}

/// How channels are chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct PruningSpec {
    /// What a weight's score is: synflow, snip, grasp, magnitude, random.
    #[serde(skip_serializing_if = "usual::is_default")]
    pub criterion: Criterion,
    /// Rounds of scoring.
    pub rounds: u32,
    /// Share of weights that the reference mask keeps.
    pub density: f64,
    /// What a layer's sensitivity is taken from: density, flow-gap, concentration, probe, dead-filters.
    #[serde(skip_serializing_if = "usual::is_default")]
    pub measure: Measure,
    /// How strongly widths follow sensitivities; 0: all layers alike.
    pub exponent: f64,
    /// Whether channels that additions couple are pruned as a whole, or skipped.
    #[serde(skip_serializing_if = "usual::is_default")]
    pub coupled: Coupled,
    /// What the pruned network starts from: touched, full, slice-kept, rescaled.
    #[serde(skip_serializing_if = "usual::is_default")]
    pub reinit: Reinit,
    /// Seed of the initial weights, and of the re-initialisation.
    pub seed: u64,
    /// No layer is left with fewer channels.
    pub min_channels: usize,
}

/// How the pruned network is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct TrainingSpec {
    /// Who trains it: builtin, command, external.
    #[serde(skip_serializing_if = "usual::is_default")]
    pub trainer: TrainerKind,
    /// Passes over the training images.
    pub epochs: u32,
    /// Images per step.
    pub batch: usize,
    /// Peak learning rate.
    pub learning_rate: f32,
    /// How the learning rate goes on after the warm-up: cosine, step, one-cycle.
    #[serde(skip_serializing_if = "usual::is_default")]
    pub schedule: Schedule,
    /// Epochs in which the learning rate rises linearly.
    #[serde(skip_serializing_if = "usual::warmup_epochs")]
    pub warmup_epochs: f32,
    /// Of stochastic gradient descent.
    #[serde(skip_serializing_if = "usual::momentum")]
    pub momentum: f32,
    /// Whether a step looks ahead along the momentum.
    #[serde(skip_serializing_if = "usual::nesterov")]
    pub nesterov: bool,
    /// L2 penalty.
    pub weight_decay: f32,
    /// Share of the target spread evenly over all classes.
    #[serde(skip_serializing_if = "usual::is_default")]
    pub label_smoothing: f32,
    /// Whether images are mirrored at random: none, horizontal.
    #[serde(skip_serializing_if = "usual::is_default")]
    pub flip: Flip,
    /// Most pixels by which images are moved at random in each direction.
    #[serde(skip_serializing_if = "usual::is_default")]
    pub shift: u8,
    /// Ends training when images that were held out get no better.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub early_stop: Option<EarlyStop>,
    /// Use only the first so many training images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub images: Option<usize>,
    /// Seed of the order of images and of augmentation.
    pub seed: u64,
}

/// Ceilings for the devices that a selector matches.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct BudgetRule {
    /// For which devices. Empty: for every device.
    #[serde(default)]
    pub selector: Selector,
    /// Parameters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub params: Option<Limit<Count>>,
    /// Multiply-accumulates per image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub macs: Option<Limit<Count>>,
    /// Bytes of the ONNX file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Limit<ByteSize>>,
    /// Bytes of weights and live activations at batch 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Limit<ByteSize>>,
    /// Bytes of live activations at batch 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activations: Option<Limit<ByteSize>>,
    /// Median of the time of one image on the device's engine. Telemetry corrects it by the factor of the 95th percentile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_p50: Option<Limit<Millis>>,
    /// 95th percentile of the time of one image on the device's engine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_p95: Option<Limit<Millis>>,
}

/// How the fleet is changed over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct RolloutSpec {
    /// How far each wave goes; a last one of all devices is implied.
    pub waves: Vec<Wave>,
    /// How long the devices of a wave serve before the next one is told.
    #[serde(skip_serializing_if = "usual::bake")]
    pub bake: Span,
    /// What the devices of a wave have to show before the next one is told. Left out: that they serve.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gate: Option<GateSpec>,
    /// Whether each wave after the first waits for `reconvene rollout approve`.
    #[serde(skip_serializing_if = "usual::is_default")]
    pub approval: bool,
    /// Most devices that change over at one time. Left out: as many as the wave has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrent: Option<u32>,
    /// Devices that may fail before the rollout does.
    #[serde(skip_serializing_if = "usual::is_default")]
    pub max_failures: u32,
    /// What happens then: halt, undo.
    #[serde(skip_serializing_if = "usual::is_default")]
    pub on_failure: OnFailure,
    /// How a new model is watched on its device.
    #[serde(skip_serializing_if = "usual::is_default")]
    pub probation: ProbationSpec,
    /// How often a device whose measured latency breaks its ceiling is fitted again, tighter.
    #[serde(skip_serializing_if = "usual::refits")]
    pub refits: u32,
    /// Whether a device whose measured latency leaves room gets a larger network. Left out: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grow: Option<GrowSpec>,
}

impl<D> DeploymentManifest<D> {
    /// The same with another dataset, or the same one said otherwise.
    pub fn with_dataset<E>(self, dataset: E) -> DeploymentManifest<E> {
        let Self { api_version, kind, metadata, spec } = self;
        let DeploymentSpec { selector, network, dataset: _, pruning, training, budgets, rollout } = spec;
        let spec = DeploymentSpec { selector, network, dataset, pruning, training, budgets, rollout };
        DeploymentManifest { api_version, kind, metadata, spec }
    }
}

impl Default for PruningSpec {
    fn default() -> Self {
        let Pruning { criterion, rounds, density, measure, widths, reinit, seed } = Pruning::default();
        let WidthPolicy { exponent, min_channels, coupled } = widths;
        Self { criterion, rounds, density, measure, exponent, coupled, reinit, seed, min_channels }
    }
}

impl PruningSpec {
    /// What it means.
    pub fn pruning(&self) -> Pruning {
        let Self { criterion, rounds, density, measure, exponent, coupled, reinit, seed, min_channels } =
            *self;
        let widths = WidthPolicy { exponent, min_channels, coupled };
        Pruning { criterion, rounds, density, measure, widths, reinit, seed }
    }
}

impl Default for TrainingSpec {
    fn default() -> Self {
        let Recipe { schedule, warmup_epochs, momentum, nesterov, label_smoothing, flip, shift, .. } =
            Recipe::default();
        Self {
            trainer: TrainerKind::default(),
            epochs: 10,
            batch: 64,
            learning_rate: 0.1,
            schedule,
            warmup_epochs,
            momentum,
            nesterov,
            weight_decay: 5e-4,
            label_smoothing,
            flip,
            shift,
            early_stop: None,
            images: None,
            seed: 1,
        }
    }
}

impl TrainingSpec {
    /// What it means.
    pub fn recipe(&self) -> Recipe {
        Recipe {
            epochs: self.epochs as usize,
            batch: self.batch,
            learning_rate: self.learning_rate,
            schedule: self.schedule,
            warmup_epochs: self.warmup_epochs,
            momentum: self.momentum,
            nesterov: self.nesterov,
            weight_decay: self.weight_decay,
            label_smoothing: self.label_smoothing,
            seed: self.seed,
            flip: self.flip,
            shift: self.shift,
            early_stop: self.early_stop,
            ..Recipe::default()
        }
    }
}

impl Default for RolloutSpec {
    fn default() -> Self {
        Self {
            waves: vec![Wave::Percent(100)],
            bake: Span::default(),
            gate: None,
            approval: false,
            max_concurrent: None,
            max_failures: 0,
            on_failure: OnFailure::Halt,
            probation: ProbationSpec::default(),
            refits: 2,
            grow: None,
        }
    }
}
