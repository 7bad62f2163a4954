//! Waiting for the thing itself: asks again and again until it is there, with a limit. Never guesses how long.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::Instant;
use tonic::Code;

/// Time between two questions.
const INTERVAL: Duration = Duration::from_millis(50);

/// What one question found.
#[derive(Debug)]
pub enum Answer<T> {
    /// It is there.
    Ready(T),
    /// Not yet, and what was seen instead.
    NotYet(String),
}

/// Asks until `question` is answered, and returns its answer.
///
/// # Errors
/// When `limit` has passed, with `what` was awaited and what was seen last; at once when `question` fails for another
/// reason than a coordinator that cannot be reached.
pub async fn wait_until<T>(
    what: &str,
    limit: Duration,
    mut question: impl AsyncFnMut() -> Result<Answer<T>>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        let seen = match question().await {
            Ok(Answer::Ready(value)) => return Ok(value),
            Ok(Answer::NotYet(seen)) => seen,
            Err(error) if is_unreachable(&error) => format!("{error:#}"),
            Err(error) => return Err(error.context(format!("while waiting for {what}"))),
        };
        if Instant::now() >= deadline {
            bail!("{what}: not within {} s; last seen: {seen}", limit.as_secs());
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Whether the other side was away, as it is while it restarts.
fn is_unreachable(error: &anyhow::Error) -> bool {
    error.downcast_ref::<tonic::Status>().is_some_and(|status| {
        matches!(status.code(), Code::Unavailable | Code::Cancelled | Code::Unknown | Code::DeadlineExceeded)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_returns_the_first_answer() {
        let mut asked = 0;
        let answer = wait_until("three", Duration::from_secs(10), async || {
            asked += 1;
            Ok(if asked == 3 { Answer::Ready(asked) } else { Answer::NotYet(asked.to_string()) })
        })
        .await;
        assert_eq!(answer.unwrap(), 3);
    }

    #[tokio::test]
    async fn it_says_what_it_saw_when_time_is_up() {
        let error =
            wait_until("the moon", Duration::ZERO, async || Ok(Answer::<()>::NotYet("clouds".to_owned())))
                .await
                .unwrap_err();
        assert_eq!(error.to_string(), "the moon: not within 0 s; last seen: clouds");
    }
}
