//! Convolutions, forward and backward, and what else candle has, against candle in f64.

use candle_core::{Device, Tensor, Var};

use super::*;

fn check(geometry: [usize; 4]) {
    let (batch, [kernel, stride, padding, groups]) = (3, geometry);
    let outputs = if groups == 4 { 8 } else { 6 };
    let graph = graph(Shape::new(4, 9, 9), &[(conv(4, outputs, geometry, false), &[0])]);
    let (input, weights) = (noise::<f64>(1, batch * 4 * 81), params::<f64>(&graph, 2));
    let output = graph.shape(graph.output());
    let upstream = noise::<f64>(3, batch * output.numel());

    let mut executor = Executor::new(&graph, batch).unwrap();
    let logits = executor.forward_eval(&weights, &input, batch).to_vec();
    let mut grads = vec![0.0; weights.len()];
    executor.backward(&weights, &upstream, &mut grads);

    let on = |values: &[f64], dims: &[usize]| Tensor::from_slice(values, dims, &Device::Cpu).unwrap();
    let w = Var::from_tensor(&on(&weights, &[outputs, 4 / groups, kernel, kernel])).unwrap();
    let y = on(&input, &[batch, 4, 9, 9]).conv2d(&w, padding, stride, 1, groups).unwrap();
    let loss = (&y * on(&upstream, y.dims())).unwrap().sum_all().unwrap();
    let dw = loss.backward().unwrap().get(&w).unwrap().clone();
    close(&logits, &y);
    close(&grads, &dw);
}

fn close(ours: &[f64], candle: &Tensor) {
    let candle = candle.flatten_all().unwrap().to_vec1::<f64>().unwrap();
    assert_eq!(ours.len(), candle.len());
    for (ours, candle) in ours.iter().zip(candle) {
        assert!((ours - candle).abs() < 1e-12 * candle.abs().max(1.0), "{ours} against {candle}");
    }
}

#[test]
fn convolutions_agree() {
    for geometry in [[3, 1, 1, 1], [3, 2, 1, 1], [1, 1, 0, 1], [1, 2, 0, 1], [5, 1, 2, 1], [3, 1, 0, 1]] {
        check(geometry);
    }
}

#[test]
fn grouped_convolutions_agree() {
    check([3, 1, 1, 2]);
    check([1, 1, 0, 2]);
}

#[test]
fn depthwise_convolutions_agree() {
    check([3, 1, 1, 4]);
    check([3, 2, 1, 4]);
    check([5, 1, 2, 4]);
}

/// Logits of one operator on noise, and that noise as a tensor.
fn run(op: Op, shape: Shape) -> (Vec<f64>, Tensor) {
    let graph = graph(shape, &[(op, &[0])]);
    let input = noise::<f64>(1, 3 * shape.numel());
    let logits = Executor::new(&graph, 3).unwrap().forward_eval(&params(&graph, 2), &input, 3).to_vec();
    let dims = [3, shape.channels, shape.height, shape.width];
    (logits, Tensor::from_slice(&input, &dims, &Device::Cpu).unwrap())
}

#[test]
fn other_operators_agree() {
    let shape = Shape::new(4, 6, 8);
    let resize = |height, width| {
        let (interpolation, coordinates) = (Interpolation::NearestFloor, Coordinates::Asymmetric);
        Op::Resize(Resize { height, width, step: None, interpolation, coordinates })
    };
    let pooled = |divisor| Op::AvgPool { window: pool(2, 2, 0), divisor };
    type Candle = fn(&Tensor) -> candle_core::Result<Tensor>;
    let cases: [(Op, Candle); 9] = [
        (Op::Activation(Activation::Silu), |x| x.silu()),
        (Op::Activation(Activation::Tanh), |x| x.tanh()),
        (Op::Activation(Activation::Clip { min: 0.0, max: 0.5 }), |x| x.clamp(0.0, 0.5)),
        (Op::MaxPool(pool(2, 2, 0)), |x| x.max_pool2d(2)),
        (pooled(Divisor::Window), |x| x.avg_pool2d(2)),
        (pooled(Divisor::Inside), |x| x.avg_pool2d(2)),
        (resize(12, 16), |x| x.upsample_nearest2d(12, 16)),
        (resize(9, 20), |x| x.upsample_nearest2d(9, 20)),
        (Op::Slice { start: 1, end: 3 }, |x| x.narrow(1, 1, 2)?.contiguous()),
    ];
    for (op, candle) in cases {
        let (ours, x) = run(op, shape);
        close(&ours, &candle(&x).unwrap());
    }
}

#[test]
fn softmax_agrees() {
    let (ours, x) = run(Op::Softmax, Shape::new(5, 6, 7));
    let exp = x.exp().unwrap();
    close(&ours, &exp.broadcast_div(&exp.sum_keepdim(1).unwrap()).unwrap());
}

#[test]
fn shuffled_channels_are_a_transpose() {
    let (ours, x) = run(Op::Shuffle { groups: 2 }, Shape::new(6, 3, 2));
    let shuffled = x.reshape((3, 2, 3, 3, 2)).unwrap().transpose(1, 2).unwrap();
    close(&ours, &shuffled.contiguous().unwrap().reshape((3, 6, 3, 2)).unwrap());
}
