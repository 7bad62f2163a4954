//! Intervals across restarts: their numbers, their order, and what is merged when there is no room.

use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use proto::{Digest, Generation};

use super::*;

fn interval(model: &str, micros: u64) -> LatencyInterval {
    let mut histogram = Histogram::<u64>::new(3).unwrap();
    histogram.record_n(micros, 5).unwrap();
    LatencyInterval {
        digest: Digest::of(model.as_bytes()),
        generation: Generation(1),
        interval_ms: 1000,
        histogram: merge::encode(&histogram),
        errors: 1,
        rss: Some(ByteSize(7)),
        cpu_ms: Some(10),
        millicelsius: Some(40_000),
    }
}

fn sequences(spool: &Spool) -> Vec<u64> {
    let mut at = spool.acked();
    std::iter::from_fn(|| {
        let (position, _) = spool.after(at)?;
        at = position.sequence;
        Some(at)
    })
    .collect()
}

fn counted(spool: &Spool) -> u64 {
    let count = |i: &LatencyInterval| {
        let histogram: Histogram<u64> = Deserializer::new().deserialize(&mut &*i.histogram).unwrap();
        histogram.len()
    };
    spool.waiting.iter().map(count).sum()
}

struct Disk(tempfile::TempDir);

impl Disk {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
    fn path(&self) -> PathBuf {
        self.0.path().join("spool")
    }
    fn open(&self) -> Spool {
        Spool::open(&self.path(), LIMIT).unwrap()
    }
}

#[test]
fn intervals_survive_a_restart_with_their_numbers() {
    let disk = Disk::new();
    let mut spool = disk.open();
    for micros in [10, 20, 30] {
        spool.append(interval("m", micros)).unwrap();
    }
    spool.mark_sent(2).unwrap();
    let epoch = spool.epoch;
    drop(spool);
    let mut spool = disk.open();
    assert_eq!((spool.epoch, spool.sent, sequences(&spool)), (epoch, 2, vec![1, 2, 3]));
    assert_eq!(spool.after(1).unwrap().1, &interval("m", 20));
    spool.acknowledge(SpoolPosition { epoch, sequence: 2 }).unwrap();
    assert_eq!(sequences(&spool), [3]);
    drop(spool);
    let mut spool = disk.open();
    assert_eq!(sequences(&spool), [3]);
    spool.append(interval("m", 40)).unwrap();
    assert_eq!(sequences(&spool), [3, 4]);
}

#[test]
fn numbers_go_on_after_everything_was_acknowledged() {
    let disk = Disk::new();
    let mut spool = disk.open();
    let epoch = spool.epoch;
    spool.append(interval("m", 1)).unwrap();
    spool.mark_sent(1).unwrap();
    spool.acknowledge(SpoolPosition { epoch, sequence: 1 }).unwrap();
    drop(spool);
    let mut spool = disk.open();
    assert!(spool.is_empty());
    spool.append(interval("m", 1)).unwrap();
    assert_eq!(spool.after(0).unwrap().0, SpoolPosition { epoch, sequence: 2 });
}

#[test]
fn senseless_acknowledgements_change_nothing() {
    let disk = Disk::new();
    let mut spool = disk.open();
    let epoch = spool.epoch;
    spool.append(interval("m", 1)).unwrap();
    spool.append(interval("m", 2)).unwrap();
    spool.mark_sent(1).unwrap();
    for position in [(epoch + 1, 1), (epoch, 0), (epoch, 2), (epoch, 99)] {
        spool.acknowledge(SpoolPosition { epoch: position.0, sequence: position.1 }).unwrap();
        assert_eq!(sequences(&spool), [1, 2], "{position:?}");
    }
}

#[test]
fn a_record_torn_at_any_byte_hides_no_earlier_one_and_none_that_follows() {
    let disk = Disk::new();
    let mut spool = disk.open();
    spool.append(interval("m", 1)).unwrap();
    let whole = std::fs::read(disk.path()).unwrap();
    spool.append(interval("m", 2)).unwrap();
    let bytes = std::fs::read(disk.path()).unwrap();
    drop(spool);
    for length in whole.len()..bytes.len() {
        std::fs::write(disk.path(), &bytes[..length]).unwrap();
        let mut spool = disk.open();
        assert_eq!(sequences(&spool), [1], "cut at {length}");
        spool.append(interval("m", 3)).unwrap();
        drop(spool);
        assert_eq!(disk.open().after(1).unwrap().1, &interval("m", 3));
    }
    let mut altered = bytes;
    *altered.last_mut().unwrap() ^= 1;
    std::fs::write(disk.path(), &altered).unwrap();
    assert_eq!(sequences(&disk.open()), [1]);
}

#[test]
fn a_damaged_start_begins_a_new_epoch() {
    let disk = Disk::new();
    let mut spool = disk.open();
    let epoch = spool.epoch;
    spool.append(interval("m", 1)).unwrap();
    drop(spool);
    std::fs::write(disk.path(), b"not a spool").unwrap();
    let spool = disk.open();
    assert!(spool.is_empty() && spool.epoch != epoch);
}

#[test]
fn a_full_spool_merges_unsent_intervals_and_loses_no_count() {
    let disk = Disk::new();
    let mut spool = Spool::open(&disk.path(), ByteSize(4096)).unwrap();
    spool.append(interval("m", 7)).unwrap();
    spool.mark_sent(1).unwrap();
    for n in 0..200 {
        spool.append(interval(if n % 3 == 0 { "a" } else { "b" }, 10 + n)).unwrap();
        assert!(std::fs::metadata(disk.path()).unwrap().len() <= 4096);
    }
    assert_eq!(counted(&spool), 201 * 5);
    assert_eq!(spool.waiting.iter().map(|i| i.errors).sum::<u64>(), 201);
    assert_eq!(spool.after(0).unwrap().1, &interval("m", 7), "the sent one is untouched");
    let numbers = sequences(&spool);
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    assert_eq!(counted(&Spool::open(&disk.path(), ByteSize(4096)).unwrap()), 201 * 5);
}
