//! The agent as a whole: opens its state, wires the tasks to one another, runs them, stops them. Owns the wiring and
//! the order of start and stop; the work is done elsewhere.

use std::fs::File;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::causes::describe;
use crate::config::Config;
use crate::identity::connect::Target;
use crate::identity::{Identity, IdentityError};
use crate::metrics::Metrics;
use crate::probe::task::Prober;
use crate::runner::Runner;
use crate::runner::engines::Engines;
use crate::serve::Listeners;
use crate::session::{self, Pulse, Session};
use crate::slot::Slots;
use crate::spool::shared::SharedSpool;
use crate::spool::{self, Spool};
use crate::state::{self, FileError, StateDir};
use crate::trust::{self, Trust};
use crate::update::trial::Trials;
use crate::update::{self, GivenUps, Restored, Testbed, Updater};
use crate::{report, serve, systemd};

/// For everything to end after the signal to stop.
const GRACE: Duration = Duration::from_secs(10);

/// Why the agent does not start, or stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The state directory cannot be used.
    #[error("cannot use the state directory {}", path.display())]
    State {
        /// Which.
        path: PathBuf,
        /// Why.
        source: FileError,
    },
    /// Two agents would overwrite each other's models.
    #[error("another reconvene-agent uses the state directory {}; give each its own state_dir", path.display())]
    InUse {
        /// Which.
        path: PathBuf,
    },
    /// The configuration's address passed its check but not the transport's.
    #[error("coordinator: the address cannot be used")]
    Address(#[source] tonic::transport::Error),
    /// The inference API failed.
    #[error("the inference API stopped")]
    Serve(#[source] std::io::Error),
}

/// An agent that has its state open and does not run yet.
pub struct App {
    config: Config,
    state: StateDir,
    slots: Slots,
    spool: Spool,
    trust: Trust,
    program: Option<PathBuf>,
    last_resort_after: Duration,
    /// None where the disk does not even take a lock.
    locks: Vec<File>,
}

impl App {
    /// Opens the state directory, which must be this agent's alone.
    pub fn open(config: Config) -> Result<Self, AppError> {
        let path = config.state_dir.clone();
        let refuse = |source| AppError::State { path: path.clone(), source };
        let state = StateDir::open(&path).map_err(refuse)?;
        let Some(locks) = state::lock::take(&path) else { return Err(AppError::InUse { path }) };
        let refused = state.prepare().err().map(|error| describe(&error));
        if let Some(error) = refused.or_else(|| state.refuses()) {
            tracing::error!(
                error,
                "the state directory takes no writes: what is installed serves, updates will fail"
            );
        }
        let trust = Trust::open(&config.coordinator_keys, &state).unwrap_or_else(|error| {
            tracing::error!(error = describe(&error), "{}", trust::remedy(&error, &state));
            Trust::nobody()
        });
        let slots = Slots::read(&state);
        let spool = Spool::open(&state.spool(), spool::LIMIT).unwrap_or_else(|error| {
            tracing::error!(error = describe(&error), "telemetry waits in memory until the disk takes it");
            Spool::in_memory(&state.spool(), spool::LIMIT)
        });
        let (program, last_resort_after) = (None, update::LAST_RESORT);
        Ok(Self { config, state, slots, spool, trust, program, last_resort_after, locks })
    }

    /// Has a new model run first in a process of its own, which is this program, the agent's.
    pub fn with_program(self, program: PathBuf) -> Self {
        Self { program: Some(program), ..self }
    }

    /// What is installed and was given up is tried again where nothing has served for so long.
    pub fn with_last_resort_after(self, last_resort_after: Duration) -> Self {
        Self { last_resort_after, ..self }
    }

    /// Serves on `listeners` and follows the coordinator until `shutdown`; then ends what has begun, within a grace
    /// period.
    pub async fn run(self, listeners: Listeners, shutdown: impl Future<Output = ()>) -> Result<(), AppError> {
        let Self { config, state, mut slots, spool, trust, program, last_resort_after, locks } = self;
        let (tasks, inference) = (TaskTracker::new(), TaskTracker::new());
        let stop = CancellationToken::new();
        let runner = Runner::start(&inference);
        let engines = Arc::new(config.engine.engines().with_library_tried(&Trials::of_libraries(&state)));
        let testbed =
            Testbed { engines: engines.clone(), runner: runner.clone(), tracker: inference.clone(), program };
        let spool = SharedSpool::new(spool, inference.clone());
        let Restored { model, passed_over, given_up } = update::restore(&state, &mut slots, &testbed).await;
        runner.pass_over(passed_over);
        if let Some(model) = model {
            runner.swap(model);
            if let Err(error) = slots.settle() {
                tracing::warn!(error = describe(&error), "the next start goes by the newest slot again");
            }
        }
        let address = listeners.tcp.local_addr().map_err(AppError::Serve)?.to_string();
        if let Err(error) = state::replace(&state.serving_address(), address.as_bytes()) {
            tracing::warn!(error = describe(&error), "commands on this device will not find the agent");
        }
        let parts = Parts {
            config: &config,
            engines: &engines,
            program: testbed.program,
            last_resort_after,
            state: &state,
            runner: &runner,
            spool: &spool,
            tasks: &tasks,
        };
        let pulse = Pulse::new();
        parts.spawn(Kept { slots, trust, given_up }, address.clone(), pulse.clone(), &stop)?;
        let metrics = Metrics {
            device: config.device_id.clone(),
            runner: runner.clone(),
            spool: spool.clone(),
            pulse,
            state: state.clone(),
            tracker: inference.clone(),
        };
        let mut server = tasks.spawn(serve::run(listeners, metrics, stop.clone()));
        let status = systemd::status(&runner);
        tracing::info!(device = %config.device_id, address, status, "ready");
        systemd::ready(&status);
        let ended = tokio::select! {
            () = shutdown => None,
            ended = &mut server => Some(ended),
        };
        systemd::stopping();
        tracing::info!("stopping");
        let stopping = Instant::now();
        stop.cancel();
        let stopped = tokio::time::timeout(GRACE, async {
            tasks.close();
            tasks.wait().await;
            runner.stop().await;
            inference.close();
            inference.wait().await;
        });
        if stopped.await.is_err() {
            tracing::warn!("not everything ended within {} s", GRACE.as_secs());
        }
        // Whatever was served until now, whether or not all has ended.
        report::close(&runner, &spool, stopping.elapsed()).await;
        if let Err(error) = spool.append(Vec::new()).await {
            tracing::error!(error = describe(&error), "latencies that the disk refused to the end are lost");
        }
        if let Err(error) = state::remove(&state.serving_address()) {
            tracing::warn!(
                error = describe(&error),
                "the address of an agent that has stopped is left behind"
            );
        }
        drop(locks);
        match ended {
            None | Some(Ok(Ok(()))) => Ok(()),
            Some(Ok(Err(error))) => Err(AppError::Serve(error)),
            Some(Err(panic)) => Err(AppError::Serve(std::io::Error::other(panic))),
        }
    }
}

/// What a start has found on the disk.
struct Kept {
    slots: Slots,
    trust: Trust,
    given_up: GivenUps,
}

/// What the tasks share.
struct Parts<'a> {
    config: &'a Config,
    engines: &'a Arc<Engines>,
    program: Option<PathBuf>,
    last_resort_after: Duration,
    state: &'a StateDir,
    runner: &'a Runner,
    spool: &'a SharedSpool,
    tasks: &'a TaskTracker,
}

impl Parts<'_> {
    /// Who this device is; `None` towards a coordinator that does not encrypt.
    fn identity(&self) -> Result<Option<Result<Identity, IdentityError>>, tonic::transport::Error> {
        let Config { coordinator, join_file, device_id, .. } = self.config;
        if !coordinator.starts_with("https://") {
            if join_file.is_some() {
                tracing::warn!(
                    coordinator,
                    "the join file is not used, for the address is http://; set coordinator to https:// where that one encrypts"
                );
            }
            return Ok(None);
        }
        let target = Target::parse(coordinator)?;
        Ok(Some(Identity::open(device_id.clone(), target, join_file.clone(), self.state.clone())))
    }

    /// Starts every task but the server.
    fn spawn(
        &self,
        Kept { slots, trust, given_up }: Kept,
        serving_address: String,
        pulse: Pulse,
        stop: &CancellationToken,
    ) -> Result<(), AppError> {
        let identity = self.identity().map_err(AppError::Address)?;
        let channel =
            session::channel(&self.config.coordinator, identity.as_ref()).map_err(AppError::Address)?;
        let (assignments, assigned) = watch::channel(None);
        let (probes, wanted) = watch::channel(None);
        let (progress_tx, progress) = watch::channel(None);
        let (profile_tx, profile) = watch::channel(None);
        let (telemetry_interval, interval) = watch::channel(report::DEFAULT_INTERVAL);
        let testbed = Testbed {
            engines: self.engines.clone(),
            runner: self.runner.clone(),
            tracker: self.tasks.clone(),
            program: self.program.clone(),
        };
        let updater =
            Updater::new(self.state.clone(), slots, testbed, channel.clone(), progress_tx, given_up)
                .with_last_resort_after(self.last_resort_after);
        let prober = Prober {
            state: self.state.clone(),
            runner: self.runner.clone(),
            engines: self.engines.clone(),
            tracker: self.tasks.clone(),
            program: self.program.clone(),
            channel: channel.clone(),
            profile: profile_tx,
        };
        let (identity, nobody) = match identity {
            None => (None, None),
            Some(Ok(identity)) => (Some(identity), None),
            Some(Err(error)) => (None, Some(error)),
        };
        let session = Session {
            config: self.config.clone(),
            serving_address,
            trust,
            identity,
            channel,
            runner: self.runner.clone(),
            spool: self.spool.clone(),
            progress,
            profile,
            assignments,
            probes,
            telemetry_interval,
            pulse: pulse.clone(),
        };
        self.tasks.spawn(updater.run(assigned, stop.clone()));
        self.tasks.spawn(prober.run(wanted, stop.clone()));
        match nobody {
            None => self.tasks.spawn(session.run(stop.clone())),
            Some(error) => self.tasks.spawn(session.stay_alone(error, stop.clone())),
        };
        self.tasks.spawn(report::run(self.runner.clone(), self.spool.clone(), interval, stop.clone()));
        self.tasks.spawn(systemd::run(self.runner.clone(), pulse, stop.clone()));
        Ok(())
    }
}
