//! What serves after a start, and once a model has failed its probation: the best installed model that passes its test and
//! was not given up. A disk that takes no writes is no reason not to serve.

use super::engine::{self, Testbed};
use super::given_up::GivenUp;
use super::probation::{Found, Term, Verdict};
use super::trial::{self, Trials};
use super::{UpdateError, Updater, held, lost, unless};
use crate::causes::describe;
use crate::runner::ServedModel;
use crate::runner::choose::Comparison;
use crate::runner::engine::Engine;
use crate::runner::statistics::Answers;
use crate::slot::{Installed, Slot, Slots};
use crate::state::StateDir;

/// The first model, best first, that still passes its test; the pointer follows it. One that keeps killing the agent, while
/// it is checked or while it serves, is passed over: it would else do so at every start.
pub async fn restore(state: &StateDir, slots: &mut Slots, testbed: &Testbed) -> Option<ServedModel> {
    for slot in slots.candidates() {
        let Some(installed) = slots.installed(slot).cloned() else { continue };
        match restore_from(slot, &installed, state, slots, testbed).await {
            Ok(engine) => {
                if slots.active_slot() != Some(slot) {
                    tracing::warn!(digest = %installed.digest(), "the active slot cannot serve; the other one does");
                    unless(slots.activate(slot), "a restart will find the other slot again");
                    slots.serves_from(slot);
                }
                return Some(ServedModel::new(installed, engine));
            }
            Err(error) => {
                tracing::error!(digest = %installed.digest(), error = describe(&error), "an installed model is passed over");
            }
        }
    }
    None
}

/// A model that may serve after a start.
async fn restore_from(
    slot: Slot,
    installed: &Installed,
    state: &StateDir,
    slots: &Slots,
    testbed: &Testbed,
) -> Result<Engine, UpdateError> {
    // What a disk cannot read any more is no reason not to serve.
    let given_up = unless(GivenUp::load(state), "a model that was given up may serve again").flatten();
    if let Some(given_up) = given_up.filter(|given_up| given_up.desired() == held(installed)) {
        return Err(UpdateError::GivenUp(given_up.reason));
    }
    let found =
        unless(Term::find(state, held(installed)), "the model is not on probation").unwrap_or(Found::None);
    let has_other = slots.installed(slot.other()).is_some();
    if let Found::Deadly(term) = &found
        && has_other
    {
        let error = UpdateError::DeadlyInService;
        let given_up = GivenUp::new(held(installed), describe(&error));
        if unless(given_up.save(state), "a restart will count the deaths again").is_some() {
            unless(term.end(), "it is given up all the same");
        }
        return Err(error);
    }
    let engine = load(slot, installed, state, slots, testbed).await?;
    if let Found::Term(term) | Found::Deadly(term) = &found {
        unless(term.resume(), "a death of the agent will not be counted");
    }
    Ok(engine)
}

/// An installed model in the engine that is best for it, once it has passed its test.
async fn load(
    slot: Slot,
    installed: &Installed,
    state: &StateDir,
    slots: &Slots,
    testbed: &Testbed,
) -> Result<Engine, UpdateError> {
    let bytes = slots.model_bytes(slot)?.ok_or_else(|| lost(state.root()))?;
    let (trials, held) = (Trials::of_checks(state), held(installed));
    if trials.unfinished(held).unwrap_or(0) >= trial::LIMIT {
        return Err(UpdateError::Deadly);
    }
    let begun = unless(trials.begin(held), "a check that ends the agent will not be counted");
    let checked = testbed.check(bytes.clone(), &installed.model).await;
    if let Some(begun) = begun {
        unless(begun.end(), "a check that ended will count as one that did not");
    }
    let engine = checked?;
    let trials = Trials::of_comparisons(state);
    let has_died = trials.unfinished(held).unwrap_or(0) >= trial::FOREIGN_LIMIT;
    let Some(known) = engine::known(slots, installed.digest(), &testbed.engines).filter(|_| !has_died) else {
        return Ok(engine);
    };
    let begun = unless(trials.begin(held), "an engine that ends the agent will not be counted");
    let engine = testbed.best_of(&known, engine, bytes, &installed.model).await;
    if let Some(begun) = begun {
        unless(begun.end(), "an engine that loaded will count as one that did not");
    }
    Ok(engine)
}

/// Whether an installed model has yet to show that it can stay.
pub fn is_on_probation(state: &StateDir, installed: &Installed) -> bool {
    matches!(Term::find(state, held(installed)), Ok(Found::Term(_) | Found::Deadly(_)))
}

impl Updater {
    /// Looks at the model that is on probation, and acts on what that makes of it.
    pub(super) async fn look(&mut self) {
        let Some(active) = self.testbed.runner.active() else { return self.watch = None };
        let Some(watch) = self.watch.as_mut().filter(|watch| watch.of == held(&active.installed)) else {
            return self.watch = None;
        };
        match watch.look(active.statistics.answers()) {
            Verdict::GoesOn => return,
            Verdict::Kept => {
                tracing::info!(digest = %active.installed.digest(), "the model stood its probation and is kept");
            }
            Verdict::Failed(answers) => self.fall_back(&active, answers).await,
        }
        self.end_probation();
    }

    /// The model before serves again, if there is one that is no slower; the one that failed is given up.
    async fn fall_back(&mut self, failed: &ServedModel, answers: Answers) {
        let slot = self.slots.inactive_slot();
        let kept = |why: &str| tracing::warn!(?answers, why, "a model that failed its probation serves on");
        let Some(previous) = self.slots.installed(slot).cloned() else {
            return kept("there is no model before it");
        };
        // One that does not answer at all is left for a slower one.
        let answers_late = answers.failed * 2 <= answers.images;
        if answers_late && !self.is_no_slower(slot) {
            return kept("the model before it is slower still");
        }
        let engine = match load(slot, &previous, &self.state, &self.slots, &self.testbed).await {
            Ok(engine) => engine,
            Err(error) => return kept(&format!("the model before it cannot serve: {}", describe(&error))),
        };
        let reason = reason(failed, answers, &previous);
        tracing::error!(reason, "the model before serves again");
        let given_up = GivenUp::new(held(&failed.installed), reason.clone());
        unless(given_up.save(&self.state), "a restart may serve it again");
        unless(self.slots.activate(slot), "a restart may serve it again");
        self.slots.serves_from(slot);
        self.testbed.runner.swap(ServedModel::new(previous, engine));
        self.report(given_up.desired(), proto::session::Phase::Failed { reason });
        self.given_up = Some(given_up);
    }

    /// Whether the model in `slot` was measured no slower than the active one; where either was not measured under the present
    /// conditions, it may be.
    fn is_no_slower(&self, slot: Slot) -> bool {
        let p50 = |slot| {
            let (path, digest) = (self.slots.comparison(slot), self.slots.installed(slot)?.digest());
            let comparison = Comparison::load(&path, digest, &self.testbed.engines).ok().flatten()?;
            comparison.best().map(|best| best.p50_ms)
        };
        let active = self.slots.active_slot().and_then(p50);
        p50(slot).zip(active).is_none_or(|(previous, active)| previous <= active)
    }

    pub(super) fn end_probation(&mut self) {
        self.watch = None;
        if let Some(term) = self.term.take() {
            unless(term.end(), "deaths of the agent will count against it");
        }
    }
}

/// What failed, for an operator.
fn reason(failed: &ServedModel, answers: Answers, previous: &Installed) -> String {
    let Answers { images, late, failed: none } = answers;
    let limit = failed.installed.probation.late_above_ms;
    let late = limit.map(|ms| format!("{late} took longer than {ms:.3} ms, ")).unwrap_or_default();
    format!(
        "it failed its probation: of {images} requests {late}{none} failed; generation {} serves again",
        previous.generation
    )
}
