//! A running tally is the whole reading, whatever comes in whatever order, again, late, or after a restart.

use proptest::prelude::*;
use proto::LatencyInterval;

use super::*;
use crate::fresh::Fresh;
use crate::histogram::tests::encoded;

/// An interval of `ms` milliseconds; it is stored once, and told of as often as it is in the list.
type Sent = (SpoolPosition, u64, u64);

/// Where, with what, what it took: few of each, so that they meet again.
fn sent() -> impl Strategy<Value = Sent> {
    (0..3u64, 1..60u64, 1..4u64, 1..500u64)
        .prop_map(|(epoch, sequence, generation, ms)| (SpoolPosition { epoch, sequence }, generation, ms))
}

fn device() -> DeviceId {
    "a".parse().unwrap()
}

fn digest(generation: u64) -> Digest {
    Digest::of(&generation.to_be_bytes())
}

fn record((position, generation, ms): Sent) -> TelemetryRecord {
    let interval = LatencyInterval {
        digest: digest(generation),
        generation: Generation(generation),
        interval_ms: 200,
        // Some cannot be read.
        histogram: if ms % 7 == 0 { vec![1, 2, 3] } else { encoded([ms * 1000, ms * 1300, 17]) },
        errors: ms % 3,
        rss: None,
        cpu_ms: None,
        millicelsius: None,
    };
    TelemetryRecord { device: device(), position, interval, received_unix_ms: 0 }
}

/// What a round does with what has come, on a store that is a map.
fn count(store: &BTreeMap<SpoolPosition, TelemetryRecord>, news: &News, tallies: &mut Tallies) {
    for (device, new) in news {
        let Some(unseen) = tallies.unseen(device, new) else { continue };
        let records: Vec<_> = unseen.iter().filter_map(|place| store.get(place).cloned()).collect();
        tallies.add(device, &records);
    }
}

fn whole(store: &BTreeMap<SpoolPosition, TelemetryRecord>, served: Served) -> (LatencyTally, u64) {
    let (mut tally, mut errors) = (LatencyTally::default(), 0);
    for TelemetryRecord { interval, .. } in store.values() {
        if (interval.digest, interval.generation) == served {
            let _ = tally.add(&interval.histogram);
            errors += interval.errors;
        }
    }
    (tally, errors)
}

proptest! {
    // Histograms are slow where nothing is optimised.
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn it_is_the_whole_reading(
        rounds in prop::collection::vec((prop::collection::vec(sent(), 0..12), 0..10u8, 1..4u64), 1..25)
    ) {
        let (fresh, mut store, mut tallies) = (Fresh::default(), BTreeMap::new(), Tallies::default());
        for (sent, what, generation) in rounds {
            let half = sent.len() / 2;
            let mut news = News::new();
            for (at, sent) in sent.into_iter().enumerate() {
                // The rest comes while the round is under way: it may be read before it is told of.
                if at == half {
                    news = fresh.take();
                }
                store.entry(sent.0).or_insert_with(|| record(sent));
                fresh.mark(&device(), sent.0);
            }
            match what {
                0 => tallies = Tallies::default(), // the coordinator was killed
                1 => fresh.put_back(news.clone()), // the round failed after it had counted
                2 => tallies.keep(&Holders::new()),
                _ => {}
            }
            count(&store, &news, &mut tallies);
            if what > 6 {
                continue; // nobody looks
            }
            // As a round that looks has it: everything that was told of is counted.
            count(&store, &fresh.take(), &mut tallies);
            let served = (digest(generation), Generation(generation));
            let records: Vec<_> = store.values().cloned().collect();
            let counted = match tallies.get(&device(), served) {
                Some(counted) => counted,
                None => tallies.begin(&device(), served, &records),
            };
            let (tally, errors) = whole(&store, served);
            prop_assert_eq!(counted.errors, errors);
            prop_assert_eq!(counted.tally.summary(), tally.summary());
            for ms in [0.01, 0.5, 1.0, 100.0, 250.0, 650.0, 1e6] {
                prop_assert_eq!(counted.tally.above(ms), tally.above(ms));
            }
        }
    }
}

#[test]
fn it_takes_little_room() {
    let mut tallies = Tallies::default();
    let records = (1..2000).map(|sequence| record((SpoolPosition { epoch: 1, sequence }, 1, sequence % 40)));
    tallies.begin(&device(), (digest(1), Generation(1)), &records.collect::<Vec<_>>());
    let running = &tallies.0[&device()];
    assert!(running.packed.len() < 2048, "{}", running.packed.len());
    assert_eq!(running.seen.stretches(), 1);
}

#[test]
fn a_device_whose_places_make_no_sense_is_read_anew() {
    let mut tallies = Tallies::default();
    let records = (1..200).map(|sequence| record((SpoolPosition { epoch: 1, sequence: 2 * sequence }, 1, 5)));
    let records: Vec<_> = records.collect();
    let served = (digest(1), Generation(1));
    assert_eq!(tallies.begin(&device(), served, &records).tally.count(), 3 * 199);
    assert!(tallies.get(&device(), served).is_none());
}

#[test]
fn failures_beyond_all_numbers_stay_at_the_highest() {
    let lying = |sequence| {
        let mut record = record((SpoolPosition { epoch: 1, sequence }, 1, 5));
        record.interval.errors = u64::MAX - 1;
        record
    };
    let (mut tallies, served) = (Tallies::default(), (digest(1), Generation(1)));
    assert_eq!(tallies.begin(&device(), served, &[lying(1), lying(2)]).errors, u64::MAX);
    tallies.add(&device(), &[lying(3)]);
    assert_eq!(tallies.get(&device(), served).unwrap().errors, u64::MAX);
}
