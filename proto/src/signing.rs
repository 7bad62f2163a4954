//! Assignments as the coordinator signed them (Ed25519, RFC 8032). A model's digest is in its assignment, so a device that
//! checks the signature before it fetches, and the digest before it loads, loads nothing that the coordinator did not mean for it.

use std::fmt;
use std::str::FromStr;

use prost::Message as _;
use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

use crate::session::Assignment;
use crate::{Digest, Invalid, v1};

/// What is signed begins with this, so that no signature of something else is taken for one of an assignment.
const CONTEXT: &[u8] = b"reconvene assignment 1\0";

/// Signs. Its secret never leaves the coordinator's host.
#[derive(Debug)]
pub struct SigningKey(Ed25519KeyPair);

/// Tells what was signed: `ed25519:` and 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VerifyingKey([u8; 32]);

/// An assignment on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedAssignment {
    /// The assignment's encoding.
    pub assignment: Vec<u8>,
    /// Of the context and the encoding.
    pub signature: Vec<u8>,
}

/// Why a signed assignment is not taken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// It may be anybody's.
    #[error("it is not signed by a key that this device trusts")]
    Foreign,
    /// It is signed, and means nothing.
    #[error(transparent)]
    Invalid(#[from] Invalid),
}

impl SigningKey {
    /// A new key as a PKCS #8 document, to be kept.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn generate() -> Result<Vec<u8>, Invalid> {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new());
        let document = document.map_err(|_| Invalid::new("signing key", "no random numbers to be had"))?;
        Ok(document.as_ref().to_vec())
    }

    /// The key of a PKCS #8 document.
    ///
    /// # Errors
    /// When it is none.
    pub fn from_pkcs8(document: &[u8]) -> Result<Self, Invalid> {
        let pair = Ed25519KeyPair::from_pkcs8(document);
        pair.map(Self).map_err(|error| Invalid::new("signing key", error.to_string()))
    }

    /// What tells its signatures.
    pub fn verifying(&self) -> VerifyingKey {
        let bytes = self.0.public_key().as_ref();
        VerifyingKey(bytes.try_into().expect("an Ed25519 public key has 32 bytes"))
    }

    /// The assignment as it is sent.
    pub fn sign(&self, assignment: &Assignment) -> SignedAssignment {
        let encoded = v1::Assignment::from(assignment.clone()).encode_to_vec();
        let signature = self.0.sign(&[CONTEXT, &encoded].concat()).as_ref().to_vec();
        SignedAssignment { assignment: encoded, signature }
    }
}

impl SignedAssignment {
    /// What it says, if one of `keys` signed it.
    ///
    /// # Errors
    /// When none did, or what it says is no assignment.
    pub fn verify(&self, keys: &[VerifyingKey]) -> Result<Assignment, SignatureError> {
        let signed = [CONTEXT, &self.assignment].concat();
        let is_by = |key: &VerifyingKey| {
            UnparsedPublicKey::new(&ED25519, key.0).verify(&signed, &self.signature).is_ok()
        };
        if !keys.iter().any(is_by) {
            return Err(SignatureError::Foreign);
        }
        Ok(self.unverified()?)
    }

    /// What it says, whoever says it: for messages about it.
    ///
    /// # Errors
    /// When that is no assignment.
    pub fn unverified(&self) -> Result<Assignment, Invalid> {
        let wire = v1::Assignment::decode(&*self.assignment);
        wire.map_err(|error| Invalid::new("assignment", error.to_string()))?.try_into()
    }
}

impl VerifyingKey {
    /// Its 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl TryFrom<&[u8]> for VerifyingKey {
    type Error = Invalid;

    fn try_from(bytes: &[u8]) -> Result<Self, Invalid> {
        let wrong = |_| Invalid::new("signing_keys", format!("{} bytes are no Ed25519 key", bytes.len()));
        bytes.try_into().map(Self).map_err(wrong)
    }
}

impl FromStr for VerifyingKey {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let refuse = || Invalid::new("key", format!("'{text}' is not ed25519: and 64 hexadecimal digits"));
        // A digest is written in the same way.
        let digits: Digest =
            text.strip_prefix("ed25519:").and_then(|digits| digits.parse().ok()).ok_or_else(refuse)?;
        Ok(Self(*digits.as_bytes()))
    }
}

impl fmt::Display for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ed25519:{}", Digest::from_bytes(self.0))
    }
}

impl TryFrom<String> for VerifyingKey {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl From<VerifyingKey> for String {
    fn from(key: VerifyingKey) -> Self {
        key.to_string()
    }
}

impl From<v1::SignedAssignment> for SignedAssignment {
    fn from(wire: v1::SignedAssignment) -> Self {
        let v1::SignedAssignment { assignment, signature } = wire;
        Self { assignment, signature }
    }
}

impl From<SignedAssignment> for v1::SignedAssignment {
    fn from(signed: SignedAssignment) -> Self {
        let SignedAssignment { assignment, signature } = signed;
        Self { assignment, signature }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::tests::assignment;

    fn key() -> SigningKey {
        SigningKey::from_pkcs8(&SigningKey::generate().unwrap()).unwrap()
    }

    #[test]
    fn only_what_a_trusted_key_signed_is_taken_and_only_as_it_was() {
        let (own, other) = (key(), key());
        let signed = own.sign(&assignment());
        assert_eq!(signed.verify(&[other.verifying(), own.verifying()]), Ok(assignment()));
        assert_eq!(signed.verify(&[other.verifying()]), Err(SignatureError::Foreign));
        assert_eq!(signed.verify(&[]), Err(SignatureError::Foreign));
        for at in 0..signed.assignment.len() {
            let mut altered = signed.clone();
            altered.assignment[at] ^= 1;
            assert_eq!(altered.verify(&[own.verifying()]), Err(SignatureError::Foreign), "byte {at}");
        }
        for signature in [&signed.signature[1..], &[], &[0; 64]] {
            let altered = SignedAssignment { signature: signature.to_vec(), ..signed.clone() };
            assert_eq!(altered.verify(&[own.verifying()]), Err(SignatureError::Foreign));
        }
        let bare = own.0.sign(&signed.assignment).as_ref().to_vec();
        let without_context = SignedAssignment { signature: bare, ..signed };
        assert_eq!(without_context.verify(&[own.verifying()]), Err(SignatureError::Foreign));
    }

    #[test]
    fn what_is_signed_still_has_to_mean_something() {
        let own = key();
        let signature = own.0.sign(&[CONTEXT, b"\xff"].concat()).as_ref().to_vec();
        let signed = SignedAssignment { assignment: vec![0xff], signature };
        assert!(matches!(signed.verify(&[own.verifying()]), Err(SignatureError::Invalid(_))));
    }

    #[test]
    fn keys_are_read_as_they_are_written() {
        let own = key().verifying();
        assert_eq!(own.to_string().parse(), Ok(own));
        assert_eq!(VerifyingKey::try_from(&own.as_bytes()[..]), Ok(own));
        for wrong in ["", "ed25519:", "ed25519:00", &own.to_string()[8..], &own.to_string().to_uppercase()] {
            assert!(wrong.parse::<VerifyingKey>().is_err(), "{wrong}");
        }
    }
}
