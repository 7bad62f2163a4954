//! What must not change results: threads, the rest of the batch, the executor's size, number type (within rounding).

use super::*;

/// Logits, gradients and updated parameters of one training pass.
fn train_pass<T: Scalar>(graph: &Graph, batch: usize, threads: usize) -> [Vec<T>; 3] {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| {
        let mut executor = Executor::<T>::new(graph, batch).unwrap();
        let mut params = params::<T>(graph, 4);
        let input = noise(5, batch * graph.input_shape().numel());
        let logits = executor.forward_train(&mut params, &input, batch).to_vec();
        let mut grads = vec![T::ZERO; params.len()];
        executor.backward(&params, &noise(6, logits.len()), &mut grads);
        [logits, grads, params]
    })
}

#[test]
fn thread_count_changes_no_bit() {
    for graph in [residual(), motley(), tapering()] {
        let one = train_pass::<f32>(&graph, 37, 1);
        for threads in [2, 3] {
            let bits = |passes: &[Vec<f32>; 3]| {
                passes.concat().iter().map(|value| value.to_bits()).collect::<Vec<_>>()
            };
            assert_eq!(bits(&one), bits(&train_pass(&graph, 37, threads)), "{threads} threads");
        }
    }
}

#[test]
fn f32_and_f64_agree() {
    for graph in [residual(), motley(), tapering()] {
        let (single, double) = (train_pass::<f32>(&graph, 20, 2), train_pass::<f64>(&graph, 20, 2));
        for (single, double) in single.concat().iter().zip(double.concat()) {
            let error = (f64::from(*single) - double).abs();
            assert!(error < 2e-4 * double.abs().max(1.0), "{single} and {double}");
        }
    }
}

#[test]
fn an_image_alone_and_within_a_batch() {
    for graph in [residual(), motley(), tapering()] {
        assert_alone_as_together(&graph);
    }
}

fn assert_alone_as_together(graph: &Graph) {
    let (image, outputs) = (graph.input_shape().numel(), graph.shape(graph.output()).numel());
    let params = params::<f64>(graph, 7);
    let input = noise::<f64>(8, 11 * image);
    let mut executor = Executor::new(graph, 16).unwrap();
    let together = executor.forward_eval(&params, &input, 11).to_vec();
    for (index, together) in together.chunks(outputs).enumerate() {
        let alone = executor.forward_eval(&params, &input[index * image..][..image], 1);
        for (alone, together) in alone.iter().zip(together) {
            assert!((alone - together).abs() < 1e-12, "image {index}: {alone} and {together}");
        }
    }
}

#[test]
fn a_batchs_gradient_is_the_sum_of_its_images() {
    for graph in [residual(), motley(), tapering()] {
        let (image, outputs) = (graph.input_shape().numel(), graph.shape(graph.output()).numel());
        let (params, input) = (params::<f64>(&graph, 7), noise::<f64>(8, 11 * image));
        let upstream = noise::<f64>(9, 11 * outputs);
        let mut executor = Executor::new(&graph, 16).unwrap();
        let (mut together, mut sums) = (vec![0.0; params.len()], vec![0.0; params.len()]);
        executor.forward_eval(&params, &input, 11);
        executor.backward(&params, &upstream, &mut together);
        let mut alone = vec![0.0; params.len()];
        for (input, upstream) in input.chunks(image).zip(upstream.chunks(outputs)) {
            executor.forward_eval(&params, input, 1);
            executor.backward(&params, upstream, &mut alone);
            sums.iter_mut().zip(&alone).for_each(|(sum, alone)| *sum += alone);
        }
        for (together, sum) in together.iter().zip(&sums) {
            assert!((together - sum).abs() < 1e-10 * sum.abs().max(1.0), "{together} and {sum}");
        }
    }
}

#[test]
fn running_statistics_follow_the_batch() {
    let graph = graph(Shape::new(1, 1, 2), &[(norm(1), &[0])]);
    let mut executor = Executor::<f64>::new(&graph, 2).unwrap();
    let mut params = vec![1.0, 0.0, 0.0, 1.0];
    executor.forward_train(&mut params, &[1.0, 2.0, 3.0, 6.0], 2);
    // Mean 3; squared deviations 4 + 1 + 0 + 9 = 14, over n - 1 = 3.
    assert!((params[2] - 0.3).abs() < 1e-12);
    assert!((params[3] - (0.9 + 0.1 * 14.0 / 3.0)).abs() < 1e-12);
}

#[test]
fn weights_go_there_and_back() {
    let graph = residual();
    let layout = ParamLayout::of(&graph);
    let values = params::<f32>(&graph, 9);
    let weights = layout.scatter(&values).unwrap();
    assert_eq!(weights["n1.weight"].dims(), [6, 2, 3, 3]);
    assert_eq!(layout.gather::<f32>(&weights).unwrap(), values);
    let mut fewer = weights.clone();
    fewer.remove("n2.running_var");
    let error = layout.gather::<f32>(&fewer).unwrap_err();
    assert_eq!(error.to_string(), "the weights have no tensor 'n2.running_var'");
    fewer.insert("n2.running_var".into(), weights["n2.weight"].narrow(0, 0, 5).unwrap());
    let error = layout.gather::<f32>(&fewer).unwrap_err();
    assert_eq!(error.to_string(), "tensor 'n2.running_var' is [5] where the graph needs [6]");
    assert!(matches!(layout.scatter(&values[1..]), Err(ExecError::Length { .. })));
}

#[test]
#[should_panic(expected = "a batch of 1 to 2 images")]
fn a_batch_beyond_the_buffers_is_refused() {
    let graph = residual();
    let params = params::<f32>(&graph, 9);
    Executor::new(&graph, 2).unwrap().forward_eval(&params, &[0.0; 384], 3);
}
