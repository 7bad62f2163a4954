//! Work under way, for whoever watches: how far each job of each deployment has come. In memory only; a job that
//! a restart begins again reports again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

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
#[derive(Debug, Clone, PartialEq, Eq)]
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

/// Watchers are woken no more often than this, so that a fast job does not drown them.
const WAKE_INTERVAL: Duration = Duration::from_millis(100);

impl Board {
    /// An empty board.
    pub fn new() -> Self {
        Self { jobs: Arc::default(), changed: watch::channel(0).0 }
    }

    /// Begins to report on a job; what an earlier one of that name left is forgotten.
    pub fn begin(&self, id: JobId, total: u64) -> Reporter {
        self.lock().insert(id.clone(), Job { done: 0, total, message: String::new(), finished: false });
        self.wake();
        Reporter { board: self.clone(), id, woken: Instant::now() }
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

/// Reports on one job; dropping it marks the job finished.
pub struct Reporter {
    board: Board,
    id: JobId,
    woken: Instant,
}

impl Reporter {
    /// `done` of `total` steps, with a word on how it goes.
    pub fn report(&mut self, done: u64, total: u64, message: String) {
        self.board.lock().insert(self.id.clone(), Job { done, total, message, finished: false });
        if self.woken.elapsed() >= WAKE_INTERVAL {
            self.woken = Instant::now();
            self.board.wake();
        }
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        if let Some(job) = self.board.lock().get_mut(&self.id) {
            job.finished = true;
        }
        self.board.wake();
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
        let mut reporter = board.begin(id, 100);
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        reporter.report(7, 100, "round 7".into());
        let job = board.jobs("fashion")[0].1.clone();
        assert_eq!((job.done, job.finished), (7, false));
        drop(reporter);
        assert!(board.jobs("fashion")[0].1.finished);
        assert!(changes.has_changed().unwrap());
        assert!(board.jobs("other").is_empty());
        board.clear("fashion");
        assert!(board.jobs("fashion").is_empty());
    }
}
