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

    /// So many operators in a row, each of which leaves positive numbers as they are.
    pub(crate) fn chain(length: usize) -> Self {
        let image = [1, 2, 2];
        let mut graph = Vec::new();
        let mut node = |operator: &str, input: &str, output: &str| {
            let fields = [(1, input), (2, output), (3, output), (4, operator)];
            graph.extend(field(1, &fields.map(|(number, text)| field(number, text.as_bytes())).concat()));
        };
        for index in 0..length {
            node("Relu", &format!("v{index}"), &format!("v{}", index + 1));
        }
        node("Flatten", &format!("v{length}"), "y");
        graph.extend(field(2, b"chain"));
        graph.extend(field(11, &value("v0", &[1, 2, 2])));
        graph.extend(field(12, &value("y", &[4])));
        // Version 8 of the format, version 17 of the operators.
        let bytes = [vec![0x08, 8], field(7, &graph), field(8, &[0x10, 17])].concat();
        let numbers = vec![1.0, 2.0, 3.0, 4.0];
        let manifest = ModelManifest {
            name: "fashion".into(),
            artifact: ArtifactRef { digest: Digest::of(&bytes), size: ByteSize(bytes.len() as u64) },
            input_shape: image,
            mean: vec![0.0],
            std: vec![1.0],
            classes: 4,
            self_test: SelfTest { input: numbers.clone(), output: numbers, tolerance: 1e-3 },
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

/// A field of protobuf that has a length.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut head = vec![number << 3 | 2];
    prost::encoding::encode_varint(bytes.len() as u64, &mut head);
    [head.as_slice(), bytes].concat()
}

/// What ONNX says of a value: a batch of 32-bit numbers in these dimensions.
fn value(name: &str, dims: &[u8]) -> Vec<u8> {
    let batch = field(1, &field(2, b"N"));
    let shape = dims.iter().fold(batch, |shape, &dim| [shape, field(1, &[0x08, dim])].concat());
    let tensor = [vec![0x08, 1], field(2, &shape)].concat();
    [field(1, name.as_bytes()), field(2, &field(1, &tensor))].concat()
}
