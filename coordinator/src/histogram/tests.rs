//! Sums and percentiles of histograms, and what cannot be read.

use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Serializer, V2DeflateSerializer, V2Serializer};
use proptest::prelude::*;

use super::{HistogramError, LatencyTally, check_payload};

pub(crate) fn encoded(microseconds: impl IntoIterator<Item = u64>) -> Vec<u8> {
    counted(microseconds.into_iter().map(|value| (value, 1)))
}

/// So many requests of so many microseconds each.
fn counted(microseconds: impl IntoIterator<Item = (u64, u64)>) -> Vec<u8> {
    let mut histogram = Histogram::<u64>::new(3).unwrap();
    histogram.auto(true);
    for (value, count) in microseconds {
        histogram.record_n(value, count).unwrap();
    }
    let mut bytes = Vec::new();
    V2Serializer::new().serialize(&histogram, &mut bytes).unwrap();
    bytes
}

/// So many requests of so many milliseconds each.
pub(crate) fn tally(requests: &[(f64, u64)]) -> LatencyTally {
    let mut tally = LatencyTally::default();
    for &(ms, count) in requests {
        tally.add(&counted([((ms * 1e3) as u64, count)])).unwrap();
    }
    tally
}

#[test]
fn intervals_add_up_to_the_percentiles_of_all_requests() {
    let mut tally = LatencyTally::default();
    assert_eq!(tally.summary(), None);
    tally.add(&encoded([])).unwrap();
    assert_eq!(tally.summary(), None, "an interval without requests");
    tally.add(&encoded(1..=900)).unwrap();
    tally.add(&encoded((901..=1000).map(|us| us * 10))).unwrap();
    let summary = tally.summary().unwrap();
    assert_eq!(summary.count, 1000);
    assert_eq!(summary.p50_ms, 0.5);
    let near = |got: f64, want: f64| assert!((got / want - 1.0).abs() < 0.002, "{got} for {want}");
    near(summary.p95_ms, 9.5);
    near(summary.p99_ms, 9.9);
    near(summary.max_ms, 10.0);
    near(summary.mean_ms, (450.5 * 900.0 + 9505.0 * 100.0) / 1000.0 / 1000.0);
}

#[test]
fn what_took_no_longer_is_not_above_wherever_the_buckets_end() {
    // The buckets of 2.047 ms end there.
    for us in (1..40_000).step_by(7).chain([1023, 1024, 2047, 2048, 4095, 4096, 8191, 16_383, 32_767]) {
        let tally = tally(&[(us as f64 / 1e3, 400)]);
        for ms in [4.0, 0.5, us as f64 * 2e-3, us as f64 * 1.1e-3 + 0.002] {
            let is_late = us as f64 / 1e3 > ms;
            assert!(tally.above(ms) == 0 || is_late, "{us} us, above {ms} ms");
        }
        assert_eq!(tally.above(us as f64 * 0.9e-3 - 0.001), 400, "{us} us");
    }
}

#[test]
fn lies_are_refused_and_add_nothing() {
    let sound = encoded([10, 20, 30_000]);
    let mut tally = LatencyTally::default();
    tally.add(&sound).unwrap();
    let before = tally.summary();

    let with = |at: usize, bytes: &[u8]| {
        let mut lie = sound.clone();
        lie[at..at + bytes.len()].copy_from_slice(bytes);
        lie
    };
    let mut deflated = Vec::new();
    V2DeflateSerializer::new().serialize(&Histogram::<u64>::new(3).unwrap(), &mut deflated).unwrap();
    let mut least = encoded([]);
    least.extend([0xff; 9]);
    let length = (least.len() - 40) as u32;
    least[4..8].copy_from_slice(&length.to_be_bytes());

    assert!(matches!(tally.add(&[]), Err(HistogramError::NotV2)));
    assert!(matches!(tally.add(&sound[..39]), Err(HistogramError::NotV2)));
    assert!(matches!(tally.add(&deflated), Err(HistogramError::NotV2)));
    assert!(matches!(tally.add(&sound[..sound.len() - 1]), Err(HistogramError::Length { .. })));
    assert!(matches!(tally.add(&with(4, &[0xff; 4])), Err(HistogramError::Length { .. })));
    assert!(matches!(tally.add(&with(8, &[1])), Err(HistogramError::Decode(_))), "an offset");
    assert!(matches!(tally.add(&with(15, &[5])), Err(HistogramError::Layout { digits: 5, .. })));
    assert!(matches!(tally.add(&with(16, &[1])), Err(HistogramError::Layout { .. })));
    assert!(matches!(tally.add(&least), Err(HistogramError::Payload { .. })), "minus 2^63 zeros");
    assert_eq!(tally.summary(), before);
}

#[test]
fn absurd_counts_are_refused() {
    // Zigzag of 2^40 and 2^40 + 1, as LEB128.
    assert!(check_payload(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x40]).is_ok());
    assert!(matches!(check_payload(&[0x82, 0x80, 0x80, 0x80, 0x80, 0x40]), Err(HistogramError::TooMany)));
    assert!(matches!(check_payload(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x40, 2]), Err(HistogramError::TooMany)));
    assert!(matches!(check_payload(&[2, 0x80]), Err(HistogramError::Payload { at: 1 })), "cut short");
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(tail in prop::collection::vec(any::<u8>(), 0..200), high in any::<u64>()) {
        let mut bytes = encoded([]);
        bytes.truncate(40);
        bytes[4..8].copy_from_slice(&(tail.len() as u32).to_be_bytes());
        bytes[24..32].copy_from_slice(&high.to_be_bytes());
        bytes.extend(tail);
        let mut tally = LatencyTally::default();
        if tally.add(&bytes).is_ok() {
            tally.summary();
        }
    }

    #[test]
    fn merging_equals_counting_together(
        values in prop::collection::vec((0u64..5_000_000, any::<bool>()), 1..200)
    ) {
        let (mut together, mut merged) = (LatencyTally::default(), LatencyTally::default());
        together.add(&encoded(values.iter().map(|v| v.0))).unwrap();
        for side in [true, false] {
            merged.add(&encoded(values.iter().filter(|v| v.1 == side).map(|v| v.0))).unwrap();
        }
        let (together, merged) = (together.summary().unwrap(), merged.summary().unwrap());
        prop_assert_eq!(together.count, merged.count);
        prop_assert_eq!(together.p95_ms, merged.p95_ms);
        prop_assert_eq!(together.max_ms, merged.max_ms);
    }
}
