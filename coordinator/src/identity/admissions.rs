//! Who may call, in memory: every call is held against it. The store has the same, for the next start.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};

use proto::{DeviceId, Digest};

use crate::store::{IdentityRecord, OperatorRecord};

/// Keys that were confirmed, and devices and operators that are kept out; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Admissions(Arc<RwLock<Known>>);

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
