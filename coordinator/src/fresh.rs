//! Which intervals of telemetry have come since they were looked at last. Owns their places, never the intervals.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use proto::{DeviceId, SpoolPosition};

/// Places that are kept of one device: beyond them all of it is read again. The driver looks every 5 s at least.
const MOST: usize = 4096;

/// What is new of each device.
pub(crate) type News = BTreeMap<DeviceId, New>;

/// What is new of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum New {
    /// The intervals at these places.
    At(BTreeSet<SpoolPosition>),
    /// More than are kept.
    Much,
}

/// The devices whose telemetry has come since it was looked at last.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fresh(Arc<Mutex<News>>);

impl Fresh {
    /// An interval is in the store.
    pub(crate) fn mark(&self, device: &DeviceId, position: SpoolPosition) {
        self.add(device, New::At([position].into()));
    }

    /// What was taken was not looked at after all.
    pub(crate) fn put_back(&self, news: News) {
        for (device, new) in news {
            self.add(&device, new);
        }
    }

    /// What is new since this was called last.
    pub(crate) fn take(&self) -> News {
        std::mem::take(&mut *self.0.lock().expect("no holder of this lock can panic"))
    }

    fn add(&self, device: &DeviceId, new: New) {
        let mut news = self.0.lock().expect("no holder of this lock can panic");
        match news.get_mut(device) {
            Some(known) => known.add(new),
            None => drop(news.insert(device.clone(), new)),
        }
    }
}

impl New {
    fn add(&mut self, new: Self) {
        match (&mut *self, new) {
            (Self::At(known), Self::At(more)) if known.len() + more.len() <= MOST => known.extend(more),
            _ => *self = Self::Much,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_gone_and_may_come_back() {
        let (fresh, device) = (Fresh::default(), "a".parse::<DeviceId>().unwrap());
        let at = |sequence| SpoolPosition { epoch: 1, sequence };
        fresh.mark(&device, at(1));
        fresh.mark(&device, at(2));
        let news = fresh.take();
        assert_eq!(news[&device], New::At([at(1), at(2)].into()));
        assert!(fresh.take().is_empty());
        fresh.mark(&device, at(3));
        fresh.put_back(news);
        assert_eq!(fresh.take()[&device], New::At([at(1), at(2), at(3)].into()));
        (0..=MOST as u64).for_each(|sequence| fresh.mark(&device, at(sequence)));
        assert_eq!(fresh.take()[&device], New::Much);
    }
}
