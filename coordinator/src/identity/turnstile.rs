//! How many connections one identity may have open; where it opens more, its oldest ends. Never counts by address: a whole fleet may be
//! behind one.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::Peer;

/// Of a device: it uses one, and those that a flapping network has left open end within a minute.
const OF_DEVICE: usize = 8;
/// Of an operator: verbs that follow something, and scripts.
const OF_OPERATOR: usize = 64;
/// Of everybody who shows no certificate, together.
const OF_STRANGERS: usize = 1024;

/// Counts connections; clones share the count.
#[derive(Debug, Clone, Default)]
pub struct Turnstile(Arc<Mutex<Open>>);

#[derive(Debug, Default)]
struct Open {
    /// By identity, oldest first.
    all: BTreeMap<String, VecDeque<(u64, CancellationToken)>>,
    next: u64,
}

/// A connection that counts, until this is dropped.
#[derive(Debug)]
pub struct Pass {
    turnstile: Turnstile,
    name: String,
    number: u64,
    evicted: CancellationToken,
}

impl Turnstile {
    /// One more connection of `peer`.
    pub fn enter(&self, peer: &Peer) -> Pass {
        let most = match peer {
            Peer::Device { .. } => OF_DEVICE,
            Peer::Operator { .. } => OF_OPERATOR,
            Peer::Unknown => OF_STRANGERS,
            Peer::Plain => usize::MAX,
        };
        let name = peer.account();
        let evicted = CancellationToken::new();
        let mut open = self.lock();
        open.next += 1;
        let number = open.next;
        let own = open.all.entry(name.clone()).or_default();
        own.push_back((number, evicted.clone()));
        if own.len() > most
            && let Some((_, oldest)) = own.pop_front()
        {
            oldest.cancel();
        }
        Pass { turnstile: self.clone(), name, number, evicted }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        // Entries are put in whole: a panic elsewhere leaves none half-made.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass {
    /// Ends when a newer connection takes its place.
    pub fn evicted(&self) -> WaitForCancellationFutureOwned {
        self.evicted.clone().cancelled_owned()
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut open = self.turnstile.lock();
        let Some(own) = open.all.get_mut(&self.name) else { return };
        if let Ok(at) = own.binary_search_by_key(&self.number, |(number, _)| *number) {
            own.remove(at);
        }
        if own.is_empty() {
            open.all.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::Digest;

    use super::*;

    fn device(name: &str) -> Peer {
        Peer::Device { id: name.parse().unwrap(), key: Digest::of(name.as_bytes()) }
    }

    fn are_evicted(passes: &[Pass]) -> Vec<bool> {
        passes.iter().map(|pass| pass.evicted.is_cancelled()).collect()
    }

    #[test]
    fn the_newest_connections_of_an_identity_stay_and_others_are_not_touched() {
        let turnstile = Turnstile::default();
        let others = [turnstile.enter(&device("gw-2")), turnstile.enter(&Peer::Unknown)];
        let mut own: Vec<Pass> = (0..OF_DEVICE).map(|_| turnstile.enter(&device("gw-1"))).collect();
        assert_eq!(are_evicted(&own), vec![false; OF_DEVICE]);
        own.push(turnstile.enter(&device("gw-1")));
        assert_eq!(are_evicted(&own), [vec![true], vec![false; OF_DEVICE]].concat());
        // One that has ended makes room.
        drop(own.remove(1));
        own.push(turnstile.enter(&device("gw-1")));
        assert_eq!(are_evicted(&own), [vec![true], vec![false; OF_DEVICE]].concat());
        assert_eq!(are_evicted(&others), [false, false]);
        drop((own, others));
        assert!(turnstile.lock().all.is_empty(), "nothing is kept of those who are gone");
    }

    #[test]
    fn strangers_are_limited_together() {
        let turnstile = Turnstile::default();
        let all: Vec<Pass> = (0..OF_STRANGERS + 2).map(|_| turnstile.enter(&Peer::Unknown)).collect();
        assert_eq!(are_evicted(&all), [vec![true; 2], vec![false; OF_STRANGERS]].concat());
    }
}
