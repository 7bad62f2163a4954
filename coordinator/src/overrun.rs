//! Which devices are over a latency ceiling with the model that they serve, as the driver found it last. Kept in memory: after a
//! start those that were fitted again are looked at once, the others with their next telemetry.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use proto::{DeviceId, Digest, Generation};

use crate::refit::Breach;
use crate::store::{Outcome, OutcomeRecord};

/// The devices; clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Overruns(Arc<Mutex<BTreeMap<DeviceId, Overrun>>>);

#[derive(Debug)]
struct Overrun {
    served: (Digest, Generation),
    breach: Breach,
}

impl Overruns {
    /// The ceiling that a device breaks with what it was given, or that it breaks none.
    pub(crate) fn note(&self, device: &DeviceId, outcome: &OutcomeRecord, breach: Option<Breach>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match breach.zip(served(outcome)) {
            Some((breach, served)) => drop(known.insert(device.clone(), Overrun { served, breach })),
            None => drop(known.remove(device)),
        }
    }

    /// The ceiling that a device breaks with the model that it has now.
    pub(crate) fn of(&self, device: &DeviceId, outcome: &OutcomeRecord) -> Option<Breach> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let overrun = known.get(device)?;
        let is_active = matches!(outcome.state, Outcome::Active { .. });
        (is_active && served(outcome) == Some(overrun.served)).then(|| overrun.breach.clone())
    }

    /// Forgets the devices that belong to no deployment.
    pub(crate) fn keep(&self, is_held: impl Fn(&DeviceId) -> bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|device, _| is_held(device));
    }
}

fn served(outcome: &OutcomeRecord) -> Option<(Digest, Generation)> {
    outcome.digest.zip(outcome.assignment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_over_its_ceiling_as_long_as_it_serves_that_model() {
        let (overruns, device) = (Overruns::default(), "a".parse::<DeviceId>().unwrap());
        let breach = Breach { quantile: "p95".to_owned(), measured_ms: 2.0, ceiling_ms: 1.0, requests: 500 };
        let mut outcome = OutcomeRecord {
            state: Outcome::Active { since_unix_ms: 1 },
            digest: Some(Digest::of(b"model")),
            assignment: Some(Generation(1)),
            ..OutcomeRecord::waiting("")
        };
        overruns.note(&device, &outcome, Some(breach.clone()));
        assert_eq!(overruns.of(&device, &outcome), Some(breach.clone()));
        outcome.assignment = Some(Generation(2));
        assert_eq!(overruns.of(&device, &outcome), None, "it was given another");
        overruns.note(&device, &outcome, Some(breach.clone()));
        outcome.state = Outcome::Deriving;
        assert_eq!(overruns.of(&device, &outcome), None, "it is to get another");
        outcome.state = Outcome::Active { since_unix_ms: 1 };
        overruns.note(&device, &outcome, None);
        assert_eq!(overruns.of(&device, &outcome), None, "it is within its budget again");
        overruns.note(&device, &outcome, Some(breach));
        overruns.keep(|_| false);
        assert_eq!(overruns.of(&device, &outcome), None);
    }
}
