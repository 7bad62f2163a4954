//! Downloads: a file by its digest, from any offset, in bounded chunks, no faster than the receiver takes them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::v1::artifact_service_server::ArtifactService;
use proto::{Digest, Pieces, v1};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status};

use super::status;
use crate::blob::{BlobStore, FETCH};

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
        let size = self.blobs.size(digest).await.map_err(status::blob)?.0;
        if offset > size {
            return Err(Status::out_of_range(format!(
                "artifact {digest} has {size} bytes; offset {offset} is past its end"
            )));
        }
        let (chunks, receiver) = mpsc::channel(READ_AHEAD);
        self.tasks.spawn(send(self.blobs.clone(), digest, offset..size, chunks));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

async fn send(
    blobs: BlobStore,
    digest: Digest,
    wanted: Range<u64>,
    chunks: mpsc::Sender<Result<v1::Chunk, Status>>,
) {
    let mut offset = wanted.start;
    while offset < wanted.end {
        let end = (offset + FETCH).min(wanted.end);
        let fetched = match blobs.range(digest, offset..end).await {
            Ok(fetched) => fetched,
            Err(error) => {
                let _ = chunks.send(Err(status::blob(error))).await; // the receiver may have gone
                return;
            }
        };
        for data in fetched.chunks(CHUNK) {
            let chunk = v1::Chunk { offset, data: data.to_vec() };
            offset += data.len() as u64;
            if chunks.send(Ok(chunk)).await.is_err() {
                return; // the receiver has gone
            }
        }
    }
}
