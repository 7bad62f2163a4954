//! From a deployment's network to artifacts, read top to bottom: subject, plan, prune, train, package.
//! Computation only: never stores, never talks; whoever calls decides where it runs and what to report.

mod pool;
mod subject;

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use proto::{ArtifactRef, ByteSize, Digest, SelfTest};
use pruner_core::Network;
use pruner_core::dataset::{Dataset, DatasetError};
use pruner_core::exec::{ExecError, Executor, ParamLayout};
use pruner_core::graph::cost::{Cost, cost};
use pruner_core::graph::onnx::{self, BatchNorms, OnnxError};
use pruner_core::plan::PrunePlan;
use pruner_core::pruning::PruningError;
use pruner_core::saliency::SaliencyError;
use pruner_core::surgery::SurgeryError;
use pruner_core::train::{self, Checkpoint, Evaluation, Recipe, Step, TrainError, Trainer};
use pruner_core::zoo::UnknownNetwork;

pub use pool::{Pool, PoolError};
pub use subject::{Subject, SubjectKey};

use crate::blob::BlobError;
use crate::causes::chain;
use crate::manifest::{DatasetSpec, DeploymentSpec, PruningSpec, TrainingSpec};
use crate::models::BuildError;
use crate::store::{DerivationKey, StoreError};

/// Why a model could not be derived. Only `Cancelled` is worth another try with nothing changed.
#[derive(Debug, thiserror::Error)]
pub enum DeriveError {
    /// The images cannot be read.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// No such network.
    #[error(transparent)]
    Network(UnknownNetwork),
    /// The network does not fit the images.
    #[error("cannot build the network '{network}'")]
    Build {
        /// Which network.
        network: String,
        /// Why.
        source: BuildError,
    },
    /// The records cannot be read.
    #[error(transparent)]
    Records(StoreError),
    /// Scoring failed.
    #[error(transparent)]
    Score(PruningError),
    /// The plan does not fit the network: the plan came from another one.
    #[error("removing channels")]
    Surgery(#[from] SurgeryError),
    /// Training failed.
    #[error(transparent)]
    Train(TrainError),
    /// The trained network could not be run.
    #[error("running the trained network")]
    Run(#[from] ExecError),
    /// The trained network could not be written as ONNX.
    #[error("writing ONNX")]
    Encode(#[from] OnnxError),
    /// The artifact could not be stored.
    #[error(transparent)]
    Store(#[from] BlobError),
    /// The pool gave no result.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// The coordinator is stopping, or nobody wants the result any more.
    #[error("stopped before it was done")]
    Cancelled,
}

impl DeriveError {
    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Cancelled)
    }
}

impl From<PruningError> for DeriveError {
    fn from(error: PruningError) -> Self {
        match error {
            PruningError::Scores(SaliencyError::Cancelled) => Self::Cancelled,
            other => Self::Score(other),
        }
    }
}

impl From<TrainError> for DeriveError {
    fn from(error: TrainError) -> Self {
        match error {
            TrainError::Cancelled { .. } => Self::Cancelled,
            other => Self::Train(other),
        }
    }
}

/// All that decides what a derivation makes; its digest names the derivation, so that like plans share one training.
#[derive(Debug, Clone)]
pub struct Derivation<'a> {
    /// The dense network.
    pub network: &'a str,
    /// What it learns.
    pub dataset: &'a DatasetSpec,
    /// Seeds and scores.
    pub pruning: &'a PruningSpec,
    /// How it is trained.
    pub training: &'a TrainingSpec,
    /// Which channels are kept.
    pub plan: &'a PrunePlan,
}

impl<'a> Derivation<'a> {
    /// What carrying out `plan` for a deployment depends on.
    pub fn of(spec: &'a DeploymentSpec, plan: &'a PrunePlan) -> Self {
        let DeploymentSpec { network, dataset, pruning, training, .. } = spec;
        Self { network, dataset, pruning, training, plan }
    }

    /// Names the derivation.
    pub fn key(&self) -> DerivationKey {
        // The plan's prediction is left out: it differs between devices that get the same channels.
        let decisive =
            (self.network, self.dataset, self.pruning, self.training, Vec::from_iter(&self.plan.keep));
        DerivationKey::of(&decisive).expect("plain values always serialise")
    }
}

/// A model that can be handed out, and what is known of it.
pub struct Derived {
    /// The ONNX file, batch norm folded.
    pub onnx: Vec<u8>,
    /// Its digest and length.
    pub artifact: ArtifactRef,
    /// Counted on the network that was made.
    pub cost: Cost,
    /// On the whole test split.
    pub evaluation: Evaluation,
    /// How many images it was trained on.
    pub train_images: usize,
    /// Surgery and re-initialisation.
    pub time_to_prune: Duration,
    /// Training and evaluation.
    pub time_to_train: Duration,
    /// The image's shape.
    pub input_shape: [u32; 3],
    /// Length of the output.
    pub classes: u32,
    /// Per channel.
    pub mean: Vec<f32>,
    /// Per channel.
    pub std: Vec<f32>,
    /// One test image with its answer.
    pub self_test: SelfTest,
}

/// What a training was, and hears of it.
pub struct Watch<'a> {
    /// Where it stood when it was cut off.
    pub resume: Option<Checkpoint>,
    /// After every step; may break.
    pub on_step: &'a mut dyn FnMut(&Step) -> ControlFlow<()>,
    /// After every epoch but the last.
    pub on_epoch: &'a mut dyn FnMut(&Checkpoint),
}

/// Prunes `subject` by `plan`, trains what is left and packs it for devices.
pub fn derive(
    subject: &Subject,
    plan: &PrunePlan,
    pruning: &PruningSpec,
    training: &TrainingSpec,
    watch: Watch<'_>,
) -> Result<Derived, DeriveError> {
    let started = Instant::now();
    let pruned = pruning.pruning().carry_out(&subject.network, plan)?;
    let time_to_prune = started.elapsed();

    let started = Instant::now();
    let dataset = limit_images(subject.dataset.read()?, training.images);
    let trained = train(pruned, &dataset, &training.recipe(), watch)?;
    let evaluation = train::evaluate(&trained, &dataset, &dataset.test)?;
    let time_to_train = started.elapsed();

    package(&trained, &dataset, evaluation, time_to_prune, time_to_train)
}

fn train(
    network: Network,
    dataset: &Dataset,
    recipe: &Recipe,
    watch: Watch<'_>,
) -> Result<Network, DeriveError> {
    let Watch { resume, on_step, on_epoch } = watch;
    let mut trainer = match resume.map(|at| Trainer::new(network.clone(), dataset, recipe)?.resumed(&at)) {
        Some(Ok(trainer)) => {
            tracing::info!(epochs = trainer.epochs(), "training goes on from its checkpoint");
            trainer
        }
        Some(Err(error)) => {
            tracing::warn!(error = chain(&error), "training begins anew");
            Trainer::new(network, dataset, recipe)?
        }
        None => Trainer::new(network, dataset, recipe)?,
    };
    while !trainer.is_done() {
        trainer.epoch(on_step)?;
        if !trainer.is_done() {
            on_epoch(&trainer.checkpoint()?);
        }
    }
    Ok(trainer.finish()?)
}

fn limit_images(mut dataset: Dataset, images: Option<usize>) -> Dataset {
    if let Some(images) = images.filter(|&images| images < dataset.train.len()) {
        dataset.train = dataset.train.take(images);
    }
    dataset
}

fn package(
    trained: &Network,
    dataset: &Dataset,
    evaluation: Evaluation,
    time_to_prune: Duration,
    time_to_train: Duration,
) -> Result<Derived, DeriveError> {
    let onnx = onnx::encode(trained, BatchNorms::Folded)?;
    let shape = trained.graph.input_shape();
    Ok(Derived {
        artifact: ArtifactRef { digest: Digest::of(&onnx), size: ByteSize(onnx.len() as u64) },
        onnx,
        cost: cost(&trained.graph),
        evaluation,
        train_images: dataset.train.len(),
        time_to_prune,
        time_to_train,
        input_shape: [shape.channels as u32, shape.height as u32, shape.width as u32],
        classes: dataset.classes as u32,
        mean: dataset.mean.clone(),
        std: dataset.std.clone(),
        self_test: self_test(trained, dataset)?,
    })
}

/// Engines differ by rounding: about 1e-5 of the largest output was measured between them; a wrong model differs by
/// far more than a hundred times that.
const TOLERANCE: f32 = 1e-3;

fn self_test(trained: &Network, dataset: &Dataset) -> Result<SelfTest, DeriveError> {
    let mut input = vec![0.0; dataset.shape.numel()];
    dataset.normalise(dataset.test.pixels(0), &mut input);
    let params = ParamLayout::of(&trained.graph).gather::<f32>(&trained.weights)?;
    let mut executor = Executor::<f32>::new(&trained.graph, 1)?;
    let output = executor.forward_eval(&params, &input, 1).to_vec();
    let largest = output.iter().fold(1.0f32, |largest, value| largest.max(value.abs()));
    Ok(SelfTest { input, output, tolerance: TOLERANCE * largest })
}
