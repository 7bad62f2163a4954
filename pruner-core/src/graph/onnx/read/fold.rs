//! Nodes whose inputs are known beforehand, computed once: the integer arithmetic on shapes that exporters leave in
//! files, and what is done to weights before their use. Owns that arithmetic and its limit; an operator that is not
//! among these is simply not folded.

use std::rc::Rc;

use super::element::Element;
use super::shape;
use super::value::{Call, Constant, Dim, Int, Numbers, Value};

/// Most numbers of a result that is not just a view.
const NUMBERS: usize = 1 << 26;

/// Numbers in memory.
#[derive(Clone)]
enum List {
    Ints(Vec<Int>),
    Floats(Vec<f32>),
}

/// The node's only output, where it can be computed. Takes what it computes from `budget`, in numbers.
pub(super) fn fold<'a>(call: &Call<'_, 'a>, budget: &mut usize) -> Option<Constant<'a>> {
    match call.node.operator {
        "Constant" => return literal(call),
        "Shape" | "Size" => return measured(call),
        _ => {}
    }
    if call.inputs.iter().flatten().any(|input| matches!(input, Value::Feature(_))) {
        return None;
    }
    let first = call.constant(0)?;
    match call.node.operator {
        "Identity" | "Dropout" => return Some(first.view(first.dims.clone())),
        "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => {
            let dims = known(&shape::view(call)?)?;
            return Some(first.view(dims));
        }
        "Cast" if Element::of(call.node.int("to", 0)) == Some(first.element) => {
            return Some(first.view(first.dims.clone()));
        }
        _ => {}
    }
    let mut take = |numbers: usize| {
        *budget = budget.checked_sub(numbers).filter(|_| numbers <= NUMBERS)?;
        Some(())
    };
    let read = call.inputs.iter().flatten().map(|input| match input {
        Value::Constant(constant) => walked(&constant.dims),
        Value::Feature(_) => Some(0),
    });
    take(read.sum::<Option<usize>>()?)?;
    let dims = match call.node.operator {
        "ConstantOfShape" => first.ints()?.into_iter().map(Dim::of).collect::<Option<Vec<Dim>>>()?,
        "Range" => Vec::new(),
        _ => shape::infer(call)?.into_iter().next()??.0,
    };
    let dims = known(&dims)?;
    take(walked(&dims)?)?;
    computed(call, dims)
}

fn known(dims: &[Dim]) -> Option<Vec<usize>> {
    dims.iter().map(|dim| dim.known()).collect()
}

/// How many steps a walk over a tensor takes at most, in whatever order: one of 2³¹ × 0 holds nothing, and its rows are
/// there to be walked.
fn walked(dims: &[usize]) -> Option<usize> {
    dims.iter().try_fold(1_usize, |count, dim| count.checked_mul((*dim).max(1)))
}

/// The value of a `Constant`.
fn literal<'a>(call: &Call<'_, 'a>) -> Option<Constant<'a>> {
    let attribute = call.node.attributes.first()?;
    let floats = |dims, floats| Constant::new(Element::F32, dims, Numbers::Floats(Rc::new(floats)));
    Some(match attribute.name {
        "value" => {
            let constant = Constant::of_file(attribute.tensor.clone()?);
            constant.named(call.node.outputs.first().copied().unwrap_or_default())
        }
        "value_float" => floats(Vec::new(), vec![attribute.float]),
        "value_floats" => floats(vec![attribute.floats.len()], attribute.floats.clone()),
        "value_int" => Constant::integers(Vec::new(), vec![Int::Known(attribute.int)]),
        "value_ints" => {
            let ints = attribute.ints.iter().copied().map(Int::Known).collect();
            Constant::integers(vec![attribute.ints.len()], ints)
        }
        _ => return None,
    })
}

/// The dimensions of a value, whatever it is.
fn measured<'a>(call: &Call<'_, 'a>) -> Option<Constant<'a>> {
    let dims = call.dims(0)?;
    if call.node.operator == "Size" {
        let size = super::value::count(&dims)?;
        return Some(Constant::integers(Vec::new(), vec![Int::of(size)]));
    }
    let place = |name, otherwise: usize| {
        let place = call.node.int(name, otherwise as i64);
        let place = if place < 0 { place.saturating_add(dims.len() as i64) } else { place };
        place.clamp(0, dims.len() as i64) as usize
    };
    let (start, end) = (place("start", 0), place("end", dims.len()));
    let ints: Vec<Int> = dims.get(start..end.max(start))?.iter().copied().map(Int::of).collect();
    Some(Constant::integers(vec![ints.len()], ints))
}

fn computed<'a>(call: &Call<'_, 'a>, dims: Vec<usize>) -> Option<Constant<'a>> {
    let element = shape::element(call)?;
    let list = |index: usize| list(call.constant(index)?);
    let strides = |index: usize| Some(strides(&call.constant(index)?.dims));
    let numbers = match call.node.operator {
        "ConstantOfShape" => {
            let value = call.node.attribute("value").and_then(|value| value.tensor.clone());
            let value = value.map(Constant::of_file);
            match value {
                Some(value) => picked(&self::list(&value)?, vec![0; dims.iter().product()])?,
                None => List::Floats(vec![0.0; dims.iter().product()]),
            }
        }
        "Range" => return range(call),
        "Transpose" => {
            let order = shape::order(call, dims.len())?;
            let from = strides(0)?;
            let steps: Vec<isize> = order.iter().map(|axis| from[*axis]).collect();
            picked(&list(0)?, places(&dims, &steps, 0))?
        }
        "Expand" => picked(&list(0)?, broadcast(&dims, &call.constant(0)?.dims))?,
        "Slice" => {
            let cuts = shape::cuts(call)?;
            let (from, mut steps, mut start) = (strides(0)?, strides(0)?, 0_isize);
            for cut in cuts {
                steps[cut.axis] = from[cut.axis] * cut.step;
                start += from[cut.axis] * cut.start;
            }
            picked(&list(0)?, places(&dims, &steps, start))?
        }
        "Gather" => gathered(call)?,
        "Concat" => concatenated(call, &dims)?,
        "Cast" => cast(list(0)?, element)?,
        "ReduceProd" if dims.iter().product::<usize>() == 1 => match list(0)? {
            List::Ints(ints) => List::Ints(vec![
                ints.into_iter().try_fold(Int::Known(1), |a, b| integers(call.node.operator, a, b))?,
            ]),
            List::Floats(_) => return None,
        },
        "Neg" | "Floor" | "Ceil" | "Sqrt" | "Abs" | "Exp" | "Reciprocal" => {
            unary(call.node.operator, list(0)?)?
        }
        "Where" => {
            let spread = |index: usize| picked(&list(index)?, broadcast(&dims, &call.constant(index)?.dims));
            chosen(spread(0)?, spread(1)?, spread(2)?)?
        }
        "Add" | "Sub" | "Mul" | "Div" | "Min" | "Max" | "Equal" | "Pow" | "Mod" => {
            if call.inputs.len() != 2 {
                return None;
            }
            let spread = |index: usize| picked(&list(index)?, broadcast(&dims, &call.constant(index)?.dims));
            binary(call.node.operator, spread(0)?, spread(1)?)?
        }
        _ => return None,
    };
    Some(constant(element, dims, numbers))
}

fn constant<'a>(element: Element, dims: Vec<usize>, numbers: List) -> Constant<'a> {
    let numbers = match numbers {
        List::Ints(ints) => Numbers::Integers(Rc::new(ints)),
        List::Floats(floats) => Numbers::Floats(Rc::new(floats)),
    };
    Constant::new(element, dims, numbers)
}

/// The constant's numbers, where they are integers or f32: of no other type are they computed with.
fn list(constant: &Constant<'_>) -> Option<List> {
    match constant.element {
        Element::F32 => Some(List::Floats(constant.floats()?)),
        element if element.is_integer() => Some(List::Ints(constant.ints()?)),
        _ => None,
    }
}

fn strides(dims: &[usize]) -> Vec<isize> {
    let mut strides = vec![1_isize; dims.len()];
    for axis in (1..dims.len()).rev() {
        strides[axis - 1] = strides[axis].saturating_mul(dims[axis] as isize);
    }
    strides
}

/// Positions in a flat list, from `start`, of every index in row-major order.
fn places(dims: &[usize], steps: &[isize], start: isize) -> Vec<usize> {
    let mut places = vec![start];
    for (dim, step) in dims.iter().zip(steps) {
        let along = |place: isize| (0..*dim as isize).map(move |index| place + index * step);
        places = places.into_iter().flat_map(along).collect();
    }
    // A place outside the list is caught where it is used.
    places.into_iter().map(|place| usize::try_from(place).unwrap_or(usize::MAX)).collect()
}

/// The same for a tensor of dimensions `from` that is repeated to `dims`.
fn broadcast(dims: &[usize], from: &[usize]) -> Vec<usize> {
    let missing = dims.len().saturating_sub(from.len());
    let own = strides(from);
    let repeated = from.iter().zip(&own).map(|(dim, stride)| if *dim == 1 { 0 } else { *stride });
    let steps: Vec<isize> = std::iter::repeat_n(0, missing).chain(repeated).collect();
    places(dims, &steps, 0)
}

fn picked(list: &List, places: Vec<usize>) -> Option<List> {
    Some(match list {
        List::Ints(ints) => {
            List::Ints(places.into_iter().map(|at| ints.get(at).copied()).collect::<Option<_>>()?)
        }
        List::Floats(floats) => {
            List::Floats(places.into_iter().map(|at| floats.get(at).copied()).collect::<Option<_>>()?)
        }
    })
}

fn gathered(call: &Call<'_, '_>) -> Option<List> {
    let (from, indices) = (call.constant(0)?, call.constant(1)?);
    let axis = Call::axis(call.node.int("axis", 0), from.dims.len())?;
    let (dim, inner) = (from.dims[axis], from.dims[axis + 1..].iter().product::<usize>());
    let outer: usize = from.dims[..axis].iter().product();
    let mut places = Vec::new();
    let indices: Vec<i64> = indices.ints()?.into_iter().map(Int::known).collect::<Option<_>>()?;
    for block in 0..outer {
        for &index in &indices {
            let index = usize::try_from(if index < 0 { index + dim as i64 } else { index }).ok()?;
            let start = (block * dim + Some(index).filter(|index| *index < dim)?) * inner;
            places.extend(start..start + inner);
        }
    }
    picked(&list(from)?, places)
}

fn concatenated(call: &Call<'_, '_>, dims: &[usize]) -> Option<List> {
    let axis = Call::axis(call.node.int("axis", 0), dims.len())?;
    let outer: usize = dims[..axis].iter().product();
    let (mut lists, mut blocks) = (Vec::new(), Vec::new());
    for index in 0..call.inputs.len() {
        let constant = call.constant(index)?;
        blocks.push(constant.dims[axis..].iter().product::<usize>());
        lists.push(list(constant)?);
    }
    let (mut ints, mut floats) = (Vec::new(), Vec::new());
    for row in 0..outer {
        for (list, block) in lists.iter().zip(&blocks) {
            match list {
                List::Ints(list) => ints.extend_from_slice(list.get(row * block..(row + 1) * block)?),
                List::Floats(list) => floats.extend_from_slice(list.get(row * block..(row + 1) * block)?),
            }
        }
    }
    Some(if ints.is_empty() { List::Floats(floats) } else { List::Ints(ints) })
}

fn cast(list: List, to: Element) -> Option<List> {
    Some(match list {
        List::Ints(ints) if to == Element::F32 => {
            let known = |int: Int| int.known().map(|int| int as f32);
            List::Floats(ints.into_iter().map(known).collect::<Option<_>>()?)
        }
        List::Floats(floats) if to.is_integer() && to != Element::Bool => {
            List::Ints(floats.into_iter().map(|float| Int::Known(float as i64)).collect())
        }
        List::Ints(ints) if to.width() >= 4 && to.is_integer() => List::Ints(ints),
        List::Ints(_) | List::Floats(_) => return None,
    })
}

fn unary(operator: &str, list: List) -> Option<List> {
    Some(match (operator, list) {
        ("Neg", List::Ints(ints)) => List::Ints(
            ints.into_iter().map(|int| integers("Mul", int, Int::Known(-1))).collect::<Option<_>>()?,
        ),
        ("Neg", List::Floats(floats)) => List::Floats(floats.into_iter().map(|x| -x).collect()),
        ("Floor", List::Floats(floats)) => List::Floats(floats.into_iter().map(f32::floor).collect()),
        ("Ceil", List::Floats(floats)) => List::Floats(floats.into_iter().map(f32::ceil).collect()),
        ("Sqrt", List::Floats(floats)) => List::Floats(floats.into_iter().map(f32::sqrt).collect()),
        ("Abs", List::Floats(floats)) => List::Floats(floats.into_iter().map(f32::abs).collect()),
        ("Exp", List::Floats(floats)) => List::Floats(floats.into_iter().map(f32::exp).collect()),
        ("Reciprocal", List::Floats(floats)) => List::Floats(floats.into_iter().map(f32::recip).collect()),
        _ => return None,
    })
}

fn chosen(condition: List, yes: List, no: List) -> Option<List> {
    let (List::Ints(condition), List::Ints(yes), List::Ints(no)) = (condition, yes, no) else { return None };
    let each = condition.into_iter().zip(yes.into_iter().zip(no));
    let chosen = each.map(|(condition, (yes, no))| Some(if condition.known()? != 0 { yes } else { no }));
    Some(List::Ints(chosen.collect::<Option<_>>()?))
}

fn binary(operator: &str, a: List, b: List) -> Option<List> {
    match (a, b) {
        (List::Ints(a), List::Ints(b)) => {
            let each = a.into_iter().zip(b).map(|(a, b)| integers(operator, a, b));
            Some(List::Ints(each.collect::<Option<_>>()?))
        }
        (List::Floats(a), List::Floats(b)) => {
            let each = a.into_iter().zip(b).map(|(a, b)| floats(operator, a, b));
            Some(List::Floats(each.collect::<Option<_>>()?))
        }
        (List::Ints(_), List::Floats(_)) | (List::Floats(_), List::Ints(_)) => None,
    }
}

fn floats(operator: &str, a: f32, b: f32) -> Option<f32> {
    Some(match operator {
        "Add" => a + b,
        "Sub" => a - b,
        "Mul" => a * b,
        "Div" => a / b,
        "Min" => a.min(b),
        "Max" => a.max(b),
        "Pow" => a.powf(b),
        _ => return None,
    })
}

/// Division rounds towards zero, as in C. The batch's size is positive, and nothing else is known of it.
fn integers(operator: &str, a: Int, b: Int) -> Option<Int> {
    use Int::{Batch, Known};
    let exact = |a: i64, b: i64| if a.checked_rem(b)? == 0 { a.checked_div(b) } else { None };
    Some(match (operator, a, b) {
        ("Add", Known(a), Known(b)) => Known(a.checked_add(b)?),
        ("Add", Batch(a), Batch(b)) => Batch(a.checked_add(b)?),
        ("Sub", Known(a), Known(b)) => Known(a.checked_sub(b)?),
        ("Mul" | "ReduceProd", Known(a), Known(b)) => Known(a.checked_mul(b)?),
        ("Mul" | "ReduceProd", Batch(a), Known(b)) | ("Mul" | "ReduceProd", Known(a), Batch(b)) => {
            Batch(a.checked_mul(b)?)
        }
        ("Div", Known(a), Known(b)) => Known(a.checked_div(b)?),
        ("Div", Batch(a), Known(b)) => Batch(exact(a, b)?),
        ("Div", Batch(a), Batch(b)) => Known(exact(a, b)?),
        ("Mod", Known(a), Known(b)) if a >= 0 && b > 0 => Known(a % b),
        ("Min", Known(a), Known(b)) => Known(a.min(b)),
        ("Max", Known(a), Known(b)) => Known(a.max(b)),
        ("Equal", Known(a), Known(b)) => Known(i64::from(a == b)),
        ("Equal", Batch(1..), Known(..=0)) | ("Equal", Known(..=0), Batch(1..)) => Known(0),
        ("Equal", Batch(a), Batch(b)) => Known(i64::from(a == b)),
        _ => return None,
    })
}

fn range<'a>(call: &Call<'_, 'a>) -> Option<Constant<'a>> {
    let bound = |index: usize| {
        let constant = call.constant(index).filter(|constant| constant.len() == 1)?;
        match list(constant)? {
            List::Ints(ints) => Some(ints[0].known()? as f64),
            List::Floats(floats) => Some(f64::from(floats[0])),
        }
    };
    let (start, limit, step) = (bound(0)?, bound(1)?, bound(2)?);
    let length = ((limit - start) / step).ceil();
    // Rules out a step of nothing, too.
    let length = if (0.0..=65536.0).contains(&length) { length as usize } else { return None };
    let each = (0..length).map(|index| start + index as f64 * step);
    let element = call.element(0)?;
    let numbers = if element == Element::F32 {
        List::Floats(each.map(|value| value as f32).collect())
    } else {
        List::Ints(each.map(|value| Int::Known(value as i64)).collect())
    };
    Some(constant(element, vec![length], numbers))
}
