//! Who this device is to its coordinator: a key of its own, a certificate for it, and the authority that it trusts. Owns
//! their files, when a certificate is renewed, and what connections show; the key never leaves the device.

use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use proto::v1::enrollment_service_client::EnrollmentServiceClient;
use proto::{DeviceId, Digest, v1};
use rcgen::{CertificateParams, KeyPair};
use serde::{Deserialize, Serialize};
use tonic::Status;

use crate::causes::{Said, describe};
use crate::state::{self, FileError, StateDir};

pub mod connect;
pub mod join;

use connect::Target;
use join::JoinFile;

/// For the coordinator to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// A renewal that failed is tried again after so long, or after a tenth of the certificate's life where that is less.
const AGAIN: Duration = Duration::from_secs(300);

/// Why this device has no certificate that it can show.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Its files cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file means nothing.
    #[error("{} is damaged: {problem}; remove it to enroll anew", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// Why.
        problem: String,
    },
    /// There is nothing to trust the coordinator by.
    #[error(
        "this device has not joined yet; put the file that `reconvene token create` prints into /etc/reconvene/join.d, or name it as \
         join_file, and start the agent again"
    )]
    NoJoinFile,
    /// Nor does the join file say it.
    #[error("this device has not joined yet, and its join file {} is of no use: {problem}; then start the agent again", path.display())]
    JoinFile {
        /// Which.
        path: PathBuf,
        /// Why, and what mends it.
        problem: String,
    },
    /// The coordinator is not there, or not whom the join file names.
    #[error("{0}")]
    Unreachable(String),
    /// The coordinator said no.
    #[error("the coordinator does not enroll this device: {0}")]
    Refused(String),
}

/// What was given for a key.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Certificate {
    pem: String,
    obtained_unix_ms: u64,
    lifetime_ms: u64,
    /// The join file that the device had then. The coordinator may have told it of newer authorities since.
    #[serde(default)]
    joined_by: Option<Digest>,
}

/// The device's identity; clones share it.
#[derive(Clone)]
pub struct Identity(Arc<Inner>);

struct Inner {
    device: DeviceId,
    target: Target,
    state: StateDir,
    join: Option<JoinFile>,
    key: KeyPair,
    held: Mutex<Held>,
}

struct Held {
    /// Whom the device trusts, PEM.
    authorities: String,
    /// The coordinator did not take the certificate, or was not there.
    doubted: bool,
    certificate: Option<Certificate>,
    /// Why there is no newer one.
    said: Said,
}

impl Identity {
    /// Of `device`, towards the coordinator at `target`. Makes the key where there is none.
    ///
    /// # Errors
    /// When its files cannot be used, or nothing says whom to trust.
    pub fn open(
        device: DeviceId,
        target: Target,
        join: Option<PathBuf>,
        state: StateDir,
    ) -> Result<Self, IdentityError> {
        let folder = state.identity();
        state::replace_by_folder(&folder)?;
        let key_path = folder.join("key.pem");
        let key = match key_in(&key_path).map_err(of_key)? {
            Some(key) => key,
            None => {
                let key = KeyPair::generate().map_err(|error| damaged(&key_path, &error))?;
                state::replace_secret(&key_path, key.serialize_pem().as_bytes())?;
                key
            }
        };
        // One that is damaged is as good as none: the join file may help.
        let known = or_none(authorities_in(&folder.join("ca.pem")));
        let certificate = or_none(state::read_json::<Certificate>(&folder.join("certificate.json")));
        let joined_by = certificate.as_ref().and_then(|own| own.joined_by);
        let (join, useless) = match join.map(|path| (JoinFile::read(&path), path)) {
            None => (None, None),
            Some((Ok(join), _)) => (Some(join), None),
            Some((Err(problem), path)) => (None, Some(IdentityError::JoinFile { path, problem })),
        };
        let authorities = match (trusted(join.as_ref(), known, joined_by), useless) {
            (None, useless) => return Err(useless.unwrap_or(IdentityError::NoJoinFile)),
            (Some(authorities), useless) => {
                if let Some(IdentityError::JoinFile { path, problem }) = useless {
                    let path = path.display();
                    tracing::warn!(%path, problem, "the join file is of no use; who this device has joined is known without it");
                }
                authorities
            }
        };
        // One that is not of this key, or damaged, is as good as none: the key gets another.
        let fits =
            |own: &Certificate| connect::config(&authorities, Some((&own.pem, key.serialize_pem()))).is_ok();
        let certificate = certificate.filter(fits);
        let held = Mutex::new(Held { authorities, doubted: false, certificate, said: Said::default() });
        Ok(Self(Arc::new(Inner { device, target, state, join, key, held })))
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // Values are put in whole: a panic elsewhere leaves none half-made.
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the coordinator is.
    pub fn target(&self) -> &Target {
        &self.0.target
    }

    /// What a connection trusts and, where there is one, the certificate that it shows.
    pub(crate) fn client_config(&self) -> io::Result<connect::Config> {
        let held = self.held();
        let own = held
            .certificate
            .as_ref()
            .map(|certificate| (certificate.pem.as_str(), self.0.key.serialize_pem()));
        connect::config(&held.authorities, own)
    }

    /// Gets a certificate where there is none, or an old one, or one that was not taken. Where that fails, the one that is
    /// there has to do.
    pub(crate) async fn ensure(&self) -> Result<(), IdentityError> {
        if !self.due().is_zero() && !self.held().doubted {
            return Ok(());
        }
        match self.enroll().await {
            Err(error) if self.held().certificate.is_some() => {
                // Of a coordinator that is not there the session says it.
                let is_there = !matches!(error, IdentityError::Unreachable(_));
                let error = describe(&error);
                if is_there && self.held().said.is_news(&error, Instant::now()) {
                    tracing::warn!(error, "the old certificate has to do");
                }
                Ok(())
            }
            other => other,
        }
    }

    /// No session came of it: the next one begins with a new certificate. The coordinator may have forgotten this device, or be
    /// another one; or this device's clock may be wrong.
    pub(crate) fn doubt(&self) {
        self.held().doubted = true;
    }

    /// Renews the certificate whenever it is due, for ever; sessions that are open go on as they are.
    pub(crate) async fn keep_renewed(&self) {
        loop {
            // A fleet that enrolled in one minute does not renew in one.
            let due = self.due();
            tokio::time::sleep(due + due.mul_f64(rand::random::<f64>() * 0.1)).await;
            if let Err(error) = self.enroll().await {
                tracing::warn!(error = describe(&error), "the certificate is not renewed yet");
                tokio::time::sleep(self.pause()).await;
            }
        }
    }

    fn pause(&self) -> Duration {
        let lifetime = self.held().certificate.as_ref().map_or(u64::MAX, |it| it.lifetime_ms);
        AGAIN.min(Duration::from_millis(lifetime / 10))
    }

    /// How long until half of the certificate's life is over; nothing where it is, or where the clock says that it has not begun.
    fn due(&self) -> Duration {
        let held = self.held();
        let Some(Certificate { obtained_unix_ms, lifetime_ms, .. }) = held.certificate else {
            return Duration::ZERO;
        };
        let Some(age) = unix_ms().checked_sub(obtained_unix_ms) else { return Duration::ZERO };
        Duration::from_millis((lifetime_ms / 2).saturating_sub(age))
    }

    /// Asks for a certificate: by the join token the first time, by the key that the coordinator then knows later on.
    async fn enroll(&self) -> Result<(), IdentityError> {
        let Inner { device, target, state, join, key, .. } = &*self.0;
        let request = CertificateParams::default().serialize_request(key);
        let request = request
            .map_err(|error| IdentityError::Unreachable(format!("no request for a certificate: {error}")))?;
        let trusted = self.held().authorities.clone();
        let unreachable = |error: &(dyn std::error::Error + 'static)| {
            IdentityError::Unreachable(connect::reason(error, target))
        };
        let config = connect::config(&trusted, None).map_err(|error| unreachable(&error))?;
        let channel = connect::once(target, config).await.map_err(|error| unreachable(&error))?;
        let request = v1::EnrollRequest {
            device_id: device.to_string(),
            token: join.as_ref().map(|join| join.token.clone()).unwrap_or_default(),
            request: request.der().to_vec(),
        };
        let mut client = EnrollmentServiceClient::new(channel);
        let answer = tokio::time::timeout(PATIENCE, client.enroll(request)).await;
        let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer")));
        let v1::EnrollResponse { certificate, lifetime_ms, authorities } =
            answer.map_err(|status| refused(status, device, target))?.into_inner();
        let before = self.held().certificate.as_ref().and_then(|own| own.joined_by);
        let joined_by = join.as_ref().map(JoinFile::digest).or(before);
        let certificate =
            Certificate { pem: certificate, obtained_unix_ms: unix_ms(), lifetime_ms, joined_by };
        // An older coordinator tells of none.
        let authorities = if authorities.is_empty() { trusted } else { authorities };
        // What cannot be shown, or would trust nobody, is not kept.
        let path = state.identity().join("certificate.json");
        connect::config(&authorities, Some((&certificate.pem, key.serialize_pem())))
            .map_err(|error| damaged(&path, &error))?;
        let json = serde_json::to_vec_pretty(&certificate).expect("it is plain data");
        tracing::info!(lifetime_s = lifetime_ms / 1000, "certificate obtained");
        {
            let mut held = self.held();
            (held.certificate, held.doubted) = (Some(certificate), false);
            held.said.forget();
            held.authorities.clone_from(&authorities);
        }
        // In this order: the certificate names the join file that is outweighed by what was written before it.
        let written = state::replace(&state.identity().join("ca.pem"), authorities.as_bytes())
            .and_then(|()| state::replace(&path, &json));
        if let Err(error) = written {
            tracing::warn!(error = describe(&error), "the certificate lasts until the agent stops");
        }
        Ok(())
    }
}

/// Whom to trust: a join file that the device has not joined by yet outweighs what it was told before; one that it has, does not
/// outweigh what it was told since.
fn trusted(join: Option<&JoinFile>, known: Option<String>, joined_by: Option<Digest>) -> Option<String> {
    match join {
        Some(join) if known.is_none() || joined_by != Some(join.digest()) => Some(join.authorities.clone()),
        _ => known,
    }
}

fn refused(status: Status, device: &DeviceId, target: &Target) -> IdentityError {
    use tonic::Code::{
        AlreadyExists, FailedPrecondition, InvalidArgument, PermissionDenied, ResourceExhausted,
        Unimplemented,
    };
    let message = status.message();
    match status.code() {
        PermissionDenied if is_of_ban(message) => IdentityError::Refused(banned(message, device)),
        PermissionDenied => IdentityError::Refused(format!(
            "{message}; a new file of `reconvene token create` in place of its join file lets it in"
        )),
        AlreadyExists | FailedPrecondition | InvalidArgument | ResourceExhausted | Unimplemented => {
            IdentityError::Refused(message.to_owned())
        }
        _ => {
            let at = target.authority();
            IdentityError::Unreachable(format!("the coordinator at {at} gives no certificate: {message}"))
        }
    }
}

/// Whether a coordinator refuses a device because an operator has banned it; its status does not tell that from an unknown token.
pub(crate) fn is_of_ban(message: &str) -> bool {
    message.contains("is banned")
}

/// What is said of a ban: no file on this device lifts it.
pub(crate) fn banned(message: &str, device: &DeviceId) -> String {
    format!("{message}; an operator lets it in again with `reconvene device unban {device}`")
}

/// What is damaged of an identity's files, which stay as they are.
pub(crate) fn damage(state: &StateDir) -> Vec<FileError> {
    let path = |name| state.identity().join(name);
    let (key, authorities) = (key_in(&path("key.pem")), authorities_in(&path("ca.pem")));
    let certificate = state::read_json::<Certificate>(&path("certificate.json"));
    let misfit = match (&key, &authorities, &certificate) {
        (Ok(Some(key)), Ok(Some(authorities)), Ok(Some(own))) => {
            connect::config(authorities, Some((&own.pem, key.serialize_pem()))).err()
        }
        _ => None,
    };
    let misfit = misfit.map(|error| senseless(&path("certificate.json"))(&error));
    [key.err(), authorities.err(), certificate.err(), misfit].into_iter().flatten().collect()
}

/// What was read, where it could be: what is missing is asked for anew.
fn or_none<T>(read: Result<Option<T>, FileError>) -> Option<T> {
    read.unwrap_or_else(|error| {
        tracing::warn!(error = describe(&error), "it counts as none");
        None
    })
}

fn key_in(path: &Path) -> Result<Option<KeyPair>, FileError> {
    let key = text(path)?.map(|pem| KeyPair::from_pem(&pem));
    // The library's own words help nobody.
    key.transpose().map_err(|_| senseless(path)(&"it is no key, or not the whole of one"))
}

fn authorities_in(path: &Path) -> Result<Option<String>, FileError> {
    let Some(pem) = text(path)? else { return Ok(None) };
    connect::config(&pem, None).map_err(|error| senseless(path)(&error))?;
    Ok(Some(pem))
}

fn text(path: &Path) -> Result<Option<String>, FileError> {
    let Some(bytes) = state::read(path, state::RECORD)? else { return Ok(None) };
    String::from_utf8(bytes).map(Some).map_err(|error| senseless(path)(&error))
}

fn senseless(path: &Path) -> impl Fn(&dyn Display) -> FileError {
    |problem| {
        FileError::of("understand", path)(io::Error::new(io::ErrorKind::InvalidData, problem.to_string()))
    }
}

/// A key is not made anew where there is one that means nothing: the coordinator knows this device by it.
fn of_key(error: FileError) -> IdentityError {
    if error.is_damage() { damaged(&error.path, &error.source) } else { error.into() }
}

fn damaged(path: &Path, problem: &dyn Display) -> IdentityError {
    IdentityError::Damaged { path: path.to_owned(), problem: problem.to_string() }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    u64::try_from(since).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ban_is_told_from_a_token_that_does_not_let_in() {
        let (device, target) = ("cam-7".parse().unwrap(), Target::parse("https://c:1").unwrap());
        let said = |message| refused(Status::permission_denied(message), &device, &target).to_string();
        let ban = said("the device is banned");
        assert!(
            ban.ends_with("is banned; an operator lets it in again with `reconvene device unban cam-7`"),
            "{ban}"
        );
        let token = said("the token is not known");
        assert!(
            token.contains("a new file of `reconvene token create`") && !token.contains("ban"),
            "{token}"
        );
    }

    #[test]
    fn what_mends_a_key_that_means_nothing_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let open = || {
            let target = Target::parse("https://c:1").unwrap();
            Identity::open("cam-7".parse().unwrap(), target, None, state.clone()).err().unwrap().to_string()
        };
        let key = state.identity().join("key.pem");
        std::fs::create_dir(state.identity()).unwrap();
        std::os::unix::fs::symlink("nowhere", &key).unwrap();
        let said = open();
        let expected =
            "key.pem is damaged: it is a link to a file that does not exist; remove it to enroll anew";
        assert!(said.ends_with(expected), "{said}");
        std::fs::remove_file(&key).unwrap();
        std::fs::write(&key, [0xff]).unwrap();
        let said = open();
        assert!(
            said.contains("key.pem is damaged: ") && said.ends_with("remove it to enroll anew"),
            "{said}"
        );
    }

    #[test]
    fn a_join_file_counts_until_the_coordinator_has_told_more() {
        let of = |authorities: &str| JoinFile {
            token: "ab.secret".to_owned(),
            authorities: authorities.to_owned(),
        };
        let (first, other) = (of("first"), of("other"));
        let told = || Some("told".to_owned());
        assert_eq!(trusted(None, None, None), None);
        assert_eq!(trusted(None, told(), None), told());
        assert_eq!(trusted(Some(&first), None, Some(first.digest())).as_deref(), Some("first"));
        assert_eq!(trusted(Some(&first), told(), None).as_deref(), Some("first"));
        assert_eq!(trusted(Some(&first), told(), Some(first.digest())), told());
        let again = JoinFile { token: "cd.other".to_owned(), ..first.clone() };
        assert_eq!(trusted(Some(&again), told(), Some(first.digest())).as_deref(), Some("first"));
        assert_eq!(trusted(Some(&other), told(), Some(first.digest())).as_deref(), Some("other"));
    }
}
