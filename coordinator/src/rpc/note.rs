//! What operators do goes into the audit log before they are answered.

use proto::v1;
use tonic::Status;

use super::status;
use crate::audit::{AuditEntry, Event};
use crate::clock::unix_ms;
use crate::core::Core;
use crate::manifest;
use crate::store::{AuditQuery, DeploymentRecord};

/// Entries of one answer.
const MOST: usize = 1000;

pub(super) async fn note(core: &Core, event: Event) -> Result<(), Status> {
    let Event { actor, action, subject, after, .. } = &event;
    let said = after.lines().next().unwrap_or_default();
    tracing::info!(by = actor, action, subject, after = said, "audit");
    let appended = core.store.call(move |store| store.append_audit(&[event], unix_ms()));
    appended.await.map_err(status::store)
}

/// What applying a manifest changed: first the fields, for whoever reads a list, then each manifest as it was written.
pub(super) fn applied(
    event: Event,
    before: Option<&DeploymentRecord>,
    now: &DeploymentRecord,
    result: &str,
) -> Event {
    let was = before.map(|was| format!("generation {}\n{}", was.generation, was.text)).unwrap_or_default();
    let changed = before.map(|was| manifest::changes(&was.manifest, &now.manifest)).unwrap_or_default();
    let said = if changed.is_empty() { result.to_owned() } else { changed };
    event.changed(was, format!("generation {}: {said}\n{}", now.generation, now.text))
}

pub(super) async fn list(core: &Core, request: v1::ListAuditRequest) -> Result<v1::AuditList, Status> {
    let v1::ListAuditRequest { subject, after, last } = request;
    let last = (last > 0).then_some(last as usize);
    let query = AuditQuery { subject, after, last, most: MOST };
    let entries = core.store.call(move |store| store.audit(&query)).await.map_err(status::store)?;
    Ok(v1::AuditList { entries: entries.into_iter().map(view).collect() })
}

fn view(entry: AuditEntry) -> v1::AuditEntry {
    let AuditEntry { sequence, at_unix_ms, actor, action, subject, before, after, previous, digest } = entry;
    let (previous, digest) = (previous.to_string(), digest.to_string());
    v1::AuditEntry { sequence, at_unix_ms, actor, action, subject, before, after, previous, digest }
}
