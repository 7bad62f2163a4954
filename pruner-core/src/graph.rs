//! The network as a value: operators in topological order, and the weights beside them.
//! Owns structure and its checks; never runs anything (see `exec`).

pub mod cost;
pub(crate) mod fold;
pub mod onnx;
pub mod op;
pub mod shape;
pub(crate) mod shown;
pub mod tensor;
pub mod weights;

use std::collections::{BTreeMap, BTreeSet};

use candle_core::Tensor;

pub use op::{
    Activation, Binary, Conv, Coordinates, Divisor, Interpolation, Op, Opaque, Operand, Padding, Resize,
    Window,
};

/// A network: what it computes, and with which numbers.
#[derive(Debug, Clone)]
pub struct Network {
    /// The operators.
    pub graph: Graph,
    /// Their parameters and running statistics.
    pub weights: Weights,
}

/// Every tensor by its name, as PyTorch's `state_dict` spells it: `layer1.0.conv1.weight`, `bn1.running_mean`.
/// All are f32 on the CPU and contiguous.
pub type Weights = BTreeMap<String, Tensor>;

/// Channels, height and width of one image's features. A vector of n numbers is n x 1 x 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Shape {
    /// Channels, or length of a vector.
    pub channels: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl Shape {
    /// Features of `channels` x `height` x `width`.
    pub const fn new(channels: usize, height: usize, width: usize) -> Self {
        Self { channels, height, width }
    }

    /// A vector of `length` numbers.
    pub const fn vector(length: usize) -> Self {
        Self::new(length, 1, 1)
    }

    /// Numbers in all.
    pub const fn numel(self) -> usize {
        self.channels * self.height * self.width
    }

    /// Positions per channel.
    pub const fn area(self) -> usize {
        self.height * self.width
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}x{}", self.channels, self.height, self.width)
    }
}

/// A node's position in its graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub usize);

/// One operator.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Unique within the graph; the prefix of its tensors' names.
    pub name: String,
    /// What it computes.
    pub op: Op,
    /// Whose outputs it reads; all earlier in the graph.
    pub inputs: Vec<NodeId>,
}

/// Operators in topological order; the last one is the output. Shapes were checked when it was made.
#[derive(Debug, Clone, PartialEq)]
pub struct Graph {
    nodes: Vec<Node>,
    shapes: Vec<Shape>,
    interface: Interface,
}

/// How a graph's input and outputs are called in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// The image.
    pub input: String,
    /// Its dimensions, the batch's included: 4, or 2 where a vector is read.
    pub input_rank: usize,
    /// What the last node gives, or an [`Op::Outputs`] reads; in its order.
    pub outputs: Vec<Output>,
    /// The batch's dimension: a name where any size will do.
    pub batch: Batch,
    /// The version of ONNX's operators that the file's opaque nodes are written in.
    pub opset: u32,
    /// Other sets of operators that they are from, and their versions.
    pub domains: BTreeMap<String, u32>,
}

/// An output in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its name.
    pub name: String,
    /// Its dimensions, the batch's included.
    pub rank: usize,
}

/// The number of images in one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Batch {
    /// Any; the dimension's name.
    Any(String),
    /// This many.
    Fixed(usize),
}

impl Default for Interface {
    fn default() -> Self {
        let outputs = vec![Output { name: "logits".to_owned(), rank: 2 }];
        let (input, batch) = ("input".to_owned(), Batch::Any("N".to_owned()));
        Self { input, input_rank: 4, outputs, batch, opset: 17, domains: BTreeMap::new() }
    }
}

/// Why a list of nodes is no graph.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum GraphError {
    /// Nothing but the input, or not even that.
    #[error("the graph has no operators")]
    Empty,
    /// The first node is not the only `Input`.
    #[error("node '{}': the input must be the first node and the only one", shown::name(.node))]
    Input {
        /// Which node.
        node: String,
    },
    /// Two nodes of one name.
    #[error("two nodes are named '{}'", shown::name(.node))]
    DuplicateName {
        /// The name.
        node: String,
    },
    /// A node reads one that does not come before it, or too few or too many.
    #[error("node '{}': {}", shown::name(.node), shown::sentence(.problem))]
    Inputs {
        /// Which node.
        node: String,
        /// What is wrong.
        problem: String,
    },
    /// The operator does not fit its input's shape.
    #[error("node '{}': {}", shown::name(.node), shown::sentence(.problem))]
    Shape {
        /// Which node.
        node: String,
        /// What is wrong.
        problem: String,
    },
}

impl Graph {
    /// Checks names, order and shapes of `nodes`, whose first is the input, of shape `input`.
    pub fn new(input: Shape, nodes: Vec<Node>) -> Result<Self, GraphError> {
        if nodes.len() < 2 {
            return Err(GraphError::Empty);
        }
        let mut names = BTreeSet::new();
        for (index, node) in nodes.iter().enumerate() {
            if !names.insert(&node.name) {
                return Err(GraphError::DuplicateName { node: node.name.clone() });
            }
            if (index == 0) != (node.op == Op::Input) {
                return Err(GraphError::Input { node: node.name.clone() });
            }
            if node.inputs.iter().any(|id| id.0 >= index) {
                let problem = "reads a node that does not come before it".to_owned();
                return Err(GraphError::Inputs { node: node.name.clone(), problem });
            }
        }
        let shapes = shape::infer(input, &nodes)?;
        Ok(Self { nodes, shapes, interface: Interface::default() })
    }

    /// The same graph under other names.
    pub fn with_interface(self, interface: Interface) -> Self {
        Self { interface, ..self }
    }

    /// How its input and outputs are called.
    pub fn interface(&self) -> &Interface {
        &self.interface
    }

    /// The operators, in topological order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// One operator.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0]
    }

    /// The node of that name.
    pub fn find(&self, name: &str) -> Option<NodeId> {
        self.nodes.iter().position(|node| node.name == name).map(NodeId)
    }

    /// The output's shape of every node, in the nodes' order.
    pub fn shapes(&self) -> &[Shape] {
        &self.shapes
    }

    /// The output's shape of one node.
    pub fn shape(&self, id: NodeId) -> Shape {
        self.shapes[id.0]
    }

    /// The image's shape.
    pub fn input_shape(&self) -> Shape {
        self.shapes[0]
    }

    /// The last node, whose output is the network's.
    pub fn output(&self) -> NodeId {
        NodeId(self.nodes.len() - 1)
    }

    /// Who reads each node, in the nodes' order.
    pub fn consumers(&self) -> Vec<Vec<NodeId>> {
        let mut consumers = vec![Vec::new(); self.nodes.len()];
        for (index, node) in self.nodes.iter().enumerate() {
            for input in &node.inputs {
                consumers[input.0].push(NodeId(index));
            }
        }
        consumers
    }
}
