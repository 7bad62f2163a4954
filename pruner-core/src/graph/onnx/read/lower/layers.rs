//! Operators with weights. Owns how a file's weights become a layer's tensors: transposed, scaled and spread.

use super::{Lowering, Made, Outputs, Turn};
use crate::graph::onnx::read::shape::moves;
use crate::graph::onnx::read::value::{Call, Constant, Dim};
use crate::graph::tensor::TensorKind;
use crate::graph::{Conv, Op, Padding, Window};

impl<'a> Lowering<'_, 'a> {
    pub(super) fn conv(&mut self, call: &Call<'_, 'a>) -> Outputs {
        let (x, _) = self.image(call, 0)?;
        let weight = call.constant(1).ok_or("its weight is not known beforehand")?.clone();
        let &[outputs, reads, rows, columns] = weight.dims.as_slice() else {
            return Err(format!("its weight has dimensions {:?}", weight.dims).into());
        };
        let moves = moves(call, &x.dims[2..], vec![rows, columns])?;
        let groups = usize::try_from(call.node.int("group", 1)).unwrap_or_default();
        let inputs = reads.checked_mul(groups).ok_or("it has too many groups")?;
        let bias = self.bias(call, 2, outputs, 1.0)?;
        let window = Window {
            kernel: [rows, columns],
            stride: [moves.stride[0], moves.stride[1]],
            dilation: [moves.dilation[0], moves.dilation[1]],
            padding: padding(&moves.before, &moves.behind),
        };
        let conv = Conv { inputs, outputs, window, groups, bias: bias.is_some() };
        let mut tensors = vec![(TensorKind::Weight, self.numbers(call, &weight)?)];
        tensors.extend(bias.map(|bias| (TensorKind::Bias, bias)));
        let [height, width] = [moves.outputs[0], moves.outputs[1]].map(Dim::Known);
        let dims = vec![self.batch, Dim::Known(outputs), height, width];
        let name = Self::named_by(&weight, TensorKind::Weight, call);
        let made = Made { op: Op::Conv(conv), inputs: vec![x.id], dims, tensors };
        Ok(vec![Some(self.draft(call, name, made)?)])
    }

    pub(super) fn batch_norm(&mut self, call: &Call<'_, 'a>) -> Outputs {
        if call.node.int("training_mode", 0) != 0 {
            return Err("it is in training mode".into());
        }
        let (x, shape) = self.computed(call, 0)?;
        let kinds = [TensorKind::Scale, TensorKind::Shift, TensorKind::RunningMean, TensorKind::RunningVar];
        let (channels, mut tensors) = (shape.channels, Vec::new());
        for (index, kind) in kinds.into_iter().enumerate() {
            let tensor = call.constant(index + 1).ok_or("its tensors are not known beforehand")?;
            if tensor.dims != [channels] {
                return Err(format!("it reads {channels} channels, its tensors are {:?}", tensor.dims).into());
            }
            tensors.push((kind, self.numbers(call, tensor)?));
        }
        let eps = f64::from(call.node.float("epsilon", 1e-5));
        let scale = call.constant(1).ok_or("its tensors are not known beforehand")?;
        let name = Self::named_by(scale, TensorKind::Scale, call);
        let made = Made { op: Op::BatchNorm { channels, eps }, inputs: vec![x.id], dims: x.dims, tensors };
        Ok(vec![Some(self.draft(call, name, made)?)])
    }

    pub(super) fn gemm(&mut self, call: &Call<'_, 'a>) -> Outputs {
        if call.node.int("transA", 0) != 0 {
            return Err("it reads its input transposed".into());
        }
        let columns = call.node.int("transB", 0) == 0;
        let (alpha, beta) = (call.node.float("alpha", 1.0), call.node.float("beta", 1.0));
        self.linear(call, Factors { columns, alpha, beta })
    }

    pub(super) fn matmul(&mut self, call: &Call<'_, 'a>) -> Outputs {
        self.linear(call, Factors { columns: true, alpha: 1.0, beta: 1.0 })
    }

    fn linear(&mut self, call: &Call<'_, 'a>, factors: Factors) -> Outputs {
        let (x, _) = self.computed(call, 0)?;
        if x.dims.len() != 2 {
            return Err("it multiplies more than one vector per image".into());
        }
        let weight = call.constant(1).ok_or("its weight is not known beforehand")?.clone();
        let &[rows, columns] = weight.dims.as_slice() else {
            return Err(format!("its weight has dimensions {:?}", weight.dims).into());
        };
        let (outputs, inputs) = if factors.columns { (columns, rows) } else { (rows, columns) };
        let bias = self.bias(call, 2, outputs, factors.beta)?;
        let mut numbers = self.numbers(call, &weight)?;
        if factors.columns {
            self.spend(call, numbers.len())?;
            numbers = transposed(&numbers, rows, columns);
        }
        if factors.alpha != 1.0 {
            numbers.iter_mut().for_each(|number| *number *= factors.alpha);
        }
        let op = Op::Linear { inputs, outputs, bias: bias.is_some() };
        let mut tensors = vec![(TensorKind::Weight, numbers)];
        tensors.extend(bias.map(|bias| (TensorKind::Bias, bias)));
        let name = Self::named_by(&weight, TensorKind::Weight, call);
        let dims = vec![self.batch, Dim::Known(outputs)];
        let made = Made { op, inputs: vec![x.id], dims, tensors };
        Ok(vec![Some(self.draft(call, name, made)?)])
    }

    /// A layer's bias, spread to its outputs and multiplied by `factor`; none where it is left out.
    fn bias(
        &mut self,
        call: &Call<'_, 'a>,
        index: usize,
        outputs: usize,
        factor: f32,
    ) -> Result<Option<Vec<f32>>, Turn> {
        if call.input(index).is_none() {
            return Ok(None);
        }
        let bias = call.constant(index).ok_or("its bias is not known beforehand")?.clone();
        let mut numbers = self.spread(call, &bias, outputs)?;
        numbers.iter_mut().for_each(|number| *number *= factor);
        Ok(Some(numbers))
    }

    /// One number per output, from as many or from one.
    fn spread(&mut self, call: &Call<'_, 'a>, bias: &Constant<'a>, outputs: usize) -> Result<Vec<f32>, Turn> {
        let (last, others) = bias.dims.split_last().map_or((1, &[][..]), |(last, others)| (*last, others));
        if others.iter().any(|dim| *dim != 1) || (last != 1 && last != outputs) {
            return Err(format!("its bias of dimensions {:?} is not one per output", bias.dims).into());
        }
        let numbers = self.numbers(call, bias)?;
        self.spend(call, outputs)?;
        Ok(if numbers.len() == outputs { numbers } else { numbers.repeat(outputs) })
    }

    /// Makes a sum with constants the bias of the layer before it, where that has none and nothing else reads it.
    pub(super) fn absorbed(&mut self, call: &Call<'_, 'a>, layer: usize) -> Result<bool, Turn> {
        let (Some(x), Some(constant)) = (call.feature(layer), call.constant(1 - layer)) else {
            return Ok(false);
        };
        let name = call.node.inputs[layer];
        let draft = &self.drafts[x.id.0];
        if draft.makes != name || self.uses.get(name) != Some(&1) {
            return Ok(false);
        }
        let outputs = match &draft.node.op {
            Op::Conv(conv) if !conv.bias => conv.outputs,
            Op::Linear { outputs, bias: false, .. } => *outputs,
            _ => return Ok(false),
        };
        // One number per channel: along the second dimension of the value, which is the first that is not the batch's.
        let positions = x.dims.len() - 2;
        let (channel, rest) = match constant.dims.len().checked_sub(positions + 1) {
            Some(before) => (constant.dims[before], [&constant.dims[..before], &constant.dims[before + 1..]]),
            None => return Ok(false),
        };
        let fits = channel == outputs && constant.len() == outputs && constant.dims.len() <= x.dims.len();
        if !fits || rest.concat().iter().any(|dim| *dim != 1) {
            return Ok(false);
        }
        let constant = constant.clone();
        let numbers = self.numbers(call, &constant)?;
        let draft = &mut self.drafts[x.id.0];
        draft.tensors.push((TensorKind::Bias, numbers));
        draft.makes = call.node.outputs.first().copied().unwrap_or_default();
        match &mut draft.node.op {
            Op::Conv(conv) => conv.bias = true,
            Op::Linear { bias, .. } => *bias = true,
            _ => {}
        }
        Ok(true)
    }
}

/// How a product's weight is to be read.
struct Factors {
    /// Outputs are the weight's columns, not its rows.
    columns: bool,
    alpha: f32,
    beta: f32,
}

/// Rows, columns before and behind as padding.
pub(super) fn padding(before: &[usize], behind: &[usize]) -> Padding {
    Padding { top: before[0], left: before[1], bottom: behind[0], right: behind[1] }
}

fn transposed(numbers: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|column| (0..rows).map(move |row| numbers[row * columns + column])).collect()
}
