//! Our operators to ONNX's: value names, ranks, and the list of initializers. Owns naming and ranks; the operators are
//! in `operators`. Never reads a number.

mod operators;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::BatchNorms;
use super::schema::{self, Attribute};
use crate::graph::tensor::{TensorKind, TensorSpec};
use crate::graph::{Batch, Graph, Node, NodeId, Op, Output, Shape, fold};

/// A graph in ONNX's terms, before any weight is filled in.
pub(super) struct Lowered {
    /// Without initializers.
    pub(super) graph: schema::Graph,
    /// In the order in which they are written.
    pub(super) initializers: Vec<Initializer>,
    /// The version of the operators.
    pub(super) opset: u32,
}

/// A tensor of the file.
pub(super) struct Initializer {
    pub(super) name: String,
    pub(super) dims: Vec<usize>,
    pub(super) source: Source,
}

/// Where an initializer's numbers come from.
#[derive(Clone)]
pub(super) enum Source {
    /// The network's tensor of the same name, which has these dimensions.
    Stored { dims: Vec<usize> },
    /// The layer's weight with the batch norm folded in.
    FoldedWeight { layer: NodeId, norm: NodeId },
    /// The layer's bias, or zeros, with the batch norm folded in.
    FoldedBias { layer: NodeId, norm: NodeId },
    /// These integers.
    Integers(Vec<i64>),
    /// These numbers.
    Floats(Vec<f32>),
    /// An encoded `TensorProto`, to be renamed.
    Encoded(Arc<[u8]>),
}

/// What files without opaque nodes are written in.
const OPSET: u32 = 17;

/// The version of the operators in the file of `graph`: opaque nodes are written as they were read.
pub(super) fn opset(graph: &Graph) -> u32 {
    let is_opaque = |node: &Node| matches!(node.op, Op::Opaque(_));
    if graph.nodes().iter().any(is_opaque) { graph.interface().opset } else { OPSET }
}

/// Lowers `graph`; where `norms` says so, batch norms that can be folded leave no node behind.
pub(super) fn lower(graph: &Graph, norms: BatchNorms) -> Lowered {
    let folded_into = match norms {
        BatchNorms::Folded => fold::folded_into(graph),
        BatchNorms::Kept => vec![None; graph.nodes().len()],
    };
    let mut norm_of = vec![None; graph.nodes().len()];
    for (index, layer) in folded_into.iter().enumerate() {
        if let Some(layer) = layer {
            norm_of[layer.0] = Some(NodeId(index));
        }
    }
    let (values, nodes, initializers) = (Vec::new(), Vec::new(), Vec::new());
    let mut lowering = Lowering { graph, opset: opset(graph), values, nodes, initializers };
    for (index, node) in graph.nodes().iter().enumerate() {
        let value = match folded_into[index] {
            Some(layer) => lowering.values[layer.0].clone(),
            None => lowering.node(NodeId(index), node, norm_of[index]),
        };
        lowering.values.push(value);
    }
    lowering.finish()
}

/// A vector is [N, n] (rank 2) or, behind convolutions and poolings, [N, n, 1, 1] (rank 4).
const VECTOR: usize = 2;
const IMAGE: usize = 4;

#[derive(Clone)]
struct Value {
    name: String,
    rank: usize,
    shape: Shape,
}

struct Lowering<'a> {
    graph: &'a Graph,
    opset: u32,
    /// Of every node so far.
    values: Vec<Value>,
    nodes: Vec<schema::Node>,
    initializers: Vec<Initializer>,
}

/// Whose tensors, and the batch norm that is folded into them.
#[derive(Clone, Copy)]
struct Tensors {
    id: NodeId,
    norm: Option<NodeId>,
}

impl Lowering<'_> {
    /// A node of one output that is called as ours is.
    fn plain(
        &mut self,
        (id, node): (NodeId, &Node),
        op_type: &str,
        inputs: Vec<Value>,
        attribute: Vec<Attribute>,
    ) -> Value {
        let (name, rank) = (format!("{}.out", node.name), inputs[0].rank);
        let inputs = inputs.into_iter().map(|value| value.name).collect();
        self.emit(&node.name, op_type, inputs, &name, attribute);
        Value { name, rank, shape: self.graph.shape(id) }
    }

    /// An operator that has tensors: they follow the one value it reads.
    fn operator(
        &mut self,
        node: &Node,
        op_type: &str,
        mut inputs: Vec<Value>,
        attributes: Vec<Attribute>,
        tensors: Tensors,
    ) -> Value {
        for initializer in tensors.of(node) {
            inputs.push(Value { name: initializer.name.clone(), ..inputs[0].clone() });
            self.initializers.push(initializer);
        }
        self.plain((tensors.id, node), op_type, inputs, attributes)
    }

    /// A further input that is known beforehand: a scalar where `dims` is empty.
    fn constant(&mut self, name: String, dims: Vec<usize>, source: Source) -> String {
        self.initializers.push(Initializer { name: name.clone(), dims, source });
        name
    }

    fn integers(&mut self, name: String, values: Vec<i64>) -> String {
        self.constant(name, vec![values.len()], Source::Integers(values))
    }

    /// The value as the reader needs it, reshaped on the way if it must be.
    fn ranked(&mut self, value: Value, rank: usize, reader: &str) -> Value {
        if value.rank == rank {
            return value;
        }
        let name = format!("{reader}.view");
        let Value { shape, .. } = value;
        match (value.rank, rank) {
            (_, VECTOR) => {
                let attributes = vec![Attribute::int("axis", 1)];
                self.emit(&name, "Flatten", vec![value.name], &name, attributes);
            }
            (VECTOR, IMAGE) if shape.area() == 1 && self.opset >= 13 => {
                self.emit(&name, "Unsqueeze", vec![value.name, SPATIAL_AXES.to_owned()], &name, Vec::new());
                if self.initializers.iter().all(|initializer| initializer.name != SPATIAL_AXES) {
                    self.integers(SPATIAL_AXES.to_owned(), vec![2, 3]);
                }
            }
            _ => {
                // The batch's dimension is copied; rank 3 is channels and positions.
                let dims = match rank {
                    IMAGE => vec![0, shape.channels as i64, shape.height as i64, shape.width as i64],
                    _ => vec![0, shape.channels as i64, shape.area() as i64],
                };
                let dims = self.integers(format!("{name}.shape"), dims);
                self.emit(&name, "Reshape", vec![value.name, dims], &name, Vec::new());
            }
        }
        Value { name, rank, shape }
    }

    fn emit(
        &mut self,
        name: &str,
        op_type: &str,
        input: Vec<String>,
        output: &str,
        attribute: Vec<Attribute>,
    ) {
        self.nodes.push(schema::Node {
            input,
            output: vec![output.to_owned()],
            name: Some(name.to_owned()),
            op_type: Some(op_type.to_owned()),
            attribute,
            domain: None,
        });
    }

    fn finish(mut self) -> Lowered {
        let interface = self.graph.interface();
        let last = self.graph.node(self.graph.output());
        let ends = match last.op {
            Op::Outputs => last.inputs.clone(),
            _ => vec![self.graph.output()],
        };
        let (mut outputs, mut named) = (Vec::new(), BTreeMap::<String, String>::new());
        for (id, Output { name, rank }) in ends.iter().zip(&interface.outputs) {
            let value = self.ranked(self.values[id.0].clone(), *rank, name);
            outputs.push(described(name, &value, &interface.batch));
            // What is an output already goes by that name.
            self.name_output(named.get(&value.name).unwrap_or(&value.name), name);
            named.insert(value.name, name.clone());
        }
        let image = &self.values[0];
        let graph = schema::Graph {
            input: vec![described(&image.name, image, &interface.batch)],
            node: self.nodes,
            name: Some("network".to_owned()),
            initializer: Vec::new(),
            output: outputs,
        };
        Lowered { graph, initializers: self.initializers, opset: self.opset }
    }

    /// Calls a value as the interface does; what is the image itself, or an output already, is copied.
    fn name_output(&mut self, value: &str, name: &str) {
        let is_output = self.graph.interface().outputs.iter().any(|output| output.name == value);
        let mut written = self.nodes.iter_mut().flat_map(|node| &mut node.output);
        match written.find(|output| **output == *value && !is_output) {
            Some(output) => {
                name.clone_into(output);
                let readers = self.nodes.iter_mut().flat_map(|node| &mut node.input);
                readers.filter(|input| **input == *value).for_each(|input| name.clone_into(input));
            }
            None => self.emit(&format!("{name}.copy"), "Identity", vec![value.to_owned()], name, Vec::new()),
        }
    }
}

const SPATIAL_AXES: &str = "spatial_axes";

/// A tensor at the graph's border.
fn described(name: &str, value: &Value, batch: &Batch) -> schema::Value {
    let Shape { channels, height, width } = value.shape;
    let dims = match value.rank {
        VECTOR => vec![value.shape.numel()],
        IMAGE => vec![channels, height, width],
        3 => vec![channels, height * width],
        // Its dimensions are not ours to say.
        _ => return schema::Value::of_rank(name, value.rank),
    };
    schema::Value::batch_of(name, batch, &dims)
}

impl Tensors {
    fn of(self, node: &Node) -> Vec<Initializer> {
        let stored = node.tensors().into_iter();
        let Some(norm) = self.norm else {
            let initializer = |TensorSpec { name, dims, .. }: TensorSpec| Initializer {
                name,
                source: Source::Stored { dims: dims.clone() },
                dims,
            };
            return stored.map(initializer).collect();
        };
        let layer = self.id;
        let weight = stored.into_iter().find(|spec| spec.kind == TensorKind::Weight);
        let TensorSpec { name, dims, .. } = weight.expect("a layer that takes a batch norm in has a weight");
        let bias = Initializer {
            name: node.tensor_name(TensorKind::Bias),
            dims: vec![dims[0]],
            source: Source::FoldedBias { layer, norm },
        };
        vec![Initializer { name, dims, source: Source::FoldedWeight { layer, norm } }, bias]
    }
}
