//! Files by the SHA-256 of their bytes, in an object store. A file appears whole or not at all, and no name but a digest reaches a path.

use std::fs;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use bytes::{Buf as _, Bytes};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt as _, PutPayload};
use proto::{ArtifactRef, ByteSize, Digest, PIECE_BYTES, Pieces};
use sha2::{Digest as _, Sha256};
use tokio::runtime::{Builder, Runtime};

use crate::durable::{self, UNFINISHED};

/// Bytes that are asked of the object store at a time.
pub const FETCH: u64 = 64 << 10;

/// Runs the object store's calls for callers that block. Not the callers' own runtime, whose blocking threads would wait for
/// each other where each of them makes such a call.
static OBJECTS: LazyLock<Runtime> = LazyLock::new(|| {
    let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("objects").enable_all().build();
    runtime.expect("a thread can be started")
});

/// Files by digest in an object store, which is a folder. Calls that are not `async` block.
#[derive(Debug, Clone)]
pub struct BlobStore {
    objects: Arc<dyn ObjectStore>,
    folder: PathBuf,
}

/// A stored file, read from its beginning.
#[derive(Debug)]
pub struct Blob {
    /// Its length.
    pub size: ByteSize,
    store: BlobStore,
    digest: Digest,
    /// Where what was not fetched yet begins.
    rest: u64,
    fetched: Bytes,
}

impl Read for Blob {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.fetched.is_empty() && self.rest < self.size.0 {
            let end = (self.rest + FETCH).min(self.size.0);
            let fetched = OBJECTS.block_on(self.store.range(self.digest, self.rest..end));
            self.fetched = fetched.map_err(io::Error::other)?;
            self.rest = end;
        }
        let length = self.fetched.len().min(buffer.len());
        self.fetched.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

/// Why a file could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The disk refused.
    #[error("cannot {step} {path}")]
    File {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is not stored.
    #[error("no file with digest {digest}")]
    Missing {
        /// Its digest.
        digest: Digest,
    },
    /// It is not what was stored.
    #[error(
        "the stored file {path} is damaged: {problem}; `reconvene rollout retry` of a deployment that failed by it derives it anew"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Nothing to store.
    #[error("refused to store an empty file")]
    Empty,
}

impl BlobStore {
    /// The store in `folder`, which is made if it is not there.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self, BlobError> {
        let folder = folder.into();
        let mut maker = fs::DirBuilder::new();
        maker.recursive(true).mode(0o700).create(&folder).map_err(failed("create", &folder))?;
        // The object store makes files as the process may; what is in them is the fleet's alone.
        let own = fs::Permissions::from_mode(0o700);
        fs::set_permissions(&folder, own).map_err(failed("close to others", &folder))?;
        for entry in fs::read_dir(&folder).map_err(failed("list", &folder))? {
            let entry = entry.map_err(failed("list", &folder))?;
            if is_unfinished(&entry.file_name().to_string_lossy()) {
                fs::remove_file(entry.path()).map_err(failed("remove", &entry.path()))?;
            }
        }
        Self::look_into(folder)
    }

    /// The store in `folder`, to read from: neither made nor tidied up. One that is not there holds nothing.
    pub fn look_into(folder: impl Into<PathBuf>) -> Result<Self, BlobError> {
        let folder = folder.into();
        if !folder.exists() {
            return Ok(Self { objects: Arc::new(InMemory::new()), folder });
        }
        let objects = LocalFileSystem::new_with_prefix(&folder)
            .map_err(|error| failed("open", &folder)(io_error(error)))?
            .with_fsync(true);
        Ok(Self { objects: Arc::new(objects), folder })
    }

    /// Stores `bytes`; they are on the disk when this returns. Storing them again is harmless and mends a damaged copy.
    pub fn put(&self, bytes: impl Into<Bytes>) -> Result<ArtifactRef, BlobError> {
        let bytes = bytes.into();
        if bytes.is_empty() {
            return Err(BlobError::Empty);
        }
        let artifact = ArtifactRef { digest: Digest::of(&bytes), size: ByteSize(bytes.len() as u64) };
        if self.verify(&artifact).is_err() {
            let payload = PutPayload::from_bytes(bytes);
            let put = OBJECTS.block_on(self.objects.put(&key(artifact.digest), payload));
            put.map_err(|error| self.refused("write", artifact.digest, error))?;
        } else {
            // The writer of the file that is there may have died before its name was on the disk.
            durable::sync(&self.folder).map_err(failed("synchronise", &self.folder))?;
        }
        Ok(artifact)
    }

    /// A file's length. Its bytes are not read: whoever downloads them checks the digest.
    pub async fn size(&self, digest: Digest) -> Result<ByteSize, BlobError> {
        let found = self.objects.head(&key(digest)).await;
        match found.map_err(|error| self.refused("open", digest, error))?.size {
            0 => Err(self.damaged(digest, "it is empty".to_owned())),
            size => Ok(ByteSize(size)),
        }
    }

    /// Some of a file's bytes; as many as were asked for.
    pub async fn range(&self, digest: Digest, range: Range<u64>) -> Result<Bytes, BlobError> {
        let wanted = range.end.saturating_sub(range.start);
        let is_short = || self.damaged(digest, "it is shorter than it was".to_owned());
        let error = match self.objects.get_range(&key(digest), range.clone()).await {
            Ok(bytes) if bytes.len() as u64 == wanted => return Ok(bytes),
            Ok(_) => return Err(is_short()),
            Err(error) => error,
        };
        match self.size(digest).await {
            Ok(size) if size.0 < range.end => Err(is_short()),
            Ok(_) | Err(_) => Err(self.refused("read", digest, error)),
        }
    }

    /// Opens a file.
    pub fn open_blob(&self, digest: Digest) -> Result<Blob, BlobError> {
        let size = OBJECTS.block_on(self.size(digest))?;
        Ok(Blob { size, store: self.clone(), digest, rest: 0, fetched: Bytes::new() })
    }

    /// A file's bytes, checked.
    pub fn read(&self, artifact: &ArtifactRef) -> Result<Vec<u8>, BlobError> {
        let mut blob = self.open_exact(artifact)?;
        let mut bytes = Vec::new();
        blob.read_to_end(&mut bytes).map_err(failed("read", &self.path(artifact.digest)))?;
        if Digest::of(&bytes) != artifact.digest {
            return Err(self.damaged(artifact.digest, "its digest is another".to_owned()));
        }
        Ok(bytes)
    }

    /// Opens a file and checks its length.
    pub fn open_exact(&self, artifact: &ArtifactRef) -> Result<Blob, BlobError> {
        let blob = self.open_blob(artifact.digest)?;
        if blob.size == artifact.size {
            return Ok(blob);
        }
        let problem = format!("it has {} bytes instead of {}", blob.size.0, artifact.size.0);
        Err(self.damaged(artifact.digest, problem))
    }

    /// The pieces of a file, which is read through and checked.
    pub fn pieces(&self, digest: Digest) -> Result<Pieces, BlobError> {
        let path = self.path(digest);
        let mut file = self.open_blob(digest)?;
        let (mut digests, mut piece, mut hash) = (Vec::new(), Vec::new(), Sha256::new());
        loop {
            piece.clear();
            let mut next = (&mut file).take(PIECE_BYTES);
            match next.read_to_end(&mut piece).map_err(failed("read", &path))? {
                0 => break,
                _ => digests.push(Digest::of(&piece)),
            }
            hash.update(&piece);
        }
        let found = Digest::from_bytes(hash.finalize().into());
        if found == digest {
            return Ok(Pieces::from_digests(digests));
        }
        Err(self.damaged(digest, format!("its digest is {found}")))
    }

    /// Reads a file through and checks length and digest.
    pub fn verify(&self, artifact: &ArtifactRef) -> Result<(), BlobError> {
        let path = self.path(artifact.digest);
        let mut blob = self.open_exact(artifact)?;
        let mut hash = Sha256::new();
        let mut piece = vec![0; 64 << 10];
        loop {
            match blob.read(&mut piece).map_err(failed("read", &path))? {
                0 => break,
                length => hash.update(&piece[..length]),
            }
        }
        let found = Digest::from_bytes(hash.finalize().into());
        if found == artifact.digest {
            return Ok(());
        }
        Err(self.damaged(artifact.digest, format!("its digest is {found}")))
    }

    fn path(&self, digest: Digest) -> PathBuf {
        self.folder.join(digest.to_string())
    }

    fn damaged(&self, digest: Digest, problem: String) -> BlobError {
        BlobError::Damaged { path: self.path(digest), problem }
    }

    fn refused(&self, step: &'static str, digest: Digest, error: object_store::Error) -> BlobError {
        match error {
            object_store::Error::NotFound { .. } => BlobError::Missing { digest },
            error => failed(step, &self.path(digest))(io_error(error)),
        }
    }
}

fn key(digest: Digest) -> Key {
    Key::from(digest.to_string())
}

/// Whether a crash may have left it: the object store writes `NAME#1`, and renames it.
fn is_unfinished(name: &str) -> bool {
    name.contains('#') || name.starts_with(UNFINISHED)
}

/// What the system said, which the object store wraps in words of its own.
fn io_error(error: object_store::Error) -> io::Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(next) = cause {
        if let Some(code) = next.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return io::Error::from_raw_os_error(code);
        }
        cause = next.source();
    }
    io::Error::other(error)
}

fn failed(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BlobError {
    let path = path.to_owned();
    move |source| BlobError::File { step, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, BlobStore) {
        let folder = tempfile::tempdir().unwrap();
        let store = BlobStore::open(folder.path().join("blobs")).unwrap();
        (folder, store)
    }

    fn files(store: &BlobStore) -> usize {
        fs::read_dir(&store.folder).unwrap().count()
    }

    #[test]
    fn what_was_put_is_found_by_its_digest() {
        let (_folder, store) = store();
        let artifact = store.put("model").unwrap();
        assert_eq!(artifact, ArtifactRef { digest: Digest::of(b"model"), size: ByteSize(5) });
        assert_eq!(store.put("model").unwrap(), artifact);
        assert_eq!(files(&store), 1);
        let mut blob = BlobStore::open(&store.folder).unwrap().open_exact(&artifact).unwrap();
        let mut bytes = Vec::new();
        blob.read_to_end(&mut bytes).unwrap();
        assert_eq!((bytes.as_slice(), blob.size), (b"model".as_slice(), ByteSize(5)));
        store.verify(&artifact).unwrap();
    }

    #[test]
    fn pieces_are_those_of_the_bytes() {
        let (_folder, store) = store();
        for length in [1, PIECE_BYTES, PIECE_BYTES + 1] {
            let bytes: Vec<u8> = (0..length).map(|index| (index % 251) as u8).collect();
            let artifact = store.put(bytes.clone()).unwrap();
            assert_eq!(store.pieces(artifact.digest).unwrap(), Pieces::of(&bytes));
            fs::write(store.path(artifact.digest), vec![7; length as usize]).unwrap();
            let damaged = store.pieces(artifact.digest).unwrap_err();
            assert!(matches!(damaged, BlobError::Damaged { .. }), "{damaged:?}");
        }
    }

    #[test]
    fn what_is_not_there_or_empty_is_refused() {
        let (_folder, store) = store();
        let missing = store.open_blob(Digest::of(b"other")).unwrap_err();
        assert!(matches!(missing, BlobError::Missing { .. }), "{missing:?}");
        assert!(matches!(store.put(""), Err(BlobError::Empty)));
        assert_eq!(files(&store), 0);
    }

    #[test]
    fn damage_is_noticed_and_putting_again_mends_it() {
        let (_folder, store) = store();
        let artifact = store.put("model").unwrap();
        let path = store.path(artifact.digest);
        for damage in ["mode", "modem", ""] {
            fs::write(&path, damage).unwrap();
            let noticed = store.verify(&artifact).unwrap_err();
            assert!(matches!(noticed, BlobError::Damaged { .. }), "{damage}: {noticed:?}");
            assert_eq!(store.put("model").unwrap(), artifact);
            store.verify(&artifact).unwrap();
        }
        fs::write(&path, "mode").unwrap();
        let noticed = store.open_exact(&artifact).unwrap_err();
        assert!(noticed.to_string().contains("it has 4 bytes instead of 5"), "{noticed}");
    }

    #[test]
    fn what_a_crash_left_is_removed() {
        let (_folder, store) = store();
        store.put("model").unwrap();
        fs::write(store.folder.join(format!("{UNFINISHED}x7")), b"mod").unwrap();
        fs::write(store.folder.join(format!("{}#1", Digest::of(b"other"))), b"oth").unwrap();
        assert_eq!(files(&store), 3);
        let again = BlobStore::open(&store.folder).unwrap();
        assert_eq!(files(&again), 1);
    }

    #[test]
    fn a_refusal_says_what_the_system_said() {
        let (_folder, store) = store();
        let artifact = store.put("model").unwrap();
        let path = store.path(artifact.digest);
        fs::remove_file(&path).unwrap();
        fs::create_dir_all(path.join("taken")).unwrap();
        let refused = crate::causes::chain(&store.put("model").unwrap_err());
        let expected = format!("cannot write {}: Is a directory (os error 21)", path.display());
        assert_eq!(refused, expected);
    }

    #[test]
    fn a_file_that_shrinks_while_it_is_read_is_damaged() {
        let (_folder, store) = store();
        let artifact = store.put(vec![7; FETCH as usize + 1]).unwrap();
        for rest in [5, FETCH] {
            let mut blob = store.open_blob(artifact.digest).unwrap();
            fs::write(store.path(artifact.digest), vec![7; rest as usize]).unwrap();
            let error = blob.read_to_end(&mut Vec::new()).unwrap_err().to_string();
            assert!(error.contains("is damaged: it is shorter than it was"), "{error}");
            store.put(vec![7; FETCH as usize + 1]).unwrap();
        }
    }

    #[test]
    fn a_store_that_is_not_there_holds_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let store = BlobStore::look_into(folder.path().join("none")).unwrap();
        let missing = store.open_blob(Digest::of(b"model")).unwrap_err();
        assert!(matches!(missing, BlobError::Missing { .. }), "{missing:?}");
    }
}
