//! What becomes of a manifest that an operator sends: read, judged, and then applied, or only planned.

use proto::{ArtifactRef, Generation, v1};
use tonic::Status;

use super::operator::OperatorRpc;
use super::reach::Images;
use super::{job, note, reach, status, view};
use crate::audit::Event;
use crate::blob::BlobStore;
use crate::clock::unix_ms;
use crate::corrections::Corrections;
use crate::datasets;
use crate::derive::SubjectKey;
use crate::fitting::{self, Candidate};
use crate::manifest::{DatasetRef, DeploymentManifest, TrainerKind};
use crate::models::Origin;
use crate::rollout::driver::holders;
use crate::store::{
    Applied, DeploymentPhase, DeploymentRecord, DerivationState, OutcomeRecord, Store, StoreError,
    check_current,
};

impl OperatorRpc {
    pub(super) async fn apply_text(
        &self,
        text: String,
        over: Option<Generation>,
        (by, wish): (String, Wish),
    ) -> Result<v1::ApplyResponse, Status> {
        let (manifest, standing) = self.judged(&text, over, wish).await?;
        if let Standing::Over(record) = &standing {
            let event = Event::new(by, wish.name(), format!("deployment/{}", record.name));
            note::note(&self.core, note::applied(event, Some(record), record, "unchanged")).await?;
            return Ok(stays_over(record));
        }
        let name = manifest.metadata.name.clone();
        let over = standing.over(over);
        let (blobs, applied_text) = (self.core.blobs.clone(), text.clone());
        let (before, applied) = self
            .core
            .store
            .call(move |store| {
                requeue_failed(store, &blobs, &manifest.metadata.name)?;
                let before = store.deployment(&manifest.metadata.name)?;
                Ok((before, store.apply_deployment(&manifest, &applied_text, over, unix_ms())?))
            })
            .await
            .map_err(status::store)?;
        let result = match &applied {
            Applied::Created(_) => "created",
            Applied::Configured(_) => "configured",
            Applied::Unchanged(_) => "unchanged",
        };
        let generation = applied.record().generation;
        tracing::info!(deployment = name, %generation, result, "deployment applied");
        if result != "unchanged" {
            self.core.board.clear(&name);
        }
        // Also where nothing changed: the entry of an earlier call may have been lost with the power.
        let event = Event::new(by, wish.name(), format!("deployment/{name}"));
        let event = note::applied(event, before.as_ref(), applied.record(), result);
        note::note(&self.core, event).await?;
        self.core.poke.poke();
        Ok(response(applied.record(), result, pause_note(applied.record())))
    }

    /// What applying it would come to now.
    pub(super) async fn check_text(
        &self,
        text: &str,
        over: Option<Generation>,
    ) -> Result<v1::ApplyResponse, Status> {
        let (manifest, standing) = self.judged(text, over, Wish::Apply).await?;
        Ok(match standing {
            Standing::New => v1::ApplyResponse {
                name: manifest.metadata.name,
                generation: 0,
                result: "created".to_owned(),
                note: String::new(),
            },
            Standing::Changes(record) => response(&record, "configured", pause_note(&record)),
            Standing::Again(record) => response(&record, "configured", String::new()),
            Standing::Applied(record) => response(&record, "unchanged", pause_note(&record)),
            Standing::Over(record) => stays_over(&record),
        })
    }

    /// What the text means, once it is found that it can be applied, and what it would be beside what there is. What is applied
    /// already is not judged again, whatever has become of images and devices since: nothing would change.
    async fn judged(
        &self,
        text: &str,
        over: Option<Generation>,
        wish: Wish,
    ) -> Result<(DeploymentManifest, Standing), Status> {
        let meant = DeploymentManifest::read(text).map_err(status::manifest)?;
        let wanted = meant.metadata.name.clone();
        let stored =
            self.core.store.call(move |store| store.deployment(&wanted)).await.map_err(status::store)?;
        let is_undone = |record: &DeploymentRecord| {
            let undone = record.undone.as_ref();
            undone.is_some_and(|undone| reads_as(&undone.text, &meant))
        };
        let standing = match stored {
            // Nor does an undone one come back because it is still in the repository.
            Some(record) if wish == Wish::Apply && is_undone(&record) && !is_meant(&record, &meant) => {
                return Ok((record.manifest.clone(), Standing::Over(Box::new(record))));
            }
            // A file that is applied twice names the generation that it was made of before it was applied.
            Some(record) if is_meant(&record, &meant) => {
                let is_over = matches!(record.phase, DeploymentPhase::Failed { .. });
                let (manifest, record) = (record.manifest.clone(), Box::new(record));
                match wish {
                    _ if !is_over => return Ok((manifest, Standing::Applied(record))),
                    // Who applies what is in a repository, again and again, has not looked at why it failed.
                    Wish::Apply => return Ok((manifest, Standing::Over(record))),
                    Wish::Retry => Standing::Again(record),
                }
            }
            stored => {
                check_current(&meant.metadata.name, stored.as_ref(), over).map_err(status::store)?;
                stored.map_or(Standing::New, |record| Standing::Changes(Box::new(record)))
            }
        };
        Ok((self.acceptable(text).await?, standing))
    }

    /// What each device would get. Those that belong to another deployment wait for it.
    pub(super) async fn plan_text(&self, request: v1::PlanRequest) -> Result<v1::PlanResponse, Status> {
        let v1::PlanRequest { manifest, strict } = request;
        let manifest =
            if strict { self.acceptable(&manifest).await? } else { self.known(&manifest).await?.0 };
        let name = manifest.metadata.name.as_str();
        let subject = job::subject(&self.core, name, SubjectKey::of(&manifest.spec)).await?;
        let read = self.core.store.call(|store| Ok((store.devices()?, store.deployments()?)));
        let (devices, deployments) = read.await.map_err(status::store)?;
        let holders = holders(&devices, &deployments);
        let spec = manifest.spec.clone();
        let (mut candidates, mut waiting) = (Vec::new(), Vec::new());
        for device in
            devices.iter().filter(|device| spec.selector.matches(&device.labels, device.profile.as_ref()))
        {
            if let Some(other) = holders.get(&device.id).filter(|holder| *holder != name) {
                let reason = format!(
                    "it belongs to deployment '{other}', until that is deleted or does not select it any more"
                );
                waiting.push(view::waiting(&device.id, &reason));
                continue;
            }
            match Candidate::of(device, &self.core.probes) {
                Ok(candidate) => candidates.push(candidate),
                Err(reason) => waiting.push(view::waiting(&device.id, reason)),
            }
        }
        let (scored, probes) = (subject.clone(), self.core.probes.clone());
        let corrections = self.core.store.call(move |store| Corrections::read(store, &scored, &probes));
        let corrections = corrections.await.map_err(status::store)?;
        let (planned, probes) = (subject.clone(), self.core.probes.clone());
        let fit = move || fitting::fit(&planned, &probes, &spec, &candidates, &corrections, &[]);
        let fittings = status::blocking(fit).await?;
        Ok(view::plan(manifest.metadata.name, &subject, &fittings, waiting))
    }

    /// What the text means, a dataset's name looked up: what is kept of it says where the files are. And what its images are,
    /// as far as that could be told soon.
    async fn manifest(&self, text: &str) -> Result<(DeploymentManifest, Option<Images>), Status> {
        let manifest = DeploymentManifest::read(text).map_err(status::manifest)?;
        let (meant, own) = (manifest.spec.dataset.clone(), self.core.state_dir.clone());
        let found = self.core.store.call(move |store| datasets::find(store, &own, &meant)).await;
        let dataset = found.map_err(status::store)?.map_err(|refusal| status::dataset(&refusal))?;
        let images = reach::images(&dataset).await?;
        Ok((manifest.with_dataset(dataset), images))
    }

    /// The same, if all that it names is known.
    async fn known(&self, text: &str) -> Result<(DeploymentManifest, Origin, Option<Images>), Status> {
        let (manifest, images) = self.manifest(text).await?;
        let origin = self.origin(&manifest.spec.network).await?;
        if manifest.spec.training.trainer == TrainerKind::Command && !self.core.has_program {
            return Err(status::no_trainer());
        }
        Ok((manifest, origin, images))
    }

    /// The same, if it can be applied as it is.
    async fn acceptable(&self, text: &str) -> Result<DeploymentManifest, Status> {
        let (manifest, origin, images) = self.known(text).await?;
        reach::check(&self.core, &manifest, (&origin, images)).await?;
        Ok(manifest)
    }

    /// Where the network comes from.
    async fn origin(&self, network: &str) -> Result<Origin, Status> {
        let name = network.to_owned();
        let found = self.core.store.call(move |store| Origin::find(store, &name)).await;
        found.map_err(status::store)?.map_err(|unknown| status::network(&unknown))
    }
}

/// What an operator sends a manifest for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// That it is in force.
    Apply,
    /// That it begins again, for it failed.
    Retry,
}

impl Wish {
    fn name(self) -> &'static str {
        match self {
            Self::Apply => "apply",
            Self::Retry => "retry",
        }
    }
}

/// What a manifest would be beside what there is.
enum Standing {
    /// None has its name.
    New,
    /// It would replace this one.
    Changes(Box<DeploymentRecord>),
    /// It is this one, which failed: it is begun again.
    Again(Box<DeploymentRecord>),
    /// It is this one, which failed, or one that was undone: it stays so.
    Over(Box<DeploymentRecord>),
    /// It is this one.
    Applied(Box<DeploymentRecord>),
}

impl Standing {
    /// The generation that it may replace, if only one, where it says that it was made of `given`.
    fn over(&self, given: Option<Generation>) -> Option<Generation> {
        match self {
            Self::New | Self::Changes(_) => given,
            // Nobody's change is lost, whichever it was made of.
            Self::Again(record) | Self::Over(record) | Self::Applied(record) => {
                given.and(Some(record.generation))
            }
        }
    }
}

fn response(record: &DeploymentRecord, result: &str, note: String) -> v1::ApplyResponse {
    let (name, generation) = (record.name.clone(), record.generation.0);
    v1::ApplyResponse { name, generation, result: result.to_owned(), note }
}

/// That what was meant is not in force, and the verb that changes it. Whoever waits for its generation hears so, too.
fn stays_over(record: &DeploymentRecord) -> v1::ApplyResponse {
    let is_failed = matches!(record.phase, DeploymentPhase::Failed { .. });
    let (generation, why) = match record.undone.as_ref().filter(|_| !is_failed) {
        Some(undone) => (undone.generation, format!("it was undone: {}", undone.reason)),
        None => (record.generation, format!("it has failed: {}", record.message)),
    };
    let retry = format!("`reconvene rollout retry {}`", record.name);
    let note = if why.contains(&retry) { why } else { format!("{why}; {retry} begins it again") };
    v1::ApplyResponse { generation: generation.0, ..response(record, "unchanged", note) }
}

fn pause_note(record: &DeploymentRecord) -> String {
    match record.stays_paused() {
        true => format!("it is paused; `reconvene rollout resume {}` goes on", record.name),
        false => String::new(),
    }
}

/// Whether it is what the manifest means.
fn is_meant(record: &DeploymentRecord, meant: &DeploymentManifest<DatasetRef>) -> bool {
    reads_as(&record.text, meant)
}

fn reads_as(text: &str, meant: &DeploymentManifest<DatasetRef>) -> bool {
    DeploymentManifest::read(text).is_ok_and(|read| read == *meant)
}

/// Derivations of a deployment that failed, or of its devices that did, are tried again: what failed may have been mended.
/// So are those whose artifact is gone from the disk, or damaged.
pub(super) fn requeue_failed(store: &dyn Store, blobs: &BlobStore, name: &str) -> Result<(), StoreError> {
    let Some(record) = store.deployment(name)? else { return Ok(()) };
    let is_over = matches!(record.phase, DeploymentPhase::Failed { .. });
    let failed = |outcome: &&OutcomeRecord| is_over || outcome.is_failed();
    for key in record.outcomes.values().filter(failed).filter_map(|outcome| outcome.derivation) {
        let lost = match store.derivation(&key)?.map(|found| found.state) {
            None | Some(DerivationState::Queued) => false,
            Some(DerivationState::Failed { .. }) => true,
            Some(DerivationState::Ready { artifact }) => match store.artifact(artifact)? {
                Some(known) => blobs.verify(&ArtifactRef { digest: known.digest, size: known.size }).is_err(),
                None => true,
            },
        };
        if lost {
            store.update_derivation(&key, &mut |record| record.state = DerivationState::Queued)?;
        }
    }
    Ok(())
}
