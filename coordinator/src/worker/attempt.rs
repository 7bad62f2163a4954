//! The computation of a job, on the pool's threads. Speaks to nobody but through its voice.

use std::time::Duration;

use pruner_core::Network;
use pruner_core::dataset::Dataset;
use pruner_core::train::{Checkpoint, Step};

use super::job::Voice;
use super::task::{Outcome, Task, Training};
use crate::blob::BlobStore;
use crate::causes::chain;
use crate::derive::{self, DeriveError, Findings, SubjectKey, Watch};
use crate::jobs::LONGEST_PAUSE;
use crate::manifest::TrainerKind;
use crate::models::Origin;
use crate::store::ArtifactRecord;
use crate::trainer::{Lesson, Progress, Trainer, TrainerError};

/// What a job works with, beside its task.
pub(super) struct Inputs {
    pub(super) blobs: BlobStore,
    pub(super) trainer: Trainer,
    /// Where it stood; empty where it has not begun.
    pub(super) checkpoint: Vec<u8>,
}

/// What was made.
pub(super) enum Made {
    Scored(Findings),
    /// With the model's file.
    Trained(Box<ArtifactRecord>, Vec<u8>),
}

pub(super) fn attempt(task: Task, inputs: Inputs, voice: &Voice) -> Result<Made, DeriveError> {
    match task {
        Task::Score { subject, model } => {
            let origin = Origin::of(&subject.network, model).map_err(DeriveError::Network)?;
            voice.line(format!("scoring {} by {}", subject.network, subject.pruning.criterion));
            let findings = subject.score((&origin, &inputs.blobs), &mut |done, of| {
                voice.progress(done.into(), of.into(), || format!("step {done}/{of}"))
            })?;
            voice.line(format!("scored in {:.1} s", findings.seconds));
            Ok(Made::Scored(findings))
        }
        Task::Train(training) => train(*training, inputs, voice),
    }
}

fn train(training: Training, inputs: Inputs, voice: &Voice) -> Result<Made, DeriveError> {
    let Training { key, plan, spec, model, seconds_to_score } = training;
    let Inputs { blobs, trainer, checkpoint } = inputs;
    let origin = Origin::of(&spec.network, model).map_err(DeriveError::Network)?;
    let dataset = derive::images(&spec)?;
    voice.line(format!(
        "training {} of {} on {} images for {} epochs",
        key,
        spec.network,
        dataset.train.len(),
        spec.training.epochs
    ));
    let dense = SubjectKey::of(&spec).build((&origin, &blobs), (dataset.shape, dataset.classes))?;
    let mut derived = derive::derive((&dense, &dataset), &plan, &spec, |network, dataset| {
        match spec.training.trainer {
            TrainerKind::Command => {
                let lesson = Lesson { network, dataset, source: &spec.dataset, training: &spec.training };
                let mut last = None;
                let mut hear = |progress: Option<&Progress>| match progress {
                    Some(progress) => {
                        if last.replace(progress.epoch) != Some(progress.epoch) {
                            voice.line(tell(progress));
                        }
                        let done = progress.epoch.saturating_sub(1); // it is the one under way
                        voice.progress(done, progress.epochs, || tell(progress))
                    }
                    None => voice.go_on(),
                };
                Ok(trainer.train(key, lesson, &mut hear)?)
            }
            // What a person trains is no job.
            TrainerKind::Builtin | TrainerKind::External => {
                builtin((network, dataset), &spec.training.recipe(), &checkpoint, voice)
            }
        }
    })?;
    voice.line(format!("trained: test accuracy {:.2} %", 100.0 * derived.evaluation.accuracy));
    let scored = Duration::try_from_secs_f64(seconds_to_score).unwrap_or_default();
    let onnx = std::mem::take(&mut derived.onnx);
    Ok(Made::Trained(Box::new(derived.record(&spec, &plan, scored)), onnx))
}

/// Trains here, from where it was cut off, with a checkpoint after every epoch.
fn builtin(
    (network, dataset): (&Network, &Dataset),
    recipe: &pruner_core::train::Recipe,
    checkpoint: &[u8],
    voice: &Voice,
) -> Result<Network, DeriveError> {
    let resume = (!checkpoint.is_empty()).then(|| Checkpoint::decode(checkpoint));
    let resume = resume.and_then(|decoded| {
        decoded
            .inspect(|at| voice.line(format!("goes on after epoch {}", at.epochs())))
            .inspect_err(|error| {
                voice.line(format!("its checkpoint is of no use, it begins anew: {}", chain(error)))
            })
            .ok()
    });
    let mut on_step = |step: &Step| {
        if step.step * step.epochs == step.epoch * step.steps {
            voice.line(step.to_string());
        }
        voice.progress(step.step as u64, step.steps as u64, || step.to_string())
    };
    let mut on_epoch = |at: &Checkpoint| match at.encode() {
        Ok(bytes) => voice.checkpoint(bytes),
        Err(error) => voice.line(format!("no checkpoint was made: {}", chain(&error))),
    };
    derive::train(network, dataset, recipe, Watch { resume, on_step: &mut on_step, on_epoch: &mut on_epoch })
}

fn tell(progress: &Progress) -> String {
    let Progress { epoch, epochs, loss, accuracy, images_per_second } = progress;
    let parts = [
        Some(format!("epoch {epoch}/{epochs}")),
        loss.map(|loss| format!("loss {loss:.3}")),
        accuracy.map(|accuracy| format!("accuracy {:.1} %", 100.0 * accuracy)),
        images_per_second.map(|speed| format!("{speed:.0} images/s")),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

/// What is said of a job that gave nothing.
pub(super) fn failure(error: &DeriveError) -> Outcome {
    let reason = chain(error);
    match error {
        DeriveError::Cancelled => Outcome::Released { reason, pause: Duration::ZERO, failing: false },
        DeriveError::Trainer(TrainerError::Busy { .. }) => {
            Outcome::Released { reason, pause: LONGEST_PAUSE, failing: false }
        }
        // Any other failure may be mended on the host, and the deployment begun again.
        DeriveError::Diverged | DeriveError::Trainer(TrainerError::Weights { .. }) => {
            Outcome::Failed { reason, spent: true }
        }
        _ => Outcome::Failed { reason, spent: false },
    }
}
