//! Encrypted connections to the coordinator: TLS 1.3 and HTTP/2, with the certificate that the device has at the moment. Owns what
//! is said of a coordinator that this device and its configuration do not fit.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject as _};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{self, CertificateError, ClientConfig, RootCertStore, version};
use tonic::transport::{Channel, Endpoint};

use super::Identity;
use crate::causes::describe;

/// What a connection trusts and shows.
pub(crate) type Config = Arc<ClientConfig>;

/// What a client of HTTP/2 begins with, its settings included.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// The head of a frame of HTTP/2.
const HEAD: usize = 9;

/// To connect, and to shake hands.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why this device and the coordinator do not fit, which no new attempt mends; each says what does.
#[derive(Debug, thiserror::Error)]
enum Misfit {
    #[error(
        "the coordinator at {0} is not one that this device trusts; if it is the right one, give this device the file that \
         `reconvene token create` prints there as its join file, and start the agent again"
    )]
    Foreign(String, #[source] rustls::Error),
    #[error(
        "the coordinator at {0} has a certificate for other names; set coordinator to one of those, or add this one to its \
         configuration"
    )]
    Name(String, #[source] rustls::Error),
    #[error(
        "the certificate of the coordinator at {0} does not hold today; set this device's clock, or the coordinator's"
    )]
    Clock(String, #[source] rustls::Error),
    #[error("what listens at {0} does not encrypt; set coordinator to http:// there, or to another port")]
    Plain(String, #[source] rustls::Error),
}

impl Misfit {
    fn of(error: rustls::Error, target: &Target) -> io::Error {
        use CertificateError::{
            BadSignature, Expired, ExpiredContext, NotValidForName, NotValidForNameContext, NotValidYet,
            NotValidYetContext, UnknownIssuer,
        };
        let at = target.authority();
        io::Error::other(match &error {
            rustls::Error::InvalidCertificate(problem) => match problem {
                UnknownIssuer | BadSignature => Self::Foreign(at, error),
                NotValidForName | NotValidForNameContext { .. } => Self::Name(at, error),
                Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. } => {
                    Self::Clock(at, error)
                }
                _ => return io::Error::other(error),
            },
            rustls::Error::InvalidMessage(_) => Self::Plain(at, error),
            _ => return io::Error::other(error),
        })
    }
}

/// Why there is no connection to `target`, on one line. Of a misfit nothing but what it says, and of a network that fails nothing but
/// that: what was tried meanwhile helps nobody.
pub(crate) fn reason(error: &(dyn Error + 'static), target: &Target) -> String {
    let at = target.authority();
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            if let Some(misfit) = io.get_ref().and_then(|within| within.downcast_ref::<Misfit>()) {
                return describe(misfit);
            }
            let text = io.to_string();
            let is_of_network = io.raw_os_error().is_some()
                || io.kind() == io::ErrorKind::TimedOut
                || text.starts_with("failed to lookup address");
            if is_of_network {
                let plain = text.split(" (os error").next().unwrap_or_default();
                return format!("the coordinator at {at} is not reachable: {plain}");
            }
        }
        cause = error.source();
    }
    format!("no connection to the coordinator at {at}: {}", describe(error))
}

/// Where a coordinator is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// `https://host:port`, or `http://host:port`.
    pub url: String,
    /// A name or an address.
    pub host: String,
    /// Its port.
    pub port: u16,
}

impl Target {
    /// From a checked address.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(url: &str) -> Result<Self, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(url.to_owned())?;
        let host = endpoint.uri().host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let usual = if endpoint.uri().scheme_str() == Some("http") { 80 } else { 443 };
        Ok(Self { url: url.to_owned(), host, port: endpoint.uri().port_u16().unwrap_or(usual) })
    }

    /// `host:port`, as an address has it.
    pub(crate) fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

/// To trust the authorities in `trusted`, and to show `own`: a certificate and its key. All of it PEM.
pub(super) fn config(trusted: &str, own: Option<(&str, String)>) -> io::Result<Config> {
    let wrong = |what: &str, error: &dyn std::fmt::Display| io::Error::other(format!("{what}: {error}"));
    let certificate = |pem: &str, what: &str| {
        CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| wrong(what, &unreadable(&error)))
    };
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(trusted.as_bytes()) {
        let authority =
            authority.map_err(|error| wrong("the authority's certificate", &unreadable(&error)))?;
        roots.add(authority).map_err(|error| wrong("the authority's certificate", &error))?;
    }
    if roots.is_empty() {
        return Err(io::Error::other("there is no authority's certificate"));
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&version::TLS13])
        .map_err(io::Error::other)?
        .with_root_certificates(roots);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some((pem, key)) => {
            let key =
                PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| wrong("the key", &error))?;
            let own = certificate(pem, "the device's certificate")?;
            builder.with_client_auth_cert(vec![own], key).map_err(io::Error::other)?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// What is wrong with PEM; the library shows bytes as numbers.
fn unreadable(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { .. } => "it is cut off, its last line is missing".to_owned(),
        pem::Error::IllegalSectionStart { .. } => "its first line is damaged".to_owned(),
        other => other.to_string(),
    }
}

async fn connect(target: Target, config: io::Result<Config>) -> io::Result<TokioIo<TlsStream<TcpStream>>> {
    let stream = TcpStream::connect((target.host.as_str(), target.port)).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(target.host.clone()).map_err(io::Error::other)?;
    let connected = TlsConnector::from(config?).connect(name, stream);
    let connected = tokio::time::timeout(PATIENCE, connected).await;
    let connected = connected.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?;
    Ok(TokioIo::new(connected.map_err(|error| match error.downcast::<rustls::Error>() {
        Ok(error) => Misfit::of(error, &target),
        Err(error) => error,
    })?))
}

/// What listens where a coordinator was looked for, by how it answers what is not encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listener {
    /// As TLS does.
    Encrypts,
    /// As any coordinator does that does not encrypt, and a few others.
    Http2,
    /// As none does.
    Speaks(&'static str),
    /// By the end of the connection.
    HangsUp,
    /// Nobody does, or nobody says anything.
    Silent,
}

impl Listener {
    /// By the first bytes of its answer.
    fn of(answer: &[u8]) -> Self {
        match answer {
            [] => Self::HangsUp,
            // An alert. No frame of HTTP/2 that a server begins with is so long.
            [0x15, ..] => Self::Encrypts,
            // Its settings, or that it goes away.
            [_, _, _, 4 | 7, _, 0, 0, 0, 0, ..] => Self::Http2,
            _ if answer.starts_with(b"HTTP/") => Self::Speaks("HTTP/1, as web servers do"),
            _ if answer.starts_with(b"SSH-") => Self::Speaks("SSH"),
            _ => Self::Speaks("another protocol"),
        }
    }
}

/// Finds out what listens at `target`.
pub(crate) async fn listener(target: &Target) -> Listener {
    let connected = TcpStream::connect((target.host.as_str(), target.port));
    let Ok(Ok(stream)) = tokio::time::timeout(PATIENCE, connected).await else { return Listener::Silent };
    let mut answer = Vec::new();
    let (read, mut write) = stream.into_split();
    let mut head = read.take(HEAD as u64);
    // It may have said what it says, and hung up, before it was asked.
    let asked = async { tokio::join!(write.write_all(PREFACE), head.read_to_end(&mut answer)) };
    let in_time = tokio::time::timeout(PATIENCE, asked).await.is_ok();
    if answer.is_empty() && !in_time { Listener::Silent } else { Listener::of(&answer) }
}

/// A channel that is connected when it is first used and again when it broke, each time with what `identity` has then.
pub(crate) fn channel(endpoint: &Endpoint, identity: Identity) -> Channel {
    let connector = move |_| connect(identity.target().clone(), identity.client_config());
    endpoint.connect_with_connector_lazy(tower::service_fn(connector))
}

/// A channel that never connects, and says why.
pub(crate) fn nowhere(endpoint: &Endpoint, why: String) -> Channel {
    let connector = move |_| std::future::ready(Err::<TokioIo<TcpStream>, _>(io::Error::other(why.clone())));
    endpoint.connect_with_connector_lazy(tower::service_fn(connector))
}

/// One connection that shows nothing but what `config` has.
pub(super) async fn once(target: &Target, config: Config) -> Result<Channel, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(target.url.clone())?.connect_timeout(PATIENCE);
    let (target, config) = (target.clone(), config);
    endpoint
        .connect_with_connector(tower::service_fn(move |_| connect(target.clone(), Ok(config.clone()))))
        .await
}

#[cfg(test)]
mod tests;
