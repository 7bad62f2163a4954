//! Reads an ONNX file that someone else made into a network: bytes to messages within limits (`wire`, `file`,
//! `tensor`), messages to values (`order`, `fold`, `shape`), values to operators of ours or nodes that are carried
//! through (`lower`). Owns what the file's input and outputs become; trusts nothing in the file.

mod element;
mod error;
mod file;
mod fold;
mod lower;
mod order;
mod shape;
mod tensor;
mod value;
mod wire;

use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;

use candle_core::{Device, Tensor};

use self::element::Element;
pub use self::error::ReadError;
use self::file::{Described, File, Size};
use self::lower::{Draft, Lowering, features};
use self::order::{Maker, Order};
use self::value::{Constant, Dim, Feature, Past, Value};
use crate::graph::{Batch, Graph, Interface, Network, Node, NodeId, Op, Output, Shape, Weights, shown};

/// Beside twice what the file holds, so many numbers may be copied for nodes that share tensors, and for folding.
const SPARE: usize = 1 << 24;

/// Most channels of all nodes together, each number of a flat vector counted: groups take memory for each.
const CHANNELS: usize = 1 << 25;

/// What the caller knows of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// The image's shape, for a file that leaves rows and columns open.
    pub input: Option<Shape>,
}

/// A file that was read.
#[derive(Debug, Clone)]
pub struct Import {
    /// What it computes.
    pub network: Network,
    /// The nodes that are carried through as they are, in the network's order. The channels that they read and write
    /// are never pruned.
    pub notes: Vec<Note>,
}

/// A node that is carried through, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Its name in the network.
    pub node: String,
    /// Its operator.
    pub operator: String,
    /// Why it is no operator of ours: a clause on "it".
    pub reason: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, operator, reason } = self;
        let (node, operator) = (shown::name(node), shown::name(operator));
        write!(f, "node '{node}' ({operator}) is carried through unchanged: {}", shown::sentence(reason))
    }
}

/// Reads an ONNX file of opset 9 to 21 whose image has fixed rows and columns.
pub fn decode(bytes: &[u8]) -> Result<Import, ReadError> {
    decode_with(bytes, Options::default())
}

/// Reads an ONNX file of opset 9 to 21 with what the caller knows of it.
pub fn decode_with(bytes: &[u8], options: Options) -> Result<Import, ReadError> {
    let file = file::read(bytes)?;
    let order = order::order(&file)?;
    let (name, image) = image(&file, &order, options)?;
    let mut lowering = Lowering {
        opset: file.opset,
        batch: image.dims[0],
        values: HashMap::new(),
        uses: &order.uses,
        described: file.between.iter().chain(&file.outputs).map(|value| (value.name, value)).collect(),
        drafts: Vec::new(),
        names: HashMap::new(),
        budget: (bytes.len() / 2).saturating_add(SPARE),
    };
    let input = Node { name: lowering.unique(name), op: Op::Input, inputs: Vec::new() };
    lowering.start(input, name);
    lowering.values.insert(name, Value::Feature(image.clone()));
    for tensor in &file.tensors {
        let constant = Constant::of_file(tensor.clone());
        lowering.values.insert(tensor.name, Value::Constant(Rc::new(constant)));
    }
    for &index in &order.nodes {
        lowering.node(&file.nodes[index])?;
    }
    let ends = ends(&file, &lowering)?;
    let interface = interface(&file, name, &image, &ends);
    let ids = ends.iter().map(|(_, feature)| feature.id).collect::<Vec<_>>();
    if ids.len() > 1 {
        let node = Node { name: lowering.unique("outputs"), op: Op::Outputs, inputs: ids.clone() };
        lowering.start(node, "");
    }
    finish(lowering.drafts, &ids, &image, interface)
}

/// The one input that outputs depend on, and what it is.
fn image<'a>(file: &File<'a>, order: &Order<'a>, options: Options) -> Result<(&'a str, Feature), ReadError> {
    let is_read = |input: &&Described<'a>| {
        order.uses.contains_key(input.name) && matches!(order.makers.get(input.name), Some(Maker::Input))
    };
    let inputs: Vec<&Described<'a>> = file.inputs.iter().filter(is_read).collect();
    let problem = match inputs.as_slice() {
        [only] => return described(only, options).map(|feature| (only.name, feature)),
        [] => "is missing: no output depends on one".to_owned(),
        several => {
            let names: Vec<String> =
                several.iter().take(3).map(|input| format!("'{}'", shown::name(input.name))).collect();
            let advice = "only networks of one image are imported; export it with the others fixed";
            let more = if several.len() > names.len() { " and more" } else { "" };
            format!("is not one but {}: {}{more}; {advice}", several.len(), names.join(", "))
        }
    };
    Err(ReadError::Input { problem })
}

/// The image as the file describes it.
fn described(input: &Described<'_>, options: Options) -> Result<Feature, ReadError> {
    let error =
        |problem: String| ReadError::Input { problem: format!("'{}' {problem}", shown::name(input.name)) };
    match input.element {
        Some(Element::F32) => {}
        Some(element) => {
            let advice = "export the network with a float input";
            return Err(error(format!("is of {} numbers; {advice}", element.word())));
        }
        None => {
            return Err(error("is no tensor of numbers; export the network with a float input".to_owned()));
        }
    }
    let sizes = input.dims.as_deref().unwrap_or_default();
    let (Some(batch), rest, 2 | 4) = (sizes.first(), sizes.get(1..).unwrap_or_default(), sizes.len()) else {
        let advice = "only an image [N, c, h, w] or a vector [N, n] is imported";
        return Err(error(format!("has {} dimensions; {advice}", sizes.len())));
    };
    let given = options.input.map(|shape| [shape.channels, shape.height, shape.width]);
    let mut dims = vec![match batch {
        Size::Known(size) => Dim::Known(*size),
        Size::Named(_) => Dim::Batch(1),
    }];
    for (index, size) in rest.iter().enumerate() {
        let given = given.map(|given| given[index]);
        dims.push(Dim::Known(match (*size, given) {
            (Size::Known(size), Some(given)) if size != given => {
                let axis = index + 2;
                return Err(error(format!("has dimension {axis} of {size} in the file, not of {given}")));
            }
            (Size::Known(size), _) => size,
            (Size::Named(_), Some(given)) => given,
            (Size::Named(name), None) => {
                let name = if name.is_empty() { "no name".into() } else { shown::name(name) };
                let advice =
                    "export the network with fixed channels, rows and columns, or say the input's shape";
                return Err(error(format!("leaves dimension {} open ({name}); {advice}", index + 2)));
            }
        }));
    }
    if value::count(&dims).is_none_or(|count| count.size() == 0) {
        return Err(error(format!("is empty or too large: {dims:?}")));
    }
    Ok(Feature { id: NodeId(0), dims, element: Element::F32, past: Past::Plain })
}

/// The values that are outputs, each with its name.
fn ends<'a>(file: &File<'a>, lowering: &Lowering<'_, 'a>) -> Result<Vec<(&'a str, Feature)>, ReadError> {
    if file.outputs.is_empty() {
        return Err(ReadError::File { problem: "has no outputs; export the network again".to_owned() });
    }
    let end = |output: &Described<'a>| {
        let error = |problem: String| ReadError::Output { output: output.name.to_owned(), problem };
        match lowering.values.get(output.name) {
            Some(Value::Feature(feature)) if feature.element == Element::F32 => {
                Ok((output.name, feature.clone()))
            }
            Some(Value::Feature(feature)) => {
                let advice = "export the network up to the last float value";
                Err(error(format!("is of {} numbers; {advice}", feature.element.word())))
            }
            Some(Value::Constant(_)) | None => {
                Err(error("does not depend on the image; remove it".to_owned()))
            }
        }
    };
    file.outputs.iter().map(end).collect()
}

fn interface(file: &File<'_>, name: &str, image: &Feature, ends: &[(&str, Feature)]) -> Interface {
    let described = file.inputs.iter().find(|input| input.name == name);
    let batch = match described.and_then(|input| input.dims.as_ref()?.first()) {
        Some(Size::Known(size)) => Batch::Fixed(*size),
        Some(Size::Named(name)) if !name.is_empty() => Batch::Any((*name).to_owned()),
        Some(Size::Named(_)) | None => Batch::Any("N".to_owned()),
    };
    let output =
        |(name, feature): &(&str, Feature)| Output { name: (*name).to_owned(), rank: feature.dims.len() };
    Interface {
        input: name.to_owned(),
        input_rank: image.dims.len(),
        outputs: ends.iter().map(output).collect(),
        batch,
        opset: file.opset,
        domains: file.domains.clone(),
    }
}

/// The drafts that an output depends on, as a network.
fn finish(
    drafts: Vec<Draft<'_>>,
    ends: &[NodeId],
    image: &Feature,
    interface: Interface,
) -> Result<Import, ReadError> {
    let last = if ends.len() > 1 { drafts.len() - 1 } else { ends[0].0 };
    let mut live = vec![false; drafts.len()];
    live[0] = true;
    live[last] = true;
    for index in (0..drafts.len()).rev().filter(|index| *index <= last) {
        if live[index] {
            drafts[index].node.inputs.iter().for_each(|input| live[input.0] = true);
        }
    }
    let (mut nodes, mut numbers, mut notes) = (Vec::new(), Vec::new(), Vec::new());
    let mut ids = vec![NodeId(0); drafts.len()];
    for (index, draft) in drafts.into_iter().enumerate().filter(|(index, _)| live[*index]) {
        ids[index] = NodeId(nodes.len());
        let inputs = draft.node.inputs.iter().map(|input| ids[input.0]).collect();
        let node = Node { inputs, ..draft.node };
        if let Some(carried) = draft.carried {
            if let Some(broken) = carried.broken {
                return Err(broken);
            }
            let (operator, reason) = (carried.operator, carried.reason);
            notes.push(Note { node: node.name.clone(), operator, reason });
        }
        nodes.push(node);
        numbers.extend(draft.tensors.into_iter().map(|(_, numbers)| numbers));
    }
    let shape = features(&image.dims, image.dims[0]).unwrap_or(Shape::vector(0));
    // Only of a graph whose shapes were checked can it be said which tensors it has.
    let graph = Graph::new(shape, nodes)?.with_interface(interface);
    let weights = weights(&graph, numbers)?;
    let channels: usize = graph
        .nodes()
        .iter()
        .zip(graph.shapes())
        .map(|(node, shape)| match node.op {
            Op::Outputs => 0,
            _ => shape.channels,
        })
        .sum();
    if channels > CHANNELS {
        let problem = format!("has {channels} channels in all; {CHANNELS} are the most");
        return Err(ReadError::File { problem });
    }
    Ok(Import { network: Network { graph, weights }, notes })
}

/// The numbers, in the order of the graph's tensors, by their names.
fn weights(graph: &Graph, numbers: Vec<Vec<f32>>) -> Result<Weights, ReadError> {
    let tensors = graph.tensors().zip(numbers).map(|(spec, numbers)| {
        let tensor = Tensor::from_vec(numbers, spec.dims, &Device::Cpu);
        let error = |error: candle_core::Error| {
            let (tensor, problem) = (spec.name.clone(), error.to_string());
            ReadError::Tensor { tensor, problem }
        };
        tensor.map_err(error).map(|tensor| (spec.name.clone(), tensor))
    });
    tensors.collect()
}

#[cfg(test)]
mod tests;
