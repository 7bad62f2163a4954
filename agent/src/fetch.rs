//! One file from the coordinator, by digest. Owns resuming, the limits on disk and length, and the check of the whole;
//! never decides what to fetch and never looks inside.
//!
//! Pieces collect in `<digest>.part`, each proven by `<digest>.pieces` before it counts; what counts is where the next
//! attempt goes on, in this process or the next. A file gets its final name, `<digest>`, only after its digest was right.

use std::path::{Path, PathBuf};
use std::time::Duration;

use proto::v1::artifact_service_client::ArtifactServiceClient;
use proto::{ArtifactRef, ByteSize, Digest, Pieces, v1};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::probe;
use crate::session::backoff::Backoff;
use crate::state::{self, FileError};

mod part;

use part::{Part, PartError};

/// Left free on the disk for everything else.
const RESERVE: u64 = 4 << 20;

/// Corrupt bytes, or too few, are fetched so often, without a right piece in between, before the file is given up.
const CORRUPT_LIMIT: u32 = 3;

/// Nothing for this long: the connection is dead.
const SILENCE: Duration = Duration::from_secs(30);

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
    /// It could not be loaded.
    #[error("not enough memory to load it: {needed} needed, {available} available")]
    NoMemory {
        /// The file and its weights, which are there side by side for a moment.
        needed: ByteSize,
        /// What the agent may have.
        available: ByteSize,
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
            Self::File(_) | Self::NoSpace { .. } | Self::NoMemory { .. } => true,
            Self::Corrupt { .. } | Self::Refused(_) => false,
        }
    }
}

/// How one attempt ended before the file was whole.
enum Setback {
    /// Try again from where it stopped.
    Interrupted(String),
    /// It came to its end, as if nothing were missing: try again from where it stopped, but not for ever.
    Short(String),
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

impl From<PartError> for Setback {
    fn from(error: PartError) -> Self {
        match error {
            PartError::File(error) => error.into(),
            PartError::Corrupt(problem) => Self::Corrupt(problem),
        }
    }
}

impl From<Status> for Setback {
    fn from(status: Status) -> Self {
        match status.code() {
            Code::NotFound | Code::InvalidArgument => {
                Self::Fatal(FetchError::Refused(status.message().to_owned()))
            }
            // The coordinator's own file is damaged: it may be mended, but not for ever waited for.
            Code::DataLoss => Self::Corrupt(status.message().to_owned()),
            _ => Self::Interrupted(status.message().to_owned()),
        }
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
    if state::unless_damaged(state::read(&whole, artifact.size))?
        .is_some_and(|bytes| Digest::of(&bytes) == artifact.digest)
    {
        return Ok(whole);
    }
    check_memory(artifact.size, probe::memory_available())?;
    let mut download = Download { channel, artifact, whole, part: None, on_bytes };
    let mut backoff = Backoff::new();
    let (mut corrupt, mut proven) = (0, 0);
    loop {
        let setback = match download.attempt().await {
            Ok(()) => return Ok(download.whole),
            Err(setback) => setback,
        };
        if download.proven() > proven {
            proven = download.proven();
            corrupt = 0;
            backoff.reset();
        }
        match setback {
            Setback::Interrupted(problem) => {
                tracing::info!(digest = %artifact.digest, problem, proven, "download interrupted; it goes on from here");
            }
            Setback::Short(problem) | Setback::Corrupt(problem) => {
                corrupt += 1;
                tracing::warn!(digest = %artifact.digest, problem, attempt = corrupt, "corrupt download");
                if corrupt == CORRUPT_LIMIT {
                    download.discard()?;
                    return Err(FetchError::Corrupt { attempts: corrupt, problem });
                }
            }
            Setback::Fatal(error) => return Err(error),
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

/// One file on its way.
struct Download<'a> {
    channel: &'a Channel,
    artifact: &'a ArtifactRef,
    whole: PathBuf,
    /// As soon as it is known what its pieces must be.
    part: Option<Part>,
    on_bytes: &'a (dyn Fn(u64) + Send + Sync),
}

impl Download<'_> {
    fn part_path(&self) -> PathBuf {
        self.whole.with_extension("part")
    }

    fn pieces_path(&self) -> PathBuf {
        self.whole.with_extension("pieces")
    }

    fn proven(&self) -> u64 {
        self.part.as_ref().map_or(0, Part::proven)
    }

    /// Forgets all that was fetched.
    fn discard(&mut self) -> Result<(), FileError> {
        self.part = None;
        state::remove(&self.part_path())?;
        state::remove(&self.pieces_path())
    }

    /// Fetches from what is proven on, and checks the whole.
    async fn attempt(&mut self) -> Result<(), Setback> {
        let mut part = match self.part.take() {
            Some(part) => part,
            None => Part::open(&self.part_path(), self.artifact.size, self.pieces().await?).await?,
        };
        (self.on_bytes)(part.proven());
        if let Err(setback) = self.receive(&mut part).await {
            if let Setback::Corrupt(_) = setback {
                // What the pieces must be may be wrong as well: it is asked anew, and what is on the disk proven by it.
                state::remove(&self.pieces_path())?;
            } else {
                self.part = Some(part);
            }
            return Err(setback);
        }
        let digest = part.digest().await?;
        if digest == self.artifact.digest {
            state::rename(&self.part_path(), &self.whole)?;
            return Ok(state::remove(&self.pieces_path())?);
        }
        // Every piece was as announced: it was announced wrong.
        self.discard()?;
        let (got, announced) = (digest.short(), self.artifact.digest.short());
        Err(Setback::Corrupt(format!("its SHA-256 is {got}, announced was {announced}")))
    }

    /// What the pieces must be: from the disk, or else from the coordinator.
    async fn pieces(&self) -> Result<Pieces, Setback> {
        let path = self.pieces_path();
        let limit = ByteSize((self.artifact.size.0 / proto::PIECE_BYTES + 1) * 32);
        let parse = |bytes: &[u8]| Pieces::parse(bytes, self.artifact.size);
        if let Some(Ok(known)) = state::unless_damaged(state::read(&path, limit))?.map(|bytes| parse(&bytes))
        {
            return Ok(known);
        }
        let request = v1::PiecesRequest { digest: self.artifact.digest.to_string() };
        let mut client = ArtifactServiceClient::new(self.channel.clone());
        let response = within(client.pieces(request)).await?.into_inner();
        let pieces = parse(&response.sha256).map_err(|invalid| Setback::Corrupt(invalid.to_string()))?;
        state::replace(&path, &response.sha256)?;
        Ok(pieces)
    }

    /// Takes what is missing.
    async fn receive(&self, part: &mut Part) -> Result<(), Setback> {
        if part.is_whole() {
            return Ok(());
        }
        check_space(&self.whole, self.artifact.size.0 - part.proven())?;
        let request =
            v1::DownloadRequest { digest: self.artifact.digest.to_string(), offset: part.received() };
        let mut client = ArtifactServiceClient::new(self.channel.clone());
        let mut chunks = within(client.download(request)).await?.into_inner();
        while !part.is_whole() {
            let Some(chunk) = within(chunks.message()).await? else {
                let (got, size) = (part.received(), self.artifact.size.0);
                return Err(Setback::Short(format!("it ended after {got} of {size} bytes")));
            };
            if chunk.offset != part.received() {
                let (begins, expected) = (chunk.offset, part.received());
                return Err(Setback::Corrupt(format!(
                    "a chunk begins at byte {begins}, expected was {expected}"
                )));
            }
            let before = part.proven();
            part.push(&chunk.data).await?;
            if part.proven() > before {
                (self.on_bytes)(part.proven());
            }
        }
        Ok(())
    }
}

/// The answer, unless it takes too long.
async fn within<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Setback> {
    let silent = |_| Setback::Interrupted(format!("no answer for {} s", SILENCE.as_secs()));
    Ok(tokio::time::timeout(SILENCE, call).await.map_err(silent)??)
}

/// A model is read whole, and its engine copies the weights.
fn check_memory(size: ByteSize, available: Option<ByteSize>) -> Result<(), FetchError> {
    let needed = ByteSize(size.0.saturating_mul(2));
    match available {
        Some(available) if available < needed => Err(FetchError::NoMemory { needed, available }),
        Some(_) | None => Ok(()),
    }
}

fn check_space(path: &Path, missing: u64) -> Result<(), Setback> {
    let folder = path.parent().expect("parts lie in a folder");
    let free = probe::disk_free(folder).map_err(FileError::of("measure the space of", folder))?;
    let needed = ByteSize(missing.saturating_add(RESERVE));
    if free < needed {
        return Err(Setback::Fatal(FetchError::NoSpace { needed, free }));
    }
    Ok(())
}
