//! Operators on each number alone, or on two. Owns the patterns that are one activation of ours, and what a constant
//! operand is.

use super::{Lowering, Made, Outputs, Turn, features};
use crate::graph::onnx::read::shape::broadcast;
use crate::graph::onnx::read::value::{Call, Constant, Dim, Feature};
use crate::graph::tensor::TensorKind;
use crate::graph::{Activation, Binary, NodeId, Op, Shape};

impl<'a> Lowering<'_, 'a> {
    pub(super) fn activation(&mut self, call: &Call<'_, 'a>) -> Outputs {
        let (x, _) = self.computed(call, 0)?;
        let node = call.node;
        let activation = match node.operator {
            "Relu" => Activation::Relu,
            "LeakyRelu" => Activation::LeakyRelu { slope: node.float("alpha", 0.01) },
            "Sigmoid" => Activation::Sigmoid,
            "HardSigmoid" => {
                Activation::HardSigmoid { alpha: node.float("alpha", 0.2), beta: node.float("beta", 0.5) }
            }
            "HardSwish" => Activation::HardSwish,
            "Tanh" => Activation::Tanh,
            _ => clip(call)?,
        };
        self.plain(call, Op::Activation(activation), vec![x.id], x.dims)
    }

    pub(super) fn prelu(&mut self, call: &Call<'_, 'a>) -> Outputs {
        let (x, shape) = self.computed(call, 0)?;
        let slope = call.constant(1).ok_or("its slopes are not known beforehand")?.clone();
        let operand = operand(&slope, &x)?;
        let is_per_channel = operand.area() == 1 && [1, shape.channels].contains(&operand.channels);
        if !is_per_channel {
            return Err(format!("its slopes of dimensions {:?} are not one per channel", slope.dims).into());
        }
        let tensors = vec![(TensorKind::Slope, self.numbers(call, &slope)?)];
        let name = Self::named_by(&slope, TensorKind::Slope, call);
        let op = Op::PRelu { channels: operand.channels };
        let made = Made { op, inputs: vec![x.id], dims: x.dims, tensors };
        Ok(vec![Some(self.draft(call, name, made)?)])
    }

    /// Over the channels. Before version 13 everything behind the axis was one dimension.
    pub(super) fn softmax(&mut self, call: &Call<'_, 'a>) -> Outputs {
        let (x, shape) = self.computed(call, 0)?;
        let otherwise = if call.opset < 13 { 1 } else { -1 };
        let axis = Call::axis(call.node.int("axis", otherwise), x.dims.len());
        if axis != Some(1) || (call.opset < 13 && shape.area() != 1) {
            return Err("it is not over the channels".into());
        }
        self.plain(call, Op::Softmax, vec![x.id], x.dims)
    }

    pub(super) fn binary(&mut self, call: &Call<'_, 'a>) -> Outputs {
        let binary = match call.node.operator {
            "Add" => Binary::Add,
            "Sub" => Binary::Sub,
            "Mul" => Binary::Mul,
            _ => Binary::Div,
        };
        match (call.feature(0), call.feature(1)) {
            (Some(_), Some(_)) => self.of_two(call, binary),
            (Some(_), None) => self.with_constant(call, binary, 0),
            _ => self.with_constant(call, binary, 1),
        }
    }

    fn of_two(&mut self, call: &Call<'_, 'a>, binary: Binary) -> Outputs {
        let ((a, _), (b, _)) = (self.computed(call, 0)?, self.computed(call, 1)?);
        if a.dims.len() != b.dims.len() {
            return Err("it reads an image and a vector".into());
        }
        if binary == Binary::Mul
            && let Some(gated) = self.gated(&a, &b).or_else(|| self.gated(&b, &a))
        {
            return self.plain(call, Op::Activation(gated), vec![a.id.min(b.id)], a.dims);
        }
        let dims = broadcast(a.dims, b.dims).ok_or("its inputs do not go together")?;
        self.plain(call, Op::Binary(binary), vec![a.id, b.id], dims)
    }

    /// The activation that x times its gate is, where it is one.
    fn gated(&self, x: &Feature, gate: &Feature) -> Option<Activation> {
        let draft = &self.drafts[gate.id.0].node;
        if draft.inputs != [x.id] || x.dims != gate.dims {
            return None;
        }
        match draft.op {
            Op::Activation(Activation::Sigmoid) => Some(Activation::Silu),
            Op::Activation(Activation::HardSigmoid { alpha, beta: 0.5 })
                if (alpha - 1.0 / 6.0).abs() < 1e-6 =>
            {
                Some(Activation::HardSwish)
            }
            _ => None,
        }
    }

    fn with_constant(&mut self, call: &Call<'_, 'a>, binary: Binary, feature: usize) -> Outputs {
        let (x, _) = self.computed(call, feature)?;
        let constant = call.constant(1 - feature).ok_or("one of its inputs is missing")?.clone();
        if binary == Binary::Add && self.absorbed(call, feature)? {
            return Ok(vec![Some(x)]);
        }
        let dims = broadcast(x.dims.clone(), constant.dims.iter().copied().map(Dim::Known).collect());
        let dims = dims.filter(|dims| features(dims, self.batch).is_some());
        let dims = dims.ok_or("its inputs do not go together")?;
        let id = self.constant(call, &constant, &x)?;
        let inputs = if feature == 0 { vec![x.id, id] } else { vec![id, x.id] };
        self.plain(call, Op::Binary(binary), inputs, dims)
    }

    /// A node of ours for numbers that `x` is combined with.
    fn constant(
        &mut self,
        call: &Call<'_, 'a>,
        constant: &Constant<'a>,
        x: &Feature,
    ) -> Result<NodeId, Turn> {
        let shape = operand(constant, x)?;
        let tensors = vec![(TensorKind::Value, self.numbers(call, constant)?)];
        let dims =
            [self.batch].into_iter().chain([shape.channels, shape.height, shape.width].map(Dim::Known));
        let made = Made { op: Op::Constant { shape }, inputs: Vec::new(), dims: dims.collect(), tensors };
        let by_node = format!("{}.operand", call.node.title());
        let prefix = constant.name.strip_suffix(".value").unwrap_or(constant.name);
        let name = if prefix.is_empty() { by_node.as_str() } else { prefix };
        Ok(self.draft(call, name, made)?.id)
    }
}

/// The features that a constant is beside `x`: its dimensions, aligned at the last, must be 1 where `x` has the batch.
fn operand(constant: &Constant<'_>, x: &Feature) -> Result<Shape, Turn> {
    let rank = x.dims.len();
    let missing =
        rank.checked_sub(constant.dims.len()).ok_or("its constant has more dimensions than the value")?;
    let dims: Vec<usize> = std::iter::repeat_n(1, missing).chain(constant.dims.iter().copied()).collect();
    match *dims.as_slice() {
        [1, length] => Ok(Shape::vector(length)),
        [1, channels, height, width] => Ok(Shape::new(channels, height, width)),
        _ => Err("its constant differs from image to image".into()),
    }
}

fn clip(call: &Call<'_, '_>) -> Result<Activation, Turn> {
    let limit = |name: &str, index: usize, otherwise: f32| {
        if call.opset < 11 {
            return Ok(call.node.float(name, otherwise));
        }
        match call.input(index) {
            None => Ok(otherwise),
            Some(_) => call
                .constant(index)
                .and_then(|limit| limit.scalar())
                .ok_or("its limits are not known beforehand"),
        }
    };
    let (min, max) = (limit("min", 1, f32::MIN)?, limit("max", 2, f32::MAX)?);
    Ok(if min == 0.0 && max >= f32::MAX { Activation::Relu } else { Activation::Clip { min, max } })
}
