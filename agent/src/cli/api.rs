//! The running agent's own API, asked by the command line.

use std::time::Duration;

use serde_json::Value;
use ureq::Agent;

/// The API answers at once or not at all; an inference may take its time.
const PATIENCE: Duration = Duration::from_secs(30);
const CONNECT: Duration = Duration::from_secs(2);

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
        self.answer(self.http.get(self.url(path)).call())
    }

    /// The answer to a request.
    pub(super) fn post(&self, path: &str, body: &Value) -> Result<Value, ApiError> {
        self.answer(self.http.post(self.url(path)).send_json(body))
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn answer(
        &self,
        called: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<Value, ApiError> {
        let silent = |error| ApiError::Silent { address: self.address.clone(), source: Box::new(error) };
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
