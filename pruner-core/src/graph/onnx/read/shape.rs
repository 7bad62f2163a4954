//! Dimensions of what a node makes, from the dimensions of what it reads, as ONNX's operators say. Owns these rules for
//! the operators that are lowered and for those that are carried through; what it does not know, it leaves open.

mod window;

use super::element::Element;
use super::file::RANK;
use super::value::{Call, Dim, Int, count};

pub(super) use window::{Moves, moves, pool_kernel, resized, scales};

/// Dimensions and elements of an output.
pub(super) type Known = (Vec<Dim>, Element);

/// What is known of each of the node's outputs.
pub(super) fn infer(call: &Call<'_, '_>) -> Option<Vec<Option<Known>>> {
    let element = element(call)?;
    let one = |dims: Vec<Dim>| Some(vec![Some((dims, element))]);
    match call.node.operator {
        "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => one(view(call)?),
        "Transpose" => {
            let from = call.dims(0)?;
            let order = order(call, from.len())?;
            one(order.into_iter().map(|axis| from[axis]).collect())
        }
        "Concat" => one(concat(call)?),
        "Split" => split(call, element),
        "Slice" => {
            let mut dims = call.dims(0)?;
            for cut in cuts(call)? {
                dims[cut.axis] = Dim::Known(cut.length);
            }
            one(dims)
        }
        "Gather" => {
            let (from, indices) = (call.dims(0)?, call.dims(1)?);
            let axis = Call::axis(call.node.int("axis", 0), from.len())?;
            one([&from[..axis], &indices, &from[axis + 1..]].concat())
        }
        "Expand" => {
            let target = call.constant(1)?.ints()?.into_iter().map(Dim::of).collect::<Option<Vec<Dim>>>()?;
            one(broadcast(call.dims(0)?, target)?)
        }
        "Tile" => {
            let times = call.constant(1)?.ints()?;
            let each = call.dims(0)?.into_iter().zip(times);
            one(each.map(|(dim, times)| dim.times(Dim::of(times)?)).collect::<Option<_>>()?)
        }
        "Pad" => one(padded(call)?),
        "MatMul" => one(product(call.dims(0)?, call.dims(1)?)?),
        "Gemm" => {
            let (a, b) = (call.dims(0)?, call.dims(1)?);
            let turned = |name| call.node.int(name, 0) != 0;
            let row = a.get(usize::from(turned("transA")))?;
            let column = b.get(usize::from(!turned("transB")))?;
            one(vec![*row, *column])
        }
        "ArgMax" | "ArgMin" => {
            let axis = [call.node.int("axis", 0)];
            one(without(call.dims(0)?, Some(&axis), call.node.int("keepdims", 1) != 0)?)
        }
        "TopK" => {
            let mut dims = call.dims(0)?;
            let axis = Call::axis(call.node.int("axis", -1), dims.len())?;
            dims[axis] = call.constant(1)?.ints()?.first().copied().and_then(Dim::of)?;
            Some(vec![Some((dims.clone(), element)), Some((dims, Element::I64))])
        }
        operator if operator.starts_with("Reduce") => {
            let since = if operator == "ReduceSum" { 13 } else { 18 };
            let axes = call.list("axes", 1, since).ok()?;
            one(without(call.dims(0)?, axes.as_deref(), call.node.int("keepdims", 1) != 0)?)
        }
        operator if window::MOVED.contains(&operator) => window::infer(call, element),
        operator if SAME.contains(&operator) => one(call.dims(0)?),
        operator if TOGETHER.contains(&operator) => {
            let each = (0..call.inputs.len()).map(|index| call.dims(index));
            one(each.collect::<Option<Vec<_>>>()?.into_iter().try_fold(Vec::new(), broadcast)?)
        }
        _ => None,
    }
}

/// Operators whose first output has the dimensions of their first input.
const SAME: [&str; 51] = [
    "Identity",
    "Dropout",
    "Cast",
    "Relu",
    "LeakyRelu",
    "PRelu",
    "Clip",
    "Sigmoid",
    "HardSigmoid",
    "HardSwish",
    "Tanh",
    "Softmax",
    "LogSoftmax",
    "Hardmax",
    "BatchNormalization",
    "InstanceNormalization",
    "LayerNormalization",
    "GroupNormalization",
    "LpNormalization",
    "MeanVarianceNormalization",
    "LRN",
    "Elu",
    "Selu",
    "Celu",
    "Gelu",
    "Mish",
    "Softplus",
    "Softsign",
    "ThresholdedRelu",
    "Shrink",
    "Abs",
    "Neg",
    "Exp",
    "Log",
    "Sqrt",
    "Reciprocal",
    "Erf",
    "Sign",
    "Floor",
    "Ceil",
    "Round",
    "Sin",
    "Cos",
    "Atan",
    "Not",
    "IsNaN",
    "CumSum",
    "QuantizeLinear",
    "DequantizeLinear",
    "Trilu",
    "ScatterND",
];

/// Operators whose inputs are repeated to one set of dimensions.
const TOGETHER: [&str; 20] = [
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Pow",
    "Mod",
    "Min",
    "Max",
    "Sum",
    "Mean",
    "And",
    "Or",
    "Xor",
    "Equal",
    "Greater",
    "Less",
    "GreaterOrEqual",
    "LessOrEqual",
    "Where",
    "BitShift",
];

/// The elements of the first output.
pub(super) fn element(call: &Call<'_, '_>) -> Option<Element> {
    match call.node.operator {
        "Cast" => Element::of(call.node.int("to", 0)),
        "Equal" | "Greater" | "Less" | "GreaterOrEqual" | "LessOrEqual" => Some(Element::Bool),
        "And" | "Or" | "Xor" | "Not" | "IsNaN" => Some(Element::Bool),
        "ArgMax" | "ArgMin" | "Shape" | "Size" | "NonZero" => Some(Element::I64),
        "Where" => call.element(1),
        "ConstantOfShape" => {
            let value = call.node.attribute("value").and_then(|value| value.tensor.as_ref());
            Some(value.map_or(Element::F32, |value| value.element))
        }
        "DequantizeLinear" => call.element(1),
        "QuantizeLinear" => Some(call.element(2).unwrap_or(Element::U8)),
        _ => call.element(0),
    }
}

/// Dimensions of the same numbers in the same order, as `Reshape` and its kind give them.
pub(super) fn view(call: &Call<'_, '_>) -> Option<Vec<Dim>> {
    let from = call.dims(0)?;
    let dims = match call.node.operator {
        "Reshape" => reshaped(call, &from)?,
        "Flatten" => {
            let axis = call.node.int("axis", 1);
            let axis = if axis < 0 { axis + from.len() as i64 } else { axis };
            let axis = usize::try_from(axis).ok().filter(|axis| *axis <= from.len())?;
            vec![count(&from[..axis])?, count(&from[axis..])?]
        }
        "Squeeze" => match call.list("axes", 1, 13).ok()? {
            None => from.into_iter().filter(|dim| *dim != Dim::Known(1)).collect(),
            Some(axes) => without(from, Some(&axes), false)?,
        },
        _ => {
            let axes = call.list("axes", 1, 13).ok()??;
            let rank = from.len() + axes.len();
            let axes = Call::axes(&axes, rank)?;
            let mut rest = from.into_iter();
            let dims =
                (0..rank).map(|axis| if axes.contains(&axis) { Some(Dim::Known(1)) } else { rest.next() });
            dims.collect::<Option<_>>()?
        }
    };
    (dims.len() <= RANK).then_some(dims)
}

fn reshaped(call: &Call<'_, '_>, from: &[Dim]) -> Option<Vec<Dim>> {
    let target = call.constant(1).filter(|shape| shape.len() <= RANK)?.ints()?;
    let copies = call.node.int("allowzero", 0) == 0;
    let (mut dims, mut hole) = (Vec::new(), None);
    for (axis, int) in target.into_iter().enumerate() {
        dims.push(match int {
            Int::Known(0) if copies => *from.get(axis)?,
            Int::Known(-1) if hole.is_none() => {
                hole = Some(axis);
                Dim::Known(1)
            }
            int => Dim::of(int)?,
        });
    }
    let (whole, rest) = (count(from)?, count(&dims)?);
    match hole {
        Some(axis) => dims[axis] = whole.over(rest)?,
        None if whole != rest => return None,
        None => {}
    }
    Some(dims)
}

/// Where a `Transpose` takes each axis from.
pub(super) fn order(call: &Call<'_, '_>, rank: usize) -> Option<Vec<usize>> {
    let Some(perm) = call.node.ints("perm") else { return Some((0..rank).rev().collect()) };
    let order = Call::axes(perm, rank)?;
    let mut sorted = order.clone();
    sorted.sort_unstable();
    sorted.into_iter().eq(0..rank).then_some(order)
}

/// What a `Slice` takes of an axis.
pub(super) struct Cut {
    pub(super) axis: usize,
    pub(super) start: isize,
    pub(super) step: isize,
    pub(super) length: usize,
}

/// What a `Slice` takes; axes that stay whole are not among these.
pub(super) fn cuts(call: &Call<'_, '_>) -> Option<Vec<Cut>> {
    let dims = call.dims(0)?;
    let starts = call.list("starts", 1, 10).ok()??;
    let ends = call.list("ends", 2, 10).ok()??;
    let axes = call.list("axes", 3, 10).ok()?.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = call.list("steps", 4, 10).ok()?.unwrap_or_else(|| vec![1; starts.len()]);
    let axes = Call::axes(&axes, dims.len())?;
    if ends.len() != starts.len() || axes.len() != starts.len() || steps.len() != starts.len() {
        return None;
    }
    let mut cuts: Vec<Cut> = Vec::new();
    for (index, axis) in axes.into_iter().enumerate() {
        let (start, end, step) = (starts[index], ends[index], steps[index]);
        if (start, step) == (0, 1) && end >= i64::from(i32::MAX) {
            continue;
        }
        let dim = dims[axis].known()? as i64;
        let from_front = |place: i64| if place < 0 { place.saturating_add(dim) } else { place };
        let (start, end) = (from_front(start), from_front(end));
        let (start, end) = match step {
            1.. => (start.clamp(0, dim), end.clamp(0, dim)),
            _ => (start.clamp(0, (dim - 1).max(0)), end.clamp(-1, (dim - 1).max(-1))),
        };
        if step == 0 || step.unsigned_abs() > 1 << 31 || cuts.iter().any(|cut| cut.axis == axis) {
            return None;
        }
        let length = if step > 0 { (end - start).max(0) } else { (start - end).max(0) };
        let length = (length as usize).div_ceil(step.unsigned_abs() as usize);
        if (start, step, length) != (0, 1, dim as usize) {
            cuts.push(Cut { axis, start: start as isize, step: step as isize, length });
        }
    }
    Some(cuts)
}

/// Lengths of a `Split`'s outputs, and along which axis.
pub(super) fn pieces(call: &Call<'_, '_>) -> Option<(usize, Vec<usize>)> {
    let dims = call.dims(0)?;
    let axis = Call::axis(call.node.int("axis", 0), dims.len())?;
    let whole = dims[axis].known()?;
    let lengths = match call.list("split", 1, 13).ok()? {
        Some(lengths) => lengths.into_iter().map(usize::try_from).collect::<Result<Vec<_>, _>>().ok()?,
        None => {
            let pieces = call.node.outputs.len().max(1);
            let each = whole.div_ceil(pieces);
            (0..pieces).map(|index| each.min(whole.saturating_sub(index * each))).collect()
        }
    };
    let sum = lengths.iter().try_fold(0_usize, |sum, length| sum.checked_add(*length));
    (sum == Some(whole) && lengths.len() == call.node.outputs.len()).then_some((axis, lengths))
}

fn split(call: &Call<'_, '_>, element: Element) -> Option<Vec<Option<Known>>> {
    let dims = call.dims(0)?;
    let (axis, lengths) = pieces(call)?;
    let piece = |length| {
        let mut dims = dims.clone();
        dims[axis] = Dim::Known(length);
        Some((dims, element))
    };
    Some(lengths.into_iter().map(piece).collect())
}

fn concat(call: &Call<'_, '_>) -> Option<Vec<Dim>> {
    let mut dims = call.dims(0)?;
    let axis = Call::axis(call.node.int("axis", 0), dims.len())?;
    for index in 1..call.inputs.len() {
        let other = call.dims(index)?;
        let alike =
            other.len() == dims.len() && (0..dims.len()).all(|at| at == axis || dims[at] == other[at]);
        dims[axis] = match (dims[axis], *other.get(axis).filter(|_| alike)?) {
            (Dim::Known(a), Dim::Known(b)) => Dim::Known(a.checked_add(b)?),
            (Dim::Batch(a), Dim::Batch(b)) => Dim::Batch(a.checked_add(b)?),
            (Dim::Known(_), Dim::Batch(_)) | (Dim::Batch(_), Dim::Known(_)) => return None,
        };
    }
    Some(dims)
}

/// Repeats dimensions of 1, aligned at the last.
pub(super) fn broadcast(a: Vec<Dim>, b: Vec<Dim>) -> Option<Vec<Dim>> {
    let rank = a.len().max(b.len());
    let from_back = |dims: &[Dim], back: usize| {
        dims.len().checked_sub(back).and_then(|at| dims.get(at)).copied().unwrap_or(Dim::Known(1))
    };
    let dims = (1..=rank).rev().map(|back| match (from_back(&a, back), from_back(&b, back)) {
        (Dim::Known(1), other) | (other, Dim::Known(1)) => Some(other),
        (one, other) => (one == other).then_some(one),
    });
    dims.collect()
}

/// Rows and columns to add before and behind each axis, front first; none where they are not known.
pub(super) fn borders(call: &Call<'_, '_>) -> Option<Vec<[i64; 2]>> {
    let rank = call.dims(0)?.len();
    let pads = call.list("pads", 1, 11).ok()??;
    let axes = match call.list("axes", 3, 18).ok()? {
        Some(axes) if call.opset >= 18 => Call::axes(&axes, rank)?,
        _ => (0..rank).collect(),
    };
    if pads.len() != 2 * axes.len() {
        return None;
    }
    let mut borders = vec![[0, 0]; rank];
    for (index, axis) in axes.iter().enumerate() {
        borders[*axis] = [pads[index], pads[index + axes.len()]];
    }
    Some(borders)
}

fn padded(call: &Call<'_, '_>) -> Option<Vec<Dim>> {
    let each = call.dims(0)?.into_iter().zip(borders(call)?);
    let padded = each.map(|(dim, [before, behind])| match dim {
        dim if [before, behind] == [0, 0] => Some(dim),
        dim => {
            let length = i64::try_from(dim.known()?).ok()?.checked_add(before)?.checked_add(behind)?;
            usize::try_from(length).ok().map(Dim::Known)
        }
    });
    padded.collect()
}

/// The dimensions of a matrix product, the leading ones repeated.
fn product(mut a: Vec<Dim>, mut b: Vec<Dim>) -> Option<Vec<Dim>> {
    let (is_row, is_column) = (a.len() == 1, b.len() == 1);
    if is_row {
        a.insert(0, Dim::Known(1));
    }
    if is_column {
        b.push(Dim::Known(1));
    }
    let (columns, inner) = (b.pop()?, b.pop()?);
    let (other, rows) = (a.pop()?, a.pop()?);
    if inner != other {
        return None;
    }
    let mut dims = broadcast(a, b)?;
    dims.extend((!is_row).then_some(rows));
    dims.extend((!is_column).then_some(columns));
    Some(dims)
}

/// Without some axes, or with a 1 in their places; without any where they are left out.
fn without(dims: Vec<Dim>, axes: Option<&[i64]>, keep: bool) -> Option<Vec<Dim>> {
    let axes = match axes {
        Some(axes) if !axes.is_empty() => Call::axes(axes, dims.len())?,
        _ => (0..dims.len()).collect(),
    };
    let each = dims.into_iter().enumerate();
    let kept = each.filter_map(|(axis, dim)| match (axes.contains(&axis), keep) {
        (false, _) => Some(dim),
        (true, true) => Some(Dim::Known(1)),
        (true, false) => None,
    });
    Some(kept.collect())
}
