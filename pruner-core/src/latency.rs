//! Predicted time of one image on one device, from the times that it measured of a few probe networks. Pure: it fits
//! and predicts; measuring is the device's.
//!
//! The model is linear in what an engine pays for: operators run, multiply-accumulates, numbers gathered into columns
//! for convolutions larger than 1x1, and numbers read and written. Coefficients are non-negative, so a narrower network
//! is never predicted slower; each percentile has its own.

mod features;
mod nnls;

use serde::{Deserialize, Serialize};

use crate::graph::Graph;
use features::{FEATURES, features};

/// The time of one image.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Median, milliseconds.
    pub p50_ms: f64,
    /// 95th percentile, milliseconds.
    pub p95_ms: f64,
}

/// How a device's times depend on the network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LatencyModel {
    lanes: u32,
    /// Milliseconds per feature.
    p50: [f64; FEATURES],
    p95: [f64; FEATURES],
}

/// How far predictions of the 95th percentile are off, as a share of what was measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct HeldOut {
    /// On the mean.
    pub mean: f64,
    /// At worst.
    pub worst: f64,
}

/// Why no model can be fitted.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum LatencyError {
    /// Not enough to fit to.
    #[error("{probes} probe times are too few to fit {FEATURES} coefficients")]
    TooFewProbes {
        /// How many there are.
        probes: usize,
    },
    /// A time that is none.
    #[error("a probe time of {ms} ms is not a positive number")]
    NotATime {
        /// The figure.
        ms: f64,
    },
    /// The device's vector width is not known.
    #[error("a vector of 0 lanes")]
    NoLanes,
}

impl LatencyModel {
    /// The model that comes closest to the measured times, by least squares of the relative errors. `lanes`: f32 numbers
    /// per vector register; the positions of a map are counted in whole pairs of vectors.
    pub fn fit(lanes: u32, samples: &[(&Graph, Latency)]) -> Result<Self, LatencyError> {
        if lanes == 0 {
            return Err(LatencyError::NoLanes);
        }
        if samples.len() < FEATURES {
            return Err(LatencyError::TooFewProbes { probes: samples.len() });
        }
        let times = samples.iter().flat_map(|(_, latency)| [latency.p50_ms, latency.p95_ms]);
        if let Some(ms) = times.into_iter().find(|ms| !(ms.is_finite() && *ms > 0.0)) {
            return Err(LatencyError::NotATime { ms });
        }
        let fit = |time: fn(&Latency) -> f64| {
            let rows: Vec<[f64; FEATURES]> = samples
                .iter()
                .map(|(graph, latency)| features(graph, lanes).map(|feature| feature / time(latency)))
                .collect();
            nnls::solve(&rows)
        };
        Ok(Self { lanes, p50: fit(|latency| latency.p50_ms), p95: fit(|latency| latency.p95_ms) })
    }

    /// How far off the model is for networks that it was not fitted to: each sample in turn is left out, and predicted from
    /// the others. Fails where the others are too few.
    pub fn held_out(lanes: u32, samples: &[(&Graph, Latency)]) -> Result<HeldOut, LatencyError> {
        if samples.is_empty() {
            return Err(LatencyError::TooFewProbes { probes: 0 });
        }
        let error = |index: usize| {
            let (graph, measured) = samples[index];
            let others: Vec<_> =
                samples.iter().enumerate().filter(|(i, _)| *i != index).map(|(_, &other)| other).collect();
            let predicted = Self::fit(lanes, &others)?.predict(graph);
            Ok((predicted.p95_ms / measured.p95_ms - 1.0).abs())
        };
        let errors = (0..samples.len()).map(error).collect::<Result<Vec<f64>, LatencyError>>()?;
        let mean = errors.iter().sum::<f64>() / errors.len() as f64;
        Ok(HeldOut { mean, worst: errors.into_iter().fold(0.0, f64::max) })
    }

    /// The predicted time of one image.
    pub fn predict(&self, graph: &Graph) -> Latency {
        let features = features(graph, self.lanes);
        let time = |coefficients: &[f64; FEATURES]| {
            coefficients.iter().zip(features).map(|(c, f)| c * f).sum::<f64>()
        };
        let p50_ms = time(&self.p50);
        Latency { p50_ms, p95_ms: time(&self.p95).max(p50_ms) }
    }

    /// Every node's share of the median, milliseconds: the median is their sum.
    pub fn shares_ms(&self, graph: &Graph) -> Vec<f64> {
        let share = |features: [f64; FEATURES]| self.p50.iter().zip(features).map(|(c, f)| c * f).sum();
        features::per_node(graph, self.lanes).map(share).collect()
    }

    /// The model whose predictions are `factor` times these: what telemetry says of them.
    #[must_use]
    pub fn corrected(&self, factor: f64) -> Self {
        let scaled = |coefficients: [f64; FEATURES]| coefficients.map(|coefficient| coefficient * factor);
        Self { lanes: self.lanes, p50: scaled(self.p50), p95: scaled(self.p95) }
    }
}

#[cfg(test)]
mod tests;
