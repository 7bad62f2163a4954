//! Files by the SHA-256 of their bytes. A file appears whole or not at all, and no name but a digest reaches a path.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use proto::{ArtifactRef, ByteSize, Digest};
use sha2::{Digest as _, Sha256};

/// What unfinished files are called; a crash may leave some, and opening the folder removes them.
const UNFINISHED: &str = ".unfinished-";

/// A folder of files by digest. Calls block on the disk.
#[derive(Debug, Clone)]
pub struct BlobStore {
    folder: PathBuf,
}

/// A stored file, open for reading.
#[derive(Debug)]
pub struct Blob {
    /// At its beginning.
    pub file: File,
    /// Its length.
    pub size: ByteSize,
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
    #[error("the stored file {path} is damaged: {problem}; remove it and derive the artifact again")]
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
        fs::create_dir_all(&folder).map_err(failed("create", &folder))?;
        for entry in fs::read_dir(&folder).map_err(failed("list", &folder))? {
            let entry = entry.map_err(failed("list", &folder))?;
            if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
                fs::remove_file(entry.path()).map_err(failed("remove", &entry.path()))?;
            }
        }
        Ok(Self { folder })
    }

    /// Stores `bytes`; they are on the disk when this returns. Storing them again is harmless and mends a damaged copy.
    pub fn put(&self, bytes: &[u8]) -> Result<ArtifactRef, BlobError> {
        if bytes.is_empty() {
            return Err(BlobError::Empty);
        }
        let artifact = ArtifactRef { digest: Digest::of(bytes), size: ByteSize(bytes.len() as u64) };
        let path = self.path(artifact.digest);
        if self.verify(&artifact).is_err() {
            let mut file = tempfile::Builder::new()
                .prefix(UNFINISHED)
                .tempfile_in(&self.folder)
                .map_err(failed("create a file in", &self.folder))?;
            file.write_all(bytes).map_err(failed("write", file.path()))?;
            file.as_file().sync_all().map_err(failed("synchronise", file.path()))?;
            file.persist(&path).map_err(|error| failed("rename to", &path)(error.error))?;
        }
        // Also where the file was there: its writer may have died between renaming and this.
        File::open(&self.folder)
            .and_then(|folder| folder.sync_all())
            .map_err(failed("synchronise", &self.folder))?;
        Ok(artifact)
    }

    /// Opens a file. Its bytes are not read: whoever downloads them checks the digest.
    pub fn open_blob(&self, digest: Digest) -> Result<Blob, BlobError> {
        let path = self.path(digest);
        let file = File::open(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => BlobError::Missing { digest },
            _ => failed("open", &path)(source),
        })?;
        let size = ByteSize(file.metadata().map_err(failed("read", &path))?.len());
        if size == ByteSize(0) {
            return Err(BlobError::Damaged { path, problem: "it is empty".to_owned() });
        }
        Ok(Blob { file, size })
    }

    /// Opens a file and checks its length.
    pub fn open_exact(&self, artifact: &ArtifactRef) -> Result<Blob, BlobError> {
        let blob = self.open_blob(artifact.digest)?;
        if blob.size == artifact.size {
            return Ok(blob);
        }
        let problem = format!("it has {} bytes instead of {}", blob.size.0, artifact.size.0);
        Err(BlobError::Damaged { path: self.path(artifact.digest), problem })
    }

    /// Reads a file through and checks length and digest.
    pub fn verify(&self, artifact: &ArtifactRef) -> Result<(), BlobError> {
        let path = self.path(artifact.digest);
        let mut blob = self.open_exact(artifact)?;
        let mut hash = Sha256::new();
        let mut piece = vec![0; 64 << 10];
        loop {
            match blob.file.read(&mut piece).map_err(failed("read", &path))? {
                0 => break,
                length => hash.update(&piece[..length]),
            }
        }
        let found = Digest::from_bytes(hash.finalize().into());
        if found == artifact.digest {
            return Ok(());
        }
        Err(BlobError::Damaged { path, problem: format!("its digest is {found}") })
    }

    fn path(&self, digest: Digest) -> PathBuf {
        self.folder.join(digest.to_string())
    }
}

fn failed(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BlobError {
    let path = path.to_owned();
    move |source| BlobError::File { step, path, source }
}
