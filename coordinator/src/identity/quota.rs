//! How many calls of one kind an identity may have under way. Counts by key, as the turnstile does; where connections are not
//! encrypted nobody is told apart, and nobody counted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Peer;

/// Counts the calls of one kind; clones share the count.
#[derive(Debug, Clone)]
pub struct Quota {
    of_device: usize,
    of_operator: usize,
    open: Arc<Mutex<BTreeMap<String, usize>>>,
}

/// A call that counts, until this is dropped.
#[derive(Debug)]
pub struct Turn(Option<(Quota, String)>);

impl Quota {
    /// So many at once of each device, and of each operator.
    pub fn new(of_device: usize, of_operator: usize) -> Self {
        Self { of_device, of_operator, open: Arc::default() }
    }

    /// One more call of `peer`.
    ///
    /// # Errors
    /// As many as it may have, where it has them already.
    pub fn take(&self, peer: &Peer) -> Result<Turn, usize> {
        let most = match peer {
            Peer::Device { .. } => self.of_device,
            Peer::Operator { .. } => self.of_operator,
            Peer::Unknown | Peer::Plain => return Ok(Turn(None)),
        };
        let account = peer.account();
        let mut open = self.lock();
        let own = open.entry(account.clone()).or_default();
        if *own >= most {
            return Err(most);
        }
        *own += 1;
        Ok(Turn(Some((self.clone(), account))))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, usize>> {
        // Entries are put in whole: a panic elsewhere leaves none half-made.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some((quota, account)) = &self.0 else { return };
        let mut open = quota.lock();
        if let Some(own) = open.get_mut(account) {
            *own -= 1;
            if *own == 0 {
                open.remove(account);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::Digest;

    use super::*;
    use crate::identity::Role;

    #[test]
    fn each_key_has_so_many_at_once() {
        let quota = Quota::new(2, 3);
        let device = |key: &[u8]| Peer::Device { id: "gw-1".parse().unwrap(), key: Digest::of(key) };
        let worker = Peer::Operator { name: "gpu-1".parse().unwrap(), role: Role::Worker, key: None };
        let take =
            |peer: &Peer, count| -> Vec<Turn> { (0..count).map(|_| quota.take(peer).unwrap()).collect() };
        let mut own = take(&device(b"key"), 2);
        assert_eq!(quota.take(&device(b"key")).unwrap_err(), 2);
        let others = [take(&device(b"other"), 2), take(&worker, 3), take(&Peer::Plain, 99)];
        assert_eq!(quota.take(&worker).unwrap_err(), 3);
        own.pop();
        own.extend(take(&device(b"key"), 1));
        assert_eq!(quota.take(&device(b"key")).unwrap_err(), 2);
        drop((own, others));
        assert!(quota.lock().is_empty(), "nothing is kept of those who are gone");
    }
}
