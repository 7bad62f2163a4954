//! How fast a training step is: images/s of forward, backward and momentum on synthetic images, the ratio to PyTorch in
//! the same run where that is installed, and to stock candle's autograd on one of ResNet-20's convolutions. `cargo bench -p pruner-core --bench train_step`;
//! the fastest of several runs is printed, because other work on the machine only ever slows one down.

#![expect(clippy::print_stdout, reason = "a benchmark prints its numbers")]

#[path = "peer/pytorch.rs"]
mod pytorch;

use std::hint::black_box;
use std::ops::ControlFlow;
use std::time::Instant;

use candle_core::{DType, Device, Tensor, Var};
use pruner_core::dataset::{Dataset, Split};
use pruner_core::exec::{Executor, ParamLayout};
use pruner_core::graph::{Activation, Conv, Graph, Network, Node, NodeId, Op, Shape, Window};
use pruner_core::init::init;
use pruner_core::train::{Recipe, evaluate, fit};
use pruner_core::zoo::{ZooNetwork, build};

/// Compared with PyTorch: images per step, at 3x32x32.
const COMPARED: [(ZooNetwork, usize); 3] =
    [(ZooNetwork::ResNet20, 128), (ZooNetwork::Vgg16Bn, 32), (ZooNetwork::MobileNetV2Cifar, 64)];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [mode, network, batch, threads] = arguments.as_slice()
        && mode == "measure"
    {
        return measure(network, batch, threads);
    }
    compare();
    for threads in [1, 2] {
        on_threads(threads, || {
            for batch in [64, 128] {
                let rate = training(ZooNetwork::ResNet20, Shape::new(1, 28, 28), batch);
                println!("{threads} threads, resnet20 on 1x28x28, batch {batch}: {rate:.0} images/s trained");
            }
            let rate = evaluation(ZooNetwork::ResNet20, Shape::new(1, 28, 28));
            println!("{threads} threads, resnet20 on 1x28x28: {rate:.0} images/s evaluated");
            let rate = inverted_residual();
            println!(
                "{threads} threads, an inverted residual block of 24 channels on 16x16: {rate:.0} images/s"
            );
        });
    }
    on_threads(1, || {
        let (ours, candle) = (our_convolution(), candle_convolution());
        println!(
            "1 thread, one convolution 16 to 16 on 32x32, batch 32, forward and weight and input gradients:"
        );
        println!(
            "  {:.1} ms here, {:.1} ms in stock candle, ratio {:.1}",
            ours * 1e3,
            candle * 1e3,
            candle / ours
        );
    });
}

/// One network in this process, so that the memory is its own: images/s and MB.
fn measure(network: &str, batch: &str, threads: &str) {
    let (batch, threads) = (batch.parse().expect("a number"), threads.parse().expect("a number"));
    let which = network.parse().expect("a network of the zoo");
    let mut rate = 0.0;
    on_threads(threads, || rate = training(which, Shape::new(3, 32, 32), batch));
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().split(' ').next());
    let peak: f64 = peak.and_then(|kib| kib.parse().ok()).unwrap_or(f64::NAN);
    println!("{rate:.1} {:.0}", peak / 1024.0);
}

/// Whole steps here and in PyTorch, in turn; here augmentation and the order of images are part of a step.
fn compare() {
    let python = pytorch::python();
    if python.is_none() {
        println!("PyTorch is not installed (Debian: python3-torch), so no ratio to it is printed");
    }
    let own = std::env::current_exe().expect("this program has a path");
    for (which, batch) in COMPARED {
        let (network, batch) = (which.name(), batch.to_string());
        for threads in ["1", "2"] {
            let output =
                std::process::Command::new(&own).args(["measure", network, &batch, threads]).output();
            let text = String::from_utf8_lossy(&output.expect("this program can be run").stdout).into_owned();
            let ours: Vec<f64> = text.split_whitespace().filter_map(|number| number.parse().ok()).collect();
            let [rate, memory] = ours[..] else { panic!("measured '{text}'") };
            print!("{threads} threads, {network}, batch {batch}: {rate:.0} images/s, {memory:.0} MB");
            let theirs = python.map(|python| {
                let arguments = [network, "--batch", &batch, "--threads", threads];
                pytorch::numbers(python, "train_torch.py", &arguments)
            });
            match theirs {
                Some(Ok(theirs)) => println!(
                    "; PyTorch {:.0} images/s, {:.0} MB: ratio {:.2}",
                    theirs[0],
                    theirs.get(1).unwrap_or(&f64::NAN),
                    rate / theirs[0]
                ),
                Some(Err(problem)) => println!("; PyTorch failed: {problem}"),
                None => println!(),
            }
        }
    }
}

fn on_threads(threads: usize, work: impl FnOnce() + Send) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads can be started");
    pool.install(work);
}

/// The shortest of `runs` times of `work`, in seconds, after one run that is not counted.
fn fastest(runs: usize, mut work: impl FnMut()) -> f64 {
    work();
    let time = |_| {
        let start = Instant::now();
        work();
        start.elapsed().as_secs_f64()
    };
    (0..runs).map(time).fold(f64::INFINITY, f64::min)
}

/// Images without meaning.
fn synthetic(shape: Shape, count: usize) -> Dataset {
    let split = |count: usize| {
        let pixels = (0..count * shape.numel()).map(|place| (place * place % 251) as u8).collect();
        Split::new(pixels, (0..count).map(|index| (index % 10) as u8).collect(), shape.numel())
    };
    Dataset::new(shape, split(count), split(640))
}

fn network(network: ZooNetwork, shape: Shape) -> Network {
    let graph = build(network, shape, 10).expect("the zoo's networks take such images");
    let weights = init(&graph, 1);
    Network { graph, weights }
}

/// Images/s of the fastest step of a real training run, augmentation included.
fn training(which: ZooNetwork, shape: Shape, batch: usize) -> f64 {
    let steps = 24;
    let dataset = synthetic(shape, batch * steps);
    let recipe = Recipe { epochs: 1, batch, ..Recipe::default() };
    let (mut fastest, mut last) = (f64::INFINITY, Instant::now());
    let trained = fit(network(which, shape), &dataset, &recipe, &mut |_| {
        fastest = fastest.min(last.elapsed().as_secs_f64());
        last = Instant::now();
        ControlFlow::Continue(())
    });
    black_box(trained.expect("synthetic images can be trained on"));
    batch as f64 / fastest
}

fn evaluation(which: ZooNetwork, shape: Shape) -> f64 {
    let (network, dataset) = (network(which, shape), synthetic(shape, 128));
    let seconds = fastest(5, || {
        black_box(evaluate(&network, &dataset, &dataset.test).expect("the network fits the images"));
    });
    dataset.test.len() as f64 / seconds
}

/// Images/s of one block of MobileNetV2, forward and backward: 24 channels to 144, depthwise, and back to 24.
fn inverted_residual() -> f64 {
    let (batch, shape) = (64, Shape::new(24, 16, 16));
    let conv = |inputs, outputs, kernel, groups| {
        Op::Conv(Conv { inputs, outputs, window: Window::square(kernel, 1, kernel / 2), groups, bias: false })
    };
    let norm = |channels| Op::BatchNorm { channels, eps: 1e-5 };
    let clip = || Op::Activation(Activation::Clip { min: 0.0, max: 6.0 });
    // A batch norm comes first, so that the expansion has an input to differentiate by.
    let ops = [
        norm(24),
        conv(24, 144, 1, 1),
        norm(144),
        clip(),
        conv(144, 144, 3, 144),
        norm(144),
        clip(),
        conv(144, 24, 1, 1),
        norm(24),
        Op::ADD,
    ];
    let mut nodes = vec![Node { name: "input".into(), op: Op::Input, inputs: vec![] }];
    for (index, op) in ops.into_iter().enumerate() {
        let inputs = if op == Op::ADD { vec![NodeId(1), NodeId(index)] } else { vec![NodeId(index)] };
        nodes.push(Node { name: format!("n{index}"), op, inputs });
    }
    let graph = Graph::new(shape, nodes).expect("shapes fit");
    let mut params: Vec<f32> =
        ParamLayout::of(&graph).gather(&init(&graph, 1)).expect("weights of this graph");
    let mut executor = Executor::new(&graph, batch).expect("every operator of the block can be run");
    let images: Vec<f32> =
        (0..batch * shape.numel()).map(|place| (place * place % 251) as f32 / 251.0).collect();
    let mut grads = vec![0.0; params.len()];
    let seconds = fastest(20, || {
        executor.forward_train(&mut params, &images, batch);
        executor.backward(&params, &images, &mut grads);
        black_box(&grads);
    });
    batch as f64 / seconds
}

const IMAGES: [usize; 4] = [32, 16, 32, 32];

/// A batch norm comes before, so that the convolution has an input to differentiate by; its time is counted too.
fn our_convolution() -> f64 {
    let conv =
        Op::Conv(Conv { inputs: 16, outputs: 16, window: Window::square(3, 1, 1), groups: 1, bias: false });
    let node = |name: &str, op, inputs| Node { name: name.into(), op, inputs };
    let nodes = vec![
        node("input", Op::Input, vec![]),
        node("bn", Op::BatchNorm { channels: 16, eps: 1e-5 }, vec![NodeId(0)]),
        node("conv", conv, vec![NodeId(1)]),
    ];
    let graph = Graph::new(Shape::new(16, 32, 32), nodes).expect("shapes fit");
    let params: Vec<f32> = ParamLayout::of(&graph).gather(&init(&graph, 1)).expect("weights of this graph");
    let mut executor = Executor::new(&graph, IMAGES[0]).expect("a convolution and a batch norm can be run");
    let images = vec![0.5; IMAGES.iter().product()];
    let mut grads = vec![0.0; params.len()];
    fastest(20, || {
        executor.forward_eval(&params, &images, IMAGES[0]);
        executor.backward(&params, &images, &mut grads);
        black_box(&grads);
    })
}

fn candle_convolution() -> f64 {
    let run = || -> candle_core::Result<f64> {
        let x = Var::rand(0f32, 1f32, &IMAGES, &Device::Cpu)?;
        let w = Var::rand(0f32, 1f32, (16, 16, 3, 3), &Device::Cpu)?;
        let upstream = Tensor::ones(&IMAGES, DType::F32, &Device::Cpu)?;
        let step = || (x.conv2d(&w, 1, 1, 1, 1)? * &upstream)?.sum_all()?.backward();
        step()?;
        Ok(fastest(3, || {
            black_box(step().expect("worked before"));
        }))
    };
    run().expect("candle convolves on the CPU")
}
