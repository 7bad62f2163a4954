//! The newest certificate of each operator and role, as a list for people: who may still come, and for how long. What opens doors is
//! the certificate, never this. `reconvene operator create` notes beside the coordinator, so each is a file of its own.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use proto::DeviceId;
use serde::{Deserialize, Serialize};

use super::Role;
use super::authority::SKEW;
use crate::durable;

/// A certificate that was issued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// To whom.
    pub name: DeviceId,
    /// For what, as [`Role::name`] has it.
    pub role: String,
    /// When it was issued, milliseconds since 1970.
    pub made_unix_ms: u64,
    /// Until when, milliseconds since 1970.
    pub expires_unix_ms: u64,
}

impl Issued {
    /// What is to be noted of a certificate; `None` where the text is none.
    pub fn of(name: &DeviceId, role: Role, pem: &str) -> Option<Self> {
        use x509_parser::prelude::parse_x509_pem;
        let (_, pem) = parse_x509_pem(pem.as_bytes()).ok()?;
        let validity = pem.parse_x509().ok()?.validity().clone();
        let unix_ms = |seconds: i64| u64::try_from(seconds).unwrap_or(0).saturating_mul(1000);
        Some(Self {
            name: name.clone(),
            role: role.name().to_owned(),
            made_unix_ms: unix_ms(validity.not_before.timestamp() + SKEW.as_secs().cast_signed()),
            expires_unix_ms: unix_ms(validity.not_after.timestamp()),
        })
    }

    /// Keeps it in place of the one before.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn note(&self, state_dir: &Path) -> io::Result<()> {
        let folder = folder(state_dir);
        fs::create_dir_all(&folder)?;
        let mut file = tempfile::Builder::new()
            .prefix(durable::UNFINISHED)
            // Whoever makes it, the coordinator's user reads it; it says nothing secret.
            .permissions(Permissions::from_mode(0o644))
            .tempfile_in(&folder)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.as_file().sync_all()?;
        file.persist(folder.join(format!("{}.{}.json", self.name, self.role)))?;
        durable::sync(&folder)
    }

    /// All that were noted, by name. What cannot be read is left out.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn all(state_dir: &Path) -> io::Result<Vec<Self>> {
        let entries = match fs::read_dir(folder(state_dir)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut all = Vec::new();
        for entry in entries {
            let read = fs::read(entry?.path()).ok();
            all.extend(read.and_then(|json| serde_json::from_slice::<Self>(&json).ok()));
        }
        all.sort_by(|a, b| (&a.name, &a.role).cmp(&(&b.name, &b.role)));
        Ok(all)
    }
}

/// Where they are noted.
pub fn folder(state_dir: &Path) -> PathBuf {
    state_dir.join("operators")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::unix_ms;
    use crate::identity::authority::{Authority, OPERATOR_LIFETIME};

    #[test]
    fn the_newest_of_each_name_and_role_is_kept() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(Issued::all(state.path()).unwrap(), []);
        let issued = |name: &str, role: Role, expires_unix_ms| Issued {
            name: name.parse().unwrap(),
            role: role.name().to_owned(),
            made_unix_ms: 1,
            expires_unix_ms,
        };
        for it in [issued("b", Role::Worker, 5), issued("a", Role::Admin, 5), issued("b", Role::Worker, 9)] {
            it.note(state.path()).unwrap();
        }
        fs::write(folder(state.path()).join("stray.json"), "{").unwrap();
        let all = [issued("a", Role::Admin, 5), issued("b", Role::Worker, 9)];
        assert_eq!(Issued::all(state.path()).unwrap(), all);
    }

    #[test]
    fn a_certificate_says_when_it_was_made_and_for_how_long_it_is() {
        let (authority, name) = (Authority::generate(1).unwrap(), "a".parse().unwrap());
        let certificate = authority.operator(&name, Role::Viewer).unwrap().certificate;
        let noted = Issued::of(&name, Role::Viewer, &certificate).unwrap();
        let (year, slack) = (OPERATOR_LIFETIME.as_millis() as u64, 60_000);
        assert!(unix_ms().abs_diff(noted.made_unix_ms) < slack, "{noted:?}");
        assert!((noted.expires_unix_ms - noted.made_unix_ms).abs_diff(year) < slack, "{noted:?}");
        assert_eq!(Issued::of(&name, Role::Viewer, "no certificate"), None);
    }
}
