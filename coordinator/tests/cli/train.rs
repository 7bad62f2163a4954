//! `train`: a network on this machine, from images to a file; cut off and gone on with.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::binary::reconvene;

/// Nobody listens there: no coordinator is asked.
const NOBODY: &str = "http://127.0.0.1:1";

/// A data set of two classes, light and dark, as IDX files.
fn dataset(folder: &Path) -> String {
    let split = |name: &str, count: u32| {
        let (mut images, mut labels) = (vec![0, 0, 8, 3], vec![0, 0, 8, 1]);
        for number in [count, 8, 8] {
            images.extend(number.to_be_bytes());
        }
        labels.extend(count.to_be_bytes());
        for index in 0..count {
            let label = (index % 2) as u8;
            labels.push(label);
            images.extend((0..64_u32).map(|pixel| 150 * label + ((pixel * 7 + index * 13) % 60) as u8));
        }
        std::fs::write(folder.join(format!("{name}-images-idx3-ubyte")), images).unwrap();
        std::fs::write(folder.join(format!("{name}-labels-idx1-ubyte")), labels).unwrap();
    };
    split("train", 128);
    split("t10k", 40);
    folder.to_str().unwrap().to_owned()
}

struct Place {
    folder: tempfile::TempDir,
    images: String,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("data")).unwrap();
        let images = dataset(&folder.path().join("data"));
        Self { folder, images }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The arguments of a training, its output named; more may follow.
    fn arguments(&self, out: &str, more: &[&str]) -> Vec<String> {
        let out = self.at(out).display().to_string();
        let fixed =
            ["train", "--network", "resnet20", "--dataset", &self.images, "--batch", "32", "--out", &out];
        fixed.iter().chain(more).map(|&argument| argument.to_owned()).collect()
    }

    fn run(&self, out: &str, more: &[&str]) -> crate::binary::Run {
        let arguments = self.arguments(out, more);
        reconvene(NOBODY, &arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }
}

#[test]
fn a_network_is_trained_and_logged() {
    let place = Place::new();
    let log = place.at("run.jsonl");
    let data = place
        .run(
            "m.onnx",
            &["--epochs", "3", "--learning-rate", "0.05", "--log", log.to_str().unwrap(), "-o", "json"],
        )
        .data();
    let report: serde_json::Value = serde_json::from_str(&data).unwrap();
    assert_eq!(report["testImages"], 40);
    assert_eq!(report["epochs"], 3);
    assert!(report["testAccuracy"].as_f64().unwrap() > 0.9, "light and dark are easily told apart: {data}");
    let lines: Vec<serde_json::Value> = std::fs::read_to_string(log)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 4);
    assert_eq!(
        (&lines[2]["epoch"], &lines[2]["step"], &lines[2]["steps"]),
        (&3.into(), &12.into(), &12.into())
    );
    assert!(lines[0]["loss"].as_f64().unwrap() > lines[2]["loss"].as_f64().unwrap());
    assert_eq!(lines[3]["test_accuracy"], report["testAccuracy"]);
}

#[test]
fn a_training_that_was_killed_goes_on_to_the_same_weights() {
    let place = Place::new();
    let checkpoint = place.at("run.ckpt");
    let more = ["--epochs", "8", "--checkpoint", checkpoint.to_str().unwrap()];
    let mut killed = Command::new(env!("CARGO_BIN_EXE_reconvene"))
        .args(place.arguments("killed.onnx", &more))
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let limit = Instant::now() + Duration::from_secs(120);
    while !checkpoint.exists() {
        assert!(Instant::now() < limit && killed.try_wait().unwrap().is_none(), "no checkpoint came");
        std::thread::yield_now();
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    let run = place.run("killed.onnx", &more);
    assert!(run.stderr.contains("going on after epoch "), "{run:?}");
    let _ = place.run("whole.onnx", &["--epochs", "8", "--threads", "1"]).data();
    let bytes = |name: &str| std::fs::read(place.at(name)).unwrap();
    assert!(bytes("killed.onnx") == bytes("whole.onnx"), "other weights");
    assert!(!checkpoint.exists());
}

#[test]
fn weights_alone_have_their_names() {
    let place = Place::new();
    let _ = place.run("m.safetensors", &["--epochs", "1"]).data();
    let file = std::fs::read(place.at("m.safetensors")).unwrap();
    let header = String::from_utf8_lossy(&file[8..4096]).into_owned();
    assert!(header.contains("\"bn1.running_mean\""), "{header}");
}

#[test]
fn what_cannot_be_is_said_in_one_line() {
    let place = Place::new();
    let checkpoint = place.at("run.ckpt");
    let with_checkpoint = ["--checkpoint", checkpoint.to_str().unwrap()];
    std::fs::write(&checkpoint, "no checkpoint").unwrap();
    let line = place.run("m.onnx", &with_checkpoint).complaint(65);
    assert!(line.contains("run.ckpt: ") && line.ends_with("give another file, or remove this one"), "{line}");
    assert!(checkpoint.exists(), "it is the user's");
    let line = place.run("m.onnx", &["--epochs", "0"]).complaint(2);
    assert!(line.contains("epochs"), "{line}");
    let diverged = place.run("m.onnx", &["--learning-rate", "1e30", "--epochs", "1"]);
    assert_eq!(diverged.code, 1, "{diverged:?}");
    assert!(diverged.stderr.ends_with("the loss is not finite; try a lower learning rate\n"), "{diverged:?}");
    let same = place.run("run.ckpt", &with_checkpoint).complaint(2);
    assert!(same.starts_with("--out and --checkpoint name the same file"), "{same}");
    let line = place.run("no/m.onnx", &[]).complaint(73);
    assert!(line.contains("there is no folder"), "{line}");
    let line = reconvene(NOBODY, &["train", "--network", "x", "--dataset", &place.images, "--out", "m"])
        .complaint(3);
    assert!(line.starts_with("there is no network 'x'"), "{line}");
    assert!(!place.at("m.onnx").exists());
}
