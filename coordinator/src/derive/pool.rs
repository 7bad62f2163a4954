//! The one place where heavy computation runs: a fixed number of threads, one job at a time, off the async runtime.

use std::sync::Arc;

use tokio::sync::Semaphore;

/// A cheap handle to the pool.
#[derive(Clone)]
pub struct Pool {
    threads: Arc<rayon::ThreadPool>,
    turn: Arc<Semaphore>,
}

/// Why a job gave no result.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// The operating system gave no threads.
    #[error("cannot start {threads} threads for derivations")]
    Start {
        /// How many were asked for.
        threads: usize,
        /// Why.
        source: rayon::ThreadPoolBuildError,
    },
    /// The job panicked: a defect, reported instead of taking the coordinator down.
    #[error("the computation panicked: {message}")]
    Panicked {
        /// What it said.
        message: String,
    },
}

impl Pool {
    /// A pool of `threads`.
    pub fn start(threads: usize) -> Result<Self, PoolError> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|index| format!("derive-{index}"))
            .build()
            .map_err(|source| PoolError::Start { threads, source })?;
        Ok(Self { threads: Arc::new(pool), turn: Arc::new(Semaphore::new(1)) })
    }

    /// Waits for its turn, then runs `job` on the pool's threads.
    pub async fn run<R: Send + 'static>(
        &self,
        job: impl FnOnce() -> R + Send + 'static,
    ) -> Result<R, PoolError> {
        let turn = self.turn.clone().acquire_owned().await.expect("the semaphore is never closed");
        let threads = self.threads.clone();
        let result = tokio::task::spawn_blocking(move || {
            let _turn = turn; // held until the job is done, even where nobody waits for it any more
            threads.install(job)
        });
        result.await.map_err(|error| PoolError::Panicked { message: panic_message(error) })
    }
}

fn panic_message(error: tokio::task::JoinError) -> String {
    let Ok(payload) = error.try_into_panic() else {
        return "the runtime is shutting down".to_owned();
    };
    let text = payload.downcast_ref::<String>().cloned();
    text.or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_job_that_panics_is_an_error_and_the_next_one_runs() {
        let pool = Pool::start(2).unwrap();
        let panicked = pool.run(|| -> u32 { panic!("bad {}", 7) }).await;
        assert!(matches!(panicked, Err(PoolError::Panicked { message }) if message == "bad 7"));
        assert_eq!(pool.run(rayon::current_num_threads).await.unwrap(), 2);
    }
}
