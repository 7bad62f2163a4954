//! A dense network that a deployment prunes: scored once by a worker, then planned from as often as needed.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use pruner_core::dataset::{self, Dataset, DatasetError};
use pruner_core::graph::cost::{Cost, cost};
use pruner_core::plan::{Planner, PrunePlan};
use pruner_core::pruning::Scored;
use pruner_core::rectify::Reinit;
use pruner_core::surgery::{self, SurgeryError};
use pruner_core::{Graph, Network, Shape, group};
use serde::{Deserialize, Serialize};

use super::DeriveError;
use crate::blob::BlobStore;
use crate::manifest::{DatasetSpec, DeploymentSpec, PruningSpec};
use crate::models::Origin;

/// All that decides a subject: deployments that agree on it share the scores.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SubjectKey {
    /// The dense network.
    pub network: String,
    /// Gives the image's shape and the number of classes.
    pub dataset: DatasetSpec,
    /// Seeds and scores.
    pub pruning: PruningSpec,
}

/// What a worker found of a network, as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Findings {
    /// The images' shape.
    pub shape: Shape,
    /// How many classes they have.
    pub classes: usize,
    /// What plans are made of.
    pub scored: Scored,
    /// Building and scoring, seconds.
    pub seconds: f64,
}

/// A dense network, scored.
pub struct Subject {
    /// What deployments call it.
    pub name: String,
    /// Its shape; its initial weights are drawn anew where it is trained.
    pub graph: Graph,
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

impl SubjectKey {
    /// Reads the images' shape, builds the network for it, and scores it: seconds to minutes on every core.
    pub fn score(
        &self,
        (origin, blobs): (&Origin, &BlobStore),
        on_round: &mut dyn FnMut(u32, u32) -> ControlFlow<()>,
    ) -> Result<Findings, DeriveError> {
        let pruning = self.pruning.pruning();
        let (shape, classes, images) = {
            let dataset = self.dataset.read()?;
            (dataset.shape, dataset.classes, pruning.images(&dataset))
        };
        let started = Instant::now();
        let network = self.build((origin, blobs), (shape, classes))?;
        let scored = pruning.score(&network, images.as_ref(), on_round)?;
        Ok(Findings { shape, classes, scored, seconds: started.elapsed().as_secs_f64() })
    }
}

impl Subject {
    /// The network that `found` was found of.
    pub fn of(
        key: &SubjectKey,
        (origin, blobs): (&Origin, &BlobStore),
        found: Findings,
    ) -> Result<Self, DeriveError> {
        let Findings { shape, classes, scored, seconds } = found;
        let built = origin.graph(blobs, (shape, classes));
        let graph = built.map_err(|source| DeriveError::Build { network: key.network.clone(), source })?;
        Ok(Self {
            name: key.network.clone(),
            cost: cost(&graph),
            planner: scored.planner(&graph, key.pruning.pruning().widths)?,
            graph,
            dataset: key.dataset.clone(),
            time_to_score: Duration::try_from_secs_f64(seconds).unwrap_or_default(),
        })
    }

    /// The network that `plan` leaves, without weights.
    pub fn planned_graph(&self, plan: &PrunePlan) -> Result<Graph, SurgeryError> {
        planned_graph(&self.graph, plan)
    }
}

/// The network that `plan` leaves of `graph`, without weights.
pub fn planned_graph(graph: &Graph, plan: &PrunePlan) -> Result<Graph, SurgeryError> {
    let widths = plan.keep.iter().map(|(&group, kept)| (group, kept.len())).collect();
    surgery::shrink(graph, &group::groups(graph), &widths)
}

impl DatasetSpec {
    /// Reads and checks every file.
    pub fn read(&self) -> Result<Dataset, DatasetError> {
        dataset::read(&self.path, self.format, self.test_share)
    }
}
