//! Writes a graph down node by node. Checks nothing; `Graph::new` does.

use crate::graph::{Conv, Graph, GraphError, Node, NodeId, Op, Shape, Window};

/// How a network begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stem {
    /// Images of about 224 pixels are made smaller at once.
    LargeImages,
    /// Images of about 32 pixels keep their size.
    SmallImages,
}

/// The nodes so far, in topological order; the first is `input`.
pub(super) struct Stack {
    input: Shape,
    nodes: Vec<Node>,
}

impl Stack {
    pub(super) fn new(input: Shape) -> Self {
        let node = Node { name: "input".to_owned(), op: Op::Input, inputs: Vec::new() };
        Self { input, nodes: vec![node] }
    }

    pub(super) fn input(&self) -> NodeId {
        NodeId(0)
    }

    pub(super) fn push(&mut self, name: impl Into<String>, op: Op, inputs: &[NodeId]) -> NodeId {
        self.nodes.push(Node { name: name.into(), op, inputs: inputs.to_vec() });
        NodeId(self.nodes.len() - 1)
    }

    pub(super) fn batch_norm(&mut self, name: impl Into<String>, channels: usize, from: NodeId) -> NodeId {
        self.push(name, Op::BatchNorm { channels, eps: 1e-5 }, &[from])
    }

    pub(super) fn relu(&mut self, name: impl Into<String>, from: NodeId) -> NodeId {
        self.push(name, Op::RELU, &[from])
    }

    /// A 2x2 max pooling of step 2.
    pub(super) fn halve(&mut self, name: impl Into<String>, from: NodeId) -> NodeId {
        self.push(name, Op::MaxPool(Window::square(2, 2, 0)), &[from])
    }

    /// The mean of each channel and one linear layer: `avgpool` and `fc`.
    pub(super) fn classify(&mut self, channels: usize, classes: usize, from: NodeId) {
        let pooled = self.push("avgpool", Op::GlobalAvgPool, &[from]);
        self.push("fc", Op::Linear { inputs: channels, outputs: classes, bias: true }, &[pooled]);
    }

    pub(super) fn finish(self) -> Result<Graph, GraphError> {
        Graph::new(self.input, self.nodes)
    }
}

/// A 3x3 convolution that keeps height and width, without bias.
pub(super) const fn conv3x3(inputs: usize, outputs: usize) -> Conv {
    Conv { inputs, outputs, window: Window::square(3, 1, 1), groups: 1, bias: false }
}
