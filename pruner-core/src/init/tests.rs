//! Distribution, keying and the fixed values.

use super::*;
use crate::graph::Shape;
use crate::zoo::{ZooNetwork, build};

fn values(weights: &Weights, name: &str) -> Vec<f32> {
    weights[name].flatten_all().unwrap().to_vec1().unwrap()
}

fn resnet(classes: usize, seed: u64) -> Weights {
    init(&build(ZooNetwork::ResNet20, Shape::new(3, 32, 32), classes).unwrap(), seed)
}

#[test]
fn a_tensor_depends_on_seed_name_and_shape_alone() {
    let (small, large) = (resnet(10, 1), resnet(100, 1));
    assert_eq!(values(&small, "layer3.2.conv2.weight"), values(&large, "layer3.2.conv2.weight"));
    assert_ne!(values(&small, "layer3.2.conv2.weight"), values(&small, "layer3.2.conv1.weight"));
    assert_ne!(values(&small, "conv1.weight"), values(&resnet(10, 2), "conv1.weight"));
}

/// Bounds of five standard errors: of the mean s / sqrt(n), of the variance s^2 sqrt(2 / n).
#[test]
fn weights_are_normal_with_variance_two_over_fan_in() {
    let weights = resnet(10, 3);
    let drawn = values(&weights, "layer3.1.conv1.weight");
    let (n, variance) = (drawn.len() as f64, 2.0 / (64.0 * 9.0));
    let mean = drawn.iter().map(|w| f64::from(*w)).sum::<f64>() / n;
    let spread = drawn.iter().map(|w| (f64::from(*w) - mean).powi(2)).sum::<f64>() / n;
    assert!(mean.abs() < 5.0 * (variance / n).sqrt(), "mean {mean}");
    assert!((spread / variance - 1.0).abs() < 5.0 * (2.0 / n).sqrt(), "variance {spread}");
    let beyond_two = drawn.iter().filter(|w| f64::from(w.abs()) > 2.0 * variance.sqrt()).count() as f64 / n;
    assert!((beyond_two - 0.0455).abs() < 0.006, "share beyond two deviations {beyond_two}");
}

#[test]
fn norms_start_as_the_identity_and_biases_at_zero() {
    let weights = resnet(10, 4);
    assert!(values(&weights, "bn1.weight").iter().all(|v| *v == 1.0));
    assert!(values(&weights, "bn1.bias").iter().all(|v| *v == 0.0));
    assert!(values(&weights, "bn1.running_mean").iter().all(|v| *v == 0.0));
    assert!(values(&weights, "bn1.running_var").iter().all(|v| *v == 1.0));
    assert!(values(&weights, "fc.bias").iter().all(|v| *v == 0.0));
}

#[test]
fn one_thread_or_many_draw_the_same() {
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap().install(|| resnet(10, 5));
    let many = resnet(10, 5);
    assert!(one.keys().eq(many.keys()));
    assert!(one.keys().all(|name| values(&one, name) == values(&many, name)));
}
