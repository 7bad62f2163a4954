//! Whether every shape in a network follows from the shape of the image. Owns that check: what passes needs as much memory for
//! any image as it needed for the one that it was tested with.
//!
//! Some operators take numbers that say how large their output is: those may be constants, and not be computed from the image.

use std::collections::BTreeSet;

use prost::Message as _;

/// Why a model's memory cannot be known from one run of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShapesError {
    /// The file is no model.
    #[error("the file cannot be read as a model")]
    Unread(#[from] prost::DecodeError),
    /// One name for two values: which of them an operator gets is the engine's to say.
    #[error("two values are named '{0}'")]
    Twice(String),
    /// A shape is computed from the image.
    #[error(
        "how large the output of its {operator} '{output}' is depends on the image; only constant shapes are served"
    )]
    Computed {
        /// The kind of node.
        operator: String,
        /// What it makes.
        output: String,
    },
}

// What is read of onnx.proto3; everything else is passed over.

#[derive(prost::Message)]
struct Model {
    #[prost(message, optional, tag = "7")]
    graph: Option<Graph>,
}

#[derive(prost::Message)]
struct Graph {
    #[prost(message, repeated, tag = "1")]
    nodes: Vec<Node>,
    #[prost(message, repeated, tag = "5")]
    initializers: Vec<Tensor>,
    #[prost(message, repeated, tag = "11")]
    inputs: Vec<Input>,
}

#[derive(prost::Message)]
struct Input {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(prost::Message)]
struct Node {
    #[prost(string, repeated, tag = "1")]
    inputs: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    outputs: Vec<String>,
    #[prost(string, tag = "4")]
    operator: String,
}

#[derive(prost::Message)]
struct Tensor {
    #[prost(string, tag = "8")]
    name: String,
}

/// Of the operators that are served, those whose inputs after the first say how large the output is.
const SHAPING: [&str; 7] = ["Pad", "ReduceMean", "Reshape", "Resize", "Slice", "Squeeze", "Unsqueeze"];

/// Checks that no shape in an ONNX file, whose framing is sound, is computed from the image.
pub fn check(bytes: &[u8]) -> Result<(), ShapesError> {
    let Graph { nodes, initializers, inputs: images } = Model::decode(bytes)?.graph.unwrap_or_default();
    let mut known = BTreeSet::new();
    for Tensor { name } in &initializers {
        if !known.insert(name.as_str()) {
            return Err(ShapesError::Twice(name.clone()));
        }
    }
    // An input may name a constant of the file as well: old files list them all.
    let mut named: BTreeSet<&str> = images.iter().map(|input| input.name.as_str()).collect();
    named.extend(&known);
    // Each node comes after those that it needs.
    for Node { inputs, outputs, operator } in &nodes {
        for output in outputs.iter().filter(|output| !output.is_empty()) {
            if !named.insert(output) {
                return Err(ShapesError::Twice(output.clone()));
            }
        }
        let is_known = |name: &String| name.is_empty() || known.contains(name.as_str());
        if SHAPING.contains(&operator.as_str()) && !inputs.iter().skip(1).all(is_known) {
            let output = outputs.first().cloned().unwrap_or_default();
            return Err(ShapesError::Computed { operator: operator.clone(), output });
        }
        // What is made of constants is one.
        if inputs.iter().all(is_known) {
            known.extend(outputs.iter().map(String::as_str));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(operator: &str, inputs: &[&str], output: &str) -> Node {
        let inputs = inputs.iter().map(|&name| name.to_owned()).collect();
        Node { inputs, outputs: vec![output.to_owned()], operator: operator.to_owned() }
    }

    fn checked(nodes: Vec<Node>) -> Result<(), ShapesError> {
        let initializers = vec![Tensor { name: "two".to_owned() }];
        let inputs = vec![Input { name: "image".to_owned() }, Input { name: "two".to_owned() }];
        check(&Model { graph: Some(Graph { nodes, initializers, inputs }) }.encode_to_vec())
    }

    #[test]
    fn shapes_are_constants() {
        let constant = || node("Constant", &[], "three");
        for inputs in [&["image"][..], &["image", "two"], &["image", "", "", "two"], &["image", "three"]] {
            assert_eq!(checked(vec![constant(), node("Resize", inputs, "y")]), Ok(()), "{inputs:?}");
        }
        let computed =
            vec![node("Concat", &["two", "two"], "size"), node("Reshape", &["image", "size"], "y")];
        assert_eq!(checked(computed), Ok(()));
        // Both of its inputs are data, and its shape follows from theirs.
        assert_eq!(checked(vec![node("Add", &["image", "image"], "y")]), Ok(()));
    }

    #[test]
    fn a_shape_that_the_image_says_is_refused() {
        for operator in SHAPING {
            let nodes =
                vec![node("Relu", &["image"], "size"), node(operator, &["image", "two", "size"], "y")];
            let error = checked(nodes).unwrap_err().to_string();
            let expected = format!("how large the output of its {operator} 'y' is depends on the image");
            assert!(error.starts_with(&expected), "{error}");
        }
    }

    #[test]
    fn no_value_is_defined_twice() {
        let constant = || node("Identity", &["two"], "size");
        let computed = || node("Reshape", &["image", "two"], "size");
        let resize = || node("Resize", &["image", "", "size"], "y");
        for nodes in [
            vec![constant(), computed(), resize()],
            vec![computed(), constant(), resize()],
            vec![constant(), resize(), computed()],
            vec![node("Identity", &["two"], "image")],
            vec![node("Relu", &["image"], "two")],
        ] {
            let name = match nodes[0].outputs[0].as_str() {
                "image" => "image",
                "two" => "two",
                _ => "size",
            };
            assert_eq!(checked(nodes), Err(ShapesError::Twice(name.to_owned())));
        }
    }

    #[test]
    fn what_is_no_model_is_an_error() {
        // A node whose name is no text.
        let bytes = [0x3a, 5, 0x0a, 3, 0x0a, 1, 0xff];
        assert!(matches!(check(&bytes), Err(ShapesError::Unread(_))));
        assert_eq!(check(b""), Ok(()));
    }
}
