//! What admins do about devices and operators: who may come.

use proto::{DeviceId, Digest, Invalid, v1};
use tonic::Status;

use super::{note, status};
use crate::audit::Event;
use crate::clock::unix_ms;
use crate::core::Core;
use crate::identity::enroll::{KEY_DIGITS, Refusal, usable};
use crate::identity::issued::Issued;
use crate::jobs::queue::OWN;
use crate::local::USER;
use crate::store::{IdentityRecord, OperatorRecord};

/// Bans a device, lets it come again, or has it enroll anew.
pub(super) async fn control_device(
    core: Core,
    by: String,
    v1::ControlDeviceRequest { name, verb }: v1::ControlDeviceRequest,
) -> Result<v1::ControlDeviceResponse, Status> {
    let device: DeviceId = name.parse().map_err(status::invalid)?;
    let (result, banned) = match verb.as_str() {
        "ban" => ("banned", Some(true)),
        "unban" => ("unbanned", Some(false)),
        "forget" => ("forgotten", None),
        other => {
            return Err(Status::invalid_argument(format!(
                "'{other}' is no verb; allowed: ban, unban, forget"
            )));
        }
    };
    let (named, admissions) = (device.clone(), core.admissions.clone());
    let changed = core.store.call(move |store| {
        if store.device(&named)?.is_none() && store.identity(&named)?.is_none() {
            return Ok(None);
        }
        let mut was = String::new();
        store.change_identity(&named, &mut |identity| {
            was = standing(identity);
            match banned {
                Some(banned) => identity.banned = banned,
                None => {
                    (identity.key, identity.token) = (None, None);
                    (identity.confirmed, identity.waits) = (false, false);
                }
            }
        })?;
        admissions.settle(store, &named)?;
        Ok(Some(was))
    });
    let Some(was) = changed.await.map_err(status::store)? else {
        return Err(Status::not_found(format!("no device '{device}'")));
    };
    if banned != Some(false) {
        core.fleet.close(&device);
    }
    core.refusals.forget(&device);
    core.poke.poke();
    let event = Event::new(by, &verb, format!("device/{device}"));
    note::note(&core, event.changed(was, result)).await?;
    Ok(v1::ControlDeviceResponse { result: result.to_owned() })
}

/// Who a device was known to be.
fn standing(identity: &IdentityRecord) -> String {
    let banned = if identity.banned { "banned" } else { "let in" };
    let key = identity.key.map_or_else(|| "no key".to_owned(), |key| format!("key {}", key.short()));
    let joined = match (&identity.token, identity.confirmed) {
        (Some(token), true) => format!(", by token {token}"),
        (Some(token), false) => format!(", by token {token}, not yet there"),
        (None, _) => String::new(),
    };
    format!("{banned}, {key}{joined}")
}

/// Lets a device in that came by a token which lets nobody in by itself, if it is the one with this key.
pub(super) async fn approve_device(
    core: Core,
    by: String,
    v1::ApproveDeviceRequest { name, key }: v1::ApproveDeviceRequest,
) -> Result<v1::ApproveDeviceResponse, Status> {
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
            return Ok(Err(Status::not_found(format!("no device '{named}' has come by a join token"))));
        };
        let other =
            || Status::failed_precondition(format!("the device that calls itself {named} has another key"));
        if !is_its(known.key) {
            return Ok(Err(other()));
        }
        if known.banned {
            return Ok(Err(Status::failed_precondition(format!(
                "device {named} is banned: `reconvene device unban {named}` first"
            ))));
        }
        if !known.waits {
            return Ok(Ok(Approval::Needless { pending: !known.confirmed }));
        }
        let token = known.token.as_deref().map(|id| store.token(id)).transpose()?.flatten();
        let refusal = token.map_or(Err(Refusal::UnknownToken), |token| usable(&token, unix_ms())).err();
        if let Some(refusal) = refusal.filter(|_| !known.confirmed) {
            return Ok(Err(Status::failed_precondition(format!("{refusal}; give the device a new one"))));
        }
        // Another may have come by that name meanwhile.
        let now = store.change_identity(&named, &mut |known| known.waits &= !is_its(known.key))?;
        Ok(if is_its(now.key) { Ok(Approval::Given(Box::new(now))) } else { Err(other()) })
    });
    let approved = match approved.await.map_err(status::store)?? {
        Approval::Given(approved) => approved,
        Approval::Needless { pending } => {
            return Ok(v1::ApproveDeviceResponse { already: true, pending });
        }
    };
    core.refusals.forget(&device);
    let key = approved.key.map(|key| format!("key {key}")).unwrap_or_default();
    note::note(&core, Event::new(by, "approve", format!("device/{device}")).changed("", key)).await?;
    Ok(v1::ApproveDeviceResponse::default())
}

/// What an approval comes to.
enum Approval {
    /// The device may come.
    Given(Box<IdentityRecord>),
    /// It may come already; whether it has not yet.
    Needless { pending: bool },
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

/// Those that `name` selects of the operators of whom anything is known; all, where it is empty.
pub(super) async fn operators(core: &Core, name: &str) -> Result<v1::OperatorList, Status> {
    let own = core.state_dir.clone();
    let issued = status::blocking(move || Issued::all(&own)).await?;
    let issued =
        issued.map_err(|error| status::internal(format!("reading the list of operators: {error}")))?;
    let known = core.store.call(|store| store.operators()).await.map_err(status::store)?;
    let is_revoked = |name: &DeviceId| known.iter().any(|it| it.name == *name && it.revoked);
    let view = |it: &Issued| v1::Operator {
        name: it.name.to_string(),
        role: it.role.clone(),
        made_unix_ms: it.made_unix_ms,
        expires_unix_ms: it.expires_unix_ms,
        revoked: is_revoked(&it.name),
    };
    let mut operators: Vec<v1::Operator> = issued.iter().map(view).collect();
    // Of whom no certificate is known, there is nothing to be said but that he was revoked.
    let is_unissued = |record: &&OperatorRecord| issued.iter().all(|it| it.name != record.name);
    for record in known.iter().filter(|record| record.revoked).filter(is_unissued) {
        let (name, revoked) = (record.name.to_string(), record.revoked);
        operators.push(v1::Operator { name, revoked, ..v1::Operator::default() });
    }
    operators.retain(|operator| name.is_empty() || operator.name == name);
    operators.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(v1::OperatorList { operators })
}

/// Takes an operator's certificates back, or lets them count again.
pub(super) async fn control_operator(
    core: Core,
    by: String,
    v1::ControlOperatorRequest { name, verb }: v1::ControlOperatorRequest,
) -> Result<v1::ControlOperatorResponse, Status> {
    let name: DeviceId = name
        .parse()
        .map_err(|error: Invalid| status::invalid(Invalid { field: "operator name", ..error }))?;
    if by == name.as_str() && verb == "revoke" {
        return Err(Status::failed_precondition("nobody revokes himself: another admin can"));
    }
    if name.as_str() == OWN && verb == "revoke" {
        return Err(Status::failed_precondition(format!(
            "'{OWN}' is the coordinator's own worker, which `derive.local_worker = false` ends"
        )));
    }
    let (result, revoked) = match verb.as_str() {
        "revoke" => ("revoked", true),
        "reinstate" => ("reinstated", false),
        other => {
            return Err(Status::invalid_argument(format!(
                "'{other}' is no verb; allowed: revoke, reinstate"
            )));
        }
    };
    let is_unknown = !is_known(&core, &name).await?;
    if is_unknown && !revoked {
        return Err(Status::not_found(format!(
            "no operator '{name}' is known, and none of that name was revoked; `reconvene operator list` lists them"
        )));
    }
    let admissions = core.admissions.clone();
    let was = if admissions.is_revoked(&name) { "revoked" } else { "in force" };
    let event = Event::new(by, &verb, format!("operator/{name}")).changed(was, result);
    let record = OperatorRecord { name, revoked };
    let stored = core.store.call(move |store| {
        store.put_operator(&record)?;
        admissions.settle_operator(store, &record.name)
    });
    stored.await.map_err(status::store)?;
    note::note(&core, event).await?;
    Ok(v1::ControlOperatorResponse { result: result.to_owned(), unknown: is_unknown })
}

/// Whether anything is known of an operator. Certificates that were made before they were noted are not; users of the host need
/// none.
async fn is_known(core: &Core, name: &DeviceId) -> Result<bool, Status> {
    if name.as_str().starts_with(USER) {
        return Ok(true);
    }
    let of_name = operators(core, name.as_str()).await?;
    Ok(!of_name.operators.is_empty())
}
