//! A backup back into a state folder: checked to its last byte, then built beside it, then given its name. Never removes a
//! folder that somebody else made.

use std::fs::{self, File, TryLockError};
use std::io::{self, BufReader};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, chown};
use std::path::{Path, PathBuf};

use proto::{DeviceId, Digest, Generation};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::format::{self, FormatError, Manifest};
use super::name::Name;
use super::records;
use crate::audit::{Event, Flaw, verify};
use crate::durable;
use crate::store::{AuditQuery, Outcome, OutcomeRecord, RestoreRecord, SledStore, Store, StoreError};

/// Where the clock is no help, generations go on so far above the highest one that is known.
const LEAP: u64 = 1 << 20;

/// What to do where the folder is not empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occupied {
    /// Nothing.
    Refuse,
    /// Give what is there another name.
    MoveAside,
}

/// A state folder that was restored.
#[derive(Debug)]
pub struct Restored {
    /// What the backup held.
    pub manifest: Manifest,
    /// Names the backup.
    pub digest: Digest,
    /// Every generation that is given from now on is above it.
    pub floor: Generation,
    /// Devices that are told again what they had.
    pub told_again: u64,
    /// What is wrong with the audit log, as it was with the one that was backed up.
    pub flaw: Option<Flaw>,
    /// Where what was in the folder lies now.
    pub aside: Option<PathBuf>,
}

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The file is no backup, or not whole.
    #[error("{}", file.display())]
    Format {
        /// Which.
        file: PathBuf,
        /// Why.
        source: FormatError,
    },
    /// Its store is of another version.
    #[error("{} has a store of schema {found}, this version reads schema {known}; use the version that wrote it", file.display())]
    Schema {
        /// Which.
        file: PathBuf,
        /// What it says.
        found: u32,
        /// What this version reads.
        known: u32,
    },
    /// Something is there.
    #[error("{} is not empty; name another folder, or say --force to have what is there moved aside", path.display())]
    Occupied {
        /// Where.
        path: PathBuf,
    },
    /// Another process is at it.
    #[error("another restore into {} is under way", path.display())]
    Underway {
        /// Into what.
        path: PathBuf,
    },
    /// The clock is wrong, and generations are taken from it.
    #[error("this host's clock stands before the time at which the backup was taken; set it first")]
    Clock,
    /// The disk refused.
    #[error("cannot {step} {}", path.display())]
    File {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The records cannot be stored.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn failed(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RestoreError {
    let path = path.to_owned();
    move |source| RestoreError::File { step, path, source }
}

/// Checks every byte of a backup; returns what it holds, and what names it.
///
/// # Errors
/// When it is none, or not whole.
pub fn check(file: &Path) -> Result<(Manifest, Digest), RestoreError> {
    let (manifest, digest) = read(file, |_| Ok(io::sink()))?;
    if manifest.schema != SledStore::schema() {
        let (found, known) = (manifest.schema, SledStore::schema());
        return Err(RestoreError::Schema { file: file.to_owned(), found, known });
    }
    Ok((manifest, digest))
}

/// Makes `state_dir` what the backup says, in the name of `by`.
///
/// # Errors
/// When it cannot; then nothing has changed.
pub fn restore(
    file: &Path,
    state_dir: &Path,
    occupied: Occupied,
    (by, now_unix_ms): (&str, u64),
) -> Result<Restored, RestoreError> {
    let (manifest, _) = check(file)?;
    if now_unix_ms < manifest.taken_unix_ms {
        return Err(RestoreError::Clock);
    }
    let place = Place::of(state_dir)?;
    let is_empty = place.is_empty()?;
    if !is_empty && occupied == Occupied::Refuse {
        return Err(RestoreError::Occupied { path: place.path });
    }
    // Held to the end: a coordinator that has it open would go on in a folder of another name.
    let store = place.path.join("store");
    let _stopped = store.exists().then(|| SledStore::lock(&store)).transpose()?;
    let work = Work::begin(&place)?;
    let (manifest, digest) = extract(file, &work.path)?;
    let (floor, told_again, flaw) = fill(&work.path, &manifest, (digest, by), now_unix_ms)?;
    settle(&work.path, place.owner)?;
    let aside = if is_empty {
        work.take_place(&place)?;
        None
    } else {
        Some(work.exchange(&place, now_unix_ms)?)
    };
    Ok(Restored { manifest, digest, floor, told_again, flaw, aside })
}

fn read<W: io::Write>(
    file: &Path,
    sink: impl FnMut(&format::Member) -> io::Result<W>,
) -> Result<(Manifest, Digest), RestoreError> {
    let input = File::open(file).map_err(failed("read", file))?;
    let found = format::read(BufReader::with_capacity(1 << 20, input), sink);
    found.map_err(|source| RestoreError::Format { file: file.to_owned(), source })
}

/// Where it is to be, symbolic links followed.
struct Place {
    path: PathBuf,
    parent: PathBuf,
    /// Whose the folder is that is there.
    owner: Option<(u32, u32)>,
}

impl Place {
    fn of(state_dir: &Path) -> Result<Self, RestoreError> {
        let path = match fs::canonicalize(state_dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let parent = match state_dir.parent() {
                    Some(parent) if !parent.as_os_str().is_empty() => parent,
                    Some(_) | None => Path::new("."),
                };
                let parent = fs::canonicalize(parent).map_err(failed("use the folder", parent))?;
                let name = state_dir.file_name().ok_or_else(|| io::ErrorKind::InvalidInput.into());
                parent.join(name.map_err(failed("use", state_dir))?)
            }
            found => found.map_err(failed("use", state_dir))?,
        };
        let root = || failed("restore to", state_dir)(io::ErrorKind::InvalidInput.into());
        let parent = path.parent().ok_or_else(root)?.to_owned();
        let owner = fs::metadata(&path).ok().map(|there| (there.uid(), there.gid()));
        Ok(Self { path, parent, owner })
    }

    fn is_empty(&self) -> Result<bool, RestoreError> {
        match fs::read_dir(&self.path) {
            Ok(mut entries) => Ok(entries.next().is_none()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(error) => Err(failed("list", &self.path)(error)),
        }
    }

    fn beside(&self, before: &str, after: &str) -> PathBuf {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        self.parent.join(format!("{before}{name}{after}"))
    }
}

/// The folder in which it is built; removed unless it came to its place.
struct Work {
    path: PathBuf,
    _lock: File,
}

impl Work {
    /// Begins anew what an earlier restore may have left.
    fn begin(place: &Place) -> Result<Self, RestoreError> {
        let path = place.beside(".", ".restoring");
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed("make", &path)(error));
            }
            Ok(()) | Err(_) => {}
        }
        let lock = File::open(&path).map_err(failed("open", &path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(RestoreError::Underway { path: place.path.clone() }),
            Err(TryLockError::Error(error)) => return Err(failed("lock", &path)(error)),
        }
        for entry in fs::read_dir(&path).map_err(failed("list", &path))? {
            let entry = entry.map_err(failed("list", &path))?.path();
            let removed = if entry.is_dir() { fs::remove_dir_all(&entry) } else { fs::remove_file(&entry) };
            removed.map_err(failed("remove", &entry))?;
        }
        Ok(Self { path, _lock: lock })
    }

    /// Becomes the folder, where that is empty or not there.
    fn take_place(self, place: &Place) -> Result<(), RestoreError> {
        fs::rename(&self.path, &place.path).map_err(failed("replace", &place.path))?;
        durable::sync(&place.parent).map_err(failed("synchronise", &place.parent))
    }

    /// Becomes the folder in one step with what was there before; returns where that is then.
    fn exchange(self, place: &Place, now_unix_ms: u64) -> Result<PathBuf, RestoreError> {
        let aside = place.beside("", &format!(".before-restore-{now_unix_ms}"));
        // Under the other name first: what was there before never has the name that is cleared away.
        fs::rename(&self.path, &aside).map_err(failed("rename", &self.path))?;
        if renameat_with(CWD, &aside, CWD, &place.path, RenameFlags::EXCHANGE).is_err() {
            // Not every file system can; then for a moment there is neither.
            fs::rename(&aside, &self.path).map_err(failed("rename", &aside))?;
            fs::rename(&place.path, &aside).map_err(failed("move aside", &place.path))?;
            if let Err(error) = fs::rename(&self.path, &place.path) {
                fs::rename(&aside, &place.path).map_err(failed("put back", &aside))?;
                return Err(failed("replace", &place.path)(error));
            }
        }
        durable::sync(&place.parent).map_err(failed("synchronise", &place.parent))?;
        Ok(aside)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // Once it came to its place there is nothing of this name; what cannot be removed the next restore removes.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Where records lie until they are in the store.
fn records_of(work: &Path) -> PathBuf {
    work.join("records")
}

fn extract(file: &Path, work: &Path) -> Result<(Manifest, Digest), RestoreError> {
    for folder in ["records", "artifacts", "authority"] {
        let path = work.join(folder);
        fs::DirBuilder::new().mode(0o700).create(&path).map_err(failed("make", &path))?;
    }
    read(file, |member| {
        let path = match &member.name {
            Name::Records(kind) => records_of(work).join(kind),
            Name::Blob(_) | Name::State(_) | Name::Authority(_) => {
                member.name.path(work).ok_or(io::ErrorKind::InvalidInput)?
            }
        };
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
    })
}

/// Puts the records into a store, and has it go on from there.
fn fill(
    work: &Path,
    manifest: &Manifest,
    (digest, by): (Digest, &str),
    now_unix_ms: u64,
) -> Result<(Generation, u64, Option<Flaw>), RestoreError> {
    let store = SledStore::open(&work.join("store"))?;
    let folder = records_of(work);
    for member in &manifest.files {
        let Name::Records(kind) = &member.name else { continue };
        let path = folder.join(kind);
        let mut input = BufReader::new(File::open(&path).map_err(failed("read", &path))?);
        while let Some((key, value)) = records::next(&mut input).map_err(failed("read", &path))? {
            store.load(kind, &key, &value)?;
        }
    }
    fs::remove_dir_all(&folder).map_err(failed("remove", &folder))?;
    let flaw = look(&store)?;
    let floor = Generation(now_unix_ms.max(highest(&store)?.0.saturating_add(LEAP)));
    let taken_unix_ms = manifest.taken_unix_ms;
    store.put_restore(&RestoreRecord {
        backup: digest,
        taken_unix_ms,
        restored_unix_ms: now_unix_ms,
        floor,
    })?;
    let told_again = tell_again(&store, now_unix_ms)?;
    let event = Event::new(by, "restore", format!("backup/{}", digest.short())).changed(
        format!("taken {}", time(taken_unix_ms)),
        format!(
            "{} records, {} devices told again; generations go on above {floor}; backup {digest}",
            manifest.records(),
            told_again
        ),
    );
    store.append_audit(&[event], now_unix_ms)?;
    Ok((floor, told_again, flaw))
}

/// A time as people read it.
pub fn time(unix_ms: u64) -> String {
    let at = std::time::UNIX_EPOCH + std::time::Duration::from_millis(unix_ms);
    humantime::format_rfc3339_seconds(at).to_string()
}

/// Reads every record once: one that this version cannot read is told before anything changed.
fn look(store: &dyn Store) -> Result<Option<Flaw>, StoreError> {
    store.derivations()?;
    store.datasets()?;
    store.models()?;
    store.artifacts()?;
    store.tokens()?;
    store.identities()?;
    store.operators()?;
    for device in store.devices()? {
        store.telemetry(&device.id)?;
    }
    let entries = store.audit(&AuditQuery { most: usize::MAX, ..AuditQuery::default() })?;
    Ok(verify(&entries, None).err())
}

/// Some 285,000 years after 1970, in milliseconds.
const BELIEVED: Generation = Generation(1 << 53);

/// The highest generation in it.
fn highest(store: &dyn Store) -> Result<Generation, StoreError> {
    let mut highest = Generation(0);
    for device in store.devices()? {
        let given = store.assignment(&device.id)?.map(|record| record.generation).unwrap_or_default();
        // What a device says is believed as far as a coordinator may have given it.
        let held = device.holding.generation.min(BELIEVED);
        highest = highest.max(given).max(held);
    }
    let deployments = store.deployments()?;
    Ok(deployments.iter().map(|record| record.generation).fold(highest, Generation::max))
}

/// Gives each device again what it had, in a generation above all that it may have seen since: it may hold something else by now,
/// and would take it for newer. Returns how many.
fn tell_again(store: &dyn Store, now_unix_ms: u64) -> Result<u64, StoreError> {
    let mut told = 0;
    for device in store.devices()? {
        told += u64::from(tell(store, &device.id, now_unix_ms)?);
    }
    Ok(told)
}

fn tell(store: &dyn Store, device: &DeviceId, now_unix_ms: u64) -> Result<bool, StoreError> {
    let Some(had) = store.assignment(device)? else { return Ok(false) };
    let (name, generation) = (&had.order.deployment, had.order.deployment_generation);
    let deployment = store.deployment(name)?.filter(|record| record.generation == generation);
    let outcome = deployment.as_ref().and_then(|record| record.outcomes.get(device));
    let outcome = outcome.filter(|outcome| outcome.assignment == Some(had.generation));
    // What it gave up it is not given again.
    if outcome.is_some_and(OutcomeRecord::is_failed) {
        return Ok(false);
    }
    let again = store.assign(device, &had.order)?;
    if outcome.is_some() {
        store.update_deployment(name, generation, &mut |record| {
            let Some(outcome) = record.outcomes.get_mut(device) else { return };
            outcome.assignment = Some(again.generation);
            if matches!(outcome.state, Outcome::Active { .. } | Outcome::Assigned { .. }) {
                outcome.state = Outcome::Assigned { since_unix_ms: now_unix_ms };
            }
        })?;
    }
    Ok(true)
}

/// Gives all of it to its owner, and puts it on the disk.
fn settle(path: &Path, owner: Option<(u32, u32)>) -> Result<(), RestoreError> {
    if path.is_dir() {
        for entry in fs::read_dir(path).map_err(failed("list", path))? {
            settle(&entry.map_err(failed("list", path))?.path(), owner)?;
        }
    }
    let there = fs::metadata(path).map_err(failed("read", path))?;
    if let Some((user, group)) = owner.filter(|&owner| owner != (there.uid(), there.gid())) {
        chown(path, Some(user), Some(group)).map_err(failed("give to its owner", path))?;
    }
    File::open(path).and_then(|file| file.sync_all()).map_err(failed("synchronise", path))
}
