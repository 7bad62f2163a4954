//! Entries of the audit log, by their number.

use super::record::Record;
use crate::audit::AuditEntry;

/// Which entries are read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditQuery {
    /// Only those about this; empty: all.
    pub subject: String,
    /// Only those after this number.
    pub after: u64,
    /// The last so many of these; `None`: the first.
    pub last: Option<usize>,
    /// At most so many.
    pub most: usize,
}

impl AuditQuery {
    pub(super) fn selects(&self, entry: &AuditEntry) -> bool {
        self.subject.is_empty() || entry.subject == self.subject
    }
}

/// The key of the entry with this number.
pub(super) fn key(sequence: u64) -> Vec<u8> {
    sequence.to_be_bytes().to_vec()
}

impl Record for AuditEntry {
    const KIND: &'static str = "audit";
    const SCHEMA: u8 = 1;
    fn key(&self) -> Vec<u8> {
        key(self.sequence)
    }
}
