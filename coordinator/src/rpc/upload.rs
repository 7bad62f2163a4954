//! A file on its way in, in chunks behind a header. Memory is taken as the bytes come, never on the header's word.

use proto::{ArtifactRef, ByteSize, v1};
use tokio_stream::StreamExt;
use tonic::{Status, Streaming};

use super::status;

/// The largest file that is taken.
const LARGEST: ByteSize = ByteSize(1 << 30);

/// What the header announces, if it can be taken.
pub(super) fn announced(file: Option<v1::ArtifactRef>) -> Result<ArtifactRef, Status> {
    let file = file.ok_or_else(|| Status::invalid_argument("the header announces no file"))?;
    let file = ArtifactRef::try_from(file).map_err(status::invalid)?;
    if file.size > LARGEST {
        let (size, largest) = (file.size, LARGEST);
        return Err(Status::invalid_argument(format!(
            "a file of {size} is too large; at most {largest} are taken"
        )));
    }
    Ok(file)
}

/// The file's bytes; `chunk` takes them out of a message, `None` where it holds none.
pub(super) async fn receive<T>(
    file: &ArtifactRef,
    mut parts: Streaming<T>,
    chunk: impl Fn(T) -> Option<Vec<u8>>,
) -> Result<Vec<u8>, Status> {
    let mut bytes = Vec::new();
    while let Some(part) = parts.next().await.transpose()? {
        let Some(chunk) = chunk(part) else {
            return Err(Status::invalid_argument("only chunks may come behind the header"));
        };
        if bytes.len() as u64 + chunk.len() as u64 > file.size.0 {
            return Err(Status::invalid_argument(format!("more came than the {} announced", file.size)));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}
