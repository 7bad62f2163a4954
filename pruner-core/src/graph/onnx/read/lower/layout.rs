//! Operators that move numbers without computing. Owns the patterns among them that are one node of ours or none:
//! views of the same numbers, a shuffle of channels, slices of channels.

use std::rc::Rc;

use super::{Lowering, Made, Outputs, features};
use crate::graph::onnx::read::element::Element;
use crate::graph::onnx::read::shape::{self, borders, cuts, order, pieces};
use crate::graph::onnx::read::value::{Call, Dim, Feature, Origin, Past};
use crate::graph::{Op, Padding, Shape};

impl<'a> Lowering<'_, 'a> {
    pub(super) fn view(&mut self, call: &Call<'_, 'a>) -> Outputs {
        let x = call.feature(0).ok_or("it does not read the image's features")?.clone();
        let dims = shape::view(call).ok_or("the shape that it makes is not known beforehand")?;
        self.viewed(call, &x, dims)
    }

    /// The same numbers in the same order under other dimensions: no node, a flatten, or the end of a shuffle.
    fn viewed(&mut self, call: &Call<'_, 'a>, x: &Feature, dims: Vec<Dim>) -> Outputs {
        let origin = x.origin();
        let same = |past| Feature { id: origin.id, dims: dims.clone(), element: x.element, past };
        if dims == origin.dims {
            return Ok(vec![Some(same(Past::Plain))]);
        }
        if let Past::Shuffled { of, groups } = &x.past
            && of.dims == dims
        {
            return self.plain(call, Op::Shuffle { groups: *groups }, vec![of.id], dims);
        }
        let from = features(&origin.dims, self.batch).filter(|_| x.element == Element::F32);
        let (Some(from), Some(to)) = (from, features(&dims, self.batch)) else {
            return Err("the shape that it makes is neither an image nor a vector".into());
        };
        for (id, shape) in [(origin.id, Some(from)), (x.id, features(&x.dims, self.batch))] {
            if shape == Some(to) {
                return Ok(vec![Some(Feature { id, ..same(Past::View(Rc::clone(&origin))) })]);
            }
        }
        if to != Shape::vector(from.numel()) {
            return Err("it makes an image of other numbers of channels, rows or columns".into());
        }
        let made = Made { op: Op::Flatten, inputs: vec![origin.id], dims, tensors: Vec::new() };
        let flat = self.draft(call, call.node.title(), made)?;
        Ok(vec![Some(Feature { past: Past::View(origin), ..flat })])
    }

    pub(super) fn transpose(&mut self, call: &Call<'_, 'a>) -> Outputs {
        let x = call.feature(0).ok_or("it does not read the image's features")?.clone();
        let order = order(call, x.dims.len()).ok_or("its axes make no sense")?;
        // Moving dimensions of 1 about leaves the numbers in their order.
        let long = || order.iter().filter(|axis| x.dims[**axis] != Dim::Known(1));
        if long().is_sorted() {
            let dims = order.iter().map(|axis| x.dims[*axis]).collect();
            return self.viewed(call, &x, dims);
        }
        Err("it moves dimensions about".into())
    }

    /// What later nodes may make of the output of a layout operator that is carried through.
    pub(super) fn past(&self, call: &Call<'_, 'a>) -> Past {
        let Some(x) = call.feature(0) else { return Past::Plain };
        match call.node.operator {
            // What flattens an image is a node of its own: its channels, not the image's, are split from here on.
            "Reshape" if x.dims.len() == 2 => Past::View(Rc::new(Origin { id: x.id, dims: x.dims.clone() })),
            "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => Past::View(x.origin()),
            "Transpose" => self.shuffled(call, x).unwrap_or(Past::Plain),
            _ => Past::Plain,
        }
    }

    /// The past of a transpose that exchanges the two dimensions that an image's channels were split into.
    fn shuffled(&self, call: &Call<'_, 'a>, x: &Feature) -> Option<Past> {
        let Past::View(of) = &x.past else { return None };
        let order = order(call, x.dims.len())?;
        let is_exchange = order.get(..3) == Some(&[0, 2, 1]) && order.iter().skip(3).is_sorted();
        let &[batch, Dim::Known(groups), Dim::Known(each), ..] = x.dims.as_slice() else { return None };
        let of: &Rc<Origin> = of;
        let channels = features(&of.dims, self.batch)?.channels;
        let fits = is_exchange && batch == self.batch && groups.checked_mul(each) == Some(channels);
        (fits && x.element == Element::F32).then(|| Past::Shuffled { of: Rc::clone(of), groups })
    }

    pub(super) fn concat(&mut self, call: &Call<'_, 'a>) -> Outputs {
        let mut inputs = Vec::new();
        for index in 0..call.inputs.len() {
            inputs.push(self.computed(call, index)?.0);
        }
        let first = inputs.first().ok_or("it joins nothing")?;
        if Call::axis(call.node.int("axis", 0), first.dims.len()) != Some(1) {
            return Err("it does not join channels".into());
        }
        if let [only] = inputs.as_slice() {
            return Ok(vec![Some(only.clone())]);
        }
        let known = shape::infer(call).and_then(|outputs| outputs.into_iter().next()?);
        let (dims, _) = known.ok_or("its inputs do not go together")?;
        self.plain(call, Op::Concat, inputs.iter().map(|input| input.id).collect(), dims)
    }

    pub(super) fn split(&mut self, call: &Call<'_, 'a>) -> Outputs {
        let (x, _) = self.computed(call, 0)?;
        let (axis, lengths) = pieces(call).ok_or("the lengths that it makes are not known beforehand")?;
        if axis != 1 {
            return Err("it does not split channels".into());
        }
        let (mut outputs, mut start) = (Vec::new(), 0);
        for (index, length) in lengths.iter().enumerate() {
            let (name, end) = (format!("{}.{index}", call.node.title()), start + length);
            let mut dims = x.dims.clone();
            dims[1] = Dim::Known(*length);
            let made = Made { op: Op::Slice { start, end }, inputs: vec![x.id], dims, tensors: Vec::new() };
            let piece = if lengths.len() == 1 { x.clone() } else { self.draft(call, &name, made)? };
            outputs.push(Some(piece));
            start = end;
        }
        Ok(outputs)
    }

    pub(super) fn slice(&mut self, call: &Call<'_, 'a>) -> Outputs {
        let cuts = cuts(call).ok_or("what it takes is not known beforehand")?;
        let feature = call.feature(0).ok_or("it does not read the image's features")?;
        let [cut] = cuts.as_slice() else {
            if cuts.is_empty() {
                return Ok(vec![Some(feature.clone())]);
            }
            return Err("it takes a part of more than the channels".into());
        };
        let (x, _) = self.computed(call, 0)?;
        if cut.axis != 1 || cut.step != 1 {
            return Err("it does not take a range of channels".into());
        }
        let (mut dims, start) = (x.dims, cut.start.unsigned_abs());
        dims[1] = Dim::Known(cut.length);
        self.plain(call, Op::Slice { start, end: start + cut.length }, vec![x.id], dims)
    }

    pub(super) fn pad(&mut self, call: &Call<'_, 'a>) -> Outputs {
        let borders = borders(call).ok_or("its borders are not known beforehand")?;
        if borders.iter().all(|border| *border == [0, 0]) {
            let feature = call.feature(0).ok_or("it does not read the image's features")?;
            return Ok(vec![Some(feature.clone())]);
        }
        let (x, _) = self.image(call, 0)?;
        if call.node.text("mode", "constant") != "constant" {
            return Err("it fills its border from the image".into());
        }
        let sides: Vec<usize> =
            borders.iter().flatten().filter_map(|side| usize::try_from(*side).ok()).collect();
        let &[0, 0, 0, 0, top, bottom, left, right] = sides.as_slice() else {
            return Err("it pads more than rows and columns, or cuts them off".into());
        };
        let value = match call.input(2).filter(|_| call.opset >= 11) {
            Some(_) => call.constant(2).and_then(|value| value.scalar()).ok_or("its border is computed")?,
            None => call.node.float("value", 0.0),
        };
        let border = Padding { top, left, bottom, right };
        let known = shape::infer(call).and_then(|outputs| outputs.into_iter().next()?);
        let (dims, _) = known.ok_or("its border is too large")?;
        self.plain(call, Op::Pad { border, value }, vec![x.id], dims)
    }
}
