//! What serves after a start, and once a model has failed its probation: the best installed model that passes its test and
//! was not given up. A disk that takes no writes is no reason not to serve.

use super::engine::{self, Testbed};
use super::given_up::{self, GivenUp, GivenUps};
use super::probation::{Found, Stage, Term, Verdict};
use super::trial::{self, Trials};
use super::{UpdateError, Updater, held, lost, unless};
use crate::causes::describe;
use crate::runner::ServedModel;
use crate::runner::choose::Comparison;
use crate::runner::engine::Engine;
use crate::runner::statistics::Answers;
use crate::slot::{Installed, Slot, Slots};
use crate::state::StateDir;

/// What a start has found.
pub struct Restored {
    /// What serves.
    pub model: Option<ServedModel>,
    /// Why others do not.
    pub passed_over: Vec<String>,
    /// Not to serve as long as anything else does.
    pub given_up: GivenUps,
}

/// The first model, best first, that still passes its test; the pointer follows it. One that keeps killing the agent, while
/// it is checked or while it serves, is passed over: it would else do so at every start.
pub async fn restore(state: &StateDir, slots: &mut Slots, testbed: &Testbed) -> Restored {
    // What cannot be read may name any model that lies here: none of them is proven.
    let found = unless(GivenUps::load(state), "whatever serves is put on probation");
    let (given_up, is_known) = match found {
        Some(given_up::Found::Whole(given_up)) => (given_up, true),
        Some(given_up::Found::Damaged) => {
            tracing::error!("given-up.json is damaged: whatever serves is put on probation");
            (GivenUps::default(), false)
        }
        None => (GivenUps::default(), false),
    };
    let mut restored = Restored { model: None, passed_over: slots.damage().to_vec(), given_up };
    for slot in slots.candidates() {
        let Some(installed) = slots.installed(slot).cloned() else { continue };
        match restore_from(slot, &installed, state, slots, testbed, &mut restored.given_up).await {
            Ok(engine) => {
                if slots.active_slot() != Some(slot) {
                    tracing::warn!(digest = %installed.digest(), "the active slot cannot serve; the other one does");
                    unless(slots.activate(slot), "a restart will find the other slot again");
                    slots.serves_from(slot);
                }
                count_deaths(state, &installed, is_known);
                restored.model = Some(ServedModel::new(installed, engine));
                break;
            }
            Err(error) => {
                let error = describe(&error);
                tracing::error!(digest = %installed.digest(), error, "an installed model is passed over");
                restored.passed_over.push(format!("generation {}: {error}", installed.generation));
            }
        }
    }
    if !is_known {
        unless(restored.given_up.save(state), "the next start will find it damaged, too");
    }
    restored
}

/// From here on a death of the agent counts against the model, unless its rules say that it is not judged.
fn count_deaths(state: &StateDir, installed: &Installed, is_proven: bool) {
    if installed.probation.duration().is_zero() {
        return;
    }
    let of = held(installed);
    let counted = Term::find(state, of).and_then(|found| match found {
        Found::Term(term) | Found::Deadly(term) if is_proven || term.stage() == Stage::Probation => {
            term.resume()
        }
        Found::None if is_proven => Term::begin(state, of, Stage::Kept).map(drop),
        Found::None | Found::Term(_) | Found::Deadly(_) => Term::begin(state, of, Stage::Probation).map(drop),
    });
    unless(counted, "a death of the agent will not be counted");
}

/// A model that may serve after a start.
async fn restore_from(
    slot: Slot,
    installed: &Installed,
    state: &StateDir,
    slots: &Slots,
    testbed: &Testbed,
    given_up: &mut GivenUps,
) -> Result<Engine, UpdateError> {
    let of = held(installed);
    if let Some(given_up) = given_up.of(of) {
        return Err(UpdateError::GivenUp(given_up.reason.clone()));
    }
    let found = unless(Term::find(state, of), "no death of the agent is counted").unwrap_or(Found::None);
    if let Found::Deadly(term) = &found {
        let error = match term.stage() {
            Stage::Probation => UpdateError::DeadlyOnProbation,
            Stage::Kept => UpdateError::DeadlyInService,
        };
        given_up.add(GivenUp::new(of, describe(&error)), &slots.all_held());
        if unless(given_up.save(state), "a restart will count the deaths again").is_some() {
            unless(term.end(), "it is given up all the same");
        }
        return Err(error);
    }
    load(slot, installed, state, slots, testbed).await
}

/// An installed model in the engine that is best for it, once it has passed its test.
pub(super) async fn load(
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
    match Term::find(state, held(installed)) {
        Ok(Found::Term(term) | Found::Deadly(term)) => term.stage() == Stage::Probation,
        Ok(Found::None) | Err(_) => false,
    }
}

/// Why an installed model was given up, if it was.
pub fn why_given_up(state: &StateDir, installed: &Installed) -> Option<String> {
    match GivenUps::load(state) {
        Ok(given_up::Found::Whole(given_up)) => given_up.of(held(installed)).map(|it| it.reason.clone()),
        Ok(given_up::Found::Damaged) | Err(_) => None,
    }
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
            Verdict::Failed(answers) => match self.fall_back(&active, answers).await {
                Ok(()) => return,
                Err(why) => tracing::warn!(?answers, why, "a model that failed its probation serves on"),
            },
        }
        self.watch = None;
        if let Some(term) = self.term.take() {
            self.term = unless(term.keep(), "deaths of the agent will count against it").or(Some(term));
        }
    }

    /// The model before serves again, if there is one that is no slower; the one that failed is given up. Else says why not.
    async fn fall_back(&mut self, failed: &ServedModel, answers: Answers) -> Result<(), String> {
        let slot = self.slots.inactive_slot();
        let Some(previous) = self.slots.installed(slot).cloned() else {
            return Err("there is no model before it".to_owned());
        };
        if let Some(given_up) = self.given_up.of(held(&previous)) {
            return Err(format!("the model before it was given up: {}", given_up.reason));
        }
        // One that does not answer at all is left for a slower one.
        let answers_late = answers.failed * 2 <= answers.images;
        if answers_late && !self.is_no_slower(slot) {
            return Err("the model before it is slower still".to_owned());
        }
        let engine = match load(slot, &previous, &self.state, &self.slots, &self.testbed).await {
            Ok(engine) => engine,
            Err(error) => return Err(format!("the model before it cannot serve: {}", describe(&error))),
        };
        let reason = reason(failed, answers, &previous);
        tracing::error!(reason, "the model before serves again");
        self.give_up(held(&failed.installed), reason.clone());
        unless(self.slots.activate(slot), "a restart may serve it again");
        self.slots.serves_from(slot);
        self.watch = None;
        if let Some(term) = self.term.take() {
            unless(term.end(), "deaths of the agent will count against it");
        }
        if !previous.probation.duration().is_zero() {
            let term = Term::begin(&self.state, held(&previous), Stage::Kept);
            self.term = unless(term, "a death of the agent will not be counted");
        }
        self.testbed.runner.swap(ServedModel::new(previous, engine));
        self.report(held(&failed.installed), proto::session::Phase::Failed { reason });
        Ok(())
    }

    /// Whether the model in `slot` was measured no slower than the active one, under the same conditions, whichever these were: a
    /// device that is slower now is so for both. Where they were not, it may be.
    fn is_no_slower(&self, slot: Slot) -> bool {
        let of = |slot| {
            let digest = self.slots.installed(slot)?.digest();
            let on_disk = Comparison::read(&self.slots.comparison(slot)).ok().flatten();
            let known = self.unsaved.clone().into_iter().chain(on_disk);
            // The newest first.
            let known = known.chain(self.replaced.iter().rev().cloned());
            Some(known.filter(move |known| known.is_of(digest)))
        };
        let (previous, active) = (of(slot), self.slots.active_slot().and_then(of));
        let Some((mut previous, active)) = previous.zip(active) else { return true };
        let active: Vec<Comparison> = active.collect();
        previous.find_map(|own| active.iter().find_map(|it| own.is_no_slower_than(it))).unwrap_or(true)
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
