//! What of sled's writes the disk has, and who may write. Owns the file handle that is synchronised, and the lock.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use sled::Db;

use super::health::Health;
use crate::store::StoreError;

/// Gets what was written onto the disk. Dropped last: it holds the lock that keeps other processes out.
pub(super) struct Disk {
    pub(super) db: Db,
    /// sled's log. Its own flush starts the writing of pages but asks neither for the file's length nor for the disk's
    /// cache to be written; that is what this handle is for.
    log: File,
    path: PathBuf,
    /// Counts writes that wait for the disk.
    asked: AtomicU64,
    /// How many of them it has.
    synced: Mutex<u64>,
    health: Arc<Health>,
    _lock: File,
}

impl Disk {
    pub(super) fn new(db: Db, log: File, path: PathBuf, lock: File, health: Arc<Health>) -> Self {
        let (asked, synced) = (AtomicU64::new(0), Mutex::new(0));
        Self { db, log, path, asked, synced, health, _lock: lock }
    }

    /// Returns once everything written so far is on the disk. Writers that meet here share one turn.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        let mine = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        // A poisoned lock means a panic within sled, after which the disk is as unknown as after a refusal.
        let mut synced = self.synced.lock().map_err(|_| self.health.lose())?;
        // Unknown is what it has, once it refused: the kernel forgets what it could not write, so that the next synchronisation
        // would succeed without it.
        if self.health.is_lost() {
            return Err(StoreError::Lost);
        }
        if *synced >= mine {
            return Ok(());
        }
        let all = self.asked.load(Ordering::SeqCst);
        self.health.note(self.write_out())?;
        *synced = all;
        Ok(())
    }

    fn write_out(&self) -> Result<(), StoreError> {
        self.db.flush().map_err(StoreError::Engine)?;
        self.log.sync_data().map_err(|source| StoreError::File { path: self.path.clone(), source })
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.health.is_lost() {
            // It would write out what it has once more, and wait for that without end.
            std::mem::forget(self.db.clone());
        }
    }
}

/// Keeps other processes out: ours by this lock, in a file of its own so that its refusal can be told from any other
/// failure of sled.
pub(super) fn lock(folder: &Path) -> Result<File, StoreError> {
    let path = folder.join("lock");
    let failed = |source: io::Error| StoreError::File { path: path.clone(), source };
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked { path: folder.to_owned() }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// Why sled did not open. Of two locks of a process that is being torn down one may be gone before the other.
pub(super) fn refused(error: sled::Error, folder: &Path) -> StoreError {
    match &error {
        sled::Error::Io(source) if source.to_string().contains("could not acquire lock") => {
            StoreError::Locked { path: folder.to_owned() }
        }
        _ => StoreError::Engine(error),
    }
}
