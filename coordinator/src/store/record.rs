//! How a record becomes bytes: one byte that numbers its schema, then JSON.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::StoreError;

/// One kind of record.
pub(super) trait Record: Serialize + DeserializeOwned {
    /// What it is called: in messages, and as the name of its tree.
    const KIND: &'static str;
    /// Raised whenever older code could not read what newer code writes.
    const SCHEMA: u8;
    /// The key that it is stored under; sorts as listings do.
    fn key(&self) -> Vec<u8>;
}

pub(super) fn encode<R: Record>(record: &R) -> Result<Vec<u8>, StoreError> {
    let mut bytes = vec![R::SCHEMA];
    serde_json::to_writer(&mut bytes, record).map_err(|source| StoreError::Encode {
        kind: R::KIND,
        key: text(&record.key()),
        source,
    })?;
    Ok(bytes)
}

pub(super) fn decode<R: Record>(key: &[u8], bytes: &[u8]) -> Result<R, StoreError> {
    match bytes.split_first() {
        Some((&schema, json)) if schema == R::SCHEMA => serde_json::from_slice(json)
            .map_err(|source| StoreError::Corrupt { kind: R::KIND, key: text(key), source }),
        found => Err(StoreError::RecordSchema {
            kind: R::KIND,
            key: text(key),
            found: found.map_or(0, |(&schema, _)| schema),
            known: R::SCHEMA,
        }),
    }
}

/// A key as a message shows it.
pub(super) fn text(key: &[u8]) -> String {
    String::from_utf8_lossy(key).replace('\0', "/")
}
