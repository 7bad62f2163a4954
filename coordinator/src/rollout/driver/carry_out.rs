//! Makes true what a round decided: begins work, writes the record, then assigns and tells. Every write is conditional.

use std::collections::BTreeSet;

use proto::DeviceId;

use super::Driver;
use super::advance::Next;
use crate::audit::{COORDINATOR, Event};
use crate::clock::unix_ms;
use crate::rollout::journal;
use crate::store::{
    AssignmentOrder, AssignmentRecord, DeploymentPhase, DeploymentRecord, JobRecord, Outcome, StoreError,
};

/// Devices that are told with one write of the deployment, which holds all its devices.
const AT_ONCE: usize = 64;

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
        let mut to_tell = next.assign;
        while !to_tell.is_empty() {
            let rest = to_tell.split_off(to_tell.len().min(AT_ONCE));
            let told = self.assign(&next.record, std::mem::replace(&mut to_tell, rest)).await?;
            for (assignment, wave) in &told {
                let AssignmentRecord { device, generation, .. } = assignment;
                tracing::info!(%device, %generation, digest = %assignment.digest(), wave = wave + 1, "assigned");
                self.core.fleet.send(device, self.core.assignment(assignment));
            }
            self.core.board.wake();
        }
        Ok(())
    }

    /// Gives devices their assignments, and notes them in the deployment. None once an operator has stopped it.
    async fn assign(
        &self,
        deployment: &DeploymentRecord,
        to_tell: Vec<(DeviceId, u32, AssignmentOrder)>,
    ) -> Result<Vec<(AssignmentRecord, u32)>, StoreError> {
        let (name, generation) = (deployment.name.clone(), deployment.generation);
        let assigned = self.core.store.call(move |store| {
            let mut taken = BTreeSet::new();
            // Placed first: a restart tells those again that may have been told. An operator may have stopped it since this round began.
            let present = store.update_deployment(&name, generation, &mut |record| {
                taken.clear();
                if record.paused || is_failed(record) {
                    return;
                }
                for (device, wave, _) in &to_tell {
                    let outcome = record.outcomes.get_mut(device);
                    let Some(outcome) = outcome.filter(|outcome| outcome.state == Outcome::Fitted) else {
                        continue;
                    };
                    outcome.wave = Some(*wave);
                    taken.insert(device.clone());
                }
            });
            let present = match present {
                Ok(present) => present,
                Err(StoreError::Superseded { .. } | StoreError::Missing { .. }) => return Ok(Vec::new()),
                Err(error) => return Err(error),
            };
            let (mut told, mut events) = (Vec::new(), Vec::new());
            for (device, wave, order) in to_tell.into_iter().filter(|(device, ..)| taken.contains(device)) {
                let had = store.assignment(&device)?;
                let assignment = store.assign(&device, &order)?;
                let noted = present.outcomes.get(&device).and_then(|outcome| outcome.assignment);
                if noted != Some(assignment.generation) {
                    events.push(journal::assigned(had.as_ref(), &assignment, wave));
                }
                told.push((assignment, wave));
            }
            store.append_audit(&events, unix_ms())?;
            store.update_deployment(&name, generation, &mut |record| {
                for (assignment, _) in &told {
                    let Some(outcome) = record.outcomes.get_mut(&assignment.device) else { continue };
                    if outcome.state == Outcome::Fitted {
                        outcome.state = Outcome::Assigned { since_unix_ms: unix_ms() };
                        outcome.assignment = Some(assignment.generation);
                    }
                }
            })?;
            Ok(told)
        });
        assigned.await
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
                    // An operator may have let others pass meanwhile.
                    record.proven.extend(&after.proven);
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
