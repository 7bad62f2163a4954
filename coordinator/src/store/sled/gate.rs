//! Every write of the store goes through here, so that a copy of all records can be taken as of one moment: writes wait while it
//! is read out. The wait for the disk is outside: what was written and not yet acknowledged may be in a copy.

use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use sled::{CompareAndSwapError, Db, IVec, Tree};

use super::health::Health;
use crate::store::{StoreError, Visit};

/// What sled calls the tree that has no name; it holds the schema's number and no records.
const NAMELESS: &[u8] = b"__sled__default";

/// Held for reading by each write, for writing by a copy.
pub(super) struct Gate {
    lock: RwLock<()>,
    health: Arc<Health>,
}

impl Gate {
    /// Open, as long as there is health.
    pub(super) fn new(health: Arc<Health>) -> Self {
        Self { lock: RwLock::default(), health }
    }

    /// Replaces `old` by `new`, if `old` is there still.
    pub(super) fn swap(
        &self,
        tree: &Tree,
        key: &[u8],
        old: Option<IVec>,
        new: &[u8],
    ) -> Result<Result<(), CompareAndSwapError>, StoreError> {
        let _open = self.pass()?;
        self.health.note(tree.compare_and_swap(key, old, Some(new))).map_err(StoreError::Engine)
    }

    /// Removes a record.
    pub(super) fn forget(&self, tree: &Tree, key: &[u8]) -> Result<(), StoreError> {
        let _open = self.pass()?;
        self.health.note(tree.remove(key)).map(drop).map_err(StoreError::Engine)
    }

    /// Removes a record, if `old` is what it is still.
    pub(super) fn forget_if(
        &self,
        tree: &Tree,
        key: &[u8],
        old: IVec,
    ) -> Result<Result<(), CompareAndSwapError>, StoreError> {
        let _open = self.pass()?;
        self.health.note(tree.compare_and_swap(key, Some(old), None::<&[u8]>)).map_err(StoreError::Engine)
    }

    /// Shows `visit` the tree, the key and the bytes of every record, while no write happens.
    pub(super) fn all(&self, db: &Db, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        let _closed = self.close()?;
        let mut names: Vec<_> = db.tree_names().into_iter().filter(|name| name != NAMELESS).collect();
        names.sort();
        for name in names {
            let tree = db.open_tree(&name).map_err(StoreError::Engine)?;
            let name = String::from_utf8_lossy(&name);
            for entry in &tree {
                let (key, bytes) = entry.map_err(StoreError::Engine)?;
                visit(&name, &key, &bytes)?;
            }
        }
        Ok(())
    }

    // A poisoned lock means a panic within sled, after which its trees are unknown.
    fn pass(&self) -> Result<RwLockReadGuard<'_, ()>, StoreError> {
        self.health.check()?;
        self.lock.read().map_err(|_| self.health.lose())
    }

    fn close(&self) -> Result<RwLockWriteGuard<'_, ()>, StoreError> {
        self.lock.write().map_err(|_| self.health.lose())
    }
}
