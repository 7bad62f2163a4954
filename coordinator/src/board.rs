//! Work under way, for whoever watches: how far each job of each deployment has come. In memory only; a job that
//! a restart begins again reports again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::watch;

/// A cheap handle to the board.
#[derive(Clone)]
pub struct Board {
    jobs: Arc<Mutex<BTreeMap<JobId, Job>>>,
    changed: watch::Sender<u64>,
}

/// Which job of which deployment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct JobId {
    /// The deployment's name.
    pub deployment: String,
    /// What is done: `score resnet20`, `train 3f9a2b71c04d`.
    pub title: String,
}

/// How far a job has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Job {
    /// Steps done.
    pub done: u64,
    /// Of so many.
    pub total: u64,
    /// Loss, accuracy, images per second.
    pub message: String,
    /// Whether it has ended.
    pub finished: bool,
}

impl Board {
    /// An empty board.
    pub fn new() -> Self {
        Self { jobs: Arc::default(), changed: watch::channel(0).0 }
    }

    /// Tells how far a job is; what was said of it before is forgotten.
    pub fn report(&self, id: JobId, job: Job) {
        self.lock().insert(id, job);
        self.wake();
    }

    /// Marks a job as ended.
    pub fn end(&self, id: &JobId) {
        if let Some(job) = self.lock().get_mut(id) {
            job.finished = true;
        }
        self.wake();
    }

    /// What was said last of that job.
    pub fn job(&self, id: &JobId) -> Option<Job> {
        self.lock().get(id).cloned()
    }

    /// Every job of that deployment, by title.
    pub fn jobs(&self, deployment: &str) -> Vec<(String, Job)> {
        let jobs = self.lock();
        let of_deployment = jobs.iter().filter(|(id, _)| id.deployment == deployment);
        of_deployment.map(|(id, job)| (id.title.clone(), job.clone())).collect()
    }

    /// Forgets the jobs of a deployment: a new generation of it begins.
    pub fn clear(&self, deployment: &str) {
        self.lock().retain(|id, _| id.deployment != deployment);
        self.wake();
    }

    /// Resolves when something on the board, or in the store that it speaks of, has changed.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Wakes every watcher.
    pub fn wake(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<JobId, Job>> {
        self.jobs.lock().expect("no holder of this lock can panic")
    }
}

impl Default for Board {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_seen_from_its_begin_to_its_end() {
        let board = Board::new();
        let mut changes = board.subscribe();
        let id = JobId { deployment: "fashion".into(), title: "score resnet20".into() };
        board.report(id.clone(), Job { total: 100, ..Job::default() });
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        board.report(id.clone(), Job { done: 7, total: 100, message: "round 7".into(), finished: false });
        let job = board.jobs("fashion")[0].1.clone();
        assert_eq!((job.done, job.finished), (7, false));
        board.end(&id);
        assert!(board.jobs("fashion")[0].1.finished);
        assert!(changes.has_changed().unwrap());
        assert!(board.jobs("other").is_empty());
        board.clear("fashion");
        assert!(board.jobs("fashion").is_empty());
    }
}
