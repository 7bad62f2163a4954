//! Who was refused what, so that the log has each refusal once. Owns what is remembered of them, which is bounded; refuses nobody.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use proto::{DeviceId, Digest};

use crate::identity::Peer;

/// The same of the same one is not said again for so long.
const QUIET: Duration = Duration::from_secs(3600);
/// Of so many is it remembered; of more, the one that was refused least lately is forgotten.
const MOST_KNOWN: usize = 2048;
/// Reasons that are told apart of each; all others are one more, so that who makes up reasons fills no log.
const MOST_REASONS: usize = 8;
/// Lines in a minute, whoever they are about: who makes up names fills no log either.
const MOST_LINES: u32 = 100;
const MINUTE: Duration = Duration::from_secs(60);
/// Of a reason, in bytes.
const LONGEST: usize = 300;
/// What all further reasons of one are remembered as.
const OTHERS: &str = "";

/// Whom a refusal is about, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Who {
    /// Which device it is, or says that it is.
    device: Option<DeviceId>,
    /// By what it is known: a key, an address.
    by: String,
}

/// Remembers refusals; clones share the memory.
#[derive(Debug, Clone, Default)]
pub struct Refusals(Arc<Mutex<Memory>>);

/// What was refused lately.
#[derive(Debug, Default)]
struct Memory {
    known: BTreeMap<Who, Known>,
    /// Counts refusals.
    turn: u64,
    minute: Option<Instant>,
    lines: u32,
    /// Refusals since the last line for which there was no line left.
    unlogged: u64,
}

#[derive(Debug, Default)]
struct Known {
    last: u64,
    reasons: BTreeMap<String, Reason>,
}

#[derive(Debug)]
struct Reason {
    logged: Instant,
    repeats: u64,
}

/// What the log shall say beside the refusal itself.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    /// How often it was refused since the last line of it.
    repeats: u64,
    /// Refusals of anybody that have no line.
    unlogged: u64,
}

impl Who {
    /// The other end of a connection. `claimed`: who it says that it is, where its certificate does not.
    pub fn of(peer: &Peer, claimed: Option<&DeviceId>) -> Self {
        let device = claimed.cloned();
        match peer {
            Peer::Device { id, key } => Self { device: Some(id.clone()), by: format!("key {}", key.short()) },
            Peer::Operator { name, role, .. } => Self { device: None, by: format!("{role} {name}") },
            Peer::Unknown => Self { device, by: "no certificate".to_owned() },
            Peer::Plain => Self { device, by: "no encryption".to_owned() },
        }
    }

    /// Somebody without a certificate, who asks for one of this key.
    pub fn asking(device: &DeviceId, key: Digest) -> Self {
        Self { device: Some(device.clone()), by: format!("asks for a certificate of key {}", key.short()) }
    }

    /// Somebody who has not got as far as to say who it is.
    pub fn at(address: IpAddr) -> Self {
        Self { device: None, by: format!("address {address}") }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.device {
            Some(device) => write!(f, "{device} ({})", self.by),
            None => f.write_str(&self.by),
        }
    }
}

impl Refusals {
    /// Has the log say that `who` was refused `what`, and why, unless it said so lately. Never give it a secret.
    pub fn refused(&self, who: &Who, what: &str, why: &str) {
        let why = &why[..why.floor_char_boundary(LONGEST)];
        if let Some(Line { repeats, unlogged }) =
            self.lock().note(who, &format!("{what}: {why}"), Instant::now())
        {
            // As texts, which the log writes with escapes: they may quote what was sent.
            tracing::warn!(who = who.to_string(), what, why, repeats, unlogged, "refused");
        }
    }

    /// Something has changed for that device: what it is refused from now on is said again.
    pub fn forget(&self, device: &DeviceId) {
        self.lock().known.retain(|who, _| who.device.as_ref() != Some(device));
    }

    /// How many different refusals are remembered.
    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.lock().known.values().map(|known| known.reasons.len()).sum()
    }

    fn lock(&self) -> MutexGuard<'_, Memory> {
        // Entries are put in whole: a panic elsewhere leaves none half-made.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    /// One more refusal; `None` where nothing shall be said of it.
    fn note(&mut self, who: &Who, why: &str, now: Instant) -> Option<Line> {
        self.turn += 1;
        let mut key = why;
        let mut repeats = 0;
        if let Some(known) = self.known.get_mut(who) {
            known.last = self.turn;
            if !known.reasons.contains_key(why) && known.reasons.len() >= MOST_REASONS {
                key = OTHERS;
            }
            if let Some(reason) = known.reasons.get_mut(key) {
                if now.duration_since(reason.logged) < QUIET {
                    reason.repeats += 1;
                    return None;
                }
                repeats = reason.repeats;
            }
        }
        if !self.has_line(now) {
            self.unlogged += 1;
            return None;
        }
        self.remember(who, key, now);
        Some(Line { repeats, unlogged: std::mem::take(&mut self.unlogged) })
    }

    fn remember(&mut self, who: &Who, why: &str, now: Instant) {
        if !self.known.contains_key(who) && self.known.len() >= MOST_KNOWN {
            // Once for each line at most.
            let oldest = self.known.iter().min_by_key(|(_, known)| known.last).map(|(who, _)| who.clone());
            oldest.map(|oldest| self.known.remove(&oldest));
        }
        let known = self.known.entry(who.clone()).or_default();
        known.last = self.turn;
        known.reasons.retain(|_, reason| now.duration_since(reason.logged) < QUIET);
        known.reasons.insert(why.to_owned(), Reason { logged: now, repeats: 0 });
    }

    /// Takes one of the minute's lines, if one is left.
    fn has_line(&mut self, now: Instant) -> bool {
        if self.minute.is_none_or(|minute| now.duration_since(minute) >= MINUTE) {
            (self.minute, self.lines) = (Some(now), 0);
        }
        let has_one = self.lines < MOST_LINES;
        self.lines += u32::from(has_one);
        has_one
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(name: &str) -> Who {
        Who::of(&Peer::Plain, Some(&name.parse().unwrap()))
    }

    fn said(repeats: u64) -> Option<Line> {
        Some(Line { repeats, unlogged: 0 })
    }

    #[test]
    fn the_same_refusal_is_said_once_an_hour_with_how_often_it_was() {
        let (mut memory, start) = (Memory::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(memory.note(&who("gw-1"), "banned", after(0)), said(0));
        for second in 1..3600 {
            assert_eq!(memory.note(&who("gw-1"), "banned", after(second)), None);
        }
        assert_eq!(memory.note(&who("gw-2"), "banned", after(5)), said(0), "another one");
        assert_eq!(memory.note(&who("gw-1"), "no token", after(5)), said(0), "another reason");
        assert_eq!(memory.note(&who("gw-1"), "banned", after(6)), None, "and no other turn of it");
        assert_eq!(memory.note(&who("gw-1"), "banned", after(3600)), said(3600));
        assert_eq!(memory.note(&who("gw-1"), "banned", after(3601)), None);
    }

    #[test]
    fn who_makes_up_reasons_has_few_lines() {
        let (mut memory, now) = (Memory::default(), Instant::now());
        let lines = |memory: &mut Memory, now| {
            (0..50).filter(|n| memory.note(&who("gw-1"), &format!("reason {n}"), now).is_some()).count()
        };
        assert_eq!(lines(&mut memory, now), MOST_REASONS + 1);
        assert_eq!(lines(&mut memory, now), 0);
        assert_eq!(memory.known[&who("gw-1")].reasons.len(), MOST_REASONS + 1);
        // What nobody speaks of any more makes room.
        assert!(lines(&mut memory, now + QUIET) <= MOST_REASONS + 1);
        assert_eq!(memory.known[&who("gw-1")].reasons.len(), MOST_REASONS + 1);
    }

    #[test]
    fn who_makes_up_names_has_few_lines_and_little_room() {
        let (mut memory, start) = (Memory::default(), Instant::now());
        let mut said = 0;
        let mut unlogged = 0;
        for n in 0..10_000u32 {
            let now = start + MINUTE * (n / 200);
            if let Some(line) = memory.note(&who(&format!("gw-{n}")), "no token", now) {
                said += 1;
                unlogged += line.unlogged;
            }
        }
        assert_eq!((said, unlogged + memory.unlogged), (5_000, 5_000));
        assert_eq!(memory.known.len(), MOST_KNOWN);
        let is_known = |name: &str| memory.known.contains_key(&who(name));
        assert!(!is_known("gw-0"), "the oldest is forgotten");
        assert!(is_known("gw-9800") && !is_known("gw-9999"), "and one that has no line yet is to get one");
    }

    #[test]
    fn one_that_is_refused_again_and_again_stays_known() {
        let (mut memory, start) = (Memory::default(), Instant::now());
        memory.note(&who("gw-a"), "banned", start);
        for n in 0..2 * MOST_KNOWN as u32 {
            memory.minute = None; // there is a line for each
            assert_eq!(memory.note(&who(&format!("gw-{n}")), "no token", start), said(0));
            assert_eq!(memory.note(&who("gw-a"), "banned", start), None);
        }
    }

    #[test]
    fn what_has_changed_is_said_again() {
        let refusals = Refusals::default();
        let (own, other) = (Who::asking(&"gw-1".parse().unwrap(), Digest::of(b"key")), who("gw-2"));
        for who in [&own, &other] {
            refusals.refused(who, "Enroll", "the device waits");
        }
        refusals.forget(&"gw-1".parse().unwrap());
        let mut memory = refusals.lock();
        assert_eq!(memory.note(&own, "Enroll: the device waits", Instant::now()), said(0));
        assert_eq!(memory.note(&other, "Enroll: the device waits", Instant::now()), None);
    }

    #[test]
    fn it_is_named_by_what_is_known() {
        let (id, key): (DeviceId, _) = ("gw-1".parse().unwrap(), Digest::of(b"key"));
        let thief = Who::of(&Peer::Device { id: id.clone(), key }, Some(&"gw-9".parse().unwrap()));
        assert_eq!(thief.to_string(), format!("gw-1 (key {})", key.short()), "its certificate says so");
        let named = |peer| Who::of(&peer, Some(&id)).to_string();
        assert_eq!(named(Peer::Unknown), "gw-1 (no certificate)");
        assert_eq!(named(Peer::Plain), "gw-1 (no encryption)");
        assert_eq!(Who::of(&Peer::Unknown, None).to_string(), "no certificate");
        assert_eq!(Who::at([192, 0, 2, 1].into()).to_string(), "address 192.0.2.1");
    }
}
