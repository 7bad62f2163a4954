//! The flow in f32 against the executor's in f64, and what must not depend on threads, storage or ties.

use std::ops::ControlFlow;

use candle_core::{Device, Tensor};
use proptest::prelude::*;

use super::*;
use crate::arbitrary;
use crate::exec::{Executor, ParamLayout, Role};
use crate::graph::{Conv, Graph, Node, Op, Shape, Window};
use crate::saliency::{Criterion, ScoreRecipe, Scores, mask, score};
use crate::zoo::{self, ZooNetwork};

/// Synaptic flow by the general executor: f64, one vector of all parameters, nothing clever.
struct Reference {
    executor: Executor<f64>,
    layout: ParamLayout,
    params: Vec<f64>,
    scores: Vec<f64>,
}

impl Reference {
    fn new(network: &Network) -> Self {
        let graph = linearised(&network.graph);
        let layout = ParamLayout::of(&graph);
        let mut params = layout.gather::<f64>(&network.weights).unwrap();
        params.iter_mut().for_each(|value| *value = value.abs());
        for entry in layout.entries().iter().filter(|entry| carries_nothing(entry.role)) {
            params[entry.range.clone()].fill(0.0);
        }
        let scores = vec![0.0; params.len()];
        Self { executor: Executor::new(&graph, 1).unwrap(), layout, params, scores }
    }

    /// Returns R.
    fn score(&mut self, graph: &Graph) -> f64 {
        let ones = vec![1.0; graph.input_shape().numel()];
        let flow = self.executor.forward_eval(&self.params, &ones, 1).iter().sum();
        let upstream = vec![1.0; graph.shape(graph.output()).numel()];
        self.executor.backward(&self.params, &upstream, &mut self.scores);
        self.scores.iter_mut().zip(&self.params).for_each(|(score, value)| *score *= value);
        flow
    }

    fn keep(&mut self, density: f64) {
        let prunable: Vec<_> =
            self.layout.entries().iter().filter(|entry| entry.role == Role::Weight).collect();
        mask::keep(&mut self.scores, &prunable, density, Selection::Exact);
        for entry in prunable {
            for at in entry.range.clone() {
                if self.scores[at] == 0.0 {
                    self.params[at] = 0.0;
                }
            }
        }
    }

    fn weight_scores(&self, node: NodeId) -> &[f64] {
        &self.scores[self.layout.entry(node, Role::Weight).unwrap().range.clone()]
    }
}

/// The means and constants that flow ignores.
fn carries_nothing(role: Role) -> bool {
    matches!(role, Role::RunningMean | Role::Value)
}

/// The network that flow is defined on, in operators that the executor runs: what is not linear passes what is not
/// negative as it is, and elementwise operators are sums.
fn linearised(graph: &Graph) -> Graph {
    let linear = |op: &Op| match op {
        Op::Activation(_) | Op::Softmax => Op::RELU,
        Op::Binary(_) => Op::ADD,
        Op::Pad { border, .. } => Op::Pad { border: *border, value: 0.0 },
        other => other.clone(),
    };
    let nodes = graph.nodes().iter().map(|node| Node { op: linear(&node.op), ..node.clone() });
    Graph::new(graph.input_shape(), nodes.collect()).unwrap()
}

fn flow(network: &Network) -> Flow {
    Flow::new(network).unwrap()
}

fn zoo_network(which: ZooNetwork, shape: Shape) -> Network {
    let graph = zoo::build(which, shape, 10).unwrap();
    Network { weights: crate::init::init(&graph, 1), graph }
}

fn close(a: f64, b: f64, tolerance: f64) -> bool {
    (a - b).abs() <= tolerance * a.abs().max(b.abs())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// R, each layer's and each filter's sum, and no score where the reference has none.
    #[test]
    fn scores_are_those_of_f64(network in arbitrary::network()) {
        let (mut flow, mut reference) = (flow(&network), Reference::new(&network));
        let (total, exponent) = flow.score();
        let expected = reference.score(&network.graph);
        prop_assert!(close(total * 2f64.powi(exponent), expected, 1e-5), "{total} {exponent} {expected}");
        for (node, layer) in flow.scores().layers() {
            let scores = reference.weight_scores(node);
            let filters = scores.chunks(scores.len() / layer.filters.len());
            let largest = layer.filters.iter().fold(0.0, |largest: f64, sum| largest.max(*sum));
            for (sum, scores) in layer.filters.iter().zip(filters) {
                let expected: f64 = scores.iter().sum();
                prop_assert!((sum - expected).abs() <= 1e-5 * largest, "{node:?}: {sum} {expected}");
            }
        }
    }
}

/// Round for round on ResNet-20: each weight's score, and nearly the same weights kept.
#[test]
fn masks_are_nearly_those_of_f64() {
    let network = zoo_network(ZooNetwork::ResNet20, Shape::new(3, 32, 32));
    let (mut flow, mut reference) = (flow(&network), Reference::new(&network));
    for round in 1..=8 {
        flow.score();
        reference.score(&network.graph);
        let nodes: Vec<NodeId> = flow.layers().map(|(node, _)| node).collect();
        if round == 1 {
            for &node in &nodes {
                let scores = flow.weight_scores(node);
                let mut pairs = scores.iter().zip(reference.weight_scores(node));
                assert!(pairs.all(|(&ours, &theirs)| close(ours, theirs, 2e-5)), "{node:?}");
            }
        }
        let density = 0.05f64.powf(f64::from(round) / 8.0);
        flow.keep(mask::kept_count(flow.weights(), density), Selection::Exact);
        reference.keep(density);
        let (mut different, mut kept) = (0, 0);
        for node in nodes {
            for (ours, theirs) in flow.weight_scores(node).iter().zip(reference.weight_scores(node)) {
                different += usize::from((*ours > 0.0) != (*theirs > 0.0));
                kept += usize::from(*ours > 0.0);
            }
        }
        assert_eq!(kept, mask::kept_count(flow.weights(), density));
        assert!(different * 2000 <= kept, "round {round}: {different} of {kept}");
    }
}

fn scores(network: &Network, rounds: u32) -> Scores {
    let recipe = ScoreRecipe { criterion: Criterion::SynFlow, rounds, density: 0.06, seed: 0 };
    score(network, &recipe, &mut |_, _| ControlFlow::Continue(())).unwrap()
}

#[test]
fn threads_change_nothing() {
    let network = zoo_network(ZooNetwork::ResNet20, Shape::new(3, 32, 32));
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| scores(&network, 10))
    };
    let one = on(1);
    assert_eq!(one, on(2));
    assert_eq!(one, on(5));
}

/// Flow beyond f32 and beyond f64: a thousandfold at each of many layers.
#[test]
fn no_depth_overflows() {
    for layers in [20, 150] {
        let mut nodes = vec![Node { name: "in".into(), op: Op::Input, inputs: vec![] }];
        for layer in 0..layers {
            let op = Op::Linear { inputs: 2, outputs: 2, bias: false };
            nodes.push(Node { name: format!("n{layer}"), op, inputs: vec![NodeId(layer)] });
        }
        let graph = Graph::new(Shape::vector(2), nodes).unwrap();
        let tensor = Tensor::from_slice(&[1000f32, 500.0, 500.0, 1000.0], (2, 2), &Device::Cpu).unwrap();
        let weights = (0..layers).map(|layer| (format!("n{layer}.weight"), tensor.clone())).collect();
        let recipe = ScoreRecipe { criterion: Criterion::SynFlow, rounds: 1, density: 1.0, seed: 0 };
        let network = Network { graph, weights };
        let scores = score(&network, &recipe, &mut |_, _| ControlFlow::Continue(())).unwrap();
        let sums: Vec<f64> = scores.layers().map(|(_, layer)| layer.filters.iter().sum()).collect();
        assert!(sums[0].is_finite() && sums[0] > 1e60, "{sums:?}");
        assert!(sums.iter().all(|sum| close(*sum, sums[0], 1e-5)), "{sums:?}");
    }
}

/// Weights that score alike die from the last to the first, in the network's order, stored densely or sparsely.
#[test]
fn ties_fall_to_the_lower_index() {
    for side in [3, 12] {
        let conv =
            |inputs| Conv { inputs, outputs: 2, window: Window::square(3, 1, 1), groups: 1, bias: false };
        let nodes = vec![
            Node { name: "in".into(), op: Op::Input, inputs: vec![] },
            Node { name: "a".into(), op: Op::Conv(conv(2)), inputs: vec![NodeId(0)] },
            Node { name: "b".into(), op: Op::Conv(conv(2)), inputs: vec![NodeId(1)] },
        ];
        let graph = Graph::new(Shape::new(2, side, side), nodes).unwrap();
        let ones = Tensor::ones((2, 2, 3, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
        let weights = [("a.weight".to_owned(), ones.clone()), ("b.weight".to_owned(), ones)].into();
        let network = Network { graph, weights };
        let mut flow = flow(&network);
        flow.score();
        let before: Vec<f64> = [1, 2].into_iter().flat_map(|node| flow.weight_scores(NodeId(node))).collect();
        for kept in [70, 41, 40, 39, 7, 6, 3] {
            flow.keep(kept, Selection::Exact);
            let after: Vec<f64> =
                [1, 2].into_iter().flat_map(|node| flow.weight_scores(NodeId(node))).collect();
            let mut order: Vec<usize> = (0..72).collect();
            order.sort_by(|&a, &b| before[b].total_cmp(&before[a]));
            let mut expected = vec![0.0; 72];
            order[..kept].iter().for_each(|&at| expected[at] = before[at]);
            assert_eq!(after, expected, "{kept} of side {side}");
        }
    }
}
