//! Nodes that are carried through as they are. Owns what a carried node keeps: its message, its constant operands and
//! the dimensions of its outputs.

use std::sync::Arc;

use prost::Message;

use super::{Carried, Draft, Lowering};
use crate::graph::onnx::read::ReadError;
use crate::graph::onnx::read::element::Element;
use crate::graph::onnx::read::file::{RANK, Size, is_own};
use crate::graph::onnx::read::shape;
use crate::graph::onnx::read::value::{Call, Constant, Dim, Feature, Int, Past, Value, count};
use crate::graph::onnx::schema;
use crate::graph::{Node, NodeId, Op, Opaque, Operand};

impl<'a> Lowering<'_, 'a> {
    /// A draft that carries the node through. Refused where the dimensions of its first output are not known.
    pub(super) fn carry(
        &mut self,
        call: &Call<'_, 'a>,
        reason: String,
    ) -> Result<Vec<Option<Feature>>, ReadError> {
        let node = call.node;
        let mut known = self.known(call);
        if known.first().is_none_or(|first| first.is_none()) {
            let advice = "run ONNX's shape inference over the file and import the result";
            return Err(node.error(format!("makes numbers whose shape is unknown; {advice}")));
        }
        let (mut inputs, mut operands, mut broken) = (Vec::new(), Vec::new(), None);
        for (index, input) in call.inputs.iter().enumerate() {
            if let Some(Value::Constant(constant)) = input
                && !constant.is_encoded()
            {
                self.spend(call, constant.len())?;
            }
            operands.push(match input {
                None => Operand::Absent,
                Some(Value::Feature(feature)) => {
                    inputs.push(feature.id);
                    Operand::Value { rank: feature.dims.len() }
                }
                Some(Value::Constant(constant)) => match written(call, index, constant) {
                    Some(tensor) => Operand::Constant(tensor),
                    None => {
                        let advice = "export the network with a fixed batch";
                        let problem = "computes with the batch's size in a way that is not carried through";
                        broken = Some(node.error(format!("{problem}; {advice}")));
                        Operand::Absent
                    }
                },
            });
        }
        let operator = match node.domain {
            domain if is_own(domain) => node.operator.to_owned(),
            domain => format!("{domain}.{}", node.operator),
        };
        let message = schema::Node::decode(node.bytes).map_err(|_| {
            node.error(
                "cannot be carried through: its message is damaged; export the network again".to_owned(),
            )
        })?;
        let outputs =
            known.iter().map(|known| known.as_ref().map_or(Vec::new(), |(dims, _)| self.sizes(dims)));
        let opaque = Opaque {
            operator: operator.clone(),
            node: message.encode_to_vec(),
            operands,
            outputs: outputs.collect(),
        };
        let id = NodeId(self.drafts.len());
        let name = self.unique(node.title());
        let first = Node { name: name.clone(), op: Op::Opaque(Arc::new(opaque)), inputs };
        self.push(call, first, Some(Carried { operator, reason, broken }));
        let mut features = Vec::new();
        for (index, known) in known.drain(..).enumerate() {
            let is_read =
                index > 0 && node.outputs.get(index).is_some_and(|name| self.uses.contains_key(name));
            let part = match index {
                0 => id,
                _ if is_read && known.is_some() => {
                    let name = self.unique(&format!("{name}.{index}"));
                    self.push(call, Node { name, op: Op::Part { index }, inputs: vec![id] }, None)
                }
                _ => {
                    features.push(None);
                    continue;
                }
            };
            let past = if index == 0 { self.past(call) } else { Past::Plain };
            features.push(known.map(|(dims, element)| Feature { id: part, dims, element, past }));
        }
        Ok(features)
    }

    fn push(&mut self, call: &Call<'_, 'a>, node: Node, carried: Option<Carried>) -> NodeId {
        let makes = call.node.outputs.first().copied().unwrap_or_default();
        self.drafts.push(Draft { node, tensors: Vec::new(), makes, carried });
        NodeId(self.drafts.len() - 1)
    }

    /// What is known of each output: by our rules, or else from what the file says.
    fn known(&self, call: &Call<'_, 'a>) -> Vec<Option<shape::Known>> {
        let mut inferred =
            if is_own(call.node.domain) { shape::infer(call) } else { None }.unwrap_or_default();
        let outputs = call.node.outputs.iter().enumerate();
        let known = outputs.map(|(index, name)| {
            let inferred = inferred.get_mut(index).and_then(Option::take);
            let known = inferred.or_else(|| self.said(name))?;
            // A number without dimensions, or too many numbers, is as good as unknown.
            let fits = !known.0.is_empty() && known.0.len() <= RANK && count(&known.0).is_some();
            fits.then_some(known)
        });
        known.collect()
    }

    /// What the file says of a value. A first dimension that is only named is the batch's.
    fn said(&self, name: &str) -> Option<shape::Known> {
        let described = self.described.get(name)?;
        let element: Element = described.element?;
        let dims = described.dims.as_ref()?.iter().enumerate().map(|(axis, size)| match size {
            Size::Known(size) => Some(Dim::Known(*size)),
            Size::Named(_) if axis == 0 => Some(self.batch),
            Size::Named(_) => None,
        });
        Some((dims.collect::<Option<Vec<Dim>>>()?, element))
    }

    /// Dimensions with the batch taken as 1.
    fn sizes(&self, dims: &[Dim]) -> Vec<usize> {
        let mut sizes: Vec<usize> = dims.iter().map(|dim| dim.size()).collect();
        if dims.first() == Some(&self.batch) {
            sizes[0] = 1;
        }
        sizes
    }
}

/// A constant operand, encoded. Where the batch's size is in a shape, the operator is told to copy or infer it.
fn written(call: &Call<'_, '_>, index: usize, constant: &Constant<'_>) -> Option<Arc<[u8]>> {
    if let Some(encoded) = constant.encoded() {
        return Some(encoded);
    }
    let from = call.dims(0)?;
    let target = constant.ints()?;
    let (mut known, mut has_hole) = (Vec::new(), target.contains(&Int::Known(-1)));
    for (axis, int) in target.iter().enumerate() {
        let copied = |axis: Option<usize>| {
            axis.and_then(|axis| from.get(axis)).is_some_and(|dim| Int::of(*dim) == *int)
        };
        known.push(Int::Known(match (call.node.operator, index, *int) {
            (_, _, Int::Known(int)) => int,
            ("Reshape", 1, Int::Batch(_)) if copied(Some(axis)) && call.node.int("allowzero", 0) == 0 => 0,
            ("Reshape", 1, Int::Batch(_)) if !has_hole => {
                has_hole = true;
                -1
            }
            ("Expand", 1, Int::Batch(_)) if copied((axis + from.len()).checked_sub(target.len())) => 1,
            _ => return None,
        }));
    }
    Constant::integers(constant.dims.clone(), known).named(constant.name).encoded()
}
