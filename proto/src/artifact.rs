//! Files by digest, and what a device has to know of a model to serve it.

use serde::{Deserialize, Serialize};

use crate::{ByteSize, Digest, Invalid, v1};

/// A file that the coordinator serves by its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArtifactRef {
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// Its length.
    pub size: ByteSize,
}

/// What a device has to know of a model to serve it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelManifest {
    /// The deployment's name, under which the device serves it.
    pub name: String,
    /// The ONNX file.
    pub artifact: ArtifactRef,
    /// Channels, height, width.
    pub input_shape: [u32; 3],
    /// Per channel, subtracted from pixels in 0..1.
    pub mean: Vec<f32>,
    /// Per channel, divided by afterwards.
    pub std: Vec<f32>,
    /// Length of the output.
    pub classes: u32,
    /// What the model must answer before it may serve.
    pub self_test: SelfTest,
}

/// One normalised input with the output that the coordinator computed for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SelfTest {
    /// `channels * height * width` numbers, row-major.
    pub input: Vec<f32>,
    /// `classes` numbers.
    pub output: Vec<f32>,
    /// Largest absolute difference allowed.
    pub tolerance: f32,
}

/// Numbers in one input at most: keeps a manifest from asking for absurd memory.
const INPUT_LIMIT: u64 = 64 << 20;

impl TryFrom<v1::ArtifactRef> for ArtifactRef {
    type Error = Invalid;

    fn try_from(wire: v1::ArtifactRef) -> Result<Self, Invalid> {
        if wire.size_bytes == 0 {
            return Err(Invalid::new("size_bytes", "an artifact is never empty"));
        }
        Ok(Self { digest: wire.digest.parse()?, size: ByteSize(wire.size_bytes) })
    }
}

impl From<ArtifactRef> for v1::ArtifactRef {
    fn from(artifact: ArtifactRef) -> Self {
        Self { digest: artifact.digest.to_string(), size_bytes: artifact.size.0 }
    }
}

impl TryFrom<v1::ModelManifest> for ModelManifest {
    type Error = Invalid;

    fn try_from(wire: v1::ModelManifest) -> Result<Self, Invalid> {
        let input_shape: [u32; 3] = wire
            .input_shape
            .try_into()
            .map_err(|_| Invalid::new("input_shape", "must be channels, height, width"))?;
        let numbers =
            input_shape.iter().try_fold(1u64, |n, &d| n.checked_mul(u64::from(d))).unwrap_or(u64::MAX);
        if numbers == 0 || numbers > INPUT_LIMIT {
            return Err(Invalid::new("input_shape", format!("{input_shape:?} is empty or too large")));
        }
        let channels = input_shape[0] as usize;
        if wire.mean.len() != channels || wire.std.len() != channels {
            return Err(Invalid::new("mean, std", format!("need {channels} numbers each")));
        }
        if wire.name.is_empty() {
            return Err(Invalid::missing("name"));
        }
        let self_test = wire.self_test.ok_or_else(|| Invalid::missing("self_test"))?;
        if self_test.input.len() as u64 != numbers || self_test.output.len() != wire.classes as usize {
            return Err(Invalid::new("self_test", "its lengths do not match input_shape and classes"));
        }
        if self_test.output.is_empty() || self_test.tolerance.is_nan() || self_test.tolerance < 0.0 {
            return Err(Invalid::new("self_test", "needs an output and a tolerance that is not negative"));
        }
        Ok(Self {
            name: wire.name,
            artifact: wire.artifact.ok_or_else(|| Invalid::missing("artifact"))?.try_into()?,
            input_shape,
            mean: wire.mean,
            std: wire.std,
            classes: wire.classes,
            self_test: SelfTest {
                input: self_test.input,
                output: self_test.output,
                tolerance: self_test.tolerance,
            },
        })
    }
}

impl From<ModelManifest> for v1::ModelManifest {
    fn from(manifest: ModelManifest) -> Self {
        let SelfTest { input, output, tolerance } = manifest.self_test;
        Self {
            name: manifest.name,
            artifact: Some(manifest.artifact.into()),
            input_shape: manifest.input_shape.to_vec(),
            mean: manifest.mean,
            std: manifest.std,
            classes: manifest.classes,
            self_test: Some(v1::SelfTest { input, output, tolerance }),
        }
    }
}
