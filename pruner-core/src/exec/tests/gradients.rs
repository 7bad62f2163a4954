//! Every operator's gradient against central differences, in f64.

use super::*;

const BATCH: usize = 5;

/// Sum of logits weighted by fixed noise; its gradient by each logit is that noise.
struct Loss {
    graph: Graph,
    statistics: Statistics,
    input: Vec<f64>,
    weights: Vec<f64>,
}

impl Loss {
    fn new(graph: Graph, statistics: Statistics) -> Self {
        let outputs = graph.shape(graph.output()).numel();
        let input = noise(1, BATCH * graph.input_shape().numel());
        Self { graph, statistics, input, weights: noise(2, BATCH * outputs) }
    }

    fn value(&self, executor: &mut Executor<f64>, params: &[f64]) -> f64 {
        let mut params = params.to_vec();
        let logits = match self.statistics {
            Statistics::Batch => executor.forward_train(&mut params, &self.input, BATCH),
            Statistics::Running => executor.forward_eval(&params, &self.input, BATCH),
        };
        logits.iter().zip(&self.weights).map(|(logit, weight)| logit * weight).sum()
    }

    /// Compares up to 60 evenly spread parameters' gradients with central differences.
    fn check(&self) {
        let mut executor = Executor::new(&self.graph, BATCH + 2).unwrap();
        let mut params = params::<f64>(&self.graph, 3);
        self.value(&mut executor, &params);
        let mut grads = vec![f64::NAN; params.len()];
        executor.backward(&params, &self.weights, &mut grads);
        let layout = ParamLayout::of(&self.graph);
        for entry in layout.entries() {
            let is_statistic = !entry.role.is_learnt();
            for at in entry.range.clone().step_by(entry.range.len().div_ceil(60)) {
                if is_statistic {
                    assert_eq!(grads[at], 0.0, "{}", entry.tensor);
                    continue;
                }
                let (old, step) = (params[at], 1e-5);
                params[at] = old + step;
                let above = self.value(&mut executor, &params);
                params[at] = old - step;
                let below = self.value(&mut executor, &params);
                params[at] = old;
                let (expected, got) = ((above - below) / (2.0 * step), grads[at]);
                let error = (expected - got).abs() / expected.abs().max(1.0);
                assert!(error < 5e-7, "{} [{at}]: {got}, by differences {expected}", entry.tensor);
            }
        }
    }
}

/// A first convolution, whose gradient must pass through `op`, in both modes.
fn check_behind(op: Op) {
    let ops: [(Op, &[usize]); 2] = [(conv(2, 4, [3, 1, 1, 1], true), &[0]), (op, &[1])];
    let graph = graph(Shape::new(2, 7, 6), &ops);
    Loss::new(graph.clone(), Statistics::Running).check();
    Loss::new(graph, Statistics::Batch).check();
}

#[test]
fn convolutions() {
    for geometry in [
        [3, 1, 1, 1],
        [3, 2, 1, 1],
        [3, 1, 0, 1],
        [3, 1, 3, 1],
        [1, 1, 0, 1],
        [1, 2, 0, 1],
        [1, 1, 1, 1],
        [2, 1, 1, 1],
        [5, 3, 2, 1],
        [3, 1, 1, 2],
        [3, 2, 1, 2],
        [3, 1, 1, 4],
        [3, 2, 1, 4],
        [1, 1, 0, 2],
    ] {
        check_behind(conv(4, 8, geometry, true));
    }
}

#[test]
fn filters_beyond_positions_scatter_their_gradient() {
    // 200 filters on 5 images of 2 x 2 positions: flipping the kernel would cost more than scattering patches.
    let ops: [(Op, &[usize]); 2] =
        [(conv(2, 3, [1, 1, 0, 1], true), &[0]), (conv(3, 200, [3, 1, 1, 1], true), &[1])];
    Loss::new(graph(Shape::new(2, 2, 2), &ops), Statistics::Running).check();
}

#[test]
fn pools_and_flatten() {
    check_behind(Op::MaxPool(pool(2, 2, 0)));
    check_behind(Op::MaxPool(pool(3, 2, 1)));
    check_behind(Op::AvgPool { window: pool(2, 2, 0), divisor: Divisor::Window });
    check_behind(Op::AvgPool { window: pool(3, 1, 1), divisor: Divisor::Window });
    check_behind(Op::GlobalAvgPool);
    check_behind(Op::Flatten);
}

#[test]
fn batch_norm_and_relu() {
    check_behind(norm(4));
    check_behind(Op::RELU);
}

#[test]
fn linear_without_bias() {
    let ops: [(Op, &[usize]); 3] = [
        (conv(2, 3, [3, 1, 1, 1], false), &[0]),
        (Op::Flatten, &[1]),
        (Op::Linear { inputs: 60, outputs: 4, bias: false }, &[2]),
    ];
    Loss::new(graph(Shape::new(2, 4, 5), &ops), Statistics::Batch).check();
}

#[test]
fn an_input_read_twice_and_a_branch_read_by_nobody() {
    let ops: [(Op, &[usize]); 6] = [
        (conv(2, 3, [3, 1, 1, 1], true), &[0]),
        (Op::ADD, &[1, 1]),
        (norm(3), &[2]),
        (Op::RELU, &[1]),
        (conv(3, 2, [1, 1, 0, 1], true), &[4]),
        (Op::ADD, &[2, 4]),
    ];
    Loss::new(graph(Shape::new(2, 4, 5), &ops), Statistics::Batch).check();
}

#[test]
fn residual_network() {
    Loss::new(residual(), Statistics::Batch).check();
    Loss::new(residual(), Statistics::Running).check();
}
