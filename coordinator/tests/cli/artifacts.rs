//! `artifact export` and `import-weights`: files go out whole or not at all, and come in by their chunks.

use crate::binary::reconvene;
use crate::fake::Fake;
use crate::fleet::replies;

#[test]
fn a_network_is_written_to_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("m.onnx");
    let coordinator = Fake::start(replies());
    let name = replies().artifacts[0].digest[..12].to_owned();
    let run = reconvene(&coordinator.url, &["artifact", "export", &name, "--out", out.to_str().unwrap()]);
    assert!(run.stderr.contains("390.6Ki of resnet20, trained; it reads 1x28x28 images"), "{run:?}");
    assert!(run.stderr.contains("mean [0.25] and std [0.5]"), "{run:?}");
    assert_eq!(run.data().trim_end(), replies().artifacts[0].digest);
    assert_eq!(std::fs::read(&out).unwrap(), "onnx".repeat(100_000).into_bytes());
}

#[test]
fn a_file_that_arrives_otherwise_than_announced_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("m.safetensors");
    let coordinator = Fake::start(replies());
    let name = replies().artifacts[0].digest[..12].to_owned();
    let arguments = ["artifact", "export", &name, "--format", "safetensors", "--out", out.to_str().unwrap()];
    let line = reconvene(&coordinator.url, &arguments).complaint(1);
    assert!(line.contains("nothing was written"), "{line}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    let line = reconvene(&coordinator.url, &["artifact", "export", "ffff", "--out", "m.onnx"]).complaint(3);
    assert_eq!(line, "no network 'ffff'");
    let unwritable = ["artifact", "export", &name, "--out", "/no/folder/m.onnx"];
    let line = reconvene(&coordinator.url, &unwritable).complaint(73);
    assert!(line.starts_with("cannot write /no/folder/m.onnx: "), "{line}");
}

#[test]
fn weights_are_handed_in_and_a_poor_accuracy_is_remarked_upon() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator = Fake::start(replies());
    let name = replies().artifacts[0].digest[..12].to_owned();
    let import = |length: usize| {
        let file = folder.path().join(format!("{length}.safetensors"));
        std::fs::write(&file, vec![7; length]).unwrap();
        reconvene(&coordinator.url, &["artifact", "import-weights", &name, file.to_str().unwrap()])
    };
    let good = import(900_000);
    assert!(good.stderr.is_empty(), "{good:?}");
    assert!(good.data().trim_end().ends_with("imported: accuracy 90.00% on 10,000 test images"));
    assert!(import(120_000).stderr.contains("hardly better than guessing"));
    assert!(import(0).complaint(65).ends_with(" is empty"));
    let line = reconvene(&coordinator.url, &["artifact", "import-weights", &name, "missing"]).complaint(65);
    assert!(line.starts_with("cannot read missing: "), "{line}");
}
