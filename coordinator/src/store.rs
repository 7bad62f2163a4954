//! Everything that must outlive the process: records, keys, encodings and conditional writes. Makes no decision
//! and speaks no wire format. A call that returns `Ok` from a write has reached the disk.

pub mod artifact;
pub mod assignment;
pub mod audit;
pub mod dataset;
pub mod deleted;
pub mod deployment;
pub mod derivation;
pub mod device;
pub mod growth;
pub mod identity;
pub mod job;
pub mod model;
pub mod restore;
pub mod sled;
pub mod telemetry;

mod error;
mod handle;
mod record;
#[cfg(test)]
pub(crate) mod sample;

use proto::{DeviceId, Digest, Generation, SpoolPosition};

use crate::audit::{AuditEntry, Event};
use crate::manifest::DeploymentManifest;

pub use artifact::{ArtifactRecord, Footprint, LayerRecord, Serving};
pub use assignment::{AssignmentOrder, AssignmentRecord};
pub use audit::AuditQuery;
pub use dataset::DatasetRecord;
pub use deleted::DeletedRecord;
pub use deployment::{
    Applied, Before, DeploymentPhase, DeploymentRecord, Outcome, OutcomeRecord, PredictedLatency, Undone,
};
pub use derivation::{DerivationKey, DerivationRecord, DerivationState};
pub use device::{DeviceRecord, EndedRecord, HoldingRecord};
pub use error::StoreError;
pub use growth::{Growth, Had};
pub use handle::StoreHandle;
pub use identity::{IdentityRecord, OperatorRecord, TokenRecord};
pub use job::{JobRecord, JobState, Work};
pub use model::ModelRecord;
pub use restore::RestoreRecord;
pub use sled::SledStore;
pub(crate) use sled::check_current;
pub use telemetry::{Insertion, TelemetryRecord};

/// Is shown the kind, the key and the bytes of a record.
pub type Visit<'a> = dyn FnMut(&str, &[u8], &[u8]) -> Result<(), StoreError> + 'a;

/// Durable records. Every write is conditional on what it read, and has been fsynced when it returns. The change
/// closures may run more than once when writers meet, so they compute and do nothing else.
pub trait Store: Send + Sync {
    /// Whether a write has failed, so that there will be no other before it is opened anew.
    fn is_lost(&self) -> bool;

    /// Creates or changes a device in one conditional write; `change` sees what is stored, if anything.
    fn register_device(
        &self,
        id: &DeviceId,
        change: &mut dyn FnMut(Option<DeviceRecord>) -> DeviceRecord,
    ) -> Result<DeviceRecord, StoreError>;

    /// Changes a device that exists. An unknown one is [`StoreError::Missing`]: a late heartbeat revives nothing.
    fn update_device(
        &self,
        id: &DeviceId,
        change: &mut dyn FnMut(&mut DeviceRecord),
    ) -> Result<DeviceRecord, StoreError>;

    /// One device.
    fn device(&self, id: &DeviceId) -> Result<Option<DeviceRecord>, StoreError>;

    /// All devices, by id.
    fn devices(&self) -> Result<Vec<DeviceRecord>, StoreError>;

    /// Stores what an operator wants. The same manifest again changes nothing; a different one under a known name, or
    /// any after a failure, gets the next generation, phase `Pending` and no outcomes. One of another generation than `over` is
    /// not replaced.
    fn apply_deployment(
        &self,
        manifest: &DeploymentManifest,
        text: &str,
        over: Option<Generation>,
        now_unix_ms: u64,
    ) -> Result<Applied, StoreError>;

    /// Gives a deployment at `generation` its next one, which is what was complete before; unchanged where nothing was.
    fn undo_deployment(
        &self,
        name: &str,
        generation: Generation,
        reason: &str,
        now_unix_ms: u64,
    ) -> Result<DeploymentRecord, StoreError>;

    /// Changes a deployment while it is at `generation`; [`StoreError::Superseded`] once a newer one was applied.
    /// `change` cannot alter name or generation.
    fn update_deployment(
        &self,
        name: &str,
        generation: Generation,
        change: &mut dyn FnMut(&mut DeploymentRecord),
    ) -> Result<DeploymentRecord, StoreError>;

    /// Removes a deployment, if `may` says so of it as it stands; the next one of its name goes on counting where it ended.
    /// `None` where it may not.
    fn remove_deployment(
        &self,
        name: &str,
        may: &mut dyn FnMut(&DeploymentRecord) -> bool,
        now_unix_ms: u64,
    ) -> Result<Option<DeploymentRecord>, StoreError>;

    /// One deployment.
    fn deployment(&self, name: &str) -> Result<Option<DeploymentRecord>, StoreError>;

    /// All deployments, by name.
    fn deployments(&self) -> Result<Vec<DeploymentRecord>, StoreError>;

    /// Stores a derivation unless one with its key exists; returns what is stored.
    fn insert_derivation(&self, record: DerivationRecord) -> Result<DerivationRecord, StoreError>;

    /// Changes a derivation that exists.
    fn update_derivation(
        &self,
        key: &DerivationKey,
        change: &mut dyn FnMut(&mut DerivationRecord),
    ) -> Result<DerivationRecord, StoreError>;

    /// One derivation.
    fn derivation(&self, key: &DerivationKey) -> Result<Option<DerivationRecord>, StoreError>;

    /// All derivations, by key.
    fn derivations(&self) -> Result<Vec<DerivationRecord>, StoreError>;

    /// Creates or changes a job in one conditional write; `change` sees what is stored, if anything.
    fn register_job(
        &self,
        name: &str,
        change: &mut dyn FnMut(Option<JobRecord>) -> JobRecord,
    ) -> Result<JobRecord, StoreError>;

    /// Changes a job that exists.
    fn update_job(&self, name: &str, change: &mut dyn FnMut(&mut JobRecord))
    -> Result<JobRecord, StoreError>;

    /// One job.
    fn job(&self, name: &str) -> Result<Option<JobRecord>, StoreError>;

    /// All jobs, by name.
    fn jobs(&self) -> Result<Vec<JobRecord>, StoreError>;

    /// Forgets a job.
    fn remove_job(&self, name: &str) -> Result<(), StoreError>;

    /// Stores a network that was brought unless one has its name; returns what is stored.
    fn insert_model(&self, record: &ModelRecord) -> Result<ModelRecord, StoreError>;

    /// One network that was brought.
    fn model(&self, name: &str) -> Result<Option<ModelRecord>, StoreError>;

    /// All networks that were brought, by name.
    fn models(&self) -> Result<Vec<ModelRecord>, StoreError>;

    /// Stores a named dataset unless one has its name; returns what is stored.
    fn insert_dataset(&self, record: &DatasetRecord) -> Result<DatasetRecord, StoreError>;

    /// One named dataset.
    fn dataset(&self, name: &str) -> Result<Option<DatasetRecord>, StoreError>;

    /// All named datasets, by name.
    fn datasets(&self) -> Result<Vec<DatasetRecord>, StoreError>;

    /// Stores or replaces what is known of an artifact.
    fn put_artifact(&self, record: &ArtifactRecord) -> Result<(), StoreError>;

    /// One artifact.
    fn artifact(&self, digest: Digest) -> Result<Option<ArtifactRecord>, StoreError>;

    /// All artifacts, by digest.
    fn artifacts(&self) -> Result<Vec<ArtifactRecord>, StoreError>;

    /// Gives a device its next assignment, in a generation above every one that it was given or says it holds. The
    /// order that is already in force is returned as it stands, so giving it again is harmless.
    fn assign(&self, device: &DeviceId, order: &AssignmentOrder) -> Result<AssignmentRecord, StoreError>;

    /// What a device shall serve.
    fn assignment(&self, device: &DeviceId) -> Result<Option<AssignmentRecord>, StoreError>;

    /// Stores a join token.
    fn insert_token(&self, record: &TokenRecord) -> Result<(), StoreError>;

    /// Changes a join token.
    fn update_token(
        &self,
        id: &str,
        change: &mut dyn FnMut(&mut TokenRecord),
    ) -> Result<TokenRecord, StoreError>;

    /// One join token.
    fn token(&self, id: &str) -> Result<Option<TokenRecord>, StoreError>;

    /// All join tokens, by name.
    fn tokens(&self) -> Result<Vec<TokenRecord>, StoreError>;

    /// Changes what is known of a device's identity, which begins as nothing.
    fn change_identity(
        &self,
        device: &DeviceId,
        change: &mut dyn FnMut(&mut IdentityRecord),
    ) -> Result<IdentityRecord, StoreError>;

    /// What is known of a device's identity.
    fn identity(&self, device: &DeviceId) -> Result<Option<IdentityRecord>, StoreError>;

    /// All identities, by device.
    fn identities(&self) -> Result<Vec<IdentityRecord>, StoreError>;

    /// Stores one interval exactly once by (device, epoch, sequence); again is a success that changes nothing.
    fn insert_telemetry(&self, record: &TelemetryRecord) -> Result<Insertion, StoreError>;

    /// Stores or replaces what is known of an operator.
    fn put_operator(&self, record: &OperatorRecord) -> Result<(), StoreError>;

    /// All operators of whom something is known, by name.
    fn operators(&self) -> Result<Vec<OperatorRecord>, StoreError>;

    /// Adds to the audit log, one after the other; on the disk together.
    fn append_audit(&self, events: &[Event], now_unix_ms: u64) -> Result<(), StoreError>;

    /// Entries of the audit log, oldest first.
    fn audit(&self, query: &AuditQuery) -> Result<Vec<AuditEntry>, StoreError>;

    /// Those of a device's intervals that stand at these places; places where there is none are left out.
    fn telemetry_at(
        &self,
        device: &DeviceId,
        places: &[SpoolPosition],
    ) -> Result<Vec<TelemetryRecord>, StoreError>;

    /// A device's intervals, oldest first.
    fn telemetry(&self, device: &DeviceId) -> Result<Vec<TelemetryRecord>, StoreError>;

    /// Notes that this store was restored: all generations that are given from now on are above the record's floor.
    fn put_restore(&self, record: &RestoreRecord) -> Result<(), StoreError>;

    /// Shows `visit` the kind, the key and the bytes of every record of every kind, sorted by kind and key, as they were at one
    /// moment; returns the schema of the whole. Writes wait until it returns, so `visit` is quick.
    fn snapshot(&self, visit: &mut Visit<'_>) -> Result<u32, StoreError>;
}
