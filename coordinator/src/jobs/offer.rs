//! What a worker needs to know of a job: read from the records when it is handed out, never kept twice.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use proto::v1;

use super::ending;
use super::log::JobLogs;
use crate::causes::chain;
use crate::clock::unix_ms;
use crate::derive::SubjectKey;
use crate::elsewhere::{self, ElsewhereError, Planned};
use crate::manifest::{DatasetSpec, TrainerKind};
use crate::models::Origin;
use crate::store::{DerivationKey, DerivationState, JobRecord, Store, StoreError, Work};
use crate::worker::task::{Task, Training};

/// The job as a worker does it; `None` where this one cannot, or it is not to be done any more, which is then written.
pub(crate) fn task(
    (store, logs): (&dyn Store, &JobLogs),
    job: &JobRecord,
    has_program: bool,
    time_to_score: &dyn Fn(&SubjectKey) -> Option<Duration>,
) -> Result<Option<Task>, StoreError> {
    let job = current(store, logs, job)?;
    if !job.is_waiting(unix_ms()) {
        return Ok(None);
    }
    match &job.work {
        Work::Score(subject) => match Origin::find(store, &subject.network)? {
            Ok(origin) => {
                Ok(Some(Task::Score { subject: subject.clone(), model: origin.brought().cloned() }))
            }
            Err(unknown) => give_up((store, logs), &job, &unknown.to_string()),
        },
        Work::Train(key) => match planned((store, logs), &job, *key)? {
            None => Ok(None),
            Some(planned) => {
                let Planned { key, state, plan, spec, origin } = planned;
                match state {
                    DerivationState::Queued => {}
                    // It has ended otherwise: an earlier holder's last word was cut off.
                    DerivationState::Ready { .. } | DerivationState::Failed { .. } => {
                        store.update_job(&job.name, &mut |job| job.drop_unwanted(unix_ms()))?;
                        return Ok(None);
                    }
                }
                if spec.training.trainer == TrainerKind::Command && !has_program {
                    return Ok(None);
                }
                let scored = time_to_score(&SubjectKey::of(&spec)).unwrap_or_default();
                let (seconds_to_score, model) = (scored.as_secs_f64(), origin.brought().cloned());
                Ok(Some(Task::Train(Box::new(Training { key, plan, spec, model, seconds_to_score }))))
            }
        },
    }
}

/// The job as it is now: one whose worker is not heard of any more has lost it.
pub(super) fn current(store: &dyn Store, logs: &JobLogs, job: &JobRecord) -> Result<JobRecord, StoreError> {
    if !job.is_expired(unix_ms()) {
        return Ok(job.clone());
    }
    ending::lose(store, logs, &job.name, &job.silence(), |job| job.expire(unix_ms()))
}

/// What the job's derivation is, if a deployment still wants it.
fn planned(
    (store, logs): (&dyn Store, &JobLogs),
    job: &JobRecord,
    key: DerivationKey,
) -> Result<Option<Planned>, StoreError> {
    match elsewhere::planned(store, key) {
        Ok(planned) => Ok(Some(planned)),
        Err(ElsewhereError::Store(error)) => Err(error),
        Err(ElsewhereError::Unknown { .. }) => {
            store.update_job(&job.name, &mut |job| job.drop_unwanted(unix_ms()))?;
            Ok(None)
        }
        Err(error) => give_up((store, logs), job, &chain(&error)),
    }
}

fn give_up<T>(
    (store, logs): (&dyn Store, &JobLogs),
    job: &JobRecord,
    reason: &str,
) -> Result<Option<T>, StoreError> {
    let mut was_open = false;
    let job = store.update_job(&job.name, &mut |job| {
        was_open = job.is_open();
        job.give_up(reason, unix_ms());
    })?;
    if was_open {
        ending::note(store, logs, &job, "");
    }
    Ok(None)
}

/// The dataset of a job that is under way.
pub(crate) fn dataset(
    store: &dyn Store,
    logs: &JobLogs,
    job: &JobRecord,
) -> Result<Option<DatasetSpec>, StoreError> {
    Ok(match &job.work {
        Work::Score(subject) => Some(subject.dataset.clone()),
        Work::Train(key) => planned((store, logs), job, *key)?.map(|planned| planned.spec.dataset),
    })
}

/// The regular files below a folder, by name; links are followed to files and to no folder.
pub(crate) fn files(folder: &Path, most: usize) -> io::Result<Vec<v1::DatasetFile>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
                continue;
            }
            let meta = fs::metadata(entry.path())?;
            if !meta.is_file() {
                continue;
            }
            let path = entry.path();
            let path = path.strip_prefix(folder).map_err(io::Error::other)?;
            let path = path
                .to_str()
                .ok_or_else(|| io::Error::other(format!("the name of '{}' is no text", path.display())))?;
            let age = meta.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
            let modified_unix_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
            found.push(v1::DatasetFile { path: path.to_owned(), size: meta.len(), modified_unix_ms });
            if found.len() > most {
                return Err(io::Error::other(format!("more than {most} files")));
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}
