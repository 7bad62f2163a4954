//! That a deployment was deleted: one that gets its name goes on counting where it ended, so no generation is given twice.

use proto::Generation;
use serde::{Deserialize, Serialize};

use super::record::Record;

/// A deployment that is no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletedRecord {
    /// Its name.
    pub name: String,
    /// The last one that it had.
    pub generation: Generation,
    /// When, milliseconds since 1970.
    pub deleted_unix_ms: u64,
}

impl Record for DeletedRecord {
    const KIND: &'static str = "deleted";
    const SCHEMA: u8 = 1;
    fn key(&self) -> Vec<u8> {
        self.name.as_str().into()
    }
}
