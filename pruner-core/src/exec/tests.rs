//! The executor against finite differences, against candle's own operators and plain loops, and against
//! itself.

mod against_candle;
mod gradients;
mod invariance;
mod reference;

use super::*;
use crate::graph::{
    Activation, Binary, Conv, Coordinates, Divisor, Interpolation, Node, NodeId, Padding, Resize, Window,
};

/// A conv node's operator.
fn conv(inputs: usize, outputs: usize, [kernel, stride, padding, groups]: [usize; 4], bias: bool) -> Op {
    Op::Conv(Conv { inputs, outputs, window: Window::square(kernel, stride, padding), groups, bias })
}

fn norm(channels: usize) -> Op {
    Op::BatchNorm { channels, eps: 1e-5 }
}

fn pool(kernel: usize, stride: usize, padding: usize) -> Window {
    Window::square(kernel, stride, padding)
}

/// A graph of (operator, inputs); node 0 is the image.
fn graph(input: Shape, ops: &[(Op, &[usize])]) -> Graph {
    let mut nodes = vec![Node { name: "input".into(), op: Op::Input, inputs: vec![] }];
    for (index, (op, inputs)) in ops.iter().enumerate() {
        let inputs = inputs.iter().map(|&input| NodeId(input)).collect();
        nodes.push(Node { name: format!("n{}", index + 1), op: op.clone(), inputs });
    }
    Graph::new(input, nodes).unwrap()
}

/// Numbers between -1 and 1 without pattern, fixed by the seed (SplitMix64).
fn noise<T: Scalar>(seed: u64, len: usize) -> Vec<T> {
    let mut state = seed;
    let next = |_| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        T::from_f64(((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 52) as f64 - 1.0)
    };
    (0..len).map(next).collect()
}

/// Parameters for a graph: noise, with variances made positive.
fn params<T: Scalar>(graph: &Graph, seed: u64) -> Vec<T> {
    let layout = ParamLayout::of(graph);
    let mut values = noise::<T>(seed, layout.len());
    for entry in layout.entries().iter().filter(|entry| entry.role == Role::RunningVar) {
        values[entry.range.clone()].iter_mut().for_each(|v| *v = T::from_f64(1.0 + 0.5 * v.to_f64()));
    }
    values
}

/// A residual network in small: every kernel that ResNet-20 uses.
fn residual() -> Graph {
    graph(
        Shape::new(2, 8, 8),
        &[
            (conv(2, 6, [3, 1, 1, 1], false), &[0]),
            (norm(6), &[1]),
            (Op::RELU, &[2]),
            (conv(6, 8, [3, 2, 1, 1], false), &[3]),
            (norm(8), &[4]),
            (Op::RELU, &[5]),
            (conv(8, 8, [3, 1, 1, 1], false), &[6]),
            (norm(8), &[7]),
            (conv(6, 8, [1, 2, 0, 1], false), &[3]),
            (norm(8), &[9]),
            (Op::ADD, &[8, 10]),
            (Op::RELU, &[11]),
            (Op::GlobalAvgPool, &[12]),
            (Op::Linear { inputs: 8, outputs: 5, bias: true }, &[13]),
        ],
    )
}

/// A network in small of the kernels that ResNet-20 does not use.
fn motley() -> Graph {
    let (interpolation, coordinates) = (Interpolation::Linear, Coordinates::HalfPixel);
    let resize = Resize { height: 8, width: 7, step: None, interpolation, coordinates };
    graph(
        Shape::new(2, 8, 7),
        &[
            (conv(2, 8, [3, 1, 1, 1], false), &[0]),
            (norm(8), &[1]),
            (Op::Activation(Activation::Clip { min: 0.0, max: 6.0 }), &[2]),
            (conv(8, 8, [3, 2, 1, 8], true), &[3]),
            (Op::Activation(Activation::HardSwish), &[4]),
            (Op::GlobalAvgPool, &[5]),
            (conv(8, 8, [1, 1, 0, 1], true), &[6]),
            (Op::Activation(Activation::Sigmoid), &[7]),
            (Op::Binary(Binary::Mul), &[5, 8]),
            (Op::Resize(resize), &[9]),
            (Op::Slice { start: 2, end: 5 }, &[3]),
            (Op::PRelu { channels: 3 }, &[11]),
            (Op::Concat, &[10, 12, 0]),
            (Op::PRelu { channels: 1 }, &[13]),
            (Op::Pad { border: Padding { top: 1, left: 0, bottom: 0, right: 1 }, value: 0.5 }, &[14]),
            (conv(13, 4, [3, 2, 0, 1], true), &[15]),
            (Op::Shuffle { groups: 2 }, &[16]),
            (Op::Constant { shape: Shape::new(4, 1, 3) }, &[]),
            (Op::Binary(Binary::Sub), &[17, 18]),
            (Op::Softmax, &[19]),
            (Op::Outputs, &[20, 6]),
        ],
    )
}

/// A depthwise convolution whose planes are too large for a whole block to be worked on at once, and a last convolution
/// whose are so small that blocks hold several images.
fn tapering() -> Graph {
    graph(
        Shape::new(2, 40, 40),
        &[
            (conv(2, 4, [3, 1, 1, 2], true), &[0]),
            (Op::RELU, &[1]),
            (conv(4, 4, [5, 3, 2, 4], true), &[2]),
            (conv(4, 3, [3, 4, 1, 1], true), &[3]),
        ],
    )
}
