//! Scores computed by hand on tiny networks, and properties of those of real ones.

use candle_core::{Device, Tensor};

use super::flow::Flow;
use super::*;
use crate::graph::{Conv, Graph, Node, Op, Shape, Window};
use crate::zoo::{self, ZooNetwork};

fn node(name: &str, op: Op, inputs: &[usize]) -> Node {
    Node { name: name.to_owned(), op, inputs: inputs.iter().copied().map(NodeId).collect() }
}

fn linear(inputs: usize, outputs: usize) -> Op {
    Op::Linear { inputs, outputs, bias: false }
}

/// R, and the scores of each weight tensor, of one pass.
fn flow(input: Shape, nodes: Vec<Node>, weights: &[(&str, &[usize], &[f32])]) -> (f64, Vec<Vec<f64>>) {
    let graph = Graph::new(input, nodes).unwrap();
    let tensor = |dims: &[usize], values: &[f32]| Tensor::from_slice(values, dims, &Device::Cpu).unwrap();
    let named = weights.iter().map(|(name, dims, values)| (format!("{name}.weight"), tensor(dims, values)));
    let network = Network { weights: named.collect(), graph };
    let mut flow = Flow::new(&network).unwrap();
    let (total, exponent) = flow.score();
    let scores = weights.iter().map(|(name, ..)| flow.weight_scores(network.graph.find(name).unwrap()));
    (total * 2f64.powi(exponent), scores.collect())
}

/// Test vector T1: a perceptron by hand, then two rounds of pruning to a quarter.
#[test]
fn synflow_of_a_perceptron() {
    let nodes = || {
        vec![
            node("in", Op::Input, &[]),
            node("w1", linear(2, 2), &[0]),
            node("relu", Op::RELU, &[1]),
            node("w2", linear(2, 2), &[2]),
        ]
    };
    let (w1, w2): ([f32; 4], [f32; 4]) = ([1.0, -2.0, 3.0, 0.5], [2.0, -1.0, 0.5, 4.0]);
    let (total, scores) = flow(Shape::vector(2), nodes(), &[("w1", &[2, 2], &w1), ("w2", &[2, 2], &w2)]);
    assert_eq!(total, 25.0);
    assert_eq!(scores, [[2.5, 5.0, 15.0, 2.5], [6.0, 3.5, 1.5, 14.0]]);
    // The first round drops half of them; what is dropped scores exactly 0 from then on.
    let (w1_left, w2_left) = ([0.0, -2.0, 3.0, 0.0], [2.0, 0.0, 0.0, 4.0]);
    let left: [(&str, &[usize], &[f32]); 2] = [("w1", &[2, 2], &w1_left), ("w2", &[2, 2], &w2_left)];
    let (total, scores) = flow(Shape::vector(2), nodes(), &left);
    assert_eq!(total, 16.0);
    assert_eq!(scores, [[0.0, 4.0, 12.0, 0.0], [4.0, 0.0, 0.0, 12.0]]);

    let graph = Graph::new(Shape::vector(2), nodes()).unwrap();
    let tensor = |values: &[f32]| Tensor::from_slice(values, (2, 2), &Device::Cpu).unwrap();
    let weights = [("w1.weight".to_owned(), tensor(&w1)), ("w2.weight".to_owned(), tensor(&w2))].into();
    let recipe = ScoreRecipe { criterion: Criterion::SynFlow, rounds: 2, density: 0.25, seed: 0 };
    let scores = score(&Network { graph, weights }, &recipe, &mut |_, _| ControlFlow::Continue(())).unwrap();
    // The path 0 -> 1 -> 1 is left: one weight of each layer.
    assert_eq!(scores.layer(NodeId(1)).unwrap().filters, [0.0, 12.0]);
    assert_eq!(scores.layer(NodeId(3)).unwrap().filters, [0.0, 12.0]);
    assert_eq!(scores.layer(NodeId(3)).unwrap().alive, [0.0, 0.5]);
}

/// Test vector T2: a convolution, global average, linear.
#[test]
fn synflow_of_a_convolution() {
    let conv = Conv { inputs: 1, outputs: 2, window: Window::square(2, 1, 0), groups: 1, bias: false };
    let nodes = vec![
        node("in", Op::Input, &[]),
        node("conv", Op::Conv(conv), &[0]),
        node("relu", Op::RELU, &[1]),
        node("pool", Op::GlobalAvgPool, &[2]),
        node("fc", linear(2, 2), &[3]),
    ];
    let filters = [1.0, -1.0, 2.0, 0.5, -0.5, 1.5, 1.0, -2.0];
    let fc = [1.0, -2.0, 0.5, 3.0];
    let (total, scores) =
        flow(Shape::new(1, 3, 3), nodes, &[("conv", &[2, 1, 2, 2], &filters), ("fc", &[2, 2], &fc)]);
    let close = |got: &[f64], wanted: &[f64]| {
        got.iter().zip(wanted).all(|(got, wanted)| (got - wanted).abs() < 1e-12)
    };
    assert!((total - 31.75).abs() < 1e-12);
    assert!(close(&scores[0], &[1.5, 1.5, 3.0, 0.75, 2.5, 7.5, 5.0, 10.0]), "{:?}", scores[0]);
    assert!(close(&scores[1], &[4.5, 10.0, 2.25, 15.0]), "{:?}", scores[1]);
}

/// Test vector T3: a residual block; what flows into a coupled channel flows out of it.
#[test]
fn synflow_of_a_residual_block() {
    let nodes = vec![
        node("in", Op::Input, &[]),
        node("w1", linear(2, 2), &[0]),
        node("w2", linear(2, 2), &[1]),
        node("relu", Op::RELU, &[2]),
        node("w3", linear(2, 2), &[3]),
        node("add", Op::ADD, &[1, 4]),
        node("w4", linear(2, 1), &[5]),
    ];
    let weights: [(&str, &[usize], &[f32]); 4] = [
        ("w1", &[2, 2], &[1.0, 2.0, 1.0, -1.0]),
        ("w2", &[2, 2], &[1.0, -1.0, 0.5, 2.0]),
        ("w3", &[2, 2], &[2.0, 0.0, -1.0, 1.0]),
        ("w4", &[1, 2], &[1.0, -1.0]),
    ];
    let (total, scores) = flow(Shape::vector(2), nodes, &weights);
    assert_eq!(total, 25.5);
    assert_eq!(scores[0], [4.5, 9.0, 6.0, 6.0]);
    assert_eq!(scores[1], [9.0, 6.0, 1.5, 4.0]);
    assert_eq!(scores[2], [10.0, 0.0, 5.0, 5.5]);
    assert_eq!(scores[3], [13.0, 12.5]);
    for channel in 0..2 {
        let row = |tensor: &[f64]| tensor[2 * channel] + tensor[2 * channel + 1];
        let produced = row(&scores[0]) + row(&scores[2]);
        let consumed = scores[1][channel] + scores[1][2 + channel] + scores[3][channel];
        assert_eq!(produced, consumed);
    }
}

fn run(network: ZooNetwork, shape: Shape, recipe: ScoreRecipe) -> Scores {
    let graph = zoo::build(network, shape, 100).unwrap();
    let weights = crate::init::init(&graph, 1);
    score(&Network { graph, weights }, &recipe, &mut |_, _| ControlFlow::Continue(())).unwrap()
}

/// In a chain without biases each layer's scores sum to the same flow.
#[test]
fn flow_is_the_same_through_every_layer_of_a_chain() {
    let recipe = ScoreRecipe { criterion: Criterion::SynFlow, rounds: 1, density: 1.0, seed: 0 };
    let scores = run(ZooNetwork::Vgg16Bn, Shape::new(3, 32, 32), recipe);
    let sums: Vec<f64> = scores.layers().map(|(_, layer)| layer.filters.iter().sum()).collect();
    assert_eq!(sums.len(), 14);
    assert!(sums.iter().all(|sum| (sum / sums[0] - 1.0).abs() < 1e-5), "{sums:?}");
}

/// Test vector T8, the closed form: what global magnitude pruning keeps of each layer of a freshly initialised VGG-16.
#[test]
fn magnitude_keeps_the_densities_of_the_closed_form() {
    let recipe = ScoreRecipe { criterion: Criterion::Magnitude, rounds: 1, density: 0.1, seed: 0 };
    let scores = run(ZooNetwork::Vgg16Bn, Shape::new(3, 32, 32), recipe);
    let expected = [
        0.888, 0.5154, 0.5154, 0.3576, 0.3576, 0.1932, 0.1932, 0.1932, 0.0658, 0.0658, 0.0658, 0.0658,
        0.0658, 0.5397,
    ];
    for ((node, layer), expected) in scores.layers().zip(expected) {
        // A small layer's density has the spread of a binomial count: 4 standard deviations.
        let weights = layer.filters.len() as f64 * if node.0 == 1 { 27.0 } else { 500.0 };
        let spread = 4.0 * (expected * (1.0 - expected) / weights).sqrt();
        assert!(
            (layer.density - expected).abs() < spread.max(0.01 * expected),
            "{node:?}: {} {expected}",
            layer.density
        );
    }
}

/// Test vector T8: what the Synaptic-Flow code's stored runs, of 100 rounds too, keep of each layer at a tenth.
#[test]
fn synflow_keeps_the_densities_of_the_reference_runs() {
    let recipe = ScoreRecipe { criterion: Criterion::SynFlow, rounds: 100, density: 0.1, seed: 0 };
    let scores = run(ZooNetwork::Vgg16Bn, Shape::new(3, 32, 32), recipe);
    let expected = [
        0.9965, 0.8966, 0.805, 0.6437, 0.4354, 0.2477, 0.2351, 0.1219, 0.0598, 0.0604, 0.0564, 0.054, 0.0602,
        0.8572,
    ];
    assert_eq!(scores.layers().count(), expected.len());
    for ((node, layer), expected) in scores.layers().zip(expected) {
        assert!((layer.density / expected - 1.0).abs() < 0.03, "{node:?}: {} {expected}", layer.density);
    }
}

/// What flows into a residual block flows out of it: through its convolutions and around them.
#[test]
fn flow_is_the_same_through_every_cut_of_a_residual_network() {
    let graph = zoo::build(ZooNetwork::ResNet20, Shape::new(1, 28, 28), 10).unwrap();
    let weights = crate::init::init(&graph, 1);
    let recipe = ScoreRecipe { criterion: Criterion::SynFlow, rounds: 1, density: 1.0, seed: 0 };
    let network = Network { graph, weights };
    let scores = score(&network, &recipe, &mut |_, _| ControlFlow::Continue(())).unwrap();
    let sum =
        |name: &str| -> f64 { scores.layer(network.graph.find(name).unwrap()).unwrap().filters.iter().sum() };
    let same = |a: f64, b: f64| (a / b - 1.0).abs() < 1e-5;
    let total = sum("conv1");
    assert!(same(sum("fc"), total));
    for block in ["1.0", "1.1", "1.2", "2.0", "2.1", "2.2", "3.0", "3.1", "3.2"] {
        let (first, second) = (sum(&format!("layer{block}.conv1")), sum(&format!("layer{block}.conv2")));
        assert!(same(first, second), "layer{block}: {first} {second}");
        match block {
            "2.0" | "3.0" => {
                assert!(same(second + sum(&format!("layer{block}.shortcut.0")), total), "layer{block}");
            }
            _ => assert!(second < total, "layer{block}: the rest flows past"),
        }
    }
}

#[test]
fn weights_that_are_no_numbers_are_refused() {
    let graph = zoo::build(ZooNetwork::ResNet20, Shape::new(1, 8, 8), 10).unwrap();
    let mut weights = crate::init::init(&graph, 1);
    let fc = weights["fc.weight"].affine(f64::INFINITY, 0.0).unwrap();
    weights.insert("fc.weight".to_owned(), fc);
    let network = Network { graph, weights };
    for criterion in [Criterion::SynFlow, Criterion::Magnitude] {
        let recipe = ScoreRecipe { criterion, rounds: 1, density: 0.5, seed: 0 };
        let scores = score(&network, &recipe, &mut |_, _| ControlFlow::Continue(()));
        assert!(matches!(scores, Err(SaliencyError::NotFinite)), "{criterion:?}");
    }
}

#[test]
fn settings_out_of_range_and_a_break_are_errors() {
    let graph = zoo::build(ZooNetwork::ResNet20, Shape::new(1, 8, 8), 10).unwrap();
    let network = Network { weights: crate::init::init(&graph, 1), graph };
    let good = ScoreRecipe { criterion: Criterion::SynFlow, rounds: 3, density: 0.5, seed: 0 };
    let run = |recipe: ScoreRecipe, stop_at: u32| {
        let mut on_round =
            |done, _| if done == stop_at { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        score(&network, &recipe, &mut on_round)
    };
    assert!(matches!(
        run(ScoreRecipe { rounds: 0, ..good }, 9),
        Err(SaliencyError::Recipe { setting: "rounds", .. })
    ));
    for density in [0.0, -1.0, 1.1, f64::NAN] {
        assert!(matches!(run(ScoreRecipe { density, ..good }, 9), Err(SaliencyError::Recipe { .. })));
    }
    assert!(run(ScoreRecipe { density: f64::MIN_POSITIVE, ..good }, 9).is_ok(), "one weight is left");
    assert!(matches!(run(good, 2), Err(SaliencyError::Cancelled)));
    assert_eq!(run(good, 9).unwrap(), run(good, 9).unwrap(), "the same scores each time");
}
