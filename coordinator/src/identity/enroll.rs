//! Who gets a certificate. Pure: from what is known of a device and of its token to a decision.

use proto::{DeviceId, Digest};

use crate::store::{IdentityRecord, TokenRecord};

/// Why a device gets no certificate, for whoever reads its log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// An operator said so.
    #[error("the device is banned")]
    Banned,
    /// Another machine has this name.
    #[error(
        "the device is enrolled with another key; an operator lets it enroll anew: reconvene device forget NAME"
    )]
    OtherKey,
    /// Nothing vouches for it.
    #[error(
        "the device is not enrolled and has no join token; give it the file that `reconvene token create` prints"
    )]
    NoToken,
    /// There is no such token, or its secret is wrong: which of the two is nobody's business.
    #[error("the join token is not known")]
    UnknownToken,
    /// It was of use once.
    #[error("the join token has expired")]
    Expired,
    /// An operator took it back.
    #[error("the join token was revoked")]
    Revoked,
    /// Other devices have used it.
    #[error("the join token was used as often as it may be")]
    UsedUp,
    /// Its token lets nobody in by itself.
    #[error("the device waits for an operator's approval: reconvene device approve {device} {}", &key.to_string()[..KEY_DIGITS])]
    Waits {
        /// Which.
        device: DeviceId,
        /// SHA-256 of its public key.
        key: Digest,
    },
    /// Whoever has the token makes up names.
    #[error(
        "{0} devices that came by this join token have not opened a session yet; they, or another token, come first"
    )]
    Crowd(usize),
}

/// So much of a key's digest names it: too much for another key to be made to fit.
pub const KEY_DIGITS: usize = 24;

/// Devices that may have come by a token of so many uses and not been there yet: some are set up twice.
fn most_pending(token: &TokenRecord) -> usize {
    (2 * token.uses as usize).max(16)
}

/// A token as a device shows it: `ID.SECRET`.
#[derive(Debug, Clone, Copy)]
pub struct Shown<'a> {
    /// Names the record.
    pub id: &'a str,
    /// Proves it.
    pub secret: &'a str,
}

impl<'a> Shown<'a> {
    /// From what was sent.
    pub fn read(text: &'a str) -> Option<Self> {
        text.split_once('.').map(|(id, secret)| Self { id, secret })
    }
}

/// Whether `key` gets a certificate for the device; true where it does so by the token, and is to be recorded. `pending` devices
/// have come by that token and not been there yet.
///
/// # Errors
/// Why it does not.
pub fn decide(
    known: Option<&IdentityRecord>,
    key: Digest,
    shown: Option<(Shown<'_>, Option<&TokenRecord>)>,
    pending: impl Fn() -> usize,
    now_unix_ms: u64,
) -> Result<bool, Refusal> {
    if known.is_some_and(|known| known.banned) {
        return Err(Refusal::Banned);
    }
    if let Some((known, pinned)) = known.and_then(|known| Some((known, known.key?))) {
        if known.confirmed {
            return if pinned == key { Ok(false) } else { Err(Refusal::OtherKey) };
        }
        // It has not shown its certificate yet: by the token that it came by it gets another, by a new one it begins again.
        let by = known.token.as_deref();
        if pinned == key && shown.is_none_or(|(shown, _)| Some(shown.id) == by) {
            let waits = || Refusal::Waits { device: known.device.clone(), key };
            return if known.waits { Err(waits()) } else { Ok(false) };
        }
    }
    let (shown, token) = shown.ok_or(Refusal::NoToken)?;
    let proven = |token: &&TokenRecord| token.secret == Digest::of(shown.secret.as_bytes());
    let token = token.filter(proven).ok_or(Refusal::UnknownToken)?;
    usable(token, now_unix_ms)?;
    let pending = pending();
    if pending >= most_pending(token) { Err(Refusal::Crowd(pending)) } else { Ok(true) }
}

/// Whether one more device may use a token.
///
/// # Errors
/// Why not.
pub fn usable(token: &TokenRecord, now_unix_ms: u64) -> Result<(), Refusal> {
    if token.revoked {
        return Err(Refusal::Revoked);
    }
    if now_unix_ms >= token.expires_unix_ms {
        return Err(Refusal::Expired);
    }
    if token.used_by.len() >= token.uses as usize {
        return Err(Refusal::UsedUp);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> TokenRecord {
        TokenRecord {
            id: "ab".to_owned(),
            secret: Digest::of(b"secret"),
            uses: 1,
            used_by: Default::default(),
            labels: Default::default(),
            created_unix_ms: 0,
            expires_unix_ms: 100,
            approval: false,
            revoked: false,
        }
    }

    fn identity(key: Option<&[u8]>, confirmed: bool, banned: bool) -> IdentityRecord {
        IdentityRecord {
            device: "gw-1".parse().unwrap(),
            key: key.map(Digest::of),
            token: Some("ab".to_owned()),
            confirmed,
            waits: false,
            banned,
            labels: Default::default(),
            enrolled_unix_ms: 0,
            authority: 1,
        }
    }

    #[test]
    fn a_key_that_is_known_or_a_token_that_holds_gets_a_certificate() {
        let (key, right, wrong) = (Digest::of(b"key"), Shown::read("ab.secret"), Shown::read("ab.guess"));
        let (fresh, mut used) = (token(), token());
        used.used_by.insert("gw-9".parse().unwrap());
        let revoked = TokenRecord { revoked: true, expires_unix_ms: 40, ..token() };
        let by = |shown: Option<Shown<'static>>, token| shown.map(|shown| (shown, token));
        let own = identity(Some(b"key"), true, false);
        let other = identity(Some(b"other"), true, false);
        let pending = identity(Some(b"other"), false, false);
        let banned = identity(Some(b"key"), true, true);
        let pending_own = identity(Some(b"key"), false, false);
        let waiting = IdentityRecord { waits: true, ..pending_own.clone() };
        let waits = || Err(Refusal::Waits { device: waiting.device.clone(), key });
        let newcomer = IdentityRecord { token: Some("old".to_owned()), ..pending_own.clone() };
        let table = [
            ("new, token", None, by(right, Some(&fresh)), 50, Ok(true)),
            ("new, none", None, None, 50, Err(Refusal::NoToken)),
            ("new, wrong secret", None, by(wrong, Some(&fresh)), 50, Err(Refusal::UnknownToken)),
            ("new, no such token", None, by(right, None), 50, Err(Refusal::UnknownToken)),
            ("new, late", None, by(right, Some(&fresh)), 100, Err(Refusal::Expired)),
            ("new, taken back", None, by(right, Some(&revoked)), 50, Err(Refusal::Revoked)),
            ("new, used up", None, by(right, Some(&used)), 50, Err(Refusal::UsedUp)),
            ("known key, no token", Some(&own), None, 1_000, Ok(false)),
            ("another key", Some(&other), by(right, Some(&fresh)), 50, Err(Refusal::OtherKey)),
            ("another key that was never shown", Some(&pending), by(right, Some(&fresh)), 50, Ok(true)),
            ("pending, by a new token", Some(&newcomer), by(right, Some(&fresh)), 50, Ok(true)),
            ("pending, by its token that died", Some(&pending_own), by(right, Some(&used)), 50, Ok(false)),
            ("pending, by none", Some(&newcomer), None, 50, Ok(false)),
            ("not approved", Some(&waiting), by(right, Some(&fresh)), 50, waits()),
            ("not approved, by none", Some(&waiting), None, 50, waits()),
            ("banned", Some(&banned), by(right, Some(&fresh)), 50, Err(Refusal::Banned)),
        ];
        for (case, known, shown, now, expected) in table {
            assert_eq!(decide(known, key, shown, || 15, now), expected, "{case}");
        }
        assert_eq!(decide(None, key, by(right, Some(&fresh)), || 16, 50), Err(Refusal::Crowd(16)));
        assert_eq!(
            decide(Some(&own), key, by(right, Some(&fresh)), || 16, 50),
            Ok(false),
            "it has been there"
        );
        assert!(Shown::read("no point").is_none());
    }
}
