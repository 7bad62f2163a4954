//! One leased job, from its files to its outcome: computed on the pool while this keeps the lease, the log and the checkpoints.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proto::v1;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::attempt::{self, Inputs, Made};
use super::client::{Client, WorkerError};
use super::files::Files;
use super::task::{Outcome, Task};
use crate::causes::chain;
use crate::derive::{DeriveError, Pool};
use crate::jobs::LONGEST_PAUSE;
use crate::trainer::Trainer;

/// How often the coordinator hears of a job.
const TICK: Duration = Duration::from_secs(1);
/// An outcome is worth a coordinator's restart, and a long one.
const LAST_WORD: Duration = Duration::from_secs(600);
/// Between tries to tell the outcome.
const PAUSE: Duration = Duration::from_secs(2);
/// Checkpoints that wait for the wire; the training waits rather than have more of them in memory.
const CHECKPOINTS: usize = 1;

/// What the computation says while it runs.
#[derive(Clone)]
pub(super) struct Voice {
    said: Arc<Mutex<Said>>,
    checkpoints: mpsc::Sender<Vec<u8>>,
    cancel: CancellationToken,
}

#[derive(Default)]
struct Said {
    done: u64,
    total: u64,
    message: String,
    lines: Vec<String>,
}

impl Voice {
    /// How far it is. Breaks when nobody wants the result any more.
    pub(super) fn progress(
        &self,
        done: u64,
        total: u64,
        message: impl FnOnce() -> String,
    ) -> ControlFlow<()> {
        let mut said = self.said.lock().expect("no holder of this lock can panic");
        (said.done, said.total, said.message) = (done, total, message());
        drop(said);
        self.go_on()
    }

    pub(super) fn go_on(&self) -> ControlFlow<()> {
        if self.cancel.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// A line for the job's log.
    pub(super) fn line(&self, line: String) {
        tracing::info!("{line}");
        self.said.lock().expect("no holder of this lock can panic").lines.push(line);
    }

    /// Where it stands, to go on from.
    pub(super) fn checkpoint(&self, bytes: Vec<u8>) {
        // Nobody takes it where the job is being ended.
        let _ = self.checkpoints.blocking_send(bytes);
    }

    fn report(&self, lease: &v1::Lease) -> v1::ReportRequest {
        let mut said = self.said.lock().expect("no holder of this lock can panic");
        v1::ReportRequest {
            lease: Some(lease.clone()),
            done: said.done,
            total: said.total,
            message: said.message.clone(),
            lines: std::mem::take(&mut said.lines),
        }
    }
}

/// Does the job, and tells what came of it.
pub(super) async fn carry_out(
    client: &Client,
    (lease, task): (v1::Lease, Task),
    pool: &Pool,
    (trainer, files): (&Trainer, &Files),
    stop: &CancellationToken,
) {
    tracing::info!(job = lease.job, "begun");
    let (checkpoints, taken) = mpsc::channel(CHECKPOINTS);
    let voice = Voice { said: Arc::default(), checkpoints, cancel: stop.child_token() };
    let cancel = voice.cancel.clone();
    let keeping = keep(client, &lease, voice.clone(), taken);
    let key = match &task {
        Task::Score { .. } => None,
        Task::Train(training) => Some(training.key),
    };
    let working = work(client, &lease, task, pool, (trainer.clone(), files), voice.clone());
    tokio::pin!(working);
    let worked = tokio::select! {
        worked = &mut working => worked,
        () = keeping => {
            cancel.cancel(); // the job is another's now
            working.await
        }
    };
    let (outcome, file) = settle(worked);
    let _ = client.report(voice.report(&lease)).await; // the last lines; its outcome says the rest
    let told = meanwhile(client, &lease, &voice, tell(client, &lease, outcome, &file));
    let told = tokio::time::timeout(LAST_WORD, async {
        tokio::select! {
            told = told => told,
            // Where the coordinator goes as well, the lease is given back by itself.
            () = async { stop.cancelled().await; tokio::time::sleep(PAUSE).await } => None,
        }
    });
    let Ok(told) = told.await else {
        tracing::error!(job = lease.job, "the coordinator could not be told what came of it");
        return;
    };
    if let (Some(key), Some(Outcome::Trained(_) | Outcome::Failed { spent: true, .. })) = (key, &told) {
        trainer.forget(key);
    }
}

/// Tells how the job goes until it is the coordinator's wish that it ends. A coordinator that is gone is no such wish: the
/// lease outlives it.
async fn keep(client: &Client, lease: &v1::Lease, voice: Voice, mut checkpoints: mpsc::Receiver<Vec<u8>>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let told = tokio::select! {
            _ = ticks.tick() => client.report(voice.report(lease)).await,
            Some(bytes) = checkpoints.recv() => {
                // What was said of the epoch first: a log that ends before its checkpoint would be missing it.
                match client.report(voice.report(lease)).await {
                    Ok(false) => {
                        let put = client.put_checkpoint(lease.clone(), bytes);
                        meanwhile(client, lease, &voice, put).await
                    }
                    told => told,
                }
            }
        };
        match told {
            Ok(false) => {}
            Ok(true) => {
                tracing::info!(job = lease.job, "not wanted of this worker any more");
                return;
            }
            Err(error) => {
                tracing::warn!(job = lease.job, error = chain(&error), "the coordinator was not told");
                if error.is_dismissal() {
                    return;
                }
            }
        }
    }
}

/// Goes on telling how the job goes until `sent` is there: a slow wire must not cost the lease.
async fn meanwhile<T>(client: &Client, lease: &v1::Lease, voice: &Voice, sent: impl Future<Output = T>) -> T {
    tokio::pin!(sent);
    loop {
        tokio::select! {
            done = &mut sent => return done,
            () = tokio::time::sleep(5 * TICK) => {
                // What comes of what is being sent says the same.
                let _ = client.report(voice.report(lease)).await;
            }
        }
    }
}

/// Fetches what the task needs, and computes.
async fn work(
    client: &Client,
    lease: &v1::Lease,
    mut task: Task,
    pool: &Pool,
    (trainer, files): (Trainer, &Files),
    voice: Voice,
) -> Result<Made, Failure> {
    let fetched = voice.cancel.run_until_cancelled(files.fetch(client, lease, &mut task, &voice)).await;
    fetched.unwrap_or(Err(Failure::Derive(DeriveError::Cancelled)))?;
    let checkpoint = match &task {
        Task::Score { .. } => Vec::new(),
        Task::Train(_) => client.checkpoint(lease.clone()).await.map_err(Failure::Fetch)?,
    };
    let inputs = Inputs { blobs: files.blobs.clone(), trainer, checkpoint };
    let made = pool.run(move || attempt::attempt(task, inputs, &voice)).await;
    made.map_err(DeriveError::Pool).and_then(|made| made).map_err(Failure::Derive)
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// It cannot be computed.
    #[error(transparent)]
    Derive(DeriveError),
    /// The job's files cannot be had.
    #[error("the job's files cannot be fetched")]
    Fetch(#[source] WorkerError),
    /// They cannot be kept.
    #[error("the job's files cannot be kept in {path}")]
    Disk {
        /// Where.
        path: String,
        /// Why not.
        source: std::io::Error,
    },
}

/// What is said of the result.
fn settle(worked: Result<Made, Failure>) -> (Outcome, Vec<u8>) {
    let none = Vec::new();
    match worked {
        Ok(Made::Scored(findings)) => (Outcome::Scored(findings), none),
        Ok(Made::Trained(record, onnx)) => (Outcome::Trained(record), onnx),
        Err(Failure::Derive(error)) => (attempt::failure(&error), none),
        Err(Failure::Fetch(error)) if error.is_passing() || error.is_dismissal() => {
            let failing = !error.is_absence() && !error.is_dismissal();
            let reason = chain(&Failure::Fetch(error));
            (Outcome::Released { reason, pause: LONGEST_PAUSE, failing }, none)
        }
        // The coordinator answered, and would answer the next one likewise.
        Err(failure @ (Failure::Fetch(_) | Failure::Disk { .. })) => {
            (Outcome::Failed { reason: chain(&failure), spent: false }, none)
        }
    }
}

/// Returns what the coordinator has taken, if anything.
async fn tell(client: &Client, lease: &v1::Lease, mut outcome: Outcome, mut file: &[u8]) -> Option<Outcome> {
    loop {
        match client.finish(lease.clone(), &outcome, file.to_vec()).await {
            Ok(()) => return Some(outcome),
            Err(error) if error.is_passing() => {
                tracing::warn!(
                    job = lease.job,
                    error = chain(&error),
                    "the outcome could not be told; trying again"
                );
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => {
                let error = (chain(&error), error.is_dismissal());
                tracing::warn!(job = lease.job, error = error.0, "the outcome was not taken");
                if error.1 || matches!(outcome, Outcome::Failed { .. }) {
                    return None;
                }
                // Computed again it would be refused again: a file that is too large, say.
                let reason = format!("the coordinator refused what came of it: {}", error.0);
                (outcome, file) = (Outcome::Failed { reason, spent: false }, &[]);
            }
        }
    }
}
