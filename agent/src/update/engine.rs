//! Which engine runs a model: the comparison on disk, or a new one. Owns what happens when a comparison ends the process: a
//! foreign library that may have done so is not tried on that model again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use proto::{Digest, ModelManifest};
use tokio_util::task::TaskTracker;

use super::rehearsal::{RehearsalError, rehearse};
use super::trial::{FOREIGN_LIMIT, Trials};
use super::unless;
use crate::causes::describe;
use crate::reconcile::Desired;
use crate::runner::Runner;
use crate::runner::check::{CheckError, check};
use crate::runner::choose::{Comparison, compare};
use crate::runner::engine::{Choice, Engine, EngineError, EngineKind};
use crate::runner::engines::Engines;
use crate::slot::{Slot, Slots};

/// A comparison that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(120);

/// Where models are tried before they serve.
#[derive(Clone)]
pub struct Testbed {
    /// What may run a model.
    pub engines: Arc<Engines>,
    /// What serves meanwhile, and takes turns.
    pub runner: Runner,
    /// Of blocking work.
    pub tracker: TaskTracker,
    /// The agent's own program, in which a new model runs first; `None`: it does not.
    pub program: Option<PathBuf>,
}

/// Why engines were not compared.
#[derive(Debug, thiserror::Error)]
pub(super) enum MeasureError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("the agent died {FOREIGN_LIMIT} times while it ran this model in {0}")]
    Deadly(EngineKind),
}

/// The comparison of engines on the model `digest` that either slot holds, if it holds under the present conditions.
pub(super) fn known(slots: &Slots, digest: Digest, engines: &Engines) -> Option<Comparison> {
    Slot::ALL.into_iter().find_map(|slot| {
        let loaded = Comparison::load(&slots.comparison(slot), digest, engines);
        loaded.unwrap_or_else(|error| {
            tracing::warn!(error = describe(&error), "engines will be compared anew");
            None
        })
    })
}

impl Testbed {
    /// Has the model in the file `path` loaded and tested in a process of its own.
    pub(super) async fn rehearse(&self, path: &Path, manifest: &ModelManifest) -> Result<(), RehearsalError> {
        let Some(program) = &self.program else { return Ok(()) };
        rehearse(program, path, Some(manifest), self.engines.usual().threads).await
    }

    /// Loads the model and runs its test in the engine that every model has to pass in.
    pub(super) async fn check(&self, bytes: Vec<u8>, manifest: &ModelManifest) -> Result<Engine, CheckError> {
        self.check_in(self.engines.usual(), bytes, manifest).await
    }

    /// As [`Testbed::check`], in another engine.
    pub(super) async fn check_in(
        &self,
        choice: Choice,
        bytes: Vec<u8>,
        manifest: &ModelManifest,
    ) -> Result<Engine, CheckError> {
        check(&self.tracker, bytes, manifest, &self.engines, choice).await
    }

    /// A model that passed its test in `engine`, in the engine that the comparison found best; where that one fails now, as
    /// it is.
    pub(super) async fn best_of(
        &self,
        comparison: &Comparison,
        engine: Engine,
        bytes: Vec<u8>,
        manifest: &ModelManifest,
    ) -> Engine {
        let choice = match comparison.best() {
            Some(best) if best.choice != engine.choice() => best.choice,
            Some(_) | None => return engine,
        };
        match self.check_in(choice, bytes, manifest).await {
            Ok(best) => best,
            Err(error) => {
                tracing::warn!(%choice, error = describe(&error), "the fastest engine fails now");
                engine
            }
        }
    }

    /// Compares the engines on a model that passed its test.
    pub(super) async fn compare(
        &self,
        trials: &Trials,
        desired: Desired,
        bytes: Vec<u8>,
        manifest: &ModelManifest,
    ) -> Result<Comparison, MeasureError> {
        // A foreign library that nobody counts may end the agent again and again.
        let has_died = trials.unfinished(desired).map_or(true, |deaths| deaths >= FOREIGN_LIMIT);
        let begun = unless(trials.begin(desired), "engines are compared without a foreign library");
        let may_try_any = begun.is_some() && !has_died;
        let (manifest, Self { engines, runner, tracker, .. }) = (manifest.clone(), self.clone());
        let may_try = move |choice: Choice| may_try_any || choice.engine == EngineKind::Rten;
        let work = tracker.spawn_blocking(move || compare(&bytes, &manifest, &engines, &runner, may_try));
        let compared = tokio::time::timeout(LIMIT, work).await;
        if let Some(begun) = begun {
            unless(begun.end(), "a comparison that ended will count as one that did not");
        }
        let late = |_| EngineError::Run(format!("engines were not compared within {} s", LIMIT.as_secs()));
        let panicked = |panic: tokio::task::JoinError| EngineError::Panic {
            step: "comparing engines on",
            message: panic.to_string(),
        };
        Ok(compared.map_err(late)?.map_err(panicked)?)
    }
}
