//! Networks that leave the coordinator and come back trained: found by the beginning of their name, written out, taken in.
//! Owns what may come back; the driver goes on from there.

use proto::{ArtifactRef, Digest};
use pruner_core::Network;
use pruner_core::dataset::{Dataset, DatasetError};
use pruner_core::graph::onnx::{self, BatchNorms, OnnxError, ReadError};
use pruner_core::graph::weights::{self, WeightsError};
use pruner_core::plan::PrunePlan;
use pruner_core::zoo::UnknownNetwork;

use crate::blob::{BlobError, BlobStore};
use crate::derive::{self, DeriveError, SubjectKey};
use crate::manifest::{DeploymentSpec, TrainerKind};
use crate::models::Origin;
use crate::store::{ArtifactRecord, DerivationKey, DerivationState, Store, StoreError};

/// How a network is written out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Graph and weights; batch norms as operators of their own while it is not trained.
    Onnx,
    /// The weights alone, by name.
    Safetensors,
}

/// Why a network is not given out, or its weights not taken in.
#[derive(Debug, thiserror::Error)]
pub enum ElsewhereError {
    /// Too little of a name.
    #[error(
        "'{name}' is no digest; give its first {SHORTEST} characters at least, as `reconvene get artifacts` prints them"
    )]
    NoName {
        /// What was given.
        name: String,
    },
    /// Nothing is called so.
    #[error("no network '{name}'; `reconvene describe deployment` names those that wait to be trained")]
    Unknown {
        /// What was given.
        name: String,
    },
    /// More than one is.
    #[error("'{name}' is the beginning of {first} and of {second}; give more of it")]
    Ambiguous {
        /// What was given.
        name: String,
        /// One.
        first: Digest,
        /// Another.
        second: Digest,
    },
    /// The trained network is final.
    #[error("{key} has its weights already: artifact {artifact}")]
    Trained {
        /// Which derivation.
        key: DerivationKey,
        /// What came of it.
        artifact: Digest,
    },
    /// The bytes mean something else already.
    #[error("{artifact} is a network of other images already; the same file cannot be two networks")]
    Collides {
        /// The artifact.
        artifact: Digest,
    },
    /// Somebody else trains it.
    #[error("{key} is not trained elsewhere: its deployment does not say `trainer: external`")]
    NotExternal {
        /// Which derivation.
        key: DerivationKey,
    },
    /// Its plan was written by another version.
    #[error("the stored plan of {key} cannot be read")]
    Plan {
        /// Which derivation.
        key: DerivationKey,
        /// Why.
        source: serde_json::Error,
    },
    /// No such network any more.
    #[error(transparent)]
    Network(#[from] UnknownNetwork),
    /// The images that it is for are gone.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// It cannot be made again, or what came is wrong.
    #[error(transparent)]
    Derive(#[from] DeriveError),
    /// It cannot be written as ONNX.
    #[error("writing ONNX")]
    Onnx(#[from] OnnxError),
    /// The stored artifact cannot be read.
    #[error("reading the artifact")]
    Read(#[from] ReadError),
    /// Its weights cannot be written.
    #[error("writing the weights")]
    Weights(#[source] WeightsError),
    /// The artifact's file.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The records.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// As many characters of a digest as a name needs.
const SHORTEST: usize = 4;

/// What a name may mean.
#[derive(Debug, Clone)]
pub enum Found {
    /// Pruned, not trained.
    Planned(Box<Planned>),
    /// Trained.
    Trained(Box<ArtifactRecord>),
}

/// A pruned network as its derivation describes it.
#[derive(Debug, Clone)]
pub struct Planned {
    /// Its name.
    pub key: DerivationKey,
    pub(crate) state: DerivationState,
    pub(crate) plan: PrunePlan,
    pub(crate) spec: DeploymentSpec,
    pub(crate) origin: Origin,
}

/// A network on its way out.
#[derive(Debug, Clone)]
pub struct Export {
    /// The file's bytes.
    pub file: Vec<u8>,
    /// Its name in full.
    pub name: Digest,
    /// The dense network.
    pub network: String,
    /// Whether its weights are final.
    pub is_trained: bool,
    /// Channels, height, width.
    pub input_shape: [u32; 3],
    /// Per channel.
    pub mean: Vec<f32>,
    /// Per channel.
    pub std: Vec<f32>,
}

/// What the beginning of a digest names: an artifact, or a derivation of a deployment.
pub fn find(store: &dyn Store, name: &str) -> Result<Found, ElsewhereError> {
    let is_hex = name.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_hex || name.len() < SHORTEST {
        return Err(ElsewhereError::NoName { name: name.to_owned() });
    }
    let name = name.to_ascii_lowercase();
    let begins = |digest: &Digest| digest.to_string().starts_with(&name);
    let artifacts = store.artifacts()?.into_iter().filter(|record| begins(&record.digest));
    let mut found: Vec<(Digest, Option<ArtifactRecord>)> =
        artifacts.map(|record| (record.digest, Some(record))).collect();
    let derivations = store.derivations()?.into_iter().filter(|record| begins(&record.key.0));
    found.extend(derivations.map(|record| (record.key.0, None)));
    let mut found = found.into_iter();
    match (found.next(), found.next()) {
        (None, _) => Err(ElsewhereError::Unknown { name }),
        (Some((first, _)), Some((second, _))) => Err(ElsewhereError::Ambiguous { name, first, second }),
        (Some((_, Some(artifact))), None) => Ok(Found::Trained(Box::new(artifact))),
        (Some((key, None)), None) => planned(store, DerivationKey(key)).map(|p| Found::Planned(Box::new(p))),
    }
}

/// The network that a derivation is to make, as long as a deployment wants it.
pub(crate) fn planned(store: &dyn Store, key: DerivationKey) -> Result<Planned, ElsewhereError> {
    let unknown = || ElsewhereError::Unknown { name: key.to_string() };
    let record = store.derivation(&key)?.ok_or_else(unknown)?;
    let wants = |outcome: &crate::store::OutcomeRecord| outcome.derivation == Some(key);
    let mut deployments = store.deployments()?.into_iter();
    let wanted = deployments.find(|record| record.outcomes.values().any(wants)).ok_or_else(unknown)?;
    let spec = wanted.manifest.spec;
    let origin = Origin::find(store, &spec.network)??;
    let plan = serde_json::from_value(record.plan).map_err(|source| ElsewhereError::Plan { key, source })?;
    Ok(Planned { key, state: record.state, plan, spec, origin })
}

impl Found {
    /// Writes it out. Reads the data set and builds the network anew: takes seconds.
    pub fn export(&self, blobs: &BlobStore, form: Form) -> Result<Export, ElsewhereError> {
        match self {
            Self::Planned(planned) => planned.export(blobs, form),
            Self::Trained(record) => {
                let onnx = blobs.read(&ArtifactRef { digest: record.digest, size: record.size })?;
                let file = match form {
                    Form::Onnx => onnx,
                    Form::Safetensors => weights_file(&onnx::decode(&onnx)?.network)?,
                };
                let crate::store::Serving { input_shape, mean, std, .. } = record.serving.clone();
                let (name, network) = (record.digest, record.network.clone());
                Ok(Export { file, name, network, is_trained: true, input_shape, mean, std })
            }
        }
    }
}

impl Planned {
    fn dense(&self, blobs: &BlobStore, dataset: &Dataset) -> Result<Network, DeriveError> {
        SubjectKey::of(&self.spec).build((&self.origin, blobs), (dataset.shape, dataset.classes))
    }

    fn export(&self, blobs: &BlobStore, form: Form) -> Result<Export, ElsewhereError> {
        let dataset = derive::images(&self.spec)?;
        let dense = self.dense(blobs, &dataset)?;
        let network = derive::prune(&dense, &self.plan, &self.spec)?;
        let file = match form {
            Form::Onnx => onnx::encode(&network, BatchNorms::Kept)?,
            Form::Safetensors => weights_file(&network)?,
        };
        let shape = network.graph.input_shape();
        Ok(Export {
            file,
            name: self.key.0,
            network: self.spec.network.clone(),
            is_trained: false,
            input_shape: [shape.channels as u32, shape.height as u32, shape.width as u32],
            mean: dataset.mean,
            std: dataset.std,
        })
    }

    /// Checks the weights in `file`, measures their accuracy and packs the network. Stores its file, no record.
    pub fn import(&self, blobs: &BlobStore, file: &[u8]) -> Result<ArtifactRecord, ElsewhereError> {
        self.may_come_back()?;
        let dataset = derive::images(&self.spec)?;
        let dense = self.dense(blobs, &dataset)?;
        let derived = derive::derive((&dense, &dataset), &self.plan, &self.spec, |network, _| {
            let weights = weights::decode(&network.graph, file)?;
            Ok(Network { graph: network.graph.clone(), weights })
        })?;
        blobs.put(derived.onnx.clone())?;
        Ok(derived.record(&self.spec, &self.plan, std::time::Duration::ZERO))
    }

    /// Whether weights from elsewhere are waited for.
    pub fn may_come_back(&self) -> Result<(), ElsewhereError> {
        if self.spec.training.trainer != TrainerKind::External {
            return Err(ElsewhereError::NotExternal { key: self.key });
        }
        match self.state {
            DerivationState::Ready { artifact } => Err(ElsewhereError::Trained { key: self.key, artifact }),
            DerivationState::Queued | DerivationState::Failed { .. } => Ok(()),
        }
    }
}

/// Records what was taken in, unless somebody was faster.
pub fn settle(store: &dyn Store, key: DerivationKey, record: &ArtifactRecord) -> Result<(), ElsewhereError> {
    if let Some(DerivationState::Ready { artifact }) = store.derivation(&key)?.map(|known| known.state)
        && artifact != record.digest
    {
        return Err(ElsewhereError::Trained { key, artifact });
    }
    if store.artifact(record.digest)?.is_some_and(|known| known.serving != record.serving) {
        return Err(ElsewhereError::Collides { artifact: record.digest });
    }
    store.put_artifact(record)?; // before the derivation points to it
    let settled = store.update_derivation(&key, &mut |derivation| {
        if !matches!(derivation.state, DerivationState::Ready { .. }) {
            derivation.state = DerivationState::Ready { artifact: record.digest };
        }
    })?;
    match settled.state {
        DerivationState::Ready { artifact } if artifact != record.digest => {
            Err(ElsewhereError::Trained { key, artifact })
        }
        DerivationState::Ready { .. } | DerivationState::Queued | DerivationState::Failed { .. } => Ok(()),
    }
}

fn weights_file(network: &Network) -> Result<Vec<u8>, ElsewhereError> {
    weights::encode(&network.weights).map_err(ElsewhereError::Weights)
}
