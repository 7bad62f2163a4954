//! What operators do about jobs: list them, read what workers said, cancel; and wait for one whose result a call needs.

use std::sync::Arc;
use std::time::Duration;

use proto::{DeviceId, v1};
use tokio::sync::mpsc;
use tonic::Status;

use super::{note, status};
use crate::audit::Event;
use crate::board::JobId;
use crate::clock::unix_ms;
use crate::core::Core;
use crate::derive::{Subject, SubjectKey};
use crate::identity::Role;
use crate::identity::issued::Issued;
use crate::jobs::workers::Heard;
use crate::rollout::driver::{show_waiting, take_up};
use crate::store::{DeploymentPhase, DeploymentRecord, JobRecord, JobState, StoreError, Work};

/// A log that is followed is looked at so often.
const LOOK: Duration = Duration::from_millis(500);

/// Those that `name` selects; all, where it is empty.
pub(super) async fn list(core: &Core, name: &str) -> Result<v1::JobList, Status> {
    let jobs = core.store.call(|store| store.jobs()).await.map_err(status::store)?;
    let mut jobs: Vec<JobRecord> =
        jobs.into_iter().filter(|job| name.is_empty() || job.name == name).collect();
    jobs.sort_by_key(|job| job.created_unix_ms);
    Ok(v1::JobList { jobs: jobs.iter().map(|job| view(core, job)).collect() })
}

fn view(core: &Core, job: &JobRecord) -> v1::Job {
    let id = JobId { deployment: job.deployment.clone(), title: job.work.title() };
    let shown = core.board.job(&id).filter(|_| job.is_open()).unwrap_or_default();
    let (state, message) = match &job.state {
        JobState::Queued { .. } => ("Queued", shown.message),
        // It is given back as soon as anybody asks for work.
        JobState::Leased { worker, .. } if job.is_expired(unix_ms()) => {
            ("Queued", format!("worker {worker} was not heard of for too long; it waits for a worker"))
        }
        JobState::Leased { worker, until_unix_ms, .. } if core.workers.is_gone(worker) => {
            let left = seconds_until(*until_unix_ms);
            (
                "Stalled",
                format!("worker {worker} is gone; unless it comes back, the job waits for any in {left} s"),
            )
        }
        JobState::Leased { .. } => ("Running", shown.message),
        JobState::Done { .. } => ("Done", String::new()),
        JobState::Failed { reason } => ("Failed", reason.clone()),
        JobState::Cancelled { by } => ("Cancelled", format!("by {by}")),
        JobState::Unwanted => ("Unwanted", "no deployment wants it any more".to_owned()),
    };
    let worker = match &job.state {
        JobState::Leased { worker, .. } if !job.is_expired(unix_ms()) => Some(worker),
        // It waits for anybody.
        JobState::Queued { .. } | JobState::Leased { .. } => None,
        JobState::Done { .. } | JobState::Failed { .. } | JobState::Cancelled { .. } | JobState::Unwanted => {
            job.worker.as_ref()
        }
    };
    v1::Job {
        name: job.name.clone(),
        deployment: job.deployment.clone(),
        state: state.to_owned(),
        worker: worker.map(ToString::to_string).unwrap_or_default(),
        done: shown.done,
        total: shown.total,
        message,
        tries: job.tries,
        created_unix_ms: job.created_unix_ms,
        changed_unix_ms: job.changed_unix_ms,
    }
}

fn seconds_until(until: u64) -> u64 {
    until.saturating_sub(unix_ms()).div_ceil(1000)
}

/// Those that `name` selects of the workers that were heard of; all, where it is empty.
pub(super) async fn workers(core: &Core, name: &str) -> Result<v1::WorkerList, Status> {
    let jobs = core.store.call(|store| store.jobs()).await.map_err(status::store)?;
    let own = core.state_dir.clone();
    // Of a list that cannot be read, no worker's certificate is known.
    let issued = status::blocking(move || Issued::all(&own)).await?.unwrap_or_default();
    let now = unix_ms();
    let view = |(worker, heard): (DeviceId, Heard)| {
        let has =
            |job: &&JobRecord| matches!(&job.state, JobState::Leased { worker: it, .. } if *it == worker);
        let job = jobs.iter().filter(|job| !job.is_expired(now)).find(has);
        let mut certificates = issued.iter().filter(|it| it.name == worker && it.role == Role::Worker.name());
        let state = match job {
            _ if !heard.is_connected => "Gone",
            _ if heard.is_away(now) => "Away",
            Some(_) => "Busy",
            None => "Idle",
        };
        let message = match job.map(|job| &job.state) {
            _ if heard.is_connected => String::new(),
            Some(JobState::Leased { until_unix_ms, .. }) => {
                format!("its connection is lost; its lease ends in {} s", seconds_until(*until_unix_ms))
            }
            _ => "its connection is lost".to_owned(),
        };
        v1::Worker {
            state: state.to_owned(),
            since_unix_ms: heard.since_unix_ms,
            heard_unix_ms: heard.last_unix_ms,
            job: job.map(|job| job.name.clone()).unwrap_or_default(),
            expires_unix_ms: certificates.next().map_or(0, |it| it.expires_unix_ms),
            name: worker.to_string(),
            message,
        }
    };
    let workers = core.workers.all().into_iter().map(view);
    Ok(v1::WorkerList { workers: workers.filter(|it| name.is_empty() || it.name == name).collect() })
}

async fn find(core: &Core, name: &str) -> Result<JobRecord, Status> {
    let wanted = name.to_owned();
    let found = core.store.call(move |store| store.job(&wanted)).await.map_err(status::store)?;
    found.ok_or_else(|| Status::not_found(format!("no job '{name}'; `reconvene get jobs` lists them")))
}

/// Stops a job.
pub(super) async fn control(
    core: Core,
    by: String,
    v1::ControlJobRequest { name, verb }: v1::ControlJobRequest,
) -> Result<v1::ControlJobResponse, Status> {
    if verb != "cancel" {
        return Err(Status::invalid_argument(format!("'{verb}' is no verb; allowed: cancel")));
    }
    let job = find(&core, &name).await?;
    let (canceller, wanted) = (by.clone(), name.clone());
    let cancelled = core.store.call(move |store| {
        let mut was_open = false;
        let job = store.update_job(&wanted, &mut |job| was_open = job.cancel(&canceller, unix_ms()))?;
        Ok((job, was_open))
    });
    let (now, was_open) = cancelled.await.map_err(status::store)?;
    if !was_open {
        let state = view(&core, &now).state;
        return Err(Status::failed_precondition(format!("job {name} has ended: {state}")));
    }
    core.logs.add(&name, [format!("cancelled by {by}").as_str()]);
    core.board.end(&JobId { deployment: job.deployment, title: job.work.title() });
    core.poke.poke();
    let event = Event::new(by, "cancel", format!("job/{name}"));
    note::note(&core, event.changed("", "cancelled")).await?;
    Ok(v1::ControlJobResponse { result: "cancelled".to_owned() })
}

/// Has nobody score the network of a deployment that was deleted or aborted, unless another one waits for the same. A plan that
/// does asks again.
pub(super) async fn drop_scoring(core: &Core, record: &DeploymentRecord) -> Result<(), Status> {
    let (key, of) = (SubjectKey::of(&record.manifest.spec), record.name.clone());
    let dropped = core.store.call(move |store| {
        let waits = |other: &DeploymentRecord| {
            let is_over = matches!(other.phase, DeploymentPhase::Failed { .. });
            other.name != of && !is_over && SubjectKey::of(&other.manifest.spec) == key
        };
        if store.deployments()?.iter().any(waits) {
            return Ok(None);
        }
        let mut was_open = false;
        let dropped = store.update_job(&Work::Score(key.clone()).name(), &mut |job| {
            // What no deployment ever asked for is a plan's.
            was_open = job.is_open() && !job.asked_by.is_empty();
            if was_open {
                job.drop_unwanted(unix_ms());
            }
        });
        match dropped {
            Ok(job) => Ok(Some(job).filter(|_| was_open)),
            Err(StoreError::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    });
    if let Some(job) = dropped.await.map_err(status::store)? {
        tracing::info!(job = job.name, "no deployment wants this any more");
        core.board.end(&JobId { deployment: job.deployment, title: job.work.title() });
    }
    Ok(())
}

/// Sends the log that there is, and more until the job has ended where that is asked for.
pub(super) async fn read_log(
    core: Core,
    v1::ReadJobLogRequest { name, follow, mut offset }: v1::ReadJobLogRequest,
    parts: mpsc::Sender<Result<v1::ReadJobLogResponse, Status>>,
) {
    loop {
        // Looked at before the log is read: what was said last comes with it.
        let job = find(&core, &name).await;
        let (logs, wanted) = (core.logs.clone(), name.clone());
        let read = status::blocking(move || logs.read(&wanted, offset)).await;
        let part = match (&job, read) {
            (Err(error), _) => Err(error.clone()),
            (_, Err(error)) => Err(error),
            (_, Ok(Err(error))) => Err(status::internal(format!("reading the log: {error}"))),
            (_, Ok(Ok((text, end)))) => {
                offset = end;
                Ok(v1::ReadJobLogResponse { text, end })
            }
        };
        let is_over = part.is_err() || !follow || job.is_ok_and(|job| !job.is_open());
        let is_empty = matches!(&part, Ok(part) if part.text.is_empty());
        if (!is_empty && parts.send(part).await.is_err()) || is_over {
            return;
        }
        tokio::select! {
            () = core.shutdown.cancelled() => return,
            () = parts.closed() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// The scored network; has a worker score it, if that was not done before, and waits.
pub(super) async fn subject(core: &Core, deployment: &str, key: SubjectKey) -> Result<Arc<Subject>, Status> {
    if let Some(subject) = core.subjects.get(&key) {
        return Ok(subject);
    }
    let mut job =
        core.queue.ask(Work::Score(key.clone()), deployment, None, None).await.map_err(status::store)?;
    loop {
        let changed = core.queue.changes();
        job = find(core, &job.name).await?;
        if job.state == JobState::Unwanted {
            // The deployment that wanted it too is gone.
            let again = core.queue.ask(job.work.clone(), deployment, None, None);
            job = again.await.map_err(status::store)?;
        }
        show_waiting(core, deployment, &job);
        if let Some(reason) = job.failure() {
            return Err(Status::failed_precondition(reason));
        }
        if let Some(subject) = take_up(core, &job, &key).await.map_err(status::derive)? {
            return Ok(subject);
        }
        tokio::select! {
            () = core.shutdown.cancelled() => return Err(Status::unavailable("the coordinator is stopping")),
            () = changed => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}
