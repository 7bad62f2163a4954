//! The store as asynchronous code reaches it.

use std::panic;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{Store, StoreError};

/// A cheap clone of the one store. Calls run where blocking is allowed, so that no task waits for a disk.
#[derive(Clone)]
pub struct StoreHandle {
    store: Arc<dyn Store>,
    /// A write has failed.
    lost: CancellationToken,
}

impl StoreHandle {
    /// A handle on `store`.
    pub fn new(store: impl Store + 'static) -> Self {
        Self { store: Arc::new(store), lost: CancellationToken::new() }
    }

    /// Runs `f` on a blocking thread and returns what it returns. A panic in `f` goes on in the caller.
    pub async fn call<T, F>(&self, f: F) -> Result<T, StoreError>
    where
        F: FnOnce(&dyn Store) -> Result<T, StoreError> + Send + 'static,
        T: Send + 'static,
    {
        let (store, lost) = (Arc::clone(&self.store), self.lost.clone());
        let call = move || {
            let result = f(&*store);
            if store.is_lost() {
                lost.cancel();
            }
            result
        };
        match tokio::task::spawn_blocking(call).await {
            Ok(result) => result,
            Err(failed) => match failed.try_into_panic() {
                Ok(payload) => panic::resume_unwind(payload),
                Err(_) => Err(StoreError::Stopping),
            },
        }
    }

    /// Whether a write has failed.
    pub fn is_lost(&self) -> bool {
        self.lost.is_cancelled()
    }

    /// Waits until a write has failed: the store takes no other before it is opened anew.
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }
}
