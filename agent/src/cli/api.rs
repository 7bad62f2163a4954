//! The running agent's own API, asked by the command line.

use std::time::Duration;

use serde_json::Value;
use ureq::Agent;

/// The API answers at once or not at all.
const PATIENCE: Duration = Duration::from_secs(5);
const CONNECT: Duration = Duration::from_secs(2);

/// An inference may take its time.
pub(super) const INFERENCE: Duration = Duration::from_secs(30);

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Nobody answers.
    #[error("no agent answers at {address}")]
    Silent {
        /// Where.
        address: String,
        /// Why.
        source: Box<ureq::Error>,
    },
    /// Somebody listens, and that is all.
    #[error(
        "what listens at {address} did not answer within {seconds} s; `reconvene-agent status` on that device says whether its agent \
         does, and where it listens"
    )]
    Hangs {
        /// Where.
        address: String,
        /// So long was waited for it.
        seconds: u64,
    },
    /// It was refused.
    #[error("the agent at {address} refuses ({status}): {reason}")]
    Refused {
        /// Where.
        address: String,
        /// The status of HTTP.
        status: u16,
        /// In its words.
        reason: String,
    },
}

/// The API at one address.
pub(super) struct Api {
    http: Agent,
    address: String,
}

impl Api {
    /// Of the agent at `address`, `host:port` with or without a scheme.
    pub(super) fn new(address: &str) -> Self {
        let config = Agent::config_builder()
            .timeout_global(Some(PATIENCE))
            .timeout_connect(Some(CONNECT))
            .http_status_as_error(false)
            .proxy(None)
            .no_delay(true)
            .build();
        let address = address.trim_start_matches("http://").trim_end_matches('/');
        Self { http: config.into(), address: address.to_owned() }
    }

    /// Where it is.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// The answer to a question.
    pub(super) fn get(&self, path: &str) -> Result<Value, ApiError> {
        self.answer(self.http.get(self.url(path)).call(), PATIENCE)
    }

    /// The answer to a question that has a body.
    pub(super) fn post(&self, path: &str, body: &Value) -> Result<Value, ApiError> {
        self.post_within(PATIENCE, path, body)
    }

    /// The answer to a request that may take as long as `patience`.
    pub(super) fn post_within(
        &self,
        patience: Duration,
        path: &str,
        body: &Value,
    ) -> Result<Value, ApiError> {
        let request = self.http.post(self.url(path)).config().timeout_global(Some(patience)).build();
        self.answer(request.send_json(body), patience)
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn answer(
        &self,
        called: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
        patience: Duration,
    ) -> Result<Value, ApiError> {
        let silent = |error| match error {
            ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => {
                ApiError::Hangs { address: self.address.clone(), seconds: CONNECT.as_secs() }
            }
            ureq::Error::Timeout(_) => {
                ApiError::Hangs { address: self.address.clone(), seconds: patience.as_secs() }
            }
            error => ApiError::Silent { address: self.address.clone(), source: Box::new(error) },
        };
        let mut response = called.map_err(silent)?;
        let status = response.status();
        let body: Value = response.body_mut().read_json().map_err(silent)?;
        if status.is_success() {
            return Ok(body);
        }
        let reason = body["error"].as_str().unwrap_or("it does not say why").to_owned();
        Err(ApiError::Refused { address: self.address.clone(), status: status.as_u16(), reason })
    }
}
