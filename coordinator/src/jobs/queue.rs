//! The jobs as the control plane uses them: asked for, handed out, ended. Every change is one conditional write.

use std::sync::Arc;
use std::time::Duration;

use proto::{DeviceId, Generation};
use tokio::sync::Notify;

use super::ending;
use super::log::JobLogs;
use crate::clock::unix_ms;
use crate::store::{JobRecord, JobState, Store, StoreError, StoreHandle, Work};

/// What the coordinator's own worker is called; no operator is.
pub const OWN: &str = "local";
/// Jobs that have ended are told of for so long.
const KEPT: Duration = Duration::from_secs(30 * 86_400);

/// A cheap handle to the queue.
#[derive(Clone)]
pub(crate) struct Queue {
    store: StoreHandle,
    logs: JobLogs,
    changed: Arc<Notify>,
}

impl Queue {
    pub(crate) fn new(store: StoreHandle, logs: JobLogs) -> Self {
        Self { store, logs, changed: Arc::default() }
    }

    /// Resolves when there may be something to hand out that was not there when this was called.
    pub(crate) fn changes(&self) -> impl Future<Output = ()> + Send + 'static {
        self.changed.clone().notified_owned()
    }

    /// Something may be handed out now.
    pub(crate) fn wake(&self) {
        self.changed.notify_waiters();
    }

    /// The job that does `work`, which is queued unless it is there; `known` is what was read of it lately.
    pub(crate) async fn ask(
        &self,
        work: Work,
        deployment: &str,
        generation: Option<Generation>,
        known: Option<&JobRecord>,
    ) -> Result<JobRecord, StoreError> {
        let now = unix_ms();
        if let Some(known) = known {
            let mut asked = known.clone();
            asked.ask(generation.map(|generation| (deployment, generation)), now);
            if asked == *known {
                return Ok(asked);
            }
        }
        let deployment = deployment.to_owned();
        let asked = self.store.call(move |store| {
            store.register_job(&work.name(), &mut |stored| {
                let mut job = stored.unwrap_or_else(|| JobRecord::new(work.clone(), &deployment, now));
                job.ask(generation.map(|generation| (deployment.as_str(), generation)), now);
                job
            })
        });
        let asked = asked.await?;
        self.wake();
        Ok(asked)
    }

    /// Changes a job, if it is there and `change` has anything to do.
    pub(crate) async fn change(
        &self,
        name: String,
        mut change: impl FnMut(&mut JobRecord) + Send + 'static,
    ) -> Result<(), StoreError> {
        self.store.call(move |store| store.update_job(&name, &mut change).map(drop)).await?;
        self.wake();
        Ok(())
    }

    /// The jobs for these that failed or were cancelled begin again.
    pub(crate) async fn begin_again(&self, works: Vec<Work>) -> Result<(), StoreError> {
        self.store
            .call(move |store| {
                for work in works {
                    let begun = store.update_job(&work.name(), &mut |job| {
                        if matches!(job.state, JobState::Failed { .. } | JobState::Cancelled { .. }) {
                            job.queue_anew(unix_ms());
                        }
                    });
                    match begun {
                        Ok(_) | Err(StoreError::Missing { .. }) => {} // none was needed
                        Err(error) => return Err(error),
                    }
                }
                Ok(())
            })
            .await?;
        self.wake();
        Ok(())
    }

    /// The coordinator's own worker has ended: what it had is lost, or given back where it was told to end.
    pub(crate) async fn own_ended(&self, why: Option<String>) -> Result<(), StoreError> {
        let logs = self.logs.clone();
        let ended = move |store: &dyn Store| give_back(store, why.as_deref().map(|why| (why, &logs)));
        self.store.call(ended).await?;
        self.wake();
        Ok(())
    }
}

/// Nobody but the coordinator's own worker, which ends with it, is called [`OWN`].
fn give_back(store: &dyn Store, lost: Option<(&str, &JobLogs)>) -> Result<(), StoreError> {
    let is_own = |job: &JobRecord| match &job.state {
        JobState::Leased { worker, lease, .. } if worker.as_str() == OWN => Some(*lease),
        _ => None,
    };
    for job in store.jobs()? {
        let Some(lease) = is_own(&job) else { continue };
        match lost {
            Some((why, logs)) => {
                ending::lose(store, logs, &job.name, why, |job| job.lost(lease, why, unix_ms()))?;
            }
            None => {
                store.update_job(&job.name, &mut |job| {
                    job.release(lease, (Duration::ZERO, None), unix_ms());
                })?;
            }
        }
    }
    Ok(())
}

/// At the start: what the coordinator's own worker had goes on, and what ended long ago is forgotten. Returns the names of
/// those that are left.
pub(crate) fn settle(store: &dyn Store, now_unix_ms: u64) -> Result<Vec<String>, StoreError> {
    give_back(store, None)?;
    // Nobody could renew while the coordinator was away.
    for job in store.jobs()? {
        if let JobState::Leased { lease, .. } = job.state {
            store.update_job(&job.name, &mut |job| {
                job.renew(lease, now_unix_ms);
            })?;
        }
    }
    let mut left = Vec::new();
    for job in store.jobs()? {
        let age = Duration::from_millis(now_unix_ms.saturating_sub(job.changed_unix_ms));
        // What was found of a network is still of use.
        let is_of_use = job.is_open() || matches!(job.state, JobState::Done { result: Some(_) });
        if age > KEPT && !is_of_use {
            store.remove_job(&job.name)?;
        } else {
            left.push(job.name);
        }
    }
    Ok(left)
}

/// What is handed out next of `jobs`: what has waited longest, scores before trainings, for plans wait for them.
pub(crate) fn in_turn(jobs: &mut [JobRecord]) {
    let is_training = |job: &JobRecord| matches!(job.work, Work::Train(_));
    jobs.sort_by_key(|job| (is_training(job), job.changed_unix_ms, job.name.clone()));
}

/// Hands the job out, unless somebody was faster.
pub(crate) fn lease(store: &dyn Store, name: &str, worker: &DeviceId) -> Result<Option<u64>, StoreError> {
    let mut number = None;
    store.update_job(name, &mut |job| number = job.lease(worker, unix_ms()))?;
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{DerivationKey, SledStore};

    #[tokio::test]
    async fn trainings_that_failed_begin_again_and_others_go_on() {
        let folder = tempfile::tempdir().unwrap();
        let logs = JobLogs::open(folder.path().join("logs"), |_| true).unwrap();
        let store = SledStore::open(&folder.path().join("store")).unwrap();
        let queue = Queue::new(StoreHandle::new(store), logs);
        let [failed, cancelled, held, unasked] = [1, 2, 3, 4].map(|n| DerivationKey::of(&n).unwrap());
        let name = |key| Work::Train(key).name();
        for key in [failed, cancelled, held] {
            queue.ask(Work::Train(key), "d", None, None).await.unwrap();
        }
        queue.change(name(cancelled), |job| assert!(job.cancel("ann", 0))).await.unwrap();
        for key in [failed, held] {
            queue
                .change(name(key), |job| assert!(job.lease(&"w".parse().unwrap(), unix_ms()).is_some()))
                .await
                .unwrap();
        }
        queue
            .change(name(failed), |job| assert!(job.fail(job.leases, "no such file".to_owned(), 0)))
            .await
            .unwrap();
        let before = queue.store.call(|store| store.jobs()).await.unwrap();
        queue.begin_again([failed, cancelled, held, unasked].map(Work::Train).into()).await.unwrap();
        let after = queue.store.call(|store| store.jobs()).await.unwrap();
        assert_eq!(after.len(), 3, "{after:?}");
        for (before, after) in before.iter().zip(&after) {
            if before.name == name(held) {
                assert_eq!(before, after);
            } else {
                assert!(!before.is_open() && after.is_open() && after.tries == 0, "{before:?} {after:?}");
            }
        }
    }

    #[test]
    fn a_start_takes_up_its_own_workers_jobs_and_forgets_old_ones() {
        let folder = tempfile::tempdir().unwrap();
        let store = SledStore::open(folder.path()).unwrap();
        let add = |n: u32, worker: Option<&str>| {
            let work = Work::Train(DerivationKey::of(&n).unwrap());
            let name = work.name();
            store.register_job(&name, &mut |_| JobRecord::new(work.clone(), "d", unix_ms())).unwrap();
            let lease = worker.map(|worker| lease(&store, &name, &worker.parse().unwrap()).unwrap().unwrap());
            (name, lease)
        };
        let (own, _) = add(1, Some(OWN));
        let (other, lease) = add(2, Some("gpu-1"));
        let (old, _) = add(3, None);
        assert_eq!(super::lease(&store, &other, &"late".parse().unwrap()).unwrap(), None);
        let later = unix_ms() + u64::try_from(KEPT.as_millis()).unwrap() + 1000;
        store.update_job(&old, &mut |job| assert!(job.cancel("ann", 0))).unwrap();
        let mut left = settle(&store, later).unwrap();
        left.sort();
        let mut expected = [own.clone(), other.clone()];
        expected.sort();
        assert_eq!(left, expected);
        let own = store.job(&own).unwrap().unwrap();
        assert!(matches!(own.state, JobState::Queued { .. }) && own.tries == 0, "{own:?}");
        assert!(store.job(&other).unwrap().unwrap().is_held(lease.unwrap()));
        assert_eq!(store.job(&old).unwrap(), None);
    }
}
