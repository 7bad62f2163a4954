//! What the speed of this device depends on, whatever runs on it: times hold for as long as this stays the same.

use proto::HardwareProfile;
use serde::{Deserialize, Serialize};

/// The device as times know it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Device {
    logical_cores: u32,
    cpu_quota_cores: Option<f64>,
    cpu_model: Option<String>,
}

impl Device {
    /// As a profile describes it.
    pub fn of(profile: &HardwareProfile) -> Self {
        Self {
            logical_cores: profile.logical_cores,
            cpu_quota_cores: profile.cpu_quota_cores,
            cpu_model: profile.cpu_model.clone(),
        }
    }
}
