//! What lets devices in, and which have come.

use std::collections::{BTreeMap, BTreeSet};

use proto::{DeviceId, Digest};
use serde::{Deserialize, Serialize};

use super::record::Record;

/// A join token. Its secret was told once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// Names it.
    pub id: String,
    /// SHA-256 of its secret, which has 128 random bits.
    pub secret: Digest,
    /// How many devices may use it.
    pub uses: u32,
    /// Those that have: each has shown the certificate that it got.
    pub used_by: BTreeSet<DeviceId>,
    /// What they are labelled, whatever they say themselves.
    pub labels: BTreeMap<String, String>,
    /// When it was made, milliseconds since 1970.
    pub created_unix_ms: u64,
    /// From when on it is of no use.
    pub expires_unix_ms: u64,
    /// Whether an operator lets each of its devices in.
    #[serde(default)]
    pub approval: bool,
    /// Whether an operator took it back.
    #[serde(default)]
    pub revoked: bool,
}

/// A device as its certificate has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityRecord {
    /// Which.
    pub device: DeviceId,
    /// SHA-256 of its public key; `None`: it never enrolled, or was forgotten.
    pub key: Option<Digest>,
    /// The token that it came by.
    pub token: Option<String>,
    /// Whether it has shown its certificate; until then the token is not used.
    pub confirmed: bool,
    /// Whether it gets no certificate until an operator has approved of its key.
    #[serde(default)]
    pub waits: bool,
    /// Whether it is kept out.
    pub banned: bool,
    /// What its token labels it.
    pub labels: BTreeMap<String, String>,
    /// When it got its first certificate, milliseconds since 1970.
    pub enrolled_unix_ms: u64,
    /// The number of the authority that issued its newest one.
    #[serde(default = "first_authority")]
    pub authority: u32,
}

fn first_authority() -> u32 {
    1
}

/// An operator whose certificates were taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorRecord {
    /// Who.
    pub name: DeviceId,
    /// Whether certificates of that name are refused.
    pub revoked: bool,
}

impl IdentityRecord {
    /// A device that is known by name alone.
    pub fn unknown(device: &DeviceId) -> Self {
        Self {
            device: device.clone(),
            key: None,
            token: None,
            confirmed: false,
            waits: false,
            banned: false,
            labels: BTreeMap::new(),
            enrolled_unix_ms: 0,
            authority: first_authority(),
        }
    }
}

impl Record for TokenRecord {
    const KIND: &'static str = "token";
    const SCHEMA: u8 = 1;
    fn key(&self) -> Vec<u8> {
        self.id.as_bytes().to_vec()
    }
}

impl Record for IdentityRecord {
    const KIND: &'static str = "identity";
    const SCHEMA: u8 = 1;
    fn key(&self) -> Vec<u8> {
        self.device.as_str().into()
    }
}

impl Record for OperatorRecord {
    const KIND: &'static str = "operator";
    const SCHEMA: u8 = 1;
    fn key(&self) -> Vec<u8> {
        self.name.as_str().into()
    }
}
