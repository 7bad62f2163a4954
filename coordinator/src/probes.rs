//! The small models that every device times, so that the time of any other can be predicted for it.

use proto::{ArtifactRef, ByteSize, Digest, HardwareProfile};
use pruner_core::Graph;
use pruner_core::graph::onnx::{self, BatchNorms, OnnxError};
use pruner_core::latency::{HeldOut, Latency, LatencyError, LatencyModel};
use pruner_core::zoo;

use crate::blob::{BlobError, BlobStore};

/// The probes, stored as artifacts.
pub struct ProbeSet {
    probes: Vec<Probe>,
}

/// One probe.
pub struct Probe {
    /// For people.
    pub name: String,
    /// What it computes.
    pub graph: Graph,
    /// Its ONNX file.
    pub artifact: ArtifactRef,
}

/// Why there are no probes.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// A probe could not be written as ONNX.
    #[error("writing probe {name} as ONNX")]
    Encode {
        /// Which.
        name: String,
        /// Why.
        source: OnnxError,
    },
    /// A probe could not be stored.
    #[error(transparent)]
    Store(#[from] BlobError),
}

impl ProbeSet {
    /// Writes every probe to `blobs`, where agents fetch it.
    pub fn publish(blobs: &BlobStore) -> Result<Self, ProbeError> {
        Self::made(|onnx| Ok(blobs.put(onnx.to_vec())?))
    }

    /// The same probes where nobody fetches them: to read profiles that devices have saved.
    pub fn known() -> Result<Self, ProbeError> {
        Self::made(|onnx| Ok(ArtifactRef { digest: Digest::of(onnx), size: ByteSize(onnx.len() as u64) }))
    }

    fn made(keep: impl Fn(&[u8]) -> Result<ArtifactRef, ProbeError>) -> Result<Self, ProbeError> {
        let probe = |probe: zoo::Probe| {
            let onnx = onnx::encode(&probe.network, BatchNorms::Folded)
                .map_err(|source| ProbeError::Encode { name: probe.name.clone(), source })?;
            Ok(Probe { artifact: keep(&onnx)?, name: probe.name, graph: probe.network.graph })
        };
        Ok(Self { probes: zoo::probes().into_iter().map(probe).collect::<Result<_, ProbeError>>()? })
    }

    /// Every probe.
    pub fn iter(&self) -> impl Iterator<Item = &Probe> {
        self.probes.iter()
    }

    /// Whether a device has timed all of them.
    pub fn covers(&self, profile: &HardwareProfile) -> bool {
        self.probes
            .iter()
            .all(|probe| profile.probes.iter().any(|timing| timing.digest == probe.artifact.digest))
    }

    /// How a device's times depend on the network, fitted to the probes that it timed.
    pub fn latency_model(&self, profile: &HardwareProfile) -> Result<LatencyModel, LatencyError> {
        LatencyModel::fit(lanes(profile), &self.samples(profile))
    }

    /// How far that model is off for probes that it was not fitted to.
    pub fn held_out(&self, profile: &HardwareProfile) -> Result<HeldOut, LatencyError> {
        LatencyModel::held_out(lanes(profile), &self.samples(profile))
    }

    fn samples(&self, profile: &HardwareProfile) -> Vec<(&Graph, Latency)> {
        let samples = self.probes.iter().filter_map(|probe| {
            let timing = profile.probes.iter().find(|timing| timing.digest == probe.artifact.digest)?;
            Some((&probe.graph, Latency { p50_ms: timing.p50_ms, p95_ms: timing.p95_ms }))
        });
        samples.collect()
    }
}

/// Single-precision numbers per vector register; 4 where the device does not say, the least of those in use.
fn lanes(profile: &HardwareProfile) -> u32 {
    profile.vector_lanes().unwrap_or(4)
}
