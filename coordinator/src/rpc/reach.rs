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
use crate::rollout::driver::holders;

/// A folder of images that takes longer to be looked through is left to whoever scores.
const LOOK: Duration = Duration::from_secs(10);

/// The images' shape and the number of classes.
pub(super) type Images = (Shape, usize);

/// What a dataset's images are, and that no file of it is missing, empty or cut off; `None` where that takes long to find out.
pub(super) async fn images(files: &DatasetSpec) -> Result<Option<Images>, Status> {
    let DatasetSpec { format, path, test_share } = files.clone();
    let outline = status::blocking(move || dataset::outline(&path, format, test_share));
    match tokio::time::timeout(LOOK, outline).await {
        Ok(outline) => outline?.map(Some).map_err(|error| status::images(&error)),
        Err(_) => Ok(None),
    }
}

/// Refuses a deployment whose budgets no device can meet. What cannot be told now shows itself later.
pub(super) async fn check(
    core: &Core,
    manifest: &DeploymentManifest,
    (origin, images): (&Origin, Option<Images>),
) -> Result<(), Status> {
    let spec = manifest.spec.clone();
    if spec.budgets.is_empty() {
        return Ok(());
    }
    let Some(dense) = dense(core, &SubjectKey::of(&spec), (origin, images)).await? else { return Ok(()) };
    let name = manifest.metadata.name.clone();
    let (probes, policy) = (core.probes.clone(), spec.pruning.pruning().widths);
    let checked = core.store.call(move |store| {
        let ground = Ground::of(dense, policy);
        let corrections = Corrections::of(store, (&spec.network, ground.dense()), &probes)?;
        let devices = store.devices()?;
        let mut held = holders(&devices, &store.deployments()?);
        held.retain(|_, holder| *holder != name);
        Ok(ground.check(&probes, &spec, (&devices, &held), &corrections))
    });
    checked.await.map_err(status::store)?.map_err(|refusal| status::unreachable(&refusal))
}

/// The dense network, where its images are known.
async fn dense(
    core: &Core,
    key: &SubjectKey,
    (origin, images): (&Origin, Option<Images>),
) -> Result<Option<Graph>, Status> {
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
    let Some(images) = known.or(images) else { return Ok(None) };
    status::blocking(move || origin.graph(&blobs, images).ok()).await
}
