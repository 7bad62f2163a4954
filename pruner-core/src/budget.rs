//! What a network may cost at most, and which ceiling one breaks.

use std::fmt;

use crate::graph::cost::{self, Cost};
use crate::graph::{Graph, onnx};
use crate::latency::{Latency, LatencyModel};

/// Ceilings for one network, any of them together; `None`: none.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Serialize, serde::Deserialize)]
pub struct Budget {
    /// Learnt numbers.
    pub params: Option<u64>,
    /// Multiply-accumulates of one image.
    pub macs: Option<u64>,
    /// Length of the ONNX file with folded batch norms.
    pub bytes: Option<u64>,
    /// Weights and the most activations alive at once, one image, bytes.
    pub memory_bytes: Option<u64>,
    /// The most activations alive at once, one image, bytes; what a device with its weights in flash has in RAM.
    #[serde(default)]
    pub activation_bytes: Option<u64>,
    /// Median of the time of one image, milliseconds, as a latency model predicts it.
    #[serde(default)]
    pub latency_p50_ms: Option<f64>,
    /// 95th percentile of the time of one image, milliseconds, as a latency model predicts it.
    pub latency_p95_ms: Option<f64>,
}

/// One figure that a budget bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Ceiling {
    /// Learnt numbers.
    Params,
    /// Multiply-accumulates.
    Macs,
    /// File size.
    Bytes,
    /// Memory of weights and activations.
    Memory,
    /// Memory of activations.
    Activations,
    /// Median of latency.
    LatencyP50,
    /// 95th percentile of latency.
    Latency,
}

/// A ceiling with what it allows and what a network has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Broken {
    /// Which.
    pub ceiling: Ceiling,
    /// Most that the budget allows, in the ceiling's unit.
    pub allowed: f64,
    /// What the network has.
    pub actual: f64,
}

impl Budget {
    /// The first ceiling that a network of this cost breaks; `None` where it is within all of them.
    pub fn broken(&self, cost: &Cost, predicted: Option<Latency>) -> Option<Broken> {
        self.first_over(|ceiling| match ceiling {
            Ceiling::Params => Some(cost.params as f64),
            Ceiling::Macs => Some(cost.macs as f64),
            Ceiling::Bytes => Some(cost.bytes as f64),
            Ceiling::Memory => Some(cost.memory_bytes as f64),
            Ceiling::Activations => Some(cost.activation_bytes as f64),
            Ceiling::LatencyP50 => predicted.map(|latency| latency.p50_ms),
            Ceiling::Latency => predicted.map(|latency| latency.p95_ms),
        })
    }

    /// The first ceiling that `graph` breaks. What is not bounded is not counted: a file's length takes longer to count
    /// than all else together.
    pub(crate) fn broken_by(&self, graph: &Graph, latency: Option<&LatencyModel>) -> Option<Broken> {
        self.first_over(|ceiling| match ceiling {
            Ceiling::Params => Some(cost::params(graph) as f64),
            Ceiling::Macs => Some(cost::macs(graph) as f64),
            Ceiling::Bytes => Some(onnx::encoded_len(graph) as f64),
            Ceiling::Memory => Some(cost::memory_bytes(graph) as f64),
            Ceiling::Activations => Some(cost::activation_bytes(graph) as f64),
            Ceiling::LatencyP50 => latency.map(|model| model.predict(graph).p50_ms),
            Ceiling::Latency => latency.map(|model| model.predict(graph).p95_ms),
        })
    }

    /// What is within both.
    #[must_use]
    pub fn tightest(self, other: Self) -> Self {
        fn least<T: PartialOrd>(a: Option<T>, b: Option<T>) -> Option<T> {
            match (a, b) {
                (Some(a), Some(b)) => Some(if b < a { b } else { a }),
                (a, b) => a.or(b),
            }
        }
        Self {
            params: least(self.params, other.params),
            macs: least(self.macs, other.macs),
            bytes: least(self.bytes, other.bytes),
            memory_bytes: least(self.memory_bytes, other.memory_bytes),
            activation_bytes: least(self.activation_bytes, other.activation_bytes),
            latency_p50_ms: least(self.latency_p50_ms, other.latency_p50_ms),
            latency_p95_ms: least(self.latency_p95_ms, other.latency_p95_ms),
        }
    }

    /// Whether it says anything of latency, which only a model of the device can answer.
    pub fn bounds_latency(&self) -> bool {
        self.latency_p50_ms.is_some() || self.latency_p95_ms.is_some()
    }

    /// The first of our ceilings that its figure is over; a figure that is not known breaks none.
    fn first_over(&self, figure: impl Fn(Ceiling) -> Option<f64>) -> Option<Broken> {
        let count = |allowed: Option<u64>| allowed.map(|allowed| allowed as f64);
        let ceilings = [
            (Ceiling::Params, count(self.params)),
            (Ceiling::Macs, count(self.macs)),
            (Ceiling::Bytes, count(self.bytes)),
            (Ceiling::Memory, count(self.memory_bytes)),
            (Ceiling::Activations, count(self.activation_bytes)),
            (Ceiling::LatencyP50, self.latency_p50_ms),
            (Ceiling::Latency, self.latency_p95_ms),
        ];
        ceilings.into_iter().find_map(|(ceiling, allowed)| {
            let (allowed, actual) = (allowed?, figure(ceiling)?);
            (actual > allowed).then_some(Broken { ceiling, allowed, actual })
        })
    }
}

impl Ceiling {
    /// A figure with its name and unit.
    pub fn figure(self, value: f64) -> String {
        let count = |unit: &str| format!("{value:.0} {unit}{}", if value.round() == 1.0 { "" } else { "s" });
        match self {
            Self::Params => count("parameter"),
            Self::Macs => count("MAC"),
            Self::Bytes => format!("a file of {}", count("byte")),
            Self::Memory => format!("{} of memory", count("byte")),
            Self::Activations => format!("{} of activations", count("byte")),
            Self::LatencyP50 => format!("a p50 latency of {value:.3} ms"),
            Self::Latency => format!("a p95 latency of {value:.3} ms"),
        }
    }
}

impl fmt::Display for Ceiling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Params => "parameters",
            Self::Macs => "MACs",
            Self::Bytes => "file size",
            Self::Memory => "memory",
            Self::Activations => "activation memory",
            Self::LatencyP50 => "p50 latency",
            Self::Latency => "p95 latency",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_not_many() {
        assert_eq!(Ceiling::Params.figure(1.0), "1 parameter");
        assert_eq!(Ceiling::Macs.figure(0.0), "0 MACs");
        assert_eq!(Ceiling::Bytes.figure(1.0), "a file of 1 byte");
        assert_eq!(Ceiling::Memory.figure(2.0), "2 bytes of memory");
    }

    #[test]
    fn the_first_broken_ceiling_is_named_with_its_figures() {
        let cost = Cost { params: 10, macs: 100, bytes: 40, memory_bytes: 80, activation_bytes: 30 };
        let latency = Some(Latency { p50_ms: 1.0, p95_ms: 2.0 });
        assert_eq!(Budget::default().broken(&cost, latency), None);
        let exact = Budget { params: Some(10), latency_p95_ms: Some(2.0), ..Budget::default() };
        assert_eq!(exact.broken(&cost, latency), None, "a ceiling may be reached");
        let tight = Budget { bytes: Some(39), latency_p95_ms: Some(1.0), ..Budget::default() };
        let broken = Broken { ceiling: Ceiling::Bytes, allowed: 39.0, actual: 40.0 };
        assert_eq!(tight.broken(&cost, latency), Some(broken));
        let small = Budget { memory_bytes: Some(80), activation_bytes: Some(29), ..Budget::default() };
        assert_eq!(small.broken(&cost, latency).unwrap().ceiling, Ceiling::Activations);
        let median = Budget { latency_p50_ms: Some(0.9), latency_p95_ms: Some(1.9), ..Budget::default() };
        assert_eq!(median.broken(&cost, latency).unwrap().ceiling, Ceiling::LatencyP50);
        assert!(median.bounds_latency() && !small.bounds_latency());
        let slow = Budget { latency_p95_ms: Some(1.5), ..Budget::default() };
        assert_eq!(slow.broken(&cost, latency).unwrap().ceiling, Ceiling::Latency);
        assert_eq!(slow.broken(&cost, None), None, "without a prediction nothing is known to be broken");
    }
}
