//! A local file on its way to the coordinator: read, announced, cut into messages.

use std::path::Path;

use proto::{ArtifactRef, ByteSize, Digest};

use super::error::CliError;

/// Bytes of the file per message.
const CHUNK: usize = 256 << 10;

/// The file's bytes; an empty one is refused.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, CliError> {
    let file =
        std::fs::read(path).map_err(|source| CliError::Unreadable { path: path.to_owned(), source })?;
    if file.is_empty() {
        return Err(CliError::BadInput(format!("{} is empty", path.display())));
    }
    Ok(file)
}

/// What the header says of it.
pub(crate) fn announce(file: &[u8]) -> ArtifactRef {
    ArtifactRef { digest: Digest::of(file), size: ByteSize(file.len() as u64) }
}

/// The header, then the file. A chunk is copied when it is sent, so that the file is in memory once.
pub(crate) fn parts<T>(header: T, file: Vec<u8>, chunk: impl Fn(Vec<u8>) -> T) -> impl Iterator<Item = T> {
    let starts = (0..file.len()).step_by(CHUNK);
    std::iter::once(header).chain(starts.map(move |at| chunk(file[at..file.len().min(at + CHUNK)].to_vec())))
}
