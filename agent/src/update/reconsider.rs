//! Whether another engine, or another number of threads, is the best for the model that serves by now. Owns the record of the
//! comparison, on disk or in memory, and that what runs is what it found best.

use super::engine::{self, MeasureError};
use super::trial::{FOREIGN_LIMIT, Trials};
use super::{UpdateError, Updater, held, unless};
use crate::causes::describe;
use crate::runner::ServedModel;
use crate::runner::choose::Comparison;
use crate::runner::engine::{Choice, Engine, EngineKind};
use crate::slot::{Installed, Slot};

/// So many comparisons that were replaced are remembered.
const KEPT: usize = 4;

impl Updater {
    /// The comparison of engines on a model: the one on disk, or else a new one.
    pub(super) async fn compare(
        &self,
        installed: &Installed,
        bytes: &[u8],
    ) -> Result<Comparison, MeasureError> {
        if let Some(known) = engine::known(&self.slots, installed.digest(), &self.testbed.engines) {
            return Ok(known);
        }
        let (trials, manifest) = (Trials::of_comparisons(&self.state), &installed.model);
        let compared = self.testbed.compare(&trials, held(installed), bytes.to_vec(), manifest).await?;
        if let Some(best) = compared.best() {
            let (choice, contenders) = (best.choice, &compared.contenders);
            tracing::info!(digest = %installed.digest(), %choice, ?contenders, "engines compared");
        }
        Ok(compared)
    }

    /// Keeps the comparison of the model in `slot`; in memory where the disk does not take it.
    pub(super) fn keep(&mut self, comparison: Comparison, slot: Slot) {
        let before = Comparison::read(&self.slots.comparison(slot)).ok().flatten();
        self.replaced.extend(before.filter(|before| *before != comparison));
        self.replaced.drain(..self.replaced.len().saturating_sub(KEPT));
        let saved = comparison.save(&self.slots.comparison(slot));
        let saved = unless(saved, "engines are compared again after the next start");
        self.unsaved = if saved.is_some() { None } else { Some(comparison) };
    }

    /// Has the active model run as a comparison finds best that holds; where none does, for the device, or what may run on
    /// it, is another one than when the model was installed, engines are compared first.
    pub(super) async fn reconsider(&mut self) -> Result<(), UpdateError> {
        let (Some(active), Some(slot)) = (self.testbed.runner.active(), self.slots.active_slot()) else {
            return Ok(());
        };
        let installed = &active.installed;
        let holds = |known: &Comparison| known.holds(installed.digest(), &self.testbed.engines);
        let on_disk = || engine::known(&self.slots, installed.digest(), &self.testbed.engines);
        let known = self.unsaved.clone().filter(holds).or_else(on_disk);
        let mut is_kept = known.is_some();
        let mut comparison = match known {
            Some(known) => known,
            None => {
                let Some(bytes) = self.slots.model_bytes(slot)? else { return Ok(()) };
                self.compare(installed, &bytes).await?
            }
        };
        let better = |comparison: &Comparison| {
            comparison.best().map(|best| best.choice).filter(|&best| best != active.engine.choice())
        };
        while let Some(choice) = better(&comparison) {
            let Some(bytes) = self.slots.model_bytes(slot)? else { return Ok(()) };
            match self.load_in(choice, bytes, installed).await {
                Ok(engine) => {
                    self.testbed.runner.swap(ServedModel::new(installed.clone(), engine));
                    if let Some(watch) = &mut self.watch {
                        watch.counts_anew();
                    }
                    break;
                }
                Err(UpdateError::File(error)) => {
                    tracing::warn!(%choice, error = describe(&error), "the fastest engine is not loaded now");
                    break;
                }
                Err(error) => {
                    // It would else be tried every minute, for as long as the comparison holds.
                    tracing::warn!(%choice, error = describe(&error), "the fastest engine is left out");
                    comparison.leave_out(choice);
                    is_kept = false;
                }
            }
        }
        if !is_kept {
            self.keep(comparison, slot);
        }
        Ok(())
    }

    /// The model in another engine; a foreign one is counted, should it end the process.
    async fn load_in(
        &self,
        choice: Choice,
        bytes: Vec<u8>,
        installed: &Installed,
    ) -> Result<Engine, UpdateError> {
        let trials = Trials::of_comparisons(&self.state);
        let begun = match choice.engine {
            EngineKind::Rten => None,
            EngineKind::Onnxruntime => {
                if trials.unfinished(held(installed))? >= FOREIGN_LIMIT {
                    return Err(MeasureError::Deadly(choice.engine).into());
                }
                Some(trials.begin(held(installed))?)
            }
        };
        let engine = self.testbed.check_in(choice, bytes, &installed.model).await;
        if let Some(begun) = begun {
            unless(begun.end(), "an engine that loaded will count as one that did not");
        }
        Ok(engine?)
    }
}
