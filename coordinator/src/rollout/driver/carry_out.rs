//! Makes true what a round decided: begins work, writes the record, then assigns and tells. Every write is conditional.

use super::Driver;
use super::advance::Next;
use crate::audit::{COORDINATOR, Event};
use crate::clock::unix_ms;
use crate::rollout::journal;
use crate::store::{DeploymentPhase, DeploymentRecord, JobRecord, Outcome, StoreError};

fn is_failed(record: &DeploymentRecord) -> bool {
    matches!(record.phase, DeploymentPhase::Failed { .. })
}

impl Driver {
    pub(super) async fn carry_out(
        &self,
        before: &DeploymentRecord,
        next: Next,
        jobs: &[JobRecord],
    ) -> Result<(), StoreError> {
        // A record never names a derivation that is not there.
        for (key, plan) in next.derivations.iter().filter(|(_, plan)| plan.is_some()) {
            self.derivation(&next.record.manifest.spec, *key, plan.as_ref()).await?;
        }
        if let (true, DeploymentPhase::Failed { reason }) = (before.undo_due, &before.phase) {
            return self.undo(before, reason.clone()).await;
        }
        if next.record != *before {
            self.write(before.clone(), next.record.clone()).await?;
        }
        if let Some(key) = next.to_score.clone() {
            self.begin_scoring(&next.record, key, jobs).await?;
        }
        for (key, plan) in &next.derivations {
            self.begin_derivation(&next.record, *key, plan.as_ref(), jobs).await?;
        }
        for (device, wave, order) in next.assign {
            let (name, generation) = (next.record.name.clone(), next.record.generation);
            let assigned = device.clone();
            let assignment = self
                .core
                .store
                .call(move |store| {
                    // An operator may have stopped it since this round began.
                    let present = store.deployment(&name)?.filter(|record| record.generation == generation);
                    let may = |record: &DeploymentRecord| !record.paused && !is_failed(record);
                    if !present.as_ref().is_some_and(may) {
                        return Ok(None);
                    }
                    let had = store.assignment(&device)?;
                    let assignment = store.assign(&device, &order)?;
                    let noted = present.and_then(|record| record.outcomes.get(&device)?.assignment);
                    if noted != Some(assignment.generation) {
                        store
                            .append_audit(&[journal::assigned(had.as_ref(), &assignment, wave)], unix_ms())?;
                    }
                    store.update_deployment(&name, generation, &mut |record| {
                        let Some(outcome) = record.outcomes.get_mut(&device) else { return };
                        if outcome.state == Outcome::Fitted {
                            outcome.state = Outcome::Assigned { since_unix_ms: unix_ms() };
                            outcome.assignment = Some(assignment.generation);
                            outcome.wave = Some(wave);
                        }
                    })?;
                    Ok(Some(assignment))
                })
                .await?;
            let Some(assignment) = assignment else { continue };
            tracing::info!(
                device = %assigned, generation = %assignment.generation, digest = %assignment.digest(), wave, "assigned"
            );
            self.core.fleet.send(&assigned, self.core.assignment(&assignment));
            self.core.board.wake();
        }
        Ok(())
    }

    /// Goes back to what was complete before.
    async fn undo(&self, failed: &DeploymentRecord, reason: String) -> Result<(), StoreError> {
        let (name, generation) = (failed.name.clone(), failed.generation);
        let undone = self
            .core
            .store
            .call(move |store| {
                let undone = store.undo_deployment(&name, generation, &reason, unix_ms())?;
                let event = Event::new(COORDINATOR, "undo", format!("deployment/{name}"));
                let now = format!("generation {}: as before; {reason}", undone.generation);
                store.append_audit(&[event.changed(format!("generation {generation}"), now)], unix_ms())?;
                Ok(undone)
            })
            .await?;
        tracing::warn!(deployment = undone.name, %generation, now = %undone.generation, reason = undone.message, "undone");
        self.core.board.clear(&undone.name);
        self.core.board.wake();
        self.core.poke.poke();
        Ok(())
    }

    /// Writes what the round changed, and only that: a session may have recorded a report meanwhile.
    async fn write(&self, before: DeploymentRecord, after: DeploymentRecord) -> Result<(), StoreError> {
        self.core
            .store
            .call(move |store| {
                let mut events = Vec::new();
                store.update_deployment(&before.name, before.generation, &mut |record| {
                    let was = record.clone();
                    if record.phase == before.phase {
                        record.phase = after.phase.clone();
                        record.message = after.message.clone();
                        record.undo_due = after.undo_due;
                    }
                    record.outcomes.retain(|id, outcome| {
                        after.outcomes.contains_key(id) || before.outcomes.get(id) != Some(&*outcome)
                    });
                    for (id, outcome) in &after.outcomes {
                        if record.outcomes.get(id) == before.outcomes.get(id) {
                            record.outcomes.insert(id.clone(), outcome.clone());
                        }
                    }
                    events = journal::changes(&was, record);
                })?;
                store.append_audit(&events, unix_ms())
            })
            .await?;
        self.core.poke.poke(); // what was written may open the next step
        self.core.board.wake();
        Ok(())
    }
}
