//! Files that others made, from where `tests/peers/onnx_files.sh` puts them: what is carried through in each, how many
//! groups of its channels can be pruned, and the same numbers as another engine computes from the file. Where there are
//! none, the test says so and does nothing.
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that says what it found and what it skips"
)]

use std::path::{Path, PathBuf};
use std::time::Instant;

use pruner_core::exec::{ExecError, Executor, ParamLayout};
use pruner_core::graph::onnx::{BatchNorms, Import, Options, decode, decode_with, encode};
use pruner_core::group::groups;
use pruner_core::{Network, Shape};
use rten::{Model, Value};
use rten_tensor::Tensor;
use rten_tensor::prelude::*;

/// A file's name, the image's shape where the file leaves it open, the nodes that are carried through, and the groups
/// that can be pruned.
type Expected = (&'static str, Option<Shape>, usize, usize);

const PACKAGES: [Expected; 5] = [
    // The last layers decode boxes.
    ("320n", Some(Shape::new(3, 320, 320)), 19, 59),
    // A detector's transposed convolutions.
    ("ch_PP-OCRv4_det_infer", Some(Shape::new(3, 320, 320)), 2, 186),
    // Two transformer blocks.
    ("ch_PP-OCRv4_rec_infer", Some(Shape::new(3, 48, 320)), 108, 195),
    ("ch_ppocr_mobile_v2.0_cls_infer", Some(Shape::new(3, 48, 192)), 0, 62),
    // Its image has the channels last.
    ("open-nsfw", None, 1, 37),
];

/// torchvision's, each with batch norms folded and kept.
const TORCHVISION: [Expected; 11] = [
    ("resnet18", None, 0, 12),
    ("mobilenet_v2", None, 0, 25),
    ("mobilenet_v3_small", None, 0, 27),
    ("shufflenet_v2_x1_0", None, 0, 39),
    ("squeezenet1_1", None, 0, 25),
    ("densenet121", None, 0, 120),
    ("efficientnet_b0", None, 0, 40),
    ("mnasnet0_5", None, 0, 25),
    ("regnet_y_400mf", None, 0, 53),
    ("googlenet", None, 0, 57),
    ("inception_v3", None, 0, 94),
];

fn file(name: &str) -> Option<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/onnx-files");
    let path: PathBuf = folder.join(format!("{name}.onnx"));
    let bytes = std::fs::read(&path).ok();
    if bytes.is_none() {
        eprintln!("skipped: {} is not there; run tests/peers/onnx_files.sh", path.display());
    }
    bytes
}

/// Imports a file and checks everything about it.
fn check((name, input, opaque, prunable): Expected, bytes: &[u8]) {
    let started = Instant::now();
    let import = decode_with(bytes, Options { input }).unwrap_or_else(|error| panic!("{name}: {error}"));
    let took = started.elapsed();
    let Import { network, notes } = &import;
    let free = groups(&network.graph).iter().filter(|group| group.frozen.is_none()).count();
    let nodes = network.graph.nodes().len();
    eprintln!(
        "{name}: {nodes} nodes, {} carried through, {free} groups to prune, in {took:.1?}",
        notes.len()
    );
    notes.iter().for_each(|note| eprintln!("    {note}"));
    assert_eq!((notes.len(), free), (opaque, prunable), "{name}");
    let written = encode(network, BatchNorms::Folded).unwrap();
    let (read, written) = (theirs(bytes, network), theirs(&written, network));
    match (ours(network), read, written) {
        (Some(ours), Some(read), Some(written)) => {
            assert_close(&format!("{name}, as read by another engine"), &ours, &read);
            assert_close(&format!("{name}, as written by us"), &ours, &written);
        }
        (None, Some(read), Some(written)) => {
            assert_close(&format!("{name}, as written by us"), &read, &written)
        }
        (_, read, written) => {
            let runs = |output: Option<Vec<f32>>| if output.is_some() { "runs" } else { "does not run" };
            eprintln!(
                "    not compared: the other engine {} the file and {} ours",
                runs(read),
                runs(written)
            );
        }
    }
}

const BATCH: usize = 2;

/// Numbers of about unit deviation, the same every time.
fn images(network: &Network) -> Vec<f32> {
    let numbers = BATCH * network.graph.input_shape().numel();
    (0..numbers as u32)
        .map(|at| ((at.wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0) * 1.7)
        .collect()
}

fn ours(network: &Network) -> Option<Vec<f32>> {
    let mut executor = match Executor::new(&network.graph, BATCH) {
        Ok(executor) => executor,
        Err(ExecError::Unsupported { .. }) => return None,
        Err(error) => panic!("{error}"),
    };
    let params: Vec<f32> = ParamLayout::of(&network.graph).gather(&network.weights).unwrap();
    Some(executor.forward_eval(&params, &images(network), BATCH).to_vec())
}

/// By an engine that is not ours.
fn theirs(bytes: &[u8], network: &Network) -> Option<Vec<f32>> {
    let model = Model::load(bytes.to_vec()).ok()?;
    let Shape { channels, height, width } = network.graph.input_shape();
    let image = Value::from_shape([BATCH, channels, height, width], images(network)).unwrap();
    let (from, to) = (*model.input_ids().first()?, *model.output_ids().first()?);
    let [output] = model.run_n(vec![(from, image.into())], [to], None).ok()?;
    Some(Tensor::<f32>::try_from(output).ok()?.to_vec())
}

fn assert_close(what: &str, ours: &[f32], theirs: &[f32]) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    let scale = ours.iter().fold(0.0, |scale: f32, number| scale.max(number.abs()));
    let error = ours.iter().zip(theirs).fold(0.0, |error: f32, (a, b)| error.max((a - b).abs()));
    eprintln!("    {what}: off by {error:.1e} of {scale:.1e}");
    assert!(error <= 1e-3 * scale, "{what}: off by {error} of {scale}");
}

#[test]
fn networks_from_packages_are_imported() {
    for expected in PACKAGES {
        if let Some(bytes) = file(expected.0) {
            check(expected, &bytes);
        }
    }
}

#[test]
fn torchvisions_networks_are_imported() {
    for expected in TORCHVISION {
        for ending in ["", "-norms"] {
            if let Some(bytes) = file(&format!("{}{ending}", expected.0)) {
                check(expected, &bytes);
            }
        }
    }
}

#[test]
fn control_flow_is_refused_by_its_name() {
    if let Some(bytes) = file("silero_vad") {
        let error = decode(&bytes).unwrap_err().to_string();
        assert!(error.starts_with("node 'If_0' (If) holds a graph of its own (control flow)"), "{error}");
    }
}
