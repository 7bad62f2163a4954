//! Who may call, in memory: every call is held against it. The store has the same, for the next start.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};

use proto::{DeviceId, Digest};
use tokio::sync::watch;

use crate::store::{IdentityRecord, OperatorRecord};

/// Keys that were confirmed, and devices and operators that are kept out; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Admissions(Arc<RwLock<Known>>, watch::Sender<()>);

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
        for identity in identities {
            admissions.note(identity);
        }
        for operator in operators {
            admissions.note_operator(operator);
        }
        admissions
    }

    /// What is known of a device now.
    pub fn note(&self, identity: &IdentityRecord) {
        let mut known = self.write();
        match identity.key.filter(|_| identity.confirmed) {
            Some(key) => drop(known.confirmed.insert(identity.device.clone(), key)),
            None => drop(known.confirmed.remove(&identity.device)),
        }
        match identity.token.clone().filter(|_| identity.key.is_some() && !identity.confirmed) {
            Some(token) => drop(known.pending.insert(identity.device.clone(), token)),
            None => drop(known.pending.remove(&identity.device)),
        }
        if identity.banned {
            known.banned.insert(identity.device.clone());
        } else {
            known.banned.remove(&identity.device);
        }
    }

    /// What is known of an operator now.
    pub fn note_operator(&self, operator: &OperatorRecord) {
        let mut known = self.write();
        if operator.revoked {
            known.revoked.insert(operator.name.clone());
        } else {
            known.revoked.remove(&operator.name);
        }
        drop(known);
        self.1.send_replace(());
    }

    /// Ends once an operator's certificates are taken back; never, where they are already: each call is told so.
    pub fn revocation(&self, operator: DeviceId) -> impl Future<Output = ()> + Send + use<> {
        let (known, mut changes) = (self.clone(), self.1.subscribe());
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
        self.0.read().unwrap_or_else(PoisonError::into_inner).revoked.contains(operator)
    }

    /// How many devices other than `device` came by a token and have not been there yet.
    pub fn pending(&self, token: &str, device: &DeviceId) -> usize {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.pending.iter().filter(|&(other, by)| by == token && other != device).count()
    }

    /// Whether a device is kept out.
    pub fn is_banned(&self, device: &DeviceId) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).banned.contains(device)
    }

    /// Whether a device has shown a certificate of this key, and may go on doing so.
    pub fn is_confirmed(&self, device: &DeviceId, key: Digest) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).confirmed.get(device) == Some(&key)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        // Entries are put in whole: a panic elsewhere leaves none half-made.
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::task::TaskTracker;

    use super::*;

    #[tokio::test]
    async fn a_connection_ends_when_its_operator_is_revoked_and_not_before() {
        let admissions = Admissions::default();
        let operator = |name: &str, revoked| OperatorRecord { name: name.parse().unwrap(), revoked };
        let alice = TaskTracker::new().spawn(admissions.revocation("alice".parse().unwrap()));
        admissions.note_operator(&operator("bob", true));
        let late = TaskTracker::new().spawn(admissions.revocation("bob".parse().unwrap()));
        admissions.note_operator(&operator("bob", true));
        tokio::task::yield_now().await;
        assert!(!alice.is_finished() && !late.is_finished(), "bob's calls are refused one by one");
        admissions.note_operator(&operator("alice", true));
        alice.await.unwrap();
        late.abort();
    }
}
