//! Why the store refused or failed.

use std::io;
use std::path::PathBuf;

use proto::{ByteSize, Generation};

/// Why the store refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it open.
    #[error("the store {path} is in use by another process; stop that coordinator or choose another folder")]
    Locked {
        /// Its folder.
        path: PathBuf,
    },
    /// Its folder could not be made, opened or synchronised.
    #[error("cannot use {path} for the store")]
    File {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It was written by a version that this one cannot read.
    #[error(
        "the store {path} has schema {found}, this version reads schema {known}; use the version that wrote it, or another folder"
    )]
    Schema {
        /// Its folder.
        path: PathBuf,
        /// What it says.
        found: String,
        /// What this version reads.
        known: u32,
    },
    /// A record was written by a version that this one cannot read.
    #[error("{kind} {key} has record schema {found}, this version reads {known}")]
    RecordSchema {
        /// Which kind of record.
        kind: &'static str,
        /// Its key.
        key: String,
        /// What it says.
        found: u8,
        /// What this version reads.
        known: u8,
    },
    /// A record is not what its schema says.
    #[error("{kind} {key} cannot be read from the store")]
    Corrupt {
        /// Which kind of record.
        kind: &'static str,
        /// Its key.
        key: String,
        /// Why.
        source: serde_json::Error,
    },
    /// A record cannot be written as its schema says.
    #[error("{kind} {key} cannot be encoded")]
    Encode {
        /// Which kind of record.
        kind: &'static str,
        /// Its key.
        key: String,
        /// Why.
        source: serde_json::Error,
    },
    /// A record to be loaded is there already.
    #[error("{kind} {key} is there twice")]
    Twice {
        /// Which kind of record.
        kind: String,
        /// Its key.
        key: String,
    },
    /// Nothing is stored under that key.
    #[error("no {kind} '{key}'")]
    Missing {
        /// Which kind of record.
        kind: &'static str,
        /// The key.
        key: String,
    },
    /// The deployment was applied anew meanwhile; whoever works for the old generation stops.
    #[error("deployment '{name}' is at generation {stored}, no longer at {expected}")]
    Superseded {
        /// The deployment.
        name: String,
        /// Whose generation the caller works for.
        expected: Generation,
        /// The one in force.
        stored: Generation,
    },
    /// What is to be applied was made of an older generation.
    #[error(
        "deployment '{name}' is at generation {stored}, and what is to be applied was made from generation {given}; `reconvene \
         get deployment {name} -o yaml` prints what there is now: make the change in that, or leave metadata.generation out \
         to replace whatever there is"
    )]
    Stale {
        /// The deployment.
        name: String,
        /// What it was made of.
        given: Generation,
        /// The one in force.
        stored: Generation,
    },
    /// What is to be applied was made of one that is not there any more.
    #[error(
        "there is no deployment '{name}', and what is to be applied was made from its generation {given}: it was deleted since, \
         or was another coordinator's; leave metadata.generation out to create it"
    )]
    Gone {
        /// The deployment.
        name: String,
        /// What it was made of.
        given: Generation,
    },
    /// The engine failed.
    #[error("the store's engine failed")]
    Engine(#[source] sled::Error),
    /// There is too little room to write.
    #[error(
        "the disk of {path} has {free} left, of which the store leaves {spare} alone: this was not written; make room, and it goes on"
    )]
    Full {
        /// The store's folder.
        path: PathBuf,
        /// What is left.
        free: ByteSize,
        /// What has to be.
        spare: ByteSize,
    },
    /// An earlier write did not reach the disk; nothing more is acknowledged before a restart.
    #[error("the disk refused an earlier write; make room or mend the disk, then restart the coordinator")]
    Lost,
    /// The process is stopping; the call was not made.
    #[error("the coordinator is stopping")]
    Stopping,
}

impl StoreError {
    /// Whether the same call may succeed later without anybody's doing.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Locked { .. } | Self::Stopping | Self::Full { .. } => true,
            Self::File { .. }
            | Self::Schema { .. }
            | Self::RecordSchema { .. }
            | Self::Corrupt { .. }
            | Self::Encode { .. }
            | Self::Missing { .. }
            | Self::Twice { .. }
            | Self::Superseded { .. }
            | Self::Stale { .. }
            | Self::Gone { .. }
            | Self::Lost
            | Self::Engine(_) => false,
        }
    }
}
