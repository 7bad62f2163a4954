//! Join tokens and what operators do about devices. Secrets are told once and never kept.

use std::time::Duration;

use proto::{DeviceId, Digest, v1};
use tonic::Status;

use super::status;
use crate::clock::unix_ms;
use crate::core::Core;
use crate::identity::secret;
use crate::store::{IdentityRecord, OperatorRecord, TokenRecord};

/// A token lasts at most so long.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);
/// So much of a key's digest names it.
const KEY_DIGITS: usize = 8;
/// Digits of a token's name and of its secret, in bytes.
const BYTES: (usize, usize) = (4, 16);

/// Makes a token, and the file that a device joins with.
pub(super) async fn create_token(
    core: &Core,
    request: v1::CreateTokenRequest,
) -> Result<v1::CreateTokenResponse, Status> {
    let v1::CreateTokenRequest { uses, lifetime_ms, labels, approval } = request;
    let authorities = core.authorities.as_ref().ok_or_else(|| {
        Status::failed_precondition(
            "this coordinator does not encrypt: devices join it without a token (tls.enabled in its configuration)",
        )
    })?;
    let lifetime = Duration::from_millis(lifetime_ms);
    if uses == 0 || lifetime.is_zero() || lifetime > LONGEST {
        return Err(Status::invalid_argument(
            "a token is for at least one device, and lasts at most 366 days",
        ));
    }
    let random = |bytes| secret::random(bytes).map_err(|error| Status::internal(error.to_string()));
    let (id, secret) = (random(BYTES.0)?, random(BYTES.1)?);
    let now = unix_ms();
    let record = TokenRecord {
        id: id.clone(),
        secret: Digest::of(secret.as_bytes()),
        uses,
        used_by: Default::default(),
        labels: labels.into_iter().collect(),
        created_unix_ms: now,
        expires_unix_ms: now.saturating_add(lifetime_ms),
        approval,
    };
    let token = view(&record);
    core.store.call(move |store| store.insert_token(&record)).await.map_err(status::store)?;
    let join_file = format!("reconvene-join-1 {id}.{secret}\n{}", authorities.now().succession.told());
    Ok(v1::CreateTokenResponse { token: Some(token), join_file })
}

pub(super) async fn tokens(core: &Core, id: String) -> Result<v1::TokenList, Status> {
    let tokens = core.store.call(|store| store.tokens()).await.map_err(status::store)?;
    let named = tokens.iter().filter(|token| id.is_empty() || token.id == id);
    Ok(v1::TokenList { tokens: named.map(view).collect() })
}

/// From now on nobody joins by it; who has joined stays.
pub(super) async fn revoke_token(core: &Core, id: String) -> Result<v1::Token, Status> {
    let now = unix_ms();
    let revoked = core.store.call(move |store| {
        store.update_token(&id, &mut |token| token.expires_unix_ms = token.expires_unix_ms.min(now))
    });
    Ok(view(&revoked.await.map_err(status::store)?))
}

/// Bans a device, lets it come again, or has it enroll anew.
pub(super) async fn control_device(core: &Core, name: &str, verb: &str) -> Result<&'static str, Status> {
    let device: DeviceId = name.parse().map_err(status::invalid)?;
    let (result, banned) = match verb {
        "ban" => ("banned", Some(true)),
        "unban" => ("unbanned", Some(false)),
        "forget" => ("forgotten", None),
        other => {
            return Err(Status::invalid_argument(format!(
                "'{other}' is no verb; allowed: ban, unban, forget"
            )));
        }
    };
    let named = device.clone();
    let changed = core.store.call(move |store| {
        if store.device(&named)?.is_none() && store.identity(&named)?.is_none() {
            return Ok(None);
        }
        let changed = store.change_identity(&named, &mut |identity| match banned {
            Some(banned) => identity.banned = banned,
            None => {
                (identity.key, identity.token) = (None, None);
                (identity.confirmed, identity.waits) = (false, false);
            }
        })?;
        Ok(Some(changed))
    });
    let Some(changed) = changed.await.map_err(status::store)? else {
        return Err(Status::not_found(format!("no device '{device}'")));
    };
    core.admissions.note(&changed);
    if banned != Some(false) {
        core.fleet.close(&device);
    }
    core.poke.poke();
    Ok(result)
}

/// Lets a device in that came by a token which lets nobody in by itself, if it is the one with this key.
pub(super) async fn approve_device(core: &Core, name: &str, key: &str) -> Result<(), Status> {
    let device: DeviceId = name.parse().map_err(status::invalid)?;
    if key.len() < KEY_DIGITS || !key.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(Status::invalid_argument(format!(
            "'{key}' is not the beginning of a key's digest, at least {KEY_DIGITS} digits; the device's own log has it, and \
             `reconvene device pending`"
        )));
    }
    let (named, key) = (device.clone(), key.to_ascii_lowercase());
    let approved = core.store.call(move |store| {
        let is_its = |key_of: Option<Digest>| key_of.is_some_and(|it| it.to_string().starts_with(&key));
        let Some(known) = store.identity(&named)?.filter(|known| known.key.is_some()) else {
            return Ok(None);
        };
        if !is_its(known.key) {
            return Ok(Some(Err(known)));
        }
        // Another may have come by that name meanwhile.
        let now = store.change_identity(&named, &mut |known| known.waits &= !is_its(known.key))?;
        Ok(Some(if is_its(now.key) { Ok(now) } else { Err(now) }))
    });
    match approved.await.map_err(status::store)? {
        None => Err(Status::not_found(format!("no device '{device}' has come by a join token"))),
        Some(Ok(approved)) => {
            core.admissions.note(&approved);
            Ok(())
        }
        Some(Err(known)) => Err(Status::failed_precondition(format!(
            "the device that calls itself {device} has the key {}",
            known.key.map_or_else(|| "of nobody".to_owned(), |key| key.short())
        ))),
    }
}

/// Devices that came by a token and have not opened a session yet.
pub(super) async fn pending(core: &Core, name: &str) -> Result<v1::PendingList, Status> {
    let identities = core.store.call(|store| store.identities()).await.map_err(status::store)?;
    let pending = identities.into_iter().filter(|it| !it.confirmed && !it.banned);
    let of_name = pending.filter(|it| name.is_empty() || it.device.as_str() == name);
    let view = |it: IdentityRecord| {
        Some(v1::PendingDevice {
            id: it.device.to_string(),
            key: it.key?.to_string(),
            token: it.token.unwrap_or_default(),
            waits: it.waits,
            since_unix_ms: it.enrolled_unix_ms,
        })
    };
    Ok(v1::PendingList { devices: of_name.filter_map(view).collect() })
}

/// Takes an operator's certificates back, or lets them count again.
pub(super) async fn control_operator(core: &Core, name: &str, verb: &str) -> Result<&'static str, Status> {
    let name: DeviceId = name.parse().map_err(status::invalid)?;
    let (result, revoked) = match verb {
        "revoke" => ("revoked", true),
        "reinstate" => ("reinstated", false),
        other => {
            return Err(Status::invalid_argument(format!(
                "'{other}' is no verb; allowed: revoke, reinstate"
            )));
        }
    };
    let record = OperatorRecord { name, revoked };
    let stored = record.clone();
    core.store.call(move |store| store.put_operator(&stored)).await.map_err(status::store)?;
    core.admissions.note_operator(&record);
    Ok(result)
}

fn view(token: &TokenRecord) -> v1::Token {
    v1::Token {
        id: token.id.clone(),
        uses: token.uses,
        used_by: token.used_by.iter().map(DeviceId::to_string).collect(),
        labels: token.labels.clone().into_iter().collect(),
        created_unix_ms: token.created_unix_ms,
        expires_unix_ms: token.expires_unix_ms,
        approval: token.approval,
    }
}
