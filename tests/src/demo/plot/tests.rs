//! Where the dots lie.

use proto::v1;

use super::*;
use crate::demo::row::Outcome;

fn row(device: &str, model: &'static str, p95_ms: f64, accuracy: f64) -> Row {
    Row {
        device: device.to_owned(),
        profile: String::new(),
        threads: 1,
        cpu_quota_cores: None,
        vector_lanes: None,
        model,
        digest: String::new(),
        budget: v1::Ceilings::default(),
        footprint: Some(v1::Footprint { params: 16_809, ..Default::default() }),
        test_accuracy: Some(accuracy),
        test_images: 10_000,
        predicted_p50_ms: None,
        predicted_p95_ms: None,
        measured_p50_ms: Some(p95_ms),
        measured_p95_ms: Some(p95_ms),
        requests: 300,
        agreement: Some(accuracy),
        outcome: Outcome::Unbounded,
    }
}

#[test]
fn each_device_has_two_dots_and_a_line() {
    let rows = [
        row("gw-a", "dense", 1.0, 0.88),
        row("gw-a", "fitted", 0.5, 0.84),
        row("gw-b", "dense", 2.0, 0.88),
        row("gw-b", "fitted", 0.5, 0.71),
    ];
    let svg = latency_and_accuracy(&rows);
    assert_eq!(svg.matches("<circle").count(), 4);
    assert_eq!(svg.matches("<line").count(), 2);
    assert!(svg.contains("gw-b fitted (17k)"));
    let scale = Scale::around(rows.iter().filter_map(point));
    assert_eq!((scale.low, scale.high), (70.0, 90.0));
    let (x, y) = scale.place(Point { p95_ms: 0.0, percent: 70.0 });
    assert_eq!((x, y), (MARGIN, HEIGHT - MARGIN));
}

#[test]
fn a_device_without_a_model_has_no_dot() {
    let absent = Row { measured_p95_ms: None, ..row("gw-a", "fitted", 1.0, 0.5) };
    assert_eq!(latency_and_accuracy(&[absent]).matches("<circle").count(), 0);
}

#[test]
fn steps_are_round() {
    assert_eq!([0.3, 1.17, 2.2, 4.0, 7.0, 12.0].map(round_step), [0.5, 2.0, 2.5, 5.0, 10.0, 20.0]);
}
