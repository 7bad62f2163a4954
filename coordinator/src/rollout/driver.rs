//! The loop: read, decide by asking the pure modules, write, tell; then sleep until poked. Decides nothing itself.

mod advance;
mod carry_out;
mod judge;
mod regrow;
mod tallies;
mod work;

pub(crate) use work::{show_waiting, take_up};

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proto::DeviceId;

use tokio::sync::Notify;

use crate::causes::chain;
use crate::clock::unix_ms;
use crate::core::Core;
use crate::derive::{Subject, SubjectKey};
use crate::fresh::News;
use crate::store::{
    ArtifactRecord, DeploymentRecord, DerivationRecord, DeviceRecord, JobRecord, Store, StoreError,
};

/// Wakes the driver: something that it decides by has changed.
#[derive(Clone, Default)]
pub struct Poke(Arc<Notify>);

impl Poke {
    /// Wakes the driver, or lets it go round once more if it is awake.
    pub fn poke(&self) {
        self.0.notify_one();
    }
}

/// The loop.
pub(crate) struct Driver {
    pub(crate) core: Core,
    /// Since when devices may connect, milliseconds since 1970.
    pub(crate) started_unix_ms: u64,
    /// How long one takes at most that was connected before.
    pub(crate) return_time: Duration,
}

/// The networks that were scored since the start, for whoever plans. Few and small beside a training.
#[derive(Clone, Default)]
pub struct Subjects(Arc<Mutex<Vec<Scored>>>);

type Scored = (SubjectKey, Arc<Subject>);

impl Subjects {
    /// The scored network, if it was scored since the start.
    pub fn get(&self, key: &SubjectKey) -> Option<Arc<Subject>> {
        let subjects = self.0.lock().expect("no holder of this lock can panic");
        subjects.iter().find(|(known, _)| known == key).map(|(_, subject)| subject.clone())
    }

    /// Keeps a scored network.
    pub fn insert(&self, key: SubjectKey, subject: Arc<Subject>) {
        let mut subjects = self.0.lock().expect("no holder of this lock can panic");
        if !subjects.iter().any(|(known, _)| *known == key) {
            subjects.push((key, subject));
        }
    }
}

/// What the loop remembers beside the store; a restart finds it out anew.
#[derive(Default)]
struct Memory {
    judgements: judge::Judgements,
    tallies: tallies::Tallies,
    regrowth: regrow::Regrowth,
    /// Whether each device was looked at since the start that had broken its budget before.
    has_looked: bool,
}

/// All that one round decides by, read at once.
struct Snapshot {
    devices: Vec<DeviceRecord>,
    deployments: Vec<DeploymentRecord>,
    derivations: Vec<DerivationRecord>,
    artifacts: Vec<ArtifactRecord>,
    jobs: Vec<JobRecord>,
}

/// Which deployment a device belongs to.
pub(crate) type Holders = BTreeMap<DeviceId, String>;

/// A round at least this often, should a poke be lost.
const ROUND: Duration = Duration::from_secs(5);
/// A deadline that has passed and changed nothing does not make the loop spin.
const LEAST_REST: Duration = Duration::from_millis(100);

impl Driver {
    /// Runs until shutdown.
    pub(crate) async fn run(self) {
        let mut memory = Memory::default();
        loop {
            let rest = match self.round(&mut memory).await {
                Ok(wake_unix_ms) => rest(wake_unix_ms, unix_ms()),
                Err(error) => {
                    tracing::error!(error = chain(&error), "a round of the driver failed; it is tried again");
                    ROUND
                }
            };
            tokio::select! {
                () = self.core.shutdown.cancelled() => return,
                () = self.core.poke.0.notified() => {}
                () = tokio::time::sleep(rest) => {}
            }
        }
    }

    /// Moves every deployment on as far as it goes now. Returns when a deadline passes next, milliseconds since 1970.
    async fn round(&self, memory: &mut Memory) -> Result<Option<u64>, StoreError> {
        let news = self.core.fresh.take();
        let done = self.round_with(&news, memory).await;
        if done.is_err() {
            self.core.fresh.put_back(news);
        }
        done
    }

    async fn round_with(&self, news: &News, memory: &mut Memory) -> Result<Option<u64>, StoreError> {
        self.count(news, &mut memory.tallies).await?;
        let fresh = &news.keys().cloned().collect();
        let snapshot = self.core.store.call(Snapshot::read).await?;
        let mut holders = holders(&snapshot.devices, &snapshot.deployments);
        let mut wanted = BTreeSet::new();
        let mut wake_unix_ms = None;
        for deployment in &snapshot.deployments {
            let next = self.advance(deployment, &snapshot, (&holders, fresh), memory).await?;
            if !next.record.is_over() {
                let owned = next.record.outcomes.keys().cloned();
                holders.extend(owned.map(|device| (device, deployment.name.clone())));
            }
            wanted.extend(next.derivations.keys().copied());
            wake_unix_ms = [wake_unix_ms, next.wake_unix_ms].into_iter().flatten().min();
            if let Err(error) = self.carry_out(deployment, next, &snapshot.jobs).await {
                match error {
                    // Applied anew or deleted meanwhile: look again.
                    StoreError::Superseded { .. } | StoreError::Missing { kind: "deployment", .. } => {
                        self.core.poke.poke();
                    }
                    other => return Err(other),
                }
            }
        }
        memory.has_looked = true;
        memory.tallies.keep(&holders);
        self.core.overruns.keep(|device| holders.contains_key(device));
        self.drop_unwanted(&snapshot.jobs, |key| wanted.contains(key)).await?;
        Ok(wake_unix_ms)
    }
}

/// The deployment that each device belongs to already: the first one by name that holds it.
pub(crate) fn holders(devices: &[DeviceRecord], deployments: &[DeploymentRecord]) -> Holders {
    let mut holders = Holders::new();
    for deployment in deployments.iter().filter(|deployment| !deployment.is_over()) {
        for device in devices.iter().filter(|device| deployment.holds(device)) {
            holders.entry(device.id.clone()).or_insert_with(|| deployment.name.clone());
        }
    }
    holders
}

/// How long the loop sleeps: until the next deadline, if that is before the next round.
fn rest(wake_unix_ms: Option<u64>, now_unix_ms: u64) -> Duration {
    let until = wake_unix_ms.map(|wake| Duration::from_millis(wake.saturating_sub(now_unix_ms)));
    until.map_or(ROUND, |until| until.clamp(LEAST_REST, ROUND))
}

impl Snapshot {
    fn read(store: &dyn Store) -> Result<Self, StoreError> {
        Ok(Self {
            devices: store.devices()?,
            deployments: store.deployments()?,
            derivations: store.derivations()?,
            artifacts: store.artifacts()?,
            jobs: store.jobs()?,
        })
    }
}
