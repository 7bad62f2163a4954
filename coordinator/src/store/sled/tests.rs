//! The store on a real database in a folder of its own: records, order, and races.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use proto::{ByteSize, DeviceId, Digest, Generation, LatencyInterval, SpoolPosition};
use tempfile::TempDir;

use super::SledStore;
use crate::audit::{Event, verify};
use crate::manifest::DeploymentManifest;
use crate::store::sample;
use crate::store::{
    Applied, AssignmentOrder, AuditQuery, DeploymentPhase, DeploymentRecord, DeviceRecord, HoldingRecord,
    Insertion, Outcome, OutcomeRecord, Store, StoreError, StoreHandle, TelemetryRecord,
};

fn id(name: &str) -> DeviceId {
    name.parse().unwrap()
}

fn device(name: &str) -> DeviceRecord {
    DeviceRecord {
        id: id(name),
        labels: BTreeMap::from([("site".to_owned(), "berlin".to_owned())]),
        agent_version: "0.1.0".to_owned(),
        profile: None,
        holding: HoldingRecord::default(),
        serving_address: String::new(),
        ended: None,
        unreadable: None,
        last_seen_unix_ms: 1,
        registered_unix_ms: 1,
    }
}

fn manifest(epochs: u32) -> DeploymentManifest {
    serde_json::from_value(serde_json::json!({
        "apiVersion": "reconvene/v1", "kind": "Deployment", "metadata": { "name": "mnist" },
        "spec": {
            "network": "resnet20", "dataset": { "format": "idx", "path": "/data" },
            "training": { "epochs": epochs },
            "budgets": [{ "params": "11%", "latencyP95": "0.7ms" }],
        },
    }))
    .unwrap()
}

fn order(model: &[u8]) -> AssignmentOrder {
    sample::order("mnist", model)
}

fn interval(device: &str, epoch: u64, sequence: u64, errors: u64) -> TelemetryRecord {
    TelemetryRecord {
        device: id(device),
        position: SpoolPosition { epoch, sequence },
        interval: LatencyInterval {
            digest: Digest::of(b"model"),
            generation: Generation(1),
            interval_ms: 1000,
            histogram: vec![1, 2, 3],
            errors,
            rss: Some(ByteSize(4096)),
            cpu_ms: Some(10),
            millicelsius: None,
        },
        received_unix_ms: 7,
    }
}

/// What a process killed now would leave: the files as they are, with nothing closed or flushed.
fn killed(folder: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    copy_folder(folder, copy.path());
    copy
}

fn copy_folder(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&target).unwrap();
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn every_acknowledged_write_survives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let store = SledStore::open(folder.path()).unwrap();
    for round in 1..=20u64 {
        store
            .register_device(&id("a"), &mut |_| DeviceRecord { last_seen_unix_ms: round, ..device("a") })
            .unwrap();
        store.insert_telemetry(&interval("a", 1, round, 0)).unwrap();
        let given = store.assign(&id("a"), &order(&round.to_be_bytes())).unwrap();
        let applied = store.apply_deployment(&manifest(round as u32), "text", None, round).unwrap();

        let copy = killed(folder.path());
        let found = SledStore::open(copy.path()).unwrap();
        assert_eq!(found.device(&id("a")).unwrap().unwrap().last_seen_unix_ms, round);
        assert_eq!(found.telemetry(&id("a")).unwrap().len() as u64, round);
        assert_eq!(found.assignment(&id("a")).unwrap(), Some(given));
        assert_eq!(found.deployment("mnist").unwrap().as_ref(), Some(applied.record()));
    }
}

/// Opens a store that this process has just dropped: sled's own threads may hold its file for a moment longer.
fn reopened(folder: &Path) -> Result<SledStore, StoreError> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match SledStore::open(folder) {
            Err(StoreError::Locked { .. }) if Instant::now() < deadline => thread::yield_now(),
            opened => return opened,
        }
    }
}

#[test]
fn one_process_has_the_store_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let store = SledStore::open(folder.path()).unwrap();
    let refused = SledStore::open(folder.path()).err().expect("two at once");
    assert!(matches!(refused, StoreError::Locked { .. }), "{refused:?}");
    assert!(refused.to_string().contains("in use by another process"), "{refused}");
    store.register_device(&id("a"), &mut |_| device("a")).unwrap();
    drop(store);
    let store = reopened(folder.path()).unwrap();
    assert_eq!(store.devices().unwrap(), [device("a")]);
}

#[test]
fn unknown_schemas_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = SledStore::open(folder.path()).unwrap();
    store.register_device(&id("a"), &mut |_| device("a")).unwrap();
    let mut bytes = store.devices.get("a").unwrap().unwrap().to_vec();
    bytes[0] = 9;
    store.devices.insert("a", bytes).unwrap();
    let refused = store.device(&id("a")).unwrap_err();
    assert_eq!(refused.to_string(), "device a has record schema 9, this version reads 1");
    store.devices.insert("a", b"\x01{}").unwrap();
    assert!(matches!(store.device(&id("a")), Err(StoreError::Corrupt { .. })));

    store.disk.db.insert("schema", b"2").unwrap();
    drop(store);
    let refused = reopened(folder.path()).err().expect("written by a later version");
    assert!(matches!(refused, StoreError::Schema { known: 1, .. }), "{refused:?}");
    assert!(refused.to_string().contains("has schema 2, this version reads schema 1"), "{refused}");
}

#[test]
fn telemetry_is_stored_exactly_once_and_listed_by_device() {
    let folder = tempfile::tempdir().unwrap();
    let store = SledStore::open(folder.path()).unwrap();
    let sent =
        [interval("a", 1, 2, 0), interval("a", 2, 1, 0), interval("a", 1, 256, 0), interval("a.b", 1, 1, 0)];
    for record in &sent {
        assert_eq!(store.insert_telemetry(record).unwrap(), Insertion::Stored);
    }
    for record in &sent {
        let again = TelemetryRecord { received_unix_ms: 99, ..record.clone() };
        assert_eq!(store.insert_telemetry(&again).unwrap(), Insertion::AlreadyStored);
    }
    let [first, next_epoch, later, other] = sent;
    assert_eq!(store.telemetry(&id("a")).unwrap(), [first, later, next_epoch]);
    assert_eq!(store.telemetry(&id("a.b")).unwrap(), [other]);
    assert_eq!(store.telemetry(&id("b")).unwrap(), []);
}

#[test]
fn telemetry_from_many_threads_is_stored_exactly_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = SledStore::open(folder.path()).unwrap();
    let start = Barrier::new(4);
    let stored: usize = thread::scope(|scope| {
        let sender = || {
            start.wait();
            (1..=50)
                .filter(|&n| store.insert_telemetry(&interval("a", 1, n, 0)).unwrap() == Insertion::Stored)
                .count()
        };
        let senders: Vec<_> = (0..4).map(|_| scope.spawn(sender)).collect();
        senders.into_iter().map(|sender| sender.join().unwrap()).sum()
    });
    assert_eq!(stored, 50);
    assert_eq!(store.telemetry(&id("a")).unwrap().len(), 50);
}

#[test]
fn assignments_from_many_threads_never_repeat_a_generation() {
    let folder = tempfile::tempdir().unwrap();
    let store = SledStore::open(folder.path()).unwrap();
    let start = Barrier::new(4);
    let generations: Vec<u64> = thread::scope(|scope| {
        let assigner = |thread: u8| {
            start.wait();
            let given: Vec<u64> =
                (0..40).map(|n| store.assign(&id("a"), &order(&[thread, n])).unwrap().generation.0).collect();
            assert!(given.is_sorted(), "{given:?}");
            given
        };
        let assigners: Vec<_> = (0..4).map(|thread| scope.spawn(move || assigner(thread))).collect();
        assigners.into_iter().flat_map(|assigner| assigner.join().unwrap()).collect()
    });
    let distinct: BTreeSet<_> = generations.iter().copied().collect();
    assert_eq!(distinct, (1..=160).collect());
}

#[test]
fn an_assignment_is_given_once_and_above_what_the_device_holds() {
    let folder = tempfile::tempdir().unwrap();
    let store = SledStore::open(folder.path()).unwrap();
    assert_eq!(store.assign(&id("a"), &order(b"one")).unwrap().generation, Generation(1));
    assert_eq!(store.assign(&id("a"), &order(b"one")).unwrap().generation, Generation(1), "again");
    assert_eq!(store.assign(&id("a"), &order(b"two")).unwrap().generation, Generation(2));
    let newer = AssignmentOrder { deployment_generation: Generation(2), ..order(b"two") };
    assert_eq!(store.assign(&id("a"), &newer).unwrap().generation, Generation(3));
    let newer = AssignmentOrder { attempt: 1, ..newer };
    assert_eq!(store.assign(&id("a"), &newer).unwrap().generation, Generation(4), "it is to try again");
    let holding = HoldingRecord { generation: Generation(40), digest: None };
    store.register_device(&id("a"), &mut |_| DeviceRecord { holding, ..device("a") }).unwrap();
    assert_eq!(store.assign(&id("a"), &newer).unwrap().generation, Generation(41));
    assert_eq!(store.assign(&id("a"), &newer).unwrap().generation, Generation(41));
}

#[test]
fn a_manifest_applied_again_changes_nothing_and_another_one_starts_anew() {
    let folder = tempfile::tempdir().unwrap();
    let store = SledStore::open(folder.path()).unwrap();
    assert!(matches!(store.apply_deployment(&manifest(1), "text", None, 1).unwrap(), Applied::Created(_)));
    let change = &mut |record: &mut crate::store::DeploymentRecord| {
        record.phase = DeploymentPhase::Complete;
        record.outcomes.insert(id("a"), OutcomeRecord::waiting("no profile"));
        record.generation = Generation(77);
    };
    let changed = store.update_deployment("mnist", Generation(1), change).unwrap();
    assert_eq!((changed.generation, &changed.phase), (Generation(1), &DeploymentPhase::Complete));
    for over in [None, Some(Generation(1)), Some(Generation(7))] {
        let again = store.apply_deployment(&manifest(1), "text", over, 2).unwrap();
        assert_eq!(again, Applied::Unchanged(changed.clone()));
    }
    let stale = store.apply_deployment(&manifest(2), "other", Some(Generation(7)), 3).unwrap_err();
    assert!(stale.to_string().starts_with("deployment 'mnist' is at generation 1, and what is"), "{stale}");
    let mut other = manifest(2);
    other.metadata.name = "gone".to_owned();
    let gone = store.apply_deployment(&other, "other", Some(Generation(7)), 3).unwrap_err();
    assert!(gone.to_string().starts_with("there is no deployment 'gone', and what is"), "{gone}");
    let current = Some(Generation(1));
    let Applied::Configured(record) = store.apply_deployment(&manifest(2), "other", current, 3).unwrap()
    else {
        panic!("a different manifest");
    };
    assert_eq!((record.generation, &record.phase), (Generation(2), &DeploymentPhase::Pending));
    assert!(record.outcomes.is_empty());
    let late = store.update_deployment("mnist", Generation(1), change).unwrap_err();
    assert_eq!(late.to_string(), "deployment 'mnist' is at generation 2, no longer at 1");
    assert_eq!(store.deployment("mnist").unwrap(), Some(record));
    let unknown = store.update_deployment("nothing", Generation(1), change).unwrap_err();
    assert!(matches!(unknown, StoreError::Missing { kind: "deployment", .. }));
}

#[test]
fn who_gets_nothing_back_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let store = SledStore::open(folder.path()).unwrap();
    for name in ["a", "came", "narrow"] {
        store.register_device(&id(name), &mut |_| device(name)).unwrap();
    }
    let told =
        || OutcomeRecord { digest: Some(Digest::of(b"model")), wave: Some(0), ..OutcomeRecord::waiting("") };
    let no_fit =
        Outcome::NoFit { ceiling: "size".to_owned(), allowed: 1.0, smallest: 2.0, text: "none".to_owned() };
    store.apply_deployment(&manifest(1), "text", None, 1).unwrap();
    let complete = &mut |record: &mut DeploymentRecord| {
        record.was_complete = true;
        let none = OutcomeRecord { state: no_fit.clone(), ..OutcomeRecord::waiting("") };
        record.outcomes = [(id("a"), told()), (id("narrow"), none)].into();
    };
    store.update_deployment("mnist", Generation(1), complete).unwrap();
    store.apply_deployment(&manifest(2), "other", None, 2).unwrap();
    let tell = &mut |record: &mut DeploymentRecord| {
        record.outcomes = ["a", "came", "gone", "narrow"].map(|name| (id(name), told())).into();
    };
    store.update_deployment("mnist", Generation(2), tell).unwrap();
    let undone = store.undo_deployment("mnist", Generation(2), "an operator undid it", 3).unwrap();
    // One that came since is fitted by the manifest that is in force again.
    let expected = "generation 2 is undone: an operator undid it; had nothing to go back to: gone, narrow";
    assert_eq!(undone.message, expected);
}

#[test]
fn a_late_update_revives_no_device() {
    let folder = tempfile::tempdir().unwrap();
    let store = SledStore::open(folder.path()).unwrap();
    let refused = store.update_device(&id("ghost"), &mut |record| record.last_seen_unix_ms = 5).unwrap_err();
    assert_eq!(refused.to_string(), "no device 'ghost'");
    assert_eq!(store.devices().unwrap(), []);
}

#[test]
fn updates_from_many_threads_are_all_kept() {
    let folder = tempfile::tempdir().unwrap();
    let store = SledStore::open(folder.path()).unwrap();
    store.register_device(&id("a"), &mut |_| DeviceRecord { last_seen_unix_ms: 0, ..device("a") }).unwrap();
    let start = Barrier::new(4);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                start.wait();
                for _ in 0..50 {
                    store.update_device(&id("a"), &mut |record| record.last_seen_unix_ms += 1).unwrap();
                }
            });
        }
    });
    assert_eq!(store.device(&id("a")).unwrap().unwrap().last_seen_unix_ms, 200);
}

#[tokio::test]
async fn the_handle_reaches_the_store_from_async_code() {
    let folder = tempfile::tempdir().unwrap();
    let handle = StoreHandle::new(SledStore::open(folder.path()).unwrap());
    handle.call(|db| db.register_device(&id("a"), &mut |_| device("a"))).await.unwrap();
    assert_eq!(handle.clone().call(|db| db.device(&id("a"))).await.unwrap(), Some(device("a")));
}

#[test]
fn the_audit_log_has_no_gaps_whoever_writes() {
    let folder = tempfile::tempdir().unwrap();
    let store = SledStore::open(folder.path()).unwrap();
    let event = |who: &str, number: u64| Event::new(who, "ban", format!("device/gw-{number}"));
    std::thread::scope(|scope| {
        for who in ["alice", "bob", "carol"] {
            let store = &store;
            scope.spawn(move || {
                for number in 0..20 {
                    store.append_audit(&[event(who, number % 2)], number).unwrap();
                }
            });
        }
    });
    let all = AuditQuery { most: 100, ..AuditQuery::default() };
    let log = store.audit(&all).unwrap();
    let head = verify(&log, None).unwrap().unwrap();
    assert_eq!((log.len(), head.sequence), (60, 60));
    let numbers = |query: AuditQuery| -> Vec<u64> {
        store.audit(&query).unwrap().iter().map(|entry| entry.sequence).collect()
    };
    assert_eq!(numbers(AuditQuery { after: 57, ..all.clone() }), [58, 59, 60]);
    assert_eq!(numbers(AuditQuery { last: Some(2), ..all.clone() }), [59, 60]);
    assert_eq!(numbers(AuditQuery { most: 3, ..AuditQuery::default() }), [1, 2, 3]);
    let about = AuditQuery { subject: "device/gw-1".to_owned(), ..all.clone() };
    assert_eq!(numbers(about).len(), 30);
    drop(store);
    let again = SledStore::open(folder.path()).unwrap();
    assert_eq!(again.audit(&all).unwrap(), log);
}

#[test]
fn every_write_goes_through_the_gate() {
    // What is written beside it could be half in a backup.
    let engine = include_str!("../sled.rs");
    for word in ["compare_and_swap", ".insert(&", ".remove(", ".apply_batch(", ".transaction("] {
        assert!(!engine.contains(word), "{word}");
    }
}

#[test]
fn a_deployment_that_is_made_anew_goes_on_counting() {
    let folder = tempfile::tempdir().unwrap();
    let store = SledStore::open(folder.path()).unwrap();
    store.apply_deployment(&manifest(1), "one", None, 1).unwrap();
    store.apply_deployment(&manifest(2), "two", None, 2).unwrap();
    assert_eq!(store.remove_deployment("mnist", &mut |_| false, 3).unwrap(), None);
    let removed = store.remove_deployment("mnist", &mut |it| it.text == "two", 3).unwrap().unwrap();
    assert_eq!(removed.generation, Generation(2));
    let copy = killed(folder.path());
    let store = SledStore::open(copy.path()).unwrap();
    assert_eq!(store.deployments().unwrap(), []);
    let again = store.remove_deployment("mnist", &mut |_| true, 4);
    assert!(matches!(again, Err(StoreError::Missing { kind: "deployment", .. })), "{again:?}");
    let late = store.update_deployment("mnist", Generation(2), &mut |_| {});
    assert!(
        matches!(late, Err(StoreError::Missing { kind: "deployment", .. })),
        "a late update revives nothing"
    );
    let applied = store.apply_deployment(&manifest(1), "one", None, 5).unwrap();
    assert_eq!(applied.record().generation, Generation(3));
    assert!(matches!(applied, Applied::Created(_)));
}
