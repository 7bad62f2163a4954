//! Shape inference: every node's output shape from its inputs', or which node does not fit and why.

use super::{Conv, GraphError, Node, Op, Pool, Shape};

/// The output's shape of every node. `nodes` are in topological order and the first is the input.
pub(super) fn infer(input: Shape, nodes: &[Node]) -> Result<Vec<Shape>, GraphError> {
    let mut shapes: Vec<Shape> = Vec::with_capacity(nodes.len());
    for node in nodes {
        let inputs: Vec<Shape> = node.inputs.iter().map(|id| shapes[id.0]).collect();
        let expected = match node.op {
            Op::Input => 0,
            Op::Add => 2,
            _ => 1,
        };
        if inputs.len() != expected {
            let problem = format!("reads {} nodes where it needs {expected}", inputs.len());
            return Err(GraphError::Inputs { node: node.name.clone(), problem });
        }
        let shape = output_shape(input, &node.op, &inputs)
            .map_err(|problem| GraphError::Shape { node: node.name.clone(), problem })?;
        shapes.push(shape);
    }
    Ok(shapes)
}

fn output_shape(input: Shape, op: &Op, inputs: &[Shape]) -> Result<Shape, String> {
    match *op {
        Op::Input if input.numel() == 0 => Err(format!("the input {input} is empty")),
        Op::Input => Ok(input),
        Op::Conv(conv) => conv_shape(conv, inputs[0]),
        Op::BatchNorm { channels, .. } => {
            width("batch norm", channels, inputs[0].channels)?;
            Ok(inputs[0])
        }
        Op::Relu => Ok(inputs[0]),
        Op::Add if inputs[0] == inputs[1] => Ok(inputs[0]),
        Op::Add => Err(format!("adds {} to {}", inputs[0], inputs[1])),
        Op::MaxPool(pool) | Op::AvgPool(pool) => pool_shape(pool, inputs[0]),
        Op::GlobalAvgPool => Ok(Shape::vector(inputs[0].channels)),
        Op::Flatten => Ok(Shape::vector(inputs[0].numel())),
        Op::Linear { inputs: length, outputs, .. } => {
            if inputs[0].area() != 1 {
                return Err(format!("a linear layer reads a vector, not {}; flatten it first", inputs[0]));
            }
            width("linear layer", length, inputs[0].channels)?;
            if outputs == 0 {
                return Err("has no outputs".to_owned());
            }
            Ok(Shape::vector(outputs))
        }
    }
}

fn width(what: &str, expected: usize, got: usize) -> Result<(), String> {
    if expected == got { Ok(()) } else { Err(format!("{what} of width {expected} reads {got} channels")) }
}

fn conv_shape(conv: Conv, input: Shape) -> Result<Shape, String> {
    width("convolution", conv.inputs, input.channels)?;
    let Conv { inputs, outputs, kernel, stride, padding, groups, .. } = conv;
    if outputs == 0 || groups == 0 || inputs % groups != 0 || outputs % groups != 0 {
        return Err(format!("{inputs} inputs and {outputs} outputs do not divide into {groups} groups"));
    }
    let height = window(input.height, kernel, stride, padding)?;
    let width = window(input.width, kernel, stride, padding)?;
    Ok(Shape::new(outputs, height, width))
}

fn pool_shape(pool: Pool, input: Shape) -> Result<Shape, String> {
    let Pool { kernel, stride, padding } = pool;
    if padding >= kernel {
        return Err(format!("padding {padding} is not smaller than the window {kernel}"));
    }
    let height = window(input.height, kernel, stride, padding)?;
    let width = window(input.width, kernel, stride, padding)?;
    Ok(Shape::new(input.channels, height, width))
}

fn window(length: usize, kernel: usize, stride: usize, padding: usize) -> Result<usize, String> {
    if kernel == 0 || stride == 0 {
        return Err("kernel and stride must be at least 1".to_owned());
    }
    match (length + 2 * padding).checked_sub(kernel) {
        Some(room) => Ok(room / stride + 1),
        None => Err(format!("a window of {kernel} does not fit into {length} with padding {padding}")),
    }
}
