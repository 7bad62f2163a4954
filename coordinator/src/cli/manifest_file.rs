//! A manifest named on the command line: read, and checked before anything is sent.

use std::io::Read;
use std::path::{Path, PathBuf};

use coordinator::manifest::Document;
use proto::v1;

use super::error::CliError;
use super::figures::bytes;

/// Of a file of manifests: the coordinator takes messages of 4 MiB, and a little more than the text is in one.
const LARGEST: usize = (4 << 20) - 1024;

/// Where the manifest comes from.
#[derive(Debug, clap::Args)]
pub(crate) struct ManifestArg {
    /// The manifest of one deployment or of several, also as `get -o yaml` prints them; - reads standard input
    #[arg(short, long = "file", value_name = "FILE")]
    file: PathBuf,
}

impl ManifestArg {
    /// Reads and checks all of it: what is wrong with one deployment is found before anything is sent of another.
    pub(crate) fn read(&self) -> Result<Vec<Document>, CliError> {
        let name = self.name();
        let text = if self.is_stdin() {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map(|_| text)
        } else {
            std::fs::read_to_string(&self.file)
        };
        let text = text.map_err(|source| CliError::Unreadable { path: PathBuf::from(&name), source })?;
        if text.len() > LARGEST {
            let (is, most) = (bytes(text.len() as u64), bytes(LARGEST as u64));
            return Err(CliError::BadInput(format!("{name} is {is}; a manifest is at most {most}")));
        }
        Document::read_all(&text).map_err(|source| CliError::Manifest { file: name, source })
    }

    fn is_stdin(&self) -> bool {
        self.file == Path::new("-")
    }

    fn name(&self) -> String {
        if self.is_stdin() { "standard input".to_owned() } else { self.file.display().to_string() }
    }
}

/// What to send of a deployment to be applied.
pub(crate) fn request(document: &Document) -> v1::ApplyRequest {
    v1::ApplyRequest { manifest: document.text.clone(), generation: document.generation }
}

/// The same error, which of a file's deployments it is about where there are several.
pub(crate) fn within(document: &Document) -> impl FnOnce(CliError) -> CliError {
    let title = document.title.clone();
    |source| match title {
        Some(title) => CliError::Within { title, source: Box::new(source) },
        None => source,
    }
}
