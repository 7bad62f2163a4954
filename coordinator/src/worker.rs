//! A process that scores and trains for a coordinator, one job at a time. Asks for work, does it, says how it goes and what
//! came of it; decides nothing about the fleet.

mod attempt;
mod client;
pub(crate) mod files;
mod job;
pub(crate) mod local;
pub(crate) mod task;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::Channel;

use crate::causes::chain;
use crate::config::TrainerConfig;
use crate::derive::{Pool, PoolError};
use crate::trainer::{Trainer, TrainerError};
use client::Client;
pub use client::WorkerError;
pub use local::{connect, step_back};

/// What a worker works with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerSettings {
    /// Downloaded datasets and models, and the folders of the host's training program.
    pub state_dir: PathBuf,
    /// Threads that compute.
    pub threads: usize,
    /// The host's program that trains, if there is one.
    pub trainer: Option<TrainerConfig>,
    /// Whether the coordinator's files are this host's as well.
    pub shares_files: bool,
}

/// Why a worker cannot begin, or ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No folder for the training program.
    #[error(transparent)]
    Trainer(#[from] TrainerError),
    /// No threads.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// No folder for what is downloaded.
    #[error(transparent)]
    Blobs(#[from] crate::blob::BlobError),
    /// Its connection ends for a certificate, its own or the coordinator's.
    #[error("the coordinator and this worker do not take each other's certificates")]
    LockedOut(Box<Status>),
    /// The coordinator refuses this worker.
    #[error(transparent)]
    Refused(WorkerError),
}

/// Before a coordinator that is not there is asked again.
const PAUSE: Duration = Duration::from_secs(2);

/// For a coordinator to hear that this worker ends.
const FAREWELL: Duration = Duration::from_secs(2);

/// Of so many questions to a coordinator that is not there, one is logged: it may be none that ever will be.
const SAID_EVERY: u32 = 150;

/// Works until `stop`; what is under way then is given back, to go on from its last checkpoint.
///
/// # Errors
/// When it cannot begin, or the coordinator will not have it.
pub async fn run(
    channel: Channel,
    settings: WorkerSettings,
    stop: CancellationToken,
) -> Result<(), RunError> {
    let pool = Pool::start(settings.threads)?;
    let folder = settings.state_dir.join("training");
    // The coordinator says of each training whether anybody goes on with it.
    let is_training = |name: &str| name.parse::<proto::Digest>().is_ok();
    let trainer = Trainer::open(settings.trainer.clone(), folder, is_training)?;
    let files = files::Files::open(&settings)?;
    let mut client = Client::new(channel, trainer.is_configured());
    let mut gone = 0u32;
    // One that cannot be removed is not asked about again.
    let mut asked_about = BTreeSet::new();
    while !stop.is_cancelled() {
        let kept = trainer.kept().into_iter().filter(|name| !asked_about.contains(name)).collect();
        let asked = stop.run_until_cancelled(client.lease(kept));
        let leased = match asked.await {
            None => break,
            Some(leased) => leased.map_err(WorkerError::locked_out),
        };
        let leased = match leased {
            Ok(leased) => leased,
            Err(Ok(status)) => return Err(RunError::LockedOut(status)),
            Err(Err(error)) if error.is_passing() => {
                gone += 1;
                if gone % SAID_EVERY == 1 {
                    tracing::warn!(error = chain(&error), "the coordinator is not there; asking until it is");
                }
                let _ = tokio::time::timeout(PAUSE, stop.cancelled()).await;
                continue;
            }
            Err(Err(error)) => return Err(RunError::Refused(error)),
        };
        gone = 0;
        for key in leased.unwanted {
            trainer.forget(key);
            asked_about.insert(key.to_string());
        }
        let Some((lease, task)) = leased.job else { continue };
        if let task::Task::Train(training) = &*task {
            asked_about.remove(&training.key.to_string());
        }
        job::carry_out(&client, (lease, *task), &pool, (&trainer, &files), &stop).await;
    }
    // Where nobody hears it, nobody is there to miss this worker.
    let _ = tokio::time::timeout(FAREWELL, client.leave()).await;
    Ok(())
}
