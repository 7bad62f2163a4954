//! A coordinator that is lost and comes back from a backup: what its devices do about it, and what a kill leaves behind.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use fleet_tests::poll::{Answer, wait_until};
use fleet_tests::tracer::may_trace;

use crate::encrypted::{Fleet, LIMIT, complaint};
use crate::scene::PATTERNS;

/// A deployment of every device, by a seed that makes another network.
fn apply(fleet: &Fleet, seed: u32) {
    let text = format!(
        "apiVersion: reconvene/v1\nkind: Deployment\nmetadata: {{name: p}}\nspec:\n  network: resnet20\n  dataset: \
         {{format: idx, path: {}}}\n  pruning: {{rounds: 3, seed: {seed}}}\n  training: {{epochs: 1, batch: 32}}\n  \
         budgets: [{{params: 1/4}}]\n",
        fleet.path("dataset").display()
    );
    fs::write(fleet.path("p.yaml"), text).unwrap();
    fleet.admin(&["apply", "-f", &fleet.path("p.yaml").display().to_string(), "--wait"]);
}

/// What the device holds: the model's digest, and the assignment's generation.
fn held(fleet: &Fleet) -> (String, u64) {
    let device: serde_json::Value =
        serde_json::from_str(&fleet.admin(&["get", "device", "gw-1", "-o", "json"])).unwrap();
    let number = &device["generation"];
    let generation = number.as_u64().or_else(|| number.as_str()?.parse().ok()).unwrap_or_default();
    (device["activeDigest"].as_str().unwrap_or_default().to_owned(), generation)
}

fn restore(fleet: &Fleet, file: &Path, state: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(&fleet.binaries.coordinator);
    command.arg("restore").arg(file).arg("--state-dir").arg(state).args(more).output().unwrap()
}

#[tokio::test]
async fn a_fleet_follows_a_coordinator_that_was_restored_from_an_older_state() {
    let mut fleet = Fleet::start("1h").await;
    PATTERNS.write(&fleet.path("dataset")).unwrap();
    let join = fleet.join_file("join");
    let _agent = fleet.agent("gw-1", "gw-1", Some(&join));
    fleet.status("gw-1", "Online").await;
    apply(&fleet, 1);
    let (kept, before) = held(&fleet);
    let file = fleet.path("state.backup");
    fleet.admin(&["backup", "--out", &file.display().to_string()]);
    let mode = fs::metadata(&file).unwrap().permissions();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o600, "it holds the fleet's keys");
    apply(&fleet, 2);
    let (newer, after) = held(&fleet);
    assert!(newer != kept && after > before, "{newer} {after}");

    fleet.coordinator.kill9().unwrap();
    let state = fleet.path("coordinator");
    let refused = restore(&fleet, &file, &state, &[]);
    assert!(!refused.status.success() && complaint(&refused).contains("--force"), "{}", complaint(&refused));
    let restored = restore(&fleet, &file, &state, &["--force"]);
    assert!(restored.status.success(), "{}", complaint(&restored));
    fleet.restart().await;
    wait_until("the device to go back to what the backup says", LIMIT, async || {
        let (digest, generation) = held(&fleet);
        let is_back = digest == kept && generation > after;
        let state = format!("{digest} in generation {generation}, after {after}");
        Ok(if is_back { Answer::Ready(()) } else { Answer::NotYet(state) })
    })
    .await
    .unwrap();
    fleet.status("gw-1", "Online").await;
    fleet.admin(&["audit", "verify"]);
    let log = fleet.admin(&["audit", "tail", "-n", "100"]);
    assert!(log.contains("restore") && log.contains("backup"), "{log}");
    apply(&fleet, 2);
    assert_eq!(held(&fleet).0, newer, "it goes on from there");
}

#[tokio::test]
async fn a_restore_that_is_killed_anywhere_leaves_nothing_or_all() {
    if !may_trace().unwrap() {
        return;
    }
    let fleet = Fleet::start("1h").await;
    let file = fleet.path("state.backup");
    fleet.admin(&["backup", "--out", &file.display().to_string()]);
    let target = fleet.path("restored");
    let whole = |file: &Path| {
        let mut command = Command::new(&fleet.binaries.coordinator);
        let saved = command.arg("backup").arg("--state-dir").arg(&target).arg("--out").arg(file).output();
        saved.unwrap()
    };
    let mut cells = 0;
    for call in ["fsync,fdatasync", "rename,renameat,renameat2", "openat"] {
        for nth in 1.. {
            // Of the many files that are opened a few tell as much as all.
            let nth = if call == "openat" { nth * 9 } else { nth };
            let inject = format!("inject={call}:signal=KILL:when={nth}");
            let killed = Command::new("strace")
                .args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &inject])
                .arg(&fleet.binaries.coordinator)
                .arg("restore")
                .arg(&file)
                .arg("--state-dir")
                .arg(&target)
                .output()
                .unwrap();
            if target.exists() {
                let saved = whole(&fleet.path(&format!("again-{cells}")));
                assert!(saved.status.success(), "{call} {nth}: {}", complaint(&saved));
                fs::remove_dir_all(&target).unwrap();
            }
            if killed.status.success() {
                break;
            }
            cells += 1;
        }
    }
    assert!(cells >= 10, "{cells} kills");
    let restored = restore(&fleet, &file, &target, &[]);
    assert!(restored.status.success(), "what kills left is in nobody's way: {}", complaint(&restored));
}
