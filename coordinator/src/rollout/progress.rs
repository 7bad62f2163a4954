//! What a device's report changes in the records. Reports of assignments that were replaced change nothing. That a device
//! serves its assignment is written with the device: the driver notes it in the deployment, for all that came meanwhile at once.

use proto::session::{Holding, Phase, Progress};
use proto::{DeviceId, Generation};

use super::journal;
use crate::store::{EndedRecord, Outcome, Store, StoreError};

/// What a report was good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Report {
    /// It is what is known of the device now.
    Recorded,
    /// It is of another generation, and the device has told how its present one, which this is, ended: nothing has changed.
    Stale(Generation),
}

/// Records how far a device's assignment has come. How much of it is downloaded is not stored: the fleet knows.
pub(crate) fn record(
    store: &dyn Store,
    device: &DeviceId,
    report: &Progress,
    now: u64,
) -> Result<Report, StoreError> {
    let failure = match &report.phase {
        Phase::Downloading { .. } | Phase::Verifying => return Ok(Report::Recorded),
        Phase::Active => None,
        Phase::Failed { reason } => Some(reason.clone()),
    };
    let holding = Holding { generation: report.generation, digest: Some(report.digest) };
    let assignment = store.assignment(device)?;
    let present = assignment.as_ref().map(|assignment| assignment.generation);
    let mut is_stale = false;
    store.update_device(device, &mut |record| {
        let ended = record.ended.as_ref().map(|ended| ended.generation);
        is_stale = present.is_some() && ended == present && present != Some(report.generation);
        if is_stale {
            return;
        }
        record.ended = Some(EndedRecord { generation: report.generation, failure: failure.clone() });
        if failure.is_none() {
            record.holding = holding.into();
        }
    })?;
    if let Some(present) = present.filter(|_| is_stale) {
        return Ok(Report::Stale(present));
    }
    let Some(reason) = failure else { return Ok(Report::Recorded) };
    let state = Outcome::Failed { reason };
    let Some(assignment) = assignment.filter(|it| it.generation == report.generation) else {
        return Ok(Report::Recorded);
    };
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
        Ok(_) => store.append_audit(event.as_slice(), now)?,
        Err(StoreError::Superseded { .. } | StoreError::Missing { .. }) => {}
        Err(error) => return Err(error),
    }
    Ok(Report::Recorded)
}

#[cfg(test)]
mod tests {
    use proto::Digest;

    use super::*;
    use crate::store::sample::order;
    use crate::store::{DeviceRecord, SledStore};

    #[test]
    fn a_report_of_a_generation_that_was_replaced_does_not_undo_one_of_the_present() {
        let folder = tempfile::tempdir().unwrap();
        let store = SledStore::open(folder.path()).unwrap();
        let device: DeviceId = "gw-1".parse().unwrap();
        let known = |_: Option<DeviceRecord>| DeviceRecord {
            id: device.clone(),
            labels: Default::default(),
            agent_version: String::new(),
            profile: None,
            holding: Default::default(),
            ended: None,
            unreadable: None,
            serving_address: String::new(),
            last_seen_unix_ms: 1,
            registered_unix_ms: 1,
        };
        store.register_device(&device, &mut { known }).unwrap();
        let [older, newer] = [b"a", b"b"].map(|model| store.assign(&device, &order("mnist", model)).unwrap());
        let report = |generation, phase| {
            let report = Progress { generation, digest: Digest::of(b"a"), phase };
            record(&store, &device, &report, 1).unwrap()
        };
        // It serves the older one while it fetches the newer.
        assert_eq!(report(older.generation, Phase::Active), Report::Recorded);
        assert_eq!(report(newer.generation, Phase::Active), Report::Recorded);
        let before = store.device(&device).unwrap();
        for phase in [Phase::Active, Phase::Failed { reason: "late".to_owned() }] {
            assert_eq!(report(older.generation, phase), Report::Stale(newer.generation));
        }
        assert_eq!(store.device(&device).unwrap(), before);
        assert_eq!(report(newer.generation, Phase::Failed { reason: "died".to_owned() }), Report::Recorded);
    }
}
