//! Keeps the profile current: fetches and times the probes that the coordinator wants, and measures again when the
//! device's means have changed.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use proto::{ArtifactRef, Digest, HardwareProfile, ProbeTiming};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Channel;

use super::profile;
use super::published::Published;
use super::timings::{self, Timings};
use crate::causes::describe;
use crate::fetch::{self, FetchError};
use crate::reconcile::Desired;
use crate::runner::Runner;
use crate::runner::engine::{Choice, EngineError, EngineKind};
use crate::runner::engines::Engines;
use crate::state::{self, FileError, StateDir};
use crate::update::rehearsal::{RehearsalError, rehearse};
use crate::update::trial::{self, Trials};

/// How often the device's means are looked at.
const RECHECK: Duration = Duration::from_secs(60);

/// Why a probe has no time.
#[derive(Debug, thiserror::Error)]
enum ProbeError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Rehearsal(#[from] RehearsalError),
    #[error("the agent died {} times while timing this probe", trial::LIMIT)]
    Deadly,
    #[error("the timing was cut short")]
    Cut(#[from] tokio::task::JoinError),
}

/// The task that measures.
pub struct Prober {
    /// Where times are kept.
    pub state: StateDir,
    /// Whose engine the probes take turns with.
    pub runner: Runner,
    /// What may run a model.
    pub engines: Arc<Engines>,
    /// Of blocking work.
    pub tracker: TaskTracker,
    /// The agent's own program, in which a probe runs first, for nobody signs one; `None`: it does not.
    pub program: Option<PathBuf>,
    /// To the coordinator.
    pub channel: Channel,
    /// The last complete profile.
    pub profile: watch::Sender<Option<HardwareProfile>>,
}

impl Prober {
    /// Measures whenever `wanted` or the device's means change, until `stop`.
    pub async fn run(self, mut wanted: watch::Receiver<Option<Vec<ArtifactRef>>>, stop: CancellationToken) {
        let mut refused = BTreeSet::new();
        loop {
            let probes = wanted.borrow_and_update().clone();
            let measure = async {
                match &probes {
                    Some(probes) => self.measure(probes, &mut refused).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                changed = wanted.changed() => if changed.is_err() { return },
                () = async { measure.await; tokio::time::sleep(RECHECK).await } => {}
            }
        }
    }

    /// Times what is neither timed yet under the present conditions nor `refused`, and publishes the profile if it is a new one.
    async fn measure(&self, probes: &[ArtifactRef], refused: &mut BTreeSet<Digest>) {
        let facts = profile(&self.engines, Some(self.state.root()), Vec::new());
        let mut timings = Timings::load(&self.state, &self.engines).unwrap_or_else(|error| {
            tracing::error!(error = describe(&error), "probes are timed again at each start");
            Timings::none(&self.engines)
        });
        for probe in probes {
            if timings.get(probe.digest).is_some() || refused.contains(&probe.digest) {
                continue;
            }
            let timed = match self.time(probe).await {
                Ok(_) if !timings.hold(&self.engines) => {
                    tracing::info!("the device has changed meanwhile: it is measured again");
                    return;
                }
                Ok(timing) => timings.add(&self.state, timing).map_err(ProbeError::from),
                Err(error) => Err(error),
            };
            if let Err(error) = timed {
                if matches!(&error, ProbeError::Rehearsal(error) if !error.is_retryable()) {
                    refused.insert(probe.digest);
                }
                tracing::warn!(digest = %probe.digest, error = describe(&error), "a probe has no time");
            }
        }
        let times = probes.iter().filter_map(|probe| timings.get(probe.digest).cloned()).collect();
        let profile = HardwareProfile { probes: times, ..facts };
        let profile = match Published::publish(&self.state, profile.clone()) {
            Ok(profile) => profile,
            Err(error) => {
                tracing::warn!(error = describe(&error), "this profile has no revision");
                profile
            }
        };
        self.profile.send_if_modified(|published| {
            let is_new = published.as_ref() != Some(&profile);
            *published = Some(profile);
            is_new
        });
    }

    async fn time(&self, probe: &ArtifactRef) -> Result<ProbeTiming, ProbeError> {
        self.state.prepare()?;
        let path = fetch::fetch(&self.channel, probe, &self.state.probes(), &|_| ()).await?;
        if let Some(program) = &self.program
            && let Err(error) = rehearse(program, &path, None, self.engines.usual().threads).await
        {
            state::remove(&path)?;
            return Err(error.into());
        }
        let bytes = state::read(&path, probe.size)?.unwrap_or_default();
        let (runner, engines) = (self.runner.clone(), self.engines.clone());
        let (trials, desired) = (Trials::of_probes(&self.state), Desired::probe(probe.digest));
        let deaths = trials.unfinished(desired)?;
        if deaths >= trial::LIMIT {
            return Err(ProbeError::Deadly);
        }
        let has_died = deaths >= trial::FOREIGN_LIMIT;
        let begun = trials.begin(desired)?;
        let may_try = move |choice: Choice| !has_died || choice.engine == EngineKind::Rten;
        let timed =
            self.tracker.spawn_blocking(move || timings::time(bytes, &engines, &runner, may_try)).await;
        begun.end()?;
        let timing = timed??;
        tracing::info!(digest = %timing.digest, runs = timing.runs, p50_ms = timing.p50_ms, p95_ms = timing.p95_ms, "probe timed");
        state::remove(&path)?;
        Ok(timing)
    }
}
