//! What every part of the daemon works with: handles, cheap to clone and shared by all clones. Owns nothing else.

use std::path::Path;
use std::sync::Arc;

use proto::SigningKey;
use proto::session::CoordinatorMessage;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::blob::BlobStore;
use crate::board::Board;
use crate::checkpoints::Checkpoints;
use crate::fleet::Fleet;
use crate::fresh::Fresh;
use crate::identity::admissions::Admissions;
use crate::identity::authorities::Authorities;
use crate::jobs::log::JobLogs;
use crate::jobs::queue::Queue;
use crate::jobs::workers::Workers;
use crate::overrun::Overruns;
use crate::probes::ProbeSet;
use crate::refusals::Refusals;
use crate::rollout::driver::{Poke, Subjects};
use crate::store::{AssignmentRecord, StoreHandle};

/// The handles.
#[derive(Clone)]
pub(crate) struct Core {
    /// Where the coordinator keeps what is its own.
    pub(crate) state_dir: Arc<Path>,
    /// Records.
    pub(crate) store: StoreHandle,
    /// Artifacts' files.
    pub(crate) blobs: BlobStore,
    /// Issue certificates; `None` where connections are not encrypted.
    pub(crate) authorities: Option<Arc<Authorities>>,
    /// Who may call.
    pub(crate) admissions: Admissions,
    /// Who was refused what.
    pub(crate) refusals: Refusals,
    /// Whose telemetry is new.
    pub(crate) fresh: Fresh,
    /// Who is over a latency ceiling.
    pub(crate) overruns: Overruns,
    /// Signs assignments.
    pub(crate) signer: Arc<SigningKey>,
    /// Where trainings stand.
    pub(crate) checkpoints: Checkpoints,
    /// Whether the host has a program that trains.
    pub(crate) has_program: bool,
    /// Who is connected.
    pub(crate) fleet: Fleet,
    /// Long work, for whoever watches.
    pub(crate) board: Board,
    /// Long work, for workers.
    pub(crate) queue: Queue,
    /// Who does it.
    pub(crate) workers: Workers,
    /// What they said of it.
    pub(crate) logs: JobLogs,
    /// The models that devices time.
    pub(crate) probes: Arc<ProbeSet>,
    /// Scored networks.
    pub(crate) subjects: Subjects,
    /// Wakes the driver.
    pub(crate) poke: Poke,
    /// Every task that a stop waits for.
    pub(crate) tasks: TaskTracker,
    /// The stop.
    pub(crate) shutdown: CancellationToken,
}

impl Core {
    /// The message that tells a device what it shall serve.
    pub(crate) fn assignment(&self, record: &AssignmentRecord) -> CoordinatorMessage {
        CoordinatorMessage::Assignment(self.signer.sign(&record.message()))
    }
}
