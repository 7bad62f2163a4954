//! Windows of every kind, borders, repeated dimensions and resizes against plain loops and numbers worked by hand.

use super::*;

const BATCH: usize = 3;

fn run(graph: &Graph, params: &[f64], input: &[f64]) -> Vec<f64> {
    Executor::new(graph, BATCH).unwrap().forward_eval(params, input, BATCH).to_vec()
}

/// Calls `each` with every input position, in row-major order, that the window at an output position reads, and
/// its number within the window.
fn places(window: Window, shape: Shape, at: [usize; 2], mut each: impl FnMut([usize; 2], usize)) {
    let Padding { top, left, .. } = window.padding;
    for tap in 0..window.area() {
        let offsets = [tap / window.kernel[1], tap % window.kernel[1]];
        let [row, column] =
            [0, 1].map(|axis| at[axis] * window.stride[axis] + offsets[axis] * window.dilation[axis]);
        let inside = row >= top && column >= left;
        if inside && row - top < shape.height && column - left < shape.width {
            each([row - top, column - left], tap);
        }
    }
}

/// `of(image, channel, row, column)` over a batch.
fn every(shape: Shape, mut of: impl FnMut(usize, usize, [usize; 2]) -> f64) -> Vec<f64> {
    let place = |index: usize| [index / shape.width % shape.height, index % shape.width];
    (0..BATCH * shape.numel())
        .map(|index| of(index / shape.numel(), index / shape.area() % shape.channels, place(index)))
        .collect()
}

fn assert_close(got: &[f64], expected: &[f64], what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (got, expected) in got.iter().zip(expected) {
        assert!((got - expected).abs() < 1e-12, "{what}: {got} instead of {expected}");
    }
}

fn windows() -> Vec<Window> {
    let window = |kernel, stride, dilation, [top, left, bottom, right]: [usize; 4]| Window {
        kernel,
        stride,
        dilation,
        padding: Padding { top, left, bottom, right },
    };
    vec![
        window([1, 7], [1, 1], [1, 1], [0, 3, 0, 3]),
        window([3, 1], [1, 1], [1, 1], [1, 0, 1, 0]),
        window([3, 3], [1, 1], [2, 2], [2, 2, 2, 2]),
        window([2, 3], [2, 1], [3, 1], [1, 0, 2, 2]),
        window([3, 2], [1, 3], [1, 4], [2, 1, 0, 3]),
        window([2, 2], [3, 3], [1, 1], [0, 1, 1, 0]),
        window([3, 3], [2, 2], [1, 1], [0, 0, 1, 1]),
        window([1, 1], [2, 3], [1, 1], [0, 0, 0, 0]),
        window([5, 5], [1, 1], [1, 1], [2, 2, 2, 2]),
    ]
}

#[test]
fn convolutions() {
    let shape = Shape::new(4, 8, 9);
    let input = noise::<f64>(1, BATCH * shape.numel());
    for window in windows() {
        for (outputs, groups) in [(6, 1), (6, 2), (4, 4), (8, 4)] {
            let conv = Conv { inputs: 4, outputs, window, groups, bias: true };
            let graph = graph(shape, &[(Op::Conv(conv), &[0])]);
            let params = params::<f64>(&graph, 2);
            let (weights, bias) = params.split_at(params.len() - outputs);
            let (reads, writes) = (4 / groups, outputs / groups);
            let expected = every(graph.shape(graph.output()), |image, output, at| {
                let mut sum = bias[output];
                for read in 0..reads {
                    let from = (image * 4 + output / writes * reads + read) * shape.area();
                    places(window, shape, at, |[row, column], tap| {
                        let weight = weights[(output * reads + read) * window.area() + tap];
                        sum += weight * input[from + row * shape.width + column];
                    });
                }
                sum
            });
            assert_close(&run(&graph, &params, &input), &expected, &format!("{conv:?}"));
        }
    }
}

#[test]
fn pools() {
    let shape = Shape::new(2, 8, 9);
    let input = noise::<f64>(1, BATCH * shape.numel());
    for window in windows() {
        let pooled = |op: Op, pool: fn(&[f64]) -> f64| {
            let graph = graph(shape, &[(op, &[0])]);
            let expected = every(graph.shape(graph.output()), |image, channel, at| {
                let plane = &input[(image * 2 + channel) * shape.area()..][..shape.area()];
                let mut read = vec![window.area() as f64];
                places(window, shape, at, |[row, column], _| read.push(plane[row * shape.width + column]));
                pool(&read)
            });
            assert_close(&run(&graph, &[], &input), &expected, &format!("{window:?}"));
        };
        let average = |divisor| Op::AvgPool { window, divisor };
        pooled(Op::MaxPool(window), |read| read[1..].iter().copied().fold(f64::NEG_INFINITY, f64::max));
        pooled(average(Divisor::Window), |read| read[1..].iter().sum::<f64>() / read[0]);
        pooled(average(Divisor::Inside), |read| read[1..].iter().sum::<f64>() / (read.len() - 1) as f64);
    }
}

#[test]
fn a_nan_is_the_largest() {
    let graph =
        graph(Shape::new(1, 1, 3), &[(Op::MaxPool(Window { kernel: [1, 3], ..pool(1, 1, 0) }), &[0])]);
    let nan = f64::NAN;
    let pooled = run(&graph, &[], &[nan, 1.0, 2.0, 1.0, nan, 2.0, 1.0, 2.0, nan]);
    assert!(pooled.iter().all(|value| value.is_nan()), "{pooled:?}");
    let (least, most) = (f64::NEG_INFINITY, f64::INFINITY);
    let pooled = run(&graph, &[], &[least, most, 1.0, 1.0, least, least, least, least, least]);
    assert_eq!(pooled, [most, 1.0, least]);
}

#[test]
fn a_border_of_one_number() {
    let border = Padding { top: 1, left: 0, bottom: 0, right: 2 };
    let graph = graph(Shape::new(1, 1, 2), &[(Op::Pad { border, value: 7.0 }, &[0])]);
    let padded = run(&graph, &[], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    assert_eq!(padded[..8], [7.0, 7.0, 7.0, 7.0, 1.0, 2.0, 7.0, 7.0]);
    assert_eq!(padded[20..], [5.0, 6.0, 7.0, 7.0]);
}

#[test]
fn activations_by_hand() {
    let graph_of = |activation| graph(Shape::new(1, 1, 2), &[(Op::Activation(activation), &[0])]);
    let input = [-4.0, -1.0, 0.0, 0.5, 2.0, 8.0];
    for (activation, expected) in [
        (Activation::LeakyRelu { slope: 0.5 }, [-2.0, -0.5, 0.0, 0.5, 2.0, 8.0]),
        (Activation::Clip { min: 0.0, max: 6.0 }, [0.0, 0.0, 0.0, 0.5, 2.0, 6.0]),
        // Of bounds that cross, ONNX takes the upper one.
        (Activation::Clip { min: 3.0, max: 1.0 }, [1.0; 6]),
        (Activation::HardSigmoid { alpha: 0.25, beta: 0.5 }, [0.0, 0.25, 0.5, 0.625, 1.0, 1.0]),
        (Activation::HardSwish, [0.0, -1.0 / 3.0, 0.0, 0.5 * (0.5 / 6.0 + 0.5), 5.0 / 3.0, 8.0]),
        (Activation::Sigmoid, input.map(|x| 1.0 / (1.0 + f64::exp(-x)))),
    ] {
        assert_close(&run(&graph_of(activation), &[], &input), &expected, &format!("{activation:?}"));
    }
}

/// One row of numbers, resized.
fn resized(row: &[f64], resize: Resize) -> Vec<f64> {
    let shape = Shape::new(1, 1, row.len());
    let graph = graph(shape, &[(Op::Resize(Resize { height: 1, ..resize }), &[0])]);
    run(&graph, &[], &row.repeat(BATCH))[..resize.width].to_vec()
}

/// The numbers of ONNX's own examples and of its formulas.
#[test]
fn resizes_by_hand() {
    use Coordinates::{AlignCorners, Asymmetric, HalfPixel, PytorchHalfPixel};
    use Interpolation::{Linear, NearestFloor, NearestPreferFloor};
    let case = |interpolation, coordinates, width, step: Option<f32>, expected: &[f64]| {
        let step = step.map(|step| [1.0, step]);
        let resize = Resize { height: 1, width, step, interpolation, coordinates };
        assert_close(&resized(&[1.0, 2.0, 3.0, 4.0], resize), expected, &format!("{resize:?}"));
    };
    case(Linear, HalfPixel, 8, None, &[1.0, 1.25, 1.75, 2.25, 2.75, 3.25, 3.75, 4.0]);
    case(Linear, AlignCorners, 7, None, &[1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0]);
    case(Linear, Asymmetric, 8, None, &[1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.0]);
    case(Linear, HalfPixel, 1, None, &[2.5]);
    case(Linear, PytorchHalfPixel, 1, None, &[1.0]);
    case(Linear, AlignCorners, 1, None, &[1.0]);
    case(Linear, HalfPixel, 2, None, &[1.5, 3.5]);
    // Scale 0.6 of ONNX's resize_downsample_scales_linear: 4 to 2 at steps of 1 / 0.6.
    case(Linear, Asymmetric, 2, Some(1.5), &[1.0, 2.5]);
    case(NearestFloor, Asymmetric, 6, None, &[1.0, 1.0, 2.0, 3.0, 3.0, 4.0]);
    case(NearestFloor, Asymmetric, 3, None, &[1.0, 2.0, 3.0]);
    case(NearestFloor, HalfPixel, 8, None, &[1.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0]);
    case(NearestPreferFloor, HalfPixel, 8, None, &[1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0]);
    case(NearestPreferFloor, HalfPixel, 2, None, &[1.0, 3.0]);
    case(NearestPreferFloor, AlignCorners, 7, None, &[1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0]);
}

#[test]
fn what_cannot_be_run_says_so() {
    let opaque = crate::graph::Opaque {
        operator: "com.example.Mystery".into(),
        node: Vec::new(),
        operands: vec![crate::graph::Operand::Value { rank: 4 }],
        outputs: vec![vec![1, 5, 4, 4]],
    };
    let graph = graph(Shape::new(1, 1, 2), &[(Op::Opaque(opaque.into()), &[0])]);
    assert_eq!(
        Executor::<f32>::new(&graph, 1).unwrap_err().to_string(),
        "node 'n1' computes com.example.Mystery, which cannot be run here"
    );
}
