//! Why a file is not imported, in words for who exported it. Owns the words; finds no problem itself.

use crate::graph::{GraphError, shown};

/// Why an ONNX file is not imported.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The bytes are no protobuf, or not all of them are there.
    #[error("byte {at}: {problem}; the file is damaged, or no ONNX file")]
    Damaged {
        /// Where, from the start of the file.
        at: usize,
        /// What is wrong.
        problem: &'static str,
    },
    /// The file as a whole is not one that is read.
    #[error("the file {}", shown::sentence(.problem))]
    File {
        /// What it is or lacks, and what to do.
        problem: String,
    },
    /// A tensor is not one that is read.
    #[error("tensor '{}' {}", shown::name(.tensor), shown::sentence(.problem))]
    Tensor {
        /// Its name, or its node's.
        tensor: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// A node is not one that is read.
    #[error("node '{}' ({}) {}", shown::name(.node), shown::name(.operator), shown::sentence(.problem))]
    Node {
        /// Its name, or that of its first output.
        node: String,
        /// Its operator.
        operator: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// Two values share a name.
    #[error("two values are named '{}'; export the network again, each name once", shown::name(.name))]
    Duplicate {
        /// The name.
        name: String,
    },
    /// Something reads a value that nothing makes.
    #[error("{reader} reads '{}', which nothing in the file makes; export the network again", shown::name(.name))]
    Undefined {
        /// Who.
        reader: String,
        /// The name.
        name: String,
    },
    /// The graph's input is not one image.
    #[error("the network's input {}", shown::sentence(.problem))]
    Input {
        /// What is wrong, and what to do.
        problem: String,
    },
    /// A graph's output is not one that is read.
    #[error("output '{}' {}", shown::name(.output), shown::sentence(.problem))]
    Output {
        /// Its name.
        output: String,
        /// What is wrong.
        problem: String,
    },
    /// What was read is no graph of ours.
    #[error(transparent)]
    Graph(#[from] GraphError),
}
