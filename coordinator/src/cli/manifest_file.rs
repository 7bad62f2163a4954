//! A manifest named on the command line: read, and checked before anything is sent.

use std::io::Read;
use std::path::{Path, PathBuf};

use coordinator::manifest::{DatasetRef, DeploymentManifest};

use super::error::CliError;

/// A manifest that was found valid.
pub(crate) struct Checked {
    /// As the operator wrote it, comments included.
    pub(crate) text: String,
    /// What it means.
    pub(crate) manifest: DeploymentManifest<DatasetRef>,
}

/// Where the manifest comes from.
#[derive(Debug, clap::Args)]
pub(crate) struct ManifestArg {
    /// The deployment's manifest; - reads standard input
    #[arg(short, long = "file", value_name = "FILE")]
    file: PathBuf,
}

impl ManifestArg {
    /// Reads and checks it.
    pub(crate) fn read(&self) -> Result<Checked, CliError> {
        let is_stdin = self.file == Path::new("-");
        let name = if is_stdin { "standard input".to_owned() } else { self.file.display().to_string() };
        let text = if is_stdin {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map(|_| text)
        } else {
            std::fs::read_to_string(&self.file)
        };
        let text = text.map_err(|source| CliError::Unreadable { path: PathBuf::from(&name), source })?;
        let manifest =
            DeploymentManifest::read(&text).map_err(|source| CliError::Manifest { file: name, source })?;
        Ok(Checked { text, manifest })
    }
}
