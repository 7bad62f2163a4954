//! Devices that are kept out, in memory: every call of a device is held against it.

use std::collections::BTreeSet;
use std::sync::{Arc, RwLock};

use proto::DeviceId;

/// The banned devices; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Bans(Arc<RwLock<BTreeSet<DeviceId>>>);

impl Bans {
    /// These.
    pub fn new(devices: impl IntoIterator<Item = DeviceId>) -> Self {
        Self(Arc::new(RwLock::new(devices.into_iter().collect())))
    }

    /// From now on it is banned, or no longer.
    pub fn set(&self, device: &DeviceId, banned: bool) {
        let mut devices = self.0.write().expect("no holder of this lock can panic");
        if banned {
            devices.insert(device.clone());
        } else {
            devices.remove(device);
        }
    }

    /// Whether it is kept out.
    pub fn has(&self, device: &DeviceId) -> bool {
        self.0.read().expect("no holder of this lock can panic").contains(device)
    }
}
