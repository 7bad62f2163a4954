//! `apply`, `plan` and `watch`.

use std::io::{BufRead, BufReader};

use insta::assert_snapshot;
use proto::v1;

use crate::binary::{example, reconvene, reconvene_reading, start};
use crate::fake::{Afterwards, Fake, Replies};
use crate::fleet;

fn event(phase: &str, jobs: Vec<v1::JobProgress>) -> v1::DeploymentEvent {
    v1::DeploymentEvent { deployment: Some(fleet::deployment(phase)), jobs }
}

fn training(done: u64, finished: bool) -> Vec<v1::JobProgress> {
    let message = "loss 0.41, accuracy 85.0%, 900 images/s".to_owned();
    vec![v1::JobProgress { job: "train 3f9a".to_owned(), done, total: 400, message, finished }]
}

fn watched(watches: Vec<Vec<v1::DeploymentEvent>>) -> Fake {
    Fake::start(Replies { watches: watches.into(), ..fleet::replies() })
}

#[test]
fn apply_says_what_became_of_it() {
    let (fake, file) = (Fake::start(fleet::replies()), example());
    let arguments = ["apply", "-f", file.to_str().unwrap()];
    assert_eq!(reconvene(&fake.url, &arguments).data(), "deployment/fashion-mnist created (generation 1)\n");
    let text = std::fs::read_to_string(&file).unwrap();
    let again = reconvene_reading(&text, &fake.url, &["apply", "-f", "-"]).data();
    assert_eq!(again, "deployment/fashion-mnist configured (generation 2)\n");
    assert_eq!(*fake.replies.applied.lock().unwrap(), [text.clone(), text], "sent as written");
}

#[test]
fn waiting_shows_progress_and_ends_with_the_outcomes() {
    let fake = watched(vec![vec![
        event("Scoring", vec![]),
        event("Deriving", training(0, false)),
        event("Deriving", training(400, true)),
        event("RollingOut", vec![]),
        event("Complete", vec![]),
    ]]);
    let run = reconvene(&fake.url, &["apply", "--wait", "-f", example().to_str().unwrap()]);
    assert_eq!(run.code, 0, "one device fitted, one without a fit: {run:?}");
    assert_snapshot!("wait_talk", run.stderr);
    assert_snapshot!("wait_outcomes", run.stdout);
}

#[test]
fn a_failed_device_fails_the_wait() {
    let mut failed = fleet::deployment("Complete");
    failed.failed = 1;
    failed.active = 0;
    let event = v1::DeploymentEvent { deployment: Some(failed), jobs: vec![] };
    let run = reconvene(&watched(vec![vec![event]]).url, &["watch", "deployment", "fashion-mnist"]);
    assert_eq!(run.code, 1, "{run:?}");
    assert!(run.stderr.contains("1 of 2 devices failed"), "{run:?}");
}

#[test]
fn nothing_but_no_fit_has_its_own_exit_code() {
    let mut none = fleet::deployment("Complete");
    (none.matched, none.active, none.no_fit) = (1, 0, 1);
    none.devices.remove(0);
    let event = v1::DeploymentEvent { deployment: Some(none), jobs: vec![] };
    let run = reconvene(&watched(vec![vec![event]]).url, &["watch", "deployment", "fashion-mnist"]);
    assert_eq!(run.code, 4, "{run:?}");
    assert!(run.stderr.contains("hub-2: size 1.0Ki cannot be met; the smallest is 3.9Ki"), "{run:?}");
}

#[test]
fn a_broken_stream_is_taken_up_again() {
    let fake = watched(vec![vec![event("Deriving", vec![])], vec![event("Complete", vec![])]]);
    let run = reconvene(&fake.url, &["watch", "deploy", "fashion-mnist"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(run.stderr.contains("asking again until it is back"), "{run:?}");
}

#[test]
fn a_coordinator_that_comes_back_is_found_again() {
    let watches = vec![vec![event("Deriving", vec![])]].into();
    let fake = Fake::start(Replies { watches, afterwards: Afterwards::StaysOpen, ..fleet::replies() });
    let address = fake.address;
    let mut watching = start(&fake.url, &["watch", "deploy", "fashion-mnist", "--timeout", "60s"]);
    let mut talk = BufReader::new(watching.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(talk.next().unwrap().contains("Deriving"));
    drop(fake); // The connection breaks in the middle of the stream.
    assert!(talk.next().unwrap().contains("asking again until it is back"));
    let watches = vec![vec![event("Complete", vec![])]].into();
    let _fake = Fake::start_at(address, Replies { watches, ..fleet::replies() });
    assert!(watching.wait().unwrap().success());
    assert!(talk.next().unwrap().contains("Complete"));
}

#[test]
fn a_newer_generation_ends_the_wait() {
    let mut newer = fleet::deployment("Scoring");
    newer.generation = 2;
    let fake = watched(vec![vec![v1::DeploymentEvent { deployment: Some(newer), jobs: vec![] }]]);
    let run = reconvene(&fake.url, &["apply", "--wait", "-f", example().to_str().unwrap()]);
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains("was applied again: generation 2 replaced 1"), "{run:?}");
}

#[test]
fn waiting_has_an_end() {
    let streams = (0..20).map(|_| vec![event("Deriving", vec![])]).collect();
    let run = reconvene(&watched(streams).url, &["watch", "deploy", "fashion-mnist", "--timeout", "1500ms"]);
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains("has not ended after 1s 500ms; it goes on"), "{run:?}");
}

#[test]
fn a_plan_tells_what_each_device_gets_and_why() {
    let (fake, file) = (Fake::start(fleet::replies()), example());
    let plan = |format| reconvene(&fake.url, &["plan", "-f", file.to_str().unwrap(), "-o", format]).data();
    assert_snapshot!("plan_table", plan("table"));
    assert_snapshot!("plan_wide", plan("wide"));
    let json: serde_json::Value = serde_json::from_str(&plan("json")).unwrap();
    assert_eq!((&json["kind"], &json["dense"]["params"]), (&"Plan".into(), &272_474.into()));
    assert_eq!(json["devices"][1]["state"], "NoFit");
    assert_eq!(serde_saphyr::from_str::<serde_json::Value>(&plan("yaml")).unwrap(), json);
}

#[test]
fn a_plan_for_nobody_exits_with_no_fit() {
    let mut replies = fleet::replies();
    replies.plan.devices.remove(0);
    let run = reconvene(&Fake::start(replies).url, &["plan", "-f", example().to_str().unwrap()]);
    assert_eq!(run.code, 4, "{run:?}");
    assert!(run.stdout.contains("hub-2"), "the plan is printed all the same");
}

#[test]
fn a_plan_that_is_not_ready_in_time_says_that_scoring_goes_on() {
    let complaint = |change: fn(&mut v1::Job)| {
        let mut replies = fleet::replies();
        replies.is_scoring = true;
        change(&mut replies.jobs[0]);
        let arguments = ["plan", "-f", example().to_str().unwrap(), "--timeout", "1s"].map(str::to_owned);
        reconvene(&Fake::start(replies).url, &arguments.each_ref().map(String::as_str)).complaint(1)
    };
    assert_eq!(
        complaint(|job| job.name = "score-3f9a2b71c04d".to_owned()),
        "the plan for deployment 'fashion-mnist' is not ready after 1s; scoring goes on as job/score-3f9a2b71c04d: \
         `reconvene get jobs` shows how far it is, then run this again"
    );
    let unknown = "the plan for deployment 'fashion-mnist' is not ready after 1s; run this again, `reconvene get jobs` shows \
                   whether its network is still being scored";
    assert_eq!(complaint(|_| ()), unknown, "a training is none");
    let ended = complaint(|job| (job.name, job.state) = ("score-3f9a2b71c04d".to_owned(), "Done".to_owned()));
    assert_eq!(ended, unknown);
}

#[test]
fn apply_names_the_devices_that_belong_to_another_deployment() {
    let mut replies = fleet::replies();
    for device in &mut replies.devices {
        (device.held_by, device.wanted_by) = ("other".to_owned(), vec!["fashion-mnist".to_owned()]);
    }
    let fake = Fake::start(replies);
    let run = reconvene(&fake.url, &["apply", "-f", example().to_str().unwrap()]);
    assert_eq!(run.stdout, "deployment/fashion-mnist created (generation 1)\n");
    assert_eq!(
        run.stderr,
        "deployment/fashion-mnist waits for cam-1, hub-2: they belong to deployment/other, until that is deleted or does not \
         select them any more\n"
    );
}

#[test]
fn a_rollout_is_controlled() {
    let fake = Fake::start(fleet::replies());
    for (verb, said) in [("pause", "paused"), ("resume", "resumed")] {
        let line = reconvene(&fake.url, &["rollout", verb, "fashion-mnist"]).data();
        assert_eq!(line.trim(), format!("deployment/fashion-mnist {said} (generation 4)"));
    }
    let line = reconvene(&fake.url, &["rollout", "abort", "done"]).complaint(1);
    assert!(line.contains("deployment 'done' is complete"), "{line}");
}

#[test]
fn a_deployment_is_deleted_and_its_devices_are_named() {
    let fake = Fake::start(fleet::replies());
    let line = reconvene(&fake.url, &["delete", "deployment", "fashion-mnist"]).complaint(1);
    assert_eq!(line, "deployment 'fashion-mnist' is under way");
    let run = reconvene(&fake.url, &["delete", "deploy", "fashion-mnist", "--force"]);
    assert_eq!(run.stderr, "they go on with what they serve: cam-1\n");
    assert_eq!(run.data(), "deployment/fashion-mnist deleted (generation 4)\n");
    let line = reconvene(&fake.url, &["delete", "deployment", "x"]).complaint(3);
    assert_eq!(line, "deployment 'x' not found; `reconvene get deployments` lists them");
}

#[test]
fn operators_and_workers_are_listed() {
    let fake = Fake::start(fleet::replies());
    let words = |arguments: &[&str]| -> Vec<Vec<String>> {
        let table = reconvene(&fake.url, &[arguments, &["--no-headers"]].concat()).data();
        table.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
    };
    let operators = words(&["operator", "list"]);
    assert_eq!(operators, [["alice", "admin", "expired", "no"], ["bob", "-", "-", "yes"]]);
    assert_eq!(words(&["get", "operators"]), operators, "by its other name");
    let names = reconvene(&fake.url, &["get", "operators", "-o", "name"]).data();
    assert_eq!(names, "operator/alice\noperator/bob\n");
    assert_eq!(words(&["get", "workers"]), [["gpu-1", "Busy", "train-3f9a2b71c04d", "-", "-", "-", "-"]]);
    let line = reconvene(&fake.url, &["operator", "list", "zed"]).complaint(3);
    assert_eq!(line, "operator 'zed' not found; `reconvene operator list` lists them");
    let run = reconvene(&fake.url, &["operator", "revoke", "nobody"]);
    assert!(run.stderr.starts_with("warning: no certificate of 'nobody' is known"), "{run:?}");
    assert_eq!(run.data(), "operator/nobody revoked\n");
    let line = reconvene(&fake.url, &["device", "approve", "cam-1", "3f9a2b71c0de55aa01b2c3d4"]).data();
    assert_eq!(line, "device/cam-1 is in already, with this key; nothing was changed\n");
    let line = reconvene(&fake.url, &["device", "approve", "cam-2", "3f9a2b71c0de55aa01b2c3d4"]).data();
    assert!(
        line.starts_with("device/cam-2 may come in with this key, and has not opened a session"),
        "{line}"
    );
    let help = reconvene(&fake.url, &["operator", "create", "--help"]).data();
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(help.contains("worker scores and trains"), "{help}");
}

#[test]
fn tokens_and_devices_are_controlled() {
    let fake = Fake::start(fleet::replies());
    let run =
        reconvene(&fake.url, &["token", "create", "--uses", "5", "--expires", "7d", "--label", "site=lab"]);
    assert_eq!(run.data(), "reconvene-join-1 3f9a2b71.secret\n-----BEGIN\n");
    let list = reconvene(&fake.url, &["token", "list", "--no-headers"]).data();
    assert_eq!(list.split_whitespace().collect::<Vec<_>>(), ["3f9a2b71", "1/5", "expired", "site=lab"]);
    assert_eq!(reconvene(&fake.url, &["get", "tokens", "--no-headers"]).data(), list, "by its other name");
    let one = reconvene(&fake.url, &["get", "token/3f9a2b71", "-o", "json"]).data();
    assert!(one.contains(r#""kind": "Token""#) && one.contains(r#""uses": 5"#), "{one}");
    assert_eq!(reconvene(&fake.url, &["token", "revoke", "3f9a2b71"]).data(), "token/3f9a2b71 revoked\n");
    assert_eq!(reconvene(&fake.url, &["token", "revoke", "x"]).complaint(3), "no token 'x'");
    assert_eq!(reconvene(&fake.url, &["device", "ban", "cam-1"]).data(), "device/cam-1 banned\n");
    let line = reconvene(&fake.url, &["device", "ban", "x"]).complaint(3);
    assert_eq!(line, "device 'x' not found; `reconvene get devices` lists them");
}

#[test]
fn a_certificate_without_the_coordinators_configuration_names_the_argument_for_it() {
    let arguments = ["operator", "create", "alice", "--config", "/nowhere.toml", "--out", "alice"];
    let line = reconvene("http://127.0.0.1:1", &arguments).complaint(64);
    let way_on = "--config names the coordinator's configuration, as in `reconvene operator create alice --config coordinator.toml \
                  --out alice`: configuration /nowhere.toml: ";
    assert!(line.starts_with(way_on), "{line}");
}

#[test]
fn an_operators_certificate_needs_an_authority() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("coordinator.toml");
    std::fs::write(&config, format!("state_dir = '{}'", folder.path().display())).unwrap();
    let (config, out) = (config.to_str().unwrap(), folder.path().join("alice"));
    let arguments = ["operator", "create", "alice", "--config", config, "--out", out.to_str().unwrap()];
    let line = reconvene("http://unused.invalid:1", &arguments).complaint(1);
    assert!(line.contains("start the coordinator with encryption first"), "{line}");
    assert!(!out.exists());
}

const MANIFEST: &str = "\
apiVersion: reconvene/v1
kind: Deployment
metadata: { name: fashion-mnist }
spec:
  network: resnet20
  dataset: { name: fashion } # as it was added
  training:
    epochs: 10
  rollout:
    waves: [25, 100]
";

#[test]
fn a_manifest_is_compared_with_what_is_applied() {
    let folder = tempfile::tempdir().unwrap();
    let given = folder.path().join("fashion.yaml");
    std::fs::write(&given, MANIFEST).unwrap();
    let given = given.to_str().unwrap();
    let with_applied = |manifest: String| {
        let mut replies = fleet::replies();
        replies.deployments[0].manifest = manifest;
        replies.artifacts[0].footprint.as_mut().unwrap().params = 1000;
        Fake::start(replies)
    };
    let fake = with_applied(MANIFEST.replace("epochs: 10", "epochs: 20").replace("[25, 100]", "[100]"));
    let diff = reconvene(&fake.url, &["diff", "-f", given]).data();
    assert_snapshot!("diff", diff);
    assert_eq!(reconvene(&fake.url, &["apply", "--dry-run", "-f", given]).data(), diff);
    assert!(fake.replies.applied.lock().unwrap().is_empty());
    // Comments, and defaults that are written out, change nothing.
    let fake = with_applied(
        MANIFEST.replace(" # as it was added", "").replace("  rollout:", "    seed: 1\n  rollout:"),
    );
    let same = reconvene(&fake.url, &["diff", "-f", given]).data();
    assert!(same.starts_with("deployment/fashion-mnist is as it is applied"), "{same}");
}

#[test]
fn what_a_device_would_get_is_compared_with_what_it_serves() {
    let other = proto::Digest::of(b"other").to_string();
    let line = |serves: Option<u64>, is_given: bool, state: &str| {
        let mut replies = fleet::replies();
        match serves {
            Some(params) => replies.artifacts[0].footprint.as_mut().unwrap().params = params,
            None => replies.devices[0].active_digest.clear(),
        }
        let outcome = &mut replies.deployments[0].devices[0];
        outcome.state = state.to_owned();
        if !is_given {
            outcome.digest.clone_from(&other);
        }
        let diff = reconvene_reading(MANIFEST, &Fake::start(replies).url, &["diff", "-f", "-"]).data();
        let line = diff.lines().find(|line| line.starts_with("cam-1")).unwrap();
        line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
    };
    // What was planned for it before is what it would get in each of these.
    assert_eq!(line(Some(16_801), true, "Active"), "same size 16,801 2.53M 68.5Ki 0.400ms");
    let replaced = line(Some(40_000), false, "Fitted");
    assert_eq!(replaced, "smaller 40,000 -> 16,801 2.53M 68.5Ki 0.400ms", "it was never told");
    assert_eq!(line(Some(9_000), false, "Assigned"), "larger 9,000 -> 16,801 2.53M 68.5Ki 0.400ms");
    for (is_given, state) in [(false, "Fitted"), (true, "Deriving")] {
        let replaced = line(Some(16_801), is_given, state);
        assert_eq!(replaced, "new model 16,801 2.53M 68.5Ki 0.400ms", "another of that size");
    }
    assert_eq!(line(None, false, "Assigned"), "new model 16,801 2.53M 68.5Ki 0.400ms");
}

#[test]
fn a_budget_out_of_reach_is_refused_with_its_own_exit_code() {
    let fake = Fake::start(fleet::replies());
    let manifest = format!("{MANIFEST}  budgets:\n    - params: 10\n");
    for verb in [&["apply"][..], &["apply", "--dry-run"], &["diff"]] {
        let line = reconvene_reading(&manifest, &fake.url, &[verb, &["-f", "-"]].concat()).complaint(4);
        assert_eq!(line, "no device can meet its budget: cam-1: no network fits", "{verb:?}");
    }
    assert!(fake.replies.applied.lock().unwrap().is_empty());
    let plan = reconvene_reading(&manifest, &fake.url, &["plan", "-f", "-"]);
    assert_eq!(plan.code, 4, "{plan:?}");
    assert!(plan.stdout.contains("hub-2"), "a plan still says what each would get");
    assert!(plan.stderr.contains("no device can meet its budget: cam-1: no network fits"), "{plan:?}");
}

#[test]
fn a_plan_is_refused_for_what_applying_would_be_refused_for() {
    let fake = Fake::start(fleet::replies());
    let nowhere = MANIFEST.replace("{ name: fashion }", "{ format: idx, path: /nowhere }");
    let stale = MANIFEST.replace("name: fashion-mnist", "name: fashion-mnist, generation: 7");
    for (manifest, code) in [(nowhere, 65), (stale, 1)] {
        let complaint = |verb| reconvene_reading(&manifest, &fake.url, &[verb, "-f", "-"]).complaint(code);
        assert_eq!(complaint("plan"), complaint("diff"));
    }
}

#[test]
fn a_change_names_the_devices_that_wait_for_another_deployment() {
    let mut replies = fleet::replies();
    let waits = &mut replies.plan.devices[0];
    (waits.state, waits.planned) = ("Waiting".to_owned(), None);
    waits.reason = "it belongs to deployment 'c'".to_owned();
    let fake = Fake::start(replies);
    let text = reconvene_reading(MANIFEST, &fake.url, &["diff", "-f", "-"]).data();
    assert!(text.contains("\n\ncam-1: it belongs to deployment 'c'"), "{text}");
}

#[test]
fn of_several_deployments_none_is_applied_where_one_is_refused() {
    let fake = Fake::start(fleet::replies());
    let other = MANIFEST.replace("name: fashion-mnist", "name: other");
    let impossible = format!("{MANIFEST}---\n{other}  budgets:\n    - params: 10\n");
    for verb in [&["apply"][..], &["apply", "--dry-run"], &["diff"]] {
        let run = reconvene_reading(&impossible, &fake.url, &[verb, &["-f", "-"]].concat());
        assert_eq!(run.code, 4, "{run:?}");
        let line = run.stderr.lines().last().unwrap();
        let expected = "document 2 (deployment/other): no device can meet its budget: cam-1: no network fits";
        assert!(line.ends_with(expected), "{verb:?}: {line}");
    }
    let unreadable = format!("{MANIFEST}---\n{}", other.replace("network:", "nework:"));
    let twice = format!("{MANIFEST}---\n{other}---\n{MANIFEST}");
    for verb in ["apply", "diff", "plan"] {
        let line = reconvene_reading(&unreadable, &fake.url, &[verb, "-f", "-"]).complaint(65);
        assert!(
            line.starts_with("standard input: document 2 (deployment/other): line 16, column 3"),
            "{line}"
        );
        let line = reconvene_reading(&twice, &fake.url, &[verb, "-f", "-"]).complaint(65);
        assert!(line.contains("document 1 (deployment/fashion-mnist) and document 3 (dep"), "{line}");
    }
    assert!(fake.replies.applied.lock().unwrap().is_empty());
    let plans = reconvene_reading(&format!("{MANIFEST}---\n{other}"), &fake.url, &["plan", "-f", "-"]).data();
    assert_eq!(plans.matches("deployment/").count(), 2, "{plans}");
}

#[test]
fn what_get_prints_can_be_applied_again() {
    let mut replies = fleet::replies();
    replies.deployments[0].manifest = MANIFEST.to_owned();
    let mut other = replies.deployments[0].clone();
    other.name = "other".to_owned();
    other.manifest = MANIFEST.replace("name: fashion-mnist", "name: other");
    replies.deployments.push(other);
    let fake = Fake::start(replies);
    let applied = || std::mem::take(&mut *fake.replies.applied.lock().unwrap());
    let plain = |text: &str| serde_saphyr::from_str::<serde_json::Value>(text).unwrap();
    for format in ["yaml", "json"] {
        let printed = reconvene(&fake.url, &["get", "deployment", "fashion-mnist", "-o", format]).data();
        let document = plain(&printed);
        assert_eq!(document["apiVersion"], "reconvene/v1");
        assert_eq!(document["kind"], "Deployment");
        assert_eq!(document["metadata"], serde_json::json!({ "name": "fashion-mnist", "generation": 1 }));
        assert_eq!(document["spec"], plain(MANIFEST)["spec"], "as it was applied");
        assert_eq!(document["status"]["phase"], "Complete");
        assert_eq!(document["status"]["devices"][1]["state"], "NoFit");
        let line = reconvene_reading(&printed, &fake.url, &["apply", "-f", "-"]).data();
        assert_eq!(line, "deployment/fashion-mnist created (generation 1)\n");
        assert_eq!(applied().iter().map(|text| plain(text)).collect::<Vec<_>>(), [plain(MANIFEST)]);
        let same = reconvene_reading(&printed, &fake.url, &["diff", "-f", "-"]).data();
        assert!(same.starts_with("deployment/fashion-mnist is as it is applied"), "{same}");

        let all = reconvene(&fake.url, &["get", "deployments", "-o", format]).data();
        assert_eq!(
            (&plain(&all)["kind"], plain(&all)["items"].as_array().unwrap().len()),
            (&"List".into(), 2)
        );
        reconvene_reading(&all, &fake.url, &["apply", "-f", "-"]).data();
        assert_eq!(applied().len(), 2);
        let both = reconvene_reading(&all, &fake.url, &["plan", "-f", "-", "-o", "json"]).data();
        assert_eq!(plain(&both)["items"].as_array().unwrap().len(), 2);
        let stale = printed
            .replace("generation: 1", "generation: 2")
            .replace("\"generation\": 1", "\"generation\": 2");
        for verb in [&["apply"][..], &["apply", "--dry-run"], &["diff"]] {
            let line = reconvene_reading(&stale, &fake.url, &[verb, &["-f", "-"]].concat()).complaint(1);
            assert_eq!(line, "deployment 'fashion-mnist' is at generation 1", "{verb:?}");
        }
    }
    let changed = reconvene(&fake.url, &["get", "deployment", "other", "-o", "yaml"]).data();
    let changed = changed.replace("epochs: 10", "epochs: 12");
    let diff = reconvene_reading(&changed, &fake.url, &["diff", "-f", "-"]).data();
    let differences = diff.lines().filter(|line| line.starts_with(['+', '-']) && line.contains(':'));
    assert_eq!(differences.count(), 2, "{diff}");
}
