//! A trained network made ready for devices: its file, its figures, a self-test. Stores nothing.

use std::time::Duration;

use proto::{ArtifactRef, ByteSize, Digest, SelfTest};
use pruner_core::Network;
use pruner_core::dataset::Dataset;
use pruner_core::exec::{Executor, ParamLayout};
use pruner_core::graph::cost::{Cost, cost};
use pruner_core::graph::onnx::{self, BatchNorms};
use pruner_core::plan::{LayerPlan, PrunePlan};
use pruner_core::train::Evaluation;

use super::DeriveError;
use crate::manifest::{DeploymentSpec, TrainerKind};
use crate::store::{ArtifactRecord, LayerRecord, Serving};

/// A model that can be handed out, and what is known of it.
pub struct Derived {
    /// The ONNX file, batch norm folded.
    pub onnx: Vec<u8>,
    /// Its digest and length.
    pub artifact: ArtifactRef,
    /// Counted on the network that was made.
    pub cost: Cost,
    /// On the whole test split.
    pub evaluation: Evaluation,
    /// How many images it was trained on.
    pub train_images: usize,
    /// Surgery and re-initialisation.
    pub time_to_prune: Duration,
    /// Training and evaluation.
    pub time_to_train: Duration,
    /// The image's shape.
    pub input_shape: [u32; 3],
    /// Length of the output.
    pub classes: u32,
    /// Per channel.
    pub mean: Vec<f32>,
    /// Per channel.
    pub std: Vec<f32>,
    /// One test image with its answer.
    pub self_test: SelfTest,
}

impl Derived {
    /// As it is stored: derived for `spec` by `plan`, after its network was scored for so long.
    pub fn record(self, spec: &DeploymentSpec, plan: &PrunePlan, time_to_score: Duration) -> ArtifactRecord {
        let Self { artifact, cost, evaluation, input_shape, classes, mean, std, self_test, .. } = self;
        // Of a training that went on elsewhere nothing is known but its result.
        let is_ours = spec.training.trainer != TrainerKind::External;
        ArtifactRecord {
            digest: artifact.digest,
            size: artifact.size,
            network: spec.network.clone(),
            footprint: cost.into(),
            test_accuracy: Some(evaluation.accuracy),
            test_images: evaluation.images as u32,
            train_images: self.train_images as u32,
            epochs: is_ours.then_some(spec.training.epochs),
            seconds_to_prune: (time_to_score + self.time_to_prune).as_secs_f64(),
            seconds_to_train: is_ours.then_some(self.time_to_train.as_secs_f64()),
            layers: plan.layers.iter().map(layer).collect(),
            serving: Serving { input_shape, mean, std, classes, self_test },
        }
    }
}

fn layer(layer: &LayerPlan) -> LayerRecord {
    LayerRecord {
        layer: layer.name.clone(),
        before: layer.before as u32,
        after: layer.after as u32,
        sensitivity: layer.sensitivity,
    }
}

pub(super) fn package(
    trained: &Network,
    dataset: &Dataset,
    evaluation: Evaluation,
    time_to_prune: Duration,
    time_to_train: Duration,
) -> Result<Derived, DeriveError> {
    let onnx = onnx::encode(trained, BatchNorms::Folded)?;
    let shape = trained.graph.input_shape();
    Ok(Derived {
        artifact: ArtifactRef { digest: Digest::of(&onnx), size: ByteSize(onnx.len() as u64) },
        onnx,
        cost: cost(&trained.graph),
        evaluation,
        train_images: dataset.train.len(),
        time_to_prune,
        time_to_train,
        input_shape: [shape.channels as u32, shape.height as u32, shape.width as u32],
        classes: dataset.classes as u32,
        mean: dataset.mean.clone(),
        std: dataset.std.clone(),
        self_test: self_test(trained, dataset)?,
    })
}

/// Engines differ by rounding: about 1e-5 of the largest output was measured between them; a wrong model differs by
/// far more than a hundred times that.
const TOLERANCE: f32 = 1e-3;

fn self_test(trained: &Network, dataset: &Dataset) -> Result<SelfTest, DeriveError> {
    let mut input = vec![0.0; dataset.shape.numel()];
    dataset.normalise(dataset.test.pixels(0), &mut input);
    let params = ParamLayout::of(&trained.graph).gather::<f32>(&trained.weights)?;
    let mut executor = Executor::<f32>::new(&trained.graph, 1)?;
    let output = executor.forward_eval(&params, &input, 1).to_vec();
    if output.iter().any(|value| !value.is_finite()) {
        return Err(DeriveError::Diverged);
    }
    let largest = output.iter().fold(1.0f32, |largest, value| largest.max(value.abs()));
    Ok(SelfTest { input, output, tolerance: TOLERANCE * largest })
}
