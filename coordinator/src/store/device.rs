//! A device as the coordinator remembers it.

use std::collections::BTreeMap;

use proto::session::Holding;
use proto::{DeviceId, Digest, Generation, HardwareProfile, SpoolPosition};
use serde::{Deserialize, Serialize};

use super::record::Record;

/// A device as the coordinator remembers it. Whether it is online is not stored: that is a matter of the moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeviceRecord {
    /// Its name.
    pub id: DeviceId,
    /// For selectors.
    pub labels: BTreeMap<String, String>,
    /// The agent's version.
    pub agent_version: String,
    /// What it measured of itself; `None` until it said.
    pub profile: Option<HardwareProfile>,
    /// What it serves.
    pub holding: HoldingRecord,
    /// How its last assignment ended, by its own account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<EndedRecord>,
    /// What it measured and nobody can read; `None`: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<UnreadableRecord>,
    /// Where its inference API listens; empty where it does not.
    pub serving_address: String,
    /// Its last message, milliseconds since 1970.
    pub last_seen_unix_ms: u64,
    /// Its first message, milliseconds since 1970.
    pub registered_unix_ms: u64,
}

/// How an assignment ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndedRecord {
    /// Which.
    pub generation: Generation,
    /// Why it was given up; `None`: it serves.
    pub failure: Option<String>,
}

/// Intervals of telemetry that were acknowledged and not stored, because they cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnreadableRecord {
    /// How many.
    pub intervals: u64,
    /// The last one's place in the device's spool.
    pub last: SpoolPosition,
    /// What was wrong with that.
    pub reason: String,
}

impl DeviceRecord {
    /// Counts an interval that cannot be read; one that is sent again, for its acknowledgement was lost, counts once.
    pub fn note_unreadable(&mut self, place: SpoolPosition, reason: &str) {
        let known = self.unreadable.as_ref();
        if known.is_some_and(|known| known.last.epoch == place.epoch && known.last.sequence >= place.sequence)
        {
            return;
        }
        let intervals = known.map_or(0, |known| known.intervals).saturating_add(1);
        self.unreadable = Some(UnreadableRecord { intervals, last: place, reason: reason.to_owned() });
    }
}

/// What a device serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HoldingRecord {
    /// Highest generation that it holds; 0 before the first.
    pub generation: Generation,
    /// The artifact; `None` before the first.
    pub digest: Option<Digest>,
}

impl From<Holding> for HoldingRecord {
    fn from(holding: Holding) -> Self {
        Self { generation: holding.generation, digest: holding.digest }
    }
}

impl Record for DeviceRecord {
    const KIND: &'static str = "device";
    const SCHEMA: u8 = 1;
    fn key(&self) -> Vec<u8> {
        self.id.as_str().into()
    }
}
