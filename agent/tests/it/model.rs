//! Real ONNX files with their expected answers, made by the pruner.

use proto::session::Assignment;
use proto::{ArtifactRef, ByteSize, Digest, Generation, ModelManifest, SelfTest};
use pruner_core::exec::{Executor, ParamLayout};
use pruner_core::graph::onnx::{BatchNorms, encode};
use pruner_core::graph::{Network, Shape};
use pruner_core::init::init;
use pruner_core::zoo::probes;

/// A model file and what it answers to one image.
#[derive(Clone)]
pub(crate) struct Model {
    pub(crate) bytes: Vec<u8>,
    pub(crate) manifest: ModelManifest,
}

impl Model {
    /// A narrow ResNet for 28 x 28 images, of the weights of `seed`.
    pub(crate) fn of_seed(seed: u64) -> Self {
        let probe = probes().into_iter().find(|probe| probe.name == "resnet-w8-1x28x28").unwrap();
        let graph = probe.network.graph;
        let weights = init(&graph, seed);
        let network = Network { graph, weights };
        let bytes = encode(&network, BatchNorms::Folded).unwrap();
        let Shape { channels, height, width } = network.graph.input_shape();
        let input: Vec<f32> =
            (0..network.graph.input_shape().numel()).map(|i| (i % 17) as f32 / 17.0).collect();
        let params = ParamLayout::of(&network.graph).gather::<f32>(&network.weights).unwrap();
        let output =
            Executor::<f32>::new(&network.graph, 1).unwrap().forward_eval(&params, &input, 1).to_vec();
        let manifest = ModelManifest {
            name: "fashion".into(),
            artifact: ArtifactRef { digest: Digest::of(&bytes), size: ByteSize(bytes.len() as u64) },
            input_shape: [channels as u32, height as u32, width as u32],
            mean: vec![0.286; channels],
            std: vec![0.353; channels],
            classes: output.len() as u32,
            self_test: SelfTest { input, output, tolerance: 1e-3 },
        };
        Self { bytes, manifest }
    }

    pub(crate) fn digest(&self) -> Digest {
        self.manifest.artifact.digest
    }

    pub(crate) fn assignment(&self, generation: u64) -> Assignment {
        Assignment {
            device: "gw-1".parse().unwrap(),
            probation: Default::default(),
            generation: Generation(generation),
            deployment: "fashion".into(),
            model: self.manifest.clone(),
        }
    }
}
