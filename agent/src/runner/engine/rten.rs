//! One model in rten, the engine that every agent has. Owns which operators a model may have; `shapes` lists those of them
//! that take shapes.

use std::sync::Arc;

use rten::{Dimension, Model, ModelOptions, NodeId, RunOptions, ThreadPool, op_registry};
use rten_tensor::{NdTensorView, Tensor};

use super::{Choice, Engine, EngineError, EngineKind, Run, guard};
use crate::runner::{framing, shapes};

/// The engine's version in the profile: the one that the workspace's lock file pins.
pub const VERSION: &str = "0.27.0";

/// Numbers in one input at most.
const INPUT_LIMIT: usize = 64 << 20;

struct Loaded {
    model: Model,
    input: NodeId,
    output: NodeId,
    shape: [usize; 3],
    options: RunOptions,
    pool: Arc<ThreadPool>,
}

/// Loads an ONNX model; one inference uses `threads` threads, which are this engine's alone.
pub fn load(bytes: Vec<u8>, threads: usize) -> Result<Engine, EngineError> {
    framing::check(&bytes)?;
    shapes::check(&bytes)?;
    let loaded = guard("loading", || Loaded::load(bytes, threads))?;
    let choice = Choice { engine: EngineKind::Rten, threads };
    Ok(Engine::new(choice, loaded.shape, loaded))
}

impl Loaded {
    fn load(bytes: Vec<u8>, threads: usize) -> Result<Self, EngineError> {
        // Feed-forward operators only: a model with loops or branches has no latency that could be budgeted.
        let ops = op_registry!(
            Add,
            AveragePool,
            BatchNormalization,
            Clip,
            Concat,
            Conv,
            Div,
            Flatten,
            Gemm,
            GlobalAveragePool,
            HardSigmoid,
            HardSwish,
            Identity,
            LeakyRelu,
            MatMul,
            MaxPool,
            Mul,
            PRelu,
            Pad,
            ReduceMean,
            Relu,
            Reshape,
            Resize,
            Sigmoid,
            Slice,
            Softmax,
            Squeeze,
            Sub,
            Tanh,
            Transpose,
            Unsqueeze
        );
        let model = ModelOptions::with_ops(ops).load(bytes).map_err(|e| EngineError::Load(e.to_string()))?;
        let ([input], [output]) = (model.input_ids(), model.output_ids()) else {
            let got = format!("{} inputs and {} outputs", model.input_ids().len(), model.output_ids().len());
            return Err(EngineError::Interface {
                what: "interface",
                expected: "one input and one output",
                got,
            });
        };
        let (input, output) = (*input, *output);
        let shape = image_shape(&model)?;
        let pool = Arc::new(ThreadPool::with_num_threads(threads));
        let options = RunOptions::default().with_thread_pool(Some(pool.clone()));
        Ok(Self { model, input, output, shape, options, pool })
    }
}

impl Run for Loaded {
    fn run(&self, image: &[f32]) -> Result<Vec<f32>, EngineError> {
        let [c, h, w] = self.shape;
        let view = NdTensorView::from_data([1, c, h, w], image);
        let outputs = self
            .model
            .run(vec![(self.input, view.into())], &[self.output], Some(self.options.clone()))
            .map_err(|error| EngineError::Run(error.to_string()))?;
        let value = outputs.into_iter().next().expect("one output was asked for");
        let tensor: Tensor<f32> = value.try_into().map_err(|_| EngineError::Interface {
            what: "output",
            expected: "32-bit floating point",
            got: "another type".to_owned(),
        })?;
        Ok(tensor.into_data())
    }

    fn enter(&self, work: &mut (dyn FnMut() + Send)) {
        self.pool.run(work);
    }
}

fn image_shape(model: &Model) -> Result<[usize; 3], EngineError> {
    let dims = model.input_shape(0).unwrap_or_default();
    let shape = match dims.as_slice() {
        [_, Dimension::Fixed(c), Dimension::Fixed(h), Dimension::Fixed(w)] => Some([*c, *h, *w]),
        _ => None,
    };
    let numel =
        |shape: &[usize; 3]| shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).unwrap_or(usize::MAX);
    shape.filter(|shape| (1..=INPUT_LIMIT).contains(&numel(shape))).ok_or_else(|| EngineError::Interface {
        what: "input",
        expected: "images of fixed channels, height and width",
        got: format!("{dims:?}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_that_of_the_lock_file() {
        let lock = include_str!("../../../../Cargo.lock");
        assert!(lock.contains(&format!("name = \"rten\"\nversion = \"{VERSION}\"\n")));
    }

    #[test]
    fn bytes_that_are_no_model_are_an_error() {
        for bytes in [&b""[..], b"not a model", &[0xff; 64], &[0x08, 0x08, 0x3a, 0x00]] {
            assert!(load(bytes.to_vec(), 1).is_err());
        }
    }

    #[test]
    fn a_model_that_takes_memory_as_its_image_says_is_refused() {
        let bytes = include_bytes!("../../../tests/it/data/resizes_by_its_image.onnx");
        let refused = load(bytes.to_vec(), 1).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(refused.starts_with("how large the output of its Resize 'r' is depends"), "{refused}");
    }
}
