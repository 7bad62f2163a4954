//! The end of a deployment, as an operator wants it. Its devices are told nothing: each goes on with what it serves, and any
//! other deployment that selects it may have it from then on.

use proto::v1;
use tonic::Status;

use super::{job, note, status};
use crate::audit::Event;
use crate::clock::unix_ms;
use crate::core::Core;
use crate::fleet::Fleet;
use crate::store::{DeploymentPhase, DeploymentRecord, Store, StoreError};

pub(super) async fn delete(
    core: Core,
    by: String,
    v1::DeleteDeploymentRequest { name, force }: v1::DeleteDeploymentRequest,
) -> Result<v1::DeleteDeploymentResponse, Status> {
    let (wanted, fleet) = (name.clone(), core.fleet.clone());
    let removed = core.store.call(move |store| {
        let is_told = is_told(store, &wanted)?;
        let may = |record: &DeploymentRecord| has_ended(record) || !(is_told || has_begun(record));
        let removed = store.remove_deployment(&wanted, &mut |record| force || may(record), unix_ms());
        match removed {
            Err(StoreError::Missing { .. }) => Ok(Err(false)),
            Ok(None) => Ok(Err(true)),
            Ok(Some(record)) => Ok(Ok((serving(store, &fleet, &wanted)?, record))),
            Err(error) => Err(error),
        }
    });
    let (serving, record) = removed.await.map_err(status::store)?.map_err(|is_there| match is_there {
        false => Status::not_found(format!("no deployment '{name}'")),
        true => Status::failed_precondition(format!(
            "deployment '{name}' is under way; `reconvene rollout abort {name}` ends it first, --force deletes it as it is"
        )),
    })?;
    job::drop_scoring(&core, &record).await?;
    let DeploymentRecord { generation, text, message, .. } = record;
    tracing::info!(deployment = name, %generation, "deployment deleted");
    core.board.clear(&name);
    let event = Event::new(by, "delete", format!("deployment/{name}"));
    let after = format!("deleted; {} devices keep what they serve", serving.len());
    note::note(&core, event.changed(format!("generation {generation}: {message}\n{text}"), after)).await?;
    core.poke.poke();
    Ok(v1::DeleteDeploymentResponse { generation: generation.0, serving })
}

/// The devices that a deployment, in whichever generation, was the last to tell something, and that serve anything: nobody gives
/// them anything else now.
fn serving(store: &dyn Store, fleet: &Fleet, deployment: &str) -> Result<Vec<String>, StoreError> {
    let mut serving = Vec::new();
    for device in store.devices()? {
        let told = store.assignment(&device.id)?.is_some_and(|told| told.order.deployment == deployment);
        let held = match fleet.presence(&device.id) {
            Some(presence) => presence.holding.digest,
            None => device.holding.digest,
        };
        if told && held.is_some() {
            serving.push(device.id.to_string());
        }
    }
    Ok(serving)
}

/// Whether a deployment, in whichever generation, was the last to tell any device something.
fn is_told(store: &dyn Store, deployment: &str) -> Result<bool, StoreError> {
    for device in store.devices()? {
        if store.assignment(&device.id)?.is_some_and(|told| told.order.deployment == deployment) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a model of it is made, or told to any device.
pub(super) fn has_begun(record: &DeploymentRecord) -> bool {
    record.outcomes.values().any(|outcome| outcome.derivation.is_some() || outcome.wave.is_some())
}

fn has_ended(record: &DeploymentRecord) -> bool {
    matches!(record.phase, DeploymentPhase::Complete | DeploymentPhase::Failed { .. })
}
