//! An agent in this process, with a state directory of its own.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use agent::config::{Config, EngineConfig, ServeConfig};
use agent::runner::engines::LibraryConfig;
use agent::serve::Listeners;
use agent::{App, AppError};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::poll::within;

/// A running agent.
pub(crate) struct Device {
    pub(crate) api: SocketAddr,
    /// Where the API listens as well.
    pub(crate) socket: PathBuf,
    stop: CancellationToken,
    task: JoinHandle<Result<(), AppError>>,
}

impl Device {
    /// Starts an agent on `state_dir` that looks for its coordinator at `coordinator`.
    pub(crate) async fn start(state_dir: PathBuf, coordinator: SocketAddr) -> Self {
        Self::start_with(state_dir, coordinator, LibraryConfig::Off).await
    }

    /// As [`Device::start`], with another engine beside rten.
    pub(crate) async fn start_with(
        state_dir: PathBuf,
        coordinator: SocketAddr,
        onnxruntime: LibraryConfig,
    ) -> Self {
        Self::start_as(state_dir, coordinator, onnxruntime, |app| app).await
    }

    /// As [`Device::start_with`], made another by `change`.
    pub(crate) async fn start_as(
        state_dir: PathBuf,
        coordinator: SocketAddr,
        onnxruntime: LibraryConfig,
        change: impl FnOnce(App) -> App,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api = listener.local_addr().unwrap();
        let socket = state_dir.join("inference.sock");
        std::fs::create_dir_all(&state_dir).unwrap();
        let unix = agent::serve::bind_unix(&socket).unwrap();
        let config = Config {
            device_id: "gw-1".parse().unwrap(),
            coordinator: format!("http://{coordinator}"),
            join_file: None,
            coordinator_keys: Vec::new(),
            state_dir,
            labels: [("site".to_owned(), "berlin".to_owned())].into(),
            engine: EngineConfig { threads: Some(1), onnxruntime },
            serve: ServeConfig { listen: api, socket: Some(socket.clone()) },
        };
        // A process that another test starts has a copy of the lock until it is the program that it shall be.
        let app = within("the state directory is free", async || match App::open(config.clone()) {
            Err(AppError::InUse { .. }) => None,
            opened => Some(opened.unwrap()),
        })
        .await;
        let stop = CancellationToken::new();
        let task = TaskTracker::new().spawn(
            change(app).run(Listeners { tcp: listener, unix: vec![unix] }, stop.clone().cancelled_owned()),
        );
        Self { api, socket, stop, task }
    }

    /// Stops it as SIGTERM does.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(15), self.task).await;
        ended.expect("it stops within its grace period").unwrap().unwrap();
    }

    /// A GET of the inference API: status and body.
    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        call(self.api, path.to_owned(), None).await
    }

    /// A POST to the inference API: status and body.
    pub(crate) async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        call(self.api, path.to_owned(), Some(body)).await
    }

    /// What Prometheus would scrape.
    pub(crate) async fn metrics(&self) -> String {
        let url = format!("http://{}/metrics", self.api);
        let blocking = move || ureq::get(&url).call().unwrap().body_mut().read_to_string().unwrap();
        TaskTracker::new().spawn_blocking(blocking).await.unwrap()
    }

    /// Waits until it serves some model.
    pub(crate) async fn ready(&self) {
        within("it serves", async || (self.get("/v2/health/ready").await.0 == 200).then_some(())).await;
    }
}

/// One call of the inference API.
pub(crate) async fn call(api: SocketAddr, path: String, body: Option<Value>) -> (u16, Value) {
    let blocking = move || {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(30)))
            .build()
            .into();
        let url = format!("http://{api}{path}");
        let mut response = match body {
            Some(body) => agent.post(&url).send_json(body).unwrap(),
            None => agent.get(&url).call().unwrap(),
        };
        (response.status().as_u16(), response.body_mut().read_json().unwrap())
    };
    TaskTracker::new().spawn_blocking(blocking).await.unwrap()
}
