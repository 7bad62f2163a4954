//! The protocol over REST, with its binary extension. Owns paths and HTTP status codes; never runs anything itself.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use proto::inference as v2;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::inference::{self, BATCH_LIMIT, Inference, Refusal};
use super::{grpc, intake};

mod object;
mod tensor;

use tensor::{HEAD_LENGTH, InferRequest};

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, text) = match self {
            Self::NotFound(text) => (StatusCode::NOT_FOUND, text),
            Self::Invalid(text) => (StatusCode::BAD_REQUEST, text),
            Self::Encoded(text) => (StatusCode::UNSUPPORTED_MEDIA_TYPE, text),
            Self::TooLong(text) => (StatusCode::PAYLOAD_TOO_LARGE, text),
            Self::Slow(text) => (StatusCode::REQUEST_TIMEOUT, text),
            Self::Unavailable(text) | Self::Full(text) => (StatusCode::SERVICE_UNAVAILABLE, text),
            Self::Internal(text) => (StatusCode::INTERNAL_SERVER_ERROR, text),
        };
        refuse(status, &text)
    }
}

fn refuse(status: StatusCode, text: &str) -> Response {
    (status, Json(json!({ "error": text }))).into_response()
}

/// A model as a path names it.
#[derive(Debug, Deserialize)]
struct Model {
    name: String,
    /// Empty: whichever serves.
    #[serde(default)]
    version: String,
}

/// What the protocol says of a model, and what only REST has room for.
#[derive(Debug, Serialize)]
struct Metadata {
    #[serde(flatten)]
    model: v2::ModelMetadataResponse,
    parameters: Value,
}

/// Every path of the protocol.
pub(super) fn router(inference: Inference) -> Router {
    let mut router = Router::new()
        .route("/v2", get(server))
        .route("/v2/health/live", get(live))
        .route("/v2/health/ready", get(ready))
        .route("/v2/models/stats", get(all_statistics))
        .route("/v2/repository/index", post(index));
    for model in ["/v2/models/{name}", "/v2/models/{name}/versions/{version}"] {
        router = router
            .route(model, get(metadata))
            .route(&format!("{model}/config"), get(config))
            .route(&format!("{model}/ready"), get(model_ready))
            .route(&format!("{model}/stats"), get(statistics))
            .route(&format!("{model}/infer"), post(infer));
    }
    router
        .fallback(unknown)
        .method_not_allowed_fallback(async || refuse(StatusCode::METHOD_NOT_ALLOWED, "not with this method"))
        .with_state(inference)
}

/// What is nowhere: each asks in its own protocol.
async fn unknown(uri: Uri, headers: HeaderMap) -> Response {
    let of = headers.get(header::CONTENT_TYPE).map(|of| of.as_bytes());
    match of.is_some_and(|of| of.starts_with(b"application/grpc")) {
        true => grpc::unknown_service(uri.path()),
        false => refuse(StatusCode::NOT_FOUND, "no such path; see /v2"),
    }
}

async fn server(State(inference): State<Inference>) -> Json<v2::ServerMetadataResponse> {
    Json(inference.server())
}

async fn live(State(inference): State<Inference>) -> Result<Json<Value>, Refusal> {
    match inference.is_live().await {
        true => Ok(Json(json!({ "live": true }))),
        false => Err(Refusal::Unavailable("inference does not answer".to_owned())),
    }
}

async fn ready(State(inference): State<Inference>) -> Result<Json<Value>, Refusal> {
    inference.any().map(|_| Json(json!({ "ready": true })))
}

async fn model_ready(
    State(inference): State<Inference>,
    Path(Model { name, version }): Path<Model>,
) -> Result<Json<Value>, Refusal> {
    inference.model(&name, &version).map(|_| Json(json!({ "name": name, "ready": true })))
}

async fn metadata(
    State(inference): State<Inference>,
    Path(Model { name, version }): Path<Model>,
) -> Result<Json<Metadata>, Refusal> {
    let served = inference.model(&name, &version)?;
    let (manifest, choice) = (&served.installed.model, served.engine.choice());
    let parameters = json!({
        "mean": manifest.mean,
        "std": manifest.std,
        "generation": served.installed.generation,
        "deployment": served.installed.deployment,
        "digest": served.installed.digest(),
        "engine": choice.engine.name(),
        "threads": choice.threads,
        "max_batch": BATCH_LIMIT,
    });
    Ok(Json(Metadata { model: inference::metadata(&served), parameters }))
}

/// As Triton writes its own: a name for each value of an enumeration, an object for each choice.
async fn config(
    State(inference): State<Inference>,
    Path(Model { name, version }): Path<Model>,
) -> Result<Json<Value>, Refusal> {
    let config = inference::config(&*inference.model(&name, &version)?);
    let input = config.input.iter().map(|input| (&input.name, &input.dims));
    let output = config.output.iter().map(|output| (&output.name, &output.dims));
    let tensor = |(name, dims)| json!({ "name": name, "data_type": "TYPE_FP32", "dims": dims });
    Ok(Json(json!({
        "name": config.name,
        "platform": config.platform,
        "max_batch_size": config.max_batch_size,
        "input": input.map(tensor).collect::<Vec<_>>(),
        "output": output.map(tensor).collect::<Vec<_>>(),
    })))
}

async fn all_statistics(
    State(inference): State<Inference>,
) -> Result<Json<v2::ModelStatisticsResponse>, Refusal> {
    inference.statistics("", "").map(Json)
}

async fn statistics(
    State(inference): State<Inference>,
    Path(Model { name, version }): Path<Model>,
) -> Result<Json<v2::ModelStatisticsResponse>, Refusal> {
    inference.statistics(&name, &version).map(Json)
}

/// What it is asked with says nothing that matters here, but is read: the connection would else end with it.
async fn index(State(inference): State<Inference>, body: Body) -> Result<Response, Refusal> {
    drop(intake::read(body).await?);
    Ok(Json(inference.index().models).into_response())
}

async fn infer(
    State(inference): State<Inference>,
    Path(model): Path<Model>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let body = intake::read(body).await?;
    let served = inference.model(&model.name, &model.version)?;
    if let Some(coding) = headers.get(header::CONTENT_ENCODING).filter(|coding| *coding != "identity") {
        let text = format!("content-encoding {coding:?} is not read here; send the request as it is");
        return Err(Refusal::Encoded(text));
    }
    let head = headers.get(HEAD_LENGTH).map(|value| value.to_str().unwrap_or_default());
    let shape = served.installed.model.input_shape;
    let request = InferRequest::read(&body, head, shape).map_err(Refusal::Invalid)?;
    let form = request.form();
    let request = request.named(model.name, model.version).map_err(Refusal::Invalid)?;
    // While it waits its numbers are enough.
    drop(body);
    let answer = inference.infer(request).await?;
    let (head, body) = form.answer(answer);
    Ok(match head {
        None => ([(header::CONTENT_TYPE, "application/json")], body).into_response(),
        Some(length) => {
            let headers = [
                (header::CONTENT_TYPE.as_str(), "application/octet-stream".to_owned()),
                (HEAD_LENGTH, length),
            ];
            (headers, body).into_response()
        }
    })
}
