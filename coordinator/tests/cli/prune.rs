//! `prune` end to end: a real network, scored in a few rounds, to a file.

use std::path::Path;

use coordinator::probes::{Probe, ProbeSet};
use insta::assert_snapshot;
use pruner_core::graph::cost::cost;
use serde_json::json;

use crate::binary::{Run, reconvene};

fn prune(out: &Path, arguments: &[&str]) -> Run {
    let mut all = vec!["prune", "--network", "resnet20", "--rounds", "5", "--out", out.to_str().unwrap()];
    all.extend(arguments);
    // Nobody listens there: this verb needs no coordinator.
    reconvene("http://127.0.0.1:9", &all)
}

fn report(run: Run) -> serde_json::Value {
    serde_json::from_str(&run.data()).unwrap()
}

#[test]
fn a_sixteenth_of_resnet20() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("m.onnx");
    let run = prune(&out, &["--budget", "params=1/16.21", "-o", "json"]);
    assert!(run.stderr.contains("train it before it serves"), "{run:?}");
    let report = report(run);
    assert_eq!(report["dense"]["params"], 272_474);
    let pruned = report["pruned"]["params"].as_u64().unwrap();
    assert!((12_000..=16_809).contains(&pruned), "fits the budget and uses it: {pruned}");
    let file = std::fs::read(&out).unwrap();
    assert_eq!(report["pruned"]["bytes"].as_u64().unwrap(), file.len() as u64, "the promised length");
    assert_eq!(report["digest"], proto::Digest::of(&file).to_string());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing but the file");
}

#[test]
fn the_same_seed_gives_the_same_file() {
    let folder = tempfile::tempdir().unwrap();
    let digest = |name: &str, seed: &str| {
        let budget = ["--budget", "macs=25%,size=1Mi", "-o", "json", "--seed", seed];
        report(prune(&folder.path().join(name), &budget))["digest"].clone()
    };
    assert_eq!(digest("a", "7"), digest("b", "7"));
    assert_ne!(digest("a", "7"), digest("c", "8"));
}

#[test]
fn people_read_layers_and_totals() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("m.onnx");
    let picture = folder.path().join("m.svg");
    let arguments = ["--budget", "params=25%", "--round-to", "4", "--report", picture.to_str().unwrap()];
    let table = prune(&out, &arguments).data();
    let svg = std::fs::read_to_string(picture).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("layer3.2.conv1"), "{svg}");
    assert!(table.starts_with("LAYER ") && table.contains("\nTOTAL "), "{table}");
    assert!(table.contains("layer3.2.conv1"), "{table}");
    let row = table.lines().find(|line| line.starts_with("params")).unwrap();
    assert!(row.contains("272,474") && row.contains("1/"), "{row}");
}

#[test]
fn a_file_of_ones_own_is_pruned_again() {
    let folder = tempfile::tempdir().unwrap();
    let (own, out) = (folder.path().join("own.onnx"), folder.path().join("small.onnx"));
    let first = report(prune(&own, &["--budget", "params=90%", "-o", "json"]));
    let arguments =
        ["prune", "--onnx", own.to_str().unwrap(), "--rounds", "5", "--budget", "params=1/4", "-o", "json"];
    let run = reconvene("http://127.0.0.1:9", &[&arguments[..], &["--out", out.to_str().unwrap()]].concat());
    let second = report(run);
    // Batch norms were folded into biases, so the file has somewhat fewer parameters than its network had.
    let (dense, before) = (&second["dense"]["params"], &first["pruned"]["params"]);
    assert!(dense.as_u64() < before.as_u64() && dense.as_u64() > Some(200_000), "{dense} {before}");
    assert!(second["pruned"]["params"].as_u64().unwrap() <= dense.as_u64().unwrap() / 4);
    assert_eq!(second["pruned"]["bytes"], std::fs::metadata(&out).unwrap().len());
}

/// What a device saves whose time of one image is so many nanoseconds per multiply-accumulate, and a little.
fn profile(ns_per_mac: f64) -> String {
    let probes = ProbeSet::known().unwrap();
    let time = |probe: &Probe| 0.01 + cost(&probe.graph).macs as f64 * ns_per_mac * 1e-6;
    let probes: Vec<_> = probes
        .iter()
        .map(|probe| {
            let (digest, p50_ms) = (&probe.artifact.digest, time(probe));
            json!({ "digest": digest, "runs": 20, "p50_ms": p50_ms, "p95_ms": 1.1 * p50_ms })
        })
        .collect();
    json!({
        "arch": "x86_64", "os": "linux", "instruction_sets": ["avx2"], "logical_cores": 1, "caches": [],
        "inference_threads": 1, "engine": "rten", "engine_version": "0.27.0", "probes": probes,
    })
    .to_string()
}

#[test]
fn a_devices_profile_gives_latency_ceilings() {
    let folder = tempfile::tempdir().unwrap();
    let (out, saved) = (folder.path().join("m.onnx"), folder.path().join("gw-a.json"));
    std::fs::write(&saved, profile(0.05)).unwrap();
    let device = ["--profile", saved.to_str().unwrap(), "--budget", "latencyP95=1/2"];
    let report = report(prune(&out, &[&device[..], &["-o", "json"]].concat()));
    let p95 = |which: &str| report["predicted"][which]["p95_ms"].as_f64().unwrap();
    assert!(p95("after") <= p95("before") / 2.0 && p95("after") > p95("before") / 3.0, "{report}");
    assert!(report["heldOut"]["worst"].as_f64().unwrap() >= report["heldOut"]["mean"].as_f64().unwrap());
    assert!(report["layers"][0]["predictedMs"]["before"].as_f64().unwrap() > 0.0, "{report}");
    let table = prune(&out, &device).data();
    assert!(table.contains("predicted p95") && table.contains("a probe's p95, predicted"), "{table}");

    std::fs::write(&saved, "{}").unwrap();
    assert!(prune(&out, &device).complaint(65).contains("not a device's profile"));
    let untimed = profile(0.05).split("\"probes\":[").next().unwrap().to_owned() + "\"probes\":[]}";
    std::fs::write(&saved, untimed).unwrap();
    assert!(prune(&out, &device).complaint(65).contains("no times of this version's probe models"));
}

#[test]
fn choices_that_look_at_images_ask_for_some() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("m.onnx");
    for (choice, name) in [(["--criterion", "snip"], "snip"), (["--measure", "probe"], "probe")] {
        let line = prune(&out, &[&choice[..], &["--budget", "params=1/4"]].concat()).complaint(2);
        assert_eq!(line, format!("{name} looks at labelled images: give --dataset"));
    }
    let digest = |choice: &[&str]| {
        report(prune(&out, &[choice, &["--budget", "params=1/4", "-o", "json"]].concat()))["digest"].clone()
    };
    let usual = digest(&[]);
    for choice in [["--criterion", "magnitude"], ["--measure", "flow-gap"], ["--reinit", "slice-kept"]] {
        assert_ne!(digest(&choice), usual, "{choice:?}");
    }
}

#[test]
fn a_file_that_is_no_network() {
    let folder = tempfile::tempdir().unwrap();
    let (own, out) = (folder.path().join("own.onnx"), folder.path().join("small.onnx"));
    std::fs::write(&own, "not a network").unwrap();
    let arguments = ["prune", "--onnx", own.to_str().unwrap(), "--budget", "params=1/4"];
    let run = reconvene("http://127.0.0.1:9", &[&arguments[..], &["--out", out.to_str().unwrap()]].concat());
    let line = run.complaint(65);
    assert!(line.starts_with(own.to_str().unwrap()), "{line}");
    assert!(!out.exists());
}

#[test]
fn a_budget_that_cannot_be_met() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("m.onnx");
    std::fs::write(&out, "as it was").unwrap();
    let run = prune(&out, &["--budget", "params=100"]);
    assert_eq!((run.code, run.stdout.as_str()), (4, ""));
    let line = run.stderr.lines().find(|line| line.starts_with("error: ")).unwrap();
    assert_snapshot!("no_fit", line);
    assert_eq!(std::fs::read(&out).unwrap(), b"as it was");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn bad_input_is_refused_before_any_work() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("m.onnx");
    let unwritable = folder.path().join("missing/m.onnx");
    let line = prune(&unwritable, &["--budget", "params=25%"]).complaint(73);
    let missing = unwritable.parent().unwrap().display();
    assert_eq!(line, format!("cannot write {}: there is no folder {missing}", unwritable.display()));
    assert!(prune(folder.path(), &["--budget", "params=25%"]).complaint(73).ends_with("is a directory"));
    let file = out.to_str().unwrap();
    let unknown = ["prune", "--network", "resnet21", "--budget", "params=25%", "--out", file];
    let line = reconvene("", &unknown).complaint(3);
    assert!(line.starts_with("there is no network 'resnet21'; known: resnet20, resnet32, "), "{line}");
    for (arguments, expected) in [
        (&["--budget", "weights=5"][..], "'weights' is no ceiling; known: params, macs, size, memory"),
        (
            &["--budget", "params=25%", "--input", "32"],
            "'32' is not channels x height x width, as in 3x32x32",
        ),
        (&["--budget", "params=1/2,params=1/4"], "--budget gives params twice"),
        (&[], "--budget <CEILING>"),
    ] {
        let run = prune(&out, arguments);
        assert_eq!(run.code, 2, "{run:?}");
        assert!(run.stderr.contains(expected), "{run:?}");
    }
    assert!(!out.exists());
}
