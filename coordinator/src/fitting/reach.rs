//! Whether a budget can be met at all: by the smallest network that pruning reaches, whatever the scores say. Pure, and needs no
//! score, so a deployment that can fit nothing is refused before it is anything.

use std::collections::BTreeMap;

use proto::DeviceId;
use pruner_core::Graph;
use pruner_core::budget::Broken;
use pruner_core::graph::cost::{Cost, cost};
use pruner_core::plan::{self, PlanError, WidthPolicy};

use super::{Candidate, in_words, member, with_headroom};
use crate::budgeting;
use crate::corrections::Corrections;
use crate::manifest::DeploymentSpec;
use crate::probes::ProbeSet;
use crate::store::DeviceRecord;

/// Device names in a message before it says "and n more".
const NAMES: usize = 3;

/// The metadata of a refused call that says why, for programs; and what it says where no device can meet its budget.
pub const REASON: (&str, &str) = ("reconvene-reason", "no-fit");

/// The devices that belong to another deployment, and which.
pub type Held = BTreeMap<DeviceId, String>;

/// The dense network, and the smallest that is left of it.
pub struct Ground {
    dense: (Graph, Cost),
    smallest: (Graph, Cost),
}

/// No device can meet its budget, nor could one that comes.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error("no device can meet its budget: {}", .misses.join("; "))]
pub struct Unreachable {
    misses: Vec<String>,
}

impl Ground {
    /// That of a network with weights for every channel.
    pub fn of(dense: Graph, policy: WidthPolicy) -> Self {
        let smallest = plan::smallest(&dense, policy);
        let counted = |graph: Graph| {
            let cost = cost(&graph);
            (graph, cost)
        };
        Self { dense: counted(dense), smallest: counted(smallest) }
    }

    /// The dense network.
    pub fn dense(&self) -> &Graph {
        &self.dense.0
    }

    /// Refuses a deployment where each of the devices that it may have now misses a ceiling even with the smallest network, and so
    /// does one that is not profiled yet, whatever it will measure. Where some may meet theirs, the others are no reason. Those that another deployment holds are named, and not judged.
    pub fn check(
        &self,
        probes: &ProbeSet,
        spec: &DeploymentSpec,
        (devices, held): (&[DeviceRecord], &Held),
        corrections: &Corrections,
    ) -> Result<(), Unreachable> {
        let selected =
            devices.iter().filter(|device| spec.selector.matches(&device.labels, device.profile.as_ref()));
        let (others, selected): (Vec<_>, Vec<_>) = selected.partition(|device| held.contains_key(&device.id));
        let mut misses: BTreeMap<String, Vec<&DeviceId>> = BTreeMap::new();
        let mut is_known_by_all = true;
        for device in selected {
            match Candidate::of(device, probes) {
                Ok(candidate) => match self.miss(probes, spec, &candidate, corrections) {
                    Some(broken) => misses.entry(words(broken)).or_default().push(&device.id),
                    None => return Ok(()),
                },
                Err(_) => is_known_by_all = false,
            }
        }
        let mut all: Vec<String> =
            misses.into_iter().map(|(text, devices)| of_devices(&text, &devices)).collect();
        if all.is_empty() || !is_known_by_all {
            match self.misses_anywhere(spec) {
                Some(rules) => all.extend(rules),
                None => return Ok(()),
            }
        }
        let mut holders: BTreeMap<&str, Vec<&DeviceId>> = BTreeMap::new();
        for device in others {
            holders.entry(&held[&device.id]).or_default().push(&device.id);
        }
        all.extend(holders.into_iter().map(|(holder, devices)| {
            let them = if devices.len() == 1 { "it" } else { "them" };
            of_devices(&format!("not judged, deployment '{holder}' holds {them}"), &devices)
        }));
        Err(Unreachable { misses: all })
    }

    /// The ceiling that the device would miss.
    fn miss(
        &self,
        probes: &ProbeSet,
        spec: &DeploymentSpec,
        candidate: &Candidate,
        corrections: &Corrections,
    ) -> Option<Broken> {
        let (dense, cost) = &self.dense;
        // What makes no sense of a device is said of it when it is fitted.
        let member = member((dense, cost), probes, spec, candidate, corrections).ok()?;
        let (graph, cost) = &self.smallest;
        with_headroom(&member.budget).broken(cost, Some(member.model.predict(graph)))
    }

    /// The ceilings that every device would miss, whatever it measured: those of the rules up to one for all that are selected.
    fn misses_anywhere(&self, spec: &DeploymentSpec) -> Option<Vec<String>> {
        let mut misses = Vec::new();
        for (index, rule) in spec.budgets.iter().enumerate() {
            let broken = budgeting::anywhere(rule, &self.dense.1).broken(&self.smallest.1, None)?;
            misses.push(format!("rule {} of spec.budgets: {}", index + 1, words(broken)));
            if rule.selector.covers(&spec.selector) {
                return Some(misses);
            }
        }
        None
    }
}

fn words(Broken { ceiling, allowed, actual }: Broken) -> String {
    in_words(ceiling, &PlanError::NoFit { ceiling, allowed, smallest: actual })
}

fn of_devices(text: &str, devices: &[&DeviceId]) -> String {
    let named: Vec<&str> = devices.iter().take(NAMES).map(|id| id.as_str()).collect();
    let more = devices.len() - named.len();
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    format!("{}{more}: {text}", named.join(", "))
}

#[cfg(test)]
pub(crate) mod tests;
