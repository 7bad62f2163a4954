//! The key that assignments are signed with. Owns its file: made at the first start, readable by its owner alone.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use proto::{Invalid, SigningKey};

use crate::durable;

/// The secret, PKCS #8.
const SECRET: &str = "signing-key.p8";
/// What devices have to know of it, for whoever writes their configuration.
const PUBLIC: &str = "signing-key.pub";

/// Why there is no key to sign with.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read or written.
    #[error("cannot use the signing key {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is no key. Another one would be refused by every device that trusts this one.
    #[error(
        "the signing key {} is damaged; restore it from a backup, or remove it and signing-key.pub and have every device trust the new one",
        path.display()
    )]
    Damaged {
        /// Which.
        path: PathBuf,
        /// Why.
        source: Invalid,
    },
}

/// The key in `folder`, made where there is none.
pub(crate) fn open(folder: &Path) -> Result<SigningKey, KeyError> {
    let (path, public) = (folder.join(SECRET), folder.join(PUBLIC));
    let refuse = |path: &Path| {
        let path = path.to_owned();
        |source| KeyError::File { path, source }
    };
    let document = match fs::read(&path) {
        Ok(document) => document,
        Err(error) if error.kind() == ErrorKind::NotFound && public.exists() => {
            let lost = Invalid::new("signing key", "it is gone, and devices trust it");
            return Err(KeyError::Damaged { path, source: lost });
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let random = |invalid: Invalid| refuse(&path)(io::Error::other(invalid));
            let document = SigningKey::generate().map_err(random)?;
            durable::replace(folder, &path, &document).map_err(refuse(&path))?;
            document
        }
        Err(error) => return Err(refuse(&path)(error)),
    };
    let key = SigningKey::from_pkcs8(&document).map_err(|source| KeyError::Damaged { path, source })?;
    let line = format!("{}\n", key.verifying());
    if fs::read(&public).ok().as_deref() != Some(line.as_bytes()) {
        durable::replace(folder, &public, line.as_bytes()).map_err(refuse(&public))?;
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_kept_from_others() {
        let folder = tempfile::tempdir().unwrap();
        let key = open(folder.path()).unwrap().verifying();
        assert_eq!(open(folder.path()).unwrap().verifying(), key);
        let mode = fs::metadata(folder.path().join(SECRET)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_to_string(folder.path().join(PUBLIC)).unwrap().trim().parse(), Ok(key));
    }

    #[test]
    fn a_damaged_key_is_no_reason_to_make_another() {
        let folder = tempfile::tempdir().unwrap();
        open(folder.path()).unwrap().verifying();
        let path = folder.path().join(SECRET);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        let error = open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("signing-key.p8 is damaged; restore it"), "{error}");
        assert_eq!(fs::read(&path).unwrap().len(), whole.len() - 1);
        fs::remove_file(&path).unwrap();
        assert!(open(folder.path()).is_err(), "devices trust the one that is gone");
    }
}
