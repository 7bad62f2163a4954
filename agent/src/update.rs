//! Carries an assignment through: fetch, check, install, switch, say so. Owns the slots while the agent runs; what
//! comes next is decided by `reconcile`, and what serves goes on serving until the new model has passed its test.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;

use proto::Digest;
use proto::session::{Assignment, Phase, Progress};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::causes::describe;
use crate::fetch::{self, FetchError};
use crate::reconcile::{self, Action, Desired};
use crate::runner::ServedModel;
use crate::runner::check::CheckError;
use crate::runner::choose::Comparison;
use crate::slot::{Installed, Slot, Slots};
use crate::state::{self, FileError, StateDir};

mod engine;
mod given_up;
mod last_resort;
mod probation;
mod reconsider;
pub mod rehearsal;
mod restore;
pub(crate) mod trial;

pub use engine::Testbed;
pub use given_up::GivenUps;
pub use last_resort::LAST_RESORT;
pub use restore::{Restored, is_on_probation, restore, why_given_up};

use engine::MeasureError;
use given_up::GivenUp;
use last_resort::LastResort;
use probation::{Found, Stage, Term, Watch};
use rehearsal::RehearsalError;
use trial::Trials;

/// How often it is looked at whether the device is still the one that engines were compared on.
const RECHECK: Duration = Duration::from_secs(60);

/// Why an assignment was given up.
#[derive(Debug, thiserror::Error)]
enum UpdateError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    Check(#[from] CheckError),
    #[error(transparent)]
    Rehearsal(#[from] RehearsalError),
    #[error(transparent)]
    Measure(#[from] MeasureError),
    #[error("the agent died {} times while checking this model", trial::LIMIT)]
    Deadly,
    #[error("the agent died {} times while this model was on probation", trial::LIMIT)]
    DeadlyOnProbation,
    #[error("the agent died {} times within an hour while this model served", trial::LIMIT)]
    DeadlyInService,
    #[error("it was given up: {0}")]
    GivenUp(String),
    #[error(transparent)]
    File(#[from] FileError),
}

impl UpdateError {
    fn is_retryable(&self) -> bool {
        match self {
            Self::Fetch(error) => error.is_retryable(),
            Self::Rehearsal(error) => error.is_retryable(),
            Self::Check(_) | Self::Deadly | Self::DeadlyOnProbation => false,
            Self::DeadlyInService | Self::GivenUp(_) => false,
            Self::File(_) | Self::Measure(_) => true,
        }
    }
}

/// Where the bytes of the next model come from.
enum Source {
    Active,
    Other,
    Coordinator,
}

/// How the work on one assignment ended.
enum Ending {
    Done,
    /// A newer assignment came while this one was being fetched.
    Superseded,
    /// It was being fetched for so long that what is installed shall serve meanwhile.
    Outlasted,
}

/// What an updater does beside assignments.
enum Chore {
    /// A look at the model that is on probation.
    Look,
    /// Whether another engine, or number of threads, is the best by now.
    Reconsider,
    /// Nothing has served for long.
    LastResort,
}

/// The task that follows assignments.
pub struct Updater {
    /// Where models lie.
    pub state: StateDir,
    /// What is installed.
    pub slots: Slots,
    /// Where models are tried.
    pub testbed: Testbed,
    /// To the coordinator.
    pub channel: Channel,
    /// How far the last assignment has come.
    pub progress: watch::Sender<Option<Progress>>,
    given_up: GivenUps,
    watch: Option<Watch>,
    term: Option<Term>,
    /// The last comparison of engines, where the disk did not take it: it holds as long as the agent runs.
    unsaved: Option<Comparison>,
    /// Comparisons that were replaced: the model before may have been measured under their conditions.
    replaced: Vec<Comparison>,
    last_resort: LastResort,
    /// When engines are reconsidered.
    recheck: Instant,
}

/// When the model that is on probation is to be looked at; never, where none is.
async fn next_look(watch: Option<&Watch>) {
    match watch {
        Some(watch) => tokio::time::sleep_until(watch.next()).await,
        None => std::future::pending().await,
    }
}

/// Says what follows from a write that failed, where that is no reason to stop.
fn unless<T>(written: Result<T, FileError>, consequence: &str) -> Option<T> {
    let said = |error: &FileError| tracing::warn!(error = describe(error), consequence);
    written.inspect_err(said).ok()
}

impl Updater {
    /// For what `state` and `slots` hold, and `testbed` serves.
    pub fn new(
        state: StateDir,
        slots: Slots,
        testbed: Testbed,
        channel: Channel,
        progress: watch::Sender<Option<Progress>>,
        given_up: GivenUps,
    ) -> Self {
        let (watch, term, unsaved) = (None, None, None);
        let (last_resort, recheck) = (LastResort::new(LAST_RESORT), Instant::now());
        let mut updater = Self {
            state,
            slots,
            testbed,
            channel,
            progress,
            given_up,
            watch,
            term,
            unsaved,
            replaced: Vec::new(),
            last_resort,
            recheck,
        };
        updater.resume_probation();
        updater
    }

    /// What is installed and was given up is tried again where nothing has served for so long.
    pub fn with_last_resort_after(self, after: Duration) -> Self {
        Self { last_resort: LastResort::new(after), ..self }
    }

    /// A model that was on probation when the agent stopped is watched anew.
    fn resume_probation(&mut self) {
        let Some(active) = self.testbed.runner.active() else { return };
        let found = Term::find(&self.state, held(&active.installed));
        if let Some(Found::Term(term) | Found::Deadly(term)) = unless(found, "the model is not on probation")
        {
            let is_watched = term.stage() == Stage::Probation;
            self.watch = is_watched.then(|| Watch::new(held(&active.installed), active.installed.probation));
            self.term = Some(term);
        }
    }

    /// The last assignment may have been given up by this very start: nobody has heard of it yet.
    fn report_given_up(&self) {
        let active = self.testbed.runner.active().map(|model| model.installed.generation);
        if let Some(newest) = self.given_up.newest()
            && active.is_none_or(|active| active < newest.desired().generation)
        {
            self.report(newest.desired(), Phase::Failed { reason: newest.reason.clone() });
        }
    }

    /// Follows `assignments`, the newest first, until `stop`.
    pub async fn run(
        mut self,
        mut assignments: watch::Receiver<Option<Assignment>>,
        stop: CancellationToken,
    ) {
        self.report_given_up();
        stop.run_until_cancelled(self.attend_to(Chore::Reconsider)).await;
        self.go_on(&mut assignments, &stop).await;
        if let Some(term) = &self.term {
            unless(term.pause(), "this stop will count as a death");
        }
    }

    async fn go_on(
        &mut self,
        assignments: &mut watch::Receiver<Option<Assignment>>,
        stop: &CancellationToken,
    ) {
        loop {
            let wanted = assignments.borrow_and_update().clone();
            if let Some(assignment) = wanted {
                match stop.run_until_cancelled(self.follow(&assignment, assignments)).await {
                    Some(Ending::Superseded) => continue,
                    Some(Ending::Outlasted) => {
                        stop.run_until_cancelled(self.attend_to(Chore::LastResort)).await;
                        continue;
                    }
                    Some(Ending::Done) | None => {}
                }
            }
            loop {
                let chore = tokio::select! {
                    () = stop.cancelled() => return,
                    changed = assignments.changed() => match changed {
                        Ok(()) => break,
                        Err(_) => return,
                    },
                    chore = self.next_chore() => chore,
                };
                stop.run_until_cancelled(self.attend_to(chore)).await;
            }
        }
    }

    /// What is due next while an assignment is waited for, or a download.
    async fn next_chore(&self) -> Chore {
        tokio::select! {
            () = next_look(self.watch.as_ref()) => Chore::Look,
            () = tokio::time::sleep_until(self.recheck) => Chore::Reconsider,
            () = self.last_resort_is_due() => Chore::LastResort,
        }
    }

    async fn attend_to(&mut self, chore: Chore) {
        match chore {
            Chore::Look => self.look().await,
            Chore::Reconsider => {
                if let Err(error) = self.reconsider().await {
                    tracing::warn!(error = describe(&error), "engines are not compared");
                }
                self.recheck = Instant::now() + RECHECK;
            }
            Chore::LastResort => self.try_last_resort().await,
        }
    }

    async fn follow(
        &mut self,
        assignment: &Assignment,
        newer: &mut watch::Receiver<Option<Assignment>>,
    ) -> Ending {
        let desired = desired(assignment);
        let installed = reconcile::Installed {
            active: self.testbed.runner.active().map(|model| held(&model.installed)),
            other: self.slots.installed(self.slots.inactive_slot()).map(Installed::digest),
            failed: self.given_up.of(desired).or(self.given_up.newest()).map(GivenUp::desired),
        };
        let action = reconcile::next(desired, installed);
        tracing::info!(generation = %desired.generation, digest = %desired.digest, ?action, "assignment");
        let source = match action {
            Action::Refuse { .. } => return Ending::Done,
            Action::Confirm => {
                self.report(desired, Phase::Active);
                return Ending::Done;
            }
            Action::RepeatFailure => {
                let reason = self.given_up.of(desired).map(|it| it.reason.clone()).unwrap_or_default();
                self.report(desired, Phase::Failed { reason });
                return Ending::Done;
            }
            Action::ReuseActive => Source::Active,
            Action::ReuseOther => Source::Other,
            Action::Fetch => Source::Coordinator,
        };
        match self.update(assignment, source, newer).await {
            Ok(ending) => ending,
            Err(error) => {
                let reason = describe(&error);
                tracing::error!(generation = %desired.generation, reason, "assignment given up");
                if !error.is_retryable() {
                    self.give_up(desired, reason.clone());
                }
                self.report(desired, Phase::Failed { reason });
                Ending::Done
            }
        }
    }

    /// Never to be tried again, nor to serve.
    fn give_up(&mut self, desired: Desired, reason: String) {
        self.given_up.add(GivenUp::new(desired, reason), &self.slots.all_held());
        unless(self.given_up.save(&self.state), "a restart may try it, or serve it, again");
    }

    async fn update(
        &mut self,
        assignment: &Assignment,
        source: Source,
        newer: &mut watch::Receiver<Option<Assignment>>,
    ) -> Result<Ending, UpdateError> {
        self.state.prepare()?;
        if let Source::Coordinator = source {
            // What was superseded would else take the room that the next one needs.
            unless(self.clear_staging(Some(assignment.model.artifact.digest)), "the disk holds it meanwhile");
            let is_newer = |wanted: &Option<Assignment>| {
                wanted.as_ref().is_some_and(|wanted| wanted.generation > assignment.generation)
            };
            let fetched = self.fetch(assignment);
            tokio::pin!(fetched);
            loop {
                // However long it takes, what serves meanwhile is looked after.
                let chore = tokio::select! {
                    fetched = &mut fetched => break fetched?,
                    _ = newer.wait_for(is_newer) => return Ok(Ending::Superseded),
                    chore = self.next_chore() => chore,
                };
                match chore {
                    Chore::LastResort => return Ok(Ending::Outlasted),
                    Chore::Look | Chore::Reconsider => self.attend_to(chore).await,
                }
            }
        }
        self.report(desired(assignment), Phase::Verifying);
        self.switch(assignment, source).await?;
        self.report(desired(assignment), Phase::Active);
        Ok(Ending::Done)
    }

    /// Fetches the model of `assignment`; holds on to nothing of the updater, which has other things to do meanwhile.
    fn fetch(&self, assignment: &Assignment) -> impl Future<Output = Result<(), FetchError>> + Send + use<> {
        let (desired, artifact) = (desired(assignment), assignment.model.artifact.clone());
        let (channel, folder, progress) = (self.channel.clone(), self.state.staging(), self.progress.clone());
        async move {
            report(&progress, desired, Phase::Downloading { done: 0 });
            let on_bytes = |done| report(&progress, desired, Phase::Downloading { done });
            fetch::fetch(&channel, &artifact, &folder, &on_bytes).await?;
            Ok(())
        }
    }

    /// Checks the model and makes it the one that serves, now and after a restart.
    async fn switch(&mut self, assignment: &Assignment, source: Source) -> Result<(), UpdateError> {
        let installed = Installed {
            generation: assignment.generation,
            deployment: assignment.deployment.clone(),
            model: assignment.model.clone(),
            probation: assignment.probation,
        };
        let staged = self.state.staging().join(installed.digest().to_string());
        let trials = Trials::of_checks(&self.state);
        if trials.unfinished(desired(assignment))? >= trial::LIMIT {
            return Err(UpdateError::Deadly);
        }
        // What was here before has run here.
        if let Source::Coordinator = source
            && let Err(error) = self.testbed.rehearse(&staged, &installed.model).await
        {
            state::remove(&staged)?;
            return Err(error.into());
        }
        let bytes = match source {
            Source::Coordinator => state::read(&staged, installed.model.artifact.size)?,
            Source::Other => self.slots.model_bytes(self.slots.inactive_slot())?,
            Source::Active => match self.slots.active_slot() {
                Some(slot) => self.slots.model_bytes(slot)?,
                None => None,
            },
        };
        let bytes = bytes.ok_or_else(|| lost(&staged))?;
        let begun = trials.begin(desired(assignment))?;
        let checked = self.testbed.check(bytes.clone(), &installed.model).await;
        begun.end()?;
        let engine = match checked {
            Ok(engine) => engine,
            Err(error) => {
                state::remove(&staged)?;
                return Err(error.into());
            }
        };
        let comparison = self.compare(&installed, &bytes).await?;
        let engine = self.testbed.best_of(&comparison, engine, bytes, &installed.model).await;
        let slot = match source {
            // The other slot keeps the model before: it is the way back.
            Source::Active => self.slots.rename_active(installed.clone())?,
            Source::Coordinator => self.slots.install(&staged, installed.clone())?,
            Source::Other => self.slots.adopt(installed.clone())?,
        };
        self.keep(comparison, slot);
        let (of, rules) = (held(&installed), installed.probation);
        let is_watched = !rules.duration().is_zero();
        let term = if is_watched { Some(Term::begin(&self.state, of, Stage::Probation)?) } else { None };
        self.slots.activate(slot)?;
        if let Some(before) = self.term.take().filter(|before| before.stage() == Stage::Kept) {
            unless(before.end(), "this start will count as a death of the model before");
        }
        self.term = term;
        self.testbed.runner.swap(ServedModel::new(installed, engine));
        self.watch = is_watched.then(|| Watch::new(of, rules));
        if let Err(error) = self.clear_staging(None) {
            // The model serves and is on the disk: leftovers do not make that a failure.
            tracing::warn!(error = crate::causes::describe(&error), "superseded downloads are left behind");
        }
        Ok(())
    }

    /// Downloads of assignments that were superseded are of no use any more; what there is of `wanted` is.
    fn clear_staging(&self, wanted: Option<Digest>) -> Result<(), FileError> {
        let folder = self.state.staging();
        let wanted = wanted.map(|digest| digest.to_string());
        let mut cleared = Ok(());
        for entry in std::fs::read_dir(&folder).map_err(FileError::of("read", &folder))? {
            let path = entry.map_err(FileError::of("read", &folder))?.path();
            if wanted.is_none() || path.file_stem().and_then(OsStr::to_str) != wanted.as_deref() {
                cleared = cleared.and(state::remove(&path));
            }
        }
        cleared
    }

    fn report(&self, desired: Desired, phase: Phase) {
        report(&self.progress, desired, phase);
    }
}

fn report(progress: &watch::Sender<Option<Progress>>, desired: Desired, phase: Phase) {
    let Desired { generation, digest } = desired;
    progress.send_replace(Some(Progress { generation, digest, phase }));
}

fn desired(assignment: &Assignment) -> Desired {
    Desired { generation: assignment.generation, digest: assignment.model.artifact.digest }
}

fn held(installed: &Installed) -> Desired {
    Desired { generation: installed.generation, digest: installed.digest() }
}

impl Slots {
    /// The assignments of both slots.
    fn all_held(&self) -> Vec<Desired> {
        Slot::ALL.into_iter().filter_map(|slot| self.installed(slot)).map(held).collect()
    }
}

/// The file was there a moment ago.
fn lost(path: &std::path::Path) -> FileError {
    FileError::of("read", path)(std::io::Error::from(std::io::ErrorKind::NotFound))
}

/// What the device holds, as the session tells it.
pub fn holding(active: Option<&Arc<ServedModel>>) -> proto::session::Holding {
    active.map_or_else(proto::session::Holding::default, |model| proto::session::Holding {
        generation: model.installed.generation,
        digest: Some(model.installed.digest()),
    })
}
