//! The connection to the coordinator, and what its refusals mean to an operator.

use coordinator::causes::chain;
use coordinator::config::USUAL_SOCKET;
use coordinator::fitting::REASON;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use proto::v1::operator_service_client::OperatorServiceClient;
use rustix::fs::Access;
use tokio_rustls::rustls::ClientConfig;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use super::error::CliError;

mod tls;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// A call that has to score a network first may take long; a dead peer is noticed by keep-alive instead.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// A list of many deployments with their devices outgrows tonic's 4 MiB.
const LARGEST_REPLY: usize = 64 << 20;

/// What to do where nobody answers.
const NOBODY: &str = "start it with `reconvene serve`, or name it with --server";

/// The generated client over one connection.
pub(crate) type Client = OperatorServiceClient<Channel>;

/// With a coordinator that is not there.
enum Patience {
    None,
    Endless,
}

/// Where the coordinator listens.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    url: String,
    identity: Option<PathBuf>,
}

impl Server {
    /// A server by its URL; `host:port` alone means http, and none the usual one on this host.
    pub(crate) fn new(url: Option<&str>, identity: Option<&Path>) -> Self {
        // One that is there and not for this user is as good as none.
        let may_use = || {
            identity.is_none() && url.is_none() && rustix::fs::access(USUAL_SOCKET, Access::WRITE_OK).is_ok()
        };
        let socket = may_use().then(|| format!("unix://{USUAL_SOCKET}"));
        let url = url.map(str::to_owned).or(socket).unwrap_or_else(|| "http://127.0.0.1:7370".to_owned());
        let scheme = match (url.contains("://"), identity) {
            (true, _) => "",
            (false, Some(_)) => "https://",
            (false, None) => "http://",
        };
        Self { url: format!("{scheme}{url}"), identity: identity.map(Path::to_owned) }
    }

    /// The folder of the operator's certificate.
    pub(crate) fn identity(&self) -> Option<&Path> {
        self.identity.as_deref()
    }

    /// Whether it is known how to ask a coordinator that encrypts: at its socket, or as https.
    pub(crate) fn is_named(&self) -> bool {
        self.url.starts_with("unix:") || self.url.starts_with("https:")
    }

    /// Connects, or says why not.
    pub(crate) async fn connect(&self) -> Result<Client, CliError> {
        Ok(Client::new(self.channel().await?).max_decoding_message_size(LARGEST_REPLY))
    }

    /// The connection, for whatever calls.
    pub(crate) async fn channel(&self) -> Result<Channel, CliError> {
        self.dial(Patience::None).await
    }

    /// One that is made when it is used, and again whenever it breaks.
    pub(crate) async fn patient_channel(&self) -> Result<Channel, CliError> {
        self.dial(Patience::Endless).await
    }

    async fn dial(&self, patience: Patience) -> Result<Channel, CliError> {
        let endpoint = Endpoint::from_shared(self.url.clone())
            .map_err(|error| {
                CliError::Usage(format!("'{}' is not a server's URL: {}", self.url, chain(&error)))
            })?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE);
        if self.identity.is_some() && !self.url.starts_with("https://") {
            let plain = format!(
                "an identity is for an https server, and {} is none; name it with --server",
                self.url
            );
            return Err(CliError::Usage(plain));
        }
        let channel = if self.url.starts_with("https://") {
            let (config, host, port) = self.encrypted(&endpoint)?;
            let connect = tower::service_fn(move |_| tls::connect(config.clone(), host.clone(), port));
            match patience {
                Patience::None => endpoint.connect_with_connector(connect).await,
                Patience::Endless => Ok(endpoint.connect_with_connector_lazy(connect)),
            }
        } else {
            match patience {
                Patience::None => endpoint.connect().await,
                Patience::Endless => Ok(endpoint.connect_lazy()),
            }
        };
        channel.map_err(|error| self.unreachable(&error))
    }

    /// How, and where to, an encrypted connection is made.
    fn encrypted(&self, endpoint: &Endpoint) -> Result<(Arc<ClientConfig>, String, u16), CliError> {
        let Some(folder) = &self.identity else {
            let need = "an https server needs --identity DIR: `reconvene operator create` on the coordinator's host makes one";
            return Err(CliError::Usage(need.to_owned()));
        };
        let config = tls::config(folder).map_err(CliError::BadInput)?;
        let uri = endpoint.uri();
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        Ok((config, host, uri.port_u16().unwrap_or(443)))
    }

    /// A refused or broken call, as the operator should read it.
    pub(crate) fn refusal(&self, status: Status) -> CliError {
        let message = status.message().to_owned();
        match (status.code(), std::error::Error::source(&status)) {
            (Code::NotFound, _) => CliError::Missing(message),
            (Code::InvalidArgument | Code::AlreadyExists | Code::OutOfRange, _) => {
                CliError::BadInput(message)
            }
            (Code::FailedPrecondition, _)
                if status.metadata().get(REASON.0).is_some_and(|reason| reason == REASON.1) =>
            {
                CliError::NoFit(message)
            }
            (
                Code::Unauthenticated | Code::PermissionDenied | Code::FailedPrecondition | Code::Aborted,
                _,
            ) => CliError::Failed(message),
            // A certificate that is not taken ends the connection, which may be told in several ways.
            // One that is no connection of ours at all is told as an internal error.
            (Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal, Some(source)) => {
                self.unreachable(source)
            }
            (Code::Unavailable | Code::Cancelled, None) => {
                CliError::Unreachable { url: self.url.clone(), cause: message, hint: self.hint() }
            }
            (code, _) => {
                CliError::Failed(format!("the coordinator at {} failed: {message} ({code:?})", self.url))
            }
        }
    }

    fn unreachable(&self, error: &(dyn std::error::Error + 'static)) -> CliError {
        let mut cause = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        let hint = self.hint_on(cause).unwrap_or_else(|| self.hint());
        CliError::Unreachable { url: self.url.clone(), cause: cause.to_string(), hint }
    }

    /// What to do where the innermost cause says what is the matter.
    fn hint_on(&self, cause: &(dyn std::error::Error + 'static)) -> Option<String> {
        use tokio_rustls::rustls::{CertificateError, Error};
        let io = cause.downcast_ref::<std::io::Error>();
        // An error of the handshake may be wrapped in one of the socket.
        let inner = io.and_then(std::io::Error::get_ref).and_then(|inner| inner.downcast_ref::<Error>());
        match (cause.downcast_ref::<Error>().or(inner), &self.identity) {
            (Some(Error::InvalidMessage(_)), _) => Some(
                "what answers there does not encrypt: name it as http://, and leave --identity out"
                    .to_owned(),
            ),
            (Some(Error::InvalidCertificate(CertificateError::UnknownIssuer)), Some(folder)) => {
                Some(format!(
                    "the authority in {}/ca.pem has not issued its certificate: it is another fleet's coordinator, or one that \
                 was set up anew; `reconvene operator create` on its host makes a folder that fits",
                    folder.display()
                ))
            }
            (Some(_), _) => None,
            (None, _) if io.is_some_and(|io| io.kind() == std::io::ErrorKind::ConnectionRefused) => {
                Some(NOBODY.to_owned())
            }
            // Somebody answered, and not as a coordinator without encryption does.
            (None, None) if io.is_none() && self.url.starts_with("http://") => Some(
                "what answers there may want encryption: name it as https://HOST:PORT, with --identity DIR"
                    .to_owned(),
            ),
            (None, _) => None,
        }
    }

    fn hint(&self) -> String {
        match &self.identity {
            None => NOBODY.to_owned(),
            Some(folder) => format!(
                "if it runs there, it may not take the certificate in {} any more, which has expired or whose authority \
                 was retired: `reconvene operator create` on the coordinator's host makes another",
                folder.display()
            ),
        }
    }
}

/// A message on its way, to be answered soon.
pub(crate) fn soon<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_TIMEOUT);
    request
}
