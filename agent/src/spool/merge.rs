//! Two intervals of one model become one: counts add up, so no measurement is lost, only the time it was taken at.

use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer as _, V2Serializer};
use proto::LatencyInterval;

/// Merges the oldest two of `waiting[from..]` that one assignment of one model made; false where there are none.
pub(super) fn oldest_pair(waiting: &mut Vec<LatencyInterval>, from: usize) -> bool {
    for first in from..waiting.len() {
        let same = |other: &LatencyInterval| {
            other.digest == waiting[first].digest && other.generation == waiting[first].generation
        };
        let Some(offset) = waiting[first + 1..].iter().position(same) else { continue };
        let second = first + 1 + offset;
        if let Some(merged) = merge(&waiting[first], &waiting[second]) {
            waiting[first] = merged;
            waiting.remove(second);
            return true;
        }
    }
    false
}

fn merge(older: &LatencyInterval, newer: &LatencyInterval) -> Option<LatencyInterval> {
    let mut sum = decode(&older.histogram)?;
    sum.auto(true); // the newer one may hold longer times
    sum.add(decode(&newer.histogram)?).ok()?;
    Some(LatencyInterval {
        digest: older.digest,
        generation: older.generation,
        interval_ms: older.interval_ms.saturating_add(newer.interval_ms),
        histogram: encode(&sum),
        errors: older.errors.saturating_add(newer.errors),
        rss: newer.rss.or(older.rss),
        cpu_ms: older.cpu_ms.zip(newer.cpu_ms).map(|(older, newer)| older.saturating_add(newer)),
        millicelsius: older.millicelsius.max(newer.millicelsius),
    })
}

fn decode(bytes: &[u8]) -> Option<Histogram<u64>> {
    Deserializer::new().deserialize(&mut &*bytes).ok()
}

/// A histogram in the encoding of the wire.
pub(crate) fn encode(histogram: &Histogram<u64>) -> Vec<u8> {
    let mut bytes = Vec::new();
    V2Serializer::new().serialize(histogram, &mut bytes).expect("a vector takes every byte");
    bytes
}
