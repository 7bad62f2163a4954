//! Initial weights: Kaiming normal, each tensor from its own random stream. Never depends on another layer.

use std::f64::consts::TAU;

use candle_core::{Device, Tensor};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::graph::tensor::{TensorKind, TensorSpec};
use crate::graph::{Graph, Weights};

/// Fresh weights for every tensor of `graph`.
///
/// Weights are normal with variance 2 / fan-in (He et al. 2015), biases 0, batch norms 1, 0, 0 and 1, slopes 1/4, constants 0. The
/// random stream is keyed by `seed` and the tensor's name: a tensor of one name and shape is always the same.
pub fn init(graph: &Graph, seed: u64) -> Weights {
    let specs: Vec<TensorSpec> = graph.tensors().collect();
    specs.par_iter().map(|spec| (spec.name.clone(), tensor(spec, seed))).collect()
}

/// Fresh values of one tensor, as [`init`] gives them.
pub(crate) fn tensor(spec: &TensorSpec, seed: u64) -> Tensor {
    let values = match spec.kind {
        TensorKind::Weight => kaiming(spec, seed),
        TensorKind::Bias | TensorKind::Shift | TensorKind::RunningMean | TensorKind::Value => {
            vec![0.0; spec.numel()]
        }
        TensorKind::Slope => vec![0.25; spec.numel()],
        TensorKind::Scale | TensorKind::RunningVar => vec![1.0; spec.numel()],
    };
    Tensor::from_vec(values, spec.dims.as_slice(), &Device::Cpu).expect("as many values as the shape has")
}

fn kaiming(spec: &TensorSpec, seed: u64) -> Vec<f32> {
    let fan_in: usize = spec.dims[1..].iter().product();
    let deviation = (2.0 / fan_in as f64).sqrt();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream(&spec.name));
    let mut values = Vec::with_capacity(spec.numel() + 1);
    while values.len() < spec.numel() {
        let (first, second) = normal_pair(&mut rng);
        values.extend([(deviation * first) as f32, (deviation * second) as f32]);
    }
    values.truncate(spec.numel());
    values
}

/// Two independent standard normal numbers (Box and Muller 1958).
fn normal_pair(rng: &mut ChaCha8Rng) -> (f64, f64) {
    let open_unit: f64 = 1.0 - rng.random::<f64>();
    let radius = (-2.0 * open_unit.ln()).sqrt();
    let (sin, cos) = (TAU * rng.random::<f64>()).sin_cos();
    (radius * cos, radius * sin)
}

/// The stream's number: 64-bit FNV-1a of the name.
fn stream(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests;
