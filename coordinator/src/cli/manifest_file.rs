//! A manifest named on the command line: read, and checked before anything is sent.

use std::io::Read;
use std::path::{Path, PathBuf};

use coordinator::manifest::Document;

use super::error::CliError;

/// Where the manifest comes from.
#[derive(Debug, clap::Args)]
pub(crate) struct ManifestArg {
    /// The manifest of one deployment or of several, also as `get -o yaml` prints them; - reads standard input
    #[arg(short, long = "file", value_name = "FILE")]
    file: PathBuf,
}

impl ManifestArg {
    /// Reads and checks all of it.
    pub(crate) fn read(&self) -> Result<Vec<Document>, CliError> {
        let name = self.name();
        let text = if self.is_stdin() {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map(|_| text)
        } else {
            std::fs::read_to_string(&self.file)
        };
        let text = text.map_err(|source| CliError::Unreadable { path: PathBuf::from(&name), source })?;
        Document::read_all(&text).map_err(|source| CliError::Manifest { file: name, source })
    }

    /// The same where only one deployment makes sense.
    pub(crate) fn read_one(&self) -> Result<Document, CliError> {
        let mut all = self.read()?;
        match (all.pop(), all.len()) {
            (Some(only), 0) => Ok(only),
            (_, others) => {
                let name = self.name();
                let count = if others == 0 { 0 } else { others + 1 };
                Err(CliError::BadInput(format!("{name} holds {count} deployments; give one at a time")))
            }
        }
    }

    fn is_stdin(&self) -> bool {
        self.file == Path::new("-")
    }

    fn name(&self) -> String {
        if self.is_stdin() { "standard input".to_owned() } else { self.file.display().to_string() }
    }
}
