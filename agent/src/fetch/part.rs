//! A file that is being fetched, as it grows on disk. Owns which of its bytes count: whole pieces that are what they should
//! be and durable. So a crash, a power cut or a damaged disk costs what was not yet proven, and at most one piece that was.

use std::io::SeekFrom;
use std::path::{Path, PathBuf};

use proto::{ByteSize, Digest, PIECE_BYTES, Pieces};
use sha2::{Digest as _, Sha256};
use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _};

use crate::state::{self, FileError};

/// The growing file.
pub(super) struct Part {
    file: File,
    path: PathBuf,
    size: u64,
    pieces: Pieces,
    /// Bytes that are right and durable.
    proven: u64,
    /// The piece after them, as far as it has come.
    piece: Vec<u8>,
}

/// Why bytes were not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum PartError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{0}")]
    Corrupt(String),
}

impl Part {
    /// Opens or creates the part at `path` of a file of `size` bytes: what is on disk is read, and kept as far as it is right.
    pub(super) async fn open(path: &Path, size: ByteSize, pieces: Pieces) -> Result<Self, FileError> {
        // A pipe would be read for ever, and a socket never opened.
        if state::length(path).is_err_and(|error| error.is_damage()) {
            state::remove(path)?;
        }
        let mut options = OpenOptions::new();
        options.create(true).read(true).write(true).truncate(false);
        let file = options.open(path).await.map_err(FileError::of("open", path))?;
        let (path, piece) = (path.to_owned(), Vec::new());
        let mut part = Self { file, path, size: size.0, pieces, proven: 0, piece };
        part.prove().await?;
        Ok(part)
    }

    /// Reads pieces from the beginning until one is not what it should be, and cuts the file there.
    async fn prove(&mut self) -> Result<(), FileError> {
        while self.proven < self.size {
            let mut piece = Vec::new();
            let wanted = self.piece_bytes();
            if let Err(error) = (&mut self.file).take(wanted).read_to_end(&mut piece).await {
                // What the disk cannot read is fetched again.
                tracing::warn!(path = %self.path.display(), %error, "cannot be read on");
                break;
            }
            if Some(Digest::of(&piece)) != self.pieces.at(self.proven) {
                break;
            }
            self.proven += wanted;
        }
        self.file.set_len(self.proven).await.map_err(self.failed("cut"))?;
        self.file.seek(SeekFrom::Start(self.proven)).await.map_err(self.failed("read"))?;
        Ok(())
    }

    /// Bytes of the piece that is next.
    fn piece_bytes(&self) -> u64 {
        PIECE_BYTES.min(self.size - self.proven)
    }

    fn failed(&self, operation: &'static str) -> impl FnOnce(std::io::Error) -> FileError + use<> {
        FileError::of(operation, &self.path)
    }

    /// Bytes that are right and durable: where a download goes on.
    pub(super) fn proven(&self) -> u64 {
        self.proven
    }

    /// Bytes that came, proven or not.
    pub(super) fn received(&self) -> u64 {
        self.proven + self.piece.len() as u64
    }

    /// Whether all is there.
    pub(super) fn is_whole(&self) -> bool {
        self.proven == self.size
    }

    /// Takes what came next. A piece that is complete is proven and made durable, or refused and forgotten.
    pub(super) async fn push(&mut self, mut bytes: &[u8]) -> Result<(), PartError> {
        while !bytes.is_empty() {
            if self.is_whole() {
                return Err(PartError::Corrupt(format!(
                    "it is longer than the announced {} bytes",
                    self.size
                )));
            }
            let missing = self.piece_bytes() as usize - self.piece.len();
            let (own, rest) = bytes.split_at(missing.min(bytes.len()));
            self.piece.extend_from_slice(own);
            bytes = rest;
            if self.piece.len() as u64 == self.piece_bytes() {
                self.write_piece().await?;
            }
        }
        Ok(())
    }

    async fn write_piece(&mut self) -> Result<(), PartError> {
        let piece = std::mem::take(&mut self.piece);
        if Some(Digest::of(&piece)) != self.pieces.at(self.proven) {
            let text = format!("the piece at byte {} is not what was announced", self.proven);
            return Err(PartError::Corrupt(text));
        }
        let written = async {
            self.file.write_all(&piece).await?;
            self.file.flush().await?;
            self.file.sync_data().await
        };
        if let Err(error) = written.await {
            // What is half-written must not be in the way of the next attempt.
            let cut = self.file.set_len(self.proven).await;
            let sought = self.file.seek(SeekFrom::Start(self.proven)).await;
            tracing::debug!(?cut, ?sought, "cut a piece that could not be written");
            return Err(self.failed("write")(error).into());
        }
        self.proven += piece.len() as u64;
        self.piece = piece;
        self.piece.clear();
        Ok(())
    }

    /// The SHA-256 of all, read from the disk.
    pub(super) async fn digest(&mut self) -> Result<Digest, FileError> {
        self.file.seek(SeekFrom::Start(0)).await.map_err(self.failed("read"))?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; PIECE_BYTES as usize];
        loop {
            let read = self.file.read(&mut buffer).await.map_err(self.failed("read"))?;
            if read == 0 {
                return Ok(Digest::from_bytes(hash.finalize().into()));
            }
            hash.update(&buffer[..read]);
        }
    }
}

#[cfg(test)]
mod tests;
