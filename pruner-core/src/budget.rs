//! What a network may cost at most, and which ceiling one breaks.

use std::fmt;

use crate::graph::cost::Cost;
use crate::latency::Latency;

/// Ceilings for one network; `None`: none.
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
    /// Memory.
    Memory,
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
        let counts = [
            (Ceiling::Params, self.params, cost.params),
            (Ceiling::Macs, self.macs, cost.macs),
            (Ceiling::Bytes, self.bytes, cost.bytes),
            (Ceiling::Memory, self.memory_bytes, cost.memory_bytes),
        ];
        let over = counts.into_iter().find_map(|(ceiling, allowed, actual)| {
            let allowed = allowed.filter(|&allowed| actual > allowed)?;
            Some(Broken { ceiling, allowed: allowed as f64, actual: actual as f64 })
        });
        over.or_else(|| {
            let (allowed, actual) = (self.latency_p95_ms?, predicted?.p95_ms);
            (actual > allowed).then_some(Broken { ceiling: Ceiling::Latency, allowed, actual })
        })
    }
}

impl Ceiling {
    /// A figure with its name and unit.
    pub fn figure(self, value: f64) -> String {
        match self {
            Self::Params => format!("{value:.0} parameters"),
            Self::Macs => format!("{value:.0} MACs"),
            Self::Bytes => format!("a file of {value:.0} bytes"),
            Self::Memory => format!("{value:.0} bytes of memory"),
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
            Self::Latency => "p95 latency",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_broken_ceiling_is_named_with_its_figures() {
        let cost = Cost { params: 10, macs: 100, bytes: 40, memory_bytes: 80 };
        let latency = Some(Latency { p50_ms: 1.0, p95_ms: 2.0 });
        assert_eq!(Budget::default().broken(&cost, latency), None);
        let exact = Budget { params: Some(10), latency_p95_ms: Some(2.0), ..Budget::default() };
        assert_eq!(exact.broken(&cost, latency), None, "a ceiling may be reached");
        let tight = Budget { bytes: Some(39), latency_p95_ms: Some(1.0), ..Budget::default() };
        let broken = Broken { ceiling: Ceiling::Bytes, allowed: 39.0, actual: 40.0 };
        assert_eq!(tight.broken(&cost, latency), Some(broken));
        let slow = Budget { latency_p95_ms: Some(1.5), ..Budget::default() };
        assert_eq!(slow.broken(&cost, latency).unwrap().ceiling, Ceiling::Latency);
        assert_eq!(slow.broken(&cost, None), None, "without a prediction nothing is known to be broken");
    }
}
