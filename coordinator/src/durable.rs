//! A file that is there in full under its name, or as it was before; on the disk when the call returns.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// What unfinished files are called; a crash may leave some, and whoever owns their folder removes them at its start.
pub(crate) const UNFINISHED: &str = ".unfinished-";

/// Replaces the file at `path`, which lies in `folder`, by `bytes`.
pub fn replace(folder: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    sync(folder)
}

/// Puts the names in `folder` on the disk.
pub(crate) fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
