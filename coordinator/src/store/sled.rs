//! The store on sled: one tree per kind of record. Every `sled::` of this crate is here.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use proto::{DeviceId, Digest, Generation, SpoolPosition};
use sled::{Db, IVec, Tree};

use deployment::at_generation;
pub(crate) use deployment::check_current;
use disk::Disk;
use gate::Gate;
use health::Health;

use super::record::{Record, decode, encode, text};
use super::{
    Applied, ArtifactRecord, AssignmentOrder, AssignmentRecord, AuditQuery, DatasetRecord, DeletedRecord,
    DeploymentPhase, DeploymentRecord, DerivationKey, DerivationRecord, DeviceRecord, IdentityRecord,
    Insertion, JobRecord, ModelRecord, OperatorRecord, RestoreRecord, Store, StoreError, TelemetryRecord,
    TokenRecord, Visit, audit, telemetry,
};
use crate::audit::{AuditEntry, Event};
use crate::manifest::DeploymentManifest;

/// Raised whenever older code could not use a folder that newer code wrote.
const SCHEMA: u32 = 1;
const SCHEMA_KEY: &str = "schema";
/// Bytes of records that are kept in memory; sled would take a gigabyte.
const CACHE: u64 = 64 << 20;

/// A store in a folder. One process has it at a time.
pub struct SledStore {
    devices: Tree,
    deployments: Tree,
    deleted: Tree,
    derivations: Tree,
    jobs: Tree,
    artifacts: Tree,
    models: Tree,
    datasets: Tree,
    assignments: Tree,
    telemetry: Tree,
    tokens: Tree,
    identities: Tree,
    operators: Tree,
    audit: Tree,
    restores: Tree,
    health: Arc<Health>,
    gate: Gate,
    disk: Disk,
}

impl SledStore {
    /// Opens the store in `folder`, which is made if it is not there.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let failed = |source| StoreError::File { path: folder.to_owned(), source };
        fs::create_dir_all(folder).map_err(failed)?;
        let lock = disk::lock(folder)?;
        let db = sled::Config::new()
            .path(folder)
            .flush_every_ms(None)
            .cache_capacity(CACHE)
            .open()
            .map_err(|error| disk::refused(error, folder))?;
        check_schema(&db, folder)?;
        let path = folder.join("db");
        let log = File::open(&path).map_err(failed)?;
        let tree = |kind: &str| db.open_tree(kind).map_err(StoreError::Engine);
        let health = Arc::new(Health::new(folder));
        let store = Self {
            devices: tree(DeviceRecord::KIND)?,
            deployments: tree(DeploymentRecord::KIND)?,
            deleted: tree(DeletedRecord::KIND)?,
            derivations: tree(DerivationRecord::KIND)?,
            jobs: tree(JobRecord::KIND)?,
            artifacts: tree(ArtifactRecord::KIND)?,
            models: tree(ModelRecord::KIND)?,
            datasets: tree(DatasetRecord::KIND)?,
            assignments: tree(AssignmentRecord::KIND)?,
            telemetry: tree(TelemetryRecord::KIND)?,
            tokens: tree(TokenRecord::KIND)?,
            identities: tree(IdentityRecord::KIND)?,
            operators: tree(OperatorRecord::KIND)?,
            audit: tree(AuditEntry::KIND)?,
            restores: tree(RestoreRecord::KIND)?,
            gate: Gate::new(health.clone()),
            disk: Disk::new(db, log, path, lock, health.clone()),
            health,
        };
        store.disk.sync()?;
        // The names of sled's files must be on the disk as well as their contents.
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
        Ok(store)
    }

    /// Puts records as they were read out of a store into this one. They are on the disk once a later write is.
    ///
    /// # Errors
    /// When one is there already, or the engine fails.
    pub fn load(&self, kind: &str, key: &[u8], bytes: &[u8]) -> Result<(), StoreError> {
        let tree = self.disk.db.open_tree(kind).map_err(StoreError::Engine)?;
        let twice = |_| StoreError::Twice { kind: kind.to_owned(), key: text(key) };
        self.gate.swap(&tree, key, None, bytes)?.map_err(twice)
    }

    /// Keeps every process from opening the store in `folder`, as long as the file is open.
    ///
    /// # Errors
    /// When one has it open.
    pub fn lock(folder: &Path) -> Result<File, StoreError> {
        disk::lock(folder)
    }

    /// What a store of this version says that it is.
    pub fn schema() -> u32 {
        SCHEMA
    }

    /// Every generation that is given is above this one: what a restored store does not know of may have been above its own.
    fn floor(&self) -> Result<Generation, StoreError> {
        let last = self.restores.last().map_err(StoreError::Engine)?;
        let last = last.map(|(key, bytes)| decode::<RestoreRecord>(&key, &bytes)).transpose()?;
        Ok(last.map_or(Generation(0), |record| record.floor))
    }

    /// Replaces what is stored under `key` by what `change` makes of it; again, if another writer was faster. Returns
    /// the record as it will be read: a share, written as `1/x`, may differ from the given one in its last bit.
    fn swap<R: Record>(
        &self,
        tree: &Tree,
        key: &[u8],
        change: &mut dyn FnMut(Option<R>) -> Result<R, StoreError>,
    ) -> Result<R, StoreError> {
        loop {
            let old = tree.get(key).map_err(StoreError::Engine)?;
            let record = change(old.as_deref().map(|bytes| decode(key, bytes)).transpose()?)?;
            let new = encode(&record)?;
            if old.as_deref() == Some(new.as_slice()) {
                // Nothing to write, but what stands there may still be on another writer's way to the disk.
                self.disk.sync()?;
                return decode(key, &new);
            }
            // What cannot be read again is never written: one such record would make every list fail.
            let read = decode(key, &new)?;
            if self.gate.swap(tree, key, old, &new)?.is_ok() {
                self.disk.sync()?;
                return Ok(read);
            }
        }
    }

    /// As `swap`, where nothing stored is an error.
    fn update<R: Record>(
        &self,
        tree: &Tree,
        key: &[u8],
        change: &mut dyn FnMut(&mut R),
    ) -> Result<R, StoreError> {
        self.swap(tree, key, &mut |stored: Option<R>| {
            let mut record = stored.ok_or_else(|| StoreError::Missing { kind: R::KIND, key: text(key) })?;
            change(&mut record);
            Ok(record)
        })
    }
}

fn get<R: Record>(tree: &Tree, key: &[u8]) -> Result<Option<R>, StoreError> {
    tree.get(key).map_err(StoreError::Engine)?.map(|bytes| decode(key, &bytes)).transpose()
}

fn list<R: Record>(tree: &Tree, prefix: &[u8]) -> Result<Vec<R>, StoreError> {
    tree.scan_prefix(prefix)
        .map(|entry| entry.map_err(StoreError::Engine).and_then(|(key, bytes)| decode(&key, &bytes)))
        .collect()
}

impl Store for SledStore {
    fn is_lost(&self) -> bool {
        self.health.is_lost()
    }

    fn register_device(
        &self,
        id: &DeviceId,
        change: &mut dyn FnMut(Option<DeviceRecord>) -> DeviceRecord,
    ) -> Result<DeviceRecord, StoreError> {
        self.swap(&self.devices, id.as_str().as_bytes(), &mut |stored| {
            let mut record = change(stored);
            record.id = id.clone();
            Ok(record)
        })
    }

    fn update_device(
        &self,
        id: &DeviceId,
        change: &mut dyn FnMut(&mut DeviceRecord),
    ) -> Result<DeviceRecord, StoreError> {
        self.update(&self.devices, id.as_str().as_bytes(), &mut |record: &mut DeviceRecord| {
            change(record);
            record.id = id.clone();
        })
    }

    fn device(&self, id: &DeviceId) -> Result<Option<DeviceRecord>, StoreError> {
        get(&self.devices, id.as_str().as_bytes())
    }

    fn devices(&self) -> Result<Vec<DeviceRecord>, StoreError> {
        list(&self.devices, &[])
    }

    fn apply_deployment(
        &self,
        manifest: &DeploymentManifest,
        text: &str,
        over: Option<Generation>,
        now_unix_ms: u64,
    ) -> Result<Applied, StoreError> {
        self.put_deployment(manifest, text, over, now_unix_ms)
    }

    fn undo_deployment(
        &self,
        name: &str,
        generation: Generation,
        reason: &str,
        now_unix_ms: u64,
    ) -> Result<DeploymentRecord, StoreError> {
        self.put_back_deployment(name, generation, reason, now_unix_ms)
    }

    fn update_deployment(
        &self,
        name: &str,
        generation: Generation,
        change: &mut dyn FnMut(&mut DeploymentRecord),
    ) -> Result<DeploymentRecord, StoreError> {
        self.swap(&self.deployments, name.as_bytes(), &mut |stored: Option<DeploymentRecord>| {
            let mut record = at_generation(stored, name, generation)?;
            change(&mut record);
            record.name = name.to_owned();
            record.generation = generation;
            record.was_complete |= record.phase == DeploymentPhase::Complete;
            Ok(record)
        })
    }

    fn remove_deployment(
        &self,
        name: &str,
        may: &mut dyn FnMut(&DeploymentRecord) -> bool,
        now_unix_ms: u64,
    ) -> Result<Option<DeploymentRecord>, StoreError> {
        self.end_deployment(name, may, now_unix_ms)
    }

    fn deployment(&self, name: &str) -> Result<Option<DeploymentRecord>, StoreError> {
        get(&self.deployments, name.as_bytes())
    }

    fn deployments(&self) -> Result<Vec<DeploymentRecord>, StoreError> {
        list(&self.deployments, &[])
    }

    fn insert_derivation(&self, record: DerivationRecord) -> Result<DerivationRecord, StoreError> {
        self.swap(
            &self.derivations,
            &record.key(),
            &mut |stored| Ok(stored.unwrap_or_else(|| record.clone())),
        )
    }

    fn update_derivation(
        &self,
        key: &DerivationKey,
        change: &mut dyn FnMut(&mut DerivationRecord),
    ) -> Result<DerivationRecord, StoreError> {
        self.update(&self.derivations, key.to_string().as_bytes(), &mut |record: &mut DerivationRecord| {
            change(record);
            record.key = *key;
        })
    }

    fn derivation(&self, key: &DerivationKey) -> Result<Option<DerivationRecord>, StoreError> {
        get(&self.derivations, key.to_string().as_bytes())
    }

    fn derivations(&self) -> Result<Vec<DerivationRecord>, StoreError> {
        list(&self.derivations, &[])
    }

    fn register_job(
        &self,
        name: &str,
        change: &mut dyn FnMut(Option<JobRecord>) -> JobRecord,
    ) -> Result<JobRecord, StoreError> {
        self.swap(&self.jobs, name.as_bytes(), &mut |stored| {
            let mut record = change(stored);
            record.name = name.to_owned();
            Ok(record)
        })
    }

    fn update_job(
        &self,
        name: &str,
        change: &mut dyn FnMut(&mut JobRecord),
    ) -> Result<JobRecord, StoreError> {
        self.update(&self.jobs, name.as_bytes(), &mut |record: &mut JobRecord| {
            change(record);
            record.name = name.to_owned();
        })
    }

    fn job(&self, name: &str) -> Result<Option<JobRecord>, StoreError> {
        get(&self.jobs, name.as_bytes())
    }

    fn jobs(&self) -> Result<Vec<JobRecord>, StoreError> {
        list(&self.jobs, &[])
    }

    fn remove_job(&self, name: &str) -> Result<(), StoreError> {
        self.gate.forget(&self.jobs, name.as_bytes())?;
        self.disk.sync()
    }

    fn insert_model(&self, record: &ModelRecord) -> Result<ModelRecord, StoreError> {
        self.swap(&self.models, &record.key(), &mut |stored| Ok(stored.unwrap_or_else(|| record.clone())))
    }

    fn model(&self, name: &str) -> Result<Option<ModelRecord>, StoreError> {
        get(&self.models, name.as_bytes())
    }

    fn models(&self) -> Result<Vec<ModelRecord>, StoreError> {
        list(&self.models, &[])
    }

    fn insert_dataset(&self, record: &DatasetRecord) -> Result<DatasetRecord, StoreError> {
        self.swap(&self.datasets, &record.key(), &mut |stored| Ok(stored.unwrap_or_else(|| record.clone())))
    }

    fn dataset(&self, name: &str) -> Result<Option<DatasetRecord>, StoreError> {
        get(&self.datasets, name.as_bytes())
    }

    fn datasets(&self) -> Result<Vec<DatasetRecord>, StoreError> {
        list(&self.datasets, &[])
    }

    fn put_artifact(&self, record: &ArtifactRecord) -> Result<(), StoreError> {
        self.swap(&self.artifacts, &record.key(), &mut |_| Ok(record.clone())).map(drop)
    }

    fn artifact(&self, digest: Digest) -> Result<Option<ArtifactRecord>, StoreError> {
        get(&self.artifacts, digest.to_string().as_bytes())
    }

    fn artifacts(&self) -> Result<Vec<ArtifactRecord>, StoreError> {
        list(&self.artifacts, &[])
    }

    fn assign(&self, device: &DeviceId, order: &AssignmentOrder) -> Result<AssignmentRecord, StoreError> {
        let key = device.as_str().as_bytes();
        let floor = self.floor()?;
        self.swap(&self.assignments, key, &mut |stored: Option<AssignmentRecord>| {
            // A device may hold more than is stored here, if somebody put an older copy of the folder back.
            let held = self.device(device)?.map_or(Generation(0), |record| record.holding.generation);
            match stored {
                Some(record)
                    if record.fulfils(order) && record.generation >= held && record.generation > floor =>
                {
                    Ok(record)
                }
                stored => {
                    let given = stored.map_or(floor, |record| record.generation.max(floor));
                    let generation = given.max(held).next();
                    Ok(AssignmentRecord { device: device.clone(), generation, order: order.clone() })
                }
            }
        })
    }

    fn assignment(&self, device: &DeviceId) -> Result<Option<AssignmentRecord>, StoreError> {
        get(&self.assignments, device.as_str().as_bytes())
    }

    fn insert_token(&self, record: &TokenRecord) -> Result<(), StoreError> {
        self.swap(&self.tokens, &record.key(), &mut |_| Ok(record.clone())).map(drop)
    }

    fn update_token(
        &self,
        id: &str,
        change: &mut dyn FnMut(&mut TokenRecord),
    ) -> Result<TokenRecord, StoreError> {
        self.update(&self.tokens, id.as_bytes(), &mut |record: &mut TokenRecord| {
            change(record);
            record.id = id.to_owned();
        })
    }

    fn token(&self, id: &str) -> Result<Option<TokenRecord>, StoreError> {
        get(&self.tokens, id.as_bytes())
    }

    fn tokens(&self) -> Result<Vec<TokenRecord>, StoreError> {
        list(&self.tokens, &[])
    }

    fn change_identity(
        &self,
        device: &DeviceId,
        change: &mut dyn FnMut(&mut IdentityRecord),
    ) -> Result<IdentityRecord, StoreError> {
        self.swap(&self.identities, device.as_str().as_bytes(), &mut |stored: Option<IdentityRecord>| {
            let mut record = stored.unwrap_or_else(|| IdentityRecord::unknown(device));
            change(&mut record);
            record.device = device.clone();
            Ok(record)
        })
    }

    fn identity(&self, device: &DeviceId) -> Result<Option<IdentityRecord>, StoreError> {
        get(&self.identities, device.as_str().as_bytes())
    }

    fn identities(&self) -> Result<Vec<IdentityRecord>, StoreError> {
        list(&self.identities, &[])
    }

    fn insert_telemetry(&self, record: &TelemetryRecord) -> Result<Insertion, StoreError> {
        let key = record.key();
        let bytes = encode(record)?;
        let inserted = self.gate.swap(&self.telemetry, &key, None, &bytes)?;
        // Also where it was there: its writer may not have reached the disk yet, and this caller acknowledges it.
        self.disk.sync()?;
        Ok(match inserted {
            Ok(()) => Insertion::Stored,
            Err(_) => Insertion::AlreadyStored,
        })
    }

    fn put_operator(&self, record: &OperatorRecord) -> Result<(), StoreError> {
        self.swap(&self.operators, &record.key(), &mut |_| Ok(record.clone())).map(drop)
    }

    fn operators(&self) -> Result<Vec<OperatorRecord>, StoreError> {
        list(&self.operators, &[])
    }

    fn append_audit(&self, events: &[Event], now_unix_ms: u64) -> Result<(), StoreError> {
        for event in events {
            loop {
                let last = self.audit.last().map_err(StoreError::Engine)?;
                let last: Option<AuditEntry> = last.map(|(key, bytes)| decode(&key, &bytes)).transpose()?;
                let entry = AuditEntry::following(last.as_ref(), event, now_unix_ms);
                if self.gate.swap(&self.audit, &entry.key(), None, &encode(&entry)?)?.is_ok() {
                    break;
                }
            }
        }
        if events.is_empty() { Ok(()) } else { self.disk.sync() }
    }

    fn audit(&self, query: &AuditQuery) -> Result<Vec<AuditEntry>, StoreError> {
        let entries = self.audit.range(audit::key(query.after.saturating_add(1))..);
        let entry = |stored: sled::Result<(IVec, IVec)>| {
            let (key, bytes) = stored.map_err(StoreError::Engine)?;
            decode::<AuditEntry>(&key, &bytes)
        };
        let selected = |entry: &Result<AuditEntry, StoreError>| match entry {
            Ok(entry) => query.selects(entry),
            Err(_) => true,
        };
        match query.last {
            None => entries.map(entry).filter(selected).take(query.most).collect(),
            Some(last) => {
                let newest = entries.rev().map(entry).filter(selected).take(last.min(query.most));
                let mut found = newest.collect::<Result<Vec<_>, _>>()?;
                found.reverse();
                Ok(found)
            }
        }
    }

    fn telemetry_at(
        &self,
        device: &DeviceId,
        places: &[SpoolPosition],
    ) -> Result<Vec<TelemetryRecord>, StoreError> {
        let at = |place: &SpoolPosition| get(&self.telemetry, &telemetry::key(device, *place)).transpose();
        places.iter().filter_map(at).collect()
    }

    fn telemetry(&self, device: &DeviceId) -> Result<Vec<TelemetryRecord>, StoreError> {
        list(&self.telemetry, &telemetry::prefix(device))
    }

    fn put_restore(&self, record: &RestoreRecord) -> Result<(), StoreError> {
        self.swap(&self.restores, &record.key(), &mut |_| Ok(record.clone())).map(drop)
    }

    fn snapshot(&self, visit: &mut Visit<'_>) -> Result<u32, StoreError> {
        self.gate.all(&self.disk.db, visit).map(|()| SCHEMA)
    }
}

/// Writes the schema into a new store, refuses one that says another.
fn check_schema(db: &Db, folder: &Path) -> Result<(), StoreError> {
    let known = SCHEMA.to_string();
    match db.get(SCHEMA_KEY).map_err(StoreError::Engine)? {
        Some(found) if *found == *known.as_bytes() => Ok(()),
        Some(found) => Err(StoreError::Schema {
            path: folder.to_owned(),
            found: String::from_utf8_lossy(&found).into_owned(),
            known: SCHEMA,
        }),
        None if !db.is_empty() || db.tree_names().len() > 1 => Err(StoreError::Schema {
            path: folder.to_owned(),
            found: "of another program".to_owned(),
            known: SCHEMA,
        }),
        None => {
            db.insert(SCHEMA_KEY, known.as_bytes()).map_err(StoreError::Engine)?;
            Ok(())
        }
    }
}

mod deployment;
mod disk;
mod gate;
mod health;
mod remove;

#[cfg(test)]
mod tests;
