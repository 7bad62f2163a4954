//! The numbers of the file's tensors, batch norms folded in where asked. Checks every tensor that it reads.

use candle_core::Tensor;

use super::OnnxError;
use super::lower::{Initializer, Source};
use crate::graph::tensor::TensorKind;
use crate::graph::{Network, NodeId, Op};

impl Initializer {
    /// Bytes of its numbers.
    pub(super) fn raw_len(&self) -> usize {
        let width = match self.source {
            Source::Stored { .. }
            | Source::FoldedWeight { .. }
            | Source::FoldedBias { .. }
            | Source::Floats(_) => 4,
            Source::Integers(_) => 8,
            Source::Encoded(_) => unreachable!("it is written as it was read"),
        };
        width * self.dims.iter().product::<usize>()
    }
}

/// The initializer's numbers, little endian.
pub(super) fn raw_data(network: &Network, initializer: &Initializer) -> Result<Vec<u8>, OnnxError> {
    let values = match &initializer.source {
        Source::Stored { dims } => read(network, &initializer.name, dims)?,
        Source::Floats(values) => values.clone(),
        Source::FoldedWeight { layer, norm } => {
            let weight = read(network, &initializer.name, &initializer.dims)?;
            let affine = affine(network, *layer, *norm)?;
            let row = weight.len() / affine.len();
            let rows = weight.chunks_exact(row).zip(&affine);
            rows.flat_map(|(row, (factor, _))| row.iter().map(move |w| (f64::from(*w) * factor) as f32))
                .collect()
        }
        Source::FoldedBias { layer, norm } => {
            affine(network, *layer, *norm)?.iter().map(|(_, shift)| *shift as f32).collect()
        }
        Source::Integers(values) => return Ok(values.iter().flat_map(|value| value.to_le_bytes()).collect()),
        Source::Encoded(_) => unreachable!("it is written as it was read"),
    };
    Ok(values.into_iter().flat_map(f32::to_le_bytes).collect())
}

/// Per channel what the batch norm makes of a layer's output without its bias: x * factor + shift, where
/// factor = gamma / sqrt(var + eps) and shift = beta + (bias - mean) * factor.
fn affine(network: &Network, layer: NodeId, norm: NodeId) -> Result<Vec<(f64, f64)>, OnnxError> {
    let (layer, norm) = (network.graph.node(layer), network.graph.node(norm));
    let Op::BatchNorm { channels, eps } = norm.op else {
        unreachable!("only batch norms are folded");
    };
    let of_norm = |kind| read(network, &norm.tensor_name(kind), &[channels]);
    let (gamma, beta) = (of_norm(TensorKind::Scale)?, of_norm(TensorKind::Shift)?);
    let (mean, var) = (of_norm(TensorKind::RunningMean)?, of_norm(TensorKind::RunningVar)?);
    let has_bias = layer.tensors().iter().any(|spec| spec.kind == TensorKind::Bias);
    let bias = if has_bias {
        read(network, &layer.tensor_name(TensorKind::Bias), &[channels])?
    } else {
        vec![0.0; channels]
    };
    let channel = |i: usize| {
        let factor = f64::from(gamma[i]) / (f64::from(var[i]) + eps).sqrt();
        (factor, f64::from(beta[i]) + (f64::from(bias[i]) - f64::from(mean[i])) * factor)
    };
    Ok((0..channels).map(channel).collect())
}

fn read(network: &Network, name: &str, dims: &[usize]) -> Result<Vec<f32>, OnnxError> {
    let tensor =
        network.weights.get(name).ok_or_else(|| OnnxError::MissingTensor { tensor: name.to_owned() })?;
    if tensor.dims() != dims {
        let (expected, got) = (dims.to_vec(), tensor.dims().to_vec());
        return Err(OnnxError::TensorShape { tensor: name.to_owned(), expected, got });
    }
    let values = tensor.flatten_all().and_then(|flat: Tensor| flat.to_vec1());
    values.map_err(|source| OnnxError::Read { tensor: name.to_owned(), source })
}
