//! Join tokens. Secrets are told once and never kept.

use std::time::Duration;

use proto::{DeviceId, Digest, v1};
use tonic::Status;

use super::{note, status};
use crate::audit::Event;
use crate::backup::restore::time;
use crate::clock::unix_ms;
use crate::core::Core;
use crate::identity::secret;
use crate::store::TokenRecord;

/// A token lasts at most so long.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);
/// Digits of a token's name and of its secret, in bytes.
const BYTES: (usize, usize) = (4, 16);

/// Makes a token, and the file that a device joins with.
pub(super) async fn create(
    core: Core,
    by: String,
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
    let random = |bytes| secret::random(bytes).map_err(|error| status::internal(error.to_string()));
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
        revoked: false,
    };
    let token = view(&record);
    core.store.call(move |store| store.insert_token(&record)).await.map_err(status::store)?;
    let join_file = format!("reconvene-join-1 {id}.{secret}\n{}", authorities.now().succession.told());
    let made = format!("{uses} uses, until {}", time(token.expires_unix_ms));
    note::note(&core, Event::new(by, "create", format!("token/{}", token.id)).changed("", made)).await?;
    Ok(v1::CreateTokenResponse { token: Some(token), join_file })
}

pub(super) async fn list(core: &Core, id: String) -> Result<v1::TokenList, Status> {
    let tokens = core.store.call(|store| store.tokens()).await.map_err(status::store)?;
    let named = tokens.iter().filter(|token| id.is_empty() || token.id == id);
    Ok(v1::TokenList { tokens: named.map(view).collect() })
}

/// From now on nobody joins by it; who has joined stays.
pub(super) async fn revoke(
    core: Core,
    by: String,
    v1::RevokeTokenRequest { id }: v1::RevokeTokenRequest,
) -> Result<v1::Token, Status> {
    let now = unix_ms();
    let revoked = core.store.call(move |store| {
        store.update_token(&id, &mut |token| {
            token.expires_unix_ms = token.expires_unix_ms.min(now);
            token.revoked = true;
        })
    });
    let revoked = view(&revoked.await.map_err(status::store)?);
    note::note(&core, Event::new(by, "revoke", format!("token/{}", revoked.id))).await?;
    Ok(revoked)
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
        revoked: token.revoked,
    }
}
