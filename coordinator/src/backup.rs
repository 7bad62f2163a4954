//! A coordinator's whole state as one file, and back. Owns what belongs to it: every record of every kind, the files that
//! records name, and the keys; not where trainings stand, which begin anew.

pub mod format;
pub mod name;
pub mod restore;

mod records;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Cursor, Read, Seek as _, SeekFrom, Write};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use proto::{ArtifactRef, Digest};

use crate::blob::{BlobError, BlobStore};
use crate::durable;
use crate::store::{Store, StoreError};
use format::{Hashing, Manifest, Member};
use name::Name;

/// Whether private keys are in a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keys {
    /// They are: who has the file can be the coordinator.
    Included,
    /// They are not: they have to be put back before the coordinator starts.
    LeftOut,
}

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The records cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file that records name cannot be read.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// A file cannot be read or written.
    #[error("cannot use {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.to_owned();
    move |source| BackupError::File { path, source }
}

/// What a backup is made of.
pub struct Origin<'a> {
    /// Its records.
    pub store: &'a dyn Store,
    /// Its files.
    pub blobs: &'a BlobStore,
    /// Where its keys are.
    pub state_dir: &'a Path,
    /// Where records are copied to meanwhile; nothing is left there.
    pub scratch: &'a Path,
}

/// A backup that only has to be written.
pub struct Prepared {
    /// What it holds.
    pub manifest: Manifest,
    /// How long writes waited.
    pub held: Duration,
    scratch: File,
    kinds: BTreeMap<Name, (u64, u64)>,
    keys: BTreeMap<Name, Vec<u8>>,
    blobs: BlobStore,
}

impl Prepared {
    /// Reads the records as of this moment, and finds the files that they name. `authority` reads the authorities' files.
    ///
    /// # Errors
    /// When something cannot be read, or the records not be copied.
    pub fn of(
        origin: &Origin<'_>,
        keys: Keys,
        authority: impl FnOnce() -> io::Result<Vec<(String, Vec<u8>)>>,
        now_unix_ms: u64,
    ) -> Result<Self, BackupError> {
        let copied = Copied::of(origin)?;
        let mut manifest = Manifest::new(now_unix_ms, copied.schema, keys == Keys::Included);
        let (mut kinds, mut named) = (BTreeMap::new(), BTreeSet::new());
        for Kind { kind, from, to, records } in copied.kinds {
            let name: Name = format!("records/{kind}")
                .parse()
                .map_err(|problem: String| at(origin.scratch)(io::Error::other(problem)))?;
            let range = Range { file: copied.file.try_clone().map_err(at(origin.scratch))?, from, to };
            let sha256 = look_through(range, &mut named).map_err(at(origin.scratch))?;
            manifest.files.push(Member { name: name.clone(), size: to - from, sha256, records });
            kinds.insert(name, (from, to));
        }
        let mut files = BTreeMap::new();
        for (name, bytes) in signing_key(origin.state_dir)?.into_iter().chain(
            authority()
                .map_err(at(&origin.state_dir.join("authority")))?
                .into_iter()
                .filter_map(|(file, bytes)| Some((format!("authority/{file}").parse().ok()?, bytes))),
        ) {
            if keys == Keys::Included || !is_secret(&name) {
                let (size, sha256) = (bytes.len() as u64, Digest::of(&bytes));
                manifest.files.push(Member { name: name.clone(), size, sha256, records: 0 });
                files.insert(name, bytes);
            }
        }
        manifest.missing = add_blobs(&mut manifest, origin, &named)?;
        let (scratch, blobs) = (copied.file, origin.blobs.clone());
        Ok(Self { manifest, held: copied.held, scratch, kinds, keys: files, blobs })
    }

    /// Writes it.
    ///
    /// # Errors
    /// Those of `out`; when a file cannot be read any more.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        format::write(&self.manifest, out, |file| -> io::Result<Box<dyn Read>> {
            Ok(match &file.name {
                name @ Name::Records(_) => {
                    let (from, to) = self.kinds.get(name).copied().unwrap_or_default();
                    Box::new(Range { file: self.scratch.try_clone()?, from, to })
                }
                Name::Blob(digest) => Box::new(self.blobs.open_blob(*digest).map_err(io::Error::other)?),
                name @ (Name::State(_) | Name::Authority(_)) => {
                    Box::new(Cursor::new(self.keys.get(name).cloned().unwrap_or_default()))
                }
            })
        })
    }
}

/// Has `write` fill a file beside `path`, checks every byte of it, and gives it that name: it is there in full or not at all, and
/// for its owner alone.
///
/// # Errors
/// Those of `write`; when the file cannot be written, or is not what it should be.
pub fn save<E: From<io::Error>>(
    path: &Path,
    write: impl FnOnce(&mut File) -> Result<(), E>,
) -> Result<Manifest, E> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        Some(_) | None => Path::new("."),
    };
    let mut file = tempfile::Builder::new().prefix(".reconvene-").tempfile_in(folder)?;
    write(file.as_file_mut())?;
    file.as_file_mut().seek(SeekFrom::Start(0))?;
    let (manifest, _) = format::read(BufReader::new(file.as_file()), |_| Ok(io::sink()))
        .map_err(|error| io::Error::other(crate::causes::chain(&error)))?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    durable::sync(folder)?;
    Ok(manifest)
}

/// The records, in a file without a name.
struct Copied {
    file: File,
    kinds: Vec<Kind>,
    schema: u32,
    held: Duration,
}

struct Kind {
    kind: String,
    from: u64,
    to: u64,
    records: u64,
}

impl Copied {
    fn of(origin: &Origin<'_>) -> Result<Self, BackupError> {
        let path = origin.scratch;
        let mut out = BufWriter::with_capacity(1 << 20, tempfile::tempfile_in(path).map_err(at(path))?);
        let (mut kinds, mut end): (Vec<Kind>, u64) = (Vec::new(), 0);
        let refuse = |source| StoreError::File { path: path.to_owned(), source };
        let began = Instant::now();
        let schema = origin.store.snapshot(&mut |kind, key, value| {
            if kinds.last().is_none_or(|last| last.kind != kind) {
                kinds.push(Kind { kind: kind.to_owned(), from: end, to: end, records: 0 });
            }
            records::put(&mut out, key, value).map_err(refuse)?;
            end += 8 + key.len() as u64 + value.len() as u64;
            if let Some(last) = kinds.last_mut() {
                (last.to, last.records) = (end, last.records + 1);
            }
            Ok(())
        })?;
        let held = began.elapsed();
        let file = out.into_inner().map_err(|error| at(path)(error.into_error()))?;
        Ok(Self { file, kinds, schema, held })
    }
}

/// The digest of one kind's records; adds to `named` what in them may be a file's name.
fn look_through(range: Range, named: &mut BTreeSet<Digest>) -> io::Result<Digest> {
    let mut hashing = Hashing::new(io::sink());
    io::copy(&mut BufReader::new(range.again()?), &mut hashing)?;
    let mut input = BufReader::new(range);
    while let Some((_, value)) = records::next(&mut input)? {
        let words = value.split(|byte| !byte.is_ascii_hexdigit()).filter(|word| word.len() == 64);
        named.extend(words.filter_map(|word| std::str::from_utf8(word).ok()?.parse::<Digest>().ok()));
    }
    Ok(hashing.digest())
}

/// Adds the files that records name, of whatever kind they are; returns those that should be there and are not.
fn add_blobs(
    manifest: &mut Manifest,
    origin: &Origin<'_>,
    named: &BTreeSet<Digest>,
) -> Result<Vec<Digest>, BackupError> {
    let artifacts = origin.store.artifacts()?.into_iter().map(|record| record.digest);
    let models = origin.store.models()?.into_iter().map(|record| record.file.digest);
    let known: BTreeSet<Digest> = artifacts.chain(models).collect();
    let mut missing = Vec::new();
    for &digest in named {
        let size = match origin.blobs.open_blob(digest) {
            Ok(blob) => Some(blob.size),
            Err(BlobError::Missing { .. } | BlobError::Damaged { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let whole = size.filter(|&size| origin.blobs.verify(&ArtifactRef { digest, size }).is_ok());
        match whole {
            Some(size) => {
                let name = Name::Blob(digest);
                manifest.files.push(Member { name, size: size.0, sha256: digest, records: 0 });
            }
            None if size.is_some() || known.contains(&digest) => missing.push(digest),
            None => {} // a digest of something else
        }
    }
    Ok(missing)
}

fn is_secret(name: &Name) -> bool {
    match name {
        Name::State(file) => file != "signing-key.pub",
        Name::Authority(file) => file.contains("key"),
        Name::Records(_) | Name::Blob(_) => false,
    }
}

fn signing_key(state_dir: &Path) -> Result<Vec<(Name, Vec<u8>)>, BackupError> {
    let mut found = Vec::new();
    for file in ["signing-key.p8", "signing-key.pub"] {
        let path = state_dir.join(file);
        match std::fs::read(&path) {
            Ok(bytes) => found.push((Name::State(file.to_owned()), bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(at(&path)(error)),
        }
    }
    Ok(found)
}

/// A part of a file.
struct Range {
    file: File,
    from: u64,
    to: u64,
}

impl Range {
    fn again(&self) -> io::Result<Self> {
        Ok(Self { file: self.file.try_clone()?, from: self.from, to: self.to })
    }
}

impl Read for Range {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let most = (self.to - self.from).min(bytes.len() as u64) as usize;
        let length = self.file.read_at(&mut bytes[..most], self.from)?;
        self.from += length as u64;
        Ok(length)
    }
}

#[cfg(test)]
mod tests;
