//! How far measured latencies of a class were off the predicted ones.

use serde::{Deserialize, Serialize};

use super::record::Record;
use crate::calibration::Calibration;
use crate::class::ClassId;

/// A class's calibration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CalibrationRecord {
    /// The class.
    pub class: ClassId,
    /// Its correction.
    pub calibration: Calibration,
    /// Its last change, milliseconds since 1970.
    pub updated_unix_ms: u64,
}

impl Record for CalibrationRecord {
    const KIND: &'static str = "calibration";
    const SCHEMA: u8 = 1;
    fn key(&self) -> Vec<u8> {
        self.class.as_str().into()
    }
}
