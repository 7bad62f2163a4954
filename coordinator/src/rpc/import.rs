//! A network on its way in: a header, then its file in chunks, held to what the header announced.

use proto::v1::import_model_request::Part;
use proto::{ArtifactRef, ByteSize, DeviceId, v1};
use tokio_stream::StreamExt;
use tonic::{Status, Streaming};

use super::{status, view};
use crate::core::Core;
use crate::models::{self, Arrival};

/// The largest file that is taken.
const LARGEST: ByteSize = ByteSize(1 << 30);

pub(super) async fn import(
    core: &Core,
    mut parts: Streaming<v1::ImportModelRequest>,
) -> Result<v1::ImportModelResponse, Status> {
    let (name, file) = header(parts.next().await.transpose()?)?;
    let bytes = receive(&file, parts).await?;
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
    let file = file.ok_or_else(|| Status::invalid_argument("the header announces no file"))?;
    let file = ArtifactRef::try_from(file).map_err(status::invalid)?;
    if file.size > LARGEST {
        let (size, largest) = (file.size, LARGEST);
        return Err(Status::invalid_argument(format!(
            "a file of {size} is too large; at most {largest} are taken"
        )));
    }
    Ok((name, file))
}

/// The file's bytes. Memory is taken as they come, never on the header's word.
async fn receive(
    file: &ArtifactRef,
    mut parts: Streaming<v1::ImportModelRequest>,
) -> Result<Vec<u8>, Status> {
    let mut bytes = Vec::new();
    while let Some(part) = parts.next().await.transpose()? {
        let Some(Part::Chunk(chunk)) = part.part else {
            return Err(Status::invalid_argument("only chunks may come behind the header"));
        };
        if bytes.len() as u64 + chunk.len() as u64 > file.size.0 {
            return Err(Status::invalid_argument(format!("more came than the {} announced", file.size)));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}
