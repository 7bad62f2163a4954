//! Where trainings stand, one file for each: a training that was cut off goes on from its last whole epoch. A file
//! appears whole or not at all; one that cannot be used costs epochs, never a derivation.

use std::fs;
use std::io;
use std::path::PathBuf;

use crate::durable;
use crate::store::DerivationKey;

const ENDING: &str = ".safetensors";

/// A folder of checkpoints by derivation. Calls block on the disk.
#[derive(Debug, Clone)]
pub struct Checkpoints {
    folder: PathBuf,
}

/// Why a checkpoint was not written; the one before it stands.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The disk refused.
    #[error("cannot write {path}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl Checkpoints {
    /// Those in `folder`, which is made if it is not there. Removes what a crash left unfinished, and what `is_wanted` says
    /// nobody goes on with.
    pub fn open(
        folder: impl Into<PathBuf>,
        mut is_wanted: impl FnMut(&str) -> bool,
    ) -> Result<Self, CheckpointError> {
        let folder = folder.into();
        let failed = |source| CheckpointError::File { path: folder.clone(), source };
        fs::create_dir_all(&folder).map_err(failed)?;
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.strip_suffix(ENDING).is_some_and(&mut is_wanted) {
                fs::remove_file(entry.path()).map_err(failed)?;
            }
        }
        Ok(Self { folder })
    }

    /// Where that training stood last, as it was saved; empty where it has not begun, or its file cannot be read.
    pub fn load(&self, key: DerivationKey) -> Vec<u8> {
        let path = self.path(key);
        match fs::read(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a checkpoint cannot be read; its training begins anew");
                Vec::new()
            }
        }
    }

    /// Replaces what is stored; it is on the disk when this returns. Whoever loads it finds out whether it is of use.
    pub fn save(&self, key: DerivationKey, bytes: &[u8]) -> Result<(), CheckpointError> {
        let path = self.path(key);
        durable::replace(&self.folder, &path, bytes)
            .map_err(|source| CheckpointError::File { path: path.clone(), source })
    }

    /// Forgets that training. A file that stays is removed at the next start.
    pub fn remove(&self, key: DerivationKey) {
        match fs::remove_file(self.path(key)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(derivation = %key, %error, "a checkpoint cannot be removed"),
        }
    }

    fn path(&self, key: DerivationKey) -> PathBuf {
        self.folder.join(format!("{key}{ENDING}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_is_loaded_until_it_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let (key, other) = (DerivationKey::of(&1).unwrap(), DerivationKey::of(&2).unwrap());
        let checkpoints = Checkpoints::open(folder.path().join("c"), |_| true).unwrap();
        assert_eq!(checkpoints.load(key), b"");
        checkpoints.save(key, b"epoch 1").unwrap();
        checkpoints.save(key, b"epoch 2").unwrap();
        checkpoints.save(other, b"epoch 9").unwrap();
        assert_eq!(checkpoints.load(key), b"epoch 2");
        std::fs::write(folder.path().join("c/unfinished"), "half").unwrap();
        let reopened = Checkpoints::open(folder.path().join("c"), |name| name == key.to_string()).unwrap();
        assert_eq!(std::fs::read_dir(folder.path().join("c")).unwrap().count(), 1);
        reopened.remove(key);
        assert_eq!(reopened.load(key), b"");
        reopened.remove(key);
    }

    #[test]
    fn a_failed_write_keeps_the_last() {
        let folder = tempfile::tempdir().unwrap();
        let key = DerivationKey::of(&1).unwrap();
        let checkpoints = Checkpoints::open(folder.path().join("c"), |_| true).unwrap();
        checkpoints.save(key, b"epoch 1").unwrap();
        // No file can be made in a folder that is gone: as on a full disk, nothing of the last one is touched.
        std::fs::rename(folder.path().join("c"), folder.path().join("moved")).unwrap();
        let error = checkpoints.save(key, b"epoch 2").unwrap_err();
        assert!(error.to_string().starts_with("cannot write "), "{error}");
        std::fs::rename(folder.path().join("moved"), folder.path().join("c")).unwrap();
        assert_eq!(checkpoints.load(key), b"epoch 1");
    }
}
