//! How fast a device is, from the profile that it saved.

use std::path::Path;

use coordinator::causes::chain;
use coordinator::probes::ProbeSet;
use proto::HardwareProfile;
use pruner_core::latency::{HeldOut, LatencyError, LatencyModel};

use crate::cli::error::CliError;

/// The latency model of the device whose profile is at `path`, and how far it is off.
pub(super) fn model(path: &Path) -> Result<(LatencyModel, HeldOut), CliError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| CliError::Unreadable { path: path.to_owned(), source })?;
    let bad = |problem: String| CliError::BadInput(format!("{}: {problem}", path.display()));
    let profile: HardwareProfile =
        serde_json::from_str(&text).map_err(|error| bad(format!("not a device's profile: {error}")))?;
    let probes = ProbeSet::known().map_err(|error| CliError::Failed(chain(&error)))?;
    if !probes.covers(&profile) {
        return Err(bad(
            "has no times of this version's probe models; take it where an agent of this version has connected, \
             with `reconvene-agent profile --config FILE -o json`"
                .to_owned(),
        ));
    }
    let refuse = |error: LatencyError| bad(chain(&error));
    Ok((probes.latency_model(&profile).map_err(refuse)?, probes.held_out(&profile).map_err(refuse)?))
}
