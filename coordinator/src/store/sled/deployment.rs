//! How a deployment comes to its next generation: by what an operator wants, or by what was complete before.

use proto::{Digest, Generation};

use super::SledStore;
use crate::manifest::DeploymentManifest;
use crate::store::record::Record;
use crate::store::{Applied, DeploymentPhase, DeploymentRecord, Store, StoreError};

impl SledStore {
    /// See [`crate::store::Store::apply_deployment`].
    pub(super) fn put_deployment(
        &self,
        manifest: &DeploymentManifest,
        text: &str,
        over: Option<Generation>,
        now_unix_ms: u64,
    ) -> Result<Applied, StoreError> {
        let name = &manifest.metadata.name;
        let json = serde_json::to_vec(manifest).map_err(|source| StoreError::Encode {
            kind: DeploymentRecord::KIND,
            key: name.clone(),
            source,
        })?;
        let manifest_digest = Digest::of(&json);
        let floor = self.floor()?.max(self.ended_at(name)?);
        let mut before = None;
        let record =
            self.swap(&self.deployments, name.as_bytes(), &mut |stored: Option<DeploymentRecord>| {
                before = stored.as_ref().map(|record| record.generation);
                match stored {
                    Some(record)
                        if record.manifest_digest == manifest_digest
                            && !matches!(record.phase, DeploymentPhase::Failed { .. }) =>
                    {
                        Ok(record)
                    }
                    stored => {
                        check_current(name, stored.as_ref(), over)?;
                        Ok(DeploymentRecord {
                            name: name.clone(),
                            before: stored.as_ref().and_then(DeploymentRecord::last_complete),
                            undone: None,
                            undo_due: false,
                            approved: 0,
                            paused: stored.as_ref().is_some_and(DeploymentRecord::stays_paused),
                            was_complete: false,
                            proven: Default::default(),
                            generation: stored.map_or(floor, |record| record.generation.max(floor)).next(),
                            manifest: manifest.clone(),
                            manifest_digest,
                            text: text.to_owned(),
                            applied_unix_ms: now_unix_ms,
                            phase: DeploymentPhase::Pending,
                            message: "it was applied a moment ago".to_owned(),
                            outcomes: Default::default(),
                        })
                    }
                }
            })?;
        Ok(match before {
            None => Applied::Created(record),
            Some(generation) if generation == record.generation => Applied::Unchanged(record),
            Some(_) => Applied::Configured(record),
        })
    }

    /// See [`crate::store::Store::undo_deployment`].
    pub(super) fn put_back_deployment(
        &self,
        name: &str,
        generation: Generation,
        reason: &str,
        now_unix_ms: u64,
    ) -> Result<DeploymentRecord, StoreError> {
        let (floor, devices) = (self.floor()?, Store::devices(self)?);
        self.swap(&self.deployments, name.as_bytes(), &mut |stored: Option<DeploymentRecord>| {
            let record = at_generation(stored, name, generation)?;
            let Some(mut undone) = record.undone(&devices, reason.to_owned(), now_unix_ms) else {
                return Ok(record);
            };
            undone.generation = undone.generation.max(floor.next());
            Ok(undone)
        })
    }
}

/// Refuses what was made of another generation than the stored one, and of one that is not stored any more.
pub(crate) fn check_current(
    name: &str,
    stored: Option<&DeploymentRecord>,
    over: Option<Generation>,
) -> Result<(), StoreError> {
    let (name, Some(given)) = (name.to_owned(), over) else { return Ok(()) };
    match stored.map(|record| record.generation) {
        None => Err(StoreError::Gone { name, given }),
        Some(stored) if stored != given => Err(StoreError::Stale { name, given, stored }),
        Some(_) => Ok(()),
    }
}

/// The stored deployment, if it is at `generation`.
pub(super) fn at_generation(
    stored: Option<DeploymentRecord>,
    name: &str,
    generation: Generation,
) -> Result<DeploymentRecord, StoreError> {
    match stored {
        None => Err(StoreError::Missing { kind: DeploymentRecord::KIND, key: name.to_owned() }),
        Some(record) if record.generation != generation => Err(StoreError::Superseded {
            name: name.to_owned(),
            expected: generation,
            stored: record.generation,
        }),
        Some(record) => Ok(record),
    }
}
