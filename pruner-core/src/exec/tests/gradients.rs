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
fn batch_norm_and_clip_are_one_step() {
    let clip = Op::Activation(Activation::Clip { min: -0.3, max: 0.4 });
    let ops: [(Op, &[usize]); 5] = [
        (conv(2, 3, [3, 1, 1, 1], true), &[0]),
        (norm(3), &[1]),
        (clip.clone(), &[2]),
        (Op::ADD, &[3, 1]),
        (clip, &[4]),
    ];
    let graph = graph(Shape::new(2, 4, 5), &ops);
    assert_eq!(Executor::<f64>::new(&graph, 1).unwrap().plan.steps.len(), 3);
    Loss::new(graph.clone(), Statistics::Batch).check();
    Loss::new(graph, Statistics::Running).check();
}

#[test]
fn activations() {
    for activation in [
        Activation::LeakyRelu { slope: 0.1 },
        Activation::Clip { min: -0.5, max: 0.75 },
        Activation::Sigmoid,
        Activation::HardSigmoid { alpha: 0.7, beta: 0.4 },
        Activation::HardSwish,
        Activation::Silu,
        Activation::Tanh,
    ] {
        check_behind(Op::Activation(activation));
    }
    check_behind(Op::PRelu { channels: 4 });
    check_behind(Op::PRelu { channels: 1 });
}

#[test]
fn softmax_over_channels() {
    check_behind(Op::Softmax);
}

#[test]
fn channels_change_places() {
    check_behind(Op::Slice { start: 1, end: 3 });
    check_behind(Op::Shuffle { groups: 2 });
    check_behind(Op::Concat);
    let ops: [(Op, &[usize]); 8] = [
        (conv(2, 6, [3, 1, 1, 1], true), &[0]),
        (Op::Slice { start: 0, end: 2 }, &[1]),
        (Op::Slice { start: 1, end: 6 }, &[1]),
        (conv(2, 3, [1, 1, 0, 1], true), &[2]),
        (Op::Concat, &[3, 4, 0, 4]),
        (Op::Shuffle { groups: 13 }, &[5]),
        (conv(13, 2, [1, 1, 0, 1], true), &[6]),
        (Op::Outputs, &[7, 4, 7]),
    ];
    Loss::new(graph(Shape::new(2, 4, 5), &ops), Statistics::Batch).check();
}

#[test]
fn borders() {
    let border = Padding { top: 1, left: 2, bottom: 0, right: 3 };
    check_behind(Op::Pad { border, value: -0.5 });
    check_behind(Op::Pad { border: Padding::default(), value: 1.0 });
}

#[test]
fn resizes() {
    for interpolation in
        [Interpolation::NearestFloor, Interpolation::NearestPreferFloor, Interpolation::Linear]
    {
        for coordinates in [
            Coordinates::HalfPixel,
            Coordinates::PytorchHalfPixel,
            Coordinates::Asymmetric,
            Coordinates::AlignCorners,
        ] {
            for (height, width, step) in [(14, 12, None), (3, 11, Some([2.0, 0.6])), (1, 1, None)] {
                check_behind(Op::Resize(Resize { height, width, step, interpolation, coordinates }));
            }
        }
    }
}

/// Two numbers by two numbers, each repeated wherever its window leaves one row, column or channel.
#[test]
fn repeated_dimensions() {
    let windows = [[1, 1], [7, 6], [1, 6], [7, 1]];
    for op in [Binary::Add, Binary::Sub, Binary::Mul, Binary::Div] {
        for (left, right) in [(0, 0), (0, 1), (1, 0), (0, 2), (0, 3), (2, 3), (3, 2), (1, 2), (1, 1)] {
            for outputs in [[3, 3], [3, 1], [1, 3]] {
                let reads = |index: usize, outputs: usize| {
                    let window = Window { kernel: windows[index], ..Window::square(1, 1, 0) };
                    Op::Conv(Conv { inputs: 2, outputs, window, groups: 1, bias: true })
                };
                let ops: [(Op, &[usize]); 6] = [
                    (reads(left, outputs[0]), &[0]),
                    (reads(right, outputs[1]), &[0]),
                    // Twice, to be away from 0 for the division.
                    (Op::Activation(Activation::Sigmoid), &[2]),
                    (Op::Activation(Activation::Sigmoid), &[3]),
                    (Op::Binary(op), &[1, 4]),
                    (Op::Binary(op), &[5, 4]),
                ];
                Loss::new(graph(Shape::new(2, 7, 6), &ops), Statistics::Running).check();
            }
        }
    }
}

#[test]
fn one_input_on_both_sides() {
    let ops: [(Op, &[usize]); 2] =
        [(conv(2, 3, [3, 1, 1, 1], true), &[0]), (Op::Binary(Binary::Mul), &[1, 1])];
    Loss::new(graph(Shape::new(2, 4, 5), &ops), Statistics::Batch).check();
}

#[test]
fn constants() {
    for shape in [Shape::new(3, 4, 5), Shape::new(1, 4, 1), Shape::new(3, 1, 1)] {
        let ops: [(Op, &[usize]); 4] = [
            (conv(2, 3, [3, 1, 1, 1], true), &[0]),
            (Op::Constant { shape }, &[]),
            (Op::Binary(Binary::Mul), &[1, 2]),
            (Op::Binary(Binary::Sub), &[2, 3]),
        ];
        Loss::new(graph(Shape::new(2, 4, 5), &ops), Statistics::Batch).check();
    }
}

/// A squeeze-and-excite gate behind an inverted residual's ReLU6.
#[test]
fn gate() {
    let ops: [(Op, &[usize]); 8] = [
        (conv(2, 4, [1, 1, 0, 1], false), &[0]),
        (conv(4, 4, [3, 2, 1, 4], true), &[1]),
        (Op::Activation(Activation::Clip { min: 0.0, max: 6.0 }), &[2]),
        (Op::GlobalAvgPool, &[3]),
        (conv(4, 2, [1, 1, 0, 1], true), &[4]),
        (Op::Activation(Activation::HardSwish), &[5]),
        (conv(2, 4, [1, 1, 0, 1], true), &[6]),
        (Op::Binary(Binary::Mul), &[3, 7]),
    ];
    Loss::new(graph(Shape::new(2, 7, 6), &ops), Statistics::Batch).check();
}

/// A window that is not square, with a step, a distance and a border of its own on every side.
fn uneven(kernel: [usize; 2], stride: [usize; 2], dilation: [usize; 2], border: [usize; 4]) -> Window {
    let [top, left, bottom, right] = border;
    Window { kernel, stride, dilation, padding: Padding { top, left, bottom, right } }
}

#[test]
fn windows_that_are_not_square() {
    for window in [
        uneven([1, 5], [1, 1], [1, 1], [0, 2, 0, 2]),
        uneven([3, 1], [1, 1], [1, 1], [1, 0, 1, 0]),
        uneven([3, 3], [1, 1], [2, 2], [2, 2, 2, 2]),
        uneven([2, 3], [2, 1], [2, 1], [1, 0, 0, 2]),
        uneven([3, 2], [1, 2], [1, 3], [2, 1, 0, 3]),
        uneven([2, 2], [3, 3], [1, 1], [0, 0, 1, 1]),
        uneven([1, 1], [2, 3], [1, 1], [0, 0, 0, 0]),
    ] {
        for (outputs, groups) in [(8, 1), (8, 2), (4, 4), (8, 4)] {
            check_behind(Op::Conv(Conv { inputs: 4, outputs, window, groups, bias: true }));
        }
        check_behind(Op::MaxPool(window));
        check_behind(Op::AvgPool { window, divisor: Divisor::Window });
        check_behind(Op::AvgPool { window, divisor: Divisor::Inside });
    }
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
