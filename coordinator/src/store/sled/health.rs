//! Whether the store may be written to: its disk has room, and has refused nothing so far. sled does not come back from a write that
//! failed, and may wait for it for ever: so the last of the room is left alone, and after a failure nothing is written any more.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use proto::ByteSize;
use rustix::fs::statvfs;

use crate::store::StoreError;

/// Room on the disk that no write takes: of sled's segments and pages, and the longest record, several times over.
const SPARE: ByteSize = ByteSize(8 << 20);

/// Of one store's disk.
pub(super) struct Health {
    folder: PathBuf,
    spare: AtomicU64,
    is_lost: AtomicBool,
}

impl Health {
    /// Of the disk that `folder` is on.
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), spare: AtomicU64::new(SPARE.0), is_lost: AtomicBool::new(false) }
    }

    /// Refuses a write that has not begun.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        if self.is_lost() {
            return Err(StoreError::Lost);
        }
        // A disk that does not say is asked by the write itself.
        let Ok(disk) = statvfs(&self.folder) else { return Ok(()) };
        let free = ByteSize(disk.f_bavail * disk.f_frsize);
        let spare = ByteSize(self.spare.load(Ordering::Relaxed));
        if free < spare {
            return Err(StoreError::Full { path: self.folder.clone(), free, spare });
        }
        Ok(())
    }

    /// What a write came to: after one that failed there is no other.
    pub(super) fn note<T, E>(&self, written: Result<T, E>) -> Result<T, E> {
        if written.is_err() {
            self.lose();
        }
        written
    }

    /// What a panic within sled leaves is not known, either.
    pub(super) fn lose(&self) -> StoreError {
        self.is_lost.store(true, Ordering::SeqCst);
        StoreError::Lost
    }

    pub(super) fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::Event;
    use crate::store::{SledStore, Store, StoreHandle};

    fn put(store: &dyn Store) -> Result<(), StoreError> {
        store.append_audit(&[Event::new("alice", "ban", "device/gw-1")], 1).map(drop)
    }

    #[test]
    fn a_full_disk_takes_no_write_and_goes_on_once_there_is_room() {
        let folder = tempfile::tempdir().unwrap();
        let store = SledStore::open(folder.path()).unwrap();
        store.health.spare.store(u64::MAX, Ordering::Relaxed);
        let refused = put(&store).unwrap_err();
        assert!(refused.to_string().contains("this was not written; make room"), "{refused}");
        assert!(refused.is_retryable() && !store.is_lost());
        store.health.spare.store(SPARE.0, Ordering::Relaxed);
        put(&store).unwrap();
    }

    #[tokio::test]
    async fn nothing_is_written_after_a_write_that_failed_and_whoever_waits_for_that_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let store = SledStore::open(folder.path()).unwrap();
        let _refused = store.health.note(Err::<(), _>(()));
        let handle = StoreHandle::new(store);
        assert!(!handle.is_lost());
        let refused = handle.call(|store| put(store)).await.unwrap_err();
        assert!(matches!(refused, StoreError::Lost), "{refused}");
        handle.lost().await;
    }
}
