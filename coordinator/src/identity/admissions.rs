//! Who may call, in memory: every call is held against it. The store has the same, for the next start.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockWriteGuard};

use proto::{DeviceId, Digest};
use tokio::sync::watch;

use crate::store::{IdentityRecord, OperatorRecord, Store, StoreError};

/// Keys that were confirmed, and devices and operators that are kept out; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Admissions {
    known: Arc<RwLock<Known>>,
    changes: watch::Sender<()>,
    enrolling: Arc<Mutex<()>>,
}

#[derive(Debug, Default)]
struct Known {
    confirmed: BTreeMap<DeviceId, Digest>,
    /// Those that came by a token and have not been there yet.
    pending: BTreeMap<DeviceId, String>,
    banned: BTreeSet<DeviceId>,
    revoked: BTreeSet<DeviceId>,
}

impl Admissions {
    /// As the store has them.
    pub fn of(identities: &[IdentityRecord], operators: &[OperatorRecord]) -> Self {
        let admissions = Self::default();
        {
            let mut known = admissions.write();
            identities.iter().for_each(|identity| known.note(identity));
            operators.iter().for_each(|operator| known.note_operator(operator));
        }
        admissions
    }

    /// Brings what is known of a device up to what the store has of it, whoever else does so at the same time. Blocks.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn settle(&self, store: &dyn Store, device: &DeviceId) -> Result<(), StoreError> {
        let mut known = self.write();
        if let Some(identity) = store.identity(device)? {
            known.note(&identity);
        }
        Ok(())
    }

    /// The same of an operator.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn settle_operator(&self, store: &dyn Store, name: &DeviceId) -> Result<(), StoreError> {
        let mut known = self.write();
        if let Some(operator) = store.operators()?.iter().find(|operator| operator.name == *name) {
            known.note_operator(operator);
        }
        drop(known);
        self.changes.send_replace(());
        Ok(())
    }

    /// Held while a device that comes by a token is counted and recorded: no other is between the two.
    pub fn turn(&self) -> MutexGuard<'_, ()> {
        self.enrolling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends once an operator's certificates are taken back; never, where they are already: each call is told so.
    pub fn revocation(&self, operator: DeviceId) -> impl Future<Output = ()> + Send + use<> {
        let (known, mut changes) = (self.clone(), self.changes.subscribe());
        async move {
            if known.is_revoked(&operator) {
                return std::future::pending().await;
            }
            // A sender is among what is known, so changes never end.
            while !known.is_revoked(&operator) && changes.changed().await.is_ok() {}
        }
    }

    /// Whether an operator's certificates were taken back.
    pub fn is_revoked(&self, operator: &DeviceId) -> bool {
        self.known.read().unwrap_or_else(PoisonError::into_inner).revoked.contains(operator)
    }

    /// How many devices other than `device` came by a token and have not been there yet.
    pub fn pending(&self, token: &str, device: &DeviceId) -> usize {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.pending.iter().filter(|&(other, by)| by == token && other != device).count()
    }

    /// Whether a device is kept out.
    pub fn is_banned(&self, device: &DeviceId) -> bool {
        self.known.read().unwrap_or_else(PoisonError::into_inner).banned.contains(device)
    }

    /// Whether a device has shown a certificate of this key, and may go on doing so.
    pub fn is_confirmed(&self, device: &DeviceId, key: Digest) -> bool {
        self.known.read().unwrap_or_else(PoisonError::into_inner).confirmed.get(device) == Some(&key)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        // Entries are put in whole: a panic elsewhere leaves none half-made.
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn note(&mut self, identity: &IdentityRecord) {
        let IdentityRecord { device, key, token, confirmed, banned, .. } = identity;
        match key.filter(|_| *confirmed) {
            Some(key) => drop(self.confirmed.insert(device.clone(), key)),
            None => drop(self.confirmed.remove(device)),
        }
        match token.clone().filter(|_| key.is_some() && !confirmed && !banned) {
            Some(token) => drop(self.pending.insert(device.clone(), token)),
            None => drop(self.pending.remove(device)),
        }
        if *banned {
            self.banned.insert(device.clone());
        } else {
            self.banned.remove(device);
        }
    }

    fn note_operator(&mut self, operator: &OperatorRecord) {
        if operator.revoked {
            self.revoked.insert(operator.name.clone());
        } else {
            self.revoked.remove(&operator.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::task::TaskTracker;

    use super::*;
    use crate::store::SledStore;

    #[tokio::test]
    async fn a_connection_ends_when_its_operator_is_revoked_and_not_before() {
        let folder = tempfile::tempdir().unwrap();
        let store = SledStore::open(folder.path()).unwrap();
        let admissions = Admissions::default();
        let revoke = |name: &str| {
            let record = OperatorRecord { name: name.parse().unwrap(), revoked: true };
            store.put_operator(&record).unwrap();
            admissions.settle_operator(&store, &record.name).unwrap();
        };
        let alice = TaskTracker::new().spawn(admissions.revocation("alice".parse().unwrap()));
        revoke("bob");
        let late = TaskTracker::new().spawn(admissions.revocation("bob".parse().unwrap()));
        revoke("bob");
        tokio::task::yield_now().await;
        assert!(!alice.is_finished() && !late.is_finished(), "bob's calls are refused one by one");
        revoke("alice");
        alice.await.unwrap();
        late.abort();
    }
}
