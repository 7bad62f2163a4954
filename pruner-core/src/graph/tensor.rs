//! Which tensors a node has: names, dimensions and what each is for. Owns the naming, never a value.

use super::{Graph, Node, Op, Shape};

/// One tensor that a node needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// As in [`super::Weights`].
    pub name: String,
    /// What it is for.
    pub kind: TensorKind,
    /// Its dimensions, outermost first.
    pub dims: Vec<usize>,
}

impl TensorSpec {
    /// Numbers in all.
    pub fn numel(&self) -> usize {
        self.dims.iter().product()
    }
}

/// What a tensor is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TensorKind {
    /// A convolution's or linear layer's kernel.
    Weight,
    /// A convolution's or linear layer's additive term.
    Bias,
    /// A batch norm's factor (gamma), spelt `weight`.
    Scale,
    /// A batch norm's additive term (beta), spelt `bias`.
    Shift,
    /// A PReLU's factor below 0, spelt `weight`.
    Slope,
    /// A constant's numbers, spelt `value`; not learnt.
    Value,
    /// A batch norm's running mean; not learnt.
    RunningMean,
    /// A batch norm's running variance; not learnt.
    RunningVar,
}

impl TensorKind {
    /// The last part of the tensor's name, as PyTorch spells it.
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::Weight | Self::Scale | Self::Slope => "weight",
            Self::Bias | Self::Shift => "bias",
            Self::Value => "value",
            Self::RunningMean => "running_mean",
            Self::RunningVar => "running_var",
        }
    }

    /// Whether training moves it by its gradient; running statistics and constants are not learnt.
    pub const fn is_learnt(self) -> bool {
        match self {
            Self::Weight | Self::Bias | Self::Scale | Self::Shift | Self::Slope => true,
            Self::RunningMean | Self::RunningVar | Self::Value => false,
        }
    }
}

impl Node {
    /// The tensors that this node needs, in the order PyTorch lists them.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        use TensorKind::{Bias, RunningMean, RunningVar, Scale, Shift, Slope, Value, Weight};
        match self.op {
            Op::Conv(conv) => {
                let [rows, columns] = conv.window.kernel;
                let weight = vec![conv.outputs, conv.inputs / conv.groups, rows, columns];
                let bias = conv.bias.then(|| self.tensor(Bias, vec![conv.outputs]));
                std::iter::once(self.tensor(Weight, weight)).chain(bias).collect()
            }
            Op::Linear { inputs, outputs, bias } => {
                let bias = bias.then(|| self.tensor(Bias, vec![outputs]));
                std::iter::once(self.tensor(Weight, vec![outputs, inputs])).chain(bias).collect()
            }
            Op::BatchNorm { channels, .. } => [Scale, Shift, RunningMean, RunningVar]
                .into_iter()
                .map(|kind| self.tensor(kind, vec![channels]))
                .collect(),
            Op::PRelu { channels } => vec![self.tensor(Slope, vec![channels])],
            Op::Constant { shape: Shape { channels, height, width } } => {
                vec![self.tensor(Value, vec![channels, height, width])]
            }
            Op::Input
            | Op::Activation(_)
            | Op::Binary(_)
            | Op::Concat
            | Op::Slice { .. }
            | Op::Shuffle { .. }
            | Op::Pad { .. }
            | Op::MaxPool(_)
            | Op::AvgPool { .. }
            | Op::GlobalAvgPool
            | Op::Resize(_)
            | Op::Softmax
            | Op::Flatten
            | Op::Opaque(_)
            | Op::Part { .. }
            | Op::Outputs => Vec::new(),
        }
    }

    /// The name of this node's tensor of that kind, whether it has one or not.
    pub fn tensor_name(&self, kind: TensorKind) -> String {
        format!("{}.{}", self.name, kind.suffix())
    }

    fn tensor(&self, kind: TensorKind, dims: Vec<usize>) -> TensorSpec {
        TensorSpec { name: self.tensor_name(kind), kind, dims }
    }
}

impl Graph {
    /// Every tensor that the graph's nodes need, in the nodes' order.
    pub fn tensors(&self) -> impl Iterator<Item = TensorSpec> {
        self.nodes().iter().flat_map(Node::tensors)
    }
}
