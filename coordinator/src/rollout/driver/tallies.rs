//! What each device has measured with the model that it serves, kept as a running tally: an interval is read once, when it
//! comes, and all of a device's only once after a start or an assignment. The same as reading all of them each time.

use std::collections::BTreeMap;

use proto::{DeviceId, Digest, Generation, SpoolPosition};

use super::{Driver, Holders};
use crate::fresh::{New, News};
use crate::histogram::LatencyTally;
use crate::store::{OutcomeRecord, StoreError, TelemetryRecord};

/// Separate stretches of a device's spool that are remembered. Agents leave no gaps: more is nonsense, and read anew each time.
const STRETCHES: usize = 64;

/// The tallies of those devices that are watched, about a kilobyte each.
#[derive(Debug, Default)]
pub(super) struct Tallies(BTreeMap<DeviceId, Running>);

/// What a device measured with what it serves.
#[derive(Debug, Clone, Default)]
pub(super) struct Counted {
    /// Of the requests that it answered.
    pub(super) tally: LatencyTally,
    /// Those that failed.
    pub(super) errors: u64,
}

/// What a device serves, by what assignment.
type Served = (Digest, Generation);

#[derive(Debug)]
struct Running {
    served: Served,
    packed: Vec<u8>,
    requests: u64,
    errors: u64,
    seen: Seen,
}

/// The places of a spool that were counted: by epoch, where each stretch begins and ends.
#[derive(Debug, Default)]
struct Seen(BTreeMap<u64, BTreeMap<u64, u64>>);

impl Driver {
    /// Adds what has come to the tallies that there are.
    pub(super) async fn count(&self, news: &News, tallies: &mut Tallies) -> Result<(), StoreError> {
        for (device, new) in news {
            let Some(unseen) = tallies.unseen(device, new) else { continue };
            let of = device.clone();
            let records = self.core.store.call(move |store| store.telemetry_at(&of, &unseen)).await?;
            tallies.add(device, &records);
        }
        Ok(())
    }

    /// What the device has measured with what it was assigned; `None` where it was assigned nothing.
    pub(super) async fn counted(
        &self,
        device: &DeviceId,
        outcome: &OutcomeRecord,
        tallies: &mut Tallies,
    ) -> Result<Option<Counted>, StoreError> {
        let Some(served) = outcome.digest.zip(outcome.assignment) else { return Ok(None) };
        if let Some(counted) = tallies.get(device, served) {
            return Ok(Some(counted));
        }
        let of = device.clone();
        let records = self.core.store.call(move |store| store.telemetry(&of)).await?;
        Ok(Some(tallies.begin(device, served, &records)))
    }
}

impl Tallies {
    /// Forgets the devices that belong to no deployment.
    pub(super) fn keep(&mut self, holders: &Holders) {
        self.0.retain(|device, _| holders.contains_key(device));
    }

    /// How many requests the device has answered with what it was assigned, if they are counted.
    pub(super) fn requests(&self, device: &DeviceId, outcome: &OutcomeRecord) -> Option<u64> {
        let running = self.0.get(device)?;
        (Some(running.served) == outcome.digest.zip(outcome.assignment)).then_some(running.requests)
    }

    fn get(&self, device: &DeviceId, served: Served) -> Option<Counted> {
        let running = self.0.get(device).filter(|running| running.served == served)?;
        Some(Counted { tally: LatencyTally::unpacked(&running.packed), errors: running.errors })
    }

    /// The places that are not counted yet, if there is a tally. One that has missed too much is forgotten.
    fn unseen(&mut self, device: &DeviceId, new: &New) -> Option<Vec<SpoolPosition>> {
        let running = self.0.get(device)?;
        match new {
            New::At(places) => {
                let unseen = |place: &&SpoolPosition| !running.seen.contains(**place);
                Some(places.iter().filter(unseen).copied().collect())
            }
            New::Much => {
                self.0.remove(device);
                None
            }
        }
    }

    /// Counts intervals that have come.
    fn add(&mut self, device: &DeviceId, records: &[TelemetryRecord]) {
        let Some(running) = self.0.remove(device) else { return };
        let counted = Counted { tally: LatencyTally::unpacked(&running.packed), errors: running.errors };
        self.go_on(device, running.served, (counted, running.seen), records);
    }

    /// Counts all the intervals of a device.
    fn begin(&mut self, device: &DeviceId, served: Served, records: &[TelemetryRecord]) -> Counted {
        self.go_on(device, served, Default::default(), records)
    }

    fn go_on(
        &mut self,
        device: &DeviceId,
        served: Served,
        (mut counted, mut seen): (Counted, Seen),
        records: &[TelemetryRecord],
    ) -> Counted {
        for TelemetryRecord { position, interval, .. } in records {
            if seen.insert(*position) && (interval.digest, interval.generation) == served {
                // One that cannot be read is shown as errors in the telemetry's list; here it says nothing.
                let _ = counted.tally.add(&interval.histogram);
                counted.errors = counted.errors.saturating_add(interval.errors);
            }
        }
        if let Some(packed) = counted.tally.packed().filter(|_| seen.stretches() <= STRETCHES) {
            let requests = counted.tally.count();
            let running = Running { served, packed, requests, errors: counted.errors, seen };
            self.0.insert(device.clone(), running);
        }
        counted
    }
}

impl Seen {
    fn contains(&self, place: SpoolPosition) -> bool {
        let before = self.0.get(&place.epoch).and_then(|spool| spool.range(..=place.sequence).next_back());
        before.is_some_and(|(_, &last)| place.sequence <= last)
    }

    /// Whether it was new.
    fn insert(&mut self, place: SpoolPosition) -> bool {
        if self.contains(place) {
            return false;
        }
        let spool = self.0.entry(place.epoch).or_default();
        let at = place.sequence;
        let after = at.checked_add(1).and_then(|next| spool.remove(&next));
        let before = spool.range(..at).next_back().filter(|&(_, &last)| last.checked_add(1) == Some(at));
        let first = before.map_or(at, |(&first, _)| first);
        spool.insert(first, after.unwrap_or(at));
        true
    }

    fn stretches(&self) -> usize {
        self.0.values().map(BTreeMap::len).sum()
    }
}

#[cfg(test)]
mod tests;
