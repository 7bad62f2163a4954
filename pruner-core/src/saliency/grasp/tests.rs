//! GraSP against the test vector, and against the slope of the squared gradient on a network that bends.

use super::*;
use crate::exec::ParamLayout;
use crate::graph::{Conv, Graph, Node, NodeId, Shape, Window};

fn node(name: &str, op: Op, inputs: &[usize]) -> Node {
    Node { name: name.to_owned(), op, inputs: inputs.iter().copied().map(NodeId).collect() }
}

/// Test vector T5: one linear layer, temperature 200.
#[test]
fn grasp_of_one_linear_layer() {
    let linear = Op::Linear { inputs: 2, outputs: 2, bias: false };
    let nodes = vec![node("in", Op::Input, &[]), node("w", linear, &[0])];
    let graph = Graph::new(Shape::vector(2), nodes).unwrap();
    let images = LabelledImages::new(Shape::vector(2), 2, vec![1.0, 2.0], vec![0]);
    let mut grasp = Grasp::new(&graph, &images).unwrap();
    let weights = [0.5, -1.0, 1.0, 0.25];
    assert!((grasp.loss.loss(&weights) - 0.700_675_305_3).abs() < 1e-10);
    let mut gradient = [0.0; 4];
    grasp.loss.gradient(&weights, &mut gradient);
    for (got, wanted) in gradient.iter().zip([-0.00251875, -0.0050375, 0.00251875, 0.0050375]) {
        assert!((got - wanted).abs() < 1e-8, "{gradient:?}");
    }
    let mut scores = [0.0; 4];
    grasp.score(&weights, &mut scores);
    let sum: f64 = scores.iter().sum();
    assert!((sum / 4.722_389_951e-7 - 1.0).abs() < 1e-8, "{sum:e}");
    for (score, share) in scores.iter().zip([0.16663138, 0.66652553, 0.33326276, 0.16663138]) {
        assert!((score.abs() / (sum.abs() + 1e-10) - share).abs() < 1e-8, "{scores:?}");
    }
}

/// The loss depends on a layer's scale a alone through a * w, so its scores sum to half the slope of |g|^2 in a, g taken
/// by the weights themselves. That holds between the bends of a ReLU and a max pooling.
#[test]
fn scores_of_a_layer_sum_to_the_slope_of_the_squared_gradient() {
    let conv = Conv { inputs: 1, outputs: 3, window: Window::square(2, 1, 0), groups: 1, bias: false };
    let nodes = vec![
        node("in", Op::Input, &[]),
        node("conv", Op::Conv(conv), &[0]),
        node("relu", Op::RELU, &[1]),
        node("pool", Op::MaxPool(Window::square(2, 2, 0)), &[2]),
        node("flat", Op::Flatten, &[3]),
        node("fc", Op::Linear { inputs: 12, outputs: 2, bias: false }, &[4]),
    ];
    let shape = Shape::new(1, 5, 5);
    let graph = Graph::new(shape, nodes).unwrap();
    let (layout, weights) = (ParamLayout::of(&graph), crate::init::init(&graph, 3));
    let weights: Vec<f64> = layout.gather(&weights).unwrap();
    let images = LabelledImages::new(shape, 2, crate::arbitrary::images(shape, 4, 5), vec![0, 1, 1, 0]);
    let mut grasp = Grasp::new(&graph, &images).unwrap();
    let mut scores = vec![0.0; weights.len()];
    grasp.score(&weights, &mut scores);
    for entry in layout.entries() {
        let mut squared = |scale: f64| {
            let mut scaled = weights.clone();
            scaled[entry.range.clone()].iter_mut().for_each(|weight| *weight *= scale);
            let mut gradient = vec![0.0; weights.len()];
            grasp.loss.gradient(&scaled, &mut gradient);
            gradient.iter().map(|slope| slope * slope).sum::<f64>()
        };
        let slope = (squared(1.0 + 1e-6) - squared(1.0 - 1e-6)) / 2e-6;
        let sum: f64 = scores[entry.range.clone()].iter().sum();
        assert!((sum / (slope / 2.0) - 1.0).abs() < 1e-5, "{}: {sum} {slope}", entry.tensor);
    }
}

#[test]
fn ranks_are_in_the_order_of_the_scores() {
    let graph = Graph::new(Shape::vector(2), vec![node("in", Op::Input, &[]), node("r", Op::RELU, &[0])]);
    let images = LabelledImages::new(Shape::vector(2), 2, vec![1.0, 2.0], vec![0]);
    let grasp = Grasp::new(&graph.unwrap(), &images).unwrap();
    let scores = [-1e300, -2.0, -1.0, -1e-300, -0.0, 0.0, 1e-300, 1.0, 2.0, 1e300];
    let ranks = scores.map(|score| grasp.rank(score));
    assert!(ranks.is_sorted() && ranks[0] > 0.0 && ranks[9].is_finite(), "{ranks:?}");
    assert!(ranks[1] < ranks[2] && ranks[3] < ranks[6] && ranks[7] < ranks[8]);
}

#[test]
fn weights_without_a_gradient_score_nothing() {
    let linear = Op::Linear { inputs: 2, outputs: 2, bias: false };
    let nodes = vec![node("in", Op::Input, &[]), node("w", linear, &[0])];
    let graph = Graph::new(Shape::vector(2), nodes).unwrap();
    let images = LabelledImages::new(Shape::vector(2), 2, vec![0.0, 0.0], vec![0]);
    let mut scores = [1.0; 4];
    Grasp::new(&graph, &images).unwrap().score(&[1.0; 4], &mut scores);
    assert_eq!(scores, [0.0; 4]);
}
