//! A dense network that a deployment prunes: built, initialised and scored once, then planned from as often as needed.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use pruner_core::dataset::{self, Dataset, DatasetError};
use pruner_core::graph::cost::{Cost, cost};
use pruner_core::plan::{Planner, PrunePlan};
use pruner_core::rectify::Reinit;
use pruner_core::surgery::{self, SurgeryError};
use pruner_core::{Graph, Network, Shape, group};

use super::DeriveError;
use crate::blob::BlobStore;
use crate::manifest::{DatasetSpec, DeploymentSpec, PruningSpec};
use crate::models::Origin;

/// All that decides a subject: deployments that agree on it share the scores.
#[derive(Debug, Clone, PartialEq)]
pub struct SubjectKey {
    /// The dense network.
    pub network: String,
    /// Gives the image's shape and the number of classes.
    pub dataset: DatasetSpec,
    /// Seeds and scores.
    pub pruning: PruningSpec,
}

/// A dense network, scored.
pub struct Subject {
    /// What deployments call it.
    pub name: String,
    /// With its initial weights.
    pub network: Network,
    /// What the dense network costs.
    pub cost: Cost,
    /// Plans for any budget in milliseconds.
    pub planner: Planner,
    /// What it learns.
    pub dataset: DatasetSpec,
    /// Building and scoring.
    pub time_to_score: Duration,
}

impl SubjectKey {
    /// What `spec` prunes.
    pub fn of(spec: &DeploymentSpec) -> Self {
        // What the pruned network starts from is no matter of scores.
        let pruning = PruningSpec { reinit: Reinit::default(), ..spec.pruning.clone() };
        Self { network: spec.network.clone(), dataset: spec.dataset.clone(), pruning }
    }

    /// The dense network with its initial weights, not scored.
    pub fn build(
        &self,
        (origin, blobs): (&Origin, &BlobStore),
        images: (Shape, usize),
    ) -> Result<Network, DeriveError> {
        let built = origin.build(blobs, images, self.pruning.seed);
        built.map_err(|source| DeriveError::Build { network: self.network.clone(), source })
    }
}

impl Subject {
    /// Reads the images' shape, builds the network for it, and scores it.
    pub fn score(
        key: &SubjectKey,
        (origin, blobs): (&Origin, &BlobStore),
        on_round: &mut dyn FnMut(u32, u32) -> ControlFlow<()>,
    ) -> Result<Self, DeriveError> {
        let pruning = key.pruning.pruning();
        let (shape, classes, images) = {
            let dataset = key.dataset.read()?;
            (dataset.shape, dataset.classes, pruning.images(&dataset))
        };
        let started = Instant::now();
        let network = key.build((origin, blobs), (shape, classes))?;
        let planner = pruning.planner(&network, images.as_ref(), on_round)?;
        Ok(Self {
            name: key.network.clone(),
            cost: cost(&network.graph),
            network,
            planner,
            dataset: key.dataset.clone(),
            time_to_score: started.elapsed(),
        })
    }

    /// The network that `plan` leaves, without weights.
    pub fn planned_graph(&self, plan: &PrunePlan) -> Result<Graph, SurgeryError> {
        let widths = plan.keep.iter().map(|(&group, kept)| (group, kept.len())).collect();
        surgery::shrink(&self.network.graph, &group::groups(&self.network.graph), &widths)
    }
}

impl DatasetSpec {
    /// Reads and checks every file.
    pub fn read(&self) -> Result<Dataset, DatasetError> {
        dataset::read(&self.path, self.format, self.test_share)
    }
}
