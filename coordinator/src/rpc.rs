//! The wire: each call becomes domain values, one call inward, and a message or a status back. No decisions here.

mod access;
mod add;
mod apply;
mod artifact;
mod authority;
mod backup;
mod delete;
mod elsewhere;
mod enrollment;
pub(crate) mod guard;
mod import;
mod job;
mod note;
mod operator;
mod reach;
mod refused;
mod session;
mod status;
mod token;
mod upload;
mod view;
mod worker;

#[cfg(test)]
mod tests;

pub(crate) use artifact::ArtifactRpc;
pub(crate) use enrollment::EnrollmentRpc;
pub(crate) use operator::OperatorRpc;
pub(crate) use refused::Overheard;
pub(crate) use session::SessionRpc;
pub(crate) use worker::WorkerRpc;
