//! Whose assignments this device follows. Owns the keys: those that are configured, or else those that the first
//! coordinator announced, which are on disk from then on.

use std::path::PathBuf;

use proto::session::Assignment;
use proto::{DeviceId, SignatureError, SignedAssignment, VerifyingKey};

use crate::causes::describe;
use crate::state::{self, FileError, StateDir};

/// What is to be done where the keys on the disk are damaged.
pub const LOST: &str = "no assignment is followed, for whose keys are trusted is lost: name them in coordinator_keys, or remove \
                        trusted-keys.json, and the next coordinator is trusted at first sight";

/// What is to be done where `error` kept the keys on the disk from being read. Keys that somebody else may read are not lost:
/// to remove them would be to trust whoever comes first.
pub fn remedy(error: &FileError, state: &StateDir) -> String {
    if error.is_refusal() {
        return format!(
            "no assignment is followed until the trusted keys can be read: {}",
            state.closed_to_reader(&error.path)
        );
    }
    LOST.to_owned()
}

/// Why an assignment is not followed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TrustError {
    #[error("the assignment is refused")]
    Signature(#[from] SignatureError),
    #[error("the assignment is for {0}, not for this device")]
    Device(DeviceId),
}

/// The keys that count.
#[derive(Debug)]
pub struct Trust {
    keys: Vec<VerifyingKey>,
    /// Where the first coordinator's keys go; `None` where keys are configured.
    pinned: Option<PathBuf>,
}

impl Trust {
    /// The keys of the configuration; where there are none, those of the disk.
    ///
    /// # Errors
    /// When the keys on the disk cannot be read: anybody's would else be taken for the first.
    pub fn open(configured: &[VerifyingKey], state: &StateDir) -> Result<Self, FileError> {
        if !configured.is_empty() {
            return Ok(Self { keys: configured.to_vec(), pinned: None });
        }
        let path = state.trusted_keys();
        let keys = state::read_json(&path)?.unwrap_or_default();
        Ok(Self { keys, pinned: Some(path) })
    }

    /// Follows nobody: whose keys were trusted cannot be told.
    pub fn nobody() -> Self {
        Self { keys: Vec::new(), pinned: None }
    }

    /// The coordinator announces its keys. The first one's are taken on trust.
    pub(crate) fn hear(&mut self, announced: &[VerifyingKey]) {
        let names = || announced.iter().map(VerifyingKey::to_string).collect::<Vec<_>>().join(", ");
        match &self.pinned {
            Some(path) if self.keys.is_empty() && !announced.is_empty() => {
                self.keys = announced.to_vec();
                tracing::warn!(
                    keys = names(),
                    "the coordinator's keys are taken on trust; coordinator_keys names them beforehand"
                );
                let json = serde_json::to_vec_pretty(announced).expect("keys are plain data");
                if let Err(error) = state::replace(path, &json) {
                    tracing::warn!(error = describe(&error), "they are trusted until the agent stops");
                }
            }
            Some(_) | None if !announced.iter().any(|key| self.keys.contains(key)) => {
                tracing::error!(
                    keys = names(),
                    "the coordinator has none of the keys that this device trusts"
                );
            }
            Some(_) | None => {}
        }
    }

    /// The assignment, if a trusted coordinator meant it for `device`.
    pub(crate) fn check(
        &self,
        signed: &SignedAssignment,
        device: &DeviceId,
    ) -> Result<Assignment, TrustError> {
        let assignment = signed.verify(&self.keys)?;
        if assignment.device != *device {
            return Err(TrustError::Device(assignment.device));
        }
        Ok(assignment)
    }
}

#[cfg(test)]
mod tests {
    use proto::SigningKey;

    use super::*;

    fn key() -> VerifyingKey {
        SigningKey::from_pkcs8(&SigningKey::generate().unwrap()).unwrap().verifying()
    }

    #[test]
    fn the_first_coordinators_keys_are_kept_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let (first, second) = (key(), key());
        let mut trust = Trust::open(&[], &state).unwrap();
        trust.hear(&[]);
        assert!(trust.keys.is_empty());
        trust.hear(&[first]);
        trust.hear(&[second]);
        assert_eq!(trust.keys, [first]);
        assert_eq!(Trust::open(&[], &state).unwrap().keys, [first]);
        let mut configured = Trust::open(&[second], &state).unwrap();
        configured.hear(&[first]);
        assert_eq!(configured.keys, [second], "what is configured has its way");
    }

    #[test]
    fn keys_that_another_user_has_are_not_to_be_removed() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let of = |kind: std::io::ErrorKind| FileError::of("read", &state.trusted_keys())(kind.into());
        let said = remedy(&of(std::io::ErrorKind::PermissionDenied), &state);
        let (user, root) = (rustix::process::geteuid().as_raw(), dir.path().display());
        let mends = format!("`chown -R {user} {root}` and `chmod -R u+rwX {root}` let it");
        assert!(said.contains("may not read") && said.ends_with(&mends), "{said}");
        assert!(!said.contains("remove"), "{said}");
        assert_eq!(remedy(&of(std::io::ErrorKind::InvalidData), &state), LOST);
    }

    #[test]
    fn damaged_keys_are_not_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        std::fs::write(state.trusted_keys(), "[").unwrap();
        let error = Trust::open(&[], &state).unwrap_err();
        assert!(describe(&error).contains("cannot understand"), "{}", describe(&error));
        std::fs::remove_file(state.trusted_keys()).unwrap();
        std::os::unix::fs::symlink("nowhere", state.trusted_keys()).unwrap();
        let error = Trust::open(&[], &state).unwrap_err();
        assert!(
            describe(&error).contains("it is a link to a file that does not exist"),
            "{}",
            describe(&error)
        );
    }
}
