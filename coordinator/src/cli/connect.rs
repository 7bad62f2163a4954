//! The connection to the coordinator, and what its refusals mean to an operator.

use coordinator::causes::chain;
use std::time::Duration;

use proto::v1::operator_service_client::OperatorServiceClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use super::error::CliError;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// A call that has to score a network first may take long; a dead peer is noticed by keep-alive instead.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// A list of many deployments with their devices outgrows tonic's 4 MiB.
const LARGEST_REPLY: usize = 64 << 20;

/// The generated client over one connection.
pub(crate) type Client = OperatorServiceClient<Channel>;

/// Where the coordinator listens.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    url: String,
}

impl Server {
    /// A server by its URL; `host:port` alone means http.
    pub(crate) fn new(url: &str) -> Self {
        let scheme = if url.contains("://") { "" } else { "http://" };
        Self { url: format!("{scheme}{url}") }
    }

    /// Connects, or says why not.
    pub(crate) async fn connect(&self) -> Result<Client, CliError> {
        let endpoint = Endpoint::from_shared(self.url.clone())
            .map_err(|error| {
                CliError::Usage(format!("'{}' is not a server's URL: {}", self.url, chain(&error)))
            })?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE);
        let channel = endpoint.connect().await.map_err(|error| self.unreachable(&error))?;
        Ok(Client::new(channel).max_decoding_message_size(LARGEST_REPLY))
    }

    /// A refused or broken call, as the operator should read it.
    pub(crate) fn refusal(&self, status: Status) -> CliError {
        let message = status.message().to_owned();
        match status.code() {
            Code::NotFound => CliError::Missing(message),
            Code::InvalidArgument | Code::AlreadyExists => CliError::BadInput(message),
            Code::Unavailable => match std::error::Error::source(&status) {
                Some(source) => self.unreachable(source),
                None => CliError::Unreachable { url: self.url.clone(), cause: message },
            },
            code => CliError::Failed(format!("the coordinator at {} failed: {message} ({code:?})", self.url)),
        }
    }

    fn unreachable(&self, error: &(dyn std::error::Error + 'static)) -> CliError {
        let mut cause = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        CliError::Unreachable { url: self.url.clone(), cause: cause.to_string() }
    }
}

/// A message on its way, to be answered soon.
pub(crate) fn soon<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_TIMEOUT);
    request
}
