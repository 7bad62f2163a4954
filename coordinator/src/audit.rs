//! The audit log: who did what to what, what it was before and after. Each entry names the digest of the one before it, so that
//! none can be changed or left out unseen. Pure; the store keeps them.

use proto::Digest;
use serde::{Deserialize, Serialize};

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// An operator's name, `device/NAME`, or `coordinator`.
    pub actor: String,
    /// What was done, as in `apply`, `ban`, `assign`.
    pub action: String,
    /// To what, as in `device/gw-1`.
    pub subject: String,
    /// What it was; empty where there is nothing to say.
    pub before: String,
    /// What it became.
    pub after: String,
}

/// What entries are about: the kinds of their subjects.
pub const KINDS: [&str; 11] = [
    "device",
    "deployment",
    "job",
    "token",
    "operator",
    "dataset",
    "model",
    "artifact",
    "authority",
    "coordinator",
    "backup",
];

/// Who acts where nobody told it to.
pub const COORDINATOR: &str = "coordinator";

impl Event {
    /// `actor` does `action` to `subject`.
    pub fn new(actor: impl Into<String>, action: &str, subject: impl Into<String>) -> Self {
        let (before, after) = (String::new(), String::new());
        Self { actor: actor.into(), action: action.to_owned(), subject: subject.into(), before, after }
    }

    /// The same, with what the subject was and what it became; of each the first 8 KiB.
    pub fn changed(self, before: impl Into<String>, after: impl Into<String>) -> Self {
        Self { before: cut(before.into()), after: cut(after.into()), ..self }
    }
}

/// A device or an operator cannot make the log too large to be read.
const LONGEST: usize = 8 << 10;

fn cut(mut text: String) -> String {
    let whole = text.len();
    if whole > LONGEST {
        text.truncate(text.floor_char_boundary(LONGEST));
        text += &format!("... ({whole} bytes)");
    }
    text
}

/// An event in its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// Counts from 1, without gaps.
    pub sequence: u64,
    /// When, milliseconds since 1970, by the coordinator's clock.
    pub at_unix_ms: u64,
    /// See [`Event`].
    pub actor: String,
    /// See [`Event`].
    pub action: String,
    /// See [`Event`].
    pub subject: String,
    /// See [`Event`].
    pub before: String,
    /// See [`Event`].
    pub after: String,
    /// The digest of the entry before; of nothing, for the first.
    pub previous: Digest,
    /// SHA-256 of the JSON array `[sequence, at_unix_ms, actor, action, subject, before, after, previous]`, without blanks.
    pub digest: Digest,
}

/// What the log's last entry is: noted elsewhere, it shows later whether the end was cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Of the entry.
    pub sequence: u64,
    /// Of the entry.
    pub digest: Digest,
}

/// What is wrong with a log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// An entry is missing.
    #[error("entry {expected} is missing: {found} follows")]
    Gap {
        /// Which should be there.
        expected: u64,
        /// Which is.
        found: u64,
    },
    /// An entry is not what was written.
    #[error("entry {0} was altered: its digest is another")]
    Altered(u64),
    /// An entry does not follow the one before it.
    #[error("entry {0} does not follow the one before it: that one was altered, or replaced")]
    Unlinked(u64),
    /// A head that was noted is not in it.
    #[error("entry {0} is not the one that was noted: the log was cut off or written anew")]
    Head(u64),
}

impl AuditEntry {
    /// The entry after `last`.
    pub fn following(last: Option<&Self>, event: &Event, at_unix_ms: u64) -> Self {
        let Event { actor, action, subject, before, after } = event.clone();
        let mut entry = Self {
            sequence: last.map_or(0, |last| last.sequence) + 1,
            at_unix_ms,
            actor,
            action,
            subject,
            before,
            after,
            previous: last.map_or_else(|| Digest::of(b""), |last| last.digest),
            digest: Digest::of(b""),
        };
        entry.digest = entry.computed();
        entry
    }

    /// What its digest has to be.
    fn computed(&self) -> Digest {
        let Self { sequence, at_unix_ms, actor, action, subject, before, after, previous, digest: _ } = self;
        let fields = (sequence, at_unix_ms, actor, action, subject, before, after, previous.to_string());
        Digest::of(serde_json::to_string(&fields).unwrap_or_default().as_bytes())
    }
}

/// Checks that `entries` are a whole log from its first entry on, and that `noted` is in it; returns its head.
///
/// # Errors
/// The first flaw.
pub fn verify<'a>(
    entries: impl IntoIterator<Item = &'a AuditEntry>,
    noted: Option<Head>,
) -> Result<Option<Head>, Flaw> {
    let mut head: Option<Head> = None;
    let mut is_noted = noted.is_none();
    for entry in entries {
        let expected = head.map_or(0, |head| head.sequence) + 1;
        if entry.sequence != expected {
            return Err(Flaw::Gap { expected, found: entry.sequence });
        }
        if entry.digest != entry.computed() {
            return Err(Flaw::Altered(entry.sequence));
        }
        if entry.previous != head.map_or_else(|| Digest::of(b""), |head| head.digest) {
            return Err(Flaw::Unlinked(entry.sequence));
        }
        let this = Head { sequence: entry.sequence, digest: entry.digest };
        is_noted |= noted == Some(this);
        head = Some(this);
    }
    match noted {
        Some(noted) if !is_noted => Err(Flaw::Head(noted.sequence)),
        _ => Ok(head),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> Vec<AuditEntry> {
        let mut log: Vec<AuditEntry> = Vec::new();
        for number in 1..=4 {
            let event = Event {
                actor: "alice".to_owned(),
                action: "ban".to_owned(),
                subject: format!("device/gw-{number}"),
                before: String::new(),
                after: "übel \"quoted\"\n".to_owned(),
            };
            log.push(AuditEntry::following(log.last(), &event, 1000 + number));
        }
        log
    }

    #[test]
    fn a_whole_log_has_a_head() {
        let log = log();
        let head = Head { sequence: 4, digest: log[3].digest };
        assert_eq!(verify(&log, None), Ok(Some(head)));
        assert_eq!(verify(&log, Some(Head { sequence: 2, digest: log[1].digest })), Ok(Some(head)));
        assert_eq!(verify(&[], None), Ok(None));
    }

    #[test]
    fn every_field_of_every_entry_is_held() {
        let changes: [fn(&mut AuditEntry); 6] = [
            |entry| entry.at_unix_ms += 1,
            |entry| entry.actor.push('x'),
            |entry| entry.action = "unban".to_owned(),
            |entry| entry.subject.push('1'),
            |entry| entry.before.push('x'),
            |entry| entry.after.clear(),
        ];
        for which in 0..4 {
            for change in changes {
                let mut log = log();
                change(&mut log[which]);
                let sequence = log[which].sequence;
                assert_eq!(verify(&log, None), Err(Flaw::Altered(sequence)));
                // Whoever mends the digest has to mend every later one.
                log[which].digest = log[which].computed();
                let later = (which < 3).then(|| Flaw::Unlinked(sequence + 1));
                assert_eq!(verify(&log, None).err(), later);
            }
        }
    }

    #[test]
    fn what_is_left_out_is_missed() {
        for which in 0..3 {
            let mut log = log();
            log.remove(which);
            let expected = which as u64 + 1;
            assert_eq!(verify(&log, None), Err(Flaw::Gap { expected, found: expected + 1 }));
        }
        let mut log = log();
        let end = log.pop().unwrap();
        let noted = Head { sequence: end.sequence, digest: end.digest };
        assert_eq!(verify(&log, Some(noted)), Err(Flaw::Head(4)), "a cut end is seen by who noted the head");
    }

    #[test]
    fn a_long_text_is_cut() {
        let long = Event::new("x", "fail", "device/gw-1").changed("", "\u{fc}".repeat(LONGEST));
        assert!(long.after.len() < LONGEST + 32 && long.after.ends_with("\u{fc}... (16384 bytes)"));
    }

    #[test]
    fn its_digest_can_be_computed_elsewhere() {
        // python3: hashlib.sha256(json.dumps([...], separators=(",", ":"), ensure_ascii=False).encode()).hexdigest()
        let event = Event {
            actor: "alice".to_owned(),
            action: "ban".to_owned(),
            subject: "device/gw-1".to_owned(),
            before: String::new(),
            after: "\u{fc}bel".to_owned(),
        };
        let entry = AuditEntry::following(None, &event, 1000);
        assert_eq!(
            entry.digest.to_string(),
            "ff6bf9e1364832b005633dbf0433c09c38bc4f4d9e384788e718a913c8256aa1"
        );
    }
}
