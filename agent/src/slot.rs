//! Two slots on disk, one of them active. Owns what is installed and the order of writes that makes every crash end
//! in a device with an intact model; never speaks to the coordinator and never runs a model.
//!
//! ```text
//! slots/a/{manifest.json,model.onnx}   slots/b/...   active   ("a" or "b")
//! ```
//! Installing writes the inactive slot: the manifest first, then the model by rename, then the pointer. A slot counts
//! only if its model has the digest that its manifest names, so a crash between any two steps leaves the slot empty
//! or complete, and the pointer at a slot that was complete before.

use std::io;
use std::path::{Path, PathBuf};

use proto::{ByteSize, Digest, Generation, ModelManifest, Probation};
use serde::{Deserialize, Serialize};

use crate::causes::describe;
use crate::state::{self, FileError, StateDir};

/// A manifest holds the image of its self-test: as text, eight times what came in one message of at most 4 MiB, twice over.
const MANIFEST: ByteSize = ByteSize(64 << 20);

/// One of the two places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// `slots/a`.
    A,
    /// `slots/b`.
    B,
}

impl Slot {
    /// Both, in order.
    pub const ALL: [Self; 2] = [Self::A, Self::B];

    /// The one that is not this.
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }
}

/// What an assignment put into a slot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Installed {
    /// The assignment's.
    pub generation: Generation,
    /// Where the assignment came from.
    pub deployment: String,
    /// The model.
    pub model: ModelManifest,
    /// What it has to stand while it serves.
    #[serde(default)]
    pub probation: Probation,
}

impl Installed {
    /// The model's digest.
    pub fn digest(&self) -> Digest {
        self.model.artifact.digest
    }
}

/// The slots as they are on disk.
#[derive(Debug)]
pub struct Slots {
    root: PathBuf,
    active: Option<Slot>,
    /// Whether it is what the disk says.
    is_on_disk: bool,
    contents: [Option<Installed>; 2],
    damage: Vec<String>,
    refused: Option<FileError>,
}

/// Why what lies in a slot cannot serve.
#[derive(Debug, thiserror::Error)]
enum Damage {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("its manifest is not sound")]
    Manifest(#[source] serde_json::Error),
    #[error("its model is missing")]
    Missing,
    #[error("its model has {got} bytes, its manifest says {announced}")]
    Length { got: u64, announced: u64 },
    #[error("its model is not the one that its manifest names")]
    Digest,
}

impl Slots {
    /// Reads both slots; a slot whose model does not match its manifest is empty. If the active one is empty, nothing is
    /// active until [`Slots::activate`] points at the other; if no pointer says which it is, the newest is.
    pub fn read(state: &StateDir) -> Self {
        let root = state.root().to_owned();
        let (mut damage, mut refused) = (Vec::new(), None);
        let contents = Slot::ALL.map(|slot| {
            read_slot(&root, slot).unwrap_or_else(|error| {
                let error = match error {
                    Damage::File(error) if error.is_refusal() => {
                        let said = describe(&error);
                        refused.get_or_insert(error);
                        said
                    }
                    error => describe(&error),
                };
                tracing::error!(slot = slot.name(), error, "a damaged slot is left out");
                damage.push(format!("slot {}: {error}", slot.name()));
                None
            })
        });
        let named = read_pointer(&root).unwrap_or_else(|error| {
            let said = describe(&error);
            tracing::error!(
                error = said,
                "the pointer to the active slot is damaged; the newest that is whole counts"
            );
            damage.push(said);
            refused = refused.take().or(Some(error).filter(FileError::is_refusal));
            None
        });
        let is_on_disk = named.is_some();
        let active = named.filter(|slot| contents[*slot as usize].is_some());
        let slots = Self { root, active, is_on_disk, contents, damage, refused };
        let newest = if is_on_disk { None } else { slots.candidates().first().copied() };
        Self { active: active.or(newest), ..slots }
    }

    /// What was found damaged when they were read, a line each.
    pub fn damage(&self) -> &[String] {
        &self.damage
    }

    /// What this user may not read of them, which may be sound.
    pub fn take_refused(&mut self) -> Option<FileError> {
        self.refused.take()
    }

    /// The active slot's place.
    pub fn active_slot(&self) -> Option<Slot> {
        self.active
    }

    /// What is active.
    pub fn active(&self) -> Option<&Installed> {
        self.active.and_then(|slot| self.installed(slot))
    }

    /// What a slot holds.
    pub fn installed(&self, slot: Slot) -> Option<&Installed> {
        self.contents[slot as usize].as_ref()
    }

    /// Where the next model goes.
    pub fn inactive_slot(&self) -> Slot {
        self.active.map_or(Slot::A, Slot::other)
    }

    /// What may serve after a start, best first: the active slot, then the other; without a pointer the newest first.
    pub fn candidates(&self) -> Vec<Slot> {
        let mut slots: Vec<Slot> =
            Slot::ALL.into_iter().filter(|&slot| self.installed(slot).is_some()).collect();
        slots.sort_by_key(|&slot| {
            let generation = self.installed(slot).map(|installed| installed.generation);
            (self.active != Some(slot), std::cmp::Reverse(generation))
        });
        slots
    }

    /// Where a comparison of engines on a slot's model is kept.
    pub fn comparison(&self, slot: Slot) -> PathBuf {
        folder(&self.root, slot).join("comparison.json")
    }

    /// Where a slot's model lies.
    pub fn model(&self, slot: Slot) -> PathBuf {
        model_path(&self.root, slot)
    }

    /// A slot's model, whose digest is checked once more.
    pub fn model_bytes(&self, slot: Slot) -> Result<Option<Vec<u8>>, FileError> {
        let Some(installed) = self.installed(slot) else { return Ok(None) };
        let size = installed.model.artifact.size;
        let bytes = state::unless_damaged(state::read(&model_path(&self.root, slot), size))?;
        Ok(bytes.filter(|bytes| Digest::of(bytes) == installed.digest()))
    }

    /// Puts the model file `staged`, durable and verified, into the inactive slot. The pointer stays.
    pub fn install(&mut self, staged: &Path, installed: Installed) -> Result<Slot, FileError> {
        let slot = self.inactive_slot();
        self.write_manifest(slot, &installed)?;
        state::rename(staged, &model_path(&self.root, slot))?;
        self.contents[slot as usize] = Some(installed);
        Ok(slot)
    }

    /// Names the model that the inactive slot already holds by a new assignment. The pointer stays.
    pub fn adopt(&mut self, installed: Installed) -> Result<Slot, FileError> {
        let slot = self.inactive_slot();
        self.write_manifest(slot, &installed)?;
        self.contents[slot as usize] = Some(installed);
        Ok(slot)
    }

    /// Names the active model by a new assignment.
    pub fn rename_active(&mut self, installed: Installed) -> Result<Slot, FileError> {
        let slot = self.active.unwrap_or(Slot::A);
        let before = self.contents[slot as usize].take();
        let written = self.write_manifest(slot, &installed);
        // The manifest is replaced whole or not at all, and either names the model that lies there.
        self.contents[slot as usize] = if written.is_ok() { Some(installed) } else { before };
        written.map(|()| slot)
    }

    /// Points at `slot`: from here on it is what a restart serves.
    pub fn activate(&mut self, slot: Slot) -> Result<(), FileError> {
        state::replace(&self.root.join("active"), slot.name().as_bytes())?;
        (self.active, self.is_on_disk) = (Some(slot), true);
        Ok(())
    }

    /// Points at the active slot where the disk does not say which it is.
    pub fn settle(&mut self) -> Result<(), FileError> {
        self.active.filter(|_| !self.is_on_disk).map_or(Ok(()), |slot| self.activate(slot))
    }

    /// Takes it that `slot` is active, whatever the disk says: the next model then goes into the other.
    pub fn serves_from(&mut self, slot: Slot) {
        self.active = Some(slot);
    }

    fn write_manifest(&mut self, slot: Slot, installed: &Installed) -> Result<(), FileError> {
        self.contents[slot as usize] = None;
        let json = serde_json::to_vec_pretty(installed).expect("a manifest is plain data");
        state::replace(&folder(&self.root, slot).join("manifest.json"), &json)
    }
}

fn folder(root: &Path, slot: Slot) -> PathBuf {
    root.join("slots").join(slot.name())
}

fn model_path(root: &Path, slot: Slot) -> PathBuf {
    folder(root, slot).join("model.onnx")
}

/// The slot that the pointer names; `None` where there is no pointer yet.
fn read_pointer(root: &Path) -> Result<Option<Slot>, FileError> {
    let path = root.join("active");
    let Some(text) = state::read(&path, state::RECORD)? else { return Ok(None) };
    let named = Slot::ALL.into_iter().find(|slot| slot.name().as_bytes() == text);
    let unknown = || io::Error::new(io::ErrorKind::InvalidData, "it names no slot");
    named.map(Some).ok_or_else(|| FileError::of("understand", &path)(unknown()))
}

/// A slot's content, if it is whole and intact; `None` where nothing was ever installed.
fn read_slot(root: &Path, slot: Slot) -> Result<Option<Installed>, Damage> {
    let Some(json) = state::read(&folder(root, slot).join("manifest.json"), MANIFEST)? else {
        return Ok(None);
    };
    let installed = serde_json::from_slice::<Installed>(&json).map_err(Damage::Manifest)?;
    let path = model_path(root, slot);
    let announced = installed.model.artifact.size.0;
    // Looked at first: what is far too long is not read.
    let got = state::length(&path)?.ok_or(Damage::Missing)?;
    if got != announced {
        return Err(Damage::Length { got, announced });
    }
    let bytes = state::read(&path, installed.model.artifact.size)?.ok_or(Damage::Missing)?;
    if Digest::of(&bytes) != installed.digest() {
        return Err(Damage::Digest);
    }
    Ok(Some(installed))
}

#[cfg(test)]
mod tests;
