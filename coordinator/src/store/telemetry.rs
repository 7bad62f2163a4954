//! One interval of a device's latencies, kept exactly once.

use proto::{DeviceId, LatencyInterval, SpoolPosition};
use serde::{Deserialize, Serialize};

use super::record::Record;

/// One interval of a device's latencies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TelemetryRecord {
    /// Whose.
    pub device: DeviceId,
    /// Where it stands in the device's spool.
    pub position: SpoolPosition,
    /// What was measured.
    pub interval: LatencyInterval,
    /// When it first came, milliseconds since 1970.
    pub received_unix_ms: u64,
}

/// What inserting an interval did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Insertion {
    /// It was new.
    Stored,
    /// It was there; nothing changed.
    AlreadyStored,
}

/// What the keys of a device's intervals begin with. No device id contains a zero byte.
pub(super) fn prefix(device: &DeviceId) -> Vec<u8> {
    let mut key = device.as_str().as_bytes().to_vec();
    key.push(0);
    key
}

/// Where one of a device's intervals is kept.
pub(super) fn key(device: &DeviceId, position: SpoolPosition) -> Vec<u8> {
    let mut key = prefix(device);
    key.extend(position.epoch.to_be_bytes());
    key.extend(position.sequence.to_be_bytes());
    key
}

impl Record for TelemetryRecord {
    const KIND: &'static str = "telemetry";
    const SCHEMA: u8 = 1;
    fn key(&self) -> Vec<u8> {
        key(&self.device, self.position)
    }
}
