//! Where each tensor of a network lies in one flat vector of numbers, in the nodes' order.

use std::ops::Range;

use candle_core::{Device, Tensor};

use super::ExecError;
use super::scalar::Scalar;
use crate::graph::{Graph, NodeId, Weights};

pub use crate::graph::tensor::TensorKind as Role;

/// Every tensor of a graph, one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParamLayout {
    entries: Vec<ParamEntry>,
    len: usize,
}

/// One tensor's name and place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParamEntry {
    /// Its name in the weights.
    pub tensor: String,
    /// Whose it is.
    pub node: NodeId,
    /// What the node uses it for.
    pub role: Role,
    /// Its dimensions, row-major.
    pub dims: Vec<usize>,
    /// Its place in the flat vector.
    pub range: Range<usize>,
}

impl ParamEntry {
    /// A copy of this tensor. Fails where it is missing or has another shape.
    pub(crate) fn read(&self, weights: &Weights) -> Result<Vec<f32>, ExecError> {
        let name = || self.tensor.clone();
        let tensor = weights.get(&self.tensor).ok_or_else(|| ExecError::Missing { tensor: name() })?;
        if tensor.dims() != self.dims {
            let (expected, got) = (self.dims.clone(), tensor.dims().to_vec());
            return Err(ExecError::Shape { tensor: name(), expected, got });
        }
        let read = tensor.flatten_all().and_then(|flat| flat.to_vec1::<f32>());
        read.map_err(|source| ExecError::Tensor { tensor: name(), source })
    }
}

impl ParamLayout {
    /// The tensors that `graph` needs.
    pub fn of(graph: &Graph) -> Self {
        let mut layout = Self { entries: Vec::new(), len: 0 };
        for (index, node) in graph.nodes().iter().enumerate() {
            for spec in node.tensors() {
                let start = layout.len;
                layout.len += spec.numel();
                let (tensor, role, dims) = (spec.name, spec.kind, spec.dims);
                layout.entries.push(ParamEntry {
                    tensor,
                    node: NodeId(index),
                    role,
                    dims,
                    range: start..layout.len,
                });
            }
        }
        layout
    }

    /// The tensors, in the nodes' order.
    pub fn entries(&self) -> &[ParamEntry] {
        &self.entries
    }

    /// Numbers in all, running statistics included.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the graph has no tensors at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies named tensors into one vector. A missing tensor or one of another shape is an error; others are ignored.
    pub fn gather<T: Scalar>(&self, weights: &Weights) -> Result<Vec<T>, ExecError> {
        let mut values = Vec::with_capacity(self.len);
        for entry in &self.entries {
            values.extend(entry.read(weights)?.into_iter().map(T::from_f32));
        }
        Ok(values)
    }

    /// The vector's numbers as named tensors. A vector of another length is an error.
    pub fn scatter(&self, values: &[f32]) -> Result<Weights, ExecError> {
        if values.len() != self.len {
            return Err(ExecError::Length { expected: self.len, got: values.len() });
        }
        let tensor = |entry: &ParamEntry| {
            Tensor::from_slice(&values[entry.range.clone()], entry.dims.as_slice(), &Device::Cpu)
                .map(|tensor| (entry.tensor.clone(), tensor))
                .map_err(|source| ExecError::Tensor { tensor: entry.tensor.clone(), source })
        };
        self.entries.iter().map(tensor).collect()
    }

    /// The place of one of a node's tensors.
    pub(super) fn range(&self, node: NodeId, role: Role) -> Option<Range<usize>> {
        self.entry(node, role).map(|entry| entry.range.clone())
    }

    /// One of a node's tensors.
    pub(crate) fn entry(&self, node: NodeId, role: Role) -> Option<&ParamEntry> {
        let first = self.entries.partition_point(|entry| entry.node < node);
        let mut own = self.entries[first..].iter().take_while(|entry| entry.node == node);
        own.find(|entry| entry.role == role)
    }
}
