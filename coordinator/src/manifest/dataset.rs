//! What a deployment learns: files on the coordinator's host, or a name that stands for them.

use std::path::PathBuf;

use pruner_core::dataset::TestShare;
use serde::{Deserialize, Serialize};

use super::DatasetFormat;

/// A labelled set of images on the coordinator's disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct DatasetSpec {
    /// How its files are read: idx, cifar10, cifar100, folder.
    pub format: DatasetFormat,
    /// Its folder, on the coordinator's host.
    pub path: PathBuf,
    /// Of a folder of images without a test folder: the share of each class that is tested on, above 0 and below 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_share: Option<TestShare>,
}

/// A dataset as an operator means it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum DatasetRef {
    /// By the name that it was added under.
    Named {
        /// The name.
        name: String,
    },
    /// By where it is.
    Files(DatasetSpec),
}

/// What may stand under `dataset`; which of it together is checked where the places in the text are known.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct DatasetFields {
    pub(super) name: Option<String>,
    pub(super) format: Option<DatasetFormat>,
    pub(super) path: Option<PathBuf>,
    pub(super) test_share: Option<TestShare>,
}

impl DatasetFields {
    /// What was meant; `None` where that cannot be said.
    pub(super) fn meant(&self) -> Option<DatasetRef> {
        match self.clone() {
            Self { name: Some(name), format: None, path: None, test_share: None } => {
                Some(DatasetRef::Named { name })
            }
            Self { name: None, format: Some(format), path: Some(path), test_share } => {
                Some(DatasetRef::Files(DatasetSpec { format, path, test_share }))
            }
            _ => None,
        }
    }
}
