//! The local inference API: the Open Inference Protocol, version 2, REST and gRPC, for the one model of this device. Owns
//! where it listens: a TCP address and, where one is wanted, a Unix socket; both speak both forms. Prometheus scrapes
//! /metrics there, and `reconvene-agent status` reads /session.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;

use axum::extract::Request;
use axum::http::header;
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use axum::serve::ListenerExt as _;
use axum::{Json, Router};
use proto::inference::grpc_inference_service_server::{GrpcInferenceServiceServer, SERVICE_NAME};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::Service as _;

use crate::metrics::{CONTENT_TYPE, Metrics};

mod connections;
mod grpc;
mod inference;
mod intake;
mod rest;

use connections::Connections;
use inference::Inference;
use intake::Intake;

/// Whoever is in the socket's group may ask.
const SOCKET_MODE: u32 = 0o660;

/// Where the API listens.
pub struct Listeners {
    /// Always.
    pub tcp: TcpListener,
    /// Those that the service manager has handed over, and the configured one.
    pub unix: Vec<UnixListener>,
}

/// Listens on a Unix socket at `path`; one that a dead process left behind is replaced.
pub fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            fs::remove_file(path)?;
        }
        Ok(_) => return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it exists and is no socket")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))?;
    Ok(listener)
}

/// Serves until `stop`, then ends what has begun.
pub async fn run(listeners: Listeners, metrics: Metrics, stop: CancellationToken) -> io::Result<()> {
    let Listeners { tcp, unix } = listeners;
    let router = router(metrics, stop.clone());
    let tcp = tcp.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "small answers may be late");
        }
    });
    let connections = Connections::new(stop);
    let mut servers = JoinSet::new();
    servers.spawn(connections.clone().accept(tcp, router.clone()));
    for unix in unix {
        servers.spawn(connections.clone().accept(unix, router.clone()));
    }
    while let Some(ended) = servers.join_next().await {
        ended.map_err(io::Error::other)?;
    }
    connections.ended().await;
    Ok(())
}

fn router(metrics: Metrics, stop: CancellationToken) -> Router {
    let inference = Inference { runner: metrics.runner.clone(), stop };
    let of_session = metrics.clone();
    let text = async move || ([(header::CONTENT_TYPE, CONTENT_TYPE)], metrics.text().await);
    let session = async move || Json(of_session.session().await);
    let calls = Arc::new(inference.clone());
    let grpc = tower::service_fn(move |request: Request| {
        let longest = calls.longest();
        let mut server =
            GrpcInferenceServiceServer::from_arc(calls.clone()).max_decoding_message_size(longest);
        let called = server.call(request);
        async move { called.await.map(grpc::in_words) }
    });
    rest::router(inference.clone())
        .route("/metrics", get(text))
        .route("/session", get(session))
        .route_service(&format!("/{SERVICE_NAME}/{{call}}"), grpc)
        .layer(from_fn_with_state(Intake::new(inference), intake::meter))
}
