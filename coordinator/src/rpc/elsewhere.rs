//! Networks given out, and weights taken in: the calls of `reconvene artifact`.

use proto::v1::import_weights_request::Part as Incoming;
use proto::v1::{ExportArtifactResponse, export_artifact_response::Part as Outgoing};
use proto::{ArtifactRef, ByteSize, Digest, v1};
use tokio::sync::Semaphore;
use tokio_stream::StreamExt;
use tonic::{Status, Streaming};

use super::{status, upload};
use crate::core::Core;
use crate::elsewhere::{self, ElsewhereError, Export, Form, Found};
use crate::models;

/// Bytes per message.
const CHUNK: usize = 256 << 10;

/// One at a time: each holds a data set and a network in memory, and computes on every core.
static TURN: Semaphore = Semaphore::const_new(1);

type Parts = std::vec::IntoIter<Result<ExportArtifactResponse, Status>>;

/// The file's messages, the header first.
pub(super) async fn export(core: &Core, request: v1::ExportArtifactRequest) -> Result<Parts, Status> {
    let form = match request.format.as_str() {
        "onnx" => Form::Onnx,
        "safetensors" => Form::Safetensors,
        other => {
            let problem = format!("'{other}' is no format; known: onnx, safetensors");
            return Err(Status::invalid_argument(problem));
        }
    };
    let blobs = core.blobs.clone();
    let found = find(core, request.name).await?;
    let _turn = TURN.acquire().await.expect("the semaphore is never closed");
    let export = status::blocking(move || found.export(&blobs, form)).await?.map_err(status::elsewhere)?;
    let Export { file, name, network, is_trained: trained, input_shape, mean, std } = export;
    let announced = ArtifactRef { digest: Digest::of(&file), size: ByteSize(file.len() as u64) };
    let header = v1::ExportArtifactHeader {
        name: name.to_string(),
        file: Some(announced.into()),
        network,
        trained,
        input_shape: input_shape.to_vec(),
        mean,
        std,
    };
    let chunks = file.chunks(CHUNK).map(|chunk| Outgoing::Chunk(chunk.to_vec()));
    let parts = std::iter::once(Outgoing::Header(header)).chain(chunks);
    let parts: Vec<_> = parts.map(|part| Ok(ExportArtifactResponse { part: Some(part) })).collect();
    Ok(parts.into_iter())
}

/// Checks, measures and packs the weights; the driver rolls them out.
pub(super) async fn import(
    core: &Core,
    mut parts: Streaming<v1::ImportWeightsRequest>,
) -> Result<v1::ImportWeightsResponse, Status> {
    let first = parts.next().await.transpose()?.and_then(|first| first.part);
    let Some(Incoming::Header(v1::ImportWeightsHeader { name, file })) = first else {
        return Err(Status::invalid_argument("a header must come before the file"));
    };
    let announced = upload::announced(file)?;
    let Found::Planned(planned) = find(core, name.clone()).await? else {
        let problem =
            format!("'{name}' is an artifact, trained already; only what waits to be trained takes weights");
        return Err(Status::invalid_argument(problem));
    };
    planned.may_come_back().map_err(status::elsewhere)?; // before a large file is sent
    let bytes = upload::receive(&announced, parts, |part| match part.part {
        Some(Incoming::Chunk(chunk)) => Some(chunk),
        Some(Incoming::Header(_)) | None => None,
    })
    .await?;
    if let Some(problem) = models::mangled(&bytes, &announced) {
        return Err(Status::data_loss(format!(
            "the file that arrived is not the one that was announced: {problem}"
        )));
    }
    let _turn = TURN.acquire().await.expect("the semaphore is never closed");
    let (key, blobs) = (planned.key, core.blobs.clone());
    let record =
        status::blocking(move || planned.import(&blobs, &bytes)).await?.map_err(status::elsewhere)?;
    let stored = record.clone();
    let settled = core.store.call(move |store| Ok(elsewhere::settle(store, key, &stored))).await;
    settled.map_err(status::store)?.map_err(status::elsewhere)?;
    tracing::info!(derivation = %key, artifact = %record.digest, "weights taken in");
    core.poke.poke();
    Ok(v1::ImportWeightsResponse {
        digest: record.digest.to_string(),
        test_accuracy: record.test_accuracy.unwrap_or_default(),
        test_images: record.test_images,
        classes: record.serving.classes,
    })
}

async fn find(core: &Core, name: String) -> Result<Found, Status> {
    let found = core.store.call(move |store| Ok(elsewhere::find(store, &name))).await;
    let found: Result<Found, ElsewhereError> = found.map_err(status::store)?;
    found.map_err(status::elsewhere)
}
