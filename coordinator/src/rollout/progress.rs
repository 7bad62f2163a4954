//! What a device's report changes in the records. Reports of assignments that were replaced change nothing.

use proto::DeviceId;
use proto::session::{Holding, Phase, Progress};

use super::journal;
use crate::store::{Outcome, Store, StoreError};

/// Records how far a device's assignment has come. How much of it is downloaded is not stored: the fleet knows.
pub(crate) fn record(
    store: &dyn Store,
    device: &DeviceId,
    report: &Progress,
    now: u64,
) -> Result<(), StoreError> {
    let state = match &report.phase {
        Phase::Downloading { .. } | Phase::Verifying => return Ok(()),
        Phase::Active => {
            let holding = Holding { generation: report.generation, digest: Some(report.digest) };
            store.update_device(device, &mut |record| record.holding = holding.into())?;
            Outcome::Active { since_unix_ms: now }
        }
        Phase::Failed { reason } => Outcome::Failed { reason: reason.clone() },
    };
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
        // Reports come again after a reconnect; when it became active is when it first said so.
        let is_known = outcome.state == state
            || matches!((&outcome.state, &state), (Outcome::Active { .. }, Outcome::Active { .. }));
        if !is_known {
            outcome.state = state.clone();
            event = journal::reported(&order.deployment, device, outcome);
        }
    });
    match recorded {
        Ok(_) => store.append_audit(event.as_slice(), now),
        Err(StoreError::Superseded { .. } | StoreError::Missing { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}
