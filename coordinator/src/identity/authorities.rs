//! The fleet's authorities on the disk, and the one that issues. Owns their folder; a step is on the disk before it counts.
//!
//! The first authority is `ca.pem` with `ca-key.pem`. From the first rotation on `authorities.json` says which there are, and the
//! key of number N is `ca-key-N.pem`; the key of one that issues no more is removed.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::UNIX_EPOCH;

use tokio::sync::watch;
use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, UnixTime};
use tokio_rustls::rustls::server::WebPkiClientVerifier;

use super::authority::{Authority, AuthorityError};
use super::caller::Issuer;
use super::succession::{Member, Step, StepError, Succession};
use crate::durable;

/// The first authority's certificate.
const FIRST: &str = "ca.pem";
/// Which there are.
const LIST: &str = "authorities.json";

/// Every authority, and the way from one to the next.
pub struct Authorities {
    folder: PathBuf,
    present: watch::Sender<Arc<Present>>,
    /// Held while a step is taken.
    step: Mutex<()>,
}

/// How it is at one time.
pub struct Present {
    /// Which authorities there are.
    pub succession: Succession,
    /// The one that issues.
    pub active: Authority,
}

/// Why there is no such step.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// It is not its turn.
    #[error(transparent)]
    Step(#[from] StepError),
    /// Its files or keys are not there.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
}

impl Authorities {
    /// Those in `folder`; the first is made where there is none.
    ///
    /// # Errors
    /// When the files cannot be used.
    pub fn open(folder: &Path) -> Result<Self, AuthorityError> {
        fs::create_dir_all(folder).map_err(AuthorityError::file(folder))?;
        // A coordinator may take a step between the list and the key that it names; then both are there at the second look.
        let present = present(folder).or_else(|_| present(folder))?;
        let folder = folder.to_owned();
        Ok(Self { folder, present: watch::Sender::new(Arc::new(present)), step: Mutex::default() })
    }

    /// Whether any were made in `folder`.
    pub fn are_in(folder: &Path) -> bool {
        folder.join(FIRST).exists() || folder.join(LIST).exists()
    }

    /// The folder's files, as they are between two steps.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn files(&self) -> std::io::Result<Vec<(String, Vec<u8>)>> {
        let _turn = self.step.lock().unwrap_or_else(PoisonError::into_inner);
        Self::files_in(&self.folder)
    }

    /// The files in `folder`, where no coordinator takes a step; none where there is no folder.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn files_in(folder: &Path) -> std::io::Result<Vec<(String, Vec<u8>)>> {
        let entries = match fs::read_dir(folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut files = Vec::new();
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type()?.is_file() && !name.starts_with(durable::UNFINISHED) {
                files.push((name, fs::read(entry.path())?));
            }
        }
        files.sort();
        Ok(files)
    }

    /// How it is now.
    pub fn now(&self) -> Arc<Present> {
        self.present.borrow().clone()
    }

    /// The authority that signed a client's certificate itself, with none between them: of one that another signed in its name nothing
    /// is known.
    pub fn issuer(&self, certificate: &CertificateDer<'_>) -> Issuer {
        let now = self.now();
        let signed = |member: &&Member| {
            let mut roots = RootCertStore::empty();
            let root = CertificateDer::from_pem_slice(member.certificate.as_bytes()).ok()?;
            roots.add(root).ok()?;
            let provider = Arc::new(default_provider());
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().ok()?;
            verifier.verify_client_cert(certificate, &[], UnixTime::now()).ok().map(drop)
        };
        now.succession
            .members()
            .iter()
            .rev()
            .find(|member| signed(member).is_some())
            .map_or(Issuer::Unknown, |member| Issuer::Authority(member.number))
    }

    /// Ends once what the authority of that number issued is refused; where none is named, at the next retirement of any.
    pub fn retirement(&self, of: Option<u32>) -> impl Future<Output = ()> + Send + use<> {
        let mut present = self.present.subscribe();
        let before = present.borrow_and_update().succession.retired();
        let is_over = move |now: &Arc<Present>| match of {
            Some(number) => now.succession.is_retired(number),
            None => now.succession.retired() > before,
        };
        async move {
            if present.wait_for(is_over).await.is_err() {
                std::future::pending().await // nobody takes steps any more
            }
        }
    }

    /// Takes a step, for one whose certificate `own` issued. Blocks.
    ///
    /// # Errors
    /// When it is not its turn or would lock him out, or the files cannot be used; then nothing has changed.
    pub fn take(&self, step: Step, own: Issuer, now_unix_ms: u64) -> Result<Arc<Present>, RotationError> {
        let _turn = self.step.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.now();
        let succession = match step {
            Step::Prepare => self.prepare(&now, now_unix_ms)?,
            Step::Activate => now.succession.activate(now_unix_ms)?,
            Step::Retire => now.succession.retire(own, now_unix_ms)?,
        };
        let active = active(&self.folder, &succession)?;
        let path = self.folder.join(LIST);
        let json = serde_json::to_vec_pretty(&succession).expect("it is plain data");
        if let Err(error) = durable::replace(&self.folder, &path, &json)
            // It may have failed after the file had its name: then that is how it is.
            && fs::read(&path).ok().as_ref() != Some(&json)
        {
            return Err(AuthorityError::file(&path)(error).into());
        }
        remove_old_keys(&self.folder, &succession);
        let present = Arc::new(Present { succession, active });
        self.present.send_replace(present.clone());
        Ok(present)
    }

    /// Makes the next authority, and puts its key on the disk.
    fn prepare(&self, now: &Present, now_unix_ms: u64) -> Result<Succession, RotationError> {
        now.succession.may_prepare()?;
        let number = now.succession.next_number();
        let next = Authority::generate(number)?;
        let cross = now.active.certify(&next, number)?;
        let path = key_path(&self.folder, number);
        durable::replace(&self.folder, &path, next.key().as_bytes()).map_err(AuthorityError::file(&path))?;
        Ok(now.succession.prepare(next.certificate().to_owned(), cross, now_unix_ms)?)
    }
}

/// What the folder holds.
fn present(folder: &Path) -> Result<Present, AuthorityError> {
    match read(&folder.join(LIST))? {
        Some(json) => listed(folder, &json),
        None => first(folder),
    }
}

/// The authority from before the first rotation.
fn first(folder: &Path) -> Result<Present, AuthorityError> {
    let (key_path, path) = (key_path(folder, 1), folder.join(FIRST));
    let (key, certificate) = (read(&key_path)?, read(&path)?);
    let active = match (key, certificate) {
        (Some(key), Some(certificate)) => Authority::of(&key, certificate, (&key_path, &path))?,
        (None, Some(_)) => return Err(AuthorityError::lost(&key_path)),
        (key, None) => {
            // A crash between the two files leaves the key alone: the certificate is made of it.
            let made = match key {
                Some(key) => Authority::of_key(&key, 1, &key_path)?,
                None if has_later_keys(folder) => return Err(AuthorityError::lost(&folder.join(LIST))),
                None => Authority::generate(1)?,
            };
            durable::replace(folder, &key_path, made.key().as_bytes())
                .map_err(AuthorityError::file(&key_path))?;
            durable::replace(folder, &path, made.certificate().as_bytes())
                .map_err(AuthorityError::file(&path))?;
            made
        }
    };
    let written = fs::metadata(&path).and_then(|file| file.modified()).ok();
    let since = written.and_then(|at| at.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    let succession = Succession::of(active.certificate().to_owned(), since.as_millis() as u64);
    Ok(Present { succession, active })
}

fn listed(folder: &Path, json: &str) -> Result<Present, AuthorityError> {
    let path = folder.join(LIST);
    let read: Option<Succession> = serde_json::from_str(json).ok();
    let succession = read.filter(is_sound).ok_or_else(|| AuthorityError::damaged(&path))?;
    let active = active(folder, &succession)?;
    remove_old_keys(folder, &succession);
    Ok(Present { succession, active })
}

/// Whether the list is one that the steps lead to, of certificates that can be read.
fn is_sound(succession: &Succession) -> bool {
    use x509_parser::prelude::{FromDer as _, X509Certificate};
    let reads = |pem: &String| {
        let der = CertificateDer::from_pem_slice(pem.as_bytes());
        der.is_ok_and(|der| X509Certificate::from_der(&der).is_ok())
    };
    let all = succession
        .members()
        .iter()
        .flat_map(|member| std::iter::once(&member.certificate).chain(&member.cross));
    succession.is_sound() && all.into_iter().all(reads)
}

/// The active authority, with its key.
fn active(folder: &Path, succession: &Succession) -> Result<Authority, AuthorityError> {
    let member = succession.active();
    let path = key_path(folder, member.number);
    let key = read(&path)?.ok_or_else(|| AuthorityError::lost(&path))?;
    Authority::of(&key, member.certificate.clone(), (&path, &folder.join(LIST)))
}

/// Keys that sign nothing any more could only be stolen.
fn remove_old_keys(folder: &Path, succession: &Succession) {
    for member in succession.members().iter().take_while(|it| it.number < succession.active().number) {
        let path = key_path(folder, member.number);
        match fs::remove_file(&path) {
            Ok(()) => tracing::info!(path = %path.display(), "an old authority's key is removed"),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "an old authority's key cannot be removed")
            }
        }
    }
}

fn key_path(folder: &Path, number: u32) -> PathBuf {
    folder.join(if number == 1 { "ca-key.pem".to_owned() } else { format!("ca-key-{number}.pem") })
}

fn has_later_keys(folder: &Path) -> bool {
    let names = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.into_iter().any(|name| name.to_string_lossy().starts_with("ca-key-"))
}

fn read(path: &Path) -> Result<Option<String>, AuthorityError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(AuthorityError::file(path)(error)),
    }
}

#[cfg(test)]
mod tests;
