//! shim
#![allow(missing_docs)]
use crate::Graph;
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Latency {
    pub p50_ms: f64,
    pub p95_ms: f64,
}
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct LatencyModel;
#[derive(Debug, Clone, thiserror::Error)]
#[error("x")]
pub struct LatencyError;
impl LatencyModel {
    pub fn fit(_l: u32, _s: &[(&Graph, Latency)]) -> Result<Self, LatencyError> {
        Ok(Self)
    }
    pub fn predict(&self, _g: &Graph) -> Latency {
        Latency { p50_ms: 0.0, p95_ms: 0.0 }
    }
    pub fn corrected(&self, _f: f64) -> Self {
        Self
    }
}
