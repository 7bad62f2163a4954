//! What the speed of this device depends on, whatever runs on it: times hold for as long as this stays the same.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{cgroup, cores, cpu};

/// The device as times know it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Device {
    logical_cores: u32,
    cpu_quota_cores: Option<f64>,
    cpu_model: Option<String>,
    /// What decides the processor's clock.
    governor: Option<String>,
}

impl Device {
    /// As it is now.
    pub fn now() -> Self {
        let root = Path::new("/");
        Self {
            logical_cores: cores(),
            cpu_quota_cores: cgroup::limits(root).cpu_cores,
            cpu_model: cpu::model(root),
            governor: cpu::governor(root),
        }
    }
}
