//! Files of the state directory: where they are, and how one is replaced so that a crash leaves the old or the new
//! one, never a mixture. Owns names and durability; never knows what a file means.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// An operation on a file of the state directory that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {}", path.display())]
pub struct FileError {
    /// What was tried, as an infinitive.
    pub operation: &'static str,
    /// On which file.
    pub path: PathBuf,
    /// Why it failed.
    pub source: io::Error,
}

impl FileError {
    /// Says what was tried on which file: for `map_err`.
    pub fn of(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self { operation, path, source }
    }
}

/// Replaces `path` by `bytes`: temporary file, fsync, rename, fsync of the folder.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    replace_with_mode(path, bytes, 0o666)
}

/// As [`replace`], for its owner's eyes alone.
pub fn replace_secret(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    replace_with_mode(path, bytes, 0o600)
}

/// `mode`: what the umask may leave of a new file's permissions.
fn replace_with_mode(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    let temporary = path.with_extension("new");
    let mut options = fs::OpenOptions::new();
    let file = options.create(true).truncate(true).write(true).mode(mode).open(&temporary);
    let mut file = file.map_err(FileError::of("create", &temporary))?;
    file.write_all(bytes).map_err(FileError::of("write", &temporary))?;
    file.sync_all().map_err(FileError::of("flush", &temporary))?;
    rename(&temporary, path)
}

/// Renames a file whose bytes are already durable, and makes the new name durable.
pub fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    fs::rename(from, to).map_err(FileError::of("rename", from))?;
    sync_folder_of(to)
}

/// Removes a file, which need not exist.
pub fn remove(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(FileError::of("remove", path)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Reads a file; `None` where it does not exist. Whatever lies there, this never waits for anybody.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    match read_whole(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FileError::of("read", path)(error)),
    }
}

fn read_whole(path: &Path) -> io::Result<Vec<u8>> {
    // A pipe would else be waited for until somebody writes into it.
    let without_waiting = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let mut file = fs::OpenOptions::new().read(true).custom_flags(without_waiting).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Bytes of a file; `None` where it does not exist.
pub fn length(path: &Path) -> Result<Option<u64>, FileError> {
    match fs::metadata(path) {
        Ok(found) => Ok(Some(found.len())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FileError::of("look at", path)(error)),
    }
}

/// Makes a folder with its parents.
pub fn make_folder(path: &Path) -> Result<(), FileError> {
    fs::create_dir_all(path).map_err(FileError::of("create", path))
}

/// Makes names created or removed beside `path` durable.
pub fn sync_folder_of(path: &Path) -> Result<(), FileError> {
    let folder = path.parent().expect("state files lie in a folder");
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(FileError::of("flush", folder))
}

/// Where everything lies.
#[derive(Debug, Clone)]
pub struct StateDir(PathBuf);

impl StateDir {
    /// Opens or creates the state directory at `root`. It need not be writable: a device whose disk is full or broken has
    /// a model to serve all the same.
    pub fn open(root: &Path) -> Result<Self, FileError> {
        let state = Self(root.to_owned());
        if let Err(error) = make_folder(root)
            && !root.is_dir()
        {
            return Err(error);
        }
        Ok(state)
    }

    /// Makes its folders, and proves that it can be written.
    pub fn prepare(&self) -> Result<(), FileError> {
        for folder in [self.staging(), self.probes()].iter().chain(&self.slot_folders()) {
            make_folder(folder)?;
        }
        let probe = self.0.join("writable");
        replace(&probe, b"")?;
        remove(&probe)
    }

    /// The state directory at `root` as it is, for reading; nothing is created.
    pub fn existing(root: &Path) -> Self {
        Self(root.to_owned())
    }

    /// Models, as they are installed.
    pub fn slot_folders(&self) -> [PathBuf; 2] {
        ["a", "b"].map(|name| self.0.join("slots").join(name))
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.0
    }

    /// Downloads of models, until they are installed.
    pub fn staging(&self) -> PathBuf {
        self.0.join("staging")
    }

    /// Downloads of probe models, until they are timed.
    pub fn probes(&self) -> PathBuf {
        self.0.join("probes")
    }

    /// The times of probe models.
    pub fn timings(&self) -> PathBuf {
        self.0.join("probe-timings.json")
    }

    /// The device's key and certificate.
    pub fn identity(&self) -> PathBuf {
        self.0.join("identity")
    }

    /// The keys of the first coordinator.
    pub fn trusted_keys(&self) -> PathBuf {
        self.0.join("trusted-keys.json")
    }

    /// The last profile that was published.
    pub fn profile(&self) -> PathBuf {
        self.0.join("profile.json")
    }

    /// Telemetry that is not acknowledged.
    pub fn spool(&self) -> PathBuf {
        self.0.join("telemetry.spool")
    }

    /// The address that the inference API is bound to while the agent runs.
    pub fn serving_address(&self) -> PathBuf {
        self.0.join("serving-address")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_is_refused_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        for path in [pipe.as_path(), dir.path()] {
            let error = read(path).unwrap_err();
            assert_eq!(error.source.to_string(), "it is no regular file");
        }
        assert!(read(&dir.path().join("nothing")).unwrap().is_none());
    }
}
