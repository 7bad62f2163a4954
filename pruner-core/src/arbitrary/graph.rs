//! Random graphs: every operator that can be run, residual sums, concatenations, halves that part and meet again, gates,
//! grouped and depthwise convolutions. Each step of a few numbers adds an operator or a small figure of several.

use crate::graph::{
    Activation, Binary, Conv, Coordinates, Divisor, Graph, Interpolation, Node, NodeId, Op, Padding, Resize,
    Shape, Window,
};

/// Kinds of steps.
pub(super) const STEPS: u8 = 26;
/// Most channels that a concatenation makes.
const MOST_CHANNELS: usize = 24;
/// Most positions that a resize or a border makes.
const MOST_POSITIONS: usize = 200;

/// Each step is a kind, where it reads from and a number for its geometry; steps that do not fit become ReLUs. A linear
/// layer of 3 outputs ends the network.
pub(super) fn graph(input: Shape, steps: &[(u8, u8, u8)]) -> Graph {
    let mut growing = Growing { nodes: Vec::new(), shapes: vec![input] };
    growing.nodes.push(Node { name: "input".to_owned(), op: Op::Input, inputs: Vec::new() });
    for (kind, source, number) in steps {
        let last = growing.nodes.len() - 1;
        let source = if *source < 200 { last } else { usize::from(*source) % growing.nodes.len() };
        // Behind every constant is its reader.
        let source = if growing.is_constant(source) { source + 1 } else { source };
        growing.step(*kind, source, usize::from(*number));
    }
    let flat = growing.push(Op::Flatten, &[growing.nodes.len() - 1]);
    let inputs = growing.shapes[flat].channels;
    growing.push(Op::Linear { inputs, outputs: 3, bias: true }, &[flat]);
    Graph::new(input, growing.nodes).unwrap()
}

/// A graph under construction.
struct Growing {
    nodes: Vec<Node>,
    shapes: Vec<Shape>,
}

impl Growing {
    /// A constant is the same for every image: in a file it has no batch, and only an operator that repeats it may read
    /// it.
    fn is_constant(&self, at: usize) -> bool {
        matches!(self.nodes[at].op, Op::Constant { .. })
    }

    /// Adds a node; returns its place. A constant is never the last.
    fn push(&mut self, op: Op, inputs: &[usize]) -> usize {
        let inputs = inputs.iter().copied().map(NodeId).collect();
        self.nodes.push(Node { name: format!("n{}", self.nodes.len()), op, inputs });
        let shape = match &self.nodes[self.nodes.len() - 1].op {
            Op::Constant { shape } => *shape,
            _ => {
                let graph = Graph::new(self.shapes[0], self.nodes.clone()).unwrap();
                graph.shape(graph.output())
            }
        };
        self.shapes.push(shape);
        self.nodes.len() - 1
    }

    fn step(&mut self, kind: u8, source: usize, number: usize) {
        let from = self.shapes[source];
        let twin = (1..source).find(|&at| self.shapes[at] == from && !self.is_constant(at));
        match (kind, twin) {
            (9..12, Some(twin)) => {
                let op = [Binary::Add, Binary::Add, Binary::Sub, Binary::Mul][number % 4];
                self.push(Op::Binary(op), &[source, twin]);
            }
            (16 | 17, _) => self.concat(source, number),
            (18 | 19, _) => self.halves(source, number),
            (20 | 21, _) => self.gate(source, number),
            (22, _) => self.constant(source, number),
            _ => {
                self.push(operation(kind, number, from), &[source]);
            }
        }
    }

    /// The source and another node of its height and width, or itself.
    fn concat(&mut self, source: usize, number: usize) {
        let from = self.shapes[source];
        let fits = |at: &usize| {
            let shape = self.shapes[*at];
            (shape.height, shape.width) == (from.height, from.width)
                && shape.channels + from.channels <= MOST_CHANNELS
                && !self.is_constant(*at)
        };
        let fitting: Vec<usize> = (0..self.nodes.len()).filter(fits).collect();
        match fitting.get(number % fitting.len().max(1)) {
            Some(&other) => self.push(Op::Concat, &[other, source]),
            None => self.push(Op::RELU, &[source]),
        };
    }

    /// Two halves, of which one is worked on, joined again and perhaps shuffled (ShuffleNet V2), or added up.
    fn halves(&mut self, source: usize, number: usize) {
        let channels = self.shapes[source].channels;
        if channels < 2 {
            self.push(Op::RELU, &[source]);
            return;
        }
        let middle = if number.is_multiple_of(3) { 1 } else { channels / 2 };
        let left = self.push(Op::Slice { start: 0, end: middle }, &[source]);
        let right = self.push(Op::Slice { start: middle, end: channels }, &[source]);
        let outputs = if number.is_multiple_of(5) { 1 + number % 4 } else { channels - middle };
        let worked = match number % 4 {
            0 => right,
            1 => self.push(Op::BatchNorm { channels: channels - middle, eps: 1e-5 }, &[right]),
            _ => self.push(pointwise(channels - middle, outputs), &[right]),
        };
        if self.shapes[worked] == self.shapes[left] && number.is_multiple_of(7) {
            self.push(Op::ADD, &[left, worked]);
            return;
        }
        let joined = self.push(Op::Concat, &[left, worked]);
        if let Some(groups) = divisor(self.shapes[joined].channels) {
            self.push(Op::Shuffle { groups }, &[joined]);
        }
    }

    /// Squeeze and excite.
    fn gate(&mut self, source: usize, number: usize) {
        let channels = self.shapes[source].channels;
        let layer = |inputs, outputs| match number % 2 {
            0 => pointwise(inputs, outputs),
            _ => Op::Linear { inputs, outputs, bias: true },
        };
        let squeezed = 1 + number % 3;
        let mut gate = self.push(Op::GlobalAvgPool, &[source]);
        for op in [
            layer(channels, squeezed),
            Op::RELU,
            layer(squeezed, if number.is_multiple_of(5) { 1 } else { channels }),
            Op::Activation(Activation::Sigmoid),
        ] {
            gate = self.push(op, &[gate]);
        }
        let operands = if number.is_multiple_of(7) { [gate, source] } else { [source, gate] };
        self.push(Op::Binary(Binary::Mul), &operands);
    }

    /// A constant of the source's shape, or repeated along some of it.
    fn constant(&mut self, source: usize, number: usize) {
        let Shape { channels, height, width } = self.shapes[source];
        let shape = match number % 5 {
            0 => Shape::new(channels, height, width),
            1 | 2 => Shape::vector(channels),
            3 => Shape::new(1, height, 1),
            _ => Shape::vector(1),
        };
        let constant = self.push(Op::Constant { shape }, &[]);
        let op = [Binary::Add, Binary::Mul, Binary::Sub][number / 8 % 3];
        let operands = if number.is_multiple_of(2) { [source, constant] } else { [constant, source] };
        self.push(Op::Binary(op), &operands);
    }
}

fn pointwise(inputs: usize, outputs: usize) -> Op {
    Op::Conv(Conv { inputs, outputs, window: Window::square(1, 1, 0), groups: 1, bias: true })
}

/// A number of groups into which channels divide.
fn divisor(channels: usize) -> Option<usize> {
    [2, 3].into_iter().find(|groups| channels.is_multiple_of(*groups))
}

/// A single operator on one input.
fn operation(kind: u8, number: usize, from: Shape) -> Op {
    let side = from.height.min(from.width);
    let window = Window::square(2, 1 + number % 2, number / 2 % 2);
    let conv = Conv {
        inputs: from.channels,
        outputs: 1 + number % 6,
        window: Window::square(
            if side >= 3 { 1 + number % 3 } else { 1 },
            1 + number / 16 % 2,
            number / 32 % 2,
        ),
        groups: 1,
        bias: number / 64 % 2 == 1,
    };
    match kind {
        0..3 => Op::Conv(conv),
        3 if number % 4 < 2 => {
            Op::Conv(Conv { groups: from.channels, outputs: from.channels * (1 + number % 2), ..conv })
        }
        3 | 4 => match divisor(from.channels) {
            Some(groups) => Op::Conv(Conv { groups, outputs: groups * (1 + number % 3), ..conv }),
            None => Op::BatchNorm { channels: from.channels, eps: 1e-5 },
        },
        5 => Op::BatchNorm { channels: from.channels, eps: 1e-5 },
        6 if side >= 2 && number.is_multiple_of(2) => Op::MaxPool(window),
        6 if side >= 2 => Op::AvgPool { window, divisor: Divisor::Window },
        7 if from.area() == 1 || number.is_multiple_of(3) => Op::GlobalAvgPool,
        7 => Op::Flatten,
        8 if from.area() == 1 => {
            Op::Linear { inputs: from.channels, outputs: 1 + number % 12, bias: number.is_multiple_of(2) }
        }
        // A width that an earlier node may share, so that sums come about.
        9 => Op::Conv(Conv { outputs: 4, window: Window::square(1, 1, 0), ..conv }),
        10 => Op::Conv(Conv { outputs: from.channels, window: Window::square(1, 1, 0), ..conv }),
        12 => Op::Activation(activation(number)),
        13 => Op::PRelu { channels: if number.is_multiple_of(3) { 1 } else { from.channels } },
        14 if from.area() <= MOST_POSITIONS => pad(number),
        15 if from.area() <= MOST_POSITIONS => Op::Resize(resize(number, from)),
        23 => match divisor(from.channels) {
            Some(groups) => Op::Shuffle { groups },
            None => Op::RELU,
        },
        24 => match uneven(number, from) {
            Some(window) if number.is_multiple_of(3) => Op::Conv(Conv { window, ..conv }),
            Some(window) if number % 3 == 1 => {
                Op::AvgPool { window: Window { dilation: [1, 1], ..window }, divisor: Divisor::Inside }
            }
            Some(window) => Op::MaxPool(Window { dilation: [1, 1], ..window }),
            None => Op::RELU,
        },
        25 if number.is_multiple_of(4) => Op::Softmax,
        _ => Op::RELU,
    }
}

fn activation(number: usize) -> Activation {
    match number % 7 {
        0 => Activation::LeakyRelu { slope: 0.1 },
        1 => Activation::Clip { min: 0.0, max: 6.0 },
        2 => Activation::Sigmoid,
        3 => Activation::HardSigmoid { alpha: 0.25, beta: 0.5 },
        4 => Activation::HardSwish,
        5 => Activation::Silu,
        _ => Activation::Tanh,
    }
}

fn pad(number: usize) -> Op {
    let side = |bit: usize| number >> bit & 1;
    let border = Padding { top: side(0), left: side(1), bottom: side(2), right: side(3) };
    Op::Pad { border, value: if number.is_multiple_of(5) { 0.5 } else { 0.0 } }
}

/// Twice or half as high and wide, or the same: factors that leave no doubt which position is the nearest.
fn resize(number: usize, from: Shape) -> Resize {
    let sized = |length: usize, choice: usize| match choice {
        0 => length * 2,
        1 if length.is_multiple_of(2) => length / 2,
        _ => length,
    };
    let (interpolation, coordinates) = match number / 16 % 5 {
        0 => (Interpolation::NearestFloor, Coordinates::Asymmetric),
        1 => (Interpolation::NearestPreferFloor, Coordinates::HalfPixel),
        2 => (Interpolation::Linear, Coordinates::HalfPixel),
        3 => (Interpolation::Linear, Coordinates::PytorchHalfPixel),
        _ => (Interpolation::Linear, Coordinates::AlignCorners),
    };
    let (height, width) = (sized(from.height, number % 3), sized(from.width, number / 4 % 3));
    Resize { height, width, step: None, interpolation, coordinates }
}

/// A window whose sides, steps, distances and borders differ, if it fits.
fn uneven(number: usize, from: Shape) -> Option<Window> {
    let kernel = [[1, 3], [3, 1], [2, 3], [1, 2]][number / 3 % 4];
    let dilation = if number / 16 % 2 == 1 { [1, 2] } else { [1, 1] };
    let stride = [1 + number / 32 % 2, 1];
    let padding = Padding {
        left: (kernel[1] - 1).min(1),
        right: number / 64 % 2 * (kernel[1] / 2),
        ..Padding::default()
    };
    let window = Window { kernel, stride, dilation, padding };
    let [rows, columns] = window.extent();
    (rows <= from.height && columns <= from.width).then_some(window)
}
