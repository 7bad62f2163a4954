//! The fleet's authorities, for operators: which there are, the steps from one to the next, and new certificates of the present one.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::{Digest, v1};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tonic::Status;

use super::{note, status};
use crate::audit::Event;
use crate::causes::chain;
use crate::clock::unix_ms;
use crate::core::Core;
use crate::identity::Peer;
use crate::identity::authorities::{Authorities, RotationError};
use crate::identity::authority::KeyRequest;
use crate::identity::caller::Issuer;
use crate::identity::issued::Issued;
use crate::identity::succession::{Member, Step};

fn authorities(core: &Core) -> Result<Arc<Authorities>, Status> {
    core.authorities.clone().ok_or_else(|| {
        Status::failed_precondition(
            "this coordinator does not encrypt, and has no authority (tls.enabled in its configuration)",
        )
    })
}

pub(super) async fn list(core: &Core, name: &str) -> Result<v1::AuthorityList, Status> {
    let now = authorities(core)?.now();
    let issued = issued(core).await?;
    let all = now.succession.members().iter().map(|member| view(member, &issued));
    Ok(v1::AuthorityList { authorities: all.filter(|it| name.is_empty() || it.name == name).collect() })
}

/// Takes one step, for one whose certificate `own` issued. What would end his connection before its answer is refused.
pub(super) async fn control(
    core: Core,
    (by, own): (String, Issuer),
    v1::ControlAuthorityRequest { verb }: v1::ControlAuthorityRequest,
) -> Result<v1::Authority, Status> {
    let authorities = authorities(&core)?;
    let step: Step = verb.parse().map_err(Status::invalid_argument)?;
    let taken = core.tasks.spawn_blocking(move || authorities.take(step, own, unix_ms())).await;
    let taken =
        taken.map_err(|_| status::internal("the step hit a defect; the log says where".to_owned()))?;
    let now = taken.map_err(|error| match error {
        RotationError::Step(_) => Status::failed_precondition(error.to_string()),
        RotationError::Authority(_) => status::internal(chain(&error)),
    })?;
    let changed = now.succession.changed_by(step);
    let event = Event::new(by, &verb, format!("authority/{}", changed.number));
    note::note(&core, event.changed("", changed.phase.name())).await?;
    Ok(view(changed, &issued(&core).await?))
}

/// Another certificate for an operator who has one.
pub(super) async fn renew(
    core: Core,
    peer: Peer,
    v1::RenewOperatorRequest { request }: v1::RenewOperatorRequest,
) -> Result<v1::RenewOperatorResponse, Status> {
    let Peer::Operator { name, role, key: Some(key) } = peer else {
        return Err(Status::failed_precondition("only who has an operator's certificate gets another"));
    };
    let request = KeyRequest::read(&request)
        .map_err(|error| Status::invalid_argument(format!("the request: {}", chain(&error))))?;
    if request.key() != key {
        return Err(Status::permission_denied(
            "another key needs another certificate: reconvene operator create",
        ));
    }
    let now = authorities(&core)?.now();
    let certificate = now.active.operator_again(&name, role, &request);
    let certificate = certificate.map_err(|error| status::internal(chain(&error)))?;
    if let Some(issued) = Issued::of(&name, role, &certificate) {
        let own = core.state_dir.clone();
        if let Err(error) = status::blocking(move || issued.note(&own)).await? {
            tracing::warn!(operator = %name, %error, "the certificate is not in the list of operators");
        }
    }
    let by = format!("{role}, key {}, authority {}", key.short(), now.succession.active().number);
    note::note(&core, Event::new(name.as_str(), "renew", format!("operator/{name}")).changed("", by)).await?;
    Ok(v1::RenewOperatorResponse { certificate, authorities: now.succession.told() })
}

/// How many devices' newest certificates each authority issued.
async fn issued(core: &Core) -> Result<BTreeMap<u32, u32>, Status> {
    let identities = core.store.call(|store| store.identities()).await.map_err(status::store)?;
    let mut issued = BTreeMap::new();
    for identity in identities.iter().filter(|identity| identity.confirmed && !identity.banned) {
        *issued.entry(identity.authority).or_default() += 1;
    }
    Ok(issued)
}

fn view(member: &Member, issued: &BTreeMap<u32, u32>) -> v1::Authority {
    let der = CertificateDer::from_pem_slice(member.certificate.as_bytes());
    v1::Authority {
        name: member.number.to_string(),
        phase: member.phase.name().to_owned(),
        since_unix_ms: member.since_unix_ms,
        devices: issued.get(&member.number).copied().unwrap_or_default(),
        fingerprint: der.map(|der| Digest::of(&der).to_string()).unwrap_or_default(),
    }
}
