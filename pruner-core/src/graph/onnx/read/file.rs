//! The messages of an ONNX file, borrowed from its bytes: what they say, within limits that are checked before memory
//! is taken. Owns field numbers and limits; knows no operator.

use std::collections::BTreeMap;

use super::ReadError;
use super::element::Element;
use super::tensor::Tensor;
use super::wire::{Field, Span};
use crate::graph::shown;

/// Longest file, in bytes: protobuf's own limit.
const LONGEST: usize = 1 << 31;

/// Most nodes of a graph.
const NODES: usize = 1 << 16;

/// Most nodes, names, attributes, dimensions and numbers of attributes in a file. Each takes a few bytes there and at
/// most some two hundred here.
const PARTS: usize = 1 << 20;

/// Most dimensions of a tensor.
pub(super) const RANK: usize = 8;

/// The versions of ONNX's operators that are read.
const OPSETS: std::ops::RangeInclusive<i64> = 9..=21;

/// A file.
pub(super) struct File<'a> {
    /// The version of ONNX's own operators.
    pub(super) opset: u32,
    /// Other sets of operators, and their versions.
    pub(super) domains: BTreeMap<String, u32>,
    pub(super) nodes: Vec<Node<'a>>,
    pub(super) tensors: Vec<Tensor<'a>>,
    pub(super) inputs: Vec<Described<'a>>,
    pub(super) outputs: Vec<Described<'a>>,
    /// What the file says of values in between.
    pub(super) between: Vec<Described<'a>>,
}

/// An operator.
#[derive(Default)]
pub(super) struct Node<'a> {
    pub(super) name: &'a str,
    pub(super) operator: &'a str,
    pub(super) domain: &'a str,
    pub(super) inputs: Vec<&'a str>,
    pub(super) outputs: Vec<&'a str>,
    pub(super) attributes: Vec<Attribute<'a>>,
    /// The whole message.
    pub(super) bytes: &'a [u8],
}

/// A setting of a node.
#[derive(Default)]
pub(super) struct Attribute<'a> {
    pub(super) name: &'a str,
    pub(super) float: f32,
    pub(super) int: i64,
    pub(super) text: &'a [u8],
    pub(super) floats: Vec<f32>,
    pub(super) ints: Vec<i64>,
    pub(super) tensor: Option<Tensor<'a>>,
    /// It holds a graph, or something else that is not carried through.
    held: Option<&'static str>,
}

/// What the file says of a value.
pub(super) struct Described<'a> {
    pub(super) name: &'a str,
    /// None where it is no tensor.
    pub(super) element: Option<Element>,
    /// None where they are not said.
    pub(super) dims: Option<Vec<Size<'a>>>,
}

/// A dimension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Size<'a> {
    Known(usize),
    /// Empty where it has no name.
    Named(&'a str),
}

/// Reads the messages of a file.
pub(super) fn read(bytes: &[u8]) -> Result<File<'_>, ReadError> {
    if bytes.len() > LONGEST {
        return Err(refused(format!("is of {} bytes; {LONGEST} are the most", bytes.len())));
    }
    let mut parts = Parts { left: PARTS };
    let (mut graph, mut sets) = (None, Vec::new());
    for field in Span::of(bytes).fields() {
        match field? {
            (7, Field::Span(_)) if graph.is_some() => return Err(refused("holds two graphs".to_owned())),
            (7, Field::Span(span)) => graph = Some(span),
            (8, Field::Span(span)) => {
                parts.take()?;
                sets.push(operator_set(span)?);
            }
            (25, _) => {
                let advice = "defines functions of its own; export the network with its functions inlined";
                return Err(refused(advice.to_owned()));
            }
            _ => {}
        }
    }
    let graph = graph.ok_or_else(|| refused("holds no graph; it is not an ONNX model".to_owned()))?;
    let own = sets.iter().find(|(domain, _)| is_own(domain)).map(|(_, version)| *version);
    let opset = own.filter(|version| OPSETS.contains(version)).ok_or_else(|| {
        let version = own.map_or("no version".to_owned(), |version| format!("version {version}"));
        let (first, last) = (OPSETS.start(), OPSETS.end());
        let advice = format!("export it with an opset of {first} to {last}");
        refused(format!("is written in {version} of ONNX's operators; {advice}"))
    })?;
    let others = sets.into_iter().filter(|(domain, _)| !is_own(domain));
    let domains = others.map(|(domain, version)| (domain.to_owned(), u32::try_from(version).unwrap_or(1)));
    let file = File {
        opset: opset as u32,
        domains: domains.collect(),
        nodes: Vec::new(),
        tensors: Vec::new(),
        inputs: Vec::new(),
        outputs: Vec::new(),
        between: Vec::new(),
    };
    parts.graph(file, graph)
}

/// Whether a domain is ONNX's own.
pub(super) fn is_own(domain: &str) -> bool {
    domain.is_empty() || domain == "ai.onnx"
}

fn refused(problem: String) -> ReadError {
    ReadError::File { problem }
}

fn operator_set<'a>(span: Span<'a>) -> Result<(&'a str, i64), ReadError> {
    let (mut domain, mut version) = ("", 0);
    for field in span.fields() {
        match field? {
            (1, Field::Span(span)) => domain = span.text()?,
            (2, Field::Number(number)) => version = number as i64,
            _ => {}
        }
    }
    Ok((domain, version))
}

/// How many parts a file may still have.
pub(super) struct Parts {
    left: usize,
}

impl Parts {
    pub(super) fn take(&mut self) -> Result<(), ReadError> {
        self.left = self.left.checked_sub(1).ok_or_else(|| {
            refused(format!("has more than {PARTS} nodes, names, attributes and dimensions in all"))
        })?;
        Ok(())
    }

    fn graph<'a>(&mut self, mut file: File<'a>, graph: Span<'a>) -> Result<File<'a>, ReadError> {
        for field in graph.fields() {
            let (number, Field::Span(span)) = field? else { continue };
            match number {
                1 if file.nodes.len() == NODES => {
                    return Err(refused(format!("has more than {NODES} nodes")));
                }
                1 => file.nodes.push(self.node(span)?),
                5 => file.tensors.push(Tensor::read(span, "", self)?),
                11 => file.inputs.push(self.described(span)?),
                12 => file.outputs.push(self.described(span)?),
                13 => file.between.push(self.described(span)?),
                15 => {
                    let advice = "holds sparse tensors; export the network with dense weights";
                    return Err(refused(advice.to_owned()));
                }
                _ => {}
            }
        }
        Ok(file)
    }

    fn node<'a>(&mut self, span: Span<'a>) -> Result<Node<'a>, ReadError> {
        self.take()?;
        let mut node = Node { bytes: span.bytes, ..Node::default() };
        let mut attributes = Vec::new();
        for field in span.fields() {
            let (number, Field::Span(span)) = field? else { continue };
            match number {
                1 | 2 => {
                    self.take()?;
                    let names = if number == 1 { &mut node.inputs } else { &mut node.outputs };
                    names.push(span.text()?);
                }
                3 => node.name = span.text()?,
                4 => node.operator = span.text()?,
                5 => {
                    self.take()?;
                    attributes.push(span);
                }
                7 => node.domain = span.text()?,
                _ => {}
            }
        }
        for span in attributes {
            let attribute = self.attribute(span, node.title())?;
            if let Some(held) = attribute.held {
                let advice = "export the network without it";
                return Err(
                    node.error(format!("holds {held} in '{}'; {advice}", shown::name(attribute.name)))
                );
            }
            node.attributes.push(attribute);
        }
        Ok(node)
    }

    fn attribute<'a>(&mut self, span: Span<'a>, node: &str) -> Result<Attribute<'a>, ReadError> {
        let mut attribute = Attribute::default();
        for field in span.fields() {
            match field? {
                (1, Field::Span(span)) => attribute.name = span.text()?,
                (2, Field::Four(bytes)) => attribute.float = f32::from_le_bytes(bytes),
                (3, Field::Number(number)) => attribute.int = number as i64,
                (4, Field::Span(span)) => attribute.text = span.bytes,
                (5, Field::Span(span)) => attribute.tensor = Some(Tensor::read(span, node, self)?),
                (7, Field::Four(bytes)) => {
                    self.take()?;
                    attribute.floats.push(f32::from_le_bytes(bytes));
                }
                (7, Field::Span(span)) => {
                    for bytes in span.bytes.as_chunks().0 {
                        self.take()?;
                        attribute.floats.push(f32::from_le_bytes(*bytes));
                    }
                }
                (8, Field::Number(number)) => {
                    self.take()?;
                    attribute.ints.push(number as i64);
                }
                (8, Field::Span(span)) => {
                    for number in span.numbers() {
                        self.take()?;
                        attribute.ints.push(number? as i64);
                    }
                }
                (9, Field::Span(_)) => self.take()?,
                (6 | 11, _) => attribute.held = Some("a graph of its own (control flow)"),
                (10 | 14 | 15 | 22 | 23, _) => attribute.held = Some("lists of tensors or types"),
                _ => {}
            }
        }
        Ok(attribute)
    }

    fn described<'a>(&mut self, span: Span<'a>) -> Result<Described<'a>, ReadError> {
        self.take()?;
        let mut described = Described { name: "", element: None, dims: None };
        for field in span.fields() {
            match field? {
                (1, Field::Span(span)) => described.name = span.text()?,
                (2, Field::Span(span)) => self.described_type(&mut described, span)?,
                _ => {}
            }
        }
        Ok(described)
    }

    fn described_type<'a>(&mut self, of: &mut Described<'a>, span: Span<'a>) -> Result<(), ReadError> {
        for field in span.fields() {
            let (1, Field::Span(tensor)) = field? else { continue };
            for field in tensor.fields() {
                match field? {
                    (1, Field::Number(code)) => of.element = Element::of(code as i64),
                    (2, Field::Span(shape)) => of.dims = Some(self.sizes(shape)?),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn sizes<'a>(&mut self, shape: Span<'a>) -> Result<Vec<Size<'a>>, ReadError> {
        let mut sizes = Vec::new();
        for field in shape.fields() {
            let (1, Field::Span(dim)) = field? else { continue };
            self.take()?;
            let mut size = Size::Named("");
            for field in dim.fields() {
                match field? {
                    // A length below zero stands for an unknown one in some files.
                    (1, Field::Number(length)) => {
                        let known =
                            i64::try_from(length).ok().and_then(|length| usize::try_from(length).ok());
                        size = known.map_or(Size::Named(""), Size::Known);
                    }
                    (2, Field::Span(name)) => size = Size::Named(name.text()?),
                    _ => {}
                }
            }
            sizes.push(size);
        }
        Ok(sizes)
    }
}

impl<'a> Node<'a> {
    /// What it is called, or its first output.
    pub(super) fn title(&self) -> &'a str {
        if self.name.is_empty() { self.outputs.first().copied().unwrap_or_default() } else { self.name }
    }

    pub(super) fn error(&self, problem: String) -> ReadError {
        let (node, operator) = (self.title().to_owned(), self.operator.to_owned());
        ReadError::Node { node, operator, problem }
    }

    pub(super) fn attribute(&self, name: &str) -> Option<&Attribute<'a>> {
        self.attributes.iter().find(|attribute| attribute.name == name)
    }

    pub(super) fn int(&self, name: &str, otherwise: i64) -> i64 {
        self.attribute(name).map_or(otherwise, |attribute| attribute.int)
    }

    pub(super) fn float(&self, name: &str, otherwise: f32) -> f32 {
        self.attribute(name).map_or(otherwise, |attribute| attribute.float)
    }

    pub(super) fn ints(&self, name: &str) -> Option<&[i64]> {
        self.attribute(name).map(|attribute| attribute.ints.as_slice())
    }

    pub(super) fn text<'b>(&'b self, name: &str, otherwise: &'b str) -> &'b str {
        let text = self.attribute(name).map(|attribute| attribute.text);
        text.and_then(|text| std::str::from_utf8(text).ok()).unwrap_or(otherwise)
    }
}
