//! Devices whose times are known exactly, and how closely the model tells them.

use super::*;
use crate::graph::Shape;
use crate::zoo::{self, ZooNetwork};

/// A device whose times are known: so many nanoseconds for each feature.
fn device(graph: &Graph) -> Latency {
    let price = [5e-3, 1e-8, 2e-7, 3e-7];
    let ms: f64 = features(graph, 16).iter().zip(price).map(|(feature, price)| feature * price).sum();
    Latency { p50_ms: ms, p95_ms: 1.25 * ms }
}

fn probes() -> Vec<Graph> {
    zoo::probes().into_iter().map(|probe| probe.network.graph).collect()
}

fn fitted() -> LatencyModel {
    let probes = probes();
    let samples: Vec<_> = probes.iter().map(|graph| (graph, device(graph))).collect();
    LatencyModel::fit(16, &samples).unwrap()
}

#[test]
fn the_probes_tell_a_linear_device_s_price_of_everything() {
    for (network, size) in [(ZooNetwork::ResNet20, 28), (ZooNetwork::ResNet20, 32), (ZooNetwork::Vgg16Bn, 32)]
    {
        let graph = zoo::build(network, Shape::new(1, size, size), 10).unwrap();
        let (predicted, actual) = (fitted().predict(&graph), device(&graph));
        assert!(
            (predicted.p50_ms / actual.p50_ms - 1.0).abs() < 1e-3,
            "{network} {size}: {predicted:?} {actual:?}"
        );
        assert!((predicted.p95_ms / actual.p95_ms - 1.0).abs() < 1e-3);
    }
}

#[test]
fn what_was_left_out_tells_how_good_predictions_are() {
    let probes = probes();
    let mut samples: Vec<_> = probes.iter().map(|graph| (graph, device(graph))).collect();
    let held_out = LatencyModel::held_out(16, &samples).unwrap();
    assert!(held_out.worst < 1e-3, "a linear device is told from any seven probes: {held_out:?}");
    samples[2].1.p95_ms *= 1.5;
    let held_out = LatencyModel::held_out(16, &samples).unwrap();
    assert!(held_out.worst > 0.3 && held_out.mean < held_out.worst, "{held_out:?}");
    assert_eq!(LatencyModel::held_out(16, &samples[..4]), Err(LatencyError::TooFewProbes { probes: 3 }));
}

#[test]
fn a_correction_scales_every_prediction() {
    let graph = zoo::build(ZooNetwork::ResNet20, Shape::new(1, 28, 28), 10).unwrap();
    let (plain, corrected) = (fitted().predict(&graph), fitted().corrected(1.4).predict(&graph));
    assert!((corrected.p95_ms / plain.p95_ms - 1.4).abs() < 1e-12);
}

#[test]
fn times_that_are_none_are_refused() {
    let probes = probes();
    let samples: Vec<_> = probes.iter().map(|graph| (graph, device(graph))).collect();
    assert_eq!(LatencyModel::fit(16, &samples[..3]), Err(LatencyError::TooFewProbes { probes: 3 }));
    assert_eq!(LatencyModel::fit(0, &samples), Err(LatencyError::NoLanes));
    for ms in [0.0, -1.0, f64::INFINITY] {
        let mut bad = samples.clone();
        bad[2].1.p95_ms = ms;
        assert_eq!(LatencyModel::fit(16, &bad), Err(LatencyError::NotATime { ms }));
    }
}
