//! The workers' calls: jobs handed out, heard of, ended. What a worker says is written before it is answered.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use proto::v1::put_file_request::Part;
use proto::v1::worker_service_server::WorkerService;
use proto::{ArtifactRef, DeviceId, v1};
use tokio::io::AsyncReadExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use super::{guard, status, upload};
use crate::board::{Job, JobId};
use crate::clock::unix_ms;
use crate::core::Core;
use crate::datasets::check_public;
use crate::derive::SubjectKey;
use crate::identity::Peer;
use crate::jobs::outcome::{self, Ended};
use crate::jobs::{ending, offer, queue};
use crate::manifest::DatasetSpec;
use crate::store::{JobRecord, Work};
use crate::worker::files::below;

#[derive(Clone)]
pub(crate) struct WorkerRpc {
    pub(crate) core: Core,
}

type Reply<T> = Result<Response<T>, Status>;
type PartStream = Pin<Box<dyn Stream<Item = Result<v1::FilePart, Status>> + Send>>;

/// A worker that finds nothing to do is answered after so long, and asks again.
const PATIENCE: Duration = Duration::from_secs(20);
/// What may be handed out later is looked for so often.
const LOOK: Duration = Duration::from_secs(1);
/// Bytes per message.
const CHUNK: usize = 256 << 10;
/// Chunks read ahead of a slow receiver.
const READ_AHEAD: usize = 4;
/// A dataset of more files is none.
const MOST_FILES: usize = 1_000_000;

#[tonic::async_trait]
impl WorkerService for WorkerRpc {
    type GetCheckpointStream = PartStream;
    type ReadDatasetStream = PartStream;

    async fn lease(&self, request: Request<v1::LeaseRequest>) -> Reply<v1::LeaseResponse> {
        let (worker, line) = (self.heard(&request)?, guard::line(&request));
        let v1::LeaseRequest { version, has_program, folders, leaves } = request.into_inner();
        if leaves {
            self.core.workers.leave(&worker, &line);
            tracing::info!(%worker, "the worker has ended");
            return Ok(Response::new(v1::LeaseResponse::default()));
        }
        let own = env!("CARGO_PKG_VERSION");
        if version != own {
            return Err(Status::failed_precondition(format!(
                "the worker is of version {version} and the coordinator of {own}; install the same on both"
            )));
        }
        let unwanted = self.unwanted(folders).await?;
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            let changed = self.core.queue.changes();
            if let Some((lease, task)) = self.offer(&worker, has_program).await? {
                return Ok(Response::new(v1::LeaseResponse { lease: Some(lease), task, unwanted }));
            }
            let now = tokio::time::Instant::now();
            if now >= until || !unwanted.is_empty() || self.core.shutdown.is_cancelled() {
                return Ok(Response::new(v1::LeaseResponse { lease: None, task: String::new(), unwanted }));
            }
            self.core.workers.hear(&worker, &line, unix_ms()); // it waits
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep(LOOK) => {}
                () = self.core.shutdown.cancelled() => {}
            }
        }
    }

    async fn report(&self, request: Request<v1::ReportRequest>) -> Reply<v1::ReportResponse> {
        let worker = self.heard(&request)?;
        let v1::ReportRequest { lease, done, total, message, lines } = request.into_inner();
        let lease = whole(lease)?;
        let (logs, number) = (self.core.logs.clone(), lease.number);
        let held = self.core.store.call(move |store| {
            let Some(job) = store.job(&lease.job)?.filter(|job| job.is_held_by(&worker, lease.number)) else {
                return Ok(None);
            };
            logs.add(&job.name, lines.iter().map(String::as_str));
            if !job.is_due(unix_ms()) {
                return Ok(Some(job));
            }
            let renewed = store.update_job(&job.name, &mut |job| {
                job.renew(number, unix_ms());
            })?;
            Ok(Some(renewed).filter(|job| job.is_held(number)))
        });
        let Some(job) = held.await.map_err(status::store)? else {
            return Ok(Response::new(v1::ReportResponse { stop: true }));
        };
        if total > 0 {
            self.core.board.report(shown(&job), Job { done, total, message, finished: false });
        }
        Ok(Response::new(v1::ReportResponse { stop: false }))
    }

    async fn get_checkpoint(&self, request: Request<v1::Lease>) -> Reply<PartStream> {
        let worker = name(&request)?;
        let job = self.held(&worker, Some(request.into_inner())).await?;
        let Work::Train(key) = job.work else { return Ok(stream(Vec::new())) };
        let checkpoints = self.core.checkpoints.clone();
        Ok(stream(status::blocking(move || checkpoints.load(key)).await?))
    }

    async fn put_checkpoint(
        &self,
        request: Request<Streaming<v1::PutFileRequest>>,
    ) -> Reply<v1::ReportResponse> {
        let worker = name(&request)?;
        let (v1::PutFileHeader { lease, file, .. }, parts) = header(request.into_inner()).await?;
        let lease = whole(lease)?;
        let job = self.held(&worker, Some(lease.clone())).await?;
        let Work::Train(key) = job.work else {
            return Err(Status::invalid_argument("only a training has checkpoints"));
        };
        let bytes = receive(upload::announced(file)?, parts).await?;
        let checkpoints = self.core.checkpoints.clone();
        let kept = self.core.store.call(move |store| {
            // One that comes late, of a holder that was given up, must not replace a newer one.
            if !store.job(&lease.job)?.is_some_and(|job| job.is_held(lease.number)) {
                return Ok(Ok(false));
            }
            if let Err(error) = checkpoints.save(key, &bytes) {
                return Ok(Err(error));
            }
            let mut held = false;
            store.update_job(&lease.job, &mut |job| held = job.got_on(lease.number, unix_ms()))?;
            Ok(Ok(held))
        });
        let kept = kept.await.map_err(status::store)?;
        let held = kept.map_err(|error| status::internal(crate::causes::chain(&error)))?;
        Ok(Response::new(v1::ReportResponse { stop: !held }))
    }

    async fn list_dataset(&self, request: Request<v1::Lease>) -> Reply<v1::DatasetFiles> {
        let worker = name(&request)?;
        let dataset = self.dataset(&worker, Some(request.into_inner())).await?;
        let listed = status::blocking(move || offer::files(&dataset.path, MOST_FILES)).await?;
        let files =
            listed.map_err(|error| Status::invalid_argument(format!("listing the dataset: {error}")))?;
        Ok(Response::new(v1::DatasetFiles { files }))
    }

    async fn read_dataset(&self, request: Request<v1::ReadDatasetRequest>) -> Reply<PartStream> {
        let worker = name(&request)?;
        let v1::ReadDatasetRequest { lease, path } = request.into_inner();
        let dataset = self.dataset(&worker, lease).await?;
        let own = self.core.state_dir.clone();
        let path = status::blocking(move || inside(&dataset.path, &path, &own)).await?;
        let path = path.map_err(|error| Status::invalid_argument(error.to_string()))?;
        let failed =
            move |error: std::io::Error| status::internal(format!("reading a file of the dataset: {error}"));
        let mut file = tokio::fs::File::open(&path).await.map_err(failed)?;
        let (parts, receiver) = tokio::sync::mpsc::channel(READ_AHEAD);
        self.core.tasks.spawn(async move {
            loop {
                let mut chunk = vec![0; CHUNK];
                let part = match file.read(&mut chunk).await {
                    Ok(0) => return,
                    Ok(length) => {
                        chunk.truncate(length);
                        Ok(v1::FilePart { chunk })
                    }
                    Err(error) => Err(failed(error)),
                };
                let ended = part.is_err();
                if parts.send(part).await.is_err() || ended {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn finish(&self, request: Request<Streaming<v1::PutFileRequest>>) -> Reply<v1::ReportResponse> {
        let worker = name(&request)?;
        let (v1::PutFileHeader { lease, file, outcome }, parts) = header(request.into_inner()).await?;
        let lease = whole(lease)?;
        let job = self.held(&worker, Some(lease.clone())).await?;
        let said = serde_json::from_str(&outcome)
            .map_err(|error| Status::invalid_argument(format!("the outcome cannot be read: {error}")))?;
        let file = match file {
            Some(file) => Some(receive(upload::announced(Some(file))?, parts).await?),
            None => None,
        };
        let (blobs, checkpoints, logs) =
            (self.core.blobs.clone(), self.core.checkpoints.clone(), self.core.logs.clone());
        let (shown, name) = (shown(&job), job.name.clone());
        let ended = self.core.store.call(move |store| {
            let ended = outcome::settle(store, &blobs, &job, lease.number, outcome::Said { said, file });
            if let (Ok(ended), Ok(Some(job))) = (&ended, store.job(&job.name)) {
                ending::note(store, &logs, &job, &ended.line);
            }
            Ok(ended)
        });
        let Ended { line, spent } = ended.await.map_err(status::store)?.map_err(status::outcome)?;
        if let Some(key) = spent {
            checkpoints.remove(key);
        }
        tracing::info!(job = name, "{line}");
        self.core.board.end(&shown);
        self.core.queue.wake();
        self.core.poke.poke();
        Ok(Response::new(v1::ReportResponse { stop: false }))
    }
}

impl WorkerRpc {
    /// Who calls; it is there.
    fn heard<T>(&self, request: &Request<T>) -> Result<DeviceId, Status> {
        let worker = name(request)?;
        self.core.workers.hear(&worker, &guard::line(request), unix_ms());
        Ok(worker)
    }

    /// The next job for that worker, if there is one.
    async fn offer(
        &self,
        worker: &DeviceId,
        has_program: bool,
    ) -> Result<Option<(v1::Lease, String)>, Status> {
        let (worker, subjects) = (worker.clone(), self.core.subjects.clone());
        let scored = move |key: &SubjectKey| subjects.get(key).map(|subject| subject.time_to_score);
        let logs = self.core.logs.clone();
        let offered = self.core.store.call(move |store| {
            let mut jobs = store.jobs()?;
            queue::in_turn(&mut jobs);
            for job in jobs.iter().filter(|job| job.is_open()) {
                let Some(task) = offer::task((store, &logs), job, has_program, &scored)? else { continue };
                if let Some(number) = queue::lease(store, &job.name, &worker)? {
                    return Ok(Some((job.clone(), number, task, worker)));
                }
            }
            Ok(None)
        });
        let Some((job, number, task, worker)) = offered.await.map_err(status::store)? else {
            return Ok(None);
        };
        let task = serde_json::to_string(&task)
            .map_err(|error| status::internal(format!("the task cannot be written: {error}")))?;
        tracing::info!(job = job.name, %worker, lease = number, "leased");
        self.core.logs.add(&job.name, [format!("worker {worker} has it (lease {number})").as_str()]);
        self.core.board.report(
            shown(&job),
            Job { total: 1, message: "a worker has begun".to_owned(), ..Job::default() },
        );
        Ok(Some((v1::Lease { job: job.name, number }, task)))
    }

    /// Those of the trainings that nobody goes on with.
    async fn unwanted(&self, folders: Vec<String>) -> Result<Vec<String>, Status> {
        if folders.is_empty() {
            return Ok(Vec::new());
        }
        let unwanted = self.core.store.call(move |store| {
            let jobs = store.jobs()?;
            let is_wanted = |folder: &String| {
                let mut open = jobs.iter().filter(|job| job.failure().is_some() || job.is_open());
                open.any(|job| matches!(job.work, Work::Train(key) if key.to_string() == *folder))
            };
            Ok(folders.into_iter().filter(|folder| !is_wanted(folder)).collect())
        });
        unwanted.await.map_err(status::store)
    }

    /// The job, if the caller has it.
    async fn held(&self, worker: &DeviceId, lease: Option<v1::Lease>) -> Result<JobRecord, Status> {
        let v1::Lease { job, number } = whole(lease)?;
        let name = job.clone();
        let found = self.core.store.call(move |store| store.job(&name)).await.map_err(status::store)?;
        found.filter(|found| found.is_held_by(worker, number)).ok_or_else(|| {
            Status::failed_precondition(format!("job {job} is not this worker's any more (lease {number})"))
        })
    }

    async fn dataset(&self, worker: &DeviceId, lease: Option<v1::Lease>) -> Result<DatasetSpec, Status> {
        let job = self.held(worker, lease).await?;
        let (own, logs) = (self.core.state_dir.clone(), self.core.logs.clone());
        let found = self.core.store.call(move |store| {
            let dataset = offer::dataset(store, &logs, &job)?;
            // Again: a link may lead elsewhere since.
            Ok(dataset.map(|dataset| check_public(&dataset.path, &own).map(|()| dataset)))
        });
        found
            .await
            .map_err(status::store)?
            .ok_or_else(|| Status::failed_precondition("no deployment wants this job any more"))?
            .map_err(|private| status::dataset(&private.into()))
    }
}

/// A dataset's regular file: a link to a folder elsewhere, or to one of the coordinator's `own` files, leads nowhere.
fn inside(folder: &Path, path: &str, own: &Path) -> io::Result<PathBuf> {
    let path = below(folder, path)?;
    let (parent, found) = (path.parent().unwrap_or(folder).canonicalize()?, path.canonicalize()?);
    let is_inside = parent.starts_with(folder.canonicalize()?);
    if !is_inside || !found.metadata()?.is_file() || check_public(&found, own).is_err() {
        return Err(io::Error::other(format!("'{}' is no file of the dataset's folder", path.display())));
    }
    Ok(found)
}

/// Who calls.
fn name<T>(request: &Request<T>) -> Result<DeviceId, Status> {
    match guard::peer(request) {
        Peer::Operator { name, .. } => Ok(name),
        _ => "worker".parse().map_err(status::invalid),
    }
}

/// What whoever follows the deployment sees of it.
fn shown(job: &JobRecord) -> JobId {
    JobId { deployment: job.deployment.clone(), title: job.work.title() }
}

fn whole(lease: Option<v1::Lease>) -> Result<v1::Lease, Status> {
    lease.ok_or_else(|| Status::invalid_argument("the message names no lease"))
}

fn stream(bytes: Vec<u8>) -> Response<PartStream> {
    let chunks: Vec<_> =
        bytes.chunks(CHUNK).map(|chunk| Ok(v1::FilePart { chunk: chunk.to_vec() })).collect();
    Response::new(Box::pin(tokio_stream::iter(chunks)))
}

async fn header(
    mut parts: Streaming<v1::PutFileRequest>,
) -> Result<(v1::PutFileHeader, Streaming<v1::PutFileRequest>), Status> {
    match parts.next().await.transpose()?.and_then(|first| first.part) {
        Some(Part::Header(header)) => Ok((header, parts)),
        Some(Part::Chunk(_)) | None => Err(Status::invalid_argument("a header must come before the file")),
    }
}

async fn receive(file: ArtifactRef, parts: Streaming<v1::PutFileRequest>) -> Result<Vec<u8>, Status> {
    let bytes = upload::receive(&file, parts, |part| match part.part {
        Some(Part::Chunk(chunk)) => Some(chunk),
        Some(Part::Header(_)) | None => None,
    })
    .await?;
    match crate::models::mangled(&bytes, &file) {
        None => Ok(bytes),
        Some(problem) => Err(Status::data_loss(problem)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_link_leads_out_of_a_dataset() {
        let root = tempfile::tempdir().unwrap();
        let (data, other) = (root.path().join("data"), root.path().join("other"));
        for folder in [&data, &other] {
            std::fs::create_dir_all(folder.join("train")).unwrap();
            std::fs::write(folder.join("train/a.png"), "image").unwrap();
        }
        let (own, link) = (root.path().join("own"), std::os::unix::fs::symlink::<PathBuf, PathBuf>);
        std::fs::create_dir(&own).unwrap();
        std::fs::write(own.join("key"), "secret").unwrap();
        link(other.clone(), data.join("link")).unwrap();
        link(other.join("train/a.png"), data.join("train/b.png")).unwrap();
        link(own.join("key"), data.join("train/c.png")).unwrap();
        let found = |name| inside(&data.canonicalize().unwrap(), name, &own).unwrap();
        assert_eq!(found("train/a.png"), data.join("train/a.png").canonicalize().unwrap());
        assert_eq!(found("train/b.png"), other.join("train/a.png").canonicalize().unwrap());
        for wrong in ["link/train/a.png", "train", "../other/train/a.png", "nothing", "train/c.png"] {
            assert!(inside(&data, wrong, &own).is_err(), "{wrong}");
        }
    }
}
