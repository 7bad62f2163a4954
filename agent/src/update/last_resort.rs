//! Where nothing serves although a model is installed: it was given up, and there was none before it. After a while it is tried
//! again, from the beginning: a device that serves nothing is of no use, and what killed the agent may have been something else.

use std::time::Duration;

use proto::session::Phase;
use tokio::time::{Instant, sleep_until};

use super::probation::{Stage, Term, Watch};
use super::restore::load;
use super::trial::Trials;
use super::{UpdateError, Updater, held, unless};
use crate::causes::describe;
use crate::runner::ServedModel;
use crate::slot::{Installed, Slot};

/// For so long nothing serves; a model that kills the agent leaves it that time for its coordinator in between.
pub const LAST_RESORT: Duration = Duration::from_secs(600);

/// When it is due next.
pub(super) struct LastResort {
    after: Duration,
    at: Instant,
}

impl LastResort {
    /// Nothing has served from now on.
    pub(super) fn new(after: Duration) -> Self {
        Self { after, at: Instant::now() + after }
    }
}

impl Updater {
    /// Ends when what is installed should be tried again; never, where something serves, or nothing is installed.
    pub(super) async fn last_resort_is_due(&self) {
        if self.testbed.runner.active().is_some() || self.slots.candidates().is_empty() {
            std::future::pending::<()>().await;
        }
        sleep_until(self.last_resort.at).await;
    }

    /// Has the first installed model serve that passes its tests, whether or not it was given up.
    pub(super) async fn try_last_resort(&mut self) {
        self.last_resort = LastResort::new(self.last_resort.after);
        let (mut slots, mut passed_over) = (self.slots.candidates(), self.slots.damage().to_vec());
        // Whichever was given up last had its chance last.
        slots.sort_by_key(|&slot| self.slots.installed(slot).map(|it| self.given_up.position(held(it))));
        for slot in slots {
            let Some(installed) = self.slots.installed(slot).cloned() else { continue };
            let (generation, digest) = (installed.generation, installed.digest());
            tracing::warn!(%generation, %digest, "nothing serves: an installed model is tried again");
            match self.revive(slot, installed).await {
                Ok(()) => return tracing::warn!(%generation, "it serves again, and is on probation"),
                Err(error) => {
                    let error = describe(&error);
                    tracing::error!(%generation, error, "it cannot serve");
                    passed_over.push(format!("generation {generation}: {error}"));
                }
            }
        }
        self.testbed.runner.pass_over(passed_over);
    }

    async fn revive(&mut self, slot: Slot, installed: Installed) -> Result<(), UpdateError> {
        let (of, rules) = (held(&installed), installed.probation);
        self.testbed.rehearse(&self.slots.model(slot), &installed.model).await?;
        unless(Trials::of_checks(&self.state).forget(of), "checks that did not end before count");
        let engine = load(slot, &installed, &self.state, &self.slots, &self.testbed).await?;
        let is_watched = !rules.duration().is_zero();
        // From here on deaths count anew; until it is no longer among those given up, a restart passes it over.
        let term = is_watched.then(|| Term::begin(&self.state, of, Stage::Probation));
        self.term = term.and_then(|term| unless(term, "a death of the agent will not be counted"));
        unless(self.slots.activate(slot), "a restart may serve the other slot");
        self.slots.serves_from(slot);
        self.given_up.remove(of);
        unless(self.given_up.save(&self.state), "a restart will not serve it at once");
        self.testbed.runner.swap(ServedModel::new(installed, engine));
        self.watch = is_watched.then(|| Watch::new(of, rules));
        self.report(of, Phase::Active);
        Ok(())
    }
}
