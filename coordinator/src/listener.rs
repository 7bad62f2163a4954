//! Connections as they come in: accepted, encrypted where that is configured, and with the name of whoever is at the other
//! end. Owns the sockets and the handshakes; a slow one holds up nobody else.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig, version};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::causes::chain;
use crate::identity::authorities::{Authorities, Present};
use crate::identity::authority::AuthorityError;
use crate::identity::{Peer, Role};
use crate::jobs::queue::OWN;
use crate::local::{self, LocalListener};
use crate::refusals::Who;

mod door;

pub use door::{Connection, Door};

/// A handshake takes at most so long.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// For who is refused in it to read why.
const LINGER: Duration = Duration::from_millis(500);
/// Handshakes at once. More are turned away, and come again: who is silent must not hold up the others.
const HANDSHAKES: usize = 1024;
/// Accepted connections that wait for the server.
const BACKLOG: usize = 64;
/// What the coordinator shows lasts so long, and is made anew after half of it.
const SERVER_LIFETIME: Duration = Duration::from_secs(90 * 86_400);
/// After an accept that failed, as for lack of file descriptors.
const REST: Duration = Duration::from_millis(100);

/// What encrypts.
pub struct Encryption {
    authorities: Arc<Authorities>,
    names: Vec<String>,
    shown: Mutex<Shown>,
}

/// What is shown at present, since when, and of which authorities it was made.
struct Shown {
    config: Arc<ServerConfig>,
    since: Instant,
    of: Arc<Present>,
}

impl Encryption {
    /// With a certificate of the active authority for these names and addresses.
    ///
    /// # Errors
    /// When a name cannot be one.
    pub fn new(authorities: Arc<Authorities>, names: Vec<String>) -> Result<Self, AuthorityError> {
        let shown = Mutex::new(Shown::of(authorities.now(), &names)?);
        Ok(Self { authorities, names, shown })
    }

    fn acceptor(&self) -> TlsAcceptor {
        let mut shown = self.shown.lock().expect("no holder of this lock can panic");
        let now = self.authorities.now();
        if !Arc::ptr_eq(&shown.of, &now) || shown.since.elapsed() > SERVER_LIFETIME / 2 {
            match Shown::of(now, &self.names) {
                Ok(next) => *shown = next,
                Err(error) => {
                    tracing::error!(error = chain(&error), "the coordinator's certificate gets old")
                }
            }
        }
        TlsAcceptor::from(shown.config.clone())
    }
}

impl Shown {
    fn of(now: Arc<Present>, names: &[String]) -> Result<Self, AuthorityError> {
        Ok(Self { config: Arc::new(server_config(&now, names)?), since: Instant::now(), of: now })
    }
}

/// TLS 1.3, HTTP/2; whoever shows a certificate shows one of an authority's that is not retired.
fn server_config(now: &Present, names: &[String]) -> Result<ServerConfig, AuthorityError> {
    let own = now.active.server(names, SERVER_LIFETIME)?;
    let certificate =
        |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).expect("it was just written");
    let mut roots = RootCertStore::empty();
    for taken in now.succession.taken() {
        roots.add(certificate(taken)).expect("an authority's certificate can be trusted");
    }
    // Whoever trusts an authority of the past finds the way from it to the one that issued this.
    let crosses = now.succession.crosses().map(certificate);
    let shown = std::iter::once(certificate(&own.certificate)).chain(crosses).collect();
    let provider = Arc::new(default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .expect("there is a root");
    let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).expect("it was just written");
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])
        .expect("the provider speaks TLS 1.3")
        .with_client_cert_verifier(verifier)
        .with_single_cert(shown, key)
        .expect("the key is the certificate's");
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed connection would show a certificate that has expired since.
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Where accepted connections go.
type Accepted = mpsc::Sender<io::Result<Connection>>;

/// The connections that come in on `listener`, on the operators' socket, and of the coordinator's own workers, until `stop`.
pub fn incoming(
    listener: TcpListener,
    (local, workers): (Option<LocalListener>, mpsc::Receiver<UnixStream>),
    door: Door,
    tasks: &TaskTracker,
    stop: CancellationToken,
) -> ReceiverStream<io::Result<Connection>> {
    let (accepted, connections) = mpsc::channel(BACKLOG);
    if let Some(local) = local {
        let work = accept_local(local, door.clone(), accepted.clone());
        tasks.spawn(stop.clone().run_until_cancelled_owned(work));
    }
    let work = take_workers(workers, door.clone(), accepted.clone());
    tasks.spawn(stop.clone().run_until_cancelled_owned(work));
    let handshakes = tasks.clone();
    tasks.spawn(async move {
        let turns = Arc::new(Semaphore::new(HANDSHAKES));
        loop {
            let (stream, address) = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        tracing::warn!(%error, "a connection was not accepted");
                        tokio::time::sleep(REST).await;
                        continue;
                    }
                },
            };
            let Ok(turn) = turns.clone().try_acquire_owned() else {
                tracing::debug!("a connection was turned away: {HANDSHAKES} are being begun");
                continue;
            };
            let (door, accepted, stop) = (door.clone(), accepted.clone(), stop.clone());
            handshakes.spawn(async move {
                let begun = tokio::time::timeout(HANDSHAKE, begin(stream, &door));
                let Some(begun) = stop.run_until_cancelled(begun).await else { return };
                drop(turn);
                match begun {
                    Ok(Ok(connection)) => drop(accepted.send(Ok(connection)).await),
                    // What was said is no handshake, or shows a certificate of another authority; the rest just went away.
                    Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
                        door.refusals.refused(&Who::at(address.ip()), "connection", &why(&error));
                    }
                    Ok(Err(error)) => tracing::debug!(%error, "a connection was not begun"),
                    Err(_) => tracing::debug!("a handshake took too long"),
                }
            });
        }
    });
    ReceiverStream::new(connections)
}

/// Why a handshake failed, for whoever reads the log.
fn why(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidMessage(_)) => {
            format!(
                "what came is not encrypted, and this port takes nothing else: name it as https:// ({error})"
            )
        }
        _ => error.to_string(),
    }
}

async fn accept_local(LocalListener { socket, others }: LocalListener, door: Door, accepted: Accepted) {
    loop {
        let stream = match socket.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(REST).await;
                continue;
            }
        };
        match local::peer(&stream, others) {
            Ok(peer) => drop(accepted.send(Ok(door.let_in(stream, peer, None))).await),
            Err(error) => tracing::debug!(%error, "a connection was not begun"),
        }
    }
}

/// Nobody else has the other end of these.
async fn take_workers(mut workers: mpsc::Receiver<UnixStream>, door: Door, accepted: Accepted) {
    while let Some(stream) = workers.recv().await {
        let name = OWN.parse().expect("it is a name");
        let peer = Peer::Operator { name, role: Role::Worker, key: None };
        drop(accepted.send(Ok(door.let_in(stream, peer, None))).await);
    }
}

async fn begin(stream: TcpStream, door: &Door) -> io::Result<Connection> {
    stream.set_nodelay(true)?;
    let Some(encryption) = &door.encryption else { return Ok(door.let_in(stream, Peer::Plain, None)) };
    let stream = match encryption.acceptor().accept(stream).into_fallible().await {
        Ok(stream) => stream,
        Err((error, stream)) => {
            let _ = tokio::time::timeout(LINGER, part(stream)).await;
            return Err(error);
        }
    };
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).cloned();
    let peer = shown.as_ref().map_or(Peer::Unknown, |certificate| Peer::of_certificate(certificate));
    Ok(door.let_in(stream, peer, shown.as_ref()))
}

/// Ends a connection after the last word, which says why. What the other side has sent meanwhile is read: the system would else
/// have it forget that word.
async fn part(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    let mut rest = [0; 4096];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

#[cfg(test)]
mod tests;
