//! Downloads: a file by its digest, from any offset, in bounded chunks, no faster than the receiver takes them.

use std::collections::BTreeMap;
use std::io::SeekFrom;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::v1::artifact_service_server::ArtifactService;
use proto::{Digest, Pieces, v1};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status};

use super::status;
use crate::blob::BlobStore;

/// Bytes per chunk: small enough that an interrupted download loses little, large enough to cost little framing.
const CHUNK: usize = 64 << 10;
/// Chunks read ahead of a slow receiver.
const READ_AHEAD: usize = 4;

pub(crate) struct ArtifactRpc {
    blobs: BlobStore,
    tasks: TaskTracker,
    pieces: Mutex<BTreeMap<Digest, Arc<Pieces>>>,
}

/// A fleet fetches few files at a time; of so many the pieces are remembered.
const REMEMBERED: usize = 64;

impl ArtifactRpc {
    pub(crate) fn new(blobs: BlobStore, tasks: TaskTracker) -> Self {
        Self { blobs, tasks, pieces: Mutex::default() }
    }

    fn known_pieces(&self) -> MutexGuard<'_, BTreeMap<Digest, Arc<Pieces>>> {
        // Entries are put in whole: a panic elsewhere leaves none half-made.
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type ChunkStream = Pin<Box<dyn Stream<Item = Result<v1::Chunk, Status>> + Send>>;

#[tonic::async_trait]
impl ArtifactService for ArtifactRpc {
    type DownloadStream = ChunkStream;

    async fn pieces(
        &self,
        request: Request<v1::PiecesRequest>,
    ) -> Result<Response<v1::PiecesResponse>, Status> {
        let digest: Digest = request.into_inner().digest.parse().map_err(status::invalid)?;
        let known = self.known_pieces().get(&digest).cloned();
        let pieces = match known {
            Some(pieces) => pieces,
            None => {
                let blobs = self.blobs.clone();
                let pieces = status::blocking(move || blobs.pieces(digest)).await?.map_err(status::blob)?;
                let pieces = Arc::new(pieces);
                let mut known = self.known_pieces();
                if known.len() == REMEMBERED {
                    known.clear();
                }
                known.insert(digest, pieces.clone());
                pieces
            }
        };
        Ok(Response::new(v1::PiecesResponse { sha256: pieces.to_bytes() }))
    }

    async fn download(&self, request: Request<v1::DownloadRequest>) -> Result<Response<ChunkStream>, Status> {
        let v1::DownloadRequest { digest, offset } = request.into_inner();
        let digest: Digest = digest.parse().map_err(status::invalid)?;
        let blobs = self.blobs.clone();
        let blob = status::blocking(move || blobs.open_blob(digest)).await?.map_err(status::blob)?;
        let size = blob.size.0;
        if offset > size {
            return Err(Status::out_of_range(format!(
                "artifact {digest} has {size} bytes; offset {offset} is past its end"
            )));
        }
        let mut file = tokio::fs::File::from_std(blob.file);
        file.seek(SeekFrom::Start(offset)).await.map_err(|error| status::reading(digest, &error))?;
        let (chunks, receiver) = mpsc::channel(READ_AHEAD);
        self.tasks.spawn(send(digest, file, offset, chunks));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

async fn send(
    digest: Digest,
    mut file: tokio::fs::File,
    mut offset: u64,
    chunks: mpsc::Sender<Result<v1::Chunk, Status>>,
) {
    loop {
        let mut data = vec![0; CHUNK];
        let chunk = match file.read(&mut data).await {
            Ok(0) => return,
            Ok(length) => {
                data.truncate(length);
                Ok(v1::Chunk { offset, data })
            }
            Err(error) => Err(status::reading(digest, &error)),
        };
        let ended = chunk.is_err();
        offset += chunk.as_ref().map_or(0, |chunk| chunk.data.len() as u64);
        if chunks.send(chunk).await.is_err() || ended {
            return; // the receiver has gone, or the file cannot be read
        }
    }
}
