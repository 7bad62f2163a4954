//! The local inference API: the Open Inference Protocol, version 2, REST, for the one model of this device. Owns the
//! protocol and its refusals; never runs anything itself.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt as _;
use axum::{Json, Router};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::runner::{InferError, Runner, ServedModel, engine};

mod tensor;

use tensor::{InferRequest, InferResponse};

/// A request's body is at most this long.
const BODY_LIMIT: usize = 16 << 20;

/// A refusal: its status and one line.
#[derive(Debug)]
struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "error": self.1 }))).into_response()
    }
}

/// Serves on `listener` until `stop`, then ends what has begun.
pub async fn run(listener: TcpListener, runner: Runner, stop: CancellationToken) -> std::io::Result<()> {
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "small answers may be late");
        }
    });
    axum::serve(listener, router(runner)).with_graceful_shutdown(stop.cancelled_owned()).await
}

fn router(runner: Runner) -> Router {
    Router::new()
        .route("/v2", get(server))
        .route("/v2/health/live", get(live))
        .route("/v2/health/ready", get(ready))
        .route("/v2/models/{name}", get(metadata))
        .route("/v2/models/{name}/ready", get(model_ready))
        .route("/v2/models/{name}/infer", post(infer))
        .fallback(async || Refusal(StatusCode::NOT_FOUND, "no such path; see /v2".to_owned()))
        .method_not_allowed_fallback(async || {
            Refusal(StatusCode::METHOD_NOT_ALLOWED, "not with this method".to_owned())
        })
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(runner)
}

async fn server() -> Json<serde_json::Value> {
    Json(json!({ "name": "reconvene-agent", "version": env!("CARGO_PKG_VERSION"), "extensions": [] }))
}

async fn live(State(runner): State<Runner>) -> Result<Json<serde_json::Value>, Refusal> {
    match runner.is_alive(Duration::from_secs(10)).await {
        true => Ok(Json(json!({ "live": true }))),
        false => Err(Refusal(StatusCode::SERVICE_UNAVAILABLE, "inference does not answer".to_owned())),
    }
}

async fn ready(State(runner): State<Runner>) -> Result<Json<serde_json::Value>, Refusal> {
    any_model(&runner).map(|_| Json(json!({ "ready": true })))
}

async fn model_ready(
    State(runner): State<Runner>,
    Path(name): Path<String>,
) -> Result<Json<serde_json::Value>, Refusal> {
    model(&runner, &name).map(|_| Json(json!({ "name": name, "ready": true })))
}

async fn metadata(
    State(runner): State<Runner>,
    Path(name): Path<String>,
) -> Result<Json<serde_json::Value>, Refusal> {
    let served = model(&runner, &name)?;
    let manifest = &served.installed.model;
    let [c, h, w] = manifest.input_shape.map(i64::from);
    Ok(Json(json!({
        "name": manifest.name,
        "versions": [served.installed.generation.to_string()],
        "platform": "onnx_onnxv1",
        "inputs": [{ "name": tensor::INPUT, "datatype": tensor::DATATYPE, "shape": [-1, c, h, w] }],
        "outputs": [{ "name": tensor::OUTPUT, "datatype": tensor::DATATYPE, "shape": [-1, manifest.classes] }],
        "parameters": {
            "mean": manifest.mean,
            "std": manifest.std,
            "generation": served.installed.generation,
            "deployment": served.installed.deployment,
            "digest": served.installed.digest(),
            "engine": format!("{} {}", engine::NAME, engine::VERSION),
            "max_batch": tensor::BATCH_LIMIT,
        },
    })))
}

async fn infer(
    State(runner): State<Runner>,
    Path(name): Path<String>,
    request: Result<Json<InferRequest>, JsonRejection>,
) -> Result<Json<InferResponse>, Refusal> {
    let served = model(&runner, &name)?;
    let Json(request) = request.map_err(|rejection| Refusal(rejection.status(), rejection.body_text()))?;
    let bad = |problem| Refusal(StatusCode::BAD_REQUEST, problem);
    let input = request.check(&served.installed.model).map_err(bad)?;
    let outputs = runner.infer(served.clone(), input.images).await.map_err(refuse)?;
    Ok(Json(InferResponse::new(&served.installed, request.id, input.batch, outputs)))
}

fn any_model(runner: &Runner) -> Result<Arc<ServedModel>, Refusal> {
    let none = || {
        let message = "no model yet; this device waits for its first assignment";
        Refusal(StatusCode::SERVICE_UNAVAILABLE, message.to_owned())
    };
    runner.active().ok_or_else(none)
}

fn model(runner: &Runner, name: &str) -> Result<Arc<ServedModel>, Refusal> {
    let served = any_model(runner)?;
    let serves = &served.installed.model.name;
    if serves == name {
        return Ok(served);
    }
    Err(Refusal(StatusCode::NOT_FOUND, format!("no model '{name}' on this device; it serves '{serves}'")))
}

fn refuse(error: InferError) -> Refusal {
    let status = match error {
        InferError::Engine(_) => StatusCode::INTERNAL_SERVER_ERROR,
        InferError::Busy | InferError::Stopping => StatusCode::SERVICE_UNAVAILABLE,
    };
    Refusal(status, error.to_string())
}
