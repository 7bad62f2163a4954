//! What is known of a model file: how it was made, what it costs, what a device needs to serve it.

use proto::{ArtifactRef, ByteSize, Digest, ModelManifest, SelfTest};
use pruner_core::graph::cost::Cost;
use serde::{Deserialize, Serialize};

use super::record::Record;

/// What is known of a model file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ArtifactRecord {
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// Its length.
    pub size: ByteSize,
    /// The dense network that it was pruned from.
    pub network: String,
    /// What it costs, counted.
    pub footprint: Footprint,
    /// Share of the test images that it classifies rightly, 0 to 1; `None` where it was not evaluated.
    pub test_accuracy: Option<f64>,
    /// Test images of that evaluation.
    pub test_images: u32,
    /// Training images.
    pub train_images: u32,
    /// Passes over the training images; `None` where somebody else trained it.
    pub epochs: Option<u32>,
    /// Scoring, planning and surgery.
    pub seconds_to_prune: f64,
    /// Training; `None` where somebody else trained it.
    pub seconds_to_train: Option<f64>,
    /// How wide each layer was left.
    pub layers: Vec<LayerRecord>,
    /// What a device needs to serve it.
    pub serving: Serving,
}

/// What a network costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Footprint {
    /// Parameters.
    pub params: u64,
    /// Multiply-accumulates per image.
    pub macs: u64,
    /// Bytes of the ONNX file.
    pub bytes: u64,
    /// Bytes of weights and live activations at batch 1.
    pub memory_bytes: u64,
    /// Bytes of live activations at batch 1; 0 where it was not counted yet.
    #[serde(default)]
    pub activation_bytes: u64,
}

impl From<Cost> for Footprint {
    fn from(Cost { params, macs, bytes, memory_bytes, activation_bytes }: Cost) -> Self {
        Self { params, macs, bytes, memory_bytes, activation_bytes }
    }
}

/// One layer before and after pruning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// Its name.
    pub layer: String,
    /// Channels of the dense network.
    pub before: u32,
    /// Channels kept.
    pub after: u32,
    /// Harm that pruning it does, 0 to 1.
    pub sensitivity: f64,
}

/// What a device needs to serve a model, but for the name that a deployment gives it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Serving {
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

impl ArtifactRecord {
    /// What a device is told so that it serves this artifact as `name`.
    pub fn model(&self, name: &str) -> ModelManifest {
        let Serving { input_shape, mean, std, classes, self_test } = self.serving.clone();
        let artifact = ArtifactRef { digest: self.digest, size: self.size };
        ModelManifest { name: name.to_owned(), artifact, input_shape, mean, std, classes, self_test }
    }
}

impl Record for ArtifactRecord {
    const KIND: &'static str = "artifact";
    const SCHEMA: u8 = 1;
    fn key(&self) -> Vec<u8> {
        self.digest.to_string().into_bytes()
    }
}
