//! Latencies on their way from a device to the coordinator's store.

use serde::{Deserialize, Serialize};

use crate::{ByteSize, Digest, Generation, Invalid, v1};

/// Latencies of one model over one interval, as counts that can be added up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatencyInterval {
    /// The artifact that served.
    pub digest: Digest,
    /// The assignment that it came by.
    pub generation: Generation,
    /// How long the interval lasted.
    pub interval_ms: u64,
    /// HdrHistogram, V2 encoding, microseconds, three significant digits.
    pub histogram: Vec<u8>,
    /// Requests that failed.
    pub errors: u64,
    /// Resident memory of the agent at the end.
    pub rss: Option<ByteSize>,
    /// Processor time of the agent meanwhile, all threads, whichever model served.
    #[serde(default)]
    pub cpu_ms: Option<u64>,
    /// Temperature at the end, thousandths of a degree Celsius.
    #[serde(default)]
    pub millicelsius: Option<i32>,
}

/// Where an interval stands in a device's spool: an epoch is one life of the spool, sequences have no gaps within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SpoolPosition {
    /// The life of the spool.
    pub epoch: u64,
    /// Counts from 1.
    pub sequence: u64,
}

/// A histogram's encoding is at most this long; a longer one is refused.
const HISTOGRAM_LIMIT: usize = 256 << 10;

/// No device counts more within one interval, whatever it counts: a year has 2^35 milliseconds.
const FIGURE_LIMIT: u64 = 1 << 48;

/// A count that can be added to others.
fn figure(field: &'static str, count: u64) -> Result<u64, Invalid> {
    if count > FIGURE_LIMIT {
        return Err(Invalid::new(field, format!("{count} is more than any interval has")));
    }
    Ok(count)
}

impl TryFrom<v1::LatencyInterval> for LatencyInterval {
    type Error = Invalid;

    fn try_from(wire: v1::LatencyInterval) -> Result<Self, Invalid> {
        if wire.histogram.len() > HISTOGRAM_LIMIT {
            return Err(Invalid::new("histogram", format!("longer than {HISTOGRAM_LIMIT} bytes")));
        }
        Ok(Self {
            digest: wire.digest.parse()?,
            generation: Generation::claimed(wire.generation)?,
            interval_ms: figure("interval_ms", wire.interval_ms)?,
            histogram: wire.histogram,
            errors: figure("errors", wire.errors)?,
            rss: wire.rss_bytes.map(ByteSize),
            cpu_ms: wire.cpu_ms.map(|ms| figure("cpu_ms", ms)).transpose()?,
            millicelsius: wire.millicelsius,
        })
    }
}

impl From<LatencyInterval> for v1::LatencyInterval {
    fn from(interval: LatencyInterval) -> Self {
        Self {
            digest: interval.digest.to_string(),
            generation: interval.generation.0,
            interval_ms: interval.interval_ms,
            histogram: interval.histogram,
            errors: interval.errors,
            rss_bytes: interval.rss.map(|size| size.0),
            cpu_ms: interval.cpu_ms,
            millicelsius: interval.millicelsius,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_that_no_interval_has_are_refused_by_name() {
        let sound = || v1::LatencyInterval {
            digest: Digest::of(b"model").to_string(),
            errors: FIGURE_LIMIT,
            ..Default::default()
        };
        assert_eq!(LatencyInterval::try_from(sound()).unwrap().errors, FIGURE_LIMIT);
        for (field, break_it) in [
            ("errors", (|i| i.errors = FIGURE_LIMIT + 1) as fn(&mut v1::LatencyInterval)),
            ("interval_ms", |i| i.interval_ms = u64::MAX),
            ("cpu_ms", |i| i.cpu_ms = Some(u64::MAX)),
            ("generation", |i| i.generation = (1 << 60) + 1),
            ("digest", |i| i.digest.clear()),
            ("histogram", |i| i.histogram = vec![0; HISTOGRAM_LIMIT + 1]),
        ] {
            let mut wire = sound();
            break_it(&mut wire);
            assert_eq!(LatencyInterval::try_from(wire).unwrap_err().field, field);
        }
    }
}
