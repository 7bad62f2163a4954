//! `audit` and `history` against a coordinator that answers from a fixed log.

use coordinator::audit::{AuditEntry, Event};
use proto::v1;

use crate::binary::reconvene;
use crate::fake::{Fake, Replies};

fn log() -> Vec<AuditEntry> {
    let events = [
        Event::new("alice", "apply", "deployment/fashion").changed("", "generation 1\nkind: Deployment"),
        Event::new("coordinator", "assign", "device/cam-1").changed("", "model 0011 of fashion"),
        Event::new("bob", "ban", "device/cam-1").changed("", "banned"),
    ];
    let mut log: Vec<AuditEntry> = Vec::new();
    for event in events {
        log.push(AuditEntry::following(log.last(), &event, 1_700_000_000_000));
    }
    log
}

fn fake(log: &[AuditEntry]) -> Fake {
    let wire = |entry: &AuditEntry| v1::AuditEntry {
        sequence: entry.sequence,
        at_unix_ms: entry.at_unix_ms,
        actor: entry.actor.clone(),
        action: entry.action.clone(),
        subject: entry.subject.clone(),
        before: entry.before.clone(),
        after: entry.after.clone(),
        previous: entry.previous.to_string(),
        digest: entry.digest.to_string(),
    };
    Fake::start(Replies { audit: log.iter().map(wire).collect(), ..Replies::default() })
}

#[test]
fn a_things_history_is_told_in_order() {
    let fake = fake(&log());
    insta::assert_snapshot!(reconvene(&fake.url, &["history", "device/cam-1"]).data(), @r"
    TIME                  BY           ACTION  SUBJECT       BEFORE  AFTER
    2023-11-14T22:13:20Z  coordinator  assign  device/cam-1  -       model 0011 of fashion
    2023-11-14T22:13:20Z  bob          ban     device/cam-1  -       banned
    ");
    insta::assert_snapshot!(reconvene(&fake.url, &["audit", "tail", "-n", "1"]).data(), @r"
    TIME                  BY   ACTION  SUBJECT       BEFORE  AFTER
    2023-11-14T22:13:20Z  bob  ban     device/cam-1  -       banned
    ");
    let run = reconvene(&fake.url, &["history", "device/cam-9"]);
    assert_eq!((run.code, run.stderr.trim()), (0, "no entries about device/cam-9"));
    for arguments in [&["history", "foo/x"][..], &["audit", "tail", "--subject", "foo/x"]] {
        let run = reconvene(&fake.url, arguments);
        let kinds =
            "nothing of the kind 'foo'; allowed: device, deployment, job, token, operator, dataset, model, ";
        assert!(run.code == 2 && run.stderr.contains(kinds), "{run:?}");
    }
    let line = reconvene(&fake.url, &["history", "cam-1"]).stderr;
    assert!(line.contains("write KIND/NAME, as in device/cam-7"), "{line}");
}

#[test]
fn a_log_is_exported_and_verified() {
    let log = log();
    let fake = fake(&log);
    let head = format!("3:{}", log[2].digest);
    let whole = format!("3 entries, none changed or left out; head {head}\n");
    assert_eq!(reconvene(&fake.url, &["audit", "verify"]).data(), whole);
    assert_eq!(reconvene(&fake.url, &["audit", "verify", "--head", &head]).data(), whole);
    let exported = reconvene(&fake.url, &["audit", "export"]).data();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("audit.jsonl");
    let verify = |text: &str, more: &[&str]| {
        std::fs::write(&file, text).unwrap();
        let arguments = [&["audit", "verify", "--file", file.to_str().unwrap()], more].concat();
        reconvene("http://unused.invalid:1", &arguments)
    };
    assert_eq!(verify(&exported, &[]).data(), whole);
    let line = verify(&exported.replace("\"bob\"", "\"eve\""), &[]).complaint(1);
    assert_eq!(line, "the audit log is not whole: entry 3 was altered: its digest is another");
    let cut: Vec<_> = exported.lines().take(2).collect();
    let line = verify(&cut.join("\n"), &["--head", &head]).complaint(1);
    assert!(line.contains("entry 3 is not the one that was noted"), "{line}");
    let line = verify("{", &[]).complaint(65);
    assert!(line.contains("audit.jsonl, line 1: "), "{line}");
}
