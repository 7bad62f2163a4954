//! Who may call what. Refuses; never looks into a request.

use proto::DeviceId;
use tonic::{Request, Status};

use crate::identity::admissions::Admissions;
use crate::identity::caller::{Caller, Issuer, Line};
use crate::identity::{Peer, Role};

/// Who is at the other end; on a connection that says nothing, nobody.
pub(super) fn peer<T>(request: &Request<T>) -> Peer {
    request.extensions().get::<Caller>().map_or(Peer::Unknown, |caller| caller.peer.clone())
}

/// The connection that a request came on.
pub(super) fn line<T>(request: &Request<T>) -> Line {
    request.extensions().get::<Caller>().map(|caller| caller.line.clone()).unwrap_or_default()
}

/// Which authority's certificate an operator showed.
pub(super) fn issuer<T>(request: &Request<T>) -> Issuer {
    request.extensions().get::<Caller>().map_or(Issuer::Nobody, |caller| caller.issuer)
}

/// Whether a device calls that is not kept out.
pub(crate) fn device(admissions: &Admissions, request: Request<()>) -> Result<Request<()>, Status> {
    match peer(&request) {
        Peer::Plain => Ok(request),
        Peer::Device { id, .. } if admissions.is_banned(&id) => Err(banned(&id)),
        Peer::Device { .. } => Ok(request),
        Peer::Unknown | Peer::Operator { .. } => {
            Err(Status::unauthenticated("this call is for devices, and needs a device's certificate"))
        }
    }
}

/// Whether a device calls that has opened a session with its key before.
pub(crate) fn confirmed(admissions: &Admissions, request: Request<()>) -> Result<Request<()>, Status> {
    match peer(&request) {
        Peer::Operator { role: Role::Worker, .. } => worker(admissions, request),
        Peer::Device { id, key } if !admissions.is_banned(&id) && !admissions.is_confirmed(&id, key) => {
            Err(Status::permission_denied(format!("device {id} has not opened a session with this key")))
        }
        _ => device(admissions, request),
    }
}

/// Whether any operator calls whose certificate was not taken back.
pub(crate) fn operator(admissions: &Admissions, request: Request<()>) -> Result<Request<()>, Status> {
    match peer(&request) {
        Peer::Operator { name, .. } if admissions.is_revoked(&name) => Err(revoked(&name)),
        Peer::Operator { name, role: Role::Worker, .. } => {
            Err(Status::permission_denied(format!("{name} has the role worker; this is for operators")))
        }
        Peer::Plain | Peer::Operator { .. } => Ok(request),
        Peer::Unknown | Peer::Device { .. } => Err(Status::unauthenticated(
            "this call is for operators, and needs an operator's certificate: `reconvene operator create` on the \
             coordinator's host makes one, --identity names it",
        )),
    }
}

/// Whether a worker calls whose certificate was not taken back.
pub(crate) fn worker(admissions: &Admissions, request: Request<()>) -> Result<Request<()>, Status> {
    match peer(&request) {
        Peer::Operator { name, .. } if admissions.is_revoked(&name) => Err(revoked(&name)),
        Peer::Plain | Peer::Operator { role: Role::Worker, .. } => Ok(request),
        Peer::Unknown | Peer::Device { .. } | Peer::Operator { .. } => Err(Status::unauthenticated(
            "this call is for workers, and needs a worker's certificate: `reconvene operator create NAME --role worker` \
             on the coordinator's host makes one",
        )),
    }
}

fn revoked(name: &DeviceId) -> Status {
    Status::permission_denied(format!(
        "operator {name}'s certificates were revoked; an admin's `reconvene operator reinstate {name}` undoes it"
    ))
}

/// Whether an operator with at least this role calls.
pub(super) fn allow<T>(request: &Request<T>, needed: Role) -> Result<(), Status> {
    match peer(request) {
        Peer::Plain => Ok(()),
        Peer::Operator { role, .. } if role >= needed => Ok(()),
        Peer::Operator { name, role, .. } => {
            Err(Status::permission_denied(format!("{name} has the role {role}; this needs {needed}")))
        }
        Peer::Unknown | Peer::Device { .. } => Err(Status::unauthenticated("this call is for operators")),
    }
}

/// Who an operator's call is by, for the log.
pub(super) fn caller<T>(request: &Request<T>) -> String {
    match peer(request) {
        Peer::Operator { name, .. } => name.to_string(),
        Peer::Plain | Peer::Unknown | Peer::Device { .. } => "somebody on this host".to_owned(),
    }
}

/// The key that the caller proved, if its connection is encrypted; an error where it is not this device.
pub(super) fn is_device<T>(request: &Request<T>, device: &DeviceId) -> Result<Option<proto::Digest>, Status> {
    match peer(request) {
        Peer::Plain => Ok(None),
        Peer::Device { id, key } if id == *device => Ok(Some(key)),
        Peer::Device { id, .. } => Err(Status::permission_denied(format!(
            "its certificate is {id}'s, and it says that it is {device}"
        ))),
        Peer::Unknown | Peer::Operator { .. } => {
            Err(Status::unauthenticated("it has no device's certificate"))
        }
    }
}

/// As many calls of that kind are under way for the caller as it may have.
pub(super) fn too_many(what: &str, most: usize) -> Status {
    Status::resource_exhausted(format!(
        "{most} {what} are under way for this certificate, as many as may be; let one end first"
    ))
}

pub(super) fn banned(device: &DeviceId) -> Status {
    Status::permission_denied(format!("device {device} is banned"))
}
