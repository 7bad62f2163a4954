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
    known: BTreeMap<String, VecDeque<(u64, CancellationToken)>>,
    strangers: usize,
    next: u64,
}

/// A connection that counts, until this is dropped.
#[derive(Debug)]
pub struct Pass {
    turnstile: Turnstile,
    of: Of,
}

#[derive(Debug)]
enum Of {
    Known { name: String, number: u64, evicted: CancellationToken },
    Stranger,
    Plain,
}

impl Turnstile {
    /// One more connection of `peer`; `None` where it is turned away.
    pub fn enter(&self, peer: &Peer) -> Option<Pass> {
        let (name, most) = match peer {
            // By its key: whoever has an old one of that name ends none of these.
            Peer::Device { key, .. } => (format!("device/{key}"), OF_DEVICE),
            Peer::Operator { name, key, .. } => {
                let key = key.map(|key| key.to_string()).unwrap_or_default();
                (format!("operator/{name}/{key}"), OF_OPERATOR)
            }
            Peer::Unknown => {
                let mut open = self.lock();
                if open.strangers == OF_STRANGERS {
                    return None;
                }
                open.strangers += 1;
                return Some(Pass { turnstile: self.clone(), of: Of::Stranger });
            }
            Peer::Plain => return Some(Pass { turnstile: self.clone(), of: Of::Plain }),
        };
        let evicted = CancellationToken::new();
        let mut open = self.lock();
        open.next += 1;
        let number = open.next;
        let own = open.known.entry(name.clone()).or_default();
        own.push_back((number, evicted.clone()));
        if own.len() > most
            && let Some((_, oldest)) = own.pop_front()
        {
            oldest.cancel();
        }
        Some(Pass { turnstile: self.clone(), of: Of::Known { name, number, evicted } })
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        // Entries are put in whole: a panic elsewhere leaves none half-made.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass {
    /// Ends when a newer connection takes its place; `None` where none does.
    pub fn evicted(&self) -> Option<WaitForCancellationFutureOwned> {
        match &self.of {
            Of::Known { evicted, .. } => Some(evicted.clone().cancelled_owned()),
            Of::Stranger | Of::Plain => None,
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut open = self.turnstile.lock();
        match &self.of {
            Of::Known { name, number, .. } => {
                let Some(own) = open.known.get_mut(name) else { return };
                own.retain(|(other, _)| other != number);
                if own.is_empty() {
                    open.known.remove(name);
                }
            }
            Of::Stranger => open.strangers -= 1,
            Of::Plain => {}
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

    fn is_evicted(pass: &Pass) -> bool {
        matches!(&pass.of, Of::Known { evicted, .. } if evicted.is_cancelled())
    }

    #[test]
    fn the_newest_connections_of_an_identity_stay_and_others_are_not_touched() {
        let turnstile = Turnstile::default();
        let other = turnstile.enter(&device("gw-2")).unwrap();
        let mut own: Vec<Pass> = (0..OF_DEVICE).map(|_| turnstile.enter(&device("gw-1")).unwrap()).collect();
        assert!(!own.iter().any(is_evicted));
        own.push(turnstile.enter(&device("gw-1")).unwrap());
        assert_eq!(
            own.iter().map(is_evicted).collect::<Vec<_>>(),
            [vec![true], vec![false; OF_DEVICE]].concat()
        );
        // One that has ended makes room.
        drop(own.remove(1));
        own.push(turnstile.enter(&device("gw-1")).unwrap());
        assert_eq!(own.iter().filter(|pass| is_evicted(pass)).count(), 1);
        assert!(!is_evicted(&other));
        drop((own, other));
        assert!(turnstile.lock().known.is_empty(), "nothing is kept of those who are gone");
    }

    #[test]
    fn strangers_are_turned_away_until_one_has_gone() {
        let turnstile = Turnstile::default();
        let mut all: Vec<Pass> =
            (0..OF_STRANGERS).map(|_| turnstile.enter(&Peer::Unknown).unwrap()).collect();
        assert!(turnstile.enter(&Peer::Unknown).is_none());
        assert!(turnstile.enter(&device("gw-1")).is_some() && turnstile.enter(&Peer::Plain).is_some());
        all.pop();
        assert!(turnstile.enter(&Peer::Unknown).is_some());
    }
}
