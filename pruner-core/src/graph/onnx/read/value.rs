//! What a name of the file stands for while it is read: features of the image, or numbers known beforehand. The
//! batch's size is kept as a symbol, in dimensions and in integers that are computed from them. Owns the values and
//! their dimensions; which operator makes what is in `fold`, `shape` and `lower`.

use std::cell::OnceCell;
use std::rc::Rc;
use std::sync::Arc;

use prost::Message;

use super::super::schema;
use super::element::Element;
use super::file::Node;
use super::tensor::Tensor;
use crate::graph::NodeId;

/// Most numbers of a value, per image: 1 GiB of f32.
const NUMBERS: usize = 1 << 28;

/// Most integers that are computed with: shapes and grids, never tables.
const INTEGERS: usize = 1 << 16;

/// Most integers of a setting that is an input.
const SETTING: usize = 1 << 12;

/// A dimension of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dim {
    Known(usize),
    /// So many times the batch's size.
    Batch(usize),
}

impl Dim {
    /// With the batch taken as 1.
    pub(super) fn size(self) -> usize {
        match self {
            Self::Known(size) | Self::Batch(size) => size,
        }
    }

    pub(super) fn known(self) -> Option<usize> {
        match self {
            Self::Known(size) => Some(size),
            Self::Batch(_) => None,
        }
    }

    /// None where it is the batch's size squared, or too much.
    pub(super) fn times(self, other: Self) -> Option<Self> {
        let size = self.size().checked_mul(other.size()).filter(|size| *size <= NUMBERS)?;
        match (self, other) {
            (Self::Known(_), Self::Known(_)) => Some(Self::Known(size)),
            (Self::Batch(_), Self::Batch(_)) => None,
            (Self::Batch(_), Self::Known(_)) | (Self::Known(_), Self::Batch(_)) => Some(Self::Batch(size)),
        }
    }

    /// None where nothing is left, or a part.
    pub(super) fn over(self, other: Self) -> Option<Self> {
        let exact = other.size() > 0 && self.size().is_multiple_of(other.size());
        let size = exact.then(|| self.size() / other.size())?;
        match (self, other) {
            (Self::Known(_), Self::Known(_)) | (Self::Batch(_), Self::Batch(_)) => Some(Self::Known(size)),
            (Self::Batch(_), Self::Known(_)) => Some(Self::Batch(size)),
            (Self::Known(_), Self::Batch(_)) => None,
        }
    }

    pub(super) fn of(int: Int) -> Option<Self> {
        match int {
            Int::Known(size) => usize::try_from(size).ok().map(Self::Known),
            Int::Batch(size) => usize::try_from(size).ok().map(Self::Batch),
        }
    }
}

/// Numbers in all; none where they are too many or no multiple of the batch. What stands beside a dimension of nothing
/// is bounded too, since others multiply parts of the list.
pub(super) fn count(dims: &[Dim]) -> Option<Dim> {
    let at_least_one = |dim: &Dim| match *dim {
        Dim::Known(size) => Dim::Known(size.max(1)),
        Dim::Batch(size) => Dim::Batch(size.max(1)),
    };
    let count = dims.iter().map(at_least_one).try_fold(Dim::Known(1), Dim::times)?;
    if dims.iter().any(|dim| dim.size() == 0) { count.times(Dim::Known(0)) } else { Some(count) }
}

/// An integer that is known beforehand, but perhaps for the batch's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Int {
    Known(i64),
    /// So many times the batch's size.
    Batch(i64),
}

impl Int {
    pub(super) fn of(dim: Dim) -> Self {
        match dim {
            Dim::Known(size) => Self::Known(size as i64),
            Dim::Batch(size) => Self::Batch(size as i64),
        }
    }

    pub(super) fn known(self) -> Option<i64> {
        match self {
            Self::Known(value) => Some(value),
            Self::Batch(_) => None,
        }
    }
}

/// What a name of the file stands for.
#[derive(Debug, Clone)]
pub(super) enum Value<'a> {
    Constant(Rc<Constant<'a>>),
    Feature(Feature),
}

/// Something that depends on the image.
#[derive(Debug, Clone)]
pub(super) struct Feature {
    /// Which node of ours has it as its output.
    pub(super) id: NodeId,
    pub(super) dims: Vec<Dim>,
    pub(super) element: Element,
    pub(super) past: Past,
}

/// How features came about, as far as later nodes may undo it.
#[derive(Debug, Clone)]
pub(super) enum Past {
    Plain,
    /// The numbers of another value in the same order, under other dimensions.
    View(Rc<Origin>),
    /// The same, but with the channels, seen as `groups` x n, transposed.
    Shuffled {
        of: Rc<Origin>,
        groups: usize,
    },
}

/// Features that others are views of.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) id: NodeId,
    pub(super) dims: Vec<Dim>,
}

impl Feature {
    /// What this is a view of: itself, unless it is known to be another's.
    pub(super) fn origin(&self) -> Rc<Origin> {
        match &self.past {
            Past::View(origin) => Rc::clone(origin),
            Past::Plain | Past::Shuffled { .. } => Rc::new(Origin { id: self.id, dims: self.dims.clone() }),
        }
    }
}

/// Numbers that do not depend on the image.
#[derive(Debug)]
pub(super) struct Constant<'a> {
    pub(super) name: &'a str,
    pub(super) element: Element,
    pub(super) dims: Vec<usize>,
    pub(super) numbers: Numbers<'a>,
    encoded: OnceCell<Arc<[u8]>>,
}

/// Where a constant's numbers are.
#[derive(Debug, Clone)]
pub(super) enum Numbers<'a> {
    File(Rc<Tensor<'a>>),
    Integers(Rc<Vec<Int>>),
    Floats(Rc<Vec<f32>>),
}

impl<'a> Constant<'a> {
    pub(super) fn new(element: Element, dims: Vec<usize>, numbers: Numbers<'a>) -> Self {
        Self { name: "", element, dims, numbers, encoded: OnceCell::new() }
    }

    pub(super) fn of_file(tensor: Tensor<'a>) -> Self {
        let (name, dims) = (tensor.name, tensor.dims.clone());
        Self { name, ..Self::new(tensor.element, dims, Numbers::File(Rc::new(tensor))) }
    }

    /// The same under another name.
    pub(super) fn named(self, name: &'a str) -> Self {
        Self { name, ..self }
    }

    pub(super) fn integers(dims: Vec<usize>, numbers: Vec<Int>) -> Self {
        Self::new(Element::I64, dims, Numbers::Integers(Rc::new(numbers)))
    }

    /// The same numbers under other dimensions.
    pub(super) fn view(&self, dims: Vec<usize>) -> Self {
        Self { name: self.name, ..Self::new(self.element, dims, self.numbers.clone()) }
    }

    pub(super) fn len(&self) -> usize {
        self.dims.iter().product()
    }

    /// As integers, where they are and not too many.
    pub(super) fn ints(&self) -> Option<Vec<Int>> {
        if self.len() > INTEGERS {
            return None;
        }
        match &self.numbers {
            Numbers::File(tensor) => Some(tensor.integers()?.into_iter().map(Int::Known).collect()),
            Numbers::Integers(numbers) => Some(numbers.to_vec()),
            Numbers::Floats(_) => None,
        }
    }

    /// As f32, where they are floats.
    pub(super) fn floats(&self) -> Option<Vec<f32>> {
        match &self.numbers {
            Numbers::File(tensor) if !self.element.is_integer() => Some(tensor.floats()),
            Numbers::Floats(numbers) => Some(numbers.to_vec()),
            Numbers::File(_) | Numbers::Integers(_) => None,
        }
    }

    /// The only number, as f32.
    pub(super) fn scalar(&self) -> Option<f32> {
        if self.len() == 1 { self.floats()?.first().copied() } else { None }
    }

    /// Whether [`Self::encoded`] takes no further memory.
    pub(super) fn is_encoded(&self) -> bool {
        self.encoded.get().is_some()
    }

    /// As an encoded `TensorProto`; none where the batch's size is in it.
    pub(super) fn encoded(&self) -> Option<Arc<[u8]>> {
        if let Some(encoded) = self.encoded.get() {
            return Some(Arc::clone(encoded));
        }
        let raw = match &self.numbers {
            Numbers::File(tensor) => tensor.raw(),
            Numbers::Floats(numbers) => numbers.iter().flat_map(|number| number.to_le_bytes()).collect(),
            Numbers::Integers(numbers) => {
                let width = self.element.width();
                let known: Option<Vec<i64>> = numbers.iter().map(|int| int.known()).collect();
                known?.into_iter().flat_map(|int| int.to_le_bytes().into_iter().take(width)).collect()
            }
        };
        let tensor = schema::Tensor {
            dims: self.dims.iter().map(|dim| *dim as i64).collect(),
            data_type: Some(self.element.code()),
            name: Some(self.name.to_owned()),
            raw_data: Some(raw),
            ..schema::Tensor::default()
        };
        Some(Arc::clone(self.encoded.get_or_init(|| tensor.encode_to_vec().into())))
    }
}

/// A node of the file with what it reads.
pub(super) struct Call<'c, 'a> {
    pub(super) node: &'c Node<'a>,
    pub(super) inputs: Vec<Option<Value<'a>>>,
    pub(super) opset: u32,
}

impl<'a> Call<'_, 'a> {
    pub(super) fn input(&self, index: usize) -> Option<&Value<'a>> {
        self.inputs.get(index).and_then(Option::as_ref)
    }

    pub(super) fn feature(&self, index: usize) -> Option<&Feature> {
        match self.input(index)? {
            Value::Feature(feature) => Some(feature),
            Value::Constant(_) => None,
        }
    }

    pub(super) fn constant(&self, index: usize) -> Option<&Rc<Constant<'a>>> {
        match self.input(index)? {
            Value::Constant(constant) => Some(constant),
            Value::Feature(_) => None,
        }
    }

    pub(super) fn dims(&self, index: usize) -> Option<Vec<Dim>> {
        Some(match self.input(index)? {
            Value::Feature(feature) => feature.dims.clone(),
            Value::Constant(constant) => constant.dims.iter().copied().map(Dim::Known).collect(),
        })
    }

    pub(super) fn element(&self, index: usize) -> Option<Element> {
        Some(match self.input(index)? {
            Value::Feature(feature) => feature.element,
            Value::Constant(constant) => constant.element,
        })
    }

    /// Integers that are an attribute before version `since` of the operators, and an input from then on.
    /// `Ok(None)` where they are left out.
    pub(super) fn list(&self, name: &str, index: usize, since: u32) -> Result<Option<Vec<i64>>, String> {
        if self.opset < since {
            return Ok(self.node.ints(name).map(<[i64]>::to_vec));
        }
        if self.input(index).is_none() {
            return Ok(None);
        }
        let ints = self
            .constant(index)
            .filter(|list| list.dims.len() < 2 && list.len() <= SETTING)
            .and_then(|list| list.ints());
        let known: Option<Vec<i64>> = ints.and_then(|ints| ints.into_iter().map(Int::known).collect());
        known.map(Some).ok_or_else(|| format!("its {name} are computed from the image or the batch's size"))
    }

    /// An axis of a value of `rank` dimensions, from the front.
    pub(super) fn axis(axis: i64, rank: usize) -> Option<usize> {
        let from_front = if axis < 0 { axis.checked_add(rank as i64)? } else { axis };
        usize::try_from(from_front).ok().filter(|axis| *axis < rank)
    }

    pub(super) fn axes(axes: &[i64], rank: usize) -> Option<Vec<usize>> {
        axes.iter().map(|axis| Self::axis(*axis, rank)).collect()
    }
}
