//! The end of a deployment: where it stopped counting is on the disk before it is gone.

use super::{SledStore, get};
use crate::store::record::{Record, decode};
use crate::store::{DeletedRecord, DeploymentRecord, StoreError};
use proto::Generation;

impl SledStore {
    /// See [`crate::store::Store::remove_deployment`].
    pub(super) fn end_deployment(
        &self,
        name: &str,
        may: &mut dyn FnMut(&DeploymentRecord) -> bool,
        now_unix_ms: u64,
    ) -> Result<Option<DeploymentRecord>, StoreError> {
        let key = name.as_bytes();
        loop {
            let missing = || StoreError::Missing { kind: DeploymentRecord::KIND, key: name.to_owned() };
            let old = self.deployments.get(key).map_err(StoreError::Engine)?.ok_or_else(missing)?;
            let record: DeploymentRecord = decode(key, &old)?;
            if !may(&record) {
                return Ok(None);
            }
            let (name, generation) = (record.name.clone(), record.generation);
            let deleted = DeletedRecord { name, generation, deleted_unix_ms: now_unix_ms };
            self.swap(&self.deleted, key, &mut |_| Ok(deleted.clone()))?;
            if self.gate.forget_if(&self.deployments, key, old)?.is_ok() {
                self.disk.sync()?;
                return Ok(Some(record));
            }
        }
    }

    /// Where the last deployment of that name stopped counting.
    pub(super) fn ended_at(&self, name: &str) -> Result<Generation, StoreError> {
        let deleted = get::<DeletedRecord>(&self.deleted, name.as_bytes())?;
        Ok(deleted.map_or(Generation(0), |deleted| deleted.generation))
    }
}
