//! Files that are made here, read back: what each operator and pattern becomes, what is refused, and that nothing
//! panics.

mod carried;
mod hostile;
mod layers;
mod patterns;
mod round_trip;

use prost::Message;

use super::*;
use crate::graph::onnx::schema::{self, Attribute};

/// A file in the making: an image `x` of [N, 4, 6, 6], and an output `y`.
#[derive(Clone)]
struct Made {
    nodes: Vec<schema::Node>,
    tensors: Vec<schema::Tensor>,
    inputs: Vec<schema::Value>,
    outputs: Vec<schema::Value>,
    opset: i64,
}

fn made() -> Made {
    let (nodes, tensors) = (Vec::new(), Vec::new());
    let inputs = vec![value("x", &[4, 6, 6])];
    Made { nodes, tensors, inputs, outputs: vec![value("y", &[1])], opset: 17 }
}

fn value(name: &str, dims: &[usize]) -> schema::Value {
    schema::Value::batch_of(name, &Batch::Any("N".to_owned()), dims)
}

impl Made {
    /// A node that is called as its output is.
    fn node(self, operator: &str, inputs: &[&str], output: &str) -> Self {
        self.with(operator, inputs, &[output], Vec::new())
    }

    fn with(mut self, operator: &str, inputs: &[&str], outputs: &[&str], attribute: Vec<Attribute>) -> Self {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        self.nodes.push(schema::Node {
            input: names(inputs),
            output: names(outputs),
            name: Some(outputs[0].to_owned()),
            op_type: Some(operator.to_owned()),
            attribute,
            domain: None,
        });
        self
    }

    /// f32 that count up from 0.
    fn floats(mut self, name: &str, dims: &[i64]) -> Self {
        let count = dims.iter().product::<i64>();
        let raw = (0..count).flat_map(|value| (value as f32).to_le_bytes()).collect();
        self.tensors.push(tensor(name, 1, dims, raw));
        self
    }

    fn ints(mut self, name: &str, values: &[i64]) -> Self {
        let raw = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.tensors.push(tensor(name, 7, &[values.len() as i64], raw));
        self
    }

    fn opset(self, opset: i64) -> Self {
        Self { opset, ..self }
    }

    fn graph(&self) -> schema::Graph {
        schema::Graph {
            node: self.nodes.clone(),
            name: None,
            initializer: self.tensors.clone(),
            input: self.inputs.clone(),
            output: self.outputs.clone(),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        model(self.opset, &self.graph().encode_to_vec())
    }

    fn import(&self) -> Import {
        decode(&self.bytes()).unwrap_or_else(|error| panic!("{error}"))
    }

    fn error(&self) -> String {
        decode(&self.bytes()).expect_err("it should be refused").to_string()
    }
}

fn tensor(name: &str, code: i32, dims: &[i64], raw: Vec<u8>) -> schema::Tensor {
    schema::Tensor {
        dims: dims.to_vec(),
        data_type: Some(code),
        name: Some(name.to_owned()),
        raw_data: Some(raw),
        ..schema::Tensor::default()
    }
}

/// A file around an encoded graph.
fn model(opset: i64, graph: &[u8]) -> Vec<u8> {
    let set = schema::OperatorSet { domain: Some(String::new()), version: Some(opset) };
    let around = schema::Model { ir_version: Some(8), opset_import: vec![set], ..schema::Model::default() };
    let mut bytes = around.encode_to_vec();
    field(&mut bytes, 7, graph);
    bytes
}

/// Appends a field of variable length.
fn field(bytes: &mut Vec<u8>, number: u32, content: &[u8]) {
    prost::encoding::encode_varint(u64::from(number << 3 | 2), bytes);
    prost::encoding::encode_varint(content.len() as u64, bytes);
    bytes.extend_from_slice(content);
}

fn ints(name: &str, values: &[i64]) -> Attribute {
    Attribute { name: Some(name.to_owned()), ints: values.to_vec(), kind: Some(7), ..Attribute::default() }
}

fn int(name: &str, value: i64) -> Attribute {
    Attribute { name: Some(name.to_owned()), i: Some(value), kind: Some(2), ..Attribute::default() }
}

fn text(name: &str, value: &str) -> Attribute {
    Attribute::string(name, value)
}

/// Every node as its name, the start of its operator, what it reads and its shape.
fn lines(import: &Import) -> Vec<String> {
    let graph = &import.network.graph;
    let line = |(index, node): (usize, &Node)| {
        let reads: Vec<&str> = node.inputs.iter().map(|id| graph.node(*id).name.as_str()).collect();
        let operator = match &node.op {
            Op::Opaque(opaque) => format!("Opaque {}", opaque.operator),
            op => format!("{op:?}"),
        };
        format!("{} = {operator}({}) {}", node.name, reads.join(", "), graph.shapes()[index])
    };
    graph.nodes().iter().enumerate().skip(1).map(line).collect()
}

fn numbers(import: &Import, tensor: &str) -> Vec<f32> {
    import.network.weights[tensor].flatten_all().unwrap().to_vec1().unwrap()
}
