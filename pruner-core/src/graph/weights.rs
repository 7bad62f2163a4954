//! Weights as safetensors files, which PyTorch and most other tools read and write. Trusts nothing that it reads; touches
//! no path.

use std::collections::{BTreeMap, HashMap};

use candle_core::{Device, Tensor};
use safetensors::SafeTensorError;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::tensor::TensorSpec;
use super::{Graph, Weights};

/// Why a file is not a network's weights.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// Not safetensors, or cut off.
    #[error("it is no safetensors file: {problem}")]
    Format {
        /// What is wrong.
        problem: String,
    },
    /// Tensors of the network are not there.
    #[error("it lacks {}", listed(.names))]
    Missing {
        /// Their names.
        names: Vec<String>,
    },
    /// The network has no such tensors.
    #[error("the network has no tensor {}", listed(.names))]
    Unknown {
        /// Their names.
        names: Vec<String>,
    },
    /// A tensor of another shape.
    #[error("tensor '{tensor}' is {got:?} where the network needs {expected:?}")]
    Shape {
        /// Its name.
        tensor: String,
        /// The network's dimensions.
        expected: Vec<usize>,
        /// The file's dimensions.
        got: Vec<usize>,
    },
    /// A tensor of other numbers.
    #[error("tensor '{tensor}' holds {found} where f32 is needed; write it as f32")]
    Type {
        /// Its name.
        tensor: String,
        /// What it holds.
        found: String,
    },
    /// Infinite, or not a number: the training went wrong.
    #[error("tensor '{tensor}' has {value} at index {index}: the training has diverged")]
    NotFinite {
        /// Its name.
        tensor: String,
        /// Where, flat.
        index: usize,
        /// What stands there.
        value: f32,
    },
    /// The weights in memory are not f32 on the CPU.
    #[error("tensor '{tensor}' cannot be read")]
    Read {
        /// Its name.
        tensor: String,
        /// Why.
        source: candle_core::Error,
    },
}

/// PyTorch counts the batches that a batch norm has seen; nothing is computed from it.
const BATCH_COUNTER: &str = ".num_batches_tracked";

/// The file's bytes: every tensor by its name, f32. The same weights make the same bytes.
pub fn encode(weights: &Weights) -> Result<Vec<u8>, WeightsError> {
    let mut tensors = Vec::new();
    for (name, tensor) in weights {
        let values: Vec<f32> = tensor
            .flatten_all()
            .and_then(|flat| flat.to_vec1())
            .map_err(|source| WeightsError::Read { tensor: name.clone(), source })?;
        tensors.push((name.as_str(), tensor.dims().to_vec(), to_bytes(&values)));
    }
    let format = |problem: SafeTensorError| WeightsError::Format { problem: problem.to_string() };
    let views = tensors.iter().map(|(name, dims, bytes)| {
        TensorView::new(Dtype::F32, dims.clone(), bytes).map(|view| (*name, view))
    });
    let views = views.collect::<Result<Vec<_>, _>>().map_err(format)?;
    // What other writers say of the names: they are PyTorch's.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize(views, Some(metadata)).map_err(format)
}

/// The weights of `graph` that `file` holds: every tensor of the graph, of its shape, f32 and finite, and no other.
pub fn decode(graph: &Graph, file: &[u8]) -> Result<Weights, WeightsError> {
    let format = |problem: SafeTensorError| WeightsError::Format { problem: problem.to_string() };
    let tensors = SafeTensors::deserialize(file).map_err(format)?;
    let specs: BTreeMap<String, TensorSpec> = graph.tensors().map(|spec| (spec.name.clone(), spec)).collect();
    let found: BTreeMap<String, TensorView<'_>> =
        tensors.tensors().into_iter().filter(|(name, _)| !name.ends_with(BATCH_COUNTER)).collect();
    let missing: Vec<String> = specs.keys().filter(|name| !found.contains_key(*name)).cloned().collect();
    if !missing.is_empty() {
        return Err(WeightsError::Missing { names: missing });
    }
    let unknown: Vec<String> = found.keys().filter(|name| !specs.contains_key(*name)).cloned().collect();
    if !unknown.is_empty() {
        return Err(WeightsError::Unknown { names: unknown });
    }
    specs.into_values().map(|spec| tensor(&found[&spec.name], spec)).collect()
}

fn tensor(
    view: &TensorView<'_>,
    TensorSpec { name, dims, .. }: TensorSpec,
) -> Result<(String, Tensor), WeightsError> {
    if view.shape() != dims {
        return Err(WeightsError::Shape { tensor: name, expected: dims, got: view.shape().to_vec() });
    }
    let Some(values) = to_numbers(view) else {
        return Err(WeightsError::Type { tensor: name, found: format!("{:?}", view.dtype()) });
    };
    if let Some(index) = values.iter().position(|value| !value.is_finite()) {
        return Err(WeightsError::NotFinite { tensor: name, index, value: values[index] });
    }
    let tensor = Tensor::from_vec(values, dims, &Device::Cpu);
    match tensor {
        Ok(tensor) => Ok((name, tensor)),
        Err(source) => Err(WeightsError::Read { tensor: name, source }),
    }
}

pub(crate) fn to_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// The numbers of a tensor; `None` where they are no f32.
pub(crate) fn to_numbers(view: &TensorView<'_>) -> Option<Vec<f32>> {
    let number = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().expect("chunks of four"));
    (view.dtype() == Dtype::F32).then(|| view.data().chunks_exact(4).map(number).collect())
}

/// The first few of many names.
fn listed(names: &[String]) -> String {
    const FEW: usize = 3;
    let few = names.iter().take(FEW).map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(FEW) {
        0 => few,
        more => format!("{few} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Shape;
    use crate::{init, zoo};

    fn network() -> (Graph, Weights) {
        let graph = zoo::build(zoo::ZooNetwork::ResNet20, Shape::new(1, 8, 8), 3).unwrap();
        let weights = init::init(&graph, 7);
        (graph, weights)
    }

    fn refusal(change: impl FnOnce(&mut Weights)) -> String {
        let (graph, mut weights) = network();
        change(&mut weights);
        decode(&graph, &encode(&weights).unwrap()).unwrap_err().to_string()
    }

    #[test]
    fn what_is_written_is_read_back_bit_for_bit() {
        let (graph, weights) = network();
        let file = encode(&weights).unwrap();
        let read = decode(&graph, &file).unwrap();
        assert_eq!(read.keys().collect::<Vec<_>>(), weights.keys().collect::<Vec<_>>());
        assert_eq!(encode(&read).unwrap(), file);
        for length in [0, 7, 8, file.len() / 2, file.len() - 1] {
            let error = decode(&graph, &file[..length]).unwrap_err().to_string();
            assert!(error.starts_with("it is no safetensors file: "), "{length}: {error}");
        }
    }

    #[test]
    fn names_shapes_and_numbers_are_checked() {
        let ones = |dims: &[usize]| Tensor::ones(dims, candle_core::DType::F32, &Device::Cpu).unwrap();
        assert_eq!(refusal(|weights| drop(weights.remove("fc.bias"))), "it lacks 'fc.bias'");
        assert!(refusal(Weights::clear).contains(" and "), "many names are not all listed");
        assert_eq!(
            refusal(|weights| drop(weights.insert("fc2.bias".into(), ones(&[1])))),
            "the network has no tensor 'fc2.bias'"
        );
        assert_eq!(
            refusal(|weights| drop(weights.insert("fc.bias".into(), ones(&[4])))),
            "tensor 'fc.bias' is [4] where the network needs [3]"
        );
        assert_eq!(
            refusal(|weights| {
                let diverged = Tensor::new(&[0.0, f32::NAN, 1.0], &Device::Cpu).unwrap();
                drop(weights.insert("fc.bias".into(), diverged));
            }),
            "tensor 'fc.bias' has NaN at index 1: the training has diverged"
        );
    }

    #[test]
    fn a_count_of_batches_is_no_weight_and_other_types_are_refused() {
        let (graph, weights) = network();
        let file = encode(&weights).unwrap();
        let tensors = SafeTensors::deserialize(&file).unwrap();
        let count = 5_i64.to_le_bytes();
        let with = |name: &'static str, dtype: Dtype, dims: &[usize], bytes: &[u8]| {
            let extra = TensorView::new(dtype, dims.to_vec(), bytes).unwrap();
            let kept = tensors.tensors().into_iter().filter(|(other, _)| other != name);
            let all = kept.chain([(name.to_owned(), extra)]);
            decode(&graph, &safetensors::serialize(all, None).unwrap())
        };
        with("bn1.num_batches_tracked", Dtype::I64, &[], &count).unwrap();
        let error = with("fc.bias", Dtype::F16, &[3], &[0; 6]).unwrap_err().to_string();
        assert_eq!(error, "tensor 'fc.bias' holds F16 where f32 is needed; write it as f32");
    }
}
