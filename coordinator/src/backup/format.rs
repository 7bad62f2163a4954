//! A backup as bytes: a tar file of which every byte is determined by its manifest, so that none can change unseen. Pure but for
//! the reader and the writer that it is given.
//!
//! First `reconvene-backup`, the SHA-256 of the manifest; then `manifest.json`, which names every other file with its length and
//! SHA-256; then these, in its order. Every header has to be the one that this module writes.

use std::io::{self, Read, Write};

use proto::Digest;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};

use super::name::Name;

/// What the first file is called: nothing else begins so.
const SEAL: &str = "reconvene-backup";
const MANIFEST: &str = "manifest.json";
/// Raised whenever older code could not read what newer code writes.
const VERSION: u32 = 1;
/// Tar's unit.
const BLOCK: u64 = 512;
/// A manifest has some 150 bytes a file.
const LARGEST_MANIFEST: u64 = 64 << 20;

/// What a backup holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Of this format.
    pub version: u32,
    /// When its records were read, milliseconds since 1970.
    pub taken_unix_ms: u64,
    /// The version of the coordinator that wrote it.
    pub coordinator: String,
    /// The schema of the store.
    pub schema: u32,
    /// Whether the private keys are in it.
    pub has_keys: bool,
    /// Files that records name and that were not there, or damaged.
    pub missing: Vec<Digest>,
    /// All others of its files.
    pub files: Vec<Member>,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// What it is.
    pub name: Name,
    /// Its length in bytes.
    pub size: u64,
    /// SHA-256 of its bytes.
    pub sha256: Digest,
    /// Of a file of records: how many.
    pub records: u64,
}

/// Why a file is no backup that can be used.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// It cannot be read.
    #[error("cannot read it")]
    Read(#[source] io::Error),
    /// It is something else.
    #[error("it is no backup of a coordinator: it does not begin with a file '{SEAL}'")]
    Foreign,
    /// It was written by another version.
    #[error(
        "it has version {found} of the format, this program reads version {VERSION}; use the one that wrote it"
    )]
    Version {
        /// What it says.
        found: u32,
    },
    /// It was cut off.
    #[error("it is cut off: it ends at byte {at}, within {part}")]
    CutOff {
        /// Where.
        at: u64,
        /// In what.
        part: String,
    },
    /// Some of its bytes are not those that were written.
    #[error("it is damaged: {problem}, between bytes {from} and {to}")]
    Damaged {
        /// What is wrong.
        problem: String,
        /// Where it may be.
        from: u64,
        /// Up to where.
        to: u64,
    },
    /// Its manifest, though it is as it was written, means nothing.
    #[error("its manifest is not valid: {0}")]
    Manifest(String),
    /// What it holds could not be taken.
    #[error("cannot write what it holds")]
    Sink(#[source] io::Error),
}

/// The manifest as it is written, and what names the backup.
pub fn seal(manifest: &Manifest) -> (Vec<u8>, Digest) {
    let json = serde_json::to_vec_pretty(manifest).expect("it is plain data");
    let digest = Digest::of(&json);
    (json, digest)
}

impl Manifest {
    /// One of this version.
    pub fn new(taken_unix_ms: u64, schema: u32, has_keys: bool) -> Self {
        Self {
            version: VERSION,
            taken_unix_ms,
            coordinator: env!("CARGO_PKG_VERSION").to_owned(),
            schema,
            has_keys,
            missing: Vec::new(),
            files: Vec::new(),
        }
    }

    /// Records in all.
    pub fn records(&self) -> u64 {
        self.files.iter().map(|file| file.records).sum()
    }

    /// Bytes of the whole backup.
    pub fn length(&self) -> u64 {
        let manifest = seal(self).0.len() as u64;
        let files = self.files.iter().map(|file| file.size);
        let parts = [digest_line(Digest::of(b"")).len() as u64, manifest].into_iter().chain(files);
        parts.map(|size| BLOCK + padded(size)).sum::<u64>() + 2 * BLOCK
    }

    /// Why it means nothing.
    fn flaw(&self) -> Option<String> {
        let mut names: Vec<_> = self.files.iter().map(|file| &file.name).collect();
        names.sort();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Some(format!("{} is in it twice", twice[0]));
        }
        self.files.iter().find_map(|file| match file.name {
            Name::Blob(digest) if digest != file.sha256 => {
                Some(format!("{} is said to have the digest {}", file.name, file.sha256))
            }
            Name::Blob(_) | Name::Records(_) | Name::State(_) | Name::Authority(_) => None,
        })
    }
}

/// Writes a backup; `open` gives the bytes of each file in turn.
///
/// # Errors
/// Those of `out` and of the files; also where a file is not as the manifest says.
pub fn write<R: Read>(
    manifest: &Manifest,
    out: &mut impl Write,
    mut open: impl FnMut(&Member) -> io::Result<R>,
) -> io::Result<()> {
    let (json, digest) = seal(manifest);
    for (name, bytes) in [(SEAL, digest_line(digest).as_bytes()), (MANIFEST, &json)] {
        out.write_all(header(name, bytes.len() as u64, manifest.taken_unix_ms)?.as_bytes())?;
        out.write_all(bytes)?;
        out.write_all(padding(bytes.len() as u64))?;
    }
    for file in &manifest.files {
        let name = file.name.to_string();
        out.write_all(header(&name, file.size, manifest.taken_unix_ms)?.as_bytes())?;
        let mut hashing = Hashing::new(&mut *out);
        let copied = io::copy(&mut open(file)?.take(file.size + 1), &mut hashing)?;
        if copied != file.size || hashing.digest() != file.sha256 {
            return Err(io::Error::other(format!("{name} changed while it was read")));
        }
        out.write_all(padding(file.size))?;
    }
    out.write_all(&[0; 2 * BLOCK as usize])
}

/// Reads a backup and checks every byte of it; `sink` is given each file's bytes. Returns what it holds, and what names it.
/// Nothing that `sink` was given counts unless this succeeds.
///
/// # Errors
/// The first flaw.
pub fn read<W: Write>(
    input: impl Read,
    mut sink: impl FnMut(&Member) -> io::Result<W>,
) -> Result<(Manifest, Digest), FormatError> {
    let mut input = Source { input, at: 0 };
    let seal_size = digest_line(Digest::of(b"")).len() as u64;
    let mut first = [0; BLOCK as usize];
    let begun = input.fill(&mut first, "its first header");
    let is_ours = first.starts_with(SEAL.as_bytes());
    if !is_ours {
        return Err(match begun {
            Err(error @ FormatError::Read(_)) => error,
            Err(_) | Ok(()) => FormatError::Foreign,
        });
    }
    begun?;
    let line = input.bytes(seal_size, SEAL)?;
    let second = input.header(MANIFEST)?;
    let size = Header::from_byte_slice(&second).entry_size().unwrap_or(u64::MAX);
    if size > LARGEST_MANIFEST {
        return Err(input.damaged("the header of manifest.json", BLOCK));
    }
    let json = input.bytes(size, MANIFEST)?;
    let digest = Digest::of(&json);
    if line != digest_line(digest).as_bytes() {
        return Err(input.damaged("manifest.json is not the one that was sealed", input.at));
    }
    let manifest = parse(&json)?;
    let expected = |name: &str, size| header(name, size, manifest.taken_unix_ms).map_err(FormatError::Read);
    if first != *expected(SEAL, seal_size)?.as_bytes() || second != *expected(MANIFEST, size)?.as_bytes() {
        return Err(FormatError::Damaged { problem: "a header".to_owned(), from: 0, to: input.at });
    }
    for file in &manifest.files {
        let name = file.name.to_string();
        if input.header(&name)? != *expected(&name, file.size)?.as_bytes() {
            return Err(input.damaged(&format!("the header of {name}"), BLOCK));
        }
        let mut out = Hashing::new(sink(file).map_err(FormatError::Sink)?);
        input.copy(file.size, &name, &mut out)?;
        if out.digest() != file.sha256 {
            return Err(input.damaged(&format!("{name} has another digest"), padded(file.size)));
        }
    }
    let end = input.bytes(2 * BLOCK, "its end")?;
    if end.iter().any(|&byte| byte != 0) {
        return Err(input.damaged("its end", 2 * BLOCK));
    }
    match input.input.read(&mut [0]) {
        Ok(0) => Ok((manifest, digest)),
        Ok(_) => Err(FormatError::Damaged {
            problem: "something follows its end".to_owned(),
            from: input.at,
            to: input.at + 1,
        }),
        Err(error) => Err(FormatError::Read(error)),
    }
}

fn parse(json: &[u8]) -> Result<Manifest, FormatError> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let invalid = |error: serde_json::Error| FormatError::Manifest(error.to_string());
    let Versioned { version } = serde_json::from_slice(json).map_err(invalid)?;
    if version != VERSION {
        return Err(FormatError::Version { found: version });
    }
    let manifest: Manifest = serde_json::from_slice(json).map_err(invalid)?;
    match manifest.flaw() {
        Some(flaw) => Err(FormatError::Manifest(flaw)),
        None => Ok(manifest),
    }
}

fn digest_line(digest: Digest) -> String {
    format!("{digest}\n")
}

/// The one header that a file of this name and length has.
fn header(name: &str, size: u64, unix_ms: u64) -> io::Result<Header> {
    let mut header = Header::new_ustar();
    header.set_path(name)?;
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o600);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(unix_ms / 1000);
    header.set_size(size);
    header.set_cksum();
    Ok(header)
}

fn padded(size: u64) -> u64 {
    size.saturating_add(BLOCK - 1) / BLOCK * BLOCK
}

fn padding(size: u64) -> &'static [u8] {
    &[0; BLOCK as usize][..(padded(size) - size) as usize]
}

/// The input, and how far it was read.
struct Source<R> {
    input: R,
    at: u64,
}

impl<R: Read> Source<R> {
    fn fill(&mut self, block: &mut [u8], part: &str) -> Result<(), FormatError> {
        let mut filled = 0;
        while filled < block.len() {
            match self.input.read(&mut block[filled..]) {
                Ok(0) => return Err(FormatError::CutOff { at: self.at, part: part.to_owned() }),
                Ok(length) => (filled, self.at) = (filled + length, self.at + length as u64),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(FormatError::Read(error)),
            }
        }
        Ok(())
    }

    fn header(&mut self, name: &str) -> Result<[u8; BLOCK as usize], FormatError> {
        let mut block = [0; BLOCK as usize];
        self.fill(&mut block, &format!("the header of {name}"))?;
        Ok(block)
    }

    /// A small file, whole.
    fn bytes(&mut self, size: u64, name: &str) -> Result<Vec<u8>, FormatError> {
        let mut bytes = Vec::new(); // grows as they come, never on a header's word
        self.copy(size, name, &mut bytes)?;
        Ok(bytes)
    }

    /// A file and the zeros that follow it up to a whole block.
    fn copy(&mut self, size: u64, name: &str, out: &mut impl Write) -> Result<(), FormatError> {
        let mut piece = vec![0; 64 << 10];
        let mut left = size;
        while left > 0 {
            let length = left.min(piece.len() as u64) as usize;
            self.fill(&mut piece[..length], name)?;
            out.write_all(&piece[..length]).map_err(FormatError::Sink)?;
            left -= length as u64;
        }
        let mut rest = vec![0; (padded(size) - size) as usize];
        self.fill(&mut rest, name)?;
        if rest.iter().any(|&byte| byte != 0) {
            return Err(self.damaged(&format!("what fills up the last block of {name}"), BLOCK));
        }
        Ok(())
    }

    /// Damage in the last `length` bytes.
    fn damaged(&self, problem: &str, length: u64) -> FormatError {
        FormatError::Damaged {
            problem: problem.to_owned(),
            from: self.at.saturating_sub(length),
            to: self.at,
        }
    }
}

/// Passes bytes on, and knows their digest.
pub(super) struct Hashing<W> {
    out: W,
    hash: Sha256,
}

impl<W: Write> Hashing<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, hash: Sha256::new() }
    }

    pub(super) fn digest(self) -> Digest {
        Digest::from_bytes(self.hash.finalize().into())
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.out.write(bytes)?;
        self.hash.update(&bytes[..length]);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests;
