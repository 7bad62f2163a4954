//! Scoring and training, asked for: jobs that workers do, and what came of them told to the deployments that wait.

use std::sync::Arc;

use pruner_core::plan::PrunePlan;

use super::Driver;
use crate::audit::{COORDINATOR, Event};
use crate::board::{Job, JobId};
use crate::causes::chain;
use crate::clock::unix_ms;
use crate::core::Core;
use crate::derive::{DeriveError, Findings, Subject, SubjectKey};
use crate::manifest::{DeploymentSpec, TrainerKind};
use crate::models::Origin;
use crate::store::{
    DeploymentPhase, DeploymentRecord, DerivationKey, DerivationRecord, DerivationState, JobRecord, JobState,
    Outcome, Store, StoreError, Work,
};

/// The scored network of a job that is done, read back and kept; `None` where its file is gone or damaged, and the job was
/// queued anew.
pub(crate) async fn take_up(
    core: &Core,
    job: &JobRecord,
    key: &SubjectKey,
) -> Result<Option<Arc<Subject>>, DeriveError> {
    let JobState::Done { result: Some(file) } = job.state.clone() else { return Ok(None) };
    let name = key.network.clone();
    let found = core.store.call(move |store| Origin::find(store, &name)).await;
    let origin = found.map_err(DeriveError::Records)?.map_err(DeriveError::Network)?;
    let (blobs, wanted) = (core.blobs.clone(), key.clone());
    let read = core.store.call(move |_| {
        let found = blobs.read(&file).ok().and_then(|json| serde_json::from_slice::<Findings>(&json).ok());
        Ok(found.map(|found| Subject::of(&wanted, (&origin, &blobs), found)))
    });
    match read.await.map_err(DeriveError::Records)? {
        Some(subject) => {
            let subject = Arc::new(subject?);
            core.subjects.insert(key.clone(), subject.clone());
            Ok(Some(subject))
        }
        None => {
            tracing::warn!(job = job.name, "what was found is gone or damaged; it is scored again");
            let again = core.queue.change(job.name.clone(), |job| job.queue_anew(unix_ms())).await;
            again.map_err(DeriveError::Records)?;
            Ok(None)
        }
    }
}

/// Has whoever follows the deployment see that a job waits.
pub(crate) fn show_waiting(core: &Core, deployment: &str, job: &JobRecord) {
    let id = JobId { deployment: deployment.to_owned(), title: job.work.title() };
    let is_queued = matches!(job.state, JobState::Queued { .. });
    if is_queued && core.board.job(&id).is_none_or(|shown| shown.finished) {
        let message = "waits for a worker".to_owned();
        core.board.report(id, Job { total: 1, message, ..Job::default() });
    }
}

/// Whether a job was cancelled that a paused deployment waits for: it fails nothing, and begins anew once that is resumed.
pub(super) fn is_put_off(deployment: &DeploymentRecord, job: &JobRecord) -> bool {
    deployment.paused && matches!(job.state, JobState::Cancelled { .. })
}

impl Driver {
    /// Asks for the network's scores; takes them up once they are there.
    pub(super) async fn begin_scoring(
        &self,
        deployment: &DeploymentRecord,
        key: SubjectKey,
        jobs: &[JobRecord],
    ) -> Result<(), StoreError> {
        let job = self.ask(deployment, Work::Score(key.clone()), jobs).await?;
        if is_put_off(deployment, &job) {
            return Ok(());
        }
        let reason = match job.failure() {
            Some(reason) => reason,
            None => match take_up(&self.core, &job, &key).await {
                Ok(None) => return Ok(()),
                Ok(Some(_)) => {
                    self.core.poke.poke();
                    return Ok(());
                }
                Err(DeriveError::Records(error)) => return Err(error),
                Err(error) => chain(&error),
            },
        };
        tracing::warn!(deployment = deployment.name, error = reason, "scoring failed");
        let (name, generation) = (deployment.name.clone(), deployment.generation);
        let failed = move |store: &dyn Store| {
            store.update_deployment(&name, generation, &mut |record| {
                if !record.was_complete {
                    record.phase = DeploymentPhase::Failed { reason: reason.clone() };
                }
                record.message = reason.clone();
                let outcomes = record.outcomes.values_mut();
                for outcome in outcomes.filter(|outcome| outcome.state == Outcome::Deriving) {
                    let reason = "its network could not be scored".to_owned();
                    outcome.state = Outcome::Failed { reason };
                }
            })?;
            let event = Event::new(COORDINATOR, "fail", format!("deployment/{name}"));
            let why = format!("generation {generation}: {reason}");
            store.append_audit(&[event.changed(format!("generation {generation}"), why)], unix_ms())
        };
        self.core.store.call(failed).await?;
        self.core.board.wake();
        Ok(())
    }

    /// Asks for a network to be trained, unless that was done, or a person does it.
    pub(super) async fn begin_derivation(
        &self,
        deployment: &DeploymentRecord,
        key: DerivationKey,
        plan: Option<&PrunePlan>,
        jobs: &[JobRecord],
    ) -> Result<(), StoreError> {
        let spec = &deployment.manifest.spec;
        let Some((record, _)) = self.derivation(spec, key, plan).await? else { return Ok(()) };
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
        let job = self.ask(deployment, Work::Train(key), jobs).await?;
        if is_put_off(deployment, &job) {
            return Ok(());
        }
        let lost = matches!(job.state, JobState::Done { .. });
        if lost {
            // Its artifact is gone, and whoever began the deployment again knows it.
            return self.core.queue.change(job.name, |job| job.queue_anew(unix_ms())).await;
        }
        let Some(reason) = job.failure() else { return Ok(()) };
        let failed = move |store: &dyn Store| {
            store.update_derivation(&key, &mut |record| {
                if record.state == DerivationState::Queued {
                    record.state = DerivationState::Failed { reason: reason.clone() };
                }
            })
        };
        self.core.store.call(failed).await?;
        self.core.poke.poke();
        Ok(())
    }

    async fn ask(
        &self,
        deployment: &DeploymentRecord,
        work: Work,
        jobs: &[JobRecord],
    ) -> Result<JobRecord, StoreError> {
        let known = jobs.iter().find(|job| job.work == work);
        let (name, generation) = (&deployment.name, deployment.generation);
        let job = self.core.queue.ask(work, name, Some(generation), known).await?;
        show_waiting(&self.core, name, &job);
        Ok(job)
    }

    /// Trainings that no deployment wants are not begun, and those under way are ended.
    pub(super) async fn drop_unwanted(
        &self,
        jobs: &[JobRecord],
        is_wanted: impl Fn(&DerivationKey) -> bool,
    ) -> Result<(), StoreError> {
        for job in jobs.iter().filter(|job| job.is_open()) {
            let Work::Train(key) = &job.work else { continue };
            if !is_wanted(key) {
                tracing::info!(job = job.name, "no deployment wants this any more");
                self.core.queue.change(job.name.clone(), |job| job.drop_unwanted(unix_ms())).await?;
            }
        }
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
