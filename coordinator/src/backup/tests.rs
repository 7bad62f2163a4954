//! Backups of a real store, restored: what is back, which generations follow, what is refused, and how long writes wait.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use proto::{DeviceId, Digest, Generation, LatencyInterval, SpoolPosition};

use super::restore::{Occupied, RestoreError, check, restore};
use super::*;
use crate::audit::{Event, verify};
use crate::store::{
    AssignmentOrder, AuditQuery, DeviceRecord, HoldingRecord, SledStore, TelemetryRecord, sample,
};

const TAKEN: u64 = 1_795_845_600_000;
const RESTORED: u64 = TAKEN + 60_000;

/// A state folder with a store, two files and keys.
struct State {
    folder: tempfile::TempDir,
    store: SledStore,
    blobs: BlobStore,
}

fn id(name: &str) -> DeviceId {
    name.parse().unwrap()
}

fn order(model: &[u8]) -> AssignmentOrder {
    sample::order("mnist", model)
}

impl State {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("state");
        fs::create_dir_all(dir.join("authority")).unwrap();
        let store = SledStore::open(&dir.join("store")).unwrap();
        let blobs = BlobStore::open(dir.join("artifacts")).unwrap();
        crate::signing::open(&dir).unwrap();
        fs::write(dir.join("authority/ca.pem"), "certificate").unwrap();
        fs::write(dir.join("authority/ca-key.pem"), "secret").unwrap();
        blobs.put("model").unwrap();
        blobs.put("named by nobody").unwrap();
        let device = |_| DeviceRecord {
            id: id("gw-1"),
            labels: Default::default(),
            agent_version: "0.1.0".to_owned(),
            profile: None,
            holding: HoldingRecord::default(),
            serving_address: String::new(),
            ended: None,
            unreadable: None,
            last_seen_unix_ms: 1,
            registered_unix_ms: 1,
        };
        store.register_device(&id("gw-1"), &mut { device }).unwrap();
        store.assign(&id("gw-1"), &order(b"model")).unwrap();
        store.append_audit(&[Event::new("alice", "apply", "deployment/mnist")], TAKEN).unwrap();
        Self { folder, store, blobs }
    }

    fn dir(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn backup(&self, keys: Keys) -> (PathBuf, Prepared) {
        let dir = self.dir();
        let origin =
            Origin { store: &self.store, blobs: &self.blobs, state_dir: &dir, scratch: self.folder.path() };
        let authority = || crate::identity::authorities::Authorities::files_in(&dir.join("authority"));
        let prepared = Prepared::of(&origin, keys, authority, TAKEN).unwrap();
        let file = self.folder.path().join("backup");
        save(&file, |file| prepared.write(file)).unwrap();
        (file, prepared)
    }
}

#[test]
fn a_restored_store_has_all_and_gives_no_generation_twice() {
    let state = State::new();
    let (file, prepared) = state.backup(Keys::Included);
    let names: Vec<_> = prepared.manifest.files.iter().map(|file| file.name.to_string()).collect();
    for name in ["records/device", "records/audit", "state/signing-key.p8", "authority/ca-key.pem"] {
        assert!(names.iter().any(|found| found == name), "{name}: {names:?}");
    }
    assert!(names.contains(&format!("artifacts/{}", Digest::of(b"model"))));
    assert!(!names.contains(&format!("artifacts/{}", Digest::of(b"named by nobody"))));
    // What devices see after the backup.
    let lost: Vec<_> = [&b"second"[..], b"third"]
        .map(|bytes| state.store.assign(&id("gw-1"), &order(bytes)).unwrap().generation)
        .into();

    let mut floors = Vec::new();
    for (turn, name) in ["one", "two"].into_iter().enumerate() {
        let dir = state.folder.path().join(name);
        // The second is restored from the same backup: it does not know of the first.
        let now = RESTORED + turn as u64 * 1000;
        let restored = restore(&file, &dir, Occupied::Refuse, ("uid-0", now)).unwrap();
        assert_eq!((restored.told_again, restored.flaw.clone()), (1, None));
        floors.push(restored.floor);
        for path in ["signing-key.p8", "signing-key.pub", "authority/ca.pem", "authority/ca-key.pem"] {
            assert_eq!(
                fs::read(dir.join(path)).unwrap(),
                fs::read(state.dir().join(path)).unwrap(),
                "{path}"
            );
        }
        let blobs = BlobStore::open(dir.join("artifacts")).unwrap();
        blobs.verify(&order(b"model").model.artifact).unwrap();
        let store = SledStore::open(&dir.join("store")).unwrap();
        assert_eq!(store.devices().unwrap(), state.store.devices().unwrap());
        let again = store.assignment(&id("gw-1")).unwrap().unwrap();
        assert_eq!(again.order, order(b"model"));
        assert!(again.generation > restored.floor && again.generation > *lost.last().unwrap());
        assert_eq!(store.assign(&id("gw-1"), &order(b"model")).unwrap(), again, "told once");
        let next = store.assign(&id("gw-1"), &order(b"fourth")).unwrap().generation;
        assert_eq!(next, again.generation.next());
        let log = store.audit(&AuditQuery { most: 100, ..AuditQuery::default() }).unwrap();
        assert_eq!(log.len(), 2);
        verify(&log, None).unwrap();
        assert_eq!((log[1].action.as_str(), log[1].actor.as_str()), ("restore", "uid-0"));
        assert!(log[1].before.contains("taken 2026-11-"), "{}", log[1].before);
    }
    assert!(floors[1].0 >= floors[0].0 + 1000, "{floors:?}");
}

#[test]
fn without_keys_the_coordinator_does_not_make_others() {
    let state = State::new();
    let (file, prepared) = state.backup(Keys::LeftOut);
    let names: Vec<_> = prepared.manifest.files.iter().map(|file| file.name.to_string()).collect();
    assert!(!names.iter().any(|name| name.contains("key.pem") || name.ends_with(".p8")), "{names:?}");
    let dir = state.folder.path().join("new");
    restore(&file, &dir, Occupied::Refuse, ("uid-0", RESTORED)).unwrap();
    assert!(crate::signing::open(&dir).is_err());
    assert!(crate::identity::authorities::Authorities::open(&dir.join("authority")).is_err());
}

#[test]
fn what_cannot_be_restored_changes_nothing() {
    let state = State::new();
    let (file, _) = state.backup(Keys::Included);
    let entries = || {
        let names = fs::read_dir(state.folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    };
    let before = entries();
    let into = |dir: &Path, occupied| restore(&file, dir, occupied, ("uid-0", RESTORED)).unwrap_err();
    let refused = into(&state.dir(), Occupied::Refuse);
    assert!(matches!(refused, RestoreError::Occupied { .. }), "{refused}");
    let refused = into(&state.dir(), Occupied::MoveAside);
    assert!(refused.to_string().contains("in use by another process"), "{refused}");
    let new = state.folder.path().join("new");
    let early = restore(&file, &new, Occupied::Refuse, ("uid-0", TAKEN - 1)).unwrap_err();
    assert!(matches!(early, RestoreError::Clock), "{early}");
    let mut bytes = fs::read(&file).unwrap();
    let last = bytes.len() - 1500;
    bytes[last] ^= 1;
    fs::write(&file, &bytes).unwrap();
    let damaged = into(&new, Occupied::Refuse);
    assert!(matches!(damaged, RestoreError::Format { .. }), "{damaged}");
    assert!(check(&file).is_err());
    assert_eq!(entries(), before);
}

#[test]
fn what_is_there_is_moved_aside_and_never_removed() {
    let State { folder, store, blobs } = State::new();
    let state = State { folder, store, blobs };
    let (file, _) = state.backup(Keys::Included);
    let State { folder, store, .. } = state;
    drop(store);
    let dir = folder.path().join("state");
    fs::write(dir.join("mine"), "x").unwrap();
    // What a restore that was killed left is no obstacle.
    fs::create_dir_all(folder.path().join(".state.restoring/store")).unwrap();
    fs::write(folder.path().join(".state.restoring/x"), "half").unwrap();
    let restored = restore(&file, &dir, Occupied::MoveAside, ("uid-0", RESTORED)).unwrap();
    let aside = restored.aside.unwrap();
    assert_eq!(fs::read_to_string(aside.join("mine")).unwrap(), "x");
    assert!(!dir.join("mine").exists() && !folder.path().join(".state.restoring").exists());
    assert!(!SledStore::open(&dir.join("store")).unwrap().devices().unwrap().is_empty());
    assert!(!SledStore::open(&aside.join("store")).unwrap().devices().unwrap().is_empty());
}

const INTERVALS: u64 = 20_000;

#[test]
#[expect(clippy::print_stdout, reason = "the figure is for docs/control-plane.md")]
fn a_copy_is_of_one_moment_while_writers_go_on() {
    let state = State::new();
    let device = id("gw-1");
    let interval = |sequence| TelemetryRecord {
        device: device.clone(),
        position: SpoolPosition { epoch: 1, sequence },
        interval: LatencyInterval {
            digest: Digest::of(b"model"),
            generation: Generation(1),
            interval_ms: 1000,
            histogram: vec![7; 200],
            errors: 0,
            rss: None,
            cpu_ms: None,
            millicelsius: None,
        },
        received_unix_ms: 1,
    };
    for sequence in 0..INTERVALS {
        let record = interval(sequence);
        let bytes = [&[1], serde_json::to_vec(&record).unwrap().as_slice()].concat();
        let mut key = b"gw-1\0".to_vec();
        key.extend([1_u64.to_be_bytes(), sequence.to_be_bytes()].concat());
        state.store.load("telemetry", &key, &bytes).unwrap();
    }
    let (stop, mut longest) = (AtomicBool::new(false), Duration::ZERO);
    let prepared = std::thread::scope(|scope| {
        // Two records that are written one after the other: no copy has the second without the first.
        let writer = scope.spawn(|| {
            let mut longest = Duration::ZERO;
            for turn in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let began = Instant::now();
                state.store.insert_telemetry(&interval(INTERVALS + turn)).unwrap();
                state.store.append_audit(&[Event::new("x", "y", format!("n/{turn}"))], 1).unwrap();
                longest = longest.max(began.elapsed());
            }
            longest
        });
        let prepared: Vec<_> = (0..3).map(|_| state.backup(Keys::Included).1).collect();
        stop.store(true, Ordering::Relaxed);
        longest = writer.join().unwrap();
        prepared
    });
    for prepared in &prepared {
        let of = |kind: &str| {
            let named = |file: &&Member| file.name.to_string() == format!("records/{kind}");
            prepared.manifest.files.iter().find(named).unwrap().records
        };
        let (intervals, entries) = (of("telemetry") - INTERVALS, of("audit") - 1);
        assert!(intervals == entries || intervals == entries + 1, "{intervals} and {entries}");
    }
    let held: Vec<_> = prepared.iter().map(|prepared| prepared.held).collect();
    println!("{INTERVALS} intervals: writes waited {held:?}; the longest pair of writes took {longest:?}");
}
