//! What a worker says came of its job, written down: the result first, then that it is there.

use proto::Digest;

use crate::blob::{BlobError, BlobStore};
use crate::clock::unix_ms;
use crate::store::{DerivationKey, DerivationState, JobRecord, Store, StoreError, Work};
use crate::worker::task::Outcome;

/// Why an outcome is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OutcomeError {
    /// Another worker's, or nobody's.
    #[error("job {job} is not this worker's any more")]
    Lost {
        /// Which.
        job: String,
    },
    /// It is of another kind of job, or its file is missing or another.
    #[error("the outcome does not fit job {job}: {problem}")]
    Foreign {
        /// Which.
        job: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// What was found cannot be written.
    #[error("what was found cannot be written")]
    Encode(#[from] serde_json::Error),
    /// The result's file.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The records.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What came.
pub(crate) struct Said {
    pub(crate) said: Outcome,
    pub(crate) file: Option<Vec<u8>>,
}

/// What is left to do.
pub(crate) struct Ended {
    /// For the logs.
    pub(crate) line: String,
    /// Of this training nothing can be gone on with.
    pub(crate) spent: Option<DerivationKey>,
}

/// Writes it down, if the lease holds.
pub(crate) fn settle(
    store: &dyn Store,
    blobs: &BlobStore,
    job: &JobRecord,
    lease: u64,
    Said { said, file }: Said,
) -> Result<Ended, OutcomeError> {
    let foreign = |problem| OutcomeError::Foreign { job: job.name.clone(), problem };
    let change = |change: &mut dyn FnMut(&mut JobRecord) -> bool| {
        let mut held = false;
        store.update_job(&job.name, &mut |job| held = change(job))?;
        if held { Ok(()) } else { Err(OutcomeError::Lost { job: job.name.clone() }) }
    };
    // The file took its time to come.
    if !store.job(&job.name)?.is_some_and(|now| now.is_held(lease)) {
        return Err(OutcomeError::Lost { job: job.name.clone() });
    }
    match (said, &job.work) {
        (Outcome::Scored(findings), Work::Score(_)) => {
            let result = blobs.put(serde_json::to_vec(&findings)?)?;
            change(&mut |job| job.done(lease, Some(result.clone()), unix_ms()))?;
            Ok(Ended { line: format!("done in {:.1} s", findings.seconds), spent: None })
        }
        (Outcome::Trained(artifact), Work::Train(key)) => {
            let file = file.ok_or_else(|| foreign("the model's file is missing"))?;
            if Digest::of(&file) != artifact.digest || file.len() as u64 != artifact.size.0 {
                return Err(foreign("the file is not the model that it tells of"));
            }
            if store.artifact(artifact.digest)?.is_some_and(|known| known.serving != artifact.serving) {
                return Err(foreign("the same file is a network of other images already"));
            }
            blobs.put(file)?;
            store.put_artifact(&artifact)?; // before the derivation points to it
            end(store, *key, DerivationState::Ready { artifact: artifact.digest })?;
            change(&mut |job| job.done(lease, None, unix_ms()))?;
            Ok(Ended { line: format!("done: artifact {}", artifact.digest), spent: Some(*key) })
        }
        (Outcome::Failed { reason, spent }, work) => {
            let key = match work {
                Work::Train(key) => Some(*key),
                Work::Score(_) => None,
            };
            change(&mut |job| job.fail(lease, reason.clone(), unix_ms()))?;
            if let Some(key) = key {
                end(store, key, DerivationState::Failed { reason: reason.clone() })?;
            }
            Ok(Ended { line: format!("failed: {reason}"), spent: key.filter(|_| spent) })
        }
        (Outcome::Released { reason, pause, failing }, _) => {
            let failing = failing.then_some(reason.as_str());
            change(&mut |job| job.release(lease, (pause, failing), unix_ms()))?;
            Ok(Ended { line: format!("given back: {reason}"), spent: None })
        }
        (Outcome::Scored(_), Work::Train(_)) => Err(foreign("it was to be trained")),
        (Outcome::Trained(_), Work::Score(_)) => Err(foreign("it was to be scored")),
    }
}

fn end(store: &dyn Store, key: DerivationKey, state: DerivationState) -> Result<(), StoreError> {
    store.update_derivation(&key, &mut |record| {
        if record.state == DerivationState::Queued {
            record.state = state.clone();
        }
    })?;
    Ok(())
}
