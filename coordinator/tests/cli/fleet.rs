//! A small fleet as fixed replies: one device of each kind that a table has to show.

use std::time::{SystemTime, UNIX_EPOCH};

use proto::{Digest, v1};

use crate::fake::Replies;

/// Half past three hours ago, which every clock prints as `3h`.
fn three_hours_ago() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    now - 12_600_000
}

pub(crate) fn digest() -> String {
    Digest::of(b"small").to_string()
}

/// The dense network's cost.
fn dense() -> v1::Footprint {
    v1::Footprint {
        params: 272_474,
        macs: 40_813_184,
        bytes: 1_094_000,
        memory_bytes: 1_350_000,
        activation_bytes: 147_456,
    }
}

fn small() -> v1::Footprint {
    v1::Footprint {
        params: 16_801,
        macs: 2_530_112,
        bytes: 70_112,
        memory_bytes: 140_000,
        activation_bytes: 73_728,
    }
}

fn devices() -> Vec<v1::Device> {
    let probe = |name: &str, p50_ms, p95_ms, fitted_p95_ms| v1::ProbeResult {
        name: name.to_owned(),
        p50_ms,
        p95_ms,
        fitted_p95_ms,
    };
    let cam = v1::Device {
        id: "cam-1".to_owned(),
        labels: [("tier", "small"), ("site", "lab")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        status: "Online".to_owned(),
        class_id: "x86_64-avx2-1t-5".to_owned(),
        arch: "x86_64".to_owned(),
        cpu_model: "Example CPU 3000".to_owned(),
        instruction_sets: vec!["avx2".to_owned(), "fma".to_owned()],
        logical_cores: 2,
        inference_threads: 1,
        cpu_quota_cores: Some(0.5),
        memory_total_bytes: Some(8 << 30),
        memory_limit_bytes: Some(256 << 20),
        engine: "rten 0.27.0".to_owned(),
        probes: vec![probe("conv16", 0.2041, 0.25, 0.26), probe("conv64", 1.5, 1.75, 1.72)],
        generation: 3,
        active_digest: digest(),
        last_seen_unix_ms: three_hours_ago(),
        agent_version: "0.1.0".to_owned(),
        serving_address: "127.0.0.1:8081".to_owned(),
        vector_lanes: Some(8),
        swap_total_bytes: Some(0),
        disk_free_bytes: Some(7 << 30),
        cpu_max_mhz: Some(1800),
        cpu_governor: Some("schedutil".to_owned()),
        thermal_zone: Some("cpu-thermal".to_owned()),
        profile_revision: 2,
        serving_engine: "rten, 1 thread".to_owned(),
        told_by: "fashion-mnist".to_owned(),
        ..Default::default()
    };
    let hub = v1::Device {
        id: "hub-2".to_owned(),
        status: "Offline".to_owned(),
        arch: "aarch64".to_owned(),
        logical_cores: 4,
        inference_threads: 4,
        engine: "rten 0.27.0".to_owned(),
        last_seen_unix_ms: three_hours_ago(),
        agent_version: "0.1.0".to_owned(),
        ..Default::default()
    };
    vec![cam, hub]
}

pub(crate) fn outcomes() -> Vec<v1::DeviceOutcome> {
    let active = v1::DeviceOutcome {
        device_id: "cam-1".to_owned(),
        state: "Active".to_owned(),
        reason: "params bound the widths: 16,801 of 16,809".to_owned(),
        class_id: "x86_64-avx2-1t-5".to_owned(),
        digest: digest(),
        budget: Some(v1::Ceilings { params: Some(16_809), latency_p95_ms: Some(0.8), ..Default::default() }),
        planned: Some(small()),
        predicted_p50_ms: Some(0.3141),
        predicted_p95_ms: Some(0.4),
        test_accuracy: Some(0.8765),
        wave: 1,
        download_bytes: 70_112,
    };
    let no_fit = v1::DeviceOutcome {
        device_id: "hub-2".to_owned(),
        state: "NoFit".to_owned(),
        reason: "size 1.0Ki cannot be met; the smallest is 3.9Ki".to_owned(),
        budget: Some(v1::Ceilings { bytes: Some(1024), ..Default::default() }),
        ..Default::default()
    };
    vec![active, no_fit]
}

pub(crate) fn deployment(phase: &str) -> v1::Deployment {
    v1::Deployment {
        name: "fashion-mnist".to_owned(),
        generation: 1,
        network: "resnet20".to_owned(),
        phase: phase.to_owned(),
        message: String::new(),
        matched: 2,
        active: 1,
        no_fit: 1,
        failed: 0,
        devices: outcomes(),
        manifest: "apiVersion: reconvene/v1\nkind: Deployment\n".to_owned(),
        paused: false,
        over_ceiling: 0,
    }
}

fn layers() -> Vec<v1::LayerWidth> {
    let layer = |layer: &str, before, after, sensitivity| v1::LayerWidth {
        layer: layer.to_owned(),
        before,
        after,
        sensitivity,
    };
    vec![
        layer("conv1", 16, 6, 0.31),
        layer("layer1.0.conv1", 16, 16, 1.0),
        layer("layer3.2.conv1", 64, 2, 0.0042),
    ]
}

/// Everything that the fleet would answer.
pub(crate) fn replies() -> Replies {
    let planned = outcomes().into_iter().map(|outcome| v1::DeviceOutcome {
        state: if outcome.state == "NoFit" { outcome.state } else { "Fitted".to_owned() },
        digest: String::new(),
        test_accuracy: None,
        wave: 0,
        ..outcome
    });
    Replies {
        devices: devices(),
        models: vec![v1::Model {
            name: "resnet20".to_owned(),
            input_shape: vec![3, 32, 32],
            classes: 10,
            params: 272_474,
            macs: 40_813_184,
            bytes: 1_094_000,
            origin: "zoo".to_owned(),
            digest: String::new(),
            notes: Vec::new(),
        }],
        datasets: vec![v1::Dataset {
            name: "fashion".to_owned(),
            format: "idx".to_owned(),
            path: "/usr/share/datasets/fashion-mnist".to_owned(),
            test_share: None,
            input_shape: vec![1, 28, 28],
            classes: 10,
            train_images: 60_000,
            test_images: 10_000,
            added_unix_ms: 0,
        }],
        deployments: vec![deployment("Complete")],
        jobs: vec![v1::Job {
            name: "train-3f9a2b71c04d".to_owned(),
            deployment: "fashion-mnist".to_owned(),
            state: "Running".to_owned(),
            worker: "gpu-1".to_owned(),
            done: 30,
            total: 40,
            message: "epoch 3/4 loss 0.512".to_owned(),
            tries: 1,
            ..v1::Job::default()
        }],
        artifacts: vec![v1::Artifact {
            digest: digest(),
            network: "resnet20".to_owned(),
            footprint: Some(small()),
            test_accuracy: Some(0.8765),
            test_images: 10_000,
            train_images: 60_000,
            epochs: Some(10),
            seconds_to_prune: 12.34,
            seconds_to_train: Some(345.6),
            layers: layers(),
        }],
        telemetry: vec![v1::TelemetrySummary {
            device_id: "cam-1".to_owned(),
            digest: digest(),
            generation: 3,
            count: 12_345,
            errors: 0,
            p50_ms: 0.305,
            p95_ms: 0.3912,
            p99_ms: 0.9,
            mean_ms: 0.32,
            max_ms: 12.0,
            intervals: 7,
            rss_bytes: Some(14 << 20),
            cpu_cores: Some(0.125),
            temperature: Some(51.5),
        }],
        plan: v1::PlanResponse {
            name: "fashion-mnist".to_owned(),
            dense: Some(dense()),
            devices: planned.collect(),
            models: vec![v1::PlannedModel {
                device_ids: vec!["cam-1".to_owned()],
                footprint: Some(small()),
                layers: layers(),
            }],
        },
        ..Default::default()
    }
}
