//! Latency histograms from devices: decoded as hostile bytes, added up, summed up. Never averages percentiles.

use hdrhistogram::Histogram;
use hdrhistogram::serialization::{DeserializeError, Deserializer, Serializer, V2Serializer};

/// What every V2 encoding begins with; its compressed sibling is refused, as it can unfold to any size.
const COOKIE: [u8; 4] = [0x1c, 0x84, 0x93, 0x13];
/// Cookie, payload length, offset, digits, lowest and highest value, ratio.
const HEADER: usize = 40;
/// The agreed significant digits; one more costs ten times the memory.
const DIGITS: u32 = 3;
/// Largest count of one value, and of a whole interval: a year's intervals add up far below `u64::MAX`.
const COUNT_LIMIT: u64 = 1 << 40;
/// More zeros in a row than any histogram of three digits has values.
const ZEROS_LIMIT: u64 = 1 << 20;

/// Why a device's histogram was refused.
#[derive(Debug, thiserror::Error)]
pub enum HistogramError {
    /// It does not begin as the V2 encoding does.
    #[error("the histogram does not begin as the uncompressed V2 encoding does")]
    NotV2,
    /// Its header's length is not the length of what follows.
    #[error("the histogram's payload has {found} bytes, its header says {claimed}")]
    Length {
        /// What the header says.
        claimed: u32,
        /// What is there.
        found: usize,
    },
    /// It was not recorded as agreed.
    #[error("the histogram counts from {low} with {digits} significant digits, not from 1 with {DIGITS}")]
    Layout {
        /// Its lowest value.
        low: u64,
        /// Its significant digits.
        digits: u32,
    },
    /// A number in it is absurd or cut short.
    #[error("the histogram's payload is damaged at byte {at}")]
    Payload {
        /// Offset in the payload.
        at: usize,
    },
    /// It counts more than anything can.
    #[error("the histogram counts more than {COUNT_LIMIT} requests")]
    TooMany,
    /// The decoder refused it.
    #[error("the histogram cannot be decoded")]
    Decode(#[source] DeserializeError),
    /// Its values are beyond what can be held.
    #[error("the histogram's values are out of range")]
    Range,
}

/// Latencies of many intervals, added up.
#[derive(Debug, Clone)]
pub struct LatencyTally {
    microseconds: Histogram<u64>,
}

/// What a tally says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// Requests.
    pub count: u64,
    /// Median, milliseconds.
    pub p50_ms: f64,
    /// 95th percentile, milliseconds.
    pub p95_ms: f64,
    /// 99th percentile, milliseconds.
    pub p99_ms: f64,
    /// Mean, milliseconds.
    pub mean_ms: f64,
    /// Longest, milliseconds.
    pub max_ms: f64,
}

impl Default for LatencyTally {
    fn default() -> Self {
        let mut microseconds = Histogram::new(DIGITS as u8).expect("three digits are within 0 to 5");
        microseconds.auto(true);
        Self { microseconds }
    }
}

impl LatencyTally {
    /// Adds the latencies of one interval, encoded as the device sent them. An error adds nothing.
    pub fn add(&mut self, encoded: &[u8]) -> Result<(), HistogramError> {
        let interval = decode(encoded)?;
        self.microseconds.add(&interval).map_err(|_| HistogramError::Range)
    }

    /// The same in few bytes: a tally of one device's times takes about a kilobyte so, and a hundred in the open. `None` where
    /// a count is beyond the format's.
    pub fn packed(&self) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        V2Serializer::new().serialize(&self.microseconds, &mut bytes).ok()?;
        bytes.shrink_to_fit();
        Some(bytes)
    }

    /// What was [packed](Self::packed): the same counts.
    pub fn unpacked(packed: &[u8]) -> Self {
        let unpacked = Deserializer::new().deserialize(&mut &packed[..]);
        let mut microseconds = unpacked.expect("it was packed by this process");
        microseconds.auto(true);
        Self { microseconds }
    }

    /// How many requests there were.
    pub fn count(&self) -> u64 {
        self.microseconds.len()
    }

    /// How many requests took longer than `ms` milliseconds.
    pub fn above(&self, ms: f64) -> u64 {
        // A float becomes the nearest number of its range.
        let limit = (ms * 1e3 + 1e-6).floor() as u64;
        // What shares a bucket with the limit is not known to be above it.
        let first_above = self.microseconds.highest_equivalent(limit).saturating_add(1);
        let last = self.microseconds.max();
        // The library takes what is beyond its last bucket for that one.
        if first_above > last { 0 } else { self.microseconds.count_between(first_above, last) }
    }

    /// What was added up; `None` if no request was.
    pub fn summary(&self) -> Option<Summary> {
        let all = &self.microseconds;
        let quantile = |q| all.value_at_quantile(q) as f64 / 1e3;
        (!all.is_empty()).then(|| Summary {
            count: all.len(),
            p50_ms: quantile(0.50),
            p95_ms: quantile(0.95),
            p99_ms: quantile(0.99),
            mean_ms: all.mean() / 1e3,
            max_ms: all.max() as f64 / 1e3,
        })
    }
}

/// Whether the histogram of one interval can be read, and added to others.
pub fn check(encoded: &[u8]) -> Result<(), HistogramError> {
    LatencyTally::default().add(encoded)
}

/// Decodes one interval. What the decoder takes on trust is checked before it sees a byte: sizes that it would allocate,
/// and numbers that it would negate or add without care.
fn decode(encoded: &[u8]) -> Result<Histogram<u64>, HistogramError> {
    let (header, payload) = encoded.split_at_checked(HEADER).ok_or(HistogramError::NotV2)?;
    if header[..4] != COOKIE {
        return Err(HistogramError::NotV2);
    }
    let word = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().expect("four bytes"));
    let claimed = word(4);
    if claimed as usize != payload.len() {
        return Err(HistogramError::Length { claimed, found: payload.len() });
    }
    let digits = word(12);
    let low = u64::from_be_bytes(header[16..24].try_into().expect("eight bytes"));
    if (digits, low) != (DIGITS, 1) {
        return Err(HistogramError::Layout { low, digits });
    }
    check_payload(payload)?;
    Deserializer::new().deserialize(&mut &encoded[..]).map_err(HistogramError::Decode)
}

/// Each number of the payload is a count, or minus a run of zeros.
fn check_payload(payload: &[u8]) -> Result<(), HistogramError> {
    let mut at = 0;
    let mut total = 0u64;
    while at < payload.len() {
        let (zigzag, length) = varint(&payload[at..]).ok_or(HistogramError::Payload { at })?;
        let size = zigzag.div_ceil(2);
        if zigzag & 1 == 1 && size > ZEROS_LIMIT {
            return Err(HistogramError::Payload { at });
        }
        if zigzag & 1 == 0 {
            total = total.saturating_add(size);
            if total > COUNT_LIMIT {
                return Err(HistogramError::TooMany);
            }
        }
        at += length;
    }
    Ok(())
}

/// One LEB128 number of at most nine bytes, the ninth taken whole, with its length; `None` if it is cut short.
fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0;
    for (index, &byte) in bytes.iter().take(9).enumerate() {
        let shift = 7 * index;
        if index == 8 {
            return Some((value | u64::from(byte) << shift, 9));
        }
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((value, index + 1));
        }
    }
    None
}

#[cfg(test)]
pub(crate) mod tests;
