//! Our operators to ONNX's: nodes, value names and the list of initializers. Owns naming and ranks; never a number.

use super::BatchNorms;
use super::schema::{self, Attribute};
use crate::graph::tensor::{TensorKind, TensorSpec};
use crate::graph::{Activation, Binary, Conv, Divisor, Graph, Node, NodeId, Op, Padding, Window, fold};

/// A graph in ONNX's terms, before any weight is filled in.
pub(super) struct Lowered {
    /// Without initializers.
    pub(super) graph: schema::Graph,
    /// In the order in which they are written.
    pub(super) initializers: Vec<Initializer>,
}

/// A tensor of the file.
pub(super) struct Initializer {
    pub(super) name: String,
    pub(super) dims: Vec<usize>,
    pub(super) source: Source,
}

/// Where an initializer's numbers come from.
#[derive(Clone, Copy)]
pub(super) enum Source {
    /// The network's tensor of the same name.
    Stored,
    /// The layer's weight with the batch norm folded in.
    FoldedWeight { layer: NodeId, norm: NodeId },
    /// The layer's bias, or zeros, with the batch norm folded in.
    FoldedBias { layer: NodeId, norm: NodeId },
    /// The integers 2 and 3: the axes that a vector lacks to be an image of one pixel.
    SpatialAxes,
}

const INPUT: &str = "input";
const OUTPUT: &str = "logits";
const SPATIAL_AXES: &str = "spatial_axes";

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
    let mut lowering = Lowering { values: Vec::new(), nodes: Vec::new(), initializers: Vec::new() };
    for (index, node) in graph.nodes().iter().enumerate() {
        let value = match folded_into[index] {
            Some(layer) => lowering.values[layer.0].clone(),
            None => lowering.node(NodeId(index), node, norm_of[index]),
        };
        lowering.values.push(value);
    }
    lowering.finish(graph)
}

/// Vectors are [N, n] or, behind convolutions and poolings, [N, n, 1, 1].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rank {
    Vector,
    Image,
}

#[derive(Clone)]
struct Value {
    name: String,
    rank: Rank,
}

struct Lowering {
    /// Of every node so far.
    values: Vec<Value>,
    nodes: Vec<schema::Node>,
    initializers: Vec<Initializer>,
}

impl Lowering {
    fn node(&mut self, id: NodeId, node: &Node, norm: Option<NodeId>) -> Value {
        let read = |input: usize| self.values[node.inputs[input].0].clone();
        match &node.op {
            Op::Input => Value { name: INPUT.to_owned(), rank: Rank::Image },
            Op::Conv(conv) => {
                let x = self.ranked(read(0), Rank::Image, node);
                self.operator(node, "Conv", vec![x], conv_attributes(*conv), Tensors { id, norm })
            }
            Op::Linear { .. } => {
                let x = self.ranked(read(0), Rank::Vector, node);
                let attributes = vec![Attribute::int("transB", 1)];
                self.operator(node, "Gemm", vec![x], attributes, Tensors { id, norm })
            }
            Op::BatchNorm { eps, .. } => {
                let attributes = vec![Attribute::float("epsilon", *eps as f32)];
                let x = read(0);
                self.operator(node, "BatchNormalization", vec![x], attributes, Tensors { id, norm })
            }
            Op::Activation(Activation::Relu) => {
                let x = read(0);
                self.plain(node, "Relu", vec![x], Vec::new())
            }
            Op::Binary(Binary::Add) => {
                let (left, right) = (read(0), read(1));
                let rank = if left.rank == right.rank { left.rank } else { Rank::Vector };
                let inputs = vec![self.ranked(left, rank, node), self.ranked(right, rank, node)];
                self.plain(node, "Add", inputs, Vec::new())
            }
            Op::MaxPool(window) => self.pool(node, "MaxPool", read(0), window_attributes(*window)),
            Op::AvgPool { window, divisor } => {
                let mut attributes = window_attributes(*window);
                if *divisor == Divisor::Window {
                    attributes.push(Attribute::int("count_include_pad", 1));
                }
                self.pool(node, "AveragePool", read(0), attributes)
            }
            Op::GlobalAvgPool => self.pool(node, "GlobalAveragePool", read(0), Vec::new()),
            Op::Flatten => {
                let x = read(0);
                let value = self.plain(node, "Flatten", vec![x], vec![Attribute::int("axis", 1)]);
                Value { rank: Rank::Vector, ..value }
            }
            Op::Activation(_)
            | Op::PRelu { .. }
            | Op::Binary(_)
            | Op::Concat
            | Op::Slice { .. }
            | Op::Shuffle { .. }
            | Op::Pad { .. }
            | Op::Resize(_)
            | Op::Softmax
            | Op::Constant { .. }
            | Op::Opaque(_)
            | Op::Part { .. }
            | Op::Outputs => unreachable!("not written yet"),
        }
    }

    fn pool(&mut self, node: &Node, op_type: &str, input: Value, attributes: Vec<Attribute>) -> Value {
        let x = self.ranked(input, Rank::Image, node);
        self.plain(node, op_type, vec![x], attributes)
    }

    fn plain(&mut self, node: &Node, op_type: &str, inputs: Vec<Value>, attribute: Vec<Attribute>) -> Value {
        let value = Value { name: format!("{}.out", node.name), rank: inputs[0].rank };
        let inputs = inputs.into_iter().map(|value| value.name).collect();
        self.emit(&node.name, op_type, inputs, &value.name, attribute);
        value
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
        let rank = inputs[0].rank;
        for initializer in tensors.of(node) {
            inputs.push(Value { name: initializer.name.clone(), rank });
            self.initializers.push(initializer);
        }
        self.plain(node, op_type, inputs, attributes)
    }

    /// The value as the reader needs it, reshaped on the way if it must be.
    fn ranked(&mut self, value: Value, rank: Rank, reader: &Node) -> Value {
        if value.rank == rank {
            return value;
        }
        let name = format!("{}.view", reader.name);
        match rank {
            Rank::Vector => {
                let attributes = vec![Attribute::int("axis", 1)];
                self.emit(&name, "Flatten", vec![value.name], &name, attributes);
            }
            Rank::Image => {
                self.emit(&name, "Unsqueeze", vec![value.name, SPATIAL_AXES.to_owned()], &name, Vec::new());
                if self.initializers.iter().all(|initializer| initializer.name != SPATIAL_AXES) {
                    let (name, dims) = (SPATIAL_AXES.to_owned(), vec![2]);
                    self.initializers.push(Initializer { name, dims, source: Source::SpatialAxes });
                }
            }
        }
        Value { name, rank }
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

    fn finish(mut self, graph: &Graph) -> Lowered {
        let last = self.values.pop().expect("a graph has nodes");
        match last.rank {
            Rank::Vector => {
                let written = self.nodes.iter_mut().find(|node| node.output[0] == last.name);
                written.expect("an operator writes the last value").output[0] = OUTPUT.to_owned();
            }
            Rank::Image => {
                let attributes = vec![Attribute::int("axis", 1)];
                self.emit("logits.view", "Flatten", vec![last.name], OUTPUT, attributes);
            }
        }
        let image = graph.input_shape();
        let graph = schema::Graph {
            node: self.nodes,
            name: Some("network".to_owned()),
            initializer: Vec::new(),
            input: vec![schema::Value::batch_of(INPUT, &[image.channels, image.height, image.width])],
            output: vec![schema::Value::batch_of(OUTPUT, &[graph.shape(graph.output()).numel()])],
        };
        Lowered { graph, initializers: self.initializers }
    }
}

/// Whose tensors, and the batch norm that is folded into them.
#[derive(Clone, Copy)]
struct Tensors {
    id: NodeId,
    norm: Option<NodeId>,
}

impl Tensors {
    fn of(self, node: &Node) -> Vec<Initializer> {
        let stored = node.tensors().into_iter();
        let Some(norm) = self.norm else {
            return stored
                .map(|TensorSpec { name, dims, .. }| Initializer { name, dims, source: Source::Stored })
                .collect();
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

fn conv_attributes(conv: Conv) -> Vec<Attribute> {
    let mut attributes = window_attributes(conv.window);
    if conv.groups != 1 {
        attributes.push(Attribute::int("group", conv.groups));
    }
    attributes
}

/// Where ONNX's defaults say the same, nothing is written.
fn window_attributes(window: Window) -> Vec<Attribute> {
    let Padding { top, left, bottom, right } = window.padding;
    let mut attributes = vec![
        Attribute::ints("kernel_shape", window.kernel),
        Attribute::ints("strides", window.stride),
        Attribute::ints("pads", [top, left, bottom, right]),
    ];
    if window.dilation != [1, 1] {
        attributes.push(Attribute::ints("dilations", window.dilation));
    }
    attributes
}
