//! A tensor of the file, its numbers left where they are: the dimensions are checked against the bytes that are there
//! when it is read, and the numbers are copied out once, when someone asks.

use super::ReadError;
use super::element::Element;
use super::file::{Parts, RANK};
use super::wire::{Field, Span};

/// Most numbers of a tensor.
const NUMBERS: usize = 1 << 31;

/// A tensor.
#[derive(Debug, Clone)]
pub(super) struct Tensor<'a> {
    pub(super) name: &'a str,
    pub(super) element: Element,
    pub(super) dims: Vec<usize>,
    stored: Stored<'a>,
}

/// How the numbers lie in the file.
#[derive(Debug, Clone)]
enum Stored<'a> {
    /// Little endian, one after the other.
    Raw(&'a [u8]),
    /// Packed lists of variable length, each number at most ten bytes.
    Varints(Vec<Span<'a>>),
    /// Lists of f32 or f64, little endian.
    Floats(Vec<&'a [u8]>),
}

#[derive(Default)]
struct Parsed<'a> {
    name: &'a str,
    code: i64,
    dims: Vec<i64>,
    raw: Option<&'a [u8]>,
    varints: Vec<Span<'a>>,
    floats: Vec<&'a [u8]>,
    refused: Option<&'static str>,
}

impl<'a> Tensor<'a> {
    /// Reads a `TensorProto`, which is `node`'s where it has no name of its own.
    pub(super) fn read(span: Span<'a>, node: &str, parts: &mut Parts) -> Result<Self, ReadError> {
        parts.take()?;
        let parsed = parse(span, parts)?;
        let title = if parsed.name.is_empty() { node } else { parsed.name };
        let error = |problem: String| ReadError::Tensor { tensor: title.to_owned(), problem };
        if let Some(refused) = parsed.refused {
            return Err(error(refused.to_owned()));
        }
        let element = Element::of(parsed.code).ok_or_else(|| {
            error(format!("has elements of type {}, which are not read; convert it to float", parsed.code))
        })?;
        if parsed.dims.len() > RANK {
            return Err(error(format!("has {} dimensions; {RANK} are the most", parsed.dims.len())));
        }
        let dims: Option<Vec<usize>> =
            parsed.dims.iter().map(|dim| usize::try_from(*dim).ok().filter(|dim| *dim <= NUMBERS)).collect();
        let length = dims.as_ref().and_then(|dims| dims.iter().try_fold(1_usize, |a, b| a.checked_mul(*b)));
        let (Some(dims), Some(length)) = (dims, length.filter(|length| *length <= NUMBERS)) else {
            return Err(error(format!("claims dimensions {:?}, which no file holds", parsed.dims)));
        };
        let (stored, found) = stored(parsed.raw, parsed.varints, parsed.floats, element);
        if found != Some(length) {
            let found = found.map_or("a part of a number".to_owned(), |found| format!("{found} numbers"));
            return Err(error(format!("claims dimensions {dims:?} and holds {found}; the file is damaged")));
        }
        Ok(Self { name: parsed.name, element, dims, stored })
    }

    /// Its numbers as f32.
    pub(super) fn floats(&self) -> Vec<f32> {
        let width = self.element.width();
        match &self.stored {
            Stored::Raw(bytes) if self.element == Element::F32 => from_f32(bytes).collect(),
            Stored::Raw(bytes) => {
                bytes.chunks_exact(width).map(|bytes| float(self.element, padded(bytes))).collect()
            }
            Stored::Floats(lists) if self.element == Element::F32 => {
                lists.iter().flat_map(|list| from_f32(list)).collect()
            }
            Stored::Floats(lists) => {
                let chunks = lists.iter().flat_map(|list| list.chunks_exact(width));
                chunks.map(|bytes| float(self.element, padded(bytes))).collect()
            }
            Stored::Varints(lists) => varints(lists).map(|bits| float(self.element, bits)).collect(),
        }
    }

    /// Its numbers as integers, where they are.
    pub(super) fn integers(&self) -> Option<Vec<i64>> {
        if !self.element.is_integer() {
            return None;
        }
        let integer = |bits| integer(self.element, bits);
        Some(match &self.stored {
            Stored::Raw(bytes) => {
                bytes.chunks_exact(self.element.width()).map(|bytes| integer(padded(bytes))).collect()
            }
            Stored::Varints(lists) => varints(lists).map(integer).collect(),
            Stored::Floats(_) => return None,
        })
    }

    /// Its numbers as `raw_data` holds them.
    pub(super) fn raw(&self) -> Vec<u8> {
        let width = self.element.width();
        match &self.stored {
            Stored::Raw(bytes) => bytes.to_vec(),
            Stored::Floats(lists) => lists.concat(),
            Stored::Varints(lists) => {
                varints(lists).flat_map(|bits| bits.to_le_bytes().into_iter().take(width)).collect()
            }
        }
    }
}

fn parse<'a>(span: Span<'a>, parts: &mut Parts) -> Result<Parsed<'a>, ReadError> {
    let mut parsed = Parsed::default();
    for field in span.fields() {
        match field? {
            (1, Field::Number(dim)) => {
                parts.take()?;
                parsed.dims.push(dim as i64);
            }
            (1, Field::Span(list)) => {
                for dim in list.numbers() {
                    parts.take()?;
                    parsed.dims.push(dim? as i64);
                }
            }
            (2, Field::Number(code)) => parsed.code = code as i64,
            (8, Field::Span(span)) => parsed.name = span.text()?,
            (9, Field::Span(span)) => parsed.raw = Some(span.bytes),
            (5 | 7 | 11, Field::Span(list)) => {
                parts.take()?;
                parsed.varints.push(list);
            }
            (4 | 10, Field::Span(list)) => {
                parts.take()?;
                parsed.floats.push(list.bytes);
            }
            (4 | 5 | 7 | 10 | 11, _) => {
                parsed.refused = Some("holds numbers one by one; save the file again")
            }
            (3, _) => {
                parsed.refused = Some("is a segment of a tensor; save the file again with whole tensors")
            }
            (6, _) => parsed.refused = Some("holds strings; export the network without them"),
            (13, _) | (14, Field::Number(1..)) => {
                let advice = "lies in another file; save the model again with its data inside";
                parsed.refused = Some(advice);
            }
            _ => {}
        }
    }
    // Every number of a list is walked once here, so that later walks cannot fail.
    for list in &parsed.varints {
        list.numbers().try_for_each(|number| number.map(drop))?;
    }
    Ok(parsed)
}

/// Where the numbers are, and how many; none where the last is cut off or they are of another type.
fn stored<'a>(
    raw: Option<&'a [u8]>,
    varint_lists: Vec<Span<'a>>,
    floats: Vec<&'a [u8]>,
    element: Element,
) -> (Stored<'a>, Option<usize>) {
    let width = element.width();
    let count = |bytes: &[u8]| bytes.len().is_multiple_of(width).then_some(bytes.len() / width);
    if let Some(raw) = raw {
        return (Stored::Raw(raw), count(raw));
    }
    match element {
        Element::F32 | Element::F64 => {
            let found = floats.iter().try_fold(0, |found, list| Some(found + count(list)?));
            (Stored::Floats(floats), found)
        }
        Element::F16 | Element::Bf16 | Element::Bool => counted(varint_lists),
        Element::I8 | Element::I16 | Element::I32 | Element::I64 => counted(varint_lists),
        Element::U8 | Element::U16 | Element::U32 | Element::U64 => counted(varint_lists),
    }
}

fn counted(lists: Vec<Span<'_>>) -> (Stored<'_>, Option<usize>) {
    // The last byte of each number, and no other, is below 128.
    let found = lists.iter().map(|list| list.bytes.iter().filter(|byte| **byte < 0x80).count()).sum();
    (Stored::Varints(lists), Some(found))
}

fn varints<'b>(lists: &'b [Span<'_>]) -> impl Iterator<Item = u64> + 'b {
    // They were walked when the tensor was read.
    lists.iter().flat_map(|list| list.numbers().map(Result::unwrap_or_default))
}

fn from_f32(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes))
}

/// Up to eight bytes, little endian.
fn padded(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |bits, byte| bits << 8 | u64::from(*byte))
}

fn float(element: Element, bits: u64) -> f32 {
    match element {
        Element::F32 => f32::from_bits(bits as u32),
        Element::F64 => f64::from_bits(bits) as f32,
        Element::F16 => half(bits as u16),
        Element::Bf16 => f32::from_bits((bits as u32) << 16),
        Element::I8 | Element::I16 | Element::I32 | Element::I64 => integer(element, bits) as f32,
        Element::U8 | Element::U16 | Element::U32 | Element::Bool => integer(element, bits) as f32,
        Element::U64 => bits as f32,
    }
}

/// IEEE 754 binary16.
fn half(bits: u16) -> f32 {
    let sign = if bits >> 15 == 0 { 1.0 } else { -1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f32::from(bits & 1023));
    match exponent {
        0 => sign * fraction * 2_f32.powi(-24),
        31 if fraction == 0.0 => sign * f32::INFINITY,
        31 => f32::NAN,
        _ => sign * (1.0 + fraction / 1024.0) * 2_f32.powi(exponent - 15),
    }
}

fn integer(element: Element, bits: u64) -> i64 {
    match element {
        Element::I8 => i64::from(bits as i8),
        Element::I16 => i64::from(bits as i16),
        Element::I32 => i64::from(bits as i32),
        Element::U8 => i64::from(bits as u8),
        Element::U16 => i64::from(bits as u16),
        Element::U32 => i64::from(bits as u32),
        Element::Bool => i64::from(bits != 0),
        Element::I64 | Element::U64 => bits as i64,
        Element::F16 | Element::Bf16 | Element::F32 | Element::F64 => 0,
    }
}
