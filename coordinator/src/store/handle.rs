//! The store as asynchronous code reaches it.

use std::panic;
use std::sync::Arc;

use super::{Store, StoreError};

/// A cheap clone of the one store. Calls run where blocking is allowed, so that no task waits for a disk.
#[derive(Clone)]
pub struct StoreHandle(Arc<dyn Store>);

impl StoreHandle {
    /// A handle on `store`.
    pub fn new(store: impl Store + 'static) -> Self {
        Self(Arc::new(store))
    }

    /// Runs `f` on a blocking thread and returns what it returns. A panic in `f` goes on in the caller.
    pub async fn call<T, F>(&self, f: F) -> Result<T, StoreError>
    where
        F: FnOnce(&dyn Store) -> Result<T, StoreError> + Send + 'static,
        T: Send + 'static,
    {
        let store = Arc::clone(&self.0);
        match tokio::task::spawn_blocking(move || f(&*store)).await {
            Ok(result) => result,
            Err(failed) => match failed.try_into_panic() {
                Ok(payload) => panic::resume_unwind(payload),
                Err(_) => Err(StoreError::Stopping),
            },
        }
    }
}
