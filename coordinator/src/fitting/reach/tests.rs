//! What is refused before it is anything, and what is left to show itself.

use std::sync::LazyLock;

use proto::{ByteSize, HardwareProfile, ProbeTiming};
use pruner_core::Shape;
use pruner_core::zoo::{self, ZooNetwork};

use super::*;
use crate::manifest::{DatasetFormat, DatasetSpec, DeploymentManifest};
use crate::store::HoldingRecord;

static GROUND: LazyLock<Ground> = LazyLock::new(|| {
    let dense = zoo::build(ZooNetwork::ResNet20, Shape::new(1, 28, 28), 10).unwrap();
    Ground::of(dense, WidthPolicy::default())
});
static PROBES: LazyLock<ProbeSet> = LazyLock::new(|| ProbeSet::known().unwrap());

fn spec(lines: &str) -> DeploymentSpec {
    let text = format!(
        "apiVersion: reconvene/v1\nkind: Deployment\nmetadata: {{ name: d }}\nspec:\n  network: resnet20\n  \
         dataset: {{ name: x }}\n{lines}"
    );
    let files = DatasetSpec { format: DatasetFormat::Idx, path: "/data".into(), test_share: None };
    DeploymentManifest::read(&text).unwrap().with_dataset(files).spec
}

/// A device whose times grow with a probe's multiply-accumulates.
pub(crate) fn profile(ms_per_million: f64) -> HardwareProfile {
    let timing = |probe: &crate::probes::Probe| {
        let ms = 0.05 + cost(&probe.graph).macs as f64 / 1e6 * ms_per_million;
        ProbeTiming {
            digest: probe.artifact.digest,
            runs: 9,
            p50_ms: ms,
            p95_ms: 1.1 * ms,
            engines: Vec::new(),
        }
    };
    HardwareProfile {
        arch: "x86_64".to_owned(),
        os: "linux".to_owned(),
        kernel: None,
        cpu_model: None,
        instruction_sets: Vec::new(),
        logical_cores: 1,
        caches: Vec::new(),
        memory_total: Some(ByteSize(8 << 30)),
        memory_limit: None,
        cpu_quota_cores: None,
        inference_threads: 1,
        engine: "rten".to_owned(),
        engine_version: "0.27.0".to_owned(),
        probes: PROBES.iter().map(timing).collect(),
        swap_total: None,
        disk_free: None,
        cpu_max_mhz: None,
        cpu_governor: None,
        thermal_zone: None,
        revision: 1,
    }
}

fn device(name: &str, profile: Option<HardwareProfile>) -> DeviceRecord {
    DeviceRecord {
        id: name.parse().unwrap(),
        labels: [("device".to_owned(), name.to_owned())].into(),
        agent_version: "0.1.0".to_owned(),
        profile,
        holding: HoldingRecord::default(),
        ended: None,
        serving_address: String::new(),
        last_seen_unix_ms: 1,
        registered_unix_ms: 1,
        unreadable: None,
    }
}

/// Why it is refused; empty where it is not.
fn refusal(lines: &str, devices: &[DeviceRecord]) -> String {
    refusal_beside(lines, devices, &[])
}

/// The same, where these belong to another deployment.
fn refusal_beside(lines: &str, devices: &[DeviceRecord], held: &[&str]) -> String {
    let held = held.iter().map(|name| (name.parse().unwrap(), "other".to_owned())).collect();
    let checked = GROUND.check(&PROBES, &spec(lines), (devices, &held), &Corrections::default());
    checked.err().map(|refusal| refusal.to_string()).unwrap_or_default()
}

#[test]
fn a_budget_that_no_device_can_meet_names_the_ceiling_and_the_smallest_figure() {
    let least = GROUND.smallest.1;
    let (fast, slow) = (device("fast", Some(profile(0.05))), device("slow", Some(profile(5000.0))));
    let both = [fast.clone(), slow.clone()];
    let params = refusal("  budgets: [{ params: 10 }]", &both);
    let expected = format!(
        "no device can meet its budget: fast, slow: no network fits: the budget allows 10 parameters, the smallest \
         reachable has {} parameters",
        least.params
    );
    assert_eq!(params, expected);
    assert!(refusal("  budgets: [{ memory: 1Ki }]", &both).contains("bytes of memory"));
    assert_eq!(refusal(&format!("  budgets: [{{ params: {} }}]", least.params), &both), "", "it can be had");
    // The slow one alone misses what it would take.
    let latency = "  budgets: [{ latencyP95: 0.2ms }]";
    assert!(refusal(latency, std::slice::from_ref(&slow)).contains("a p95 latency of 0.160 ms"));
    assert_eq!(refusal(latency, &both), "", "one device may meet it");
    let other = "  selector: { device: slow }\n  budgets: [{ latencyP95: 0.2ms }]";
    assert!(refusal(other, &both).contains("slow: no network fits"));
}

#[test]
fn without_a_device_only_what_depends_on_none_is_judged() {
    let unknown = [device("new", None)];
    for devices in [&[][..], &unknown] {
        let refused = refusal("  budgets: [{ selector: { tier: a }, macs: 1 }, { params: 10 }]", devices);
        assert!(refused.starts_with("no device can meet its budget: rule 1 of spec.budgets: "), "{refused}");
        assert!(
            refused.contains("; rule 2 of spec.budgets: no network fits: the budget allows 10 par"),
            "{refused}"
        );
        assert_eq!(refusal("  budgets: [{ latencyP95: 0.001ms }]", devices), "");
        // A device that no rule is for has no ceiling.
        assert_eq!(refusal("  budgets: [{ selector: { tier: a }, params: 10 }]", devices), "");
        assert_eq!(refusal("  budgets: [{ selector: { tier: a }, params: 10 }, { macs: 1/4 }]", devices), "");
        let selected = "  selector: { tier: a }\n  budgets: [{ selector: { tier: a }, size: 1Ki }]";
        assert!(!refusal(selected, devices).is_empty());
    }
    // What is known misses it, what is not may not.
    let mixed = [device("slow", Some(profile(5000.0))), device("new", None)];
    assert_eq!(refusal("  budgets: [{ latencyP95: 0.2ms }]", &mixed), "");
    assert!(refusal("  budgets: [{ params: 10 }]", &mixed).contains("slow: no network fits"));
}

#[test]
fn a_device_that_another_deployment_holds_is_named_and_not_judged() {
    let devices = [device("fast", Some(profile(0.05))), device("slow", Some(profile(5000.0)))];
    let latency = "  budgets: [{ latencyP95: 0.2ms }]";
    let refused = refusal_beside(latency, &devices, &["fast"]);
    assert!(
        refused.contains("slow: no network fits"),
        "what the fast one could meet is of no use: {refused}"
    );
    assert!(refused.ends_with("; fast: not judged, deployment 'other' holds it"), "{refused}");
    assert_eq!(refusal_beside(latency, &devices, &["slow"]), "");
    assert_eq!(refusal_beside(latency, &devices, &["fast", "slow"]), "", "it has no device yet");
    let refused = refusal_beside("  budgets: [{ params: 10 }]", &devices, &["fast", "slow"]);
    assert!(refused.contains("rule 1 of spec.budgets: no network fits"), "{refused}");
    assert!(refused.ends_with("; fast, slow: not judged, deployment 'other' holds them"), "{refused}");
}
