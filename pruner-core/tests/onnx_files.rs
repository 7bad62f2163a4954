//! Files that others made, from where `tests/peers/onnx_files.sh` puts them: each is imported, and its channels fall
//! into groups. Says so and does nothing where there are none.

use std::path::{Path, PathBuf};
use std::time::Instant;

use pruner_core::graph::cost::cost;
use pruner_core::graph::onnx::{BatchNorms, Import, Options, decode_with, encode};
use pruner_core::{Op, Shape};

fn folder() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/onnx-files");
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!("skipped: no files of others in {}; run tests/peers/onnx_files.sh", folder.display());
    None
}

fn import(path: &Path, input: Option<Shape>) -> Import {
    let bytes = std::fs::read(path).unwrap();
    let started = Instant::now();
    let import =
        decode_with(&bytes, Options { input }).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let took = started.elapsed();
    let graph = &import.network.graph;
    let groups = pruner_core::group::groups(graph);
    let free: usize = groups.iter().filter(|group| group.frozen.is_none()).map(|group| group.width).sum();
    let cost = cost(graph);
    eprintln!(
        "{}: {} nodes, {} opaque, {:.1?}, {} groups with {} prunable ({free} channels), {} parameters, {} MACs",
        path.file_name().unwrap().display(),
        graph.nodes().len(),
        import.notes.len(),
        took,
        groups.len(),
        groups.iter().filter(|group| group.frozen.is_none()).count(),
        cost.params,
        cost.macs,
    );
    import.notes.iter().for_each(|note| eprintln!("    {note}"));
    import
}

#[test]
fn files_of_others_are_imported() {
    let Some(folder) = folder() else { return };
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths.iter().filter(|path| path.extension().is_some_and(|extension| extension == "onnx")) {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let input = match name {
            "silero_vad" => {
                let error = decode_with(&std::fs::read(path).unwrap(), Options::default()).unwrap_err();
                eprintln!("{name}: {error}");
                continue;
            }
            "320n" => Some(Shape::new(3, 320, 320)),
            "ch_PP-OCRv4_det_infer" => Some(Shape::new(3, 320, 320)),
            "ch_PP-OCRv4_rec_infer" => Some(Shape::new(3, 48, 320)),
            "ch_ppocr_mobile_v2.0_cls_infer" => Some(Shape::new(3, 48, 192)),
            _ => None,
        };
        let import = import(path, input);
        let again = encode(&import.network, BatchNorms::Kept).unwrap();
        std::fs::write(folder.join(format!("{name}.again")), &again).unwrap();
        assert!(import.network.graph.nodes().iter().any(|node| matches!(node.op, Op::Conv(_))), "{name}");
    }
}
