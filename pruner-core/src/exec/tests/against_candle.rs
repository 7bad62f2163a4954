//! One convolution, forward and backward, against candle's conv2d and its autograd in f64.

use candle_core::{Device, Tensor, Var};

use super::*;

fn check(geometry: [usize; 4]) {
    let (batch, [kernel, stride, padding, groups]) = (3, geometry);
    let graph = graph(Shape::new(4, 9, 9), &[(conv(4, 6, geometry, false), &[0])]);
    let (input, weights) = (noise::<f64>(1, batch * 4 * 81), params::<f64>(&graph, 2));
    let output = graph.shape(graph.output());
    let upstream = noise::<f64>(3, batch * output.numel());

    let mut executor = Executor::new(&graph, batch).unwrap();
    let logits = executor.forward_eval(&weights, &input, batch).to_vec();
    let mut grads = vec![0.0; weights.len()];
    executor.backward(&weights, &upstream, &mut grads);

    let on = |values: &[f64], dims: &[usize]| Tensor::from_slice(values, dims, &Device::Cpu).unwrap();
    let w = Var::from_tensor(&on(&weights, &[6, 4 / groups, kernel, kernel])).unwrap();
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
