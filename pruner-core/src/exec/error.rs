//! Why a graph cannot be run, or named weights do not fit it.

/// A graph cannot be run, or a network's weights are not those that its graph needs.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// No tensor of that name.
    #[error("the weights have no tensor '{tensor}'")]
    Missing {
        /// Its name.
        tensor: String,
    },
    /// A tensor of other dimensions.
    #[error("tensor '{tensor}' is {got:?} where the graph needs {expected:?}")]
    Shape {
        /// Its name.
        tensor: String,
        /// What the graph needs.
        expected: Vec<usize>,
        /// What was there.
        got: Vec<usize>,
    },
    /// An operator that cannot be run here, only carried through.
    #[error("node '{node}' computes {operator}, which cannot be run here")]
    Unsupported {
        /// Which node.
        node: String,
        /// What it computes.
        operator: String,
    },
    /// A flat vector of the wrong length.
    #[error("{got} numbers where the graph needs {expected}")]
    Length {
        /// What the graph needs.
        expected: usize,
        /// What was there.
        got: usize,
    },
    /// A tensor could not be read or made: not f32, say.
    #[error("tensor '{tensor}' cannot be used")]
    Tensor {
        /// Its name.
        tensor: String,
        /// What candle says.
        source: candle_core::Error,
    },
}
