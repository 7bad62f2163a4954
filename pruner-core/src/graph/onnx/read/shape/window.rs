//! Dimensions of what windows that move over positions make, and of what is resized. Owns automatic padding and ceiling
//! mode, as numbers of rows and columns.

use super::Known;
use crate::graph::onnx::read::element::Element;
use crate::graph::onnx::read::value::{Call, Dim};
use crate::graph::shown;

/// Longest kernel, step, dilation or border.
const LONGEST: usize = 1 << 20;

/// The operators of this file.
pub(super) const MOVED: [&str; 13] = [
    "Conv",
    "ConvTranspose",
    "MaxPool",
    "AveragePool",
    "LpPool",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "GlobalLpPool",
    "Resize",
    "Upsample",
    "DepthToSpace",
    "SpaceToDepth",
    "ConvInteger",
];

/// How a window moves; one number per dimension of the positions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Moves {
    pub(in super::super) kernel: Vec<usize>,
    pub(in super::super) stride: Vec<usize>,
    pub(in super::super) dilation: Vec<usize>,
    /// Borders that the file asks for.
    pub(in super::super) before: Vec<usize>,
    pub(in super::super) behind: Vec<usize>,
    /// Further border behind, which the last window of ceiling mode reaches into.
    pub(in super::super) further: Vec<usize>,
    pub(in super::super) outputs: Vec<usize>,
}

pub(super) fn infer(call: &Call<'_, '_>, element: Element) -> Option<Vec<Option<Known>>> {
    let from = call.dims(0)?;
    if from.len() < 2 {
        return None;
    }
    let positions = &from[2..];
    let with = |channels: Dim, positions: &[usize]| {
        let positions = positions.iter().copied().map(Dim::Known);
        [from[0], channels].into_iter().chain(positions).collect::<Vec<Dim>>()
    };
    let dims = match call.node.operator {
        "Conv" => {
            let weight = call.dims(1)?;
            let kernel = weight.get(2..)?.iter().map(|dim| dim.known()).collect::<Option<Vec<usize>>>()?;
            with(weight[0], &moves(call, positions, kernel).ok()?.outputs)
        }
        "MaxPool" => {
            let dims = with(from[1], &moves(call, positions, pool_kernel(call)?).ok()?.outputs);
            return Some(vec![Some((dims.clone(), element)), Some((dims, Element::I64))]);
        }
        "AveragePool" | "LpPool" => with(from[1], &moves(call, positions, pool_kernel(call)?).ok()?.outputs),
        "ConvTranspose" => transposed(call, positions).map(|(channels, sizes)| with(channels, &sizes))?,
        "GlobalAveragePool" | "GlobalMaxPool" | "GlobalLpPool" => with(from[1], &vec![1; positions.len()]),
        "Resize" | "Upsample" => resized(call)?,
        "DepthToSpace" | "SpaceToDepth" => blocks(call, &from)?,
        _ => return None,
    };
    Some(vec![Some((dims, element))])
}

/// The kernel that a pooling's attribute gives.
pub(in super::super) fn pool_kernel(call: &Call<'_, '_>) -> Option<Vec<usize>> {
    call.node.ints("kernel_shape")?.iter().map(|side| usize::try_from(*side).ok()).collect()
}

/// How the window of a convolution or pooling moves over `positions`.
pub(in super::super) fn moves(
    call: &Call<'_, '_>,
    positions: &[Dim],
    kernel: Vec<usize>,
) -> Result<Moves, String> {
    let rank = positions.len();
    let lengths: Option<Vec<usize>> = positions.iter().map(|dim| dim.known()).collect();
    let lengths = lengths.ok_or("it moves over the batch")?;
    let list = |name: &str, otherwise: usize, least: usize, length: usize| {
        let Some(ints) = call.node.ints(name) else { return Ok(vec![otherwise; length]) };
        let fits = |side: &i64| usize::try_from(*side).ok().filter(|side| (least..=LONGEST).contains(side));
        let sides: Option<Vec<usize>> = ints.iter().map(fits).collect();
        sides
            .filter(|sides| sides.len() == length)
            .ok_or_else(|| format!("its {name} {ints:?} make no sense"))
    };
    let pads = list("pads", 0, 0, 2 * rank)?;
    let (before, behind) = pads.split_at(rank);
    let mut moves = Moves {
        stride: list("strides", 1, 1, rank)?,
        dilation: list("dilations", 1, 1, rank)?,
        before: before.to_vec(),
        behind: behind.to_vec(),
        further: vec![0; rank],
        outputs: Vec::new(),
        kernel,
    };
    let is_sane = moves.kernel.len() == rank && moves.kernel.iter().all(|side| (1..=LONGEST).contains(side));
    if !is_sane {
        return Err(format!("its kernel {:?} makes no sense", moves.kernel));
    }
    for (axis, length) in lengths.into_iter().enumerate() {
        let output = moves.along(call, axis, length)?;
        moves.outputs.push(output);
    }
    Ok(moves)
}

impl Moves {
    /// Settles the borders of one axis and says how many windows there are along it.
    fn along(&mut self, call: &Call<'_, '_>, axis: usize, length: usize) -> Result<usize, String> {
        let extent = (self.kernel[axis] - 1) * self.dilation[axis] + 1;
        let stride = self.stride[axis];
        let automatic = call.node.text("auto_pad", "NOTSET");
        match automatic {
            "NOTSET" | "" => {}
            "VALID" => (self.before[axis], self.behind[axis]) = (0, 0),
            "SAME_UPPER" | "SAME_LOWER" => {
                let border = ((length.div_ceil(stride).max(1) - 1) * stride + extent).saturating_sub(length);
                let (less, more) = (border / 2, border.div_ceil(2));
                let (before, behind) = if automatic == "SAME_UPPER" { (less, more) } else { (more, less) };
                (self.before[axis], self.behind[axis]) = (before, behind);
            }
            other => return Err(format!("its padding '{}' is unknown", shown::name(other))),
        }
        let padded = length + self.before[axis] + self.behind[axis];
        let Some(room) = padded.checked_sub(extent) else {
            return Err(format!("its window of {extent} does not fit into {padded}"));
        };
        let output = room / stride + 1;
        let starts_inside = output * stride < length + self.before[axis];
        if call.node.int("ceil_mode", 0) != 0 && !room.is_multiple_of(stride) && starts_inside {
            self.further[axis] = output * stride + extent - padded;
            return Ok(output + 1);
        }
        Ok(output)
    }
}

fn transposed(call: &Call<'_, '_>, positions: &[Dim]) -> Option<(Dim, Vec<usize>)> {
    let is_plain = matches!(call.node.text("auto_pad", "NOTSET"), "NOTSET" | "");
    if !is_plain || call.node.attribute("output_shape").is_some() {
        return None;
    }
    let rank = positions.len();
    let weight = call.dims(1).filter(|weight| weight.len() == rank + 2)?;
    let list = |name: &str, otherwise: i64, length: usize| {
        let ints = call.node.ints(name).map_or_else(|| vec![otherwise; length], <[i64]>::to_vec);
        let is_sane = ints.len() == length && ints.iter().all(|side| (0..=LONGEST as i64).contains(side));
        is_sane.then_some(ints)
    };
    let (strides, dilations) = (list("strides", 1, rank)?, list("dilations", 1, rank)?);
    let (more, pads) = (list("output_padding", 0, rank)?, list("pads", 0, 2 * rank)?);
    let size = |axis: usize| {
        let length = positions[axis].known()?.checked_sub(1)? as i64;
        let kernel = weight[axis + 2].known().filter(|side| (1..=LONGEST).contains(side))? as i64;
        let whole = length
            .checked_mul(strides[axis])?
            .checked_add(more[axis] + (kernel - 1) * dilations[axis] + 1)?;
        usize::try_from(whole - pads[axis] - pads[axis + rank]).ok()
    };
    let groups = usize::try_from(call.node.int("group", 1)).ok()?;
    let channels = weight[1].times(Dim::Known(groups))?;
    Some((channels, (0..rank).map(size).collect::<Option<_>>()?))
}

fn blocks(call: &Call<'_, '_>, from: &[Dim]) -> Option<Vec<Dim>> {
    let side = usize::try_from(call.node.int("blocksize", 0)).ok().filter(|side| *side <= LONGEST)?;
    let &[batch, channels, height, width] = from else { return None };
    let (side, area) = (Dim::Known(side), Dim::Known(side.checked_mul(side)?));
    Some(match call.node.operator {
        "DepthToSpace" => vec![batch, channels.over(area)?, height.times(side)?, width.times(side)?],
        _ => vec![batch, channels.times(area)?, height.over(side)?, width.over(side)?],
    })
}

/// The dimensions after a `Resize`: its sizes, or its scales rounded down.
pub(in super::super) fn resized(call: &Call<'_, '_>) -> Option<Vec<Dim>> {
    let from = call.dims(0)?;
    if call.opset >= 18 && (call.node.attribute("axes").is_some() || policy(call) != "stretch") {
        return None;
    }
    let sizes = call.constant(3).filter(|sizes| sizes.len() > 0);
    if let Some(sizes) = sizes.filter(|_| call.opset >= 11) {
        let dims: Vec<Dim> = sizes.ints()?.into_iter().map(Dim::of).collect::<Option<_>>()?;
        return (dims.len() == from.len()).then_some(dims);
    }
    let scales = scales(call).filter(|scales| scales.len() == from.len())?;
    let each = from.into_iter().zip(scales).map(|(dim, scale)| match dim {
        dim if scale == 1.0 => Some(dim),
        Dim::Known(length) if scale > 0.0 => {
            let length = (length as f32 * scale).floor();
            (length <= LONGEST as f32).then_some(Dim::Known(length as usize))
        }
        Dim::Known(_) | Dim::Batch(_) => None,
    });
    each.collect()
}

fn policy<'b>(call: &'b Call<'_, '_>) -> &'b str {
    call.node.text("keep_aspect_ratio_policy", "stretch")
}

/// The scales of a `Resize` or `Upsample`, one per dimension.
pub(in super::super) fn scales(call: &Call<'_, '_>) -> Option<Vec<f32>> {
    let index = if call.node.operator == "Resize" && call.opset >= 11 { 2 } else { 1 };
    call.constant(index).filter(|scales| scales.len() <= 8)?.floats()
}
