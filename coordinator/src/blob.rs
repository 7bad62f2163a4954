//! Files by the SHA-256 of their bytes. A file appears whole or not at all, and no name but a digest reaches a path.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use proto::{ArtifactRef, ByteSize, Digest, PIECE_BYTES, Pieces};
use sha2::{Digest as _, Sha256};

use crate::durable::{self, UNFINISHED};

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
    #[error("the stored file {path} is damaged: {problem}; apply its deployment again to derive it anew")]
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

    /// The store in `folder`, to read from: neither made nor tidied up.
    pub fn look_into(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// Stores `bytes`; they are on the disk when this returns. Storing them again is harmless and mends a damaged copy.
    pub fn put(&self, bytes: &[u8]) -> Result<ArtifactRef, BlobError> {
        if bytes.is_empty() {
            return Err(BlobError::Empty);
        }
        let artifact = ArtifactRef { digest: Digest::of(bytes), size: ByteSize(bytes.len() as u64) };
        let path = self.path(artifact.digest);
        if self.verify(&artifact).is_err() {
            durable::replace(&self.folder, &path, bytes).map_err(failed("write", &path))?;
        } else {
            // The writer of the file that is there may have died between renaming and this.
            durable::sync(&self.folder).map_err(failed("synchronise", &self.folder))?;
        }
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

    /// A file's bytes, checked.
    pub fn read(&self, artifact: &ArtifactRef) -> Result<Vec<u8>, BlobError> {
        let mut blob = self.open_exact(artifact)?;
        let path = self.path(artifact.digest);
        let mut bytes = Vec::new();
        blob.file.read_to_end(&mut bytes).map_err(failed("read", &path))?;
        if Digest::of(&bytes) != artifact.digest {
            return Err(BlobError::Damaged { path, problem: "its digest is another".to_owned() });
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
        Err(BlobError::Damaged { path: self.path(artifact.digest), problem })
    }

    /// The pieces of a file, which is read through and checked.
    pub fn pieces(&self, digest: Digest) -> Result<Pieces, BlobError> {
        let path = self.path(digest);
        let mut file = self.open_blob(digest)?.file;
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
        Err(BlobError::Damaged { path, problem: format!("its digest is {found}") })
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
        let artifact = store.put(b"model").unwrap();
        assert_eq!(artifact, ArtifactRef { digest: Digest::of(b"model"), size: ByteSize(5) });
        assert_eq!(store.put(b"model").unwrap(), artifact);
        assert_eq!(files(&store), 1);
        let mut blob = BlobStore::open(&store.folder).unwrap().open_exact(&artifact).unwrap();
        let mut bytes = Vec::new();
        blob.file.read_to_end(&mut bytes).unwrap();
        assert_eq!((bytes.as_slice(), blob.size), (b"model".as_slice(), ByteSize(5)));
        store.verify(&artifact).unwrap();
    }

    #[test]
    fn pieces_are_those_of_the_bytes() {
        let (_folder, store) = store();
        for length in [1, PIECE_BYTES, PIECE_BYTES + 1] {
            let bytes: Vec<u8> = (0..length).map(|index| (index % 251) as u8).collect();
            let artifact = store.put(&bytes).unwrap();
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
        assert!(matches!(store.put(b""), Err(BlobError::Empty)));
        assert_eq!(files(&store), 0);
    }

    #[test]
    fn damage_is_noticed_and_putting_again_mends_it() {
        let (_folder, store) = store();
        let artifact = store.put(b"model").unwrap();
        let path = store.path(artifact.digest);
        for damage in ["mode", "modem", ""] {
            fs::write(&path, damage).unwrap();
            let noticed = store.verify(&artifact).unwrap_err();
            assert!(matches!(noticed, BlobError::Damaged { .. }), "{damage}: {noticed:?}");
            assert_eq!(store.put(b"model").unwrap(), artifact);
            store.verify(&artifact).unwrap();
        }
        fs::write(&path, "mode").unwrap();
        let noticed = store.open_exact(&artifact).unwrap_err();
        assert!(noticed.to_string().contains("it has 4 bytes instead of 5"), "{noticed}");
    }

    #[test]
    fn what_a_crash_left_is_removed() {
        let (_folder, store) = store();
        store.put(b"model").unwrap();
        fs::write(store.folder.join(format!("{UNFINISHED}x7")), b"mod").unwrap();
        assert_eq!(files(&store), 2);
        let again = BlobStore::open(&store.folder).unwrap();
        assert_eq!(files(&again), 1);
    }
}
