//! Certificates for devices. Decides by `identity::enroll`; a token is used up only when its device has shown what it got.

use std::time::Duration;

use proto::v1::enrollment_service_server::EnrollmentService;
use proto::{DeviceId, Digest, v1};
use tonic::{Request, Response, Status};

use super::refused::Claim;
use super::{guard, status};
use crate::audit::Event;
use crate::clock::unix_ms;
use crate::core::Core;
use crate::identity::admissions::Admissions;
use crate::identity::authority::KeyRequest;
use crate::identity::enroll::{Refusal, Shown, decide, usable};
use crate::refusals::Who;
use crate::store::{IdentityRecord, Store, StoreError};

/// Hands out certificates.
#[derive(Clone)]
pub(crate) struct EnrollmentRpc {
    pub(crate) core: Core,
    pub(crate) lifetime: Duration,
}

#[tonic::async_trait]
impl EnrollmentService for EnrollmentRpc {
    async fn enroll(
        &self,
        request: Request<v1::EnrollRequest>,
    ) -> Result<Response<v1::EnrollResponse>, Status> {
        let Some(authorities) = &self.core.authorities else {
            return Err(Status::failed_precondition("this coordinator does not encrypt, and enrolls nobody"));
        };
        let now = authorities.now();
        let claim = Claim::of(&request);
        let v1::EnrollRequest { device_id, token, request } = request.into_inner();
        let device: DeviceId = device_id.parse().map_err(status::invalid)?;
        let asked = KeyRequest::read(&request).map_err(|error| {
            Status::invalid_argument(format!("the request: {}", crate::causes::chain(&error)))
        })?;
        claim.is(Who::asking(&device, asked.key()));
        let (named, key, number) = (device.clone(), asked.key(), now.succession.active().number);
        let asks = Asks { device: named, key, authority: number, token };
        let admissions = self.core.admissions.clone();
        let decided = self.core.store.call(move |store| record(store, &admissions, &asks)).await;
        decided.map_err(status::store)?.map_err(|refusal| refused(&refusal))?;
        let certificate = now
            .active
            .device(&device, &asked, self.lifetime)
            .map_err(|error| status::internal(crate::causes::chain(&error)))?;
        tracing::info!(%device, key = key.short(), "certificate issued");
        let lifetime_ms = self.lifetime.as_millis() as u64;
        let authorities = now.succession.told();
        Ok(Response::new(v1::EnrollResponse { certificate, lifetime_ms, authorities }))
    }
}

fn refused(refusal: &Refusal) -> Status {
    let text = refusal.to_string();
    match refusal {
        Refusal::OtherKey => Status::already_exists(text),
        Refusal::Waits { .. } => Status::failed_precondition(text),
        Refusal::Crowd(_) => Status::resource_exhausted(text),
        Refusal::Banned
        | Refusal::NoToken
        | Refusal::UnknownToken
        | Refusal::Expired
        | Refusal::Revoked
        | Refusal::UsedUp => Status::permission_denied(text),
    }
}

/// What a device asks for, and which authority would issue it.
struct Asks {
    device: DeviceId,
    key: Digest,
    authority: u32,
    token: String,
}

/// Decides, and records a device that comes by a token, and which authority issues.
fn record(
    store: &dyn Store,
    admissions: &Admissions,
    asks: &Asks,
) -> Result<Result<(), Refusal>, StoreError> {
    let Asks { device, key, authority, token } = asks;
    let shown = Shown::read(token);
    let found = shown.map(|shown| store.token(shown.id)).transpose()?.flatten();
    let now = unix_ms();
    let by = || shown.map(|shown| (shown, found.as_ref()));
    let pending = || shown.map_or(0, |shown| admissions.pending(shown.id, device));
    let known = store.identity(device)?;
    let is_new = decide(known.as_ref(), *key, by(), pending, now);
    if is_new != Ok(true) {
        if is_new.is_ok() && known.is_some_and(|known| known.authority != *authority) {
            store.change_identity(device, &mut |known| {
                if known.key == Some(*key) {
                    known.authority = *authority;
                }
            })?;
        }
        return Ok(is_new.map(drop));
    }
    let _turn = admissions.turn();
    let mut decision = Ok(false);
    let recorded = store.change_identity(device, &mut |known| {
        decision = decide(Some(&*known), *key, by(), pending, now);
        if decision == Ok(true) {
            let (labels, waits) =
                found.as_ref().map(|token| (token.labels.clone(), token.approval)).unwrap_or_default();
            *known = IdentityRecord {
                key: Some(*key),
                token: shown.map(|shown| shown.id.to_owned()),
                confirmed: false,
                waits,
                labels,
                enrolled_unix_ms: now,
                authority: *authority,
                ..known.clone()
            };
        }
    })?;
    if decision == Ok(true) && recorded.waits {
        decision = Err(Refusal::Waits { device: device.clone(), key: *key });
    }
    admissions.settle(store, device)?;
    Ok(decision.map(drop))
}

/// A device shows the certificate of `key`: its token is used now. What its token labels it, or why it may not come.
pub(super) fn confirm(
    store: &dyn Store,
    admissions: &Admissions,
    device: &DeviceId,
    key: Digest,
) -> Result<Result<IdentityRecord, Status>, StoreError> {
    let Some(known) = store.identity(device)?.filter(|known| known.key == Some(key)) else {
        return Ok(Err(Status::permission_denied(format!(
            "{device} is not enrolled with this key any more"
        ))));
    };
    if known.banned {
        return Ok(Err(guard::banned(device)));
    }
    if known.waits {
        return Ok(Err(refused(&Refusal::Waits { device: device.clone(), key })));
    }
    if known.confirmed {
        return Ok(Ok(known));
    }
    let Some(token) = &known.token else { return Ok(Err(Status::permission_denied("it has no token"))) };
    let mut refusal = None;
    let now = unix_ms();
    let used = store.update_token(token, &mut |token| {
        // Again after a crash between the two writes: it has used it already.
        if token.used_by.contains(device) {
            return;
        }
        match usable(token, now) {
            Ok(()) => drop(token.used_by.insert(device.clone())),
            Err(found) => refusal = Some(found),
        }
    });
    match used {
        Err(StoreError::Missing { .. }) => refusal = Some(Refusal::UnknownToken),
        Err(error) => return Err(error),
        Ok(_) => {}
    }
    if let Some(refusal) = refusal {
        return Ok(Err(refused(&refusal)));
    }
    // Somebody else may have come by that name meanwhile, or an operator may have changed his mind.
    let expected = known.token.clone();
    let now_known = store.change_identity(device, &mut |known| {
        if known.key == Some(key) && known.token == expected && !known.banned && !known.waits {
            known.confirmed = true;
        }
    })?;
    admissions.settle(store, device)?;
    let is_its = now_known.key == Some(key) && now_known.confirmed && !now_known.banned;
    if is_its {
        let subject = format!("device/{device}");
        let by = format!("by token {}", expected.as_deref().unwrap_or("-"));
        store.append_audit(&[Event::new(subject.clone(), "join", subject).changed("", by)], now)?;
    }
    Ok(if is_its {
        Ok(now_known)
    } else {
        Err(Status::permission_denied("its enrollment was overtaken by another"))
    })
}
