//! A network that an operator brought: what is known of it. Its file is a blob.

use proto::{ArtifactRef, DeviceId};
use serde::{Deserialize, Serialize};

use super::Footprint;
use super::record::Record;

/// A network that was imported. Under one name it never changes, for derivations are named by it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelRecord {
    /// What deployments call it; by the same rule as devices.
    pub name: DeviceId,
    /// The file as it was read.
    pub file: ArtifactRef,
    /// Channels, height, width.
    pub input_shape: [u32; 3],
    /// Length of the output.
    pub classes: u32,
    /// What it costs, counted.
    pub footprint: Footprint,
    /// What is carried through unchanged, and why.
    pub notes: Vec<String>,
    /// When it came, milliseconds since 1970.
    pub imported_unix_ms: u64,
}

impl Record for ModelRecord {
    const KIND: &'static str = "model";
    const SCHEMA: u8 = 1;
    fn key(&self) -> Vec<u8> {
        self.name.as_str().as_bytes().to_vec()
    }
}
