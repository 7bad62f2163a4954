//! The rebuilt network against the dense one in which nobody listens to the dropped channels, both run by onnxruntime
//! from the files that we write: every network of the zoo, and the files that `tests/peers/onnx_files.sh` fetched.
//! Where `tests/peers/onnxruntime.sh` has not put onnxruntime, the test says so and does nothing.
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that says what it found and what it skips"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

use candle_core::{Device, Tensor};
use pruner_core::graph::Batch;
use pruner_core::graph::onnx::{BatchNorms, decode, encode};
use pruner_core::group::{Keep, Member, groups};
use pruner_core::zoo::{self, ZooNetwork};
use pruner_core::{Graph, Network, Shape, init, surgery};

/// Images in one call, where the file leaves that open.
const BATCH: usize = 2;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn python() -> Command {
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", root().join("target/peers"));
    python
}

fn is_installed() -> bool {
    let found = python().args(["-c", "import onnxruntime"]).output();
    let found = found.is_ok_and(|output| output.status.success());
    if !found {
        eprintln!("skipped: no onnxruntime in target/peers; run tests/peers/onnxruntime.sh");
    }
    found
}

/// Every second channel of every group that may shrink.
fn half(graph: &Graph) -> Keep {
    let free = groups(graph).into_iter().filter(|group| group.frozen.is_none() && group.width > 1);
    free.map(|group| (group.id, (0..group.width).step_by(2).collect())).collect()
}

/// What convolutions and linear layers weigh a dropped channel with is zero.
fn silenced(network: &Network, keep: &Keep) -> Network {
    let mut network = network.clone();
    for group in groups(&network.graph) {
        let Some(kept) = keep.get(&group.id) else { continue };
        for Member { tensor, block, indices, .. } in group.members.iter().filter(|member| member.dim == 1) {
            let before = &network.weights[tensor];
            let (length, row) = (before.dims()[1], before.dims()[2..].iter().product::<usize>());
            let mut listens = vec![true; length];
            for (channel, indices) in indices.chunks(*block).enumerate() {
                let stays = kept.binary_search(&channel).is_ok();
                indices.iter().for_each(|index| listens[*index] = stays);
            }
            let mut values: Vec<f32> = before.flatten_all().unwrap().to_vec1().unwrap();
            for (at, values) in values.chunks_exact_mut(row).enumerate() {
                if !listens[at % length] {
                    values.fill(0.0);
                }
            }
            let after = Tensor::from_vec(values, before.dims(), &Device::Cpu).unwrap();
            network.weights.insert(tensor.clone(), after);
        }
    }
    network
}

fn outputs(name: &str, network: &Network) -> Vec<f32> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("onnxruntime-{name}"));
    std::fs::create_dir_all(&folder).unwrap();
    let place = |file: &str| folder.join(file);
    let Shape { channels, height, width } = network.graph.input_shape();
    let image = |at: usize| ((at * 7919 % 1009) as f32 / 504.5 - 1.0).to_le_bytes();
    let batch = match network.graph.interface().batch {
        Batch::Any(_) => BATCH,
        Batch::Fixed(size) => size,
    };
    let images: Vec<u8> = (0..batch * channels * height * width).flat_map(image).collect();
    std::fs::write(place("input"), images).unwrap();
    std::fs::write(place("model.onnx"), encode(network, BatchNorms::Kept).unwrap()).unwrap();
    let dimensions = [batch, channels, height, width].map(|dimension| dimension.to_string());
    let ran = python()
        .arg(root().join("tests/peers/onnxruntime_run.py"))
        .args([place("model.onnx"), place("input"), place("output")])
        .args(dimensions)
        .output()
        .unwrap();
    assert!(ran.status.success(), "{name}: {}", String::from_utf8_lossy(&ran.stderr));
    let bytes = std::fs::read(place("output")).unwrap();
    std::fs::remove_dir_all(folder).unwrap();
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

fn check(name: &str, network: &Network) {
    let keep = half(&network.graph);
    let dense = outputs(name, &silenced(network, &keep));
    let rebuilt = outputs(name, &surgery::apply(network, &keep).unwrap());
    assert_eq!(dense.len(), rebuilt.len(), "{name}");
    let scale = dense.iter().fold(f32::MIN_POSITIVE, |scale, value| scale.max(value.abs()));
    let off = dense.iter().zip(&rebuilt).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / scale;
    eprintln!("{name}: {} groups halved, largest difference {off:.1e} of the largest output", keep.len());
    assert!(off <= 1e-4, "{name}: {off}");
}

#[test]
fn the_zoo_is_rebuilt_exactly() {
    if !is_installed() {
        return;
    }
    for which in ZooNetwork::ALL {
        let graph = zoo::build(which, Shape::new(3, 32, 32), 10).unwrap();
        check(&which.to_string(), &Network { weights: init::init(&graph, 1), graph });
    }
}

#[test]
fn files_that_others_made_are_rebuilt_exactly() {
    let files = std::fs::read_dir(root().join("target/onnx-files"));
    let Ok(files) = files else {
        eprintln!("skipped: no files in target/onnx-files; run tests/peers/onnx_files.sh");
        return;
    };
    if !is_installed() {
        return;
    }
    for path in files.map(|entry| entry.unwrap().path()) {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if !name.ends_with(".onnx") {
            continue;
        }
        // Files whose image has no fixed size are tried in `onnx_files.rs`, and so are those that are refused.
        if let Ok(import) = decode(&std::fs::read(&path).unwrap()) {
            check(name, &import.network);
        }
    }
}
