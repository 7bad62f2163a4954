//! The file that a verb writes: there in full under its name, or not at all.

use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::error::CliError;

/// A path that could be written when it was checked.
#[derive(Debug)]
pub(crate) struct Destination {
    path: PathBuf,
}

impl Destination {
    /// Finds out before the work begins whether its result could be written; leaves nothing behind.
    pub(crate) fn check(path: &Path) -> Result<Self, CliError> {
        let destination = Self { path: path.to_owned() };
        if path.is_dir() {
            return Err(destination.refuse(io::ErrorKind::IsADirectory.into()));
        }
        if path.exists() && !path.is_file() {
            // A pipe or a device would be replaced by the file.
            return Err(
                destination.refuse(io::Error::new(io::ErrorKind::InvalidInput, "it is there, and no file"))
            );
        }
        if !destination.folder().is_dir() {
            let problem = format!("there is no folder {}", destination.folder().display());
            return Err(destination.refuse(io::Error::new(io::ErrorKind::NotFound, problem)));
        }
        let tried = destination.temporary().and_then(NamedTempFile::close);
        tried.map_err(|error| destination.refuse(without_temporary_name(error)))?;
        Ok(destination)
    }

    /// Writes `bytes`; a reader sees the former file or the new one, never a part.
    pub(crate) fn write(&self, bytes: &[u8]) -> Result<(), CliError> {
        let written = self.temporary().and_then(|mut file| {
            file.write_all(bytes)?;
            file.as_file().sync_all()?;
            file.persist(&self.path)?;
            Ok(())
        });
        written.map_err(|error| self.refuse(without_temporary_name(error)))
    }

    /// What stands there now, if anything.
    pub(crate) fn read(&self) -> Result<Option<Vec<u8>>, CliError> {
        match std::fs::read(&self.path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(CliError::Unreadable { path: self.path.clone(), source }),
        }
    }

    /// Removes what stands there.
    pub(crate) fn remove(&self) -> Result<(), CliError> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.refuse(error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A file beside the destination, because a rename is atomic within one file system only.
    fn temporary(&self) -> io::Result<NamedTempFile> {
        // The umask narrows this, as for any file that a program makes.
        tempfile::Builder::new()
            .prefix(".reconvene-")
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(self.folder())
    }

    fn folder(&self) -> &Path {
        match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        }
    }

    fn refuse(&self, source: io::Error) -> CliError {
        CliError::Unwritable { path: self.path.clone(), source }
    }
}

/// The temporary file's name, which tempfile adds to its errors, would only mislead; the kind says enough.
fn without_temporary_name(error: io::Error) -> io::Error {
    if error.raw_os_error().is_some() { error } else { error.kind().into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_file_stays_until_the_new_one_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.onnx");
        std::fs::write(&path, "old").unwrap();
        let destination = Destination::check(&path).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        destination.write(b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn impossible_places_are_refused_beforehand() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let _listens = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for path in [folder.path().to_owned(), folder.path().join("missing/m.onnx"), socket] {
            let error = Destination::check(&path).unwrap_err();
            let line = error.line().unwrap();
            assert!(line.starts_with(&format!("cannot write {}: ", path.display())), "{line}");
            assert!(!line.contains(".reconvene-"), "{line}");
        }
    }
}
