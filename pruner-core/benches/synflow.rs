//! How fast synaptic flow scores a network: seconds for 100 rounds on 1 and 2 threads, the most memory that took, and the
//! ratio to the same in PyTorch where that is installed. `cargo bench -p pruner-core --bench synflow`.
//! Every network has a process of its own, so that the memory is its own; of several runs the fastest counts.

#![expect(clippy::print_stdout, reason = "a benchmark prints its numbers")]

#[path = "peer/pytorch.rs"]
mod pytorch;

use std::ops::ControlFlow;
use std::process::Command;
use std::time::Instant;

use pruner_core::graph::{Network, Shape};
use pruner_core::init::init;
use pruner_core::saliency::{Criterion, ScoreRecipe, score};
use pruner_core::zoo::{ZooNetwork, build};

const ROUNDS: u32 = 100;
const RUNS: usize = 3;
const NETWORKS: [&str; 3] = ["vgg16-bn", "resnet20", "resnet18"];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [mode, network] = arguments.as_slice()
        && mode == "measure"
    {
        return measure(network);
    }
    let chosen: Vec<&str> = NETWORKS
        .into_iter()
        .filter(|name| arguments.is_empty() || arguments.iter().any(|a| a == name))
        .collect();
    let python = pytorch::python();
    if python.is_none() {
        println!("PyTorch is not installed (Debian: python3-torch), so no ratio to it is printed");
    }
    for network in chosen {
        let own = std::env::current_exe().expect("this program has a path");
        let measured =
            Command::new(own).args(["measure", network]).output().expect("this program can be run");
        let measured = String::from_utf8_lossy(&measured.stdout).into_owned();
        print!("{measured}");
        let seconds: Vec<f64> = measured.lines().filter_map(seconds).collect();
        if let Some(python) = python {
            compare(python, network, &seconds);
        }
    }
}

/// One network in this process: a line per number of threads, then the memory. The numbers take turns, so that other
/// work on the machine, which comes and goes, slows neither down alone.
fn measure(name: &str) {
    let network = network(name);
    let threads = [2, 1];
    let pools = threads.map(|threads| {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads can be started")
    });
    let mut fastest = [f64::INFINITY; 2];
    // The memory is that of one scoring on 2 threads: an allocator keeps for each thread what others could have used.
    let mut memory = None;
    for _ in 0..RUNS {
        for (fastest, pool) in fastest.iter_mut().zip(&pools) {
            *fastest = fastest.min(pool.install(|| run(&network)));
            memory.get_or_insert_with(peak);
        }
    }
    let [two, one] = fastest;
    for (threads, seconds) in [(1, one), (2, two)] {
        println!("{name}, {threads} threads: {seconds:.3} s for {ROUNDS} rounds");
    }
    println!(
        "{name}: {:.2} times as fast on 2 threads, peak memory {}",
        one / two,
        memory.unwrap_or_default()
    );
}

/// The seconds that [`measure`] printed in a line.
fn seconds(line: &str) -> Option<f64> {
    line.split_once(" threads: ")?.1.split_once(" s ")?.0.parse().ok()
}

fn run(network: &Network) -> f64 {
    let recipe = ScoreRecipe { criterion: Criterion::SynFlow, rounds: ROUNDS, density: 1.0 / 16.21, seed: 0 };
    let start = Instant::now();
    let scores = score(network, &recipe, &mut |_, _| ControlFlow::Continue(()));
    std::hint::black_box(scores.expect("finite weights have scores"));
    start.elapsed().as_secs_f64()
}

/// The most memory that this process ever held, as Linux counts it.
fn peak() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes: Option<u64> = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
    kibibytes.map_or("unknown".to_owned(), |kibibytes| format!("{} MB", kibibytes * 1024 / 1_000_000))
}

/// Prints PyTorch's times; of its slow networks only some rounds are run and the rest is in proportion.
fn compare(python: &str, network: &str, ours: &[f64]) {
    let done = if network == "resnet20" { "100" } else { "5" };
    for (threads, ours) in [1, 2].into_iter().zip(ours) {
        let threads = threads.to_string();
        match pytorch::numbers(python, "synflow_torch.py", &[network, "--threads", &threads, "--done", done])
        {
            Ok(theirs) => println!(
                "{network}, {threads} threads: {:.2} s in PyTorch (from {done} rounds), {:.1} times as long",
                theirs[0],
                theirs[0] / ours
            ),
            Err(problem) => println!("{network}: PyTorch failed: {problem}"),
        }
    }
}

/// ResNet-18 with a 3x3 stem and no pooling behind it reads 64x64 images of 200 classes, the others CIFAR's.
fn network(name: &str) -> Network {
    let (which, shape, classes) = match name {
        "resnet18" => (ZooNetwork::ResNet18Cifar, Shape::new(3, 64, 64), 200),
        name => (name.parse().expect("a network of the zoo"), Shape::new(3, 32, 32), 10),
    };
    let graph = build(which, shape, classes).expect("the zoo takes such images");
    Network { weights: init(&graph, 1), graph }
}
