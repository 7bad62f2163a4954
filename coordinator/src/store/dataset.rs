//! A dataset that an operator named: where it is, how it is read, and what was found there.

use proto::DeviceId;
use serde::{Deserialize, Serialize};

use super::record::Record;
use crate::manifest::DatasetSpec;

/// A named dataset. Under one name it never moves, for deployments mean it by the name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DatasetRecord {
    /// What deployments call it; by the same rule as devices.
    pub name: DeviceId,
    /// Where it is, and how it is read.
    pub spec: DatasetSpec,
    /// Channels, height, width.
    pub input_shape: [u32; 3],
    /// Classes of its labels.
    pub classes: u32,
    /// Images to train on.
    pub train_images: u64,
    /// Images to test on.
    pub test_images: u64,
    /// When it was named, milliseconds since 1970.
    pub added_unix_ms: u64,
}

impl Record for DatasetRecord {
    const KIND: &'static str = "dataset";
    const SCHEMA: u8 = 1;
    fn key(&self) -> Vec<u8> {
        self.name.as_str().as_bytes().to_vec()
    }
}
