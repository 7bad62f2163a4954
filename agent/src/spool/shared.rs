//! The spool between the task that fills it and the one that empties it: each access runs where blocking is allowed,
//! for every change of the spool is an fsync.

use std::sync::{Arc, Mutex, PoisonError};

use proto::LatencyInterval;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use super::Spool;
use crate::state::FileError;

/// A handle to the spool; clones share it.
#[derive(Clone)]
pub struct SharedSpool {
    spool: Arc<Mutex<Spool>>,
    appended: watch::Sender<()>,
    tracker: TaskTracker,
}

impl SharedSpool {
    /// Shares `spool`; its accesses are tasks of `tracker`.
    pub fn new(spool: Spool, tracker: TaskTracker) -> Self {
        Self { spool: Arc::new(Mutex::new(spool)), appended: watch::channel(()).0, tracker }
    }

    /// Appends intervals, tries the disk again where it refused some before, and tells whoever sends. All are taken in any
    /// case; without an error they are durable.
    pub async fn append(&self, intervals: Vec<LatencyInterval>) -> Result<(), FileError> {
        let append = move |spool: &mut Spool| {
            // The last one writes what those before it could not: one error is enough.
            let appended = intervals.into_iter().map(|interval| spool.append(interval)).last();
            appended.unwrap_or(Ok(())).and_then(|()| spool.settle())
        };
        let result = self.with(append).await;
        self.appended.send_replace(());
        result
    }

    /// Changes whenever something was appended.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.appended.subscribe()
    }

    /// One access.
    pub async fn with<T: Send + 'static>(&self, access: impl FnOnce(&mut Spool) -> T + Send + 'static) -> T {
        let spool = self.spool.clone();
        // A panic in an access leaves the spool as the disk has it after the next start; counts are never half-made.
        let work = move || access(&mut spool.lock().unwrap_or_else(PoisonError::into_inner));
        self.tracker.spawn_blocking(work).await.expect("an access to the spool does not panic")
    }
}
