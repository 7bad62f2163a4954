//! What each of our operators is in ONNX, in the file's version of it.

use prost::Message;

use super::super::schema::{self, Attribute};
use super::{IMAGE, Lowering, Source, Tensors, VECTOR, Value};
use crate::graph::tensor::TensorKind;
use crate::graph::{
    Activation, Binary, Conv, Coordinates, Divisor, Interpolation, Node, NodeId, Op, Opaque, Operand,
    Padding, Resize, Shape, Window,
};

impl Lowering<'_> {
    pub(super) fn node(&mut self, id: NodeId, node: &Node, norm: Option<NodeId>) -> Value {
        let read = |input: usize| self.values[node.inputs[input].0].clone();
        let this = (id, node);
        match &node.op {
            Op::Input => self.image(id),
            Op::Conv(conv) => {
                let x = self.ranked(read(0), IMAGE, &node.name);
                self.operator(node, "Conv", vec![x], conv_attributes(*conv), Tensors { id, norm })
            }
            Op::Linear { .. } => {
                let x = self.ranked(read(0), VECTOR, &node.name);
                let attributes = vec![Attribute::int("transB", 1)];
                let value = self.operator(node, "Gemm", vec![x], attributes, Tensors { id, norm });
                Value { rank: VECTOR, ..value }
            }
            Op::BatchNorm { eps, .. } => {
                let attributes = vec![Attribute::float("epsilon", *eps as f32)];
                let x = read(0);
                self.operator(node, "BatchNormalization", vec![x], attributes, Tensors { id, norm })
            }
            Op::Activation(activation) => self.activation(this, *activation, read(0)),
            Op::PRelu { channels } => self.prelu(this, *channels, read(0)),
            Op::Binary(binary) => {
                let values = self.alike(this);
                self.plain(this, binary_operator(*binary), values, Vec::new())
            }
            Op::Concat => {
                let values = self.alike(this);
                self.plain(this, "Concat", values, vec![Attribute::int("axis", 1)])
            }
            Op::Slice { start, end } => self.slice(this, (*start, *end), read(0)),
            Op::Shuffle { groups } => self.shuffle(this, *groups, read(0)),
            Op::Pad { border, value } => self.pad(this, (*border, *value), read(0)),
            Op::MaxPool(window) => self.pool(this, "MaxPool", read(0), window_attributes(*window)),
            Op::AvgPool { window, divisor } => {
                let mut attributes = window_attributes(*window);
                if *divisor == Divisor::Window {
                    attributes.push(Attribute::int("count_include_pad", 1));
                }
                self.pool(this, "AveragePool", read(0), attributes)
            }
            Op::GlobalAvgPool => self.pool(this, "GlobalAveragePool", read(0), Vec::new()),
            Op::Resize(resize) => self.resize(this, *resize, read(0)),
            Op::Softmax => self.softmax(this, read(0)),
            Op::Flatten => {
                let x = read(0);
                let value = self.plain(this, "Flatten", vec![x], vec![Attribute::int("axis", 1)]);
                Value { rank: VECTOR, ..value }
            }
            Op::Constant { shape } => self.stored_constant(node, *shape),
            Op::Opaque(opaque) => self.opaque(this, opaque),
            Op::Part { index } => self.part(this, *index),
            // It is no value: `finish` names what it reads.
            Op::Outputs => Value { name: String::new(), rank: VECTOR, shape: self.graph.shape(id) },
        }
    }

    fn image(&self, id: NodeId) -> Value {
        let (name, rank) = (self.graph.interface().input.clone(), self.graph.interface().input_rank);
        Value { name, rank, shape: self.graph.shape(id) }
    }

    /// Every input in one rank: images where there is more than a vector among them.
    fn alike(&mut self, (id, node): (NodeId, &Node)) -> Vec<Value> {
        let values: Vec<Value> = node.inputs.iter().map(|input| self.values[input.0].clone()).collect();
        let first = values[0].rank;
        let rank = if values.iter().all(|value| value.rank == first) {
            first
        } else if self.graph.shape(id).area() > 1 {
            IMAGE
        } else {
            VECTOR
        };
        let each = values.into_iter().enumerate();
        each.map(|(index, value)| self.ranked(value, rank, &input_name(node, index))).collect()
    }

    fn pool(
        &mut self,
        this: (NodeId, &Node),
        op_type: &str,
        input: Value,
        attributes: Vec<Attribute>,
    ) -> Value {
        let x = self.ranked(input, IMAGE, &this.1.name);
        self.plain(this, op_type, vec![x], attributes)
    }

    fn activation(&mut self, this: (NodeId, &Node), activation: Activation, x: Value) -> Value {
        let name = &this.1.name;
        match activation {
            Activation::Relu => self.plain(this, "Relu", vec![x], Vec::new()),
            Activation::LeakyRelu { slope } => {
                self.plain(this, "LeakyRelu", vec![x], vec![Attribute::float("alpha", slope)])
            }
            Activation::Clip { min, max } if self.opset < 11 => {
                let attributes = vec![Attribute::float("min", min), Attribute::float("max", max)];
                self.plain(this, "Clip", vec![x], attributes)
            }
            Activation::Clip { min, max } => {
                let limits = [("min", min), ("max", max)].map(|(limit, value)| {
                    self.constant(format!("{name}.{limit}"), Vec::new(), Source::Floats(vec![value]))
                });
                let limits = limits.map(|name| Value { name, ..x.clone() });
                self.plain(this, "Clip", std::iter::once(x).chain(limits).collect(), Vec::new())
            }
            Activation::Sigmoid => self.plain(this, "Sigmoid", vec![x], Vec::new()),
            Activation::Tanh => self.plain(this, "Tanh", vec![x], Vec::new()),
            Activation::HardSigmoid { alpha, beta } => {
                self.plain(this, "HardSigmoid", vec![x], hard_sigmoid(alpha, beta))
            }
            Activation::HardSwish if self.opset >= 14 => self.plain(this, "HardSwish", vec![x], Vec::new()),
            Activation::HardSwish => self.gated(this, x, "HardSigmoid", hard_sigmoid(1.0 / 6.0, 0.5)),
            Activation::Silu => self.gated(this, x, "Sigmoid", Vec::new()),
        }
    }

    /// x times a function of x.
    fn gated(&mut self, this: (NodeId, &Node), x: Value, gate: &str, attributes: Vec<Attribute>) -> Value {
        let name = format!("{}.gate", this.1.name);
        self.emit(&name, gate, vec![x.name.clone()], &name, attributes);
        let gate = Value { name, ..x.clone() };
        self.plain(this, "Mul", vec![x, gate], Vec::new())
    }

    /// The slopes are broadcast from the last dimension on.
    fn prelu(&mut self, this: (NodeId, &Node), channels: usize, x: Value) -> Value {
        let name = this.1.tensor_name(TensorKind::Slope);
        let mut dims = vec![channels];
        dims.resize(x.rank - 1, 1);
        let slope = self.constant(name, dims, Source::Stored { dims: vec![channels] });
        let slope = Value { name: slope, ..x.clone() };
        self.plain(this, "PRelu", vec![x, slope], Vec::new())
    }

    fn slice(&mut self, this: (NodeId, &Node), (start, end): (usize, usize), x: Value) -> Value {
        let places = [("starts", start), ("ends", end), ("axes", 1)];
        if self.opset < 10 {
            let attributes = places.map(|(name, place)| Attribute::ints(name, [place]));
            return self.plain(this, "Slice", vec![x], attributes.to_vec());
        }
        let places =
            places.map(|(name, place)| self.integers(format!("{}.{name}", this.1.name), vec![place as i64]));
        let places = places.map(|name| Value { name, ..x.clone() });
        self.plain(this, "Slice", std::iter::once(x).chain(places).collect(), Vec::new())
    }

    /// Reshape, transpose, reshape: the batch's dimension is copied.
    fn shuffle(&mut self, this: (NodeId, &Node), groups: usize, x: Value) -> Value {
        let Shape { channels, height, width } = x.shape;
        let positions: &[usize] = if x.rank == IMAGE { &[height, width] } else { &[] };
        let dims = |channels: &[usize]| {
            let dims = channels.iter().chain(positions).map(|&dim| dim as i64);
            std::iter::once(0).chain(dims).collect::<Vec<i64>>()
        };
        let name = &this.1.name;
        let apart = self.integers(format!("{name}.groups"), dims(&[groups, channels / groups]));
        let (split, turned) = (format!("{name}.split"), format!("{name}.turned"));
        self.emit(&split, "Reshape", vec![x.name.clone(), apart], &split, Vec::new());
        let order: &[usize] = if x.rank == IMAGE { &[0, 2, 1, 3, 4] } else { &[0, 2, 1] };
        let order = vec![Attribute::list("perm", order)];
        self.emit(&turned, "Transpose", vec![split], &turned, order);
        let together = self.integers(format!("{name}.channels"), dims(&[channels]));
        let inputs = [turned, together].map(|name| Value { name, ..x.clone() });
        self.plain(this, "Reshape", inputs.to_vec(), Vec::new())
    }

    /// Before version 13 all dimensions from the axis on are one: then the channels must come last.
    fn softmax(&mut self, this: (NodeId, &Node), x: Value) -> Value {
        if self.opset >= 13 || x.shape.area() == 1 {
            return self.plain(this, "Softmax", vec![x], vec![Attribute::int("axis", 1)]);
        }
        let x = self.ranked(x, IMAGE, &this.1.name);
        let (last, probabilities) =
            (format!("{}.last", this.1.name), format!("{}.probabilities", this.1.name));
        self.emit(
            &last,
            "Transpose",
            vec![x.name.clone()],
            &last,
            vec![Attribute::list("perm", &[0, 2, 3, 1])],
        );
        self.emit(&probabilities, "Softmax", vec![last], &probabilities, vec![Attribute::int("axis", 3)]);
        let first = vec![Attribute::list("perm", &[0, 3, 1, 2])];
        self.plain(this, "Transpose", vec![Value { name: probabilities, ..x }], first)
    }

    fn pad(&mut self, this: (NodeId, &Node), (border, value): (Padding, f32), input: Value) -> Value {
        let x = self.ranked(input, IMAGE, &this.1.name);
        let Padding { top, left, bottom, right } = border;
        let pads = [0, 0, top, left, 0, 0, bottom, right];
        if self.opset < 11 {
            let attributes = vec![Attribute::ints("pads", pads), Attribute::float("value", value)];
            return self.plain(this, "Pad", vec![x], attributes);
        }
        let name = &this.1.name;
        let pads = self.integers(format!("{name}.pads"), pads.map(|pad| pad as i64).to_vec());
        let number = self.constant(format!("{name}.value"), Vec::new(), Source::Floats(vec![value]));
        let inputs = [pads, number].map(|name| Value { name, ..x.clone() });
        self.plain(this, "Pad", std::iter::once(x).chain(inputs).collect(), Vec::new())
    }

    /// By scales, for sizes would fix the batch. Before version 11 there is one way of resizing.
    fn resize(&mut self, this: (NodeId, &Node), resize: Resize, input: Value) -> Value {
        let x = self.ranked(input, IMAGE, &this.1.name);
        let (from, name) = (x.shape, &this.1.name);
        let step = resize.step.map(|[rows, columns]| [Some(rows), Some(columns)]).unwrap_or_default();
        let scales = vec![
            1.0,
            1.0,
            scale(from.height, resize.height, step[0]),
            scale(from.width, resize.width, step[1]),
        ];
        let scales = self.constant(format!("{name}.scales"), vec![4], Source::Floats(scales));
        let mode = match resize.interpolation {
            Interpolation::NearestFloor | Interpolation::NearestPreferFloor => "nearest",
            Interpolation::Linear => "linear",
        };
        let mut attributes = vec![Attribute::string("mode", mode)];
        let named = |name: String| Value { name, ..x.clone() };
        if self.opset < 11 {
            let op_type = if self.opset < 10 { "Upsample" } else { "Resize" };
            return self.plain(this, op_type, vec![x.clone(), named(scales)], attributes);
        }
        attributes.push(Attribute::string("coordinate_transformation_mode", coordinates(resize.coordinates)));
        match resize.interpolation {
            Interpolation::NearestFloor => attributes.push(Attribute::string("nearest_mode", "floor")),
            Interpolation::NearestPreferFloor => {
                attributes.push(Attribute::string("nearest_mode", "round_prefer_floor"));
            }
            Interpolation::Linear => {}
        }
        // The region of interest is left out; before version 13 by giving an empty one.
        let roi = match self.opset {
            ..13 => self.constant(format!("{name}.roi"), vec![0], Source::Floats(Vec::new())),
            _ => String::new(),
        };
        self.plain(this, "Resize", vec![x.clone(), named(roi), named(scales)], attributes)
    }

    fn stored_constant(&mut self, node: &Node, shape: Shape) -> Value {
        let Shape { channels, height, width } = shape;
        let name = node.tensor_name(TensorKind::Value);
        let source = Source::Stored { dims: vec![channels, height, width] };
        let name = self.constant(name, vec![1, channels, height, width], source);
        Value { name, rank: IMAGE, shape }
    }

    /// The node as it was read, between values of ours.
    fn opaque(&mut self, (id, node): (NodeId, &Node), opaque: &Opaque) -> Value {
        let mut values =
            node.inputs.iter().map(|input| self.values[input.0].clone()).collect::<Vec<_>>().into_iter();
        let mut input = Vec::new();
        for (index, operand) in opaque.operands.iter().enumerate() {
            input.push(match operand {
                Operand::Value { rank } => {
                    let value = values.next().expect("its inputs were counted when the graph was made");
                    self.ranked(value, *rank, &input_name(node, index)).name
                }
                Operand::Constant(tensor) => {
                    let name = format!("{}.{index}", node.name);
                    self.constant(name, Vec::new(), Source::Encoded(tensor.clone()))
                }
                Operand::Absent => String::new(),
            });
        }
        let read = schema::Node::decode(opaque.node.as_slice()).unwrap_or_default();
        let output = (0..read.output.len().max(1)).map(|index| output_name(node, index)).collect();
        self.nodes.push(schema::Node { input, output, name: Some(node.name.clone()), ..read });
        Value { name: output_name(node, 0), rank: opaque.outputs[0].len(), shape: self.graph.shape(id) }
    }

    fn part(&self, (id, node): (NodeId, &Node), index: usize) -> Value {
        let whole = self.graph.node(node.inputs[0]);
        let rank = match &whole.op {
            Op::Opaque(opaque) => opaque.outputs[index].len(),
            _ => unreachable!("a part is an opaque node's: the graph was checked"),
        };
        Value { name: output_name(whole, index), rank, shape: self.graph.shape(id) }
    }
}

fn input_name(node: &Node, index: usize) -> String {
    if index == 0 { node.name.clone() } else { format!("{}.input{index}", node.name) }
}

fn output_name(node: &Node, index: usize) -> String {
    if index == 0 { format!("{}.out", node.name) } else { format!("{}.out{index}", node.name) }
}

const fn binary_operator(binary: Binary) -> &'static str {
    match binary {
        Binary::Add => "Add",
        Binary::Sub => "Sub",
        Binary::Mul => "Mul",
        Binary::Div => "Div",
    }
}

const fn coordinates(coordinates: Coordinates) -> &'static str {
    match coordinates {
        Coordinates::HalfPixel => "half_pixel",
        Coordinates::PytorchHalfPixel => "pytorch_half_pixel",
        Coordinates::Asymmetric => "asymmetric",
        Coordinates::AlignCorners => "align_corners",
    }
}

/// The factor whose product with the length, rounded down, is the length asked for.
fn scale(from: usize, to: usize, step: Option<f32>) -> f32 {
    let exact = step.map_or(to as f32 / from as f32, f32::recip);
    if (from as f32 * exact).floor() < to as f32 { exact.next_up() } else { exact }
}

fn hard_sigmoid(alpha: f32, beta: f32) -> Vec<Attribute> {
    vec![Attribute::float("alpha", alpha), Attribute::float("beta", beta)]
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
