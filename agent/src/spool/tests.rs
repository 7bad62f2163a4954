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
    /// What a start would find now; the file stays as it is.
    fn open_as_it_is(&self) -> Spool {
        let copy = Self::new();
        std::fs::copy(self.path(), copy.path()).unwrap();
        copy.open()
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

#[test]
fn figures_beyond_all_numbers_are_merged_into_the_highest() {
    let most = || LatencyInterval {
        interval_ms: u64::MAX,
        errors: u64::MAX,
        cpu_ms: Some(u64::MAX),
        ..interval("m", 100)
    };
    let mut waiting = vec![most(), most()];
    assert!(merge::oldest_pair(&mut waiting, 0));
    let merged = &waiting[0];
    assert_eq!((merged.interval_ms, merged.errors, merged.cpu_ms), (u64::MAX, u64::MAX, Some(u64::MAX)));
}

/// The disk refuses every append, and every new file until [`heal`].
fn break_disk(spool: &mut Spool, disk: &Disk) {
    let full = OpenOptions::new().append(true).open("/dev/full").unwrap();
    spool.medium = Medium::File(full);
    std::fs::create_dir(disk.path().with_extension("new")).unwrap();
}

fn heal(disk: &Disk) {
    std::fs::remove_dir(disk.path().with_extension("new")).unwrap();
}

#[test]
fn what_the_disk_refuses_is_kept_and_not_sent_before_the_disk_has_it() {
    let disk = Disk::new();
    let mut spool = disk.open();
    spool.append(interval("m", 1)).unwrap();
    spool.mark_sent(1).unwrap();
    break_disk(&mut spool, &disk);
    for micros in [2, 3] {
        spool.append(interval("m", micros)).unwrap_err();
    }
    assert_eq!(sequences(&spool), [1, 2, 3]);
    spool.mark_sent(2).unwrap_err();
    assert_eq!(spool.sent, 1, "its number may be another's after a crash");
    spool.acknowledge(SpoolPosition { epoch: spool.epoch, sequence: 1 }).unwrap_err();
    spool.settle().unwrap_err();
    assert_eq!(counted(&disk.open_as_it_is()), 5, "a crash now loses what the disk refused, and no more");
    heal(&disk);
    spool.settle().unwrap();
    spool.mark_sent(2).unwrap();
    let epoch = spool.epoch;
    drop(spool);
    let spool = disk.open();
    assert_eq!((spool.epoch, spool.sent, sequences(&spool)), (epoch, 2, vec![2, 3]));
    assert_eq!(spool.after(1).unwrap().1, &interval("m", 2));
}

#[test]
fn an_append_that_failed_and_is_in_the_file_all_the_same_counts_once() {
    let disk = Disk::new();
    let mut spool = disk.open();
    spool.append(interval("m", 1)).unwrap();
    // As a flush that failed after the bytes had come through.
    spool.medium = Medium::Doubtful;
    assert_eq!(sequences(&disk.open_as_it_is()), [1]);
    spool.append(interval("m", 2)).unwrap();
    drop(spool);
    let spool = disk.open();
    assert_eq!((sequences(&spool), counted(&spool)), (vec![1, 2], 10));
}

#[test]
fn what_the_disk_refuses_is_bounded_and_loses_no_count() {
    let disk = Disk::new();
    let mut spool = Spool::open(&disk.path(), ByteSize(4096)).unwrap();
    spool.append(interval("m", 7)).unwrap();
    spool.mark_sent(1).unwrap();
    break_disk(&mut spool, &disk);
    for n in 0..200 {
        spool.append(interval("m", 10 + n)).unwrap_err();
    }
    assert!(record::encoded_len_of(&spool.waiting) <= 4096);
    heal(&disk);
    spool.settle().unwrap();
    drop(spool);
    let spool = disk.open();
    assert_eq!(counted(&spool), 201 * 5);
    assert_eq!(spool.after(0).unwrap().1, &interval("m", 7), "the sent one is untouched");
}

#[test]
fn a_spool_in_memory_moves_to_the_disk_once_that_takes_it() {
    let disk = Disk::new();
    let mut before = disk.open();
    before.append(interval("before", 1)).unwrap();
    let on_disk = before.epoch;
    drop(before);

    std::fs::create_dir(disk.path().with_extension("new")).unwrap();
    Spool::open(&disk.path(), LIMIT).unwrap_err();
    let mut spool = Spool::in_memory(&disk.path(), LIMIT);
    let in_memory = spool.epoch;
    for micros in [1, 2, 3] {
        spool.append(interval("m", micros)).unwrap();
    }
    spool.mark_sent(2).unwrap();
    spool.settle().unwrap();
    assert_eq!((spool.epoch, spool.len()), (in_memory, 3), "the disk takes nothing yet");

    heal(&disk);
    spool.settle().unwrap();
    spool.append(interval("m", 4)).unwrap();
    assert_eq!(
        (spool.epoch, sequences(&spool)),
        (in_memory, vec![1, 2]),
        "what may have been sent keeps its number"
    );
    assert_eq!(spool.len(), 5);
    spool.acknowledge(SpoolPosition { epoch: in_memory, sequence: 2 }).unwrap();
    for spool in [spool, disk.open()] {
        assert_eq!((spool.epoch, sequences(&spool)), (on_disk, vec![1, 2, 3]));
        assert_eq!(spool.after(0).unwrap().1, &interval("before", 1));
        assert_eq!(spool.after(2).unwrap().1, &interval("m", 4));
    }
}
