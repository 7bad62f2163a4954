//! Scoring and training as tasks of their own, on the pool: begun once, reported on the board, recorded when done.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use pruner_core::Network;
use pruner_core::dataset::Dataset;
use pruner_core::plan::PrunePlan;
use pruner_core::train::{Checkpoint, Step};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Driver, Ended, Underway};
use crate::audit::{COORDINATOR, Event};
use crate::blob::BlobStore;
use crate::board::{JobId, Reporter};
use crate::causes::chain;
use crate::checkpoints::Checkpoints;
use crate::clock::unix_ms;
use crate::core::Core;
use crate::derive::{self, DeriveError, Subject, SubjectKey, Watch};
use crate::manifest::{DeploymentSpec, TrainerKind};
use crate::models::Origin;
use crate::store::{
    ArtifactRecord, DeploymentPhase, DeploymentRecord, DerivationKey, DerivationRecord, DerivationState,
    Outcome, Store, StoreError, StoreHandle,
};
use crate::trainer::{Lesson, Progress, Trainer, TrainerError};

/// What came of a task on the pool.
fn flatten<T>(result: Result<Result<T, DeriveError>, derive::PoolError>) -> Result<T, DeriveError> {
    result.map_err(DeriveError::Pool).and_then(|inner| inner)
}

fn go_on(cancel: &CancellationToken) -> ControlFlow<()> {
    if cancel.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

/// Scores a network on the pool, reporting to the board.
pub(crate) async fn score(
    core: &Core,
    (key, origin): (SubjectKey, Origin),
    mut reporter: Reporter,
    cancel: CancellationToken,
) -> Result<Subject, DeriveError> {
    let blobs = core.blobs.clone();
    let scored = core.pool.run(move || {
        Subject::score(&key, (&origin, &blobs), &mut |done, of| {
            reporter.report(done.into(), of.into(), format!("step {done}/{of}"));
            go_on(&cancel)
        })
    });
    flatten(scored.await)
}

/// Where the network of that name comes from.
async fn origin(store: &StoreHandle, network: &str) -> Result<Origin, DeriveError> {
    let name = network.to_owned();
    let found = store.call(move |store| Origin::find(store, &name)).await;
    found.map_err(DeriveError::Records)?.map_err(DeriveError::Network)
}

impl Driver {
    pub(super) fn begin_scoring(
        &self,
        deployment: &DeploymentRecord,
        key: SubjectKey,
        underway: &mut Underway,
        ended: &mpsc::Sender<Ended>,
    ) {
        if underway.scoring.contains(&key) {
            return;
        }
        underway.scoring.push(key.clone());
        let id = JobId { deployment: deployment.name.clone(), title: format!("score {}", key.network) };
        let reporter = self.core.board.begin(id, key.pruning.rounds.into());
        let core = self.core.clone();
        let (name, generation, ended) = (deployment.name.clone(), deployment.generation, ended.clone());
        let cancel = self.core.shutdown.child_token();
        self.core.tasks.spawn(async move {
            let scored = match origin(&core.store, &key.network).await {
                Ok(origin) => score(&core, (key.clone(), origin), reporter, cancel).await,
                Err(error) => Err(error),
            };
            match scored {
                Ok(subject) => core.subjects.insert(key.clone(), Arc::new(subject)),
                Err(error) if error.is_retryable() => {}
                Err(error) => {
                    let reason = chain(&error);
                    tracing::warn!(deployment = name, error = reason, "scoring failed");
                    let failed = move |store: &dyn Store| {
                        store.update_deployment(&name, generation, &mut |record| {
                            record.phase = DeploymentPhase::Failed { reason: reason.clone() };
                            record.message = reason.clone();
                            let outcomes = record.outcomes.values_mut();
                            for outcome in outcomes.filter(|outcome| outcome.state == Outcome::Deriving) {
                                let reason = "its network could not be scored".to_owned();
                                outcome.state = Outcome::Failed { reason };
                            }
                        })?;
                        let event = Event::new(COORDINATOR, "fail", format!("deployment/{name}"));
                        let why = format!("generation {generation}: {reason}");
                        store.append_audit(
                            &[event.changed(format!("generation {generation}"), why)],
                            unix_ms(),
                        )
                    };
                    note_failure(core.store.call(failed).await);
                }
            }
            let _ = ended.send(Ended::Scoring(key)).await; // nobody listens while stopping
        });
    }

    pub(super) async fn begin_derivation(
        &self,
        deployment: &DeploymentRecord,
        key: DerivationKey,
        plan: Option<&PrunePlan>,
        underway: &mut Underway,
        ended: &mpsc::Sender<Ended>,
    ) -> Result<(), StoreError> {
        let spec = &deployment.manifest.spec;
        let Some(subject) = self.core.subjects.get(&SubjectKey::of(spec)) else { return Ok(()) };
        if underway.derivations.contains_key(&key) {
            return Ok(());
        }
        let Some((record, plan)) = self.derivation(spec, key, plan).await? else { return Ok(()) };
        match record.state {
            DerivationState::Ready { .. } | DerivationState::Failed { .. } => {
                self.core.poke.poke(); // ended before: the next round sees it
                return Ok(());
            }
            DerivationState::Queued => {}
        }
        if spec.training.trainer == TrainerKind::External {
            return Ok(()); // somebody brings its weights
        }
        let cancel = self.core.shutdown.child_token();
        underway.derivations.insert(key, cancel.clone());
        let short = key.to_string()[..12].to_owned();
        let id = JobId { deployment: deployment.name.clone(), title: format!("train {short}") };
        let training = Training {
            key,
            checkpoints: self.core.checkpoints.clone(),
            trainer: self.core.trainer.clone(),
            reporter: self.core.board.begin(id, u64::from(spec.training.epochs)),
            subject,
            plan,
            spec: spec.clone(),
            cancel,
        };
        let (pool, store, blobs, ended) =
            (self.core.pool.clone(), self.core.store.clone(), self.core.blobs.clone(), ended.clone());
        let (checkpoints, trainer) = (training.checkpoints.clone(), training.trainer.clone());
        self.core.tasks.spawn(async move {
            let result = training.run(&pool, &blobs).await;
            let is_spent = is_spent(&result);
            let recorded = record_result(&store, key, result).await;
            if recorded.is_ok() && is_spent {
                checkpoints.remove(key);
                trainer.forget(key);
            }
            note_failure(recorded);
            let _ = ended.send(Ended::Derivation(key)).await; // nobody listens while stopping
        });
        Ok(())
    }

    /// The derivation's record, made where it is new; `None` where a stored plan cannot be read any more.
    pub(super) async fn derivation(
        &self,
        spec: &DeploymentSpec,
        key: DerivationKey,
        plan: Option<&PrunePlan>,
    ) -> Result<Option<(DerivationRecord, PrunePlan)>, StoreError> {
        let record = match plan {
            Some(plan) => {
                let record = DerivationRecord {
                    key,
                    network: spec.network.clone(),
                    plan: serde_json::to_value(plan).expect("a plan is plain values"),
                    state: DerivationState::Queued,
                    created_unix_ms: unix_ms(),
                };
                Some(self.core.store.call(move |store| store.insert_derivation(record)).await?)
            }
            None => self.core.store.call(move |store| store.derivation(&key)).await?,
        };
        let Some(record) = record else { return Ok(None) };
        match serde_json::from_value(record.plan.clone()) {
            Ok(plan) => Ok(Some((record, plan))),
            Err(error) => {
                let reason = format!("its stored plan cannot be read: {error}");
                let failed = DerivationState::Failed { reason };
                let note = move |store: &dyn Store| {
                    store.update_derivation(&key, &mut |record| record.state = failed.clone()).map(drop)
                };
                self.core.store.call(note).await?;
                self.core.poke.poke();
                Ok(None)
            }
        }
    }
}

/// Whether nothing can be gone on with: it is trained, or what it was trained to is of no use. Any other failure may be
/// mended on the host, and the deployment applied again.
fn is_spent(result: &Result<ArtifactRecord, DeriveError>) -> bool {
    match result {
        Ok(_) | Err(DeriveError::Diverged | DeriveError::Trainer(TrainerError::Weights { .. })) => true,
        Err(_) => false,
    }
}

fn note_failure(result: Result<(), StoreError>) {
    match result {
        Ok(()) | Err(StoreError::Superseded { .. }) => {}
        Err(error) => tracing::error!(error = chain(&error), "what came of a job could not be stored"),
    }
}

/// One training, with all that it needs.
struct Training {
    key: DerivationKey,
    checkpoints: Checkpoints,
    trainer: Trainer,
    reporter: Reporter,
    subject: Arc<Subject>,
    plan: PrunePlan,
    spec: DeploymentSpec,
    cancel: CancellationToken,
}

/// A program that cannot train now is asked again after so long.
const BUSY_PAUSE: Duration = Duration::from_secs(60);

impl Training {
    async fn run(mut self, pool: &derive::Pool, blobs: &BlobStore) -> Result<ArtifactRecord, DeriveError> {
        loop {
            let blobs = blobs.clone();
            let (back, result) = pool
                .run(move || {
                    let result = self.attempt(&blobs);
                    (self, result)
                })
                .await?;
            self = back;
            let Err(DeriveError::Trainer(busy @ TrainerError::Busy { .. })) = &result else { return result };
            tracing::warn!(derivation = %self.key, error = chain(busy), "tried again in a minute");
            self.reporter.report(
                0,
                self.spec.training.epochs.into(),
                format!("{busy}; tried again in a minute"),
            );
            tokio::select! {
                () = tokio::time::sleep(BUSY_PAUSE) => {}
                () = self.cancel.cancelled() => return Err(DeriveError::Cancelled),
            }
        }
    }

    fn attempt(&mut self, blobs: &BlobStore) -> Result<ArtifactRecord, DeriveError> {
        if self.cancel.is_cancelled() {
            return Err(DeriveError::Cancelled); // while it waited for its turn
        }
        let Self { key, checkpoints, trainer, reporter, subject, plan, spec, cancel } = self;
        let dataset = derive::images(spec)?;
        let derived = derive::derive((&subject.network, &dataset), plan, spec, |network, dataset| {
            match spec.training.trainer {
                TrainerKind::Command => {
                    let lesson = Lesson { network, dataset, source: &spec.dataset, training: &spec.training };
                    let mut hear = |progress: Option<&Progress>| {
                        if let Some(progress) = progress {
                            let done = progress.epoch.saturating_sub(1); // it is the one under way
                            reporter.report(done, progress.epochs, tell(progress));
                        }
                        go_on(cancel)
                    };
                    Ok(trainer.train(*key, lesson, &mut hear)?)
                }
                // What a person trains is never begun here.
                TrainerKind::Builtin | TrainerKind::External => {
                    builtin((*key, checkpoints), (network, dataset), spec, &mut |step| {
                        reporter.report(step.step as u64, step.steps as u64, step.to_string());
                        go_on(cancel)
                    })
                }
            }
        });
        let derived = derived?;
        blobs.put(&derived.onnx)?;
        Ok(derived.record(spec, plan, subject.time_to_score))
    }
}

/// Trains here, from where it was cut off, with a checkpoint after every epoch.
fn builtin(
    (key, checkpoints): (DerivationKey, &Checkpoints),
    (network, dataset): (&Network, &Dataset),
    spec: &DeploymentSpec,
    on_step: &mut dyn FnMut(&Step) -> ControlFlow<()>,
) -> Result<Network, DeriveError> {
    let mut on_epoch = |checkpoint: &Checkpoint| match checkpoints.save(key, checkpoint) {
        Ok(()) => tracing::debug!(derivation = %key, epochs = checkpoint.epochs(), "checkpoint"),
        // The training itself goes on: a full disk may have room again before anything cuts it off.
        Err(error) => tracing::error!(
            derivation = %key, error = chain(&error),
            "a checkpoint was not written; if this training is cut off, it goes on from the one before"
        ),
    };
    let watch = Watch { resume: checkpoints.load(key), on_step, on_epoch: &mut on_epoch };
    derive::train(network, dataset, &spec.training.recipe(), watch)
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

async fn record_result(
    store: &StoreHandle,
    key: DerivationKey,
    result: Result<ArtifactRecord, DeriveError>,
) -> Result<(), StoreError> {
    let state = match &result {
        Ok(artifact) => DerivationState::Ready { artifact: artifact.digest },
        Err(error) if error.is_retryable() => return Ok(()), // stays queued
        Err(error) => DerivationState::Failed { reason: chain(error) },
    };
    tracing::info!(derivation = %key, ?state, "derivation ended");
    store
        .call(move |store| {
            if let Ok(artifact) = &result {
                store.put_artifact(artifact)?; // before the derivation points to it
            }
            store.update_derivation(&key, &mut |record| record.state = state.clone()).map(drop)
        })
        .await
}
