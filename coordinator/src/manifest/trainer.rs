//! Who trains a pruned network.

use serde::{Deserialize, Serialize};

/// Who trains a pruned network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrainerKind {
    /// The coordinator.
    #[default]
    Builtin,
    /// The program that the coordinator's configuration names.
    Command,
    /// A person, who takes the network out and brings its weights back.
    External,
}
