//! A network on its way in: a header, then its file in chunks, held to what the header announced.

use proto::v1::import_model_request::Part;
use proto::{ArtifactRef, DeviceId, v1};
use tokio_stream::StreamExt;
use tonic::{Status, Streaming};

use super::{status, upload, view};
use crate::core::Core;
use crate::models::{self, Arrival};

pub(super) async fn import(
    core: &Core,
    mut parts: Streaming<v1::ImportModelRequest>,
) -> Result<v1::ImportModelResponse, Status> {
    let (name, file) = header(parts.next().await.transpose()?)?;
    let bytes = upload::receive(&file, parts, |part| match part.part {
        Some(Part::Chunk(chunk)) => Some(chunk),
        Some(Part::Header(_)) | None => None,
    })
    .await?;
    let (store, blobs) = (core.store.clone(), core.blobs.clone());
    let announced = file.clone();
    let imported = store
        .call(move |store| Ok(models::import(store, &blobs, (name, &announced), &bytes)))
        .await
        .map_err(status::store)?;
    let (record, arrival) = imported.map_err(status::import)?;
    tracing::info!(model = %record.name, digest = %record.file.digest, ?arrival, "network imported");
    Ok(v1::ImportModelResponse { model: Some(view::imported(&record)), unchanged: arrival == Arrival::Known })
}

fn header(first: Option<v1::ImportModelRequest>) -> Result<(DeviceId, ArtifactRef), Status> {
    let Some(Part::Header(v1::ImportModelHeader { name, file })) = first.and_then(|first| first.part) else {
        return Err(Status::invalid_argument("a header must come before the file"));
    };
    let name = name
        .parse::<DeviceId>()
        .map_err(|invalid| Status::invalid_argument(format!("the network's name {}", invalid.problem)))?;
    Ok((name, upload::announced(file)?))
}
