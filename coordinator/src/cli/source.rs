//! The dense network: one of the zoo's with fresh weights, or a file of the user's own.

use std::path::Path;

use coordinator::causes::chain;
use pruner_core::graph::onnx::{self, Import, Options};
use pruner_core::rectify::Reinit;
use pruner_core::zoo::{self, UnknownNetwork, ZooNetwork};
use pruner_core::{Network, Shape, init};

use super::error::CliError;

/// What the zoo's networks read where nothing else is said.
const USUAL_INPUT: Shape = Shape::new(3, 32, 32);
/// And how many classes they tell apart.
const USUAL_CLASSES: u16 = 10;

/// A dense network.
pub(crate) struct Source {
    /// The zoo's name, or the file's.
    pub(crate) name: String,
    /// With its initial weights.
    pub(crate) network: Network,
    /// What is carried through unchanged, and why.
    pub(crate) notes: Vec<String>,
    /// Whether the weights are the user's.
    trained: bool,
    seed: u64,
}

impl Source {
    /// One of the zoo's.
    pub(crate) fn zoo(
        name: &str,
        input: Option<Shape>,
        classes: Option<u16>,
        seed: u64,
    ) -> Result<Self, CliError> {
        let which: ZooNetwork =
            name.parse().map_err(|error: UnknownNetwork| CliError::Missing(error.to_string()))?;
        let (input, classes) = (input.unwrap_or(USUAL_INPUT), classes.unwrap_or(USUAL_CLASSES));
        let graph =
            zoo::build(which, input, classes.into()).map_err(|error| CliError::Usage(chain(&error)))?;
        let network = Network { weights: init::init(&graph, seed), graph };
        Ok(Self { name: which.to_string(), network, notes: Vec::new(), trained: false, seed })
    }

    /// The user's own.
    pub(crate) fn file(path: &Path, input: Option<Shape>, seed: u64) -> Result<Self, CliError> {
        let bytes =
            std::fs::read(path).map_err(|source| CliError::Unreadable { path: path.to_owned(), source })?;
        let Import { network, notes } = onnx::decode_with(&bytes, Options { input })
            .map_err(|error| CliError::BadInput(format!("{}: {}", path.display(), chain(&error))))?;
        let notes = notes.iter().map(ToString::to_string).collect();
        Ok(Self { name: path.display().to_string(), network, notes, trained: true, seed })
    }

    /// What to say of the weights of the pruned network.
    pub(crate) fn weights(&self, reinit: Reinit) -> String {
        let seed = self.seed;
        let whose = if self.trained {
            "the file's".to_owned()
        } else {
            format!("fresh ones, drawn from seed {seed}")
        };
        match (self.trained, reinit) {
            (false, Reinit::Touched | Reinit::Full) | (true, Reinit::Full) => {
                format!("its weights are fresh, drawn from seed {seed}")
            }
            (true, Reinit::Touched) => {
                format!("layers that lost channels have fresh weights, drawn from seed {seed}")
            }
            (_, Reinit::SliceKept) => format!("its weights are what pruning left of {whose}"),
            (_, Reinit::Rescaled) => format!("its weights are what pruning left of {whose}, rescaled"),
        }
    }
}
