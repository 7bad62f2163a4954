//! What an operator writes for budgets, shapes and shares. Owns their spelling, never their meaning.

use std::str::FromStr;

use coordinator::limit::{Count, Limit, Millis};
use proto::{ByteSize, Invalid};
use pruner_core::Shape;
use pruner_core::budget::Budget;
use pruner_core::graph::cost::Cost;
use pruner_core::latency::Latency;
use pruner_core::plan::WidthPolicy;

use crate::cli::error::CliError;

/// One ceiling: `params=1/16.21`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum CeilingArg {
    Params(Limit<Count>),
    Macs(Limit<Count>),
    Size(Limit<ByteSize>),
    Memory(Limit<ByteSize>),
    Activations(Limit<ByteSize>),
    LatencyP50(Limit<Millis>),
    LatencyP95(Limit<Millis>),
}

const CEILINGS: &str = "params, macs, size, memory, activations, latencyP50, latencyP95";

impl FromStr for CeilingArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, limit) = text.split_once('=').ok_or("a ceiling is written as in params=1/16.21")?;
        let problem = |invalid: Invalid| invalid.problem;
        match name {
            "params" => limit.parse().map(Self::Params).map_err(problem),
            "macs" => limit.parse().map(Self::Macs).map_err(problem),
            "size" => limit.parse().map(Self::Size).map_err(problem),
            "memory" => limit.parse().map(Self::Memory).map_err(problem),
            "activations" => limit.parse().map(Self::Activations).map_err(problem),
            "latencyP50" => limit.parse().map(Self::LatencyP50).map_err(problem),
            "latencyP95" => limit.parse().map(Self::LatencyP95).map_err(problem),
            _ => Err(format!("'{name}' is no ceiling; known: {CEILINGS}")),
        }
    }
}

/// Whether there was none before.
fn set<T>(slot: &mut Option<T>, value: T) -> bool {
    slot.replace(value).is_none()
}

/// The ceilings as figures, given the dense network's cost, and its latency where a device's profile says it.
pub(super) fn budget(
    ceilings: &[CeilingArg],
    dense: &Cost,
    latency: Option<Latency>,
) -> Result<Budget, CliError> {
    let mut budget = Budget::default();
    let time = |limit: Limit<Millis>, dense: fn(Latency) -> f64| {
        let unknown = "a latency ceiling needs a device's times: give --profile, or use `reconvene plan`";
        let latency = latency.ok_or_else(|| CliError::Usage(unknown.to_owned()))?;
        Ok::<f64, CliError>(limit.resolve(Millis(dense(latency))).0)
    };
    for ceiling in ceilings {
        let (name, is_new) = match *ceiling {
            CeilingArg::Params(limit) => {
                ("params", set(&mut budget.params, limit.resolve(Count(dense.params)).0))
            }
            CeilingArg::Macs(limit) => ("macs", set(&mut budget.macs, limit.resolve(Count(dense.macs)).0)),
            CeilingArg::Size(limit) => {
                ("size", set(&mut budget.bytes, limit.resolve(ByteSize(dense.bytes)).0))
            }
            CeilingArg::Memory(limit) => {
                ("memory", set(&mut budget.memory_bytes, limit.resolve(ByteSize(dense.memory_bytes)).0))
            }
            CeilingArg::Activations(limit) => {
                let figure = limit.resolve(ByteSize(dense.activation_bytes)).0;
                ("activations", set(&mut budget.activation_bytes, figure))
            }
            CeilingArg::LatencyP50(limit) => {
                ("latencyP50", set(&mut budget.latency_p50_ms, time(limit, |dense| dense.p50_ms)?))
            }
            CeilingArg::LatencyP95(limit) => {
                ("latencyP95", set(&mut budget.latency_p95_ms, time(limit, |dense| dense.p95_ms)?))
            }
        };
        if !is_new {
            return Err(CliError::Usage(format!("--budget gives {name} twice")));
        }
    }
    Ok(budget)
}

/// `3x32x32`.
pub(super) fn parse_shape(text: &str) -> Result<Shape, String> {
    let refuse = || format!("'{text}' is not channels x height x width, as in 3x32x32");
    let sides: Vec<u16> = text.split('x').map(str::parse).collect::<Result<_, _>>().map_err(|_| refuse())?;
    match sides[..] {
        [channels, height, width] if channels > 0 && height > 0 && width > 0 => {
            Ok(Shape::new(channels.into(), height.into(), width.into()))
        }
        _ => Err(refuse()),
    }
}

/// `0.25`: from 0 to 4.
pub(super) fn parse_exponent(text: &str) -> Result<f64, String> {
    let exponent = text.parse::<f64>().ok().filter(|exponent| WidthPolicy::EXPONENTS.contains(exponent));
    exponent.ok_or_else(|| format!("'{text}' is not a number from 0 to 4, such as 0.25"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DENSE: Cost =
        Cost { params: 272_474, macs: 40_000_000, bytes: 1000, memory_bytes: 2000, activation_bytes: 800 };

    fn read(texts: &[&str]) -> Result<Budget, String> {
        read_for(texts, None)
    }

    fn read_for(texts: &[&str], latency: Option<Latency>) -> Result<Budget, String> {
        let ceilings = texts.iter().map(|text| text.parse()).collect::<Result<Vec<_>, _>>()?;
        budget(&ceilings, &DENSE, latency).map_err(|error| error.to_string())
    }

    #[test]
    fn ceilings_become_figures() {
        let budget = read(&["params=1/16.21", "macs=10M", "size=25%", "memory=1Ki"]).unwrap();
        assert_eq!((budget.params, budget.macs), (Some(16_809), Some(10_000_000)));
        assert_eq!((budget.bytes, budget.memory_bytes), (Some(250), Some(1024)));
        assert_eq!(budget.latency_p95_ms, None);
        let dense = Some(Latency { p50_ms: 2.0, p95_ms: 3.0 });
        let budget = read_for(&["activations=50%", "latencyP50=1/2", "latencyP95=1.2ms"], dense).unwrap();
        assert_eq!(budget.activation_bytes, Some(400));
        assert_eq!((budget.latency_p50_ms, budget.latency_p95_ms), (Some(1.0), Some(1.2)));
    }

    #[test]
    fn ceilings_that_are_none_say_what_is_allowed() {
        for (text, expected) in [
            ("params", "a ceiling is written as in params=1/16.21"),
            (
                "weights=5",
                "'weights' is no ceiling; known: params, macs, size, memory, activations, latencyP50, latencyP95",
            ),
            ("params=lots", "'lots' is not a positive number such as 16800, 90k or 1.2M"),
        ] {
            assert_eq!(read(&[text]).unwrap_err(), expected);
        }
        assert_eq!(read(&["macs=1M", "macs=2M"]).unwrap_err(), "--budget gives macs twice");
        assert!(read(&["latencyP95=1ms"]).unwrap_err().contains("--profile"));
    }

    #[test]
    fn shapes() {
        assert_eq!(parse_shape("1x28x28"), Ok(Shape::new(1, 28, 28)));
        for bad in ["", "3", "3x32", "3x32x32x1", "0x1x1", "ax1x1", "99999999x1x1"] {
            assert!(parse_shape(bad).is_err(), "{bad}");
        }
    }
}
