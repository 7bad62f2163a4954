//! `model import`: the file goes up in chunks, and what comes back is said.

use crate::binary::reconvene;
use crate::fake::Fake;
use crate::fleet::replies;

#[test]
fn a_file_is_imported_under_its_own_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gate.onnx");
    std::fs::write(&file, vec![7; 600_000]).unwrap();
    let coordinator = Fake::start(replies());
    let run = reconvene(&coordinator.url, &["model", "import", file.to_str().unwrap()]);
    assert!(run.stderr.contains("'head' (Einsum) is carried through unchanged"), "{run:?}");
    let line = run.data();
    assert!(line.starts_with("gate imported: 3x32x32 images, 10 classes, 272,474 parameters"), "{line}");
    assert!(line.trim_end().ends_with("585.9Ki"), "every chunk arrived: {line}");
}

#[test]
fn a_file_that_is_not_there_or_empty() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty.onnx");
    std::fs::write(&empty, []).unwrap();
    let coordinator = Fake::start(replies());
    let line = reconvene(&coordinator.url, &["model", "import", "missing.onnx"]).complaint(65);
    assert!(line.starts_with("cannot read missing.onnx: "), "{line}");
    let line = reconvene(&coordinator.url, &["model", "import", empty.to_str().unwrap()]).complaint(65);
    assert!(line.ends_with("empty.onnx is empty"), "{line}");
}
