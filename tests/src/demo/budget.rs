//! The two manifests: first no ceiling at all, then ceilings in absolute figures, set against what each device measured
//! on the dense network. They lie apart from what the devices can do by a margin; the figures themselves are not bent.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use coordinator::limit::{Count, Limit, Millis};
use coordinator::manifest::{
    BudgetRule, DatasetFormat, DatasetSpec, DeploymentManifest, DeploymentSpec, Metadata, PruningSpec,
    RolloutSpec, Selector, TrainingSpec,
};
use proto::ByteSize;

use super::{DEPLOYMENT, Generation, Scale};

/// Every device, no ceiling: the dense network.
pub(super) fn dense(images: &Path, scale: Scale) -> DeploymentManifest {
    DeploymentManifest {
        api_version: "reconvene/v1".to_owned(),
        kind: "Deployment".to_owned(),
        metadata: Metadata { name: DEPLOYMENT.to_owned() },
        spec: DeploymentSpec {
            selector: Selector::default(),
            network: "resnet20".to_owned(),
            dataset: DatasetSpec { format: DatasetFormat::Idx, path: images.to_owned(), test_share: None },
            pruning: PruningSpec::default(),
            training: TrainingSpec {
                epochs: scale.epochs(),
                images: Some(scale.images()),
                ..TrainingSpec::default()
            },
            budgets: Vec::new(),
            // Its table is of what was predicted: nothing is fitted again behind its back.
            rollout: RolloutSpec { refits: 0, ..RolloutSpec::default() },
        },
    }
}

/// The same with one rule for each device.
pub(super) fn fitted(dense: &DeploymentManifest, measured: &Generation) -> Result<DeploymentManifest> {
    let mut manifest = dense.clone();
    manifest.spec.budgets = vec![
        // A gateway with room: a quarter of the parameters, and a little faster.
        BudgetRule {
            params: Some(share_of_params(measured, "gw-a", 1.0 / 4.0)?),
            latency_p95: Some(share_of_p95(measured, "gw-a", 0.9)?),
            ..rule("gw-a")
        },
        // One that must answer in time, and with little flash.
        BudgetRule {
            size: Some(Limit::Absolute(ByteSize(300 << 10))),
            latency_p95: Some(share_of_p95(measured, "gw-b", 0.6)?),
            ..rule("gw-b")
        },
        // One that shares its processor: the compression of the paper, 16.21 times.
        BudgetRule {
            params: Some(share_of_params(measured, "gw-c", 1.0 / 16.21)?),
            latency_p95: Some(share_of_p95(measured, "gw-c", 0.4)?),
            ..rule("gw-c")
        },
    ];
    Ok(manifest)
}

/// A rule without ceilings for one device.
fn rule(device: &str) -> BudgetRule {
    BudgetRule {
        selector: BTreeMap::from([("device".to_owned(), device.to_owned())]).into(),
        ..BudgetRule::default()
    }
}

/// A share of the parameters that the device now holds, as a figure.
fn share_of_params(measured: &Generation, device: &str, share: f64) -> Result<Limit<Count>> {
    let planned = measured.outcome(device)?.planned.as_ref();
    let params = planned.with_context(|| format!("{device} has no dense network"))?.params;
    Ok(Limit::Absolute(Count((params as f64 * share).floor() as u64)))
}

/// A share of the 95th percentile that the device measured, as a figure in whole microseconds.
fn share_of_p95(measured: &Generation, device: &str, share: f64) -> Result<Limit<Millis>> {
    let measurement = measured.measurement(device).with_context(|| format!("{device} was not measured"))?;
    let microseconds = (measurement.telemetry.p95_ms * share * 1e3).floor();
    Ok(Limit::Absolute(Millis(microseconds / 1e3)))
}
