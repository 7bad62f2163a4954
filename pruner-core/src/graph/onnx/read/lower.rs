//! The nodes of a file, one by one in order, to drafts of ours. Owns names, the limit on what is copied, and the choice
//! between an operator of ours and a node that is carried through; the operators themselves are in the files below.

mod carry;
mod layers;
mod layout;
mod pointwise;
mod window;

use std::collections::HashMap;
use std::rc::Rc;

use super::ReadError;
use super::element::Element;
use super::file::{Described, Node, is_own};
use super::fold;
use super::value::{Call, Constant, Dim, Feature, Past, Value, count};
use crate::graph::tensor::TensorKind;
use crate::graph::{self, NodeId, Op, Shape, shown};

/// Most nodes of ours, for one node of a file may be many.
const DRAFTS: usize = 1 << 17;

/// A node of ours in the making.
pub(super) struct Draft<'a> {
    pub(super) node: graph::Node,
    pub(super) tensors: Vec<(TensorKind, Vec<f32>)>,
    /// What the file calls its output.
    makes: &'a str,
    /// Why it is carried through, where it is.
    pub(super) carried: Option<Carried>,
}

/// Why a node is carried through, and why not even that, unless nothing comes of it.
pub(super) struct Carried {
    pub(super) operator: String,
    pub(super) reason: String,
    pub(super) broken: Option<ReadError>,
}

/// Why a node is no operator of ours.
pub(super) enum Turn {
    /// It is carried through as it is, for this reason.
    Carry(String),
    /// The file is refused.
    Refuse(ReadError),
}

impl From<String> for Turn {
    fn from(reason: String) -> Self {
        Self::Carry(reason)
    }
}

impl From<&str> for Turn {
    fn from(reason: &str) -> Self {
        Self::Carry(reason.to_owned())
    }
}

impl From<ReadError> for Turn {
    fn from(error: ReadError) -> Self {
        Self::Refuse(error)
    }
}

/// One feature per output of a node, in their order; none where nothing is known of it.
type Outputs = Result<Vec<Option<Feature>>, Turn>;

/// What is known while the nodes are read.
pub(super) struct Lowering<'f, 'a> {
    pub(super) opset: u32,
    /// The batch's dimension.
    pub(super) batch: Dim,
    pub(super) values: HashMap<&'a str, Value<'a>>,
    pub(super) uses: &'f HashMap<&'a str, usize>,
    /// What the file says of values.
    pub(super) described: HashMap<&'a str, &'f Described<'a>>,
    pub(super) drafts: Vec<Draft<'a>>,
    /// Of each name, how many nodes wanted it.
    pub(super) names: HashMap<String, usize>,
    /// How many numbers may still be copied.
    pub(super) budget: usize,
}

impl<'a> Lowering<'_, 'a> {
    /// Lowers one node and binds its outputs.
    pub(super) fn node(&mut self, node: &Node<'a>) -> Result<(), ReadError> {
        refuse_control_flow(node)?;
        let inputs = node.inputs.iter().map(|name| self.values.get(name).cloned()).collect();
        let call = Call { node, inputs, opset: self.opset };
        if is_own(node.domain)
            && let Some(constant) = fold::fold(&call, &mut self.budget)
        {
            if let Some(output) = node.outputs.first() {
                self.values.insert(output, Value::Constant(Rc::new(constant)));
            }
            return Ok(());
        }
        let outputs = match self.operator(&call) {
            Ok(outputs) => outputs,
            Err(Turn::Refuse(error)) => return Err(error),
            Err(Turn::Carry(reason)) => self.carry(&call, reason)?,
        };
        for (name, feature) in node.outputs.iter().zip(outputs) {
            if let Some(feature) = feature.filter(|_| !name.is_empty()) {
                self.values.insert(name, Value::Feature(feature));
            }
        }
        let unmade = node
            .outputs
            .iter()
            .find(|name| self.uses.contains_key(*name) && !self.values.contains_key(*name));
        unmade.map_or(Ok(()), |name| {
            let advice = "run ONNX's shape inference over the file and import the result";
            Err(node.error(format!("makes '{}', whose shape is unknown; {advice}", shown::name(name))))
        })
    }

    fn operator(&mut self, call: &Call<'_, 'a>) -> Outputs {
        if !is_own(call.node.domain) {
            return Err(
                format!("its operator is not ONNX's own but of '{}'", shown::name(call.node.domain)).into()
            );
        }
        let extra = call.node.outputs.iter().skip(1).any(|name| self.uses.contains_key(name));
        if extra && call.node.operator != "Split" {
            return Err("more than its first output is used".into());
        }
        match call.node.operator {
            "Identity" | "Dropout" | "Cast" => self.passed(call),
            "Conv" => self.conv(call),
            "BatchNormalization" => self.batch_norm(call),
            "Gemm" => self.gemm(call),
            "MatMul" => self.matmul(call),
            "Relu" | "LeakyRelu" | "Clip" | "Sigmoid" | "HardSigmoid" | "HardSwish" | "Tanh" => {
                self.activation(call)
            }
            "PRelu" => self.prelu(call),
            "Softmax" => self.softmax(call),
            "Add" | "Sub" | "Mul" | "Div" => self.binary(call),
            "Concat" => self.concat(call),
            "Split" => self.split(call),
            "Slice" => self.slice(call),
            "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => self.view(call),
            "Transpose" => self.transpose(call),
            "Pad" => self.pad(call),
            "MaxPool" => self.max_pool(call),
            "AveragePool" => self.average_pool(call),
            "GlobalAveragePool" | "ReduceMean" => self.global_average_pool(call),
            "Resize" | "Upsample" => self.resize(call),
            _ => Err("none of our operators computes what it does".into()),
        }
    }

    /// Adds a node of ours under a name like `name`, and says what its output is.
    fn draft(&mut self, call: &Call<'_, 'a>, name: &str, made: Made) -> Result<Feature, ReadError> {
        if count(&made.dims).is_none() {
            return Err(call.node.error(format!("makes {:?} numbers, which is too many", made.dims)));
        }
        if self.drafts.len() >= DRAFTS {
            return Err(call.node.error(format!("makes the network larger than {DRAFTS} nodes")));
        }
        let id = NodeId(self.drafts.len());
        let node = graph::Node { name: self.unique(name), op: made.op, inputs: made.inputs };
        let makes = call.node.outputs.first().copied().unwrap_or_default();
        self.drafts.push(Draft { node, tensors: made.tensors, makes, carried: None });
        Ok(Feature { id, dims: made.dims, element: Element::F32, past: Past::Plain })
    }

    /// The only output of a node that has no tensors and is called as in the file.
    fn plain(&mut self, call: &Call<'_, 'a>, op: Op, inputs: Vec<NodeId>, dims: Vec<Dim>) -> Outputs {
        let made = Made { op, inputs, dims, tensors: Vec::new() };
        Ok(vec![Some(self.draft(call, call.node.title(), made)?)])
    }

    /// Adds a node that stands for no node of the file.
    pub(super) fn start(&mut self, node: graph::Node, makes: &'a str) {
        self.drafts.push(Draft { node, tensors: Vec::new(), makes, carried: None });
    }

    /// A name that no node has yet.
    pub(super) fn unique(&mut self, name: &str) -> String {
        let base = if name.is_empty() { "node" } else { name };
        let mut candidate = base.to_owned();
        while self.names.contains_key(&candidate) {
            // The base is among the names, or the candidate would not be.
            let wanted = self.names.entry(base.to_owned()).or_insert(1);
            *wanted += 1;
            candidate = format!("{base}_{wanted}");
        }
        self.names.insert(candidate.clone(), 1);
        candidate
    }

    /// The name that the file gives a layer by the name of one of its tensors: `X` where that is `X.weight`.
    fn named_by<'b>(tensor: &Constant<'b>, kind: TensorKind, call: &Call<'_, 'b>) -> &'b str {
        let prefix = tensor.name.strip_suffix(kind.suffix()).and_then(|rest| rest.strip_suffix('.'));
        prefix.filter(|prefix| !prefix.is_empty()).unwrap_or(call.node.title())
    }

    /// A copy of a constant's numbers.
    fn numbers(&mut self, call: &Call<'_, 'a>, constant: &Constant<'a>) -> Result<Vec<f32>, Turn> {
        if constant.element != Element::F32 {
            return Err(format!("its tensors are {}, not float", constant.element.word()).into());
        }
        self.spend(call, constant.len())?;
        constant.floats().ok_or_else(|| "its tensors cannot be read".into())
    }

    /// Takes so many numbers from what may be copied.
    fn spend(&mut self, call: &Call<'_, 'a>, numbers: usize) -> Result<(), ReadError> {
        self.budget = self.budget.checked_sub(numbers).ok_or_else(|| {
            call.node.error("makes the network many times larger than its file; export it again".to_owned())
        })?;
        Ok(())
    }

    /// An input that is computed with: an image [N, c, h, w] or a vector [N, n] of f32.
    fn computed(&self, call: &Call<'_, 'a>, index: usize) -> Result<(Feature, Shape), Turn> {
        let feature = call.feature(index).ok_or("it does not read the image's features where it should")?;
        let shape = features(&feature.dims, self.batch);
        match shape {
            _ if feature.element != Element::F32 => {
                Err(format!("it reads {} numbers, not float", feature.element.word()).into())
            }
            Some(shape) => Ok((feature.clone(), shape)),
            None => Err(format!("it reads {}, neither an image nor a vector", words(&feature.dims)).into()),
        }
    }

    /// The same, and it must be an image.
    fn image(&self, call: &Call<'_, 'a>, index: usize) -> Result<(Feature, Shape), Turn> {
        let (feature, shape) = self.computed(call, index)?;
        if feature.dims.len() != 4 {
            return Err(format!("it reads {}, no image", words(&feature.dims)).into());
        }
        Ok((feature, shape))
    }

    /// Operators that change nothing.
    fn passed(&mut self, call: &Call<'_, 'a>) -> Outputs {
        let feature = call.feature(0).ok_or("it does not read the image's features")?;
        let node = call.node;
        if node.operator == "Cast" && Element::of(node.int("to", 0)) != Some(feature.element) {
            return Err("it changes the type of numbers".into());
        }
        if node.operator == "Dropout" && call.input(2).is_some() {
            let training = call.constant(2).and_then(|training| training.ints());
            if training.is_none_or(|training| training.iter().any(|int| int.known() != Some(0))) {
                return Err("it drops numbers at random".into());
            }
        }
        Ok(vec![Some(feature.clone())])
    }
}

/// What a draft is made of.
struct Made {
    op: Op,
    inputs: Vec<NodeId>,
    dims: Vec<Dim>,
    tensors: Vec<(TensorKind, Vec<f32>)>,
}

/// The features that a value of these dimensions is, where the first is the batch's and the others are an image's or a
/// vector's.
pub(super) fn features(dims: &[Dim], batch: Dim) -> Option<Shape> {
    if dims.first() != Some(&batch) {
        return None;
    }
    match *dims {
        [_, Dim::Known(length)] => Some(Shape::vector(length)),
        [_, Dim::Known(channels), Dim::Known(height), Dim::Known(width)] => {
            Some(Shape::new(channels, height, width))
        }
        _ => None,
    }
}

/// Dimensions for people, the batch's size as N.
fn words(dims: &[Dim]) -> String {
    let word = |dim: &Dim| match dim {
        Dim::Known(size) => size.to_string(),
        Dim::Batch(1) => "N".to_owned(),
        Dim::Batch(size) => format!("{size}N"),
    };
    format!("[{}]", dims.iter().map(word).collect::<Vec<_>>().join(", "))
}

fn refuse_control_flow(node: &Node<'_>) -> Result<(), ReadError> {
    let what = match node.operator {
        "If" | "Loop" | "Scan" | "SequenceMap" => "is control flow",
        "SplitToSequence" | "ConcatFromSequence" => "works on sequences",
        operator if operator.starts_with("Sequence") => "works on sequences",
        operator if operator.starts_with("Optional") => "works on values that may be absent",
        _ => return Ok(()),
    };
    Err(node.error(format!("{what}, which is not imported; export the network for one fixed path")))
}
