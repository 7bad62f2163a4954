//! Writes a network as an ONNX file: opset 17, IR 8, input `input` [N, c, h, w], output `logits` [N, classes].
//! Owns the bytes, the same for the same network; reads and writes no path.

mod fill;
mod lower;
mod schema;

use prost::Message;
use prost::encoding::{encoded_len_varint, key_len};

use self::lower::{Initializer, Lowered, Source, lower};
use super::{Graph, Interface, Network};

/// What becomes of batch norms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchNorms {
    /// Melt into the convolution or linear layer before them, where there is one that nothing else reads.
    Folded,
    /// Stay operators of their own.
    Kept,
}

/// Why a network cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum OnnxError {
    /// The weights lack a tensor.
    #[error("the weights have no tensor '{tensor}'")]
    MissingTensor {
        /// Its name.
        tensor: String,
    },
    /// A tensor is not of the shape that the graph needs.
    #[error("tensor '{tensor}' is {got:?} where the graph needs {expected:?}")]
    TensorShape {
        /// Its name.
        tensor: String,
        /// The graph's dimensions.
        expected: Vec<usize>,
        /// The weights' dimensions.
        got: Vec<usize>,
    },
    /// A tensor's numbers are not f32 on the CPU.
    #[error("tensor '{tensor}' cannot be read")]
    Read {
        /// Its name.
        tensor: String,
        /// Why.
        source: candle_core::Error,
    },
}

/// The file's bytes. Fails where the weights lack a tensor or have one of another shape or type.
pub fn encode(network: &Network, norms: BatchNorms) -> Result<Vec<u8>, OnnxError> {
    let Lowered { mut graph, initializers, opset } = lower(&network.graph, norms);
    for initializer in initializers {
        graph.initializer.push(match carried(&initializer) {
            Some(tensor) => tensor,
            None => {
                let raw_data = fill::raw_data(network, &initializer)?;
                schema::Tensor { raw_data: Some(raw_data), ..header(initializer) }
            }
        });
    }
    Ok(model(graph, opset, network.graph.interface()).encode_to_vec())
}

/// The length of [`encode`]'s bytes with [`BatchNorms::Folded`], from the structure alone.
pub fn encoded_len(graph: &Graph) -> u64 {
    let interface = graph.interface();
    let Lowered { graph, initializers, opset } = lower(graph, BatchNorms::Folded);
    let mut graph_len = graph.encoded_len();
    for initializer in initializers {
        let tensor_len = match carried(&initializer) {
            Some(tensor) => tensor.encoded_len(),
            None => {
                let raw_len = initializer.raw_len();
                header(initializer).encoded_len() + field_len(schema::RAW_DATA_TAG, raw_len)
            }
        };
        graph_len += field_len(schema::INITIALIZER_TAG, tensor_len);
    }
    let around = schema::Model { graph: None, ..model(schema::Graph::default(), opset, interface) };
    (around.encoded_len() + field_len(schema::GRAPH_TAG, graph_len)) as u64
}

/// A tensor that is written as it was read, but for its name.
fn carried(initializer: &Initializer) -> Option<schema::Tensor> {
    let Source::Encoded(bytes) = &initializer.source else { return None };
    let tensor = schema::Tensor::decode(&**bytes).unwrap_or_default();
    Some(schema::Tensor { name: Some(initializer.name.clone()), ..tensor })
}

/// A length-delimited field of `len` bytes: key, length, bytes.
fn field_len(tag: u32, len: usize) -> usize {
    key_len(tag) + encoded_len_varint(len as u64) + len
}

fn model(graph: schema::Graph, opset: u32, interface: &Interface) -> schema::Model {
    let set = |domain: &str, version: u32| schema::OperatorSet {
        domain: Some(domain.to_owned()),
        version: Some(i64::from(version)),
    };
    let others = interface.domains.iter().map(|(domain, version)| set(domain, *version));
    schema::Model {
        ir_version: Some(8),
        producer_name: Some("reconvene".to_owned()),
        graph: Some(graph),
        opset_import: std::iter::once(set("", opset)).chain(others).collect(),
    }
}

/// The tensor's message without its numbers.
fn header(initializer: Initializer) -> schema::Tensor {
    schema::Tensor {
        dims: initializer.dims.iter().map(|dim| *dim as i64).collect(),
        data_type: Some(match &initializer.source {
            Source::Stored { .. }
            | Source::FoldedWeight { .. }
            | Source::FoldedBias { .. }
            | Source::Floats(_) => schema::FLOAT,
            Source::Integers(_) => schema::INT64,
            Source::Encoded(_) => unreachable!("it is written as it was read"),
        }),
        name: Some(initializer.name),
        ..schema::Tensor::default()
    }
}

#[cfg(test)]
mod tests;
//STUB-BEGIN
/// x
pub struct Import {
    /// x
    pub network: Network,
    /// x
    pub notes: Vec<String>,
}
/// x
#[derive(Debug, thiserror::Error)]
#[error("x")]
pub struct ReadError;
/// x
pub fn decode(_: &[u8]) -> Result<Import, ReadError> {
    Err(ReadError)
}
//STUB-END
