//! How well the latency model predicts this machine: fits it to the probes as rten runs them on one thread, then
//! compares its predictions for networks that it never saw with their measured times.
//! `cargo run --release -p pruner-core --example latency_fit`. Of several sweeps over all networks the quietest counts
//! for each, because other work on the machine only ever slows one down.

#![expect(clippy::print_stdout, reason = "an example prints its numbers")]

use std::collections::BTreeMap;
use std::error::Error;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pruner_core::budget::Budget;
use pruner_core::graph::cost::cost;
use pruner_core::graph::onnx::{self, BatchNorms};
use pruner_core::latency::{Latency, LatencyModel};
use pruner_core::pruning::Pruning;
use pruner_core::zoo::{self, ZooNetwork};
use pruner_core::{Network, Shape, init};
use rten::{Model, ModelOptions, RunOptions, ThreadPool, op_registry};
use rten_tensor::NdTensorView;

/// Sweeps over all networks; in each a network runs for at least this long and so many times.
const SWEEPS: usize = 12;
const PER_SWEEP: Duration = Duration::from_millis(60);
const RUNS: usize = 20;

fn main() -> Result<(), Box<dyn Error>> {
    let lanes = std::env::args().nth(1).map_or(Ok(16), |lanes| lanes.parse())?;
    let probes = zoo::probes().into_iter().map(|probe| (probe.name, probe.network)).collect::<Vec<_>>();
    let unseen = unseen()?;
    let engines = probes
        .iter()
        .chain(&unseen)
        .map(|(_, network)| Engine::load(network))
        .collect::<Result<Vec<_>, _>>()?;
    let times = measure(&engines)?;
    let (of_probes, of_unseen) = times.split_at(probes.len());

    let samples: Vec<_> =
        probes.iter().zip(of_probes).map(|((_, network), &time)| (&network.graph, time)).collect();
    let model = LatencyModel::fit(lanes, &samples)?;
    println!(
        "{:<28} {:>9} {:>9} {:>8} {:>9} {:>8}",
        "network", "kMACs", "p50 ms", "error", "p95 ms", "error"
    );
    compare("probes, fitted", &model, &probes, of_probes);
    compare("unseen", &model, &unseen, of_unseen);
    println!("{model:?}");
    Ok(())
}

/// Networks that no probe is: the zoo's, and ResNet-20 and VGG-16 pruned to several sizes and vector widths.
fn unseen() -> Result<Vec<(String, Network)>, Box<dyn Error>> {
    let mut networks = Vec::new();
    for (which, shape, divisors) in [
        (ZooNetwork::ResNet20, Shape::new(1, 28, 28), [2.0, 4.0, 8.0, 16.21].as_slice()),
        (ZooNetwork::ResNet20, Shape::new(3, 32, 32), [2.0, 8.0].as_slice()),
        (ZooNetwork::Vgg16Bn, Shape::new(3, 32, 32), [16.21, 64.0].as_slice()),
    ] {
        let graph = zoo::build(which, shape, 10)?;
        let network = Network { weights: init::init(&graph, 1), graph };
        let pruning = Pruning { rounds: 5, ..Pruning::default() };
        let planner = pruning.planner(&network, None, &mut |_, _| ControlFlow::Continue(()))?;
        for divisor in divisors {
            let params = (cost(&network.graph).params as f64 / divisor) as u64;
            let budget = Budget { params: Some(params), ..Budget::default() };
            for round_to in [1, 4, 16] {
                let plan = planner.plan(&budget, None, round_to)?;
                let pruned = pruning.carry_out(&network, &plan)?;
                networks.push((
                    format!("{which}-{}x{} /{divisor} r{round_to}", shape.channels, shape.height),
                    pruned,
                ));
            }
        }
        networks.push((format!("{which}-{}x{}", shape.channels, shape.height), network));
    }
    Ok(networks)
}

/// Prints a section: measured times, and how far the predictions are off. Positive: predicted slower than measured.
fn compare(title: &str, model: &LatencyModel, networks: &[(String, Network)], times: &[Latency]) {
    println!("-- {title}");
    let mut errors = BTreeMap::<&str, Vec<f64>>::new();
    for ((name, network), time) in networks.iter().zip(times) {
        let predicted = model.predict(&network.graph);
        let p50 = predicted.p50_ms / time.p50_ms - 1.0;
        let p95 = predicted.p95_ms / time.p95_ms - 1.0;
        let kmacs = cost(&network.graph).macs / 1000;
        println!(
            "{name:<28} {kmacs:>9} {:>9.4} {:>+7.1}% {:>9.4} {:>+7.1}%",
            time.p50_ms,
            100.0 * p50,
            time.p95_ms,
            100.0 * p95
        );
        errors.entry("p50").or_default().push(p50.abs());
        errors.entry("p95").or_default().push(p95.abs());
    }
    for (percentile, errors) in errors {
        let mean = errors.iter().sum::<f64>() / errors.len() as f64;
        let worst = errors.iter().copied().fold(0.0, f64::max);
        println!("{percentile}: mean error {:.1} %, worst {:.1} %", 100.0 * mean, 100.0 * worst);
    }
}

/// A network as a device runs it.
struct Engine {
    model: Model,
    options: RunOptions,
    shape: Shape,
}

impl Engine {
    fn load(network: &Network) -> Result<Self, Box<dyn Error>> {
        let ops = op_registry!(Add, AveragePool, Conv, Flatten, Gemm, GlobalAveragePool, MaxPool, Relu);
        let model = ModelOptions::with_ops(ops).load(onnx::encode(network, BatchNorms::Folded)?)?;
        let pool = Arc::new(ThreadPool::with_num_threads(1));
        let options = RunOptions::default().with_thread_pool(Some(pool));
        Ok(Self { model, options, shape: network.graph.input_shape() })
    }

    /// Seconds of each of at least [`RUNS`] runs.
    fn sweep(&self) -> Result<Vec<f64>, Box<dyn Error>> {
        let image = vec![0.5_f32; self.shape.numel()];
        let Shape { channels, height, width } = self.shape;
        let (input, output) = (self.model.input_ids()[0], self.model.output_ids()[0]);
        let mut times = Vec::new();
        let began = Instant::now();
        while times.len() < RUNS || began.elapsed() < PER_SWEEP {
            let view = NdTensorView::from_data([1, channels, height, width], image.as_slice());
            let start = Instant::now();
            self.model.run(vec![(input, view.into())], &[output], Some(self.options.clone()))?;
            times.push(start.elapsed().as_secs_f64());
        }
        Ok(times)
    }
}

/// The quietest sweep of each.
fn measure(engines: &[Engine]) -> Result<Vec<Latency>, Box<dyn Error>> {
    let mut quietest = vec![Latency { p50_ms: f64::INFINITY, p95_ms: f64::INFINITY }; engines.len()];
    for sweep in 0..=SWEEPS {
        for (engine, quietest) in engines.iter().zip(&mut quietest) {
            let mut times = engine.sweep()?;
            times.sort_by(f64::total_cmp);
            let at = |share: f64| 1e3 * times[(share * (times.len() - 1) as f64) as usize];
            // The first sweep warms up.
            if sweep > 0 && at(0.95) < quietest.p95_ms {
                *quietest = Latency { p50_ms: at(0.5), p95_ms: at(0.95) };
            }
        }
    }
    Ok(quietest)
}
