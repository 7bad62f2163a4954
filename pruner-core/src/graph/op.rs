//! What a node computes, and the geometry of it. Values only: shapes are in `shape`, tensors in `tensor`.

use std::sync::Arc;

use super::Shape;

/// What a node computes, per image.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// The image. Exactly one, the first node.
    Input,
    /// Cross-correlation. Tensors: `weight` (out, in / groups, rows, columns) and, with `bias`, `bias` (out).
    Conv(Conv),
    /// Per channel: (x - running_mean) / sqrt(running_var + eps) * weight + bias; batch statistics in training.
    BatchNorm {
        /// Width.
        channels: usize,
        /// Added to the variance.
        eps: f64,
    },
    /// A function of each number alone.
    Activation(Activation),
    /// x where x > 0, else x times its channel's slope. Tensor: `weight` (channels).
    PRelu {
        /// Width; 1 where all channels share a slope.
        channels: usize,
    },
    /// Two inputs, number by number. A dimension of 1 is repeated along the other's.
    Binary(Binary),
    /// The inputs' channels, one input after the other.
    Concat,
    /// A range of the input's channels.
    Slice {
        /// First channel.
        start: usize,
        /// Behind the last channel.
        end: usize,
    },
    /// Channels seen as `groups` x n are transposed to n x `groups` (ShuffleNet).
    Shuffle {
        /// Groups of channels.
        groups: usize,
    },
    /// A border of one number.
    Pad {
        /// Rows and columns on each side.
        border: Padding,
        /// The number.
        value: f32,
    },
    /// Largest of each window, padding aside; of equals the first in row-major order.
    MaxPool(Window),
    /// Mean of each window.
    AvgPool {
        /// The window.
        window: Window,
        /// What the sum is divided by.
        divisor: Divisor,
    },
    /// Mean of each channel.
    GlobalAvgPool,
    /// Features of another height and width.
    Resize(Resize),
    /// exp(x) / sum of exp(x) over the channels at each position.
    Softmax,
    /// Channels x height x width to a vector, row-major.
    Flatten,
    /// Matrix product. Tensors: `weight` (out, in) and, with `bias`, `bias` (out).
    Linear {
        /// Length of the input vector.
        inputs: usize,
        /// Length of the output vector.
        outputs: usize,
        /// Whether there is a `bias`.
        bias: bool,
    },
    /// Numbers that do not depend on the image; reads nothing. Tensor: `value` (channels, height, width).
    Constant {
        /// Its shape.
        shape: Shape,
    },
    /// An operator of the file it came from that is carried through as it is: its first output.
    Opaque(Arc<Opaque>),
    /// A further output of the [`Op::Opaque`] that it reads.
    Part {
        /// Which, from 1.
        index: usize,
    },
    /// Every output of a network that has several: their numbers one after the other. Only as the last node.
    Outputs,
}

impl Op {
    /// max(x, 0).
    pub const RELU: Self = Self::Activation(Activation::Relu);
    /// The sum of two inputs.
    pub const ADD: Self = Self::Binary(Binary::Add);
}

/// A function of one number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Activation {
    /// max(x, 0).
    Relu,
    /// x where x > 0, else `slope` times x.
    LeakyRelu {
        /// Below 0.
        slope: f32,
    },
    /// x held between two numbers; ReLU6 is 0 to 6.
    Clip {
        /// Least.
        min: f32,
        /// Most.
        max: f32,
    },
    /// 1 / (1 + exp(-x)).
    Sigmoid,
    /// `alpha` x + `beta`, held between 0 and 1.
    HardSigmoid {
        /// Factor.
        alpha: f32,
        /// Term.
        beta: f32,
    },
    /// x times the hard sigmoid of 1/6 and 1/2 (MobileNetV3).
    HardSwish,
    /// x times its sigmoid.
    Silu,
    /// The hyperbolic tangent.
    Tanh,
}

/// A function of two numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binary {
    /// a + b.
    Add,
    /// a - b.
    Sub,
    /// a b.
    Mul,
    /// a / b.
    Div,
}

/// A convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv {
    /// Input channels.
    pub inputs: usize,
    /// Output channels (filters).
    pub outputs: usize,
    /// Its kernel and how it moves; padding is zeros.
    pub window: Window,
    /// Independent groups; 1 for an ordinary convolution.
    pub groups: usize,
    /// Whether there is a `bias`.
    pub bias: bool,
}

impl Conv {
    /// Whether each output channel reads one input channel alone.
    pub const fn is_depthwise(&self) -> bool {
        self.groups > 1 && self.groups == self.inputs
    }
}

/// A window that moves over the positions. Pairs are rows, columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Positions that it reads.
    pub kernel: [usize; 2],
    /// Step.
    pub stride: [usize; 2],
    /// Distance of the positions that it reads.
    pub dilation: [usize; 2],
    /// Border that it may reach into.
    pub padding: Padding,
}

impl Window {
    /// A square window with the same step both ways and the same border on every side.
    pub const fn square(kernel: usize, stride: usize, padding: usize) -> Self {
        Self {
            kernel: [kernel, kernel],
            stride: [stride, stride],
            dilation: [1, 1],
            padding: Padding::all(padding),
        }
    }

    /// Positions that it reads.
    pub const fn area(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Rows and columns from the first position that it reads to the last.
    pub const fn extent(&self) -> [usize; 2] {
        [(self.kernel[0] - 1) * self.dilation[0] + 1, (self.kernel[1] - 1) * self.dilation[1] + 1]
    }
}

/// Rows and columns added on each side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Padding {
    /// Rows above.
    pub top: usize,
    /// Columns on the left.
    pub left: usize,
    /// Rows below.
    pub bottom: usize,
    /// Columns on the right.
    pub right: usize,
}

impl Padding {
    /// The same on every side.
    pub const fn all(side: usize) -> Self {
        Self { top: side, left: side, bottom: side, right: side }
    }
}

/// What the sum of a window is divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Divisor {
    /// The window's area, padding included.
    Window,
    /// The positions inside the image.
    Inside,
}

/// How features get another height and width.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Resize {
    /// Rows of the output.
    pub height: usize,
    /// Columns of the output.
    pub width: usize,
    /// Input rows and columns per output row and column, where that is not the ratio of the sizes.
    pub step: Option<[f32; 2]>,
    /// How numbers between positions come about.
    pub interpolation: Interpolation,
    /// Which input position an output position is.
    pub coordinates: Coordinates,
}

/// How numbers between positions come about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interpolation {
    /// The position rounded down.
    NearestFloor,
    /// The nearest position; of two the lower.
    NearestPreferFloor,
    /// Between the two nearest positions, each way.
    Linear,
}

/// Which input coordinate an output coordinate x is; r is the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coordinates {
    /// (x + 1/2) r - 1/2.
    HalfPixel,
    /// As half pixel, but 0 where the output is one position long.
    PytorchHalfPixel,
    /// x r.
    Asymmetric,
    /// First on first, last on last.
    AlignCorners,
}

/// A node of an ONNX file that is carried through unchanged.
#[derive(Debug, Clone, PartialEq)]
pub struct Opaque {
    /// Its operator, with the domain where that is not ONNX's own: `Einsum`, `com.example.Mystery`.
    pub operator: String,
    /// The encoded `NodeProto`.
    pub node: Vec<u8>,
    /// What each of the node's inputs is.
    pub operands: Vec<Operand>,
    /// Dimensions of each output, the batch's (taken as 1) first. Empty: not known.
    pub outputs: Vec<Vec<usize>>,
}

/// One input of an [`Opaque`] node.
#[derive(Debug, Clone, PartialEq)]
pub enum Operand {
    /// The next of the graph node's inputs, as a tensor of this rank, the batch's dimension included.
    Value {
        /// Dimensions.
        rank: usize,
    },
    /// An encoded `TensorProto`.
    Constant(Arc<[u8]>),
    /// Left out.
    Absent,
}

impl Opaque {
    /// The features that an output of these dimensions is: up to three behind the batch's stand as they are, more are
    /// one vector.
    pub fn shape(&self, output: usize) -> Option<Shape> {
        match self.outputs.get(output)?.as_slice() {
            [] => None,
            [_] => Some(Shape::vector(1)),
            [_, n] => Some(Shape::vector(*n)),
            [_, c, l] => Some(Shape::new(*c, *l, 1)),
            [_, c, h, w] => Some(Shape::new(*c, *h, *w)),
            more => Some(Shape::vector(more[1..].iter().product())),
        }
    }
}
