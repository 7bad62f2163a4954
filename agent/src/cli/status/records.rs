//! The records of the state directory, each read as what the agent takes it for: JSON that says something else is damaged, too.

use std::io;
use std::path::Path;

use proto::{Digest, Generation, VerifyingKey};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;

use crate::identity;
use crate::probe::published::Published;
use crate::probe::timings::Timings;
use crate::state::{self, FileError, StateDir};

/// A check under way, or the time that a model serves.
#[derive(Deserialize)]
#[expect(dead_code, reason = "all that matters is that it can be read")]
struct Trial {
    generation: Generation,
    digest: Digest,
    begun: u32,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "all that matters is that it can be read")]
struct GivenUp {
    generation: Generation,
    digest: Digest,
    reason: String,
}

/// What is damaged, or cannot be read.
pub(super) fn damage(state: &StateDir) -> Result<Vec<FileError>, FileError> {
    let records = state.records()?;
    let damaged = records.iter().filter_map(|path| look(path).err());
    Ok(damaged.chain(identity::damage(state)).collect())
}

fn look(path: &Path) -> Result<(), FileError> {
    match path.file_name().and_then(|name| name.to_str()).unwrap_or_default() {
        "probation.json" | "serving.json" | "checking.json" | "comparing.json" | "loading.json"
        | "probing.json" => one_or_all::<Trial>(path),
        "given-up.json" => one_or_all::<GivenUp>(path),
        "trusted-keys.json" => state::read_json::<Vec<VerifyingKey>>(path).map(drop),
        "profile.json" => state::read_json::<Published>(path).map(drop),
        "probe-timings.json" => state::read_json::<Timings>(path).map(drop),
        _ => state::read_json::<IgnoredAny>(path).map(drop),
    }
}

/// A list, or the one that an earlier version kept.
fn one_or_all<T: DeserializeOwned>(path: &Path) -> Result<(), FileError> {
    let Some(json) = state::read_json::<Value>(path)? else { return Ok(()) };
    let read =
        if json.is_array() { Vec::<T>::deserialize(json).map(drop) } else { T::deserialize(json).map(drop) };
    let refuse = |error| FileError::of("understand", path)(io::Error::new(io::ErrorKind::InvalidData, error));
    read.map_err(refuse)
}
