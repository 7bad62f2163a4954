//! Downloads: a file by its digest, from any offset, in bounded chunks, no faster than the receiver takes them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::v1::artifact_service_server::ArtifactService;
use proto::{Digest, Pieces, v1};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status};

use super::{guard, status};
use crate::blob::{BlobStore, FETCH};
use crate::identity::quota::Quota;
use crate::refusals::{Refusals, Who};

/// Bytes per chunk: small enough that an interrupted download loses little, large enough to cost little framing.
const CHUNK: usize = 64 << 10;
/// Chunks read ahead of a slow receiver: while it takes one the next is read.
const READ_AHEAD: usize = 1;
/// Downloads at once of one device: an agent has one, for a model or a probe, and one more where a new assignment overtakes it.
const OF_DEVICE: usize = 4;
/// Of one operator: workers of several machines may share a certificate.
const OF_OPERATOR: usize = 64;
/// A receiver that does not take a chunk for so long does not want it. An agent gives up after a quarter of it.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) struct ArtifactRpc {
    blobs: BlobStore,
    tasks: TaskTracker,
    pieces: Mutex<BTreeMap<Digest, Arc<Pieces>>>,
    quota: Quota,
    refusals: Refusals,
    patience: Duration,
}

/// A fleet fetches few files at a time; of so many the pieces are remembered.
const REMEMBERED: usize = 64;

impl ArtifactRpc {
    pub(crate) fn new(blobs: BlobStore, tasks: TaskTracker, refusals: Refusals) -> Self {
        let quota = Quota::new(OF_DEVICE, OF_OPERATOR);
        Self { blobs, tasks, pieces: Mutex::default(), quota, refusals, patience: PATIENCE }
    }

    fn known_pieces(&self) -> MutexGuard<'_, BTreeMap<Digest, Arc<Pieces>>> {
        // Entries are put in whole: a panic elsewhere leaves none half-made.
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type ChunkStream = Pin<Box<dyn Stream<Item = Sent> + Send>>;

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
        let peer = guard::peer(&request);
        let turn = self.quota.take(&peer).map_err(|most| guard::too_many("downloads", most))?;
        let v1::DownloadRequest { digest, offset } = request.into_inner();
        let digest: Digest = digest.parse().map_err(status::invalid)?;
        let size = self.blobs.size(digest).await.map_err(status::blob)?.0;
        if offset > size {
            return Err(Status::out_of_range(format!(
                "artifact {digest} has {size} bytes; offset {offset} is past its end"
            )));
        }
        let (chunks, receiver) = mpsc::channel(READ_AHEAD + 1);
        let last = chunks.clone().try_reserve_owned().expect("a fresh channel has room");
        let (blobs, refusals, patience) = (self.blobs.clone(), self.refusals.clone(), self.patience);
        self.tasks.spawn(async move {
            let sent = send(&blobs, digest, offset..size, (&chunks, patience)).await;
            if let Err(End::Failed(status)) = sent {
                last.send(Err(status));
            } else if let Err(End::Stuck) = sent {
                let status = stuck(patience);
                refusals.refused(&Who::of(&peer, None), "ArtifactService/Download", status.message());
                last.send(Err(status));
            }
        });
        // The turn lasts as long as there is something of it in memory, whatever the task does.
        let stream = ReceiverStream::new(receiver).map(move |chunk| {
            let _counts = &turn;
            chunk
        });
        Ok(Response::new(Box::pin(stream)))
    }
}

/// A chunk, or why there are no more.
type Sent = Result<v1::Chunk, Status>;

/// Why a download ended before its last chunk was on its way.
enum End {
    /// The receiver has gone.
    Gone,
    /// The receiver takes nothing.
    Stuck,
    /// The file cannot be read.
    Failed(Status),
}

fn stuck(patience: Duration) -> Status {
    Status::deadline_exceeded(format!(
        "nothing of the download was taken for {} s; it goes on from any offset",
        patience.as_secs()
    ))
}

async fn send(
    blobs: &BlobStore,
    digest: Digest,
    wanted: Range<u64>,
    (chunks, patience): (&mpsc::Sender<Sent>, Duration),
) -> Result<(), End> {
    let mut offset = wanted.start;
    while offset < wanted.end {
        let end = (offset + FETCH).min(wanted.end);
        let fetched =
            blobs.range(digest, offset..end).await.map_err(|error| End::Failed(status::blob(error)))?;
        for data in fetched.chunks(CHUNK) {
            let chunk = v1::Chunk { offset, data: data.to_vec() };
            offset += data.len() as u64;
            chunks.send_timeout(Ok(chunk), patience).await.map_err(|error| match error {
                SendTimeoutError::Timeout(_) => End::Stuck,
                SendTimeoutError::Closed(_) => End::Gone,
            })?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::caller::{Caller, Issuer, Line};
    use crate::identity::{Peer, Role};

    /// Of several chunks.
    const SIZE: usize = 10 * CHUNK + 5;

    /// One that has such an artifact.
    async fn served(patience: Duration) -> (tempfile::TempDir, ArtifactRpc, Digest) {
        let folder = tempfile::tempdir().unwrap();
        let blobs = BlobStore::open(folder.path().join("artifacts")).unwrap();
        let store = blobs.clone();
        let stored = status::blocking(move || store.put(vec![7; SIZE])).await.unwrap();
        let digest = stored.unwrap().digest;
        let rpc =
            ArtifactRpc { patience, ..ArtifactRpc::new(blobs, TaskTracker::new(), Refusals::default()) };
        (folder, rpc, digest)
    }

    fn device(key: &[u8]) -> Peer {
        Peer::Device { id: "gw-1".parse().unwrap(), key: Digest::of(key) }
    }

    async fn begin(rpc: &ArtifactRpc, digest: Digest, peer: Peer) -> Result<ChunkStream, Status> {
        let mut request = Request::new(v1::DownloadRequest { digest: digest.to_string(), offset: 5 });
        request.extensions_mut().insert(Caller { peer, line: Line::default(), issuer: Issuer::Nobody });
        rpc.download(request).await.map(Response::into_inner)
    }

    #[tokio::test]
    async fn a_device_has_few_downloads_at_once_whatever_others_have() {
        let (_folder, rpc, digest) = served(PATIENCE).await;
        let mut open = Vec::new();
        for _ in 0..OF_DEVICE {
            open.push(begin(&rpc, digest, device(b"key")).await.unwrap());
        }
        let refused = begin(&rpc, digest, device(b"key")).await.err().unwrap();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        assert_eq!(
            refused.message(),
            "4 downloads are under way for this certificate, as many as may be; let one end first"
        );
        let worker = Peer::Operator { name: "gpu-1".parse().unwrap(), role: Role::Worker, key: None };
        for other in [device(b"other"), worker, Peer::Plain] {
            open.push(begin(&rpc, digest, other).await.unwrap());
        }
        // One that was refused, and one that asked for what is not there, took no turn; one that has ended gives its own back.
        drop(open.remove(0));
        assert!(begin(&rpc, Digest::of(b"nothing"), device(b"key")).await.is_err());
        let whole: Vec<_> = begin(&rpc, digest, device(b"key")).await.unwrap().collect().await;
        let bytes: usize = whole.into_iter().map(|chunk| chunk.unwrap().data.len()).sum();
        assert_eq!(bytes, SIZE - 5);
        open.push(begin(&rpc, digest, device(b"key")).await.unwrap());
    }

    #[tokio::test]
    async fn a_receiver_that_takes_nothing_is_told_so_and_never_that_it_has_all() {
        let (_folder, rpc, digest) = served(Duration::from_millis(1)).await;
        let stream = begin(&rpc, digest, device(b"key")).await.unwrap();
        rpc.tasks.close();
        rpc.tasks.wait().await; // it is given up while nobody reads
        let taken: Vec<_> = stream.collect().await;
        assert!(taken.len() <= READ_AHEAD + 1, "little is kept for it: {} chunks", taken.len());
        assert_eq!(taken.last().unwrap().as_ref().unwrap_err().code(), tonic::Code::DeadlineExceeded);
        assert_eq!(rpc.refusals.count(), 1);
    }
}
