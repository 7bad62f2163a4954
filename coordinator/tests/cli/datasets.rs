//! `dataset describe`: what is in a folder, and what is wrong with it; `prune` on such a folder; and names for them.

use std::fs;
use std::path::Path;

use insta::assert_snapshot;
use serde_json::json;
use tempfile::TempDir;

use crate::binary::{Run, reconvene};
use crate::fake::Fake;
use crate::fleet::replies;

/// Nobody listens there: this verb needs no coordinator.
fn describe(dir: &Path, arguments: &[&str]) -> Run {
    let all = [&["dataset", "describe", dir.to_str().unwrap()], arguments].concat();
    reconvene("http://127.0.0.1:9", &all)
}

/// Two images of each of CIFAR-10's classes to train on, in five files, and one of class 3 to test on.
fn cifar10() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let record = |label: u8| [vec![label], vec![label * 20; 3072]].concat();
    for batch in 1..=5u8 {
        let records = [0, 1, 2, 3].map(|index| record((batch * 4 + index) % 10)).concat();
        fs::write(dir.path().join(format!("data_batch_{batch}.bin")), records).unwrap();
    }
    fs::write(dir.path().join("test_batch.bin"), record(3)).unwrap();
    dir
}

/// Red leaves and green ones, five of each: PNGs of one pixel, written by hand.
fn leaves() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (class, png) in [("green", GREEN), ("red", RED)] {
        let folder = dir.path().join("train").join(class);
        fs::create_dir_all(&folder).unwrap();
        (0..5).for_each(|index| fs::write(folder.join(format!("{index}.png")), png).unwrap());
    }
    dir
}

const RED: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x02\0\0\0\x90wS\xde\x00\x00\x00\x0cIDATx\xdac\xf8\xcf\xc0\x00\x00\x03\x01\x01\x00\xf7\x03AC\x00\x00\x00\x00IEND\xaeB`\x82";
const GREEN: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x02\0\0\0\x90wS\xde\x00\x00\x00\x0cIDATx\xdac`\xf8\xcf\x00\x00\x02\x02\x01\x00E\xf4R\xd4\x00\x00\x00\x00IEND\xaeB`\x82";

/// What is printed, the folder's own path left out.
fn without(dir: &TempDir, text: &str) -> String {
    text.replace(dir.path().to_str().unwrap(), "DIR")
}

#[test]
fn people_read_facts_and_classes() {
    let dir = cifar10();
    let names: String = (0..10).map(|class| format!("kind{class}\n")).collect();
    fs::write(dir.path().join("batches.meta.txt"), names).unwrap();
    assert_snapshot!("cifar10", without(&dir, &describe(dir.path(), &[]).data()));
}

#[test]
fn programs_read_everything() {
    let dir = leaves();
    let run = describe(dir.path(), &["--test-share", "1/5", "-o", "json"]);
    let report: serde_json::Value = serde_json::from_str(&run.data()).unwrap();
    assert_eq!(report["kind"], "DatasetReport");
    let path = dir.path().to_str().unwrap();
    assert_eq!(report["dataset"], json!({ "format": "folder", "path": path, "testShare": 0.2 }));
    assert_eq!(report["shape"], json!([3, 1, 1]));
    assert_eq!((&report["train"], &report["test"]), (&json!(8), &json!(2)));
    assert_eq!((&report["mean"], &report["std"]), (&json!([0.5, 0.5, 0.0]), &json!([0.5, 0.5, 1.0])));
    assert_eq!(report["classes"][1], json!({ "label": 1, "name": "red", "train": 4, "test": 1 }));
}

#[test]
fn what_is_wrong_is_one_line() {
    let dir = cifar10();
    fs::write(dir.path().join("data_batch_4.bin"), [10; 3073]).unwrap();
    let line = describe(dir.path(), &[]).complaint(65);
    assert_eq!(
        without(&dir, &line),
        "DIR/data_batch_4.bin: expected a label from 0 to 9 at byte 0 of its content, found 10"
    );
    let line = describe(dir.path(), &["--test-share", "0.2"]).complaint(65);
    assert!(line.starts_with("a test share is for folders of images; cifar10 has"), "{line}");
    let line = describe(dir.path(), &["--format", "idx"]).complaint(65);
    assert!(without(&dir, &line).starts_with("no dataset in DIR: train-images-idx3-ubyte, "), "{line}");

    let dir = leaves();
    let line = describe(dir.path(), &[]).complaint(65);
    assert!(without(&dir, &line).starts_with("DIR: has no folder `test`: make one like"), "{line}");
    fs::write(dir.path().join("train/red/4.png"), &RED[..40]).unwrap();
    let line = describe(dir.path(), &["--test-share", "0.2"]).complaint(65);
    assert!(without(&dir, &line).starts_with("DIR/train/red/4.png: no whole PNG or JPEG image"), "{line}");

    let line = describe(&dir.path().join("train"), &[]).complaint(65);
    assert!(without(&dir, &line).starts_with("no dataset in DIR/train: it needs the four IDX"), "{line}");
    let line = describe(Path::new("missing"), &[]).complaint(65);
    assert_eq!(line, "cannot list missing: No such file or directory (os error 2)");
    for arguments in [["--format", "png"], ["--test-share", "1"]] {
        assert_eq!(describe(dir.path(), &arguments).code, 2, "{arguments:?}");
    }
}

#[test]
fn a_dataset_gets_a_name() {
    let coordinator = Fake::start(replies());
    let add = |name: &str| {
        let what = ["dataset", "add", name, "--path", "/data/leaves"];
        reconvene(&coordinator.url, &[&what[..], &["--format", "folder", "--test-share", "20%"]].concat())
    };
    assert_eq!(
        add("leaves").data(),
        "leaves added: folder, 1x28x28 images, 10 classes, 60,000 to train on, 10,000 to test on\n"
    );
    assert_eq!(add("fashion").complaint(65), "'fashion' is /usr/share/datasets/fashion-mnist already");
}

#[test]
fn named_datasets_are_listed() {
    let coordinator = Fake::start(replies());
    let table = reconvene(&coordinator.url, &["dataset", "get"]).data();
    assert_snapshot!("datasets_table", table);
    assert_eq!(reconvene(&coordinator.url, &["get", "datasets"]).data(), table);
    let one = reconvene(&coordinator.url, &["dataset", "get", "fashion", "-o", "json"]).data();
    let one: serde_json::Value = serde_json::from_str(&one).unwrap();
    assert_eq!((&one["kind"], &one["trainImages"]), (&json!("Dataset"), &json!(60_000)));
    let line = reconvene(&coordinator.url, &["dataset", "get", "leaves"]).complaint(3);
    assert_eq!(line, "dataset 'leaves' not found; `reconvene get datasets` lists them");
}

#[test]
fn a_network_is_scored_on_any_format() {
    let dir = cifar10();
    let out = dir.path().join("m.onnx");
    let prune = |format: &str| {
        let [dir, out] = [dir.path(), &out].map(|path| path.to_str().unwrap());
        let what =
            ["prune", "--network", "resnet20", "--criterion", "snip", "--rounds", "1", "--dataset", dir];
        let how = ["--dataset-format", format, "--budget", "params=1/4", "--out", out, "-o", "json"];
        reconvene("http://127.0.0.1:9", &[&what[..], &how].concat())
    };
    let report: serde_json::Value = serde_json::from_str(&prune("cifar10").data()).unwrap();
    assert_eq!(report["dense"]["params"], 272_474);
    let line = prune("cifar100").complaint(65);
    assert!(without(&dir, &line).starts_with("no dataset in DIR: train.bin, test.bin not found;"), "{line}");
}
