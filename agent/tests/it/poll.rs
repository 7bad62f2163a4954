//! Waiting for something that a test expects, with a limit. The only place here that sleeps.

use std::time::Duration;

/// What may take so long on two busy cores has gone wrong.
const LIMIT: Duration = Duration::from_secs(60);
const INTERVAL: Duration = Duration::from_millis(10);

/// Looks until there is something to see.
pub(crate) async fn within<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let poll = async {
        loop {
            match look().await {
                Some(found) => return found,
                None => tokio::time::sleep(INTERVAL).await,
            }
        }
    };
    tokio::time::timeout(LIMIT, poll).await.unwrap_or_else(|_| panic!("never: {what}"))
}

/// Waits until it holds.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    within(what, async || holds().then_some(())).await;
}
