//! That the store was restored from a backup, and from where on it counts since.

use proto::{Digest, Generation};
use serde::{Deserialize, Serialize};

use super::record::Record;

/// One restore. Devices and operators may have seen generations that the backup does not know: none is given twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreRecord {
    /// Names the backup.
    pub backup: Digest,
    /// When that was taken, milliseconds since 1970.
    pub taken_unix_ms: u64,
    /// When it was restored, milliseconds since 1970.
    pub restored_unix_ms: u64,
    /// Every generation that is given from then on is above this one.
    pub floor: Generation,
}

impl Record for RestoreRecord {
    const KIND: &'static str = "restore";
    const SCHEMA: u8 = 1;
    /// The last one has the highest floor.
    fn key(&self) -> Vec<u8> {
        self.floor.0.to_be_bytes().to_vec()
    }
}
