//! Errors as status codes: the only place that makes one.

use std::error::Error as _;
use std::sync::Arc;

use proto::Invalid;
use pruner_core::dataset::DatasetError;
use pruner_core::zoo::UnknownNetwork;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use crate::backup::BackupError;
use crate::blob::BlobError;
use crate::causes::chain;
use crate::datasets::{AddError, FindError};
use crate::derive::DeriveError;
use crate::elsewhere::ElsewhereError;
use crate::fitting::{REASON, Unreachable};
use crate::jobs::outcome::OutcomeError;
use crate::manifest::ManifestError;
use crate::models::ImportError;
use crate::store::StoreError;
use crate::trainer::TrainerError;

/// A message that means nothing.
pub(super) fn invalid(error: Invalid) -> Status {
    Status::invalid_argument(error.to_string())
}

/// A manifest that cannot be applied.
pub(super) fn manifest(error: ManifestError) -> Status {
    Status::invalid_argument(chain(&error))
}

pub(super) fn store(error: StoreError) -> Status {
    let text = chain(&error);
    match error {
        StoreError::Missing { .. } => Status::not_found(text),
        StoreError::Superseded { .. } | StoreError::Stale { .. } | StoreError::Gone { .. } => {
            Status::aborted(text)
        }
        StoreError::Locked { .. } | StoreError::Stopping => Status::unavailable(text),
        StoreError::Full { .. } => Status::resource_exhausted(text),
        StoreError::Lost
        | StoreError::File { .. }
        | StoreError::Schema { .. }
        | StoreError::RecordSchema { .. }
        | StoreError::Corrupt { .. }
        | StoreError::Encode { .. }
        | StoreError::Twice { .. }
        | StoreError::Engine(_) => internal(text),
    }
}

pub(super) fn blob(error: BlobError) -> Status {
    let text = chain(&error);
    match error {
        BlobError::Missing { .. } => Status::not_found(text),
        BlobError::Damaged { .. } => Status::data_loss(text),
        BlobError::File { .. } | BlobError::Empty => internal(text),
    }
}

pub(super) fn outcome(error: OutcomeError) -> Status {
    let text = chain(&error);
    match error {
        OutcomeError::Lost { .. } => Status::failed_precondition(text),
        OutcomeError::Foreign { .. } => Status::invalid_argument(text),
        OutcomeError::Encode(_) => internal(text),
        OutcomeError::Blob(error) => blob(error),
        OutcomeError::Store(error) => store(error),
    }
}

pub(super) fn import(error: ImportError) -> Status {
    let text = chain(&error);
    match error {
        ImportError::Reserved { .. } | ImportError::Taken { .. } => Status::already_exists(text),
        ImportError::Mangled { .. } => Status::data_loss(text),
        ImportError::Read(_) | ImportError::Shape { .. } => Status::invalid_argument(text),
        ImportError::Blob(error) => blob(error),
        ImportError::Store(error) => store(error),
    }
}

pub(super) fn add(error: AddError) -> Status {
    let text = chain(&error);
    match error {
        AddError::Taken { .. } => Status::already_exists(text),
        AddError::Relative { .. } | AddError::Private(_) | AddError::Dataset(_) => {
            Status::invalid_argument(text)
        }
        AddError::Store(error) => store(error),
    }
}

/// A deployment's dataset cannot be used.
pub(super) fn dataset(error: &FindError) -> Status {
    let field = match error {
        FindError::Unknown { .. } => "spec.dataset.name",
        FindError::Relative { .. } | FindError::Absent { .. } | FindError::Private(_) => "spec.dataset.path",
    };
    Status::invalid_argument(format!("{field}: {error}"))
}

/// A deployment's dataset is there, and is none.
pub(super) fn images(error: &DatasetError) -> Status {
    Status::invalid_argument(format!("spec.dataset: {}", chain(error)))
}

/// No device can meet its budget.
pub(super) fn unreachable(error: &Unreachable) -> Status {
    let mut status = Status::failed_precondition(format!(
        "{error}; nothing was changed: raise the ceiling, or `reconvene plan` says what each device could meet"
    ));
    status.metadata_mut().insert(REASON.0, MetadataValue::from_static(REASON.1));
    status
}

/// A deployment names a network that nobody has.
pub(super) fn network(error: &UnknownNetwork) -> Status {
    Status::invalid_argument(format!(
        "spec.network: {error}; `reconvene model import` brings one of your own"
    ))
}

pub(super) fn derive(error: DeriveError) -> Status {
    let text = chain(&error);
    match error {
        DeriveError::Dataset(_) | DeriveError::Network(_) | DeriveError::Build { .. } => {
            Status::invalid_argument(text)
        }
        DeriveError::Weights(_) | DeriveError::Diverged => Status::invalid_argument(text),
        DeriveError::Cancelled => Status::unavailable(text),
        DeriveError::Records(error) => store(error),
        DeriveError::Store(_)
        | DeriveError::Scores(_)
        | DeriveError::Pool(_)
        | DeriveError::Score(_)
        | DeriveError::Surgery(_)
        | DeriveError::Train(_)
        | DeriveError::Trainer(_)
        | DeriveError::Run(_)
        | DeriveError::Encode(_) => internal(text),
    }
}

pub(super) fn elsewhere(error: ElsewhereError) -> Status {
    let text = chain(&error);
    match error {
        ElsewhereError::Unknown { .. } => Status::not_found(text),
        ElsewhereError::NoName { .. }
        | ElsewhereError::Ambiguous { .. }
        | ElsewhereError::Trained { .. }
        | ElsewhereError::Collides { .. }
        | ElsewhereError::NotExternal { .. }
        | ElsewhereError::Network(_)
        | ElsewhereError::Dataset(_) => Status::invalid_argument(text),
        ElsewhereError::Derive(error) => derive(error),
        ElsewhereError::Blob(error) => blob(error),
        ElsewhereError::Store(error) => store(error),
        ElsewhereError::Plan { .. }
        | ElsewhereError::Onnx(_)
        | ElsewhereError::Read(_)
        | ElsewhereError::Weights(_) => internal(text),
    }
}

/// A deployment asks for the host's program, and there is none.
pub(super) fn no_trainer() -> Status {
    Status::invalid_argument(format!("spec.training.trainer: {}", TrainerError::NotConfigured))
}

pub(super) fn backup(error: BackupError) -> Status {
    let text = chain(&error);
    match error {
        BackupError::Store(error) => store(error),
        BackupError::Blob(error) => blob(error),
        BackupError::File { .. } => internal(text),
    }
}

/// Runs `f` where blocking is allowed.
pub(super) async fn blocking<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
    tokio::task::spawn_blocking(f).await.map_err(|error| internal(error.to_string()))
}

/// The coordinator's own failure, which nobody is refused by. The only place that makes one: by its source it is told from what
/// the decoder says of bytes that are no message.
#[expect(clippy::disallowed_methods, reason = "it is the one that marks them")]
pub(super) fn internal(text: String) -> Status {
    tracing::error!(error = text, "a call failed");
    let mut status = Status::internal(text);
    status.set_source(Arc::new(Failed));
    status
}

/// Marks what was made by [`internal`].
#[derive(Debug, thiserror::Error)]
#[error("a call failed")]
struct Failed;

/// What is wrong with what was sent, where the decoder took it for no message, or for too long a one; `None` where a
/// connection broke.
pub(super) fn no_message(status: &Status) -> Option<Invalid> {
    let is_too_long = status.code() == Code::OutOfRange && status.source().is_none();
    (is_too_long || is_no_message(status)).then(|| Invalid::new("message", status.message()))
}

/// Whether what was sent is no message: the decoder's status, which names no cause. A connection that broke has one.
pub(super) fn is_no_message(status: &Status) -> bool {
    status.code() == Code::Internal && status.source().is_none()
}
