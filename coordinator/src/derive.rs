//! From a deployment's network to artifacts, read top to bottom: subject, plan, prune, train, package.
//! Computation only: never stores, never talks; whoever calls decides where it runs and what to report.

mod package;
mod pool;
mod subject;

use std::ops::ControlFlow;
use std::time::Instant;

use pruner_core::Network;
use pruner_core::dataset::{Dataset, DatasetError};
use pruner_core::exec::ExecError;
use pruner_core::graph::onnx::OnnxError;
use pruner_core::graph::weights::WeightsError;
use pruner_core::plan::PrunePlan;
use pruner_core::pruning::{ForeignScores, PruningError};
use pruner_core::saliency::SaliencyError;
use pruner_core::sensitivity::SensitivityError;
use pruner_core::surgery::SurgeryError;
use pruner_core::train::{self, Checkpoint, Recipe, Step, TrainError, Trainer};
use pruner_core::zoo::UnknownNetwork;

pub use package::Derived;
use package::package;
pub use pool::{Pool, PoolError};
pub use subject::{Findings, Subject, SubjectKey, planned_graph};

use crate::blob::BlobError;
use crate::causes::chain;
use crate::manifest::{DatasetSpec, DeploymentSpec, PruningSpec, TrainingSpec};
use crate::models::BuildError;
use crate::store::{DerivationKey, StoreError};
use crate::trainer::TrainerError;

/// Why a model could not be derived.
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
    /// What was found is of another network: a defect, or an old file.
    #[error(transparent)]
    Scores(#[from] ForeignScores),
    /// The plan does not fit the network: the plan came from another one.
    #[error("removing channels")]
    Surgery(#[from] SurgeryError),
    /// Training failed.
    #[error(transparent)]
    Train(TrainError),
    /// The host's program did not train it.
    #[error(transparent)]
    Trainer(TrainerError),
    /// The weights that somebody brought are not the network's.
    #[error("the file is not this network's weights")]
    Weights(#[from] WeightsError),
    /// It computes no numbers, though its weights are some.
    #[error("the trained network's outputs are infinite or no numbers: the training has diverged")]
    Diverged,
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
        matches!(self, Self::Cancelled | Self::Trainer(TrainerError::Busy { .. }))
    }
}

impl From<PruningError> for DeriveError {
    fn from(error: PruningError) -> Self {
        match error {
            PruningError::Scores(SaliencyError::Cancelled)
            | PruningError::Sensitivity(SensitivityError::Images(SaliencyError::Cancelled)) => {
                Self::Cancelled
            }
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

impl From<TrainerError> for DeriveError {
    fn from(error: TrainerError) -> Self {
        match error {
            TrainerError::Cancelled => Self::Cancelled,
            other => Self::Trainer(other),
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

/// What a training was, and hears of it.
pub struct Watch<'a> {
    /// Where it stood when it was cut off.
    pub resume: Option<Checkpoint>,
    /// After every step; may break.
    pub on_step: &'a mut dyn FnMut(&Step) -> ControlFlow<()>,
    /// After every epoch but the last.
    pub on_epoch: &'a mut dyn FnMut(&Checkpoint),
}

/// Prunes `dense` by `plan`, has what is left trained by `train`, measures its accuracy and packs it for devices.
pub fn derive(
    (dense, dataset): (&Network, &Dataset),
    plan: &PrunePlan,
    spec: &DeploymentSpec,
    train: impl FnOnce(&Network, &Dataset) -> Result<Network, DeriveError>,
) -> Result<Derived, DeriveError> {
    let started = Instant::now();
    let pruned = prune(dense, plan, spec)?;
    let time_to_prune = started.elapsed();

    let started = Instant::now();
    let trained = train(&pruned, dataset)?;
    let evaluation = train::evaluate(&trained, dataset, &dataset.test)?;
    if !evaluation.loss.is_finite() {
        return Err(DeriveError::Diverged);
    }
    let time_to_train = started.elapsed();

    package(&trained, dataset, evaluation, time_to_prune, time_to_train)
}

/// Reads what a deployment trains on, no more images of it than it says.
pub fn images(spec: &DeploymentSpec) -> Result<Dataset, DatasetError> {
    let dataset = spec.dataset.read()?;
    Ok(match spec.training.images {
        Some(images) => dataset.with_train(images),
        None => dataset,
    })
}

/// What training starts from.
pub fn prune(dense: &Network, plan: &PrunePlan, spec: &DeploymentSpec) -> Result<Network, DeriveError> {
    Ok(spec.pruning.pruning().carry_out(dense, plan)?)
}

/// Trains on this pool's threads, from the checkpoint in `watch` if it is of any use.
pub fn train(
    network: &Network,
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
            Trainer::new(network.clone(), dataset, recipe)?
        }
        None => Trainer::new(network.clone(), dataset, recipe)?,
    };
    while !trainer.is_done() {
        trainer.epoch(on_step)?;
        if !trainer.is_done() {
            on_epoch(&trainer.checkpoint()?);
        }
    }
    Ok(trainer.finish()?)
}
