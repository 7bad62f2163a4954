//! What one device shall serve. Its generation only goes up.

use proto::session::Assignment;
use proto::{DeviceId, Digest, Generation, ModelManifest, Probation};
use serde::{Deserialize, Serialize};

use super::record::Record;

/// A model for one device, not yet given a generation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AssignmentOrder {
    /// Where it comes from.
    pub deployment: String,
    /// That deployment's generation.
    pub deployment_generation: Generation,
    /// Counts an operator's words to try again with that generation.
    #[serde(default)]
    pub attempt: u32,
    /// The model.
    pub model: ModelManifest,
    /// What it has to stand on the device.
    #[serde(default)]
    pub probation: Probation,
}

/// What one device shall serve.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AssignmentRecord {
    /// The device.
    pub device: DeviceId,
    /// Above every generation that the device was given before.
    pub generation: Generation,
    /// What it was told.
    pub order: AssignmentOrder,
}

impl AssignmentRecord {
    /// The artifact.
    pub fn digest(&self) -> Digest {
        self.order.model.artifact.digest
    }

    /// Whether it carries out `order` already.
    pub fn fulfils(&self, order: &AssignmentOrder) -> bool {
        self.order.deployment == order.deployment
            && self.order.deployment_generation == order.deployment_generation
            && self.order.attempt == order.attempt
            && self.digest() == order.model.artifact.digest
    }

    /// The message that tells the device.
    pub fn message(&self) -> Assignment {
        Assignment {
            device: self.device.clone(),
            generation: self.generation,
            deployment: self.order.deployment.clone(),
            model: self.order.model.clone(),
            probation: self.order.probation,
        }
    }
}

impl Record for AssignmentRecord {
    const KIND: &'static str = "assignment";
    const SCHEMA: u8 = 1;
    fn key(&self) -> Vec<u8> {
        self.device.as_str().into()
    }
}
