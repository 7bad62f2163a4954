//! How fast networks run, one image at a time on one thread: in the agents' engine, and in onnxruntime where it is.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use pruner_core::Network;
use pruner_core::dataset::{self, Dataset};
use pruner_core::graph::onnx::{self, BatchNorms};
use rten::{Model, ModelOptions, RunOptions, ThreadPool, op_registry};
use rten_tensor::NdTensorView;

use super::arm::Arm;
use super::results::{Results, Timed};
use super::train::{dense, prune};
use crate::dataset::fashion_mnist;

/// Of several sweeps the quietest counts: other work on the machine only ever slows one down.
const SWEEPS: usize = 7;
const PER_SWEEP: Duration = Duration::from_millis(200);
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/onnxruntime_time.py");

/// Times the shapes of every result that have no time yet, each beside its dense network.
pub(super) fn time_all(results: &mut Results, cache: &Path) -> Result<()> {
    let mut wanted: Vec<Arm> = Vec::new();
    for trained in results.trained() {
        let known = results.timed(&trained.arm).is_some();
        if !known && !wanted.iter().any(|arm| arm.is_shaped_like(&trained.arm)) {
            wanted.push(trained.arm.clone());
        }
    }
    if wanted.is_empty() {
        return Ok(());
    }
    let dataset = super::padded(&dataset::read_idx(&fashion_mnist(cache)?)?);
    for arm in wanted {
        let (own, whole) = networks(&arm, &dataset)?;
        let [rten_ms, dense_rten_ms] = in_rten([&own, &whole])?;
        let [onnxruntime_ms, dense_onnxruntime_ms] = in_onnxruntime([&own, &whole], cache)?;
        let timed = Timed { arm, rten_ms, dense_rten_ms, onnxruntime_ms, dense_onnxruntime_ms };
        results.add_timed(timed)?;
    }
    Ok(())
}

/// An arm's network and its dense one: what they compute does not matter here, so neither is trained.
fn networks(arm: &Arm, dataset: &Dataset) -> Result<(Network, Network)> {
    let dataset = dataset.with_train(arm.images);
    let whole = dense(arm, &dataset)?;
    Ok((prune(arm, &whole, &dataset)?.network, whole))
}

/// Medians in milliseconds; the networks take turns.
fn in_rten(networks: [&Network; 2]) -> Result<[f64; 2]> {
    let ops = || op_registry!(Add, AveragePool, Conv, Flatten, Gemm, GlobalAveragePool, MaxPool, Relu);
    let load = |network: &Network| -> Result<Model> {
        Ok(ModelOptions::with_ops(ops()).load(onnx::encode(network, BatchNorms::Folded)?)?)
    };
    let models = [load(networks[0])?, load(networks[1])?];
    let pool = Arc::new(ThreadPool::with_num_threads(1));
    let options = RunOptions::default().with_thread_pool(Some(pool));
    let mut quietest = [f64::INFINITY; 2];
    // The first sweep warms up.
    for sweep in 0..=SWEEPS {
        for ((model, network), quietest) in models.iter().zip(networks).zip(&mut quietest) {
            let shape = network.graph.input_shape();
            let image = vec![0.5_f32; shape.numel()];
            let (input, output) = (model.input_ids()[0], model.output_ids()[0]);
            let mut times = Vec::new();
            let began = Instant::now();
            while began.elapsed() < PER_SWEEP || times.len() < 5 {
                let view =
                    NdTensorView::from_data([1, shape.channels, shape.height, shape.width], image.as_slice());
                let start = Instant::now();
                model.run(vec![(input, view.into())], &[output], Some(options.clone()))?;
                times.push(1e3 * start.elapsed().as_secs_f64());
            }
            times.sort_by(f64::total_cmp);
            if sweep > 0 {
                *quietest = quietest.min(times[times.len() / 2]);
            }
        }
    }
    Ok(quietest)
}

/// The same by `tests/peers/onnxruntime.sh`'s installation, `None` without it.
fn in_onnxruntime(networks: [&Network; 2], cache: &Path) -> Result<[Option<f64>; 2]> {
    let packages = cache.parent().unwrap_or(cache).join("peers");
    if !packages.join("onnxruntime").is_dir() {
        return Ok([None, None]);
    }
    let folder = tempfile::tempdir()?;
    let mut files = Vec::new();
    for (index, network) in networks.iter().enumerate() {
        let file = folder.path().join(format!("{index}.onnx"));
        std::fs::write(&file, onnx::encode(network, BatchNorms::Folded)?)?;
        files.push(file);
    }
    let python = Command::new("python3")
        .arg(SCRIPT)
        .args(&files)
        .env("PYTHONPATH", &packages)
        .output()
        .context("starting python3")?;
    if !python.status.success() {
        bail!("onnxruntime: {}", String::from_utf8_lossy(&python.stderr));
    }
    let text = String::from_utf8_lossy(&python.stdout).into_owned();
    let times = text.split_whitespace().map(str::parse).collect::<Result<Vec<f64>, _>>()?;
    let [first, second] = times[..] else { bail!("onnxruntime printed '{text}' instead of two times") };
    Ok([Some(first), Some(second)])
}
