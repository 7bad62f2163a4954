//! The worker's calls, in the program's own types.

use std::error::Error;
use std::io;

use proto::v1::artifact_service_client::ArtifactServiceClient;
use proto::v1::put_file_request::Part;
use proto::v1::worker_service_client::WorkerServiceClient;
use proto::{ArtifactRef, ByteSize, Digest, v1};
use tokio_rustls::rustls::{self, AlertDescription};
use tokio_stream::StreamExt as _;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};

use super::task::{Outcome, Task};
use crate::store::DerivationKey;

/// Bytes per message.
const CHUNK: usize = 256 << 10;
/// A task holds a plan: the kept channels of every layer; a listing, every image's name.
const LARGEST_REPLY: usize = 256 << 20;

/// Why a call of the worker's failed.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The coordinator is not there, or refuses.
    #[error("{}", told(.0))]
    Call(Box<Status>),
    /// It says what this worker does not understand.
    #[error("the coordinator's {what} cannot be read: are both of one version?")]
    Meaningless {
        /// What.
        what: &'static str,
        /// Why not.
        source: serde_json::Error,
    },
}

impl From<Status> for WorkerError {
    fn from(status: Status) -> Self {
        Self::Call(Box::new(status))
    }
}

/// What was answered; where nobody answered, what is the matter with the connection.
fn told(status: &Status) -> String {
    causes(status).last().map_or_else(|| status.message().to_owned(), |cause| cause.to_string())
}

/// What a failed connection says, the innermost last.
fn causes(status: &Status) -> impl Iterator<Item = &(dyn Error + 'static)> {
    std::iter::successors(status.source(), |&cause| cause.source())
}

/// Whether it says that one of both does not take the other's certificate.
fn is_of_certificate(cause: &(dyn Error + 'static)) -> bool {
    use AlertDescription::{
        AccessDenied, BadCertificate, CertificateExpired, CertificateRequired, CertificateRevoked,
        CertificateUnknown, UnknownCA,
    };
    // Of what comes once the connection is made, only the words are kept on their way here.
    let (words, alerts) = (
        cause.to_string(),
        [
            AccessDenied,
            BadCertificate,
            CertificateExpired,
            CertificateRequired,
            CertificateRevoked,
            CertificateUnknown,
            UnknownCA,
        ],
    );
    let io = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    let own = cause.downcast_ref().or(io.and_then(|inner| inner.downcast_ref()));
    matches!(own, Some(rustls::Error::InvalidCertificate(_)))
        || alerts.into_iter().any(|alert| words.contains(&rustls::Error::AlertReceived(alert).to_string()))
}

impl WorkerError {
    /// The same, where it is for its certificate that the coordinator does not answer: waiting mends nothing.
    pub(super) fn locked_out(self) -> Result<Box<Status>, Self> {
        match self {
            Self::Call(status) if causes(&status).any(is_of_certificate) => Ok(status),
            other => Err(other),
        }
    }

    /// Whether the same call may succeed later.
    pub(super) fn is_passing(&self) -> bool {
        self.is_absence()
            || matches!(self, Self::Call(status)
                if matches!(status.code(), Code::Internal | Code::DataLoss | Code::ResourceExhausted))
    }

    /// Whether the coordinator was not there to answer.
    pub(super) fn is_absence(&self) -> bool {
        use Code::{Cancelled, DeadlineExceeded, Unavailable, Unknown};
        matches!(self, Self::Call(status)
            if matches!(status.code(), Unavailable | Unknown | Cancelled | DeadlineExceeded))
    }

    /// Whether the coordinator has given up this holder of the job, or this worker.
    pub(super) fn is_dismissal(&self) -> bool {
        use Code::{FailedPrecondition, PermissionDenied, Unauthenticated};
        matches!(self, Self::Call(status)
            if matches!(status.code(), FailedPrecondition | PermissionDenied | Unauthenticated))
    }
}

/// A cheap handle to the connection.
#[derive(Clone)]
pub(super) struct Client {
    calls: WorkerServiceClient<Channel>,
    files: ArtifactServiceClient<Channel>,
    has_program: bool,
}

/// What a worker was given.
pub(super) struct Leased {
    pub(super) job: Option<(v1::Lease, Box<Task>)>,
    /// Trainings that nobody goes on with.
    pub(super) unwanted: Vec<DerivationKey>,
}

impl Client {
    pub(super) fn new(channel: Channel, has_program: bool) -> Self {
        let calls = WorkerServiceClient::new(channel.clone()).max_decoding_message_size(LARGEST_REPLY);
        Self { calls, files: ArtifactServiceClient::new(channel), has_program }
    }

    /// Waits for a job for a while.
    pub(super) async fn lease(&mut self, folders: Vec<String>) -> Result<Leased, WorkerError> {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let request = v1::LeaseRequest { version, has_program: self.has_program, folders, leaves: false };
        let v1::LeaseResponse { lease, task, unwanted } = self.calls.lease(request).await?.into_inner();
        let unwanted = unwanted.iter().filter_map(|name| name.parse().ok().map(DerivationKey)).collect();
        let Some(lease) = lease else { return Ok(Leased { job: None, unwanted }) };
        let task = serde_json::from_str(&task)
            .map_err(|source| WorkerError::Meaningless { what: "task", source })?;
        Ok(Leased { job: Some((lease, Box::new(task))), unwanted })
    }

    /// Says that it ends, by its own will.
    pub(super) async fn leave(&mut self) -> Result<(), WorkerError> {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let request = v1::LeaseRequest { version, leaves: true, ..v1::LeaseRequest::default() };
        self.calls.lease(request).await?;
        Ok(())
    }

    /// Says how it goes; whether to stop.
    pub(super) async fn report(&self, report: v1::ReportRequest) -> Result<bool, WorkerError> {
        Ok(self.calls.clone().report(report).await?.into_inner().stop)
    }

    /// Where the job stood last; empty where it has not begun.
    pub(super) async fn checkpoint(&self, lease: v1::Lease) -> Result<Vec<u8>, WorkerError> {
        whole(self.calls.clone().get_checkpoint(lease).await?.into_inner()).await
    }

    /// Keeps where the job stands; whether to stop.
    pub(super) async fn put_checkpoint(&self, lease: v1::Lease, bytes: Vec<u8>) -> Result<bool, WorkerError> {
        let request = parts(lease, String::new(), bytes);
        Ok(self.calls.clone().put_checkpoint(request).await?.into_inner().stop)
    }

    pub(super) async fn dataset(&self, lease: v1::Lease) -> Result<Vec<v1::DatasetFile>, WorkerError> {
        Ok(self.calls.clone().list_dataset(lease).await?.into_inner().files)
    }

    pub(super) async fn read_dataset(
        &self,
        lease: v1::Lease,
        path: String,
    ) -> Result<Streaming<v1::FilePart>, WorkerError> {
        let request = v1::ReadDatasetRequest { lease: Some(lease), path };
        Ok(self.calls.clone().read_dataset(request).await?.into_inner())
    }

    /// A model's file.
    pub(super) async fn download(&self, digest: Digest) -> Result<Vec<u8>, WorkerError> {
        let request = v1::DownloadRequest { digest: digest.to_string(), offset: 0 };
        let mut chunks = self.files.clone().download(request).await?.into_inner();
        let mut bytes = Vec::new();
        while let Some(chunk) = chunks.next().await.transpose()? {
            bytes.extend_from_slice(&chunk.data);
        }
        Ok(bytes)
    }

    /// Says what came of the job.
    pub(super) async fn finish(
        &self,
        lease: v1::Lease,
        outcome: &Outcome,
        file: Vec<u8>,
    ) -> Result<(), WorkerError> {
        let outcome = serde_json::to_string(outcome)
            .map_err(|source| WorkerError::Meaningless { what: "own outcome", source })?;
        self.calls.clone().finish(parts(lease, outcome, file)).await?;
        Ok(())
    }
}

async fn whole(mut parts: Streaming<v1::FilePart>) -> Result<Vec<u8>, WorkerError> {
    let mut bytes = Vec::new();
    while let Some(part) = parts.next().await.transpose()? {
        bytes.extend_from_slice(&part.chunk);
    }
    Ok(bytes)
}

/// A header and the file in chunks.
fn parts(
    lease: v1::Lease,
    outcome: String,
    file: Vec<u8>,
) -> Request<impl tokio_stream::Stream<Item = v1::PutFileRequest> + Send + 'static> {
    let announced = (!file.is_empty())
        .then(|| ArtifactRef { digest: Digest::of(&file), size: ByteSize(file.len() as u64) }.into());
    let header = v1::PutFileHeader { lease: Some(lease), file: announced, outcome };
    let count = file.len().div_ceil(CHUNK);
    let chunks = (0..count).map(move |index| {
        let end = ((index + 1) * CHUNK).min(file.len());
        Part::Chunk(file[index * CHUNK..end].to_vec())
    });
    let parts = std::iter::once(Part::Header(header)).chain(chunks);
    Request::new(tokio_stream::iter(parts.map(|part| v1::PutFileRequest { part: Some(part) })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::causes::chain;

    fn broken(cause: impl Error + Send + Sync + 'static) -> WorkerError {
        WorkerError::from(Status::from_error(Box::new(io::Error::other(cause))))
    }

    #[test]
    fn a_connection_that_fails_is_told_in_one_line() {
        let refused = broken(io::Error::new(io::ErrorKind::ConnectionRefused, "nobody listens"));
        assert_eq!(chain(&refused), "nobody listens");
        assert!(refused.locked_out().is_err(), "it may come");
        let answered = WorkerError::from(Status::unavailable("the coordinator is stopping"));
        assert_eq!(chain(&answered), "the coordinator is stopping");
        assert!(answered.locked_out().is_err());
    }

    #[test]
    fn who_is_refused_for_his_certificate_need_not_wait() {
        let alert = rustls::Error::AlertReceived(AlertDescription::UnknownCA);
        let words = alert.to_string();
        assert!(broken(alert).locked_out().is_ok());
        assert!(broken(io::Error::other(words)).locked_out().is_ok(), "on its way only words are left");
        let issuer = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        assert!(broken(issuer).locked_out().is_ok());
        let busy = rustls::Error::AlertReceived(AlertDescription::InternalError);
        assert!(broken(busy).locked_out().is_err());
    }
}
