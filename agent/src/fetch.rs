//! One file from the coordinator, by digest. Owns resuming, the limits on disk and length, and the check of the whole;
//! never decides what to fetch and never looks inside.
//!
//! Bytes collect in `<digest>.part`; its length is where the next attempt goes on, in this process or the next. A
//! file gets its final name, `<digest>`, only after its digest was right.

use std::path::{Path, PathBuf};
use std::time::Duration;

use proto::v1::artifact_service_client::ArtifactServiceClient;
use proto::{ArtifactRef, ByteSize, Digest, v1};
use sha2::{Digest as _, Sha256};
use tokio::fs::{self, File, OpenOptions};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::session::backoff::Backoff;
use crate::state::{self, FileError};

/// Bytes become durable in steps of this size; what is not durable does not count as fetched.
const STEP: u64 = 1 << 20;

/// Left free on the disk for everything else.
const RESERVE: u64 = 4 << 20;

/// A corrupt file is fetched so often before it is given up.
const CORRUPT_LIMIT: u32 = 3;

/// No chunk for this long: the connection is dead.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a file was not fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Writing failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The disk would be full.
    #[error("not enough disk space: {needed} needed, {free} free")]
    NoSpace {
        /// What is missing of the file, and a reserve.
        needed: ByteSize,
        /// What the agent may use.
        free: ByteSize,
    },
    /// What was received is not what was announced, again and again.
    #[error("corrupt download, {attempts} times: {problem}")]
    Corrupt {
        /// How often.
        attempts: u32,
        /// What was wrong the last time.
        problem: String,
    },
    /// The coordinator will not give it.
    #[error("the coordinator refused the download: {0}")]
    Refused(String),
}

impl FetchError {
    /// Whether the same assignment may succeed later on this device.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::File(_) | Self::NoSpace { .. } => true,
            Self::Corrupt { .. } | Self::Refused(_) => false,
        }
    }
}

/// How one attempt ended before the file was whole.
enum Setback {
    /// Try again from where it stopped.
    Interrupted(String),
    /// Try again from the start.
    Corrupt(String),
    /// Do not try again.
    Fatal(FetchError),
}

impl From<FileError> for Setback {
    fn from(error: FileError) -> Self {
        Self::Fatal(error.into())
    }
}

/// Fetches `artifact` into `folder` and returns its path there; `on_bytes` hears how many bytes are durable. Waits for
/// an unreachable coordinator for ever: cancel by dropping the future, what was received stays for the next call.
pub async fn fetch(
    channel: &Channel,
    artifact: &ArtifactRef,
    folder: &Path,
    on_bytes: &(dyn Fn(u64) + Send + Sync),
) -> Result<PathBuf, FetchError> {
    let whole = folder.join(artifact.digest.to_string());
    if state::read(&whole)?.is_some_and(|bytes| Digest::of(&bytes) == artifact.digest) {
        return Ok(whole);
    }
    let part = whole.with_extension("part");
    let mut backoff = Backoff::new();
    let mut corrupt = 0;
    loop {
        let setback = match attempt(channel, artifact, &part, on_bytes).await {
            Ok(()) => {
                state::rename(&part, &whole)?;
                return Ok(whole);
            }
            Err(setback) => setback,
        };
        match setback {
            Setback::Interrupted(problem) => {
                tracing::info!(digest = %artifact.digest, problem, "download interrupted; it goes on from here");
            }
            Setback::Corrupt(problem) => {
                state::remove(&part)?;
                corrupt += 1;
                tracing::warn!(digest = %artifact.digest, problem, attempt = corrupt, "corrupt download");
                if corrupt == CORRUPT_LIMIT {
                    return Err(FetchError::Corrupt { attempts: corrupt, problem });
                }
            }
            Setback::Fatal(error) => return Err(error),
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

/// One download from the length of `part` on, and the check of the whole.
async fn attempt(
    channel: &Channel,
    artifact: &ArtifactRef,
    part: &Path,
    on_bytes: &(dyn Fn(u64) + Send + Sync),
) -> Result<(), Setback> {
    let size = artifact.size.0;
    let (file, length) = open_part(part, size).await?;
    if length < size {
        check_space(part, size - length)?;
        let mut sink = Sink { file, path: part, length, durable: length, on_bytes };
        let received = receive(channel, artifact, &mut sink).await;
        sink.flush().await?;
        received?;
    }
    let digest = digest_of(part).await?;
    if digest == artifact.digest {
        Ok(())
    } else {
        Err(Setback::Corrupt(format!(
            "its SHA-256 is {}, announced was {}",
            digest.short(),
            artifact.digest.short()
        )))
    }
}

async fn receive(channel: &Channel, artifact: &ArtifactRef, sink: &mut Sink<'_>) -> Result<(), Setback> {
    let interrupted = |status: Status| match status.code() {
        Code::NotFound | Code::InvalidArgument | Code::PermissionDenied | Code::Unimplemented => {
            Setback::Fatal(FetchError::Refused(status.message().to_owned()))
        }
        _ => Setback::Interrupted(status.message().to_owned()),
    };
    let silent = |_| Setback::Interrupted(format!("no answer for {} s", CHUNK_TIMEOUT.as_secs()));
    let size = artifact.size.0;
    let request = v1::DownloadRequest { digest: artifact.digest.to_string(), offset: sink.length };
    let mut client = ArtifactServiceClient::new(channel.clone());
    let call = tokio::time::timeout(CHUNK_TIMEOUT, client.download(request));
    let mut chunks = call.await.map_err(silent)?.map_err(interrupted)?.into_inner();
    while sink.length < size {
        let next = tokio::time::timeout(CHUNK_TIMEOUT, chunks.message()).await.map_err(silent)?;
        let Some(chunk) = next.map_err(interrupted)? else {
            return Err(Setback::Interrupted(format!("it ended after {} of {size} bytes", sink.length)));
        };
        if chunk.offset != sink.length {
            let problem = format!("a chunk begins at byte {}, expected was {}", chunk.offset, sink.length);
            return Err(Setback::Corrupt(problem));
        }
        if chunk.data.len() as u64 > size - sink.length {
            return Err(Setback::Corrupt(format!("it is longer than the announced {size} bytes")));
        }
        sink.write(&chunk.data).await?;
    }
    Ok(())
}

/// The growing file.
struct Sink<'a> {
    file: File,
    path: &'a Path,
    length: u64,
    durable: u64,
    on_bytes: &'a (dyn Fn(u64) + Send + Sync),
}

impl Sink<'_> {
    async fn write(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        self.file.write_all(bytes).await.map_err(FileError::of("write", self.path))?;
        self.length += bytes.len() as u64;
        if self.length - self.durable >= STEP {
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), FileError> {
        self.file.flush().await.map_err(FileError::of("write", self.path))?;
        self.file.sync_data().await.map_err(FileError::of("flush", self.path))?;
        self.durable = self.length;
        (self.on_bytes)(self.durable);
        Ok(())
    }
}

/// The part file for appending, with its length; a longer one than announced starts again.
async fn open_part(part: &Path, size: u64) -> Result<(File, u64), FileError> {
    let file = OpenOptions::new().create(true).append(true).open(part).await;
    let file = file.map_err(FileError::of("open", part))?;
    let length = file.metadata().await.map_err(FileError::of("read", part))?.len();
    if length <= size {
        return Ok((file, length));
    }
    file.set_len(0).await.map_err(FileError::of("cut", part))?;
    Ok((file, 0))
}

fn check_space(part: &Path, missing: u64) -> Result<(), Setback> {
    let folder = part.parent().expect("parts lie in a folder");
    let disk =
        rustix::fs::statvfs(folder).map_err(|e| FileError::of("measure the space of", folder)(e.into()))?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let needed = missing.saturating_add(RESERVE);
    if free < needed {
        return Err(Setback::Fatal(FetchError::NoSpace { needed: ByteSize(needed), free: ByteSize(free) }));
    }
    Ok(())
}

/// The SHA-256 of a file, read in pieces.
async fn digest_of(path: &Path) -> Result<Digest, FileError> {
    let mut file = fs::File::open(path).await.map_err(FileError::of("open", path))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        let read = file.read(&mut buffer).await.map_err(FileError::of("read", path))?;
        if read == 0 {
            return Ok(Digest::from_bytes(hash.finalize().into()));
        }
        hash.update(&buffer[..read]);
    }
}
