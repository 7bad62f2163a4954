//! Poolings and resizing. Owns how ceiling mode and automatic borders become borders of ours.

use super::layers::padding;
use super::{Lowering, Made, Outputs, Turn};
use crate::graph::onnx::read::shape::{Moves, moves, pool_kernel, resized, scales};
use crate::graph::onnx::read::value::{Call, Dim, Feature};
use crate::graph::{Coordinates, Divisor, Interpolation, Op, Padding, Resize, Window, shown};

impl<'a> Lowering<'_, 'a> {
    /// Ceiling mode's further border is never the largest, so it is a border like another.
    pub(super) fn max_pool(&mut self, call: &Call<'_, 'a>) -> Outputs {
        let (x, moves) = self.pooled(call)?;
        let behind: Vec<usize> = moves.behind.iter().zip(&moves.further).map(|(a, b)| a + b).collect();
        let window = window(&moves, padding(&moves.before, &behind))?;
        self.plain(call, Op::MaxPool(window), vec![x.id], pooled_dims(&x, &moves))
    }

    /// Ceiling mode's further border is never counted. Where the file's own border is, that one is padded before.
    pub(super) fn average_pool(&mut self, call: &Call<'_, 'a>) -> Outputs {
        let (x, moves) = self.pooled(call)?;
        let dims = pooled_dims(&x, &moves);
        let (before, behind, further) = (&moves.before, &moves.behind, &moves.further);
        let counts = call.node.int("count_include_pad", 0) != 0;
        let divisor = if counts { Divisor::Window } else { Divisor::Inside };
        if further.iter().all(|side| *side == 0) {
            let window = window(&moves, padding(before, behind))?;
            return self.plain(call, Op::AvgPool { window, divisor }, vec![x.id], dims);
        }
        let is_padded = before.iter().chain(behind).any(|side| *side > 0);
        if !counts || !is_padded {
            let behind: Vec<usize> = behind.iter().zip(further).map(|(a, b)| a + b).collect();
            let window = window(&moves, padding(before, &behind))?;
            return self.plain(call, Op::AvgPool { window, divisor: Divisor::Inside }, vec![x.id], dims);
        }
        let window = window(&moves, padding(&[0, 0], further))?;
        let border = padding(before, behind);
        let mut wide = x.dims.clone();
        wide[2] = Dim::Known(wide[2].size() + border.top + border.bottom);
        wide[3] = Dim::Known(wide[3].size() + border.left + border.right);
        let op = Op::Pad { border, value: 0.0 };
        let made = Made { op, inputs: vec![x.id], dims: wide, tensors: Vec::new() };
        let wide = self.draft(call, &format!("{}.pad", call.node.title()), made)?;
        self.plain(call, Op::AvgPool { window, divisor: Divisor::Inside }, vec![wide.id], dims)
    }

    fn pooled(&mut self, call: &Call<'_, 'a>) -> Result<(Feature, Moves), Turn> {
        let (x, _) = self.image(call, 0)?;
        let kernel = pool_kernel(call).ok_or("it has no kernel")?;
        let moves = moves(call, &x.dims[2..], kernel)?;
        Ok((x, moves))
    }

    /// `GlobalAveragePool`, or a `ReduceMean` over rows and columns.
    pub(super) fn global_average_pool(&mut self, call: &Call<'_, 'a>) -> Outputs {
        let (x, _) = self.image(call, 0)?;
        let mut keep = true;
        if call.node.operator == "ReduceMean" {
            let axes = call.list("axes", 1, 18)?.and_then(|axes| Call::axes(&axes, 4));
            let mut axes = axes.ok_or("it is not over rows and columns")?;
            axes.sort_unstable();
            if axes != [2, 3] {
                return Err("it is not over rows and columns".into());
            }
            keep = call.node.int("keepdims", 1) != 0;
        }
        let mut dims = x.dims[..2].to_vec();
        dims.extend([Dim::Known(1); 2].into_iter().filter(|_| keep));
        self.plain(call, Op::GlobalAvgPool, vec![x.id], dims)
    }

    pub(super) fn resize(&mut self, call: &Call<'_, 'a>) -> Outputs {
        let (x, shape) = self.image(call, 0)?;
        let dims = resized(call).ok_or("the size that it makes is not known beforehand")?;
        let &[batch, channels, Dim::Known(height), Dim::Known(width)] = dims.as_slice() else {
            return Err("the size that it makes is not known beforehand".into());
        };
        if batch != x.dims[0] || channels != x.dims[1] {
            return Err("it resizes more than rows and columns".into());
        }
        let (interpolation, coordinates) = way(call)?;
        let has_sizes = call.opset >= 11 && call.constant(3).is_some_and(|sizes| sizes.len() > 0);
        let scales = scales(call).filter(|scales| scales.len() == 4 && !has_sizes);
        let ratios = [shape.height as f32 / height as f32, shape.width as f32 / width as f32];
        // Scales that are the sizes' ratios but for rounding say nothing more.
        let steps = scales.map(|scales| [scales[2].recip(), scales[3].recip()]);
        let is_ratio = |steps: &[f32; 2]| {
            steps.iter().zip(&ratios).all(|(step, ratio)| (step - ratio).abs() <= 1e-6 * ratio)
        };
        let step = steps.filter(|steps| coordinates != Coordinates::AlignCorners && !is_ratio(steps));
        let resize = Resize { height, width, step, interpolation, coordinates };
        self.plain(call, Op::Resize(resize), vec![x.id], dims)
    }
}

/// How a `Resize` finds its numbers. Before version 11 there was one way of each.
fn way(call: &Call<'_, '_>) -> Result<(Interpolation, Coordinates), Turn> {
    let node = call.node;
    let is_linear = match node.text("mode", "nearest") {
        "nearest" => false,
        "linear" | "bilinear" => true,
        mode => return Err(format!("its mode '{}' is unknown", shown::name(mode)).into()),
    };
    let linear_or = |nearest| if is_linear { Interpolation::Linear } else { nearest };
    if call.opset < 11 {
        return Ok((linear_or(Interpolation::NearestFloor), Coordinates::Asymmetric));
    }
    if node.int("antialias", 0) != 0 {
        return Err("it smooths what it makes smaller".into());
    }
    let coordinates = match node.text("coordinate_transformation_mode", "half_pixel") {
        "half_pixel" => Coordinates::HalfPixel,
        "pytorch_half_pixel" => Coordinates::PytorchHalfPixel,
        "asymmetric" => Coordinates::Asymmetric,
        "align_corners" => Coordinates::AlignCorners,
        mode => return Err(format!("its coordinates '{}' are unknown", shown::name(mode)).into()),
    };
    let nearest = match node.text("nearest_mode", "round_prefer_floor") {
        "floor" => Interpolation::NearestFloor,
        "round_prefer_floor" => Interpolation::NearestPreferFloor,
        _ if is_linear => Interpolation::Linear,
        mode => return Err(format!("its rounding '{}' is unknown", shown::name(mode)).into()),
    };
    Ok((linear_or(nearest), coordinates))
}

/// The window of a pooling; its border must be smaller than what it reads.
fn window(moves: &Moves, padding: Padding) -> Result<Window, Turn> {
    let [kernel, stride, dilation] =
        [&moves.kernel, &moves.stride, &moves.dilation].map(|pair| [pair[0], pair[1]]);
    let window = Window { kernel, stride, dilation, padding };
    let [rows, columns] = window.extent();
    let Padding { top, left, bottom, right } = padding;
    if top.max(bottom) >= rows || left.max(right) >= columns {
        return Err("its border is as large as its window".into());
    }
    Ok(window)
}

fn pooled_dims(x: &Feature, moves: &Moves) -> Vec<Dim> {
    vec![x.dims[0], x.dims[1], Dim::Known(moves.outputs[0]), Dim::Known(moves.outputs[1])]
}
