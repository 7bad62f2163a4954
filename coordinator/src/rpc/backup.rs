//! The coordinator's state on its way to an admin: read out at once, sent no faster than it is taken.

use std::io::{self, Write};
use std::pin::Pin;

use proto::v1::backup_response::Part;
use proto::v1::{BackupHeader, BackupRequest, BackupResponse};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{note, status};
use crate::app::authority_folder;
use crate::audit::Event;
use crate::backup::{Keys, Origin, Prepared, format};
use crate::clock::unix_ms;
use crate::core::Core;
use crate::identity::authorities::Authorities;

pub(super) type Parts = Pin<Box<dyn Stream<Item = Result<BackupResponse, Status>> + Send>>;

/// Bytes per message.
const CHUNK: usize = 256 << 10;
/// Messages made ahead of a slow receiver.
const READ_AHEAD: usize = 4;

/// One at a time: each copies all records, and writes wait for that.
static TURN: Semaphore = Semaphore::const_new(1);

/// Reads everything out, and begins to send it.
pub(super) async fn start(
    core: &Core,
    by: String,
    BackupRequest { without_keys }: BackupRequest,
) -> Result<Parts, Status> {
    let keys = if without_keys { Keys::LeftOut } else { Keys::Included };
    let turn =
        TURN.try_acquire().map_err(|_| Status::failed_precondition("another backup is being taken"))?;
    // Before it is taken, so that it is in it; and nobody gets the keys without an entry.
    let with = if without_keys { "without keys" } else { "with keys" };
    note::note(core, Event::new(by, "backup", "coordinator/state").changed("", with)).await?;
    let (blobs, authorities) = (core.blobs.clone(), core.authorities.clone());
    let state_dir = core.state_dir.clone();
    let prepared = core.store.call(move |store| {
        let origin = Origin { store, blobs: &blobs, state_dir: &state_dir, scratch: &state_dir };
        let authority = || match authorities {
            Some(authorities) => authorities.files(),
            None => Authorities::files_in(&authority_folder(&state_dir)),
        };
        Ok(Prepared::of(&origin, keys, authority, unix_ms()))
    });
    let prepared = prepared.await.map_err(status::store)?.map_err(status::backup)?;
    let (manifest, held) = (&prepared.manifest, prepared.held);
    let (size, digest) = (manifest.length(), format::seal(manifest).1);
    tracing::info!(records = manifest.records(), size, %digest, held_ms = held.as_millis() as u64, "backup taken");
    let (parts, receiver) = mpsc::channel(READ_AHEAD);
    let header = BackupHeader { size, digest: digest.to_string(), held_us: held.as_micros() as u64 };
    core.tasks.spawn_blocking(move || {
        let _turn = turn;
        let mut sender = Sender { parts, chunk: Vec::with_capacity(CHUNK) };
        let sent = sender.send(Part::Header(header)).and_then(|()| prepared.write(&mut sender));
        match sent.and_then(|()| sender.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                tracing::error!(%error, "a backup is given up");
                // Without its end the receiver takes it for nothing.
                let _ = sender.parts.blocking_send(Err(Status::data_loss(error.to_string())));
            }
            Err(_) => tracing::warn!("whoever took a backup has gone"),
            Ok(()) => {}
        }
    });
    Ok(Box::pin(ReceiverStream::new(receiver)))
}

/// Bytes as messages. Blocks until they are taken.
struct Sender {
    parts: mpsc::Sender<Result<BackupResponse, Status>>,
    chunk: Vec<u8>,
}

impl Sender {
    fn send(&mut self, part: Part) -> io::Result<()> {
        let sent = self.parts.blocking_send(Ok(BackupResponse { part: Some(part) }));
        sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Sender {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = bytes.len().min(CHUNK - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..length]);
        if self.chunk.len() == CHUNK {
            self.flush()?;
        }
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK));
        self.send(Part::Chunk(chunk))
    }
}
