//! An order as tests have it.

use proto::{ArtifactRef, ByteSize, Digest, Generation, ModelManifest, SelfTest};

use super::AssignmentOrder;

/// To serve the model of these bytes.
pub(crate) fn order(deployment: &str, model: &[u8]) -> AssignmentOrder {
    AssignmentOrder {
        attempt: 0,
        probation: Default::default(),
        deployment: deployment.to_owned(),
        deployment_generation: Generation(1),
        model: ModelManifest {
            name: deployment.to_owned(),
            artifact: ArtifactRef { digest: Digest::of(model), size: ByteSize(model.len() as u64) },
            input_shape: [1, 1, 1],
            mean: vec![0.5],
            std: vec![0.25],
            classes: 1,
            self_test: SelfTest { input: vec![0.0], output: vec![1.0], tolerance: 0.5 },
        },
    }
}
