//! A device as the coordinator remembers it.

use std::collections::BTreeMap;

use proto::session::Holding;
use proto::{DeviceId, Digest, Generation, HardwareProfile};
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
