//! Files of the state directory: where they are, and how one is replaced so that a crash leaves the old or the new
//! one, never a mixture. Owns names, durability, and how much of a file is read; never knows what a file means.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use proto::ByteSize;
use rustix::io::Errno;
use serde::de::DeserializeOwned;

use crate::causes::describe;

pub mod lock;
mod writes;

/// Of a key, a pointer, a record. The longest that the agent writes by itself, its profile or the times of its probes, has some
/// dozen kilobytes; what is longer is none of its own, and would be read into the memory that the model needs.
pub const RECORD: ByteSize = ByteSize(1 << 20);

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
    /// Whether the file was read and means nothing, or is longer than any that means something: another one may take its place.
    pub fn is_damage(&self) -> bool {
        use io::ErrorKind::{FileTooLarge, InvalidData, NotADirectory};
        matches!(self.source.kind(), InvalidData | FileTooLarge | NotADirectory)
    }

    /// Whether this user may not do that: it says nothing about the file.
    pub fn is_refusal(&self) -> bool {
        self.source.kind() == io::ErrorKind::PermissionDenied
    }

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
    let written = write_durably(&temporary, bytes, mode).and_then(|()| rename(&temporary, path));
    if written.is_err() {
        // A disk that is full wants it back; the next attempt makes it anew.
        fs::remove_file(&temporary).ok();
    }
    written
}

fn write_durably(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    let mut options = fs::OpenOptions::new();
    let file = options.create(true).truncate(true).write(true).mode(mode).open(path);
    let mut file = file.map_err(FileError::of("create", path))?;
    file.write_all(bytes).map_err(FileError::of("write", path))?;
    file.sync_all().map_err(FileError::of("flush", path))
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

/// Reads a file of no more than `limit`; `None` where it does not exist. Whatever lies there, this never waits for anybody.
pub fn read(path: &Path, limit: ByteSize) -> Result<Option<Vec<u8>>, FileError> {
    unless_missing(path, read_bounded(path, limit)).map_err(FileError::of("read", path))
}

/// What was found at `path`; `None` where nothing is. A link that leads nowhere is there, and damaged.
fn unless_missing<T>(path: &Path, found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Err(_) if path.is_symlink() => {
            let problem = "it is a link to a file that does not exist";
            Err(io::Error::new(io::ErrorKind::InvalidData, problem))
        }
        found => Ok(found.ok()),
    }
}

/// Reads a record; `None` where it does not exist.
///
/// # Errors
/// When it cannot be read, or, [`FileError::is_damage`], means nothing.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, FileError> {
    let Some(json) = read(path, RECORD)? else { return Ok(None) };
    let refuse = |error| FileError::of("understand", path)(io::Error::new(io::ErrorKind::InvalidData, error));
    serde_json::from_slice(&json).map(Some).map_err(refuse)
}

/// What was read, where a damaged file is as good as none: it is said, and the next write replaces it.
pub fn unless_damaged<T>(read: Result<Option<T>, FileError>) -> Result<Option<T>, FileError> {
    read.or_else(|error| {
        if !error.is_damage() {
            return Err(error);
        }
        tracing::warn!(error = describe(&error), "a damaged file counts as none");
        Ok(None)
    })
}

fn read_bounded(path: &Path, limit: ByteSize) -> io::Result<Vec<u8>> {
    // A pipe would else be waited for until somebody writes into it.
    let without_waiting = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let mut file =
        fs::OpenOptions::new().read(true).custom_flags(without_waiting).open(path).map_err(no_file)?;
    let length = length_of(&file.metadata()?)?;
    let mut bytes = Vec::new();
    // It may grow meanwhile, and some file systems do not know lengths.
    if length <= limit.0 && (&mut file).take(limit.0 + 1).read_to_end(&mut bytes)? as u64 <= limit.0 {
        return Ok(bytes);
    }
    let problem = format!("it has more than {limit}, which no sound one has");
    Err(io::Error::new(io::ErrorKind::FileTooLarge, problem))
}

/// Why something was not opened: a socket, or a link that leads back to itself, can never be.
fn no_file(error: io::Error) -> io::Error {
    let problem = match Errno::from_io_error(&error) {
        Some(Errno::NXIO) => "it is no regular file",
        Some(Errno::LOOP) => "it is a link that leads back to itself",
        Some(_) | None => return error,
    };
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

/// Bytes of a file; `None` where it does not exist.
pub fn length(path: &Path) -> Result<Option<u64>, FileError> {
    let found = fs::metadata(path).map_err(no_file).and_then(|found| length_of(&found));
    unless_missing(path, found).map_err(FileError::of("read", path))
}

/// Bytes of what is a file.
fn length_of(found: &fs::Metadata) -> io::Result<u64> {
    if found.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a folder"));
    }
    if !found.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no regular file"));
    }
    Ok(found.len())
}

/// Makes a folder with its parents.
pub fn make_folder(path: &Path) -> Result<(), FileError> {
    fs::create_dir_all(path).map_err(FileError::of("create", path))
}

/// Makes a folder of ours; what is none and lies in its place, a dangling link perhaps, is of no use and is removed.
pub fn replace_by_folder(path: &Path) -> Result<(), FileError> {
    if !path.is_dir() && path.symlink_metadata().is_ok() {
        tracing::warn!(path = %path.display(), "it is no folder, and gives way to one");
        remove(path)?;
    }
    make_folder(path)
}

/// Makes names created or removed beside `path` durable.
pub fn sync_folder_of(path: &Path) -> Result<(), FileError> {
    let folder = path.parent().expect("state files lie in a folder");
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(FileError::of("flush", folder))
}

/// Where everything lies; clones share what is known of it.
#[derive(Debug, Clone)]
pub struct StateDir {
    root: PathBuf,
    /// Why the last proof that it can be written failed, if it did.
    refused: Arc<Mutex<Option<String>>>,
}

impl StateDir {
    /// Opens or creates the state directory at `root`. It need not be writable: a device whose disk is full or broken has
    /// a model to serve all the same.
    pub fn open(root: &Path) -> Result<Self, FileError> {
        let state = Self::existing(root);
        if let Err(error) = make_folder(root)
            && !root.is_dir()
        {
            return Err(error);
        }
        Ok(state)
    }

    /// Makes its folders, and proves that it can be written.
    pub fn prepare(&self) -> Result<(), FileError> {
        // One at a time: each would else take the other's file away.
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let proven = self.prove();
        *refused = proven.as_ref().err().map(|error| describe(error));
        proven
    }

    fn prove(&self) -> Result<(), FileError> {
        for folder in &self.folders() {
            replace_by_folder(folder)?;
        }
        let probe = self.root.join("writable");
        // A full disk takes an empty file.
        replace(&probe, b"1")?;
        remove(&probe)
    }

    /// The state directory at `root` as it is, for reading; nothing is created.
    pub fn existing(root: &Path) -> Self {
        Self { root: root.to_owned(), refused: Arc::default() }
    }

    /// Those within it that the agent makes.
    fn folders(&self) -> Vec<PathBuf> {
        let mut folders = vec![self.staging(), self.probes(), self.root.join("slots")];
        folders.extend(self.slot_folders());
        folders
    }

    /// Models, as they are installed.
    pub fn slot_folders(&self) -> [PathBuf; 2] {
        ["a", "b"].map(|name| self.root.join("slots").join(name))
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Downloads of models, until they are installed.
    pub fn staging(&self) -> PathBuf {
        self.root.join("staging")
    }

    /// Downloads of probe models, until they are timed.
    pub fn probes(&self) -> PathBuf {
        self.root.join("probes")
    }

    /// The times of probe models.
    pub fn timings(&self) -> PathBuf {
        self.root.join("probe-timings.json")
    }

    /// The device's key and certificate.
    pub fn identity(&self) -> PathBuf {
        self.root.join("identity")
    }

    /// The keys of the first coordinator.
    pub fn trusted_keys(&self) -> PathBuf {
        self.root.join("trusted-keys.json")
    }

    /// The last profile that was published.
    pub fn profile(&self) -> PathBuf {
        self.root.join("profile.json")
    }

    /// Telemetry that is not acknowledged.
    pub fn spool(&self) -> PathBuf {
        self.root.join("telemetry.spool")
    }

    /// Every record that the agent keeps, beside what is in the slots.
    pub fn records(&self) -> Result<Vec<PathBuf>, FileError> {
        let mut records = Vec::new();
        for folder in [self.root.clone(), self.identity()] {
            let entries = match fs::read_dir(&folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries.map_err(FileError::of("read", &folder))?,
            };
            for entry in entries {
                records.push(entry.map_err(FileError::of("read", &folder))?.path());
            }
        }
        records.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
        records.sort();
        Ok(records)
    }

    /// The address that the inference API is bound to while the agent runs.
    pub fn serving_address(&self) -> PathBuf {
        self.root.join("serving-address")
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
        // A folder cannot be replaced by the next write.
        for (path, what, is_damage) in
            [(pipe.as_path(), "it is no regular file", true), (dir.path(), "it is a folder", false)]
        {
            let error = read(path, RECORD).unwrap_err();
            assert_eq!((error.source.to_string().as_str(), error.is_damage()), (what, is_damage));
        }
        assert!(read(&dir.path().join("nothing"), RECORD).unwrap().is_none());
    }

    #[test]
    fn a_socket_or_a_circle_of_links_is_damaged_and_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let (socket, circle) = (dir.path().join("socket.json"), dir.path().join("circle.json"));
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        std::os::unix::fs::symlink("circle.json", &circle).unwrap();
        for (path, what) in
            [(socket, "it is no regular file"), (circle, "it is a link that leads back to itself")]
        {
            let error = read_json::<u64>(&path).unwrap_err();
            assert_eq!((error.source.to_string().as_str(), error.is_damage()), (what, true));
            assert!(length(&path).unwrap_err().is_damage());
            replace(&path, b"7").unwrap();
            assert_eq!(read_json::<u64>(&path).unwrap(), Some(7));
        }
    }

    #[test]
    fn a_link_that_leads_nowhere_is_damaged_and_not_missing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record.json");
        std::os::unix::fs::symlink("nowhere", &path).unwrap();
        let error = read(&path, RECORD).unwrap_err();
        let said = (error.source.to_string(), error.is_damage());
        assert_eq!(said, ("it is a link to a file that does not exist".to_owned(), true));
        assert_eq!(unless_damaged(read_json::<u64>(&path)).unwrap(), None);
        assert!(length(&path).unwrap_err().is_damage());
        replace(&path, b"7").unwrap();
        assert_eq!(read_json::<u64>(&path).unwrap(), Some(7), "the next write takes its place");
    }

    #[test]
    fn what_lies_in_a_folders_place_gives_way() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        fs::write(state.staging(), "a file").unwrap();
        std::os::unix::fs::symlink("nowhere", state.probes()).unwrap();
        fs::create_dir(dir.path().join("slots")).unwrap();
        fs::write(dir.path().join("slots/b"), "a file").unwrap();
        state.prepare().unwrap();
        for folder in [state.staging(), state.probes()].iter().chain(&state.slot_folders()) {
            assert!(folder.is_dir(), "{}", folder.display());
        }
    }

    #[test]
    fn no_more_is_read_than_a_sound_file_has() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record");
        std::fs::write(&path, "12").unwrap();
        assert_eq!(read(&path, ByteSize(2)).unwrap().unwrap(), b"12");
        assert!(read(&path, ByteSize(1)).unwrap_err().is_damage());
        // Far more than there is memory for.
        File::create(&path).unwrap().set_len(1 << 42).unwrap();
        let error = read_json::<u64>(&path).unwrap_err();
        assert_eq!(error.source.to_string(), "it has more than 1.0Mi, which no sound one has");
        assert_eq!(unless_damaged(read_json::<u64>(&path)).unwrap(), None);
        // Endless, and without a length.
        assert!(read(Path::new("/proc/self/maps"), ByteSize(1)).unwrap_err().is_damage());
        std::fs::write(&path, "{").unwrap();
        assert_eq!(unless_damaged(read_json::<u64>(&path)).unwrap(), None);
        assert!(unless_damaged(read_json::<u64>(dir.path())).is_err());
    }
}
