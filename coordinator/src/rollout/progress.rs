//! What a device's report changes in the records. Reports of assignments that were replaced change nothing. That a device
//! serves its assignment is written with the device: the driver notes it in the deployment, for all that came meanwhile at once.

use proto::DeviceId;
use proto::session::{Holding, Phase, Progress};

use super::journal;
use crate::store::{EndedRecord, Outcome, Store, StoreError};

/// Records how far a device's assignment has come. How much of it is downloaded is not stored: the fleet knows.
pub(crate) fn record(
    store: &dyn Store,
    device: &DeviceId,
    report: &Progress,
    now: u64,
) -> Result<(), StoreError> {
    let failure = match &report.phase {
        Phase::Downloading { .. } | Phase::Verifying => return Ok(()),
        Phase::Active => None,
        Phase::Failed { reason } => Some(reason.clone()),
    };
    let holding = Holding { generation: report.generation, digest: Some(report.digest) };
    store.update_device(device, &mut |record| {
        record.ended = Some(EndedRecord { generation: report.generation, failure: failure.clone() });
        if failure.is_none() {
            record.holding = holding.into();
        }
    })?;
    let Some(reason) = failure else { return Ok(()) };
    let state = Outcome::Failed { reason };
    let Some(assignment) = store.assignment(device)? else { return Ok(()) };
    if assignment.generation != report.generation {
        return Ok(());
    }
    let order = &assignment.order;
    let mut event = None;
    let recorded = store.update_deployment(&order.deployment, order.deployment_generation, &mut |record| {
        event = None;
        let outcome = record.outcomes.get_mut(device);
        let Some(outcome) = outcome.filter(|outcome| outcome.assignment == Some(report.generation)) else {
            return;
        };
        // Reports come again after a reconnect.
        if outcome.state != state {
            let was = std::mem::replace(&mut outcome.state, state.clone());
            event = journal::reported(&order.deployment, device, Some(&was), outcome);
        }
    });
    match recorded {
        Ok(_) => store.append_audit(event.as_slice(), now),
        Err(StoreError::Superseded { .. } | StoreError::Missing { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}
