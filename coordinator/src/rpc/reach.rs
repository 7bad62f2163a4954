//! Whether a deployment's budgets can be met at all, before anything is changed for it.

use std::time::Duration;

use pruner_core::{Graph, Shape, dataset};
use tonic::Status;

use super::status;
use crate::core::Core;
use crate::corrections::Corrections;
use crate::derive::SubjectKey;
use crate::fitting::Ground;
use crate::manifest::{DatasetSpec, DeploymentManifest};
use crate::models::Origin;

/// A folder of images that takes longer to be looked through is left to whoever scores.
const LOOK: Duration = Duration::from_secs(10);

/// Refuses a deployment whose budgets no device can meet. What cannot be told now shows itself later.
pub(super) async fn check(core: &Core, manifest: &DeploymentManifest, origin: &Origin) -> Result<(), Status> {
    let spec = manifest.spec.clone();
    if spec.budgets.is_empty() {
        return Ok(());
    }
    let Some(dense) = dense(core, &SubjectKey::of(&spec), origin).await? else { return Ok(()) };
    let (probes, policy) = (core.probes.clone(), spec.pruning.pruning().widths);
    let checked = core.store.call(move |store| {
        let ground = Ground::of(dense, policy);
        let corrections = Corrections::of(store, (&spec.network, ground.dense()), &probes)?;
        Ok(ground.check(&probes, &spec, &store.devices()?, &corrections))
    });
    checked.await.map_err(status::store)?.map_err(|refusal| status::unreachable(&refusal))
}

/// The dense network, where its images can be told without reading all of them.
async fn dense(core: &Core, key: &SubjectKey, origin: &Origin) -> Result<Option<Graph>, Status> {
    if let Some(subject) = core.subjects.get(key) {
        return Ok(Some(subject.graph.clone()));
    }
    let (origin, blobs, files) = (origin.clone(), core.blobs.clone(), key.dataset.clone());
    let known = core.store.call(|store| store.datasets()).await.map_err(status::store)?;
    let known = known.into_iter().find(|record| record.spec == files);
    let known = known.map(|record| {
        let [channels, height, width] = record.input_shape.map(|side| side as usize);
        (Shape::new(channels, height, width), record.classes as usize)
    });
    let build = move || {
        let DatasetSpec { format, path, .. } = &files;
        let images = known.or_else(|| dataset::outline(path, *format).ok())?;
        origin.graph(&blobs, images).ok()
    };
    tokio::time::timeout(LOOK, status::blocking(build)).await.unwrap_or(Ok(None))
}
