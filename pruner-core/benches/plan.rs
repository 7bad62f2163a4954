//! How long a plan takes once a network is scored: one, a thousand for different budgets, and the way from a plan to an
//! ONNX file. `cargo bench -p pruner-core --bench plan`; the fastest of several runs is printed, because other work on
//! the machine only ever slows one down.

#![expect(clippy::print_stdout, reason = "a benchmark prints its numbers")]

use std::hint::black_box;
use std::ops::ControlFlow;
use std::time::Instant;

use pruner_core::budget::Budget;
use pruner_core::graph::cost::cost;
use pruner_core::graph::onnx::{self, BatchNorms};
use pruner_core::latency::{Latency, LatencyModel};
use pruner_core::plan::Planner;
use pruner_core::pruning::Pruning;
use pruner_core::saliency::Criterion;
use pruner_core::zoo::{self, ZooNetwork};
use pruner_core::{Graph, Network, Shape, init};

fn main() {
    let device = device();
    for (which, shape) in [
        (ZooNetwork::Vgg16Bn, Shape::new(3, 32, 32)),
        (ZooNetwork::ResNet20, Shape::new(3, 32, 32)),
        (ZooNetwork::ResNet50, Shape::new(3, 224, 224)),
    ] {
        let graph = zoo::build(which, shape, 10).expect("the zoo's networks take such images");
        let network = Network { weights: init::init(&graph, 1), graph };
        // What the scores are does not change how long a plan takes; magnitudes are had at once.
        let pruning = Pruning { criterion: Criterion::Magnitude, rounds: 1, ..Pruning::default() };
        let planner = pruning.planner(&network, None, &mut |_, _| ControlFlow::Continue(()));
        let planner = planner.expect("fresh weights");
        println!("{which} on {shape}");
        plans(&planner, &network.graph, &device);
        rebuild(&pruning, &planner, &network);
    }
}

/// A device whose time is what an engine of one core could take.
fn device() -> LatencyModel {
    let probes = zoo::probes();
    let time = |graph: &Graph| {
        let ms = 0.05 + cost(graph).macs as f64 / 2e7;
        Latency { p50_ms: ms, p95_ms: 1.1 * ms }
    };
    let graphs = probes.iter().map(|probe| (&probe.network.graph, time(&probe.network.graph)));
    LatencyModel::fit(16, &graphs.collect::<Vec<_>>()).expect("enough probes")
}

/// The shortest of `runs` times of `work`, in milliseconds.
fn fastest_ms(runs: usize, mut work: impl FnMut()) -> f64 {
    let time = |_| {
        let start = Instant::now();
        work();
        start.elapsed().as_secs_f64() * 1e3
    };
    (0..runs).map(time).fold(f64::INFINITY, f64::min)
}

fn plans(planner: &Planner, graph: &Graph, device: &LatencyModel) {
    let (dense, slow) = (cost(graph), device.predict(graph).p95_ms);
    let share = |figure: u64, share: f64| Some((figure as f64 * share) as u64);
    let params = |by: f64| Budget { params: share(dense.params, by), ..Budget::default() };
    let all = |by: f64| Budget {
        params: share(dense.params, by),
        macs: share(dense.macs, by),
        bytes: share(dense.bytes, by),
        memory_bytes: share(dense.memory_bytes, by),
        latency_p95_ms: Some(slow * by),
        ..Budget::default()
    };
    let plan = |budget: &Budget| black_box(planner.plan(budget, Some(device), 1)).is_ok();
    let one = fastest_ms(20, || assert!(plan(&params(1.0 / 16.21))));
    println!("  one plan to a sixteenth of the parameters: {one:.2} ms");
    let one = fastest_ms(20, || {
        plan(&all(0.25));
    });
    println!("  one plan under every ceiling at a quarter: {one:.2} ms");
    let (before, start) = (resident_kib(), Instant::now());
    let met = (0..1000).filter(|step| plan(&all(f64::from(step + 1) / 1000.0))).count();
    let seconds = start.elapsed().as_secs_f64();
    let grown = resident_kib().saturating_sub(before);
    println!("  1,000 budgets: {seconds:.2} s, {met} met, resident memory {grown} KiB more");
}

fn rebuild(pruning: &Pruning, planner: &Planner, network: &Network) {
    let params = cost(&network.graph).params as f64 / 16.21;
    let budget = Budget { params: Some(params as u64), ..Budget::default() };
    let plan = planner.plan(&budget, None, 1).expect("a sixteenth can be had");
    let all = fastest_ms(5, || {
        let pruned = pruning.carry_out(network, &plan).expect("the plan is of this network");
        black_box(onnx::encode(&pruned, BatchNorms::Folded).expect("surgery leaves whole tensors"));
    });
    println!("  surgery, fresh weights and ONNX of that sixteenth: {all:.1} ms");
}

/// Memory of this process that is in use; 0 where the kernel does not say.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}
