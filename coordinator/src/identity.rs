//! Who is at the other end of a connection. Owns roles and what a certificate says; issues nothing.

use std::fmt;
use std::str::FromStr;

use proto::{DeviceId, Digest};

pub mod admissions;
pub mod authorities;
pub mod authority;
pub mod caller;
pub mod enroll;
pub mod issued;
pub mod quota;
pub mod secret;
pub mod succession;
pub mod turnstile;

/// What an operator may do; each may do what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Score and train for the coordinator, and see nothing but the jobs that it is given.
    Worker,
    /// Look.
    Viewer,
    /// Deploy.
    Operator,
    /// Let devices in and keep them out.
    Admin,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 4] = [Self::Worker, Self::Viewer, Self::Operator, Self::Admin];

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|role| role.name() == text);
        found.ok_or_else(|| format!("'{text}' is no role; allowed: worker, viewer, operator, admin"))
    }
}

/// The other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// Not encrypted: on the loopback interface, or where the configuration allows it. Everything is allowed.
    Plain,
    /// Encrypted, and without a certificate.
    Unknown,
    /// A device with its certificate.
    Device {
        /// Which.
        id: DeviceId,
        /// SHA-256 of its public key.
        key: Digest,
    },
    /// An operator with a certificate.
    Operator {
        /// Who.
        name: DeviceId,
        /// What it may do.
        role: Role,
        /// SHA-256 of its public key; `None`: it is a user of the coordinator's host.
        key: Option<Digest>,
    },
}

/// What certificates name their holders by: `reconvene://device/ID`, `reconvene://operator/ROLE/NAME`.
const SCHEME: &str = "reconvene://";

/// The name of a device in its certificate.
fn device_uri(id: &DeviceId) -> String {
    format!("{SCHEME}device/{id}")
}

/// The name of an operator in its certificate.
fn operator_uri(role: Role, name: &DeviceId) -> String {
    format!("{SCHEME}operator/{role}/{name}")
}

impl Peer {
    /// Whose certificate it is, in DER; its chain was verified before. One that names nobody is nobody's.
    pub fn of_certificate(der: &[u8]) -> Self {
        use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};
        let Ok((_, certificate)) = X509Certificate::from_der(der) else { return Self::Unknown };
        let key = Digest::of(certificate.public_key().raw);
        let Ok(Some(names)) = certificate.subject_alternative_name() else { return Self::Unknown };
        let holder = names.value.general_names.iter().find_map(|name| match name {
            GeneralName::URI(uri) => Self::named(uri, key),
            _ => None,
        });
        holder.unwrap_or(Self::Unknown)
    }

    /// What is counted together: by its key, so whoever has an old certificate of a name is another one.
    fn account(&self) -> String {
        match self {
            Self::Device { key, .. } => format!("device/{key}"),
            Self::Operator { name, key, .. } => {
                format!("operator/{name}/{}", key.map(|key| key.to_string()).unwrap_or_default())
            }
            Self::Unknown => "strangers".to_owned(),
            Self::Plain => "plain".to_owned(),
        }
    }

    fn named(uri: &str, key: Digest) -> Option<Self> {
        let name = uri.strip_prefix(SCHEME)?;
        if let Some(id) = name.strip_prefix("device/") {
            return Some(Self::Device { id: id.parse().ok()?, key });
        }
        let (role, name) = name.strip_prefix("operator/")?.split_once('/')?;
        Some(Self::Operator { name: name.parse().ok()?, role: role.parse().ok()?, key: Some(key) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        let (id, key): (DeviceId, _) = ("gw-1".parse().unwrap(), Digest::of(b"key"));
        assert_eq!(Peer::named(&device_uri(&id), key), Some(Peer::Device { id: id.clone(), key }));
        for role in Role::ALL {
            let operator = Peer::Operator { name: id.clone(), role, key: Some(key) };
            assert_eq!(Peer::named(&operator_uri(role, &id), key), Some(operator));
        }
        for wrong in ["reconvene://device/", "reconvene://operator/emperor/x", "https://device/gw-1", ""] {
            assert_eq!(Peer::named(wrong, key), None, "{wrong}");
        }
        assert!(Role::Worker < Role::Viewer && Role::Viewer < Role::Operator && Role::Operator < Role::Admin);
        assert_eq!(Peer::of_certificate(b"nonsense"), Peer::Unknown);
    }
}
