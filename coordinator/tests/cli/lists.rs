//! `get` and `describe`, in every format.

use insta::assert_snapshot;

use crate::binary::reconvene;
use crate::fake::Fake;
use crate::fleet;

fn data(arguments: &[&str]) -> String {
    let fake = Fake::start(fleet::replies());
    reconvene(&fake.url, arguments).data()
}

#[test]
fn devices_in_every_format() {
    assert_snapshot!("devices_table", data(&["get", "devices"]));
    assert_snapshot!("devices_wide", data(&["get", "device", "-o", "wide"]));
    assert_eq!(data(&["get", "dev", "-o", "name"]), "device/cam-1\ndevice/hub-2\n");
    assert_eq!(data(&["get", "dev", "--no-headers"]).lines().count(), 2);
}

#[test]
fn programs_get_lists_of_the_operators_messages() {
    let list: serde_json::Value = serde_json::from_str(&data(&["get", "devices", "-o", "json"])).unwrap();
    assert_eq!(list["apiVersion"], "reconvene/v1");
    assert_eq!(list["kind"], "DeviceList");
    assert_eq!(list["items"][0]["cpuQuotaCores"], 0.5);
    assert_eq!(list["items"][0]["labels"]["tier"], "small");
    assert_eq!(list["items"][1]["memoryTotalBytes"], serde_json::Value::Null);
    let yaml: serde_json::Value = serde_saphyr::from_str(&data(&["get", "devices", "-o", "yaml"])).unwrap();
    let without_age = |mut list: serde_json::Value| {
        for item in list["items"].as_array_mut().unwrap() {
            item["lastSeenUnixMs"] = 0.into();
        }
        list
    };
    assert_eq!(without_age(yaml), without_age(list));
}

#[test]
fn one_thing_is_one_object() {
    let model: serde_json::Value =
        serde_json::from_str(&data(&["get", "model", "resnet20", "-o", "json"])).unwrap();
    assert_eq!((&model["kind"], &model["params"]), (&"Model".into(), &272_474.into()));
    assert_snapshot!("model_yaml", data(&["get", "model", "resnet20", "-o", "yaml"]));
    let artifact = data(&["get", "art", &fleet::digest()[..5], "-o", "name"]);
    assert_eq!(artifact, format!("artifact/{}\n", fleet::digest()));
}

#[test]
fn the_other_kinds_have_tables() {
    assert_snapshot!("models_table", data(&["get", "models"]));
    assert_snapshot!("deployments_wide", data(&["get", "deploy", "-o", "wide"]));
    assert_snapshot!("artifacts_table", data(&["get", "artifacts"]));
    assert_snapshot!("telemetry_wide", data(&["get", "tel", "cam-1", "-o", "wide"]));
}

#[test]
fn jobs_are_listed_read_and_stopped() {
    let fake = Fake::start(fleet::replies());
    let ask = |arguments: &[&str]| reconvene(&fake.url, arguments);
    let name = "train-3f9a2b71c04d";
    let table = ask(&["get", "jobs", "--no-headers"]).data();
    let words: Vec<&str> = table.split_whitespace().collect();
    assert_eq!(words[..6], [name, "fashion-mnist", "Running", "75.00%", "gpu-1", "1"], "{table}");
    assert_eq!(ask(&["logs", "job/train-3f9a2b71c04d"]).data(), "epoch 1/2\n");
    let followed = ask(&["logs", name, "-f"]);
    assert!(followed.stderr.contains("asking again until it is back"), "{followed:?}");
    assert_eq!(followed.data(), "epoch 1/2\ndone\n", "nothing is said twice");
    assert_eq!(ask(&["job", "cancel", "job/train-3f9a2b71c04d"]).data(), format!("job/{name} cancelled\n"));
    let unknown = ask(&["job", "cancel", "train-0"]);
    assert_eq!((unknown.code, unknown.stdout.as_str()), (3, ""));
    assert!(unknown.stderr.contains("no job 'train-0'"), "{}", unknown.stderr);
}

#[test]
fn descriptions_tell_everything() {
    assert_snapshot!("describe_device", data(&["describe", "device", "cam-1"]));
    assert_snapshot!("describe_deployment", data(&["describe", "deploy", "fashion-mnist"]));
    assert_snapshot!("describe_artifact", data(&["describe", "art", &fleet::digest()[..8]]));
    assert_snapshot!("describe_model", data(&["describe", "model", "resnet20"]));
}

#[test]
fn an_empty_list_is_said_on_standard_error() {
    let fake = Fake::start(crate::fake::Replies::default());
    let run = reconvene(&fake.url, &["get", "devices"]);
    assert_eq!((run.code, run.stdout.as_str(), run.stderr.as_str()), (0, "", "no devices found\n"));
    let list = reconvene(&fake.url, &["get", "devices", "-o", "json"]).data();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&list).unwrap()["items"], serde_json::json!([]));
}

#[test]
fn colours_are_for_those_who_ask() {
    let escape = '\u{1b}';
    assert!(!data(&["get", "devices"]).contains(escape));
    let painted = data(&["get", "devices", "--color", "always"]);
    assert!(painted.contains("\u{1b}[32mOnline\u{1b}[0m"), "{painted:?}");
}

#[test]
fn what_a_device_still_serves_of_a_deployment_that_is_gone_is_said() {
    let said = |told_by: &str, selects: bool| {
        let mut replies = fleet::replies();
        replies.devices[0].told_by = told_by.to_owned();
        match selects {
            true => replies.deployments[0].devices.clear(),
            false => replies.deployments.clear(),
        }
        reconvene(&Fake::start(replies).url, &["explain", "device/cam-1"]).data()
    };
    let short = &fleet::digest()[..12];
    let gone = said("fashion-mnist", false);
    let expected = format!(
        "It goes on serving model {short} (generation 3): deployment/fashion-mnist gave it that, and was deleted since."
    );
    assert!(gone.contains(&expected), "{gone}");
    assert!(said("fashion-mnist", true).contains("and does not select it any more."));
    assert!(said("", false).contains("which deployment gave it that is not known any more."));
}

#[test]
fn what_is_unusual_of_a_device_is_described() {
    let mut replies = fleet::replies();
    replies.deployments[0].paused = true;
    let device = &mut replies.devices[0];
    (device.unreadable_intervals, device.takeovers) = (1200, 7);
    device.unreadable_reason = "the histogram does not begin as one".to_owned();
    let fake = Fake::start(replies);
    let text = reconvene(&fake.url, &["describe", "device", "cam-1"]).data();
    assert!(text.contains("1,200 intervals of telemetry, the last: the histogram does not"), "{text}");
    assert!(text.contains("7 sessions of late"), "{text}");
    let text = reconvene(&fake.url, &["get", "deployments"]).data();
    assert!(text.contains("Complete (paused)"), "{text}");
    let text = reconvene(&fake.url, &["explain", "device/cam-1"]).data();
    assert!(text.contains("`reconvene rollout resume fashion-mnist`"), "{text}");
}

#[test]
fn a_deployment_that_has_failed_is_explained_with_its_way_on() {
    let mut replies = fleet::replies();
    let message = "an operator aborted it; `reconvene rollout retry fashion-mnist` begins it again";
    (replies.deployments[0].phase, replies.deployments[0].message) =
        ("Failed".to_owned(), message.to_owned());
    let text = reconvene(&Fake::start(replies).url, &["explain", "device/cam-1"]).data();
    assert!(text.contains(&format!(" The deployment has failed: {message}.")), "{text}");
}

#[test]
fn a_device_is_explained_in_sentences() {
    let fake = Fake::start(fleet::replies());
    assert_snapshot!("explain_active", reconvene(&fake.url, &["explain", "device/cam-1"]).data());
    assert_snapshot!("explain_no_fit", reconvene(&fake.url, &["explain", "device/hub-2"]).data());
    let line = reconvene(&fake.url, &["explain", "device/cam-9"]).complaint(3);
    assert_eq!(line, "device 'cam-9' not found; `reconvene get devices` lists them");
    let line = reconvene(&fake.url, &["explain", "cam-1"]).stderr;
    assert!(line.contains("write device/NAME, as in device/cam-7"), "{line}");
}

#[test]
fn a_device_that_gets_nothing_new_is_explained_by_what_it_serves() {
    let said = |state: &str| {
        let mut replies = fleet::replies();
        let outcome = &mut replies.deployments[0].devices[0];
        (outcome.predicted_p50_ms, outcome.predicted_p95_ms) = (None, None);
        (outcome.state, outcome.reason) = (state.to_owned(), "p95 0.80 ms cannot be met".to_owned());
        reconvene(&Fake::start(replies).url, &["explain", "device/cam-1"]).data()
    };
    let serving = format!("It goes on serving model {} (generation 3): 16,801 param", &fleet::digest()[..12]);
    let no_fit = said("NoFit");
    assert!(no_fit.contains(&serving) && !no_fit.contains("holds it back"), "{no_fit}");
    let failed = said("Failed");
    assert!(failed.contains(&serving), "{failed}");
}

#[test]
fn what_a_device_serves_is_told_from_what_it_gets() {
    let (serves, other) = (&fleet::digest()[..12], proto::Digest::of(b"other").to_string());
    let said = |state: &str, phase: &str, serves_any: bool| {
        let mut replies = fleet::replies();
        replies.deployments[0].phase = phase.to_owned();
        let outcome = &mut replies.deployments[0].devices[0];
        (outcome.state, outcome.digest) = (state.to_owned(), other.clone());
        if !serves_any {
            replies.devices[0].active_digest.clear();
        }
        // It served that one once.
        replies.telemetry[0].digest.clone_from(&other);
        reconvene(&Fake::start(replies).url, &["explain", "device/cam-1"]).data()
    };
    let short = &other[..12];
    for (state, phase, gets) in [
        ("Fitted", "RollingOut", "It would get"),
        ("Fitted", "Failed", "It would have got"),
        ("Assigned", "RollingOut", "It gets"),
        ("Active", "Complete", "It was given"),
    ] {
        let text = said(state, phase, true);
        let line =
            format!("\n  It serves model {serves} (generation 3). {gets} model {short}: 16,801 parameters, ");
        assert!(text.contains(&line) && !text.contains("It measured"), "{text}");
    }
    let text = said("Failed", "Failed", true);
    assert!(text.contains(&format!("(generation 3). It was to get model {short}: 16,801 ")), "{text}");
    let text = said("Assigned", "RollingOut", false);
    assert!(text.contains(&format!("\n  It serves nothing. It gets model {short}: ")), "{text}");
    // What it had before is no matter while another is made.
    let text = said("Deriving", "Deriving", true);
    assert!(text.ends_with(&format!("\n  It serves model {serves} (generation 3).\n")), "{text}");
}

#[test]
fn a_device_that_several_deployments_select_names_those_that_wait() {
    let mut replies = fleet::replies();
    replies.devices[0].held_by = "fashion-mnist".to_owned();
    replies.devices[0].wanted_by = vec!["other".to_owned()];
    let text = reconvene(&Fake::start(replies).url, &["explain", "device/cam-1"]).data();
    assert!(
        text.contains("other: selects it too, and waits: it belongs to deployment/fashion-mnist, until"),
        "{text}"
    );
}

#[test]
fn of_a_device_that_is_banned_is_not_said_that_it_is_away() {
    let mut replies = fleet::replies();
    replies.devices[0].status = "Banned".to_owned();
    let text = reconvene(&Fake::start(replies).url, &["explain", "device/cam-1"]).data();
    assert!(
        text.contains("fashion-mnist (generation 1): banned, was Active. ") && !text.contains("away"),
        "{text}"
    );
}

#[test]
fn what_names_a_thing_names_it_everywhere() {
    let fake = Fake::start(fleet::replies());
    for (long, short) in [
        (&["describe", "device", "cam-1"][..], &["describe", "device/cam-1"][..]),
        (&["get", "device", "cam-1"], &["get", "device/cam-1"]),
        (&["get", "deployments", "fashion-mnist"], &["get", "deployment/fashion-mnist"]),
        (
            &["delete", "deployment", "fashion-mnist", "--force"],
            &["delete", "deployment/fashion-mnist", "--force"],
        ),
        (&["token", "revoke", "3f9a2b71"], &["token", "revoke", "token/3f9a2b71"]),
        (&["device", "ban", "cam-1"], &["device", "ban", "device/cam-1"]),
        (&["operator", "revoke", "bob"], &["operator", "revoke", "operator/bob"]),
    ] {
        assert_eq!(reconvene(&fake.url, short).data(), reconvene(&fake.url, long).data(), "{short:?}");
    }
    let line = reconvene(&fake.url, &["describe", "device/cam-1", "hub-2"]).complaint(2);
    assert_eq!(line, "one name at a time: 'cam-1' or 'hub-2'");
    let line = reconvene(&fake.url, &["describe", "device"]).complaint(2);
    assert!(line.starts_with("which one?"), "{line}");
    let line = reconvene(&fake.url, &["describe", "unicorn/cam-1"]).stderr;
    assert!(line.contains("'unicorn'"), "{line}");
}

#[test]
fn of_a_device_that_is_away_is_told_what_it_was() {
    let mut replies = fleet::replies();
    replies.devices[0].status = "Offline".to_owned();
    replies.devices[1].active_digest = fleet::digest();
    replies.devices[1].generation = 2;
    let fake = Fake::start(replies);
    let text = reconvene(&fake.url, &["explain", "device/cam-1"]).data();
    assert!(text.starts_with("cam-1 is away, last heard of 3h ago: x86_64"), "{text}");
    assert!(text.contains("fashion-mnist (generation 1): away for 3h, was Active. "), "{text}");
    let text = reconvene(&fake.url, &["explain", "device/hub-2"]).data();
    let model = &fleet::digest()[..12];
    assert!(text.contains(&format!("It goes on serving model {model} (generation 2).")), "{text}");
}
