//! Shape inference: every node's output shape from its inputs', or which node does not fit and why.

use std::ops::RangeInclusive;

use super::{Conv, GraphError, Node, Op, Operand, Padding, Resize, Shape, Window};

/// The output's shape of every node. `nodes` are in topological order and the first is the input.
pub(super) fn infer(input: Shape, nodes: &[Node]) -> Result<Vec<Shape>, GraphError> {
    let mut shapes: Vec<Shape> = Vec::with_capacity(nodes.len());
    for (index, node) in nodes.iter().enumerate() {
        let inputs: Vec<Shape> = node.inputs.iter().map(|id| shapes[id.0]).collect();
        let expected = arity(&node.op);
        if !expected.contains(&inputs.len()) {
            let problem = format!("reads {} nodes where it needs {}", inputs.len(), expected.start());
            return Err(GraphError::Inputs { node: node.name.clone(), problem });
        }
        let shape = match node.op {
            Op::Part { index } => part_shape(nodes, node, index),
            Op::Outputs if index + 1 < nodes.len() => Err("must be the last node".to_owned()),
            _ => output_shape(input, &node.op, &inputs),
        };
        let shape = shape.map_err(|problem| GraphError::Shape { node: node.name.clone(), problem })?;
        shapes.push(shape);
    }
    Ok(shapes)
}

fn part_shape(nodes: &[Node], part: &Node, index: usize) -> Result<Shape, String> {
    let Op::Opaque(opaque) = &nodes[part.inputs[0].0].op else {
        return Err("is an output of a node that has only one".to_owned());
    };
    opaque
        .shape(index)
        .filter(|shape| shape.numel() > 0)
        .ok_or_else(|| format!("output {index} has no known shape"))
}

/// How many inputs an operator may have.
fn arity(op: &Op) -> RangeInclusive<usize> {
    match op {
        Op::Input | Op::Constant { .. } => 0..=0,
        Op::Binary(_) => 2..=2,
        Op::Concat | Op::Outputs => 1..=usize::MAX,
        Op::Opaque(_) => 0..=usize::MAX,
        Op::Conv(_)
        | Op::BatchNorm { .. }
        | Op::Activation(_)
        | Op::PRelu { .. }
        | Op::Slice { .. }
        | Op::Shuffle { .. }
        | Op::Pad { .. }
        | Op::MaxPool(_)
        | Op::AvgPool { .. }
        | Op::GlobalAvgPool
        | Op::Resize(_)
        | Op::Softmax
        | Op::Flatten
        | Op::Linear { .. }
        | Op::Part { .. } => 1..=1,
    }
}

fn output_shape(input: Shape, op: &Op, inputs: &[Shape]) -> Result<Shape, String> {
    match op {
        Op::Input if input.numel() == 0 => Err(format!("the input {input} is empty")),
        Op::Input => Ok(input),
        Op::Constant { shape } if shape.numel() == 0 => Err("is empty".to_owned()),
        Op::Constant { shape } => Ok(*shape),
        Op::Conv(conv) => conv_shape(*conv, inputs[0]),
        Op::BatchNorm { channels, .. } => {
            width("batch norm", *channels, inputs[0].channels)?;
            Ok(inputs[0])
        }
        Op::PRelu { channels } => {
            if *channels != 1 {
                width("PReLU", *channels, inputs[0].channels)?;
            }
            Ok(inputs[0])
        }
        Op::Activation(_) | Op::Softmax => Ok(inputs[0]),
        Op::Binary(_) => broadcast(inputs[0], inputs[1]),
        Op::Concat => concat(inputs),
        Op::Slice { start, end } => {
            let channels = inputs[0].channels;
            let fits = start < end && *end <= channels;
            fits.then(|| Shape { channels: end - start, ..inputs[0] })
                .ok_or_else(|| format!("takes channels {start}..{end} of {channels}"))
        }
        Op::Shuffle { groups } => {
            let channels = inputs[0].channels;
            let fits = *groups > 0 && channels.is_multiple_of(*groups);
            fits.then_some(inputs[0])
                .ok_or_else(|| format!("{channels} channels do not divide into {groups} groups"))
        }
        Op::Pad { border, .. } => {
            let Shape { channels, height, width } = inputs[0];
            let (height, width) = (height + border.top + border.bottom, width + border.left + border.right);
            Ok(Shape::new(channels, height, width))
        }
        Op::MaxPool(window) | Op::AvgPool { window, .. } => pool_shape(*window, inputs[0]),
        Op::GlobalAvgPool => Ok(Shape::vector(inputs[0].channels)),
        Op::Resize(Resize { height: 0, .. } | Resize { width: 0, .. }) => {
            Err("resizes to nothing".to_owned())
        }
        Op::Resize(resize) => Ok(Shape::new(inputs[0].channels, resize.height, resize.width)),
        Op::Flatten => Ok(Shape::vector(inputs[0].numel())),
        Op::Linear { inputs: length, outputs, .. } => {
            if inputs[0].area() != 1 {
                return Err(format!("a linear layer reads a vector, not {}; flatten it first", inputs[0]));
            }
            width("linear layer", *length, inputs[0].channels)?;
            if *outputs == 0 {
                return Err("has no outputs".to_owned());
            }
            Ok(Shape::vector(*outputs))
        }
        Op::Opaque(opaque) => {
            let values =
                opaque.operands.iter().filter(|operand| matches!(operand, Operand::Value { .. })).count();
            if values != inputs.len() {
                return Err(format!("reads {} nodes where its operator has {values}", inputs.len()));
            }
            opaque
                .shape(0)
                .filter(|shape| shape.numel() > 0)
                .ok_or_else(|| "has an output of unknown shape".to_owned())
        }
        Op::Part { .. } => unreachable!("its shape is its opaque node's to say"),
        Op::Outputs => Ok(Shape::vector(inputs.iter().map(|shape| shape.numel()).sum())),
    }
}

/// A dimension of 1 is repeated along the other's.
fn broadcast(a: Shape, b: Shape) -> Result<Shape, String> {
    let longer = |a: usize, b: usize| (a == b || a == 1 || b == 1).then_some(a.max(b));
    let shape = longer(a.channels, b.channels).zip(longer(a.height, b.height)).zip(longer(a.width, b.width));
    shape
        .map(|((channels, height), width)| Shape::new(channels, height, width))
        .ok_or_else(|| format!("{a} and {b} do not go together"))
}

fn concat(inputs: &[Shape]) -> Result<Shape, String> {
    let first = inputs[0];
    if let Some(other) =
        inputs.iter().find(|shape| (shape.height, shape.width) != (first.height, first.width))
    {
        return Err(format!("joins {first} and {other}"));
    }
    Ok(Shape { channels: inputs.iter().map(|shape| shape.channels).sum(), ..first })
}

fn width(what: &str, expected: usize, got: usize) -> Result<(), String> {
    if expected == got { Ok(()) } else { Err(format!("{what} of width {expected} reads {got} channels")) }
}

fn conv_shape(conv: Conv, input: Shape) -> Result<Shape, String> {
    width("convolution", conv.inputs, input.channels)?;
    let Conv { inputs, outputs, window, groups, .. } = conv;
    if outputs == 0 || groups == 0 || inputs % groups != 0 || outputs % groups != 0 {
        return Err(format!("{inputs} inputs and {outputs} outputs do not divide into {groups} groups"));
    }
    Ok(Shape { channels: outputs, ..moved(window, input)? })
}

fn pool_shape(window: Window, input: Shape) -> Result<Shape, String> {
    let output = moved(window, input)?;
    let Padding { top, left, bottom, right } = window.padding;
    let [rows, columns] = window.extent();
    if top.max(bottom) >= rows || left.max(right) >= columns {
        return Err(format!("padding {:?} is not smaller than the window {rows}x{columns}", window.padding));
    }
    // A dilated window can step over all of a small image.
    let reads = |axis: usize, at: usize, (border, length): (usize, usize)| {
        let taps = (0..window.kernel[axis]).map(|tap| at * window.stride[axis] + tap * window.dilation[axis]);
        taps.into_iter().any(|place| place >= border && place - border < length)
    };
    let all_read = (0..output.height).all(|at| reads(0, at, (top, input.height)))
        && (0..output.width).all(|at| reads(1, at, (left, input.width)));
    all_read.then_some(output).ok_or_else(|| "has a window of nothing but padding".to_owned())
}

/// What a window makes of the positions.
fn moved(window: Window, input: Shape) -> Result<Shape, String> {
    let Window { kernel, stride, dilation, padding } = window;
    if kernel.iter().chain(&stride).chain(&dilation).any(|&length| length == 0) {
        return Err("kernel, stride and dilation must be at least 1".to_owned());
    }
    let [rows, columns] = window.extent();
    let steps = |length: usize, border: usize, extent: usize, stride: usize| match (length + border)
        .checked_sub(extent)
    {
        Some(room) => Ok(room / stride + 1),
        None => Err(format!("a window of {extent} does not fit into {length} with a padding of {border}")),
    };
    let height = steps(input.height, padding.top + padding.bottom, rows, stride[0])?;
    let width = steps(input.width, padding.left + padding.right, columns, stride[1])?;
    Ok(Shape { height, width, ..input })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_that_reads_nothing_is_refused() {
        let window = |padding| Window {
            dilation: [1, 3],
            kernel: [1, 2],
            ..Window { padding, ..Window::square(1, 1, 0) }
        };
        let columns = |left, right| Padding { left, right, ..Padding::default() };
        let shape = Shape::new(1, 1, 1);
        assert_eq!(pool_shape(window(columns(0, 3)), shape), Ok(shape));
        let problem = pool_shape(window(columns(1, 2)), shape);
        assert_eq!(problem, Err("has a window of nothing but padding".to_owned()));
    }
}
