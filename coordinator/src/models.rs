//! The networks that deployments may name: the zoo's, and those that operators brought. Owns bringing one in and
//! building one for a deployment's images; never prunes.

use proto::{ArtifactRef, DeviceId};
use pruner_core::graph::cost::cost;
use pruner_core::graph::onnx::{self, Import, ReadError};
use pruner_core::zoo::{self, UnknownNetwork, ZooNetwork};
use pruner_core::{Graph, Network, Shape, init};

use crate::blob::{BlobError, BlobStore};
use crate::clock::unix_ms;
use crate::store::{ModelRecord, Store, StoreError};

/// Where a network comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum Origin {
    /// Built here.
    Zoo(ZooNetwork),
    /// Brought by an operator.
    Imported(ModelRecord),
}

/// Why a network cannot be brought in.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The zoo has the name.
    #[error("'{name}' is a network of the zoo; choose another name")]
    Reserved {
        /// The name.
        name: DeviceId,
    },
    /// Another file has the name.
    #[error("'{name}' is another file, {digest}; a network never changes under its name: choose another one")]
    Taken {
        /// The name.
        name: DeviceId,
        /// That file's digest.
        digest: proto::Digest,
    },
    /// What came is not what was announced.
    #[error("the file that arrived is not the one that was announced: {problem}")]
    Mangled {
        /// What is wrong.
        problem: String,
    },
    /// It is no network that can be pruned.
    #[error("the file is no network that can be imported")]
    Read(#[from] ReadError),
    /// It is one that cannot be deployed.
    #[error("{problem}")]
    Shape {
        /// What is wrong.
        problem: String,
    },
    /// The disk refused.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a deployment's network cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The zoo's network does not fit the images.
    #[error(transparent)]
    Zoo(#[from] zoo::BuildError),
    /// The imported network is for other images or classes.
    #[error(
        "it reads {network} images and tells {outputs} classes apart, but the data set has {images} images of {classes} classes"
    )]
    Interface {
        /// What the network reads.
        network: Shape,
        /// Its outputs.
        outputs: usize,
        /// The data set's images.
        images: Shape,
        /// The data set's classes.
        classes: usize,
    },
    /// The file is gone or damaged.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The file is not what was imported.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl Origin {
    /// The network of that name, of which `brought` is kept if an operator brought it.
    pub fn of(name: &str, brought: Option<ModelRecord>) -> Result<Self, UnknownNetwork> {
        match name.parse::<ZooNetwork>() {
            Ok(network) => Ok(Self::Zoo(network)),
            Err(unknown) => brought.map(Self::Imported).ok_or(unknown),
        }
    }

    /// What is kept of it, where an operator brought it.
    pub fn brought(&self) -> Option<&ModelRecord> {
        match self {
            Self::Zoo(_) => None,
            Self::Imported(record) => Some(record),
        }
    }

    /// The network of that name; an unknown one is an error that lists what there is.
    pub fn find(store: &dyn Store, name: &str) -> Result<Result<Self, UnknownNetwork>, StoreError> {
        Ok(Self::of(name, store.model(name)?))
    }

    /// The network for images of `shape` in `classes` classes. The zoo's has weights drawn from `seed`, an imported one
    /// those of its file.
    pub fn build(
        &self,
        blobs: &BlobStore,
        (shape, classes): (Shape, usize),
        seed: u64,
    ) -> Result<Network, BuildError> {
        match self {
            Self::Zoo(network) => {
                let graph = zoo::build(*network, shape, classes)?;
                Ok(Network { weights: init::init(&graph, seed), graph })
            }
            Self::Imported(record) => read(blobs, record, (shape, classes)),
        }
    }

    /// The same without weights.
    pub fn graph(&self, blobs: &BlobStore, (shape, classes): (Shape, usize)) -> Result<Graph, BuildError> {
        match self {
            Self::Zoo(network) => Ok(zoo::build(*network, shape, classes)?),
            Self::Imported(record) => Ok(read(blobs, record, (shape, classes))?.graph),
        }
    }
}

/// An imported network for such images.
fn read(
    blobs: &BlobStore,
    record: &ModelRecord,
    (shape, classes): (Shape, usize),
) -> Result<Network, BuildError> {
    let bytes = blobs.read(&record.file)?;
    let Import { network, .. } = onnx::decode(&bytes)?;
    let (reads, outputs) = interface(&network);
    if (reads, outputs) != (shape, classes) {
        return Err(BuildError::Interface { network: reads, outputs, images: shape, classes });
    }
    Ok(network)
}

/// The image's shape and the length of the output.
fn interface(network: &Network) -> (Shape, usize) {
    (network.graph.input_shape(), network.graph.shape(network.graph.output()).numel())
}

/// Checks `bytes` and keeps them under `name`. The same file again changes nothing; returns whether it was there.
pub fn import(
    store: &dyn Store,
    blobs: &BlobStore,
    (name, announced): (DeviceId, &ArtifactRef),
    bytes: &[u8],
) -> Result<(ModelRecord, Arrival), ImportError> {
    if name.as_str().parse::<ZooNetwork>().is_ok() {
        return Err(ImportError::Reserved { name });
    }
    if let Some(problem) = mangled(bytes, announced) {
        return Err(ImportError::Mangled { problem });
    }
    if let Some(known) = store.model(name.as_str())? {
        return settle(known, announced);
    }
    let Import { network, notes } = onnx::decode(bytes)?;
    let (shape, classes) = interface(&network);
    let side = |side: usize| {
        u32::try_from(side)
            .map_err(|_| ImportError::Shape { problem: format!("a side of {side} is too long") })
    };
    let costs = cost(&network.graph);
    // The file first: a record never names a file that is not there.
    let file = blobs.put(bytes.to_vec())?;
    let stored = store.insert_model(&ModelRecord {
        name,
        file,
        input_shape: [side(shape.channels)?, side(shape.height)?, side(shape.width)?],
        classes: side(classes)?,
        footprint: costs.into(),
        notes: notes.iter().map(ToString::to_string).collect(),
        imported_unix_ms: unix_ms(),
    })?;
    let (stored, _) = settle(stored, announced)?;
    Ok((stored, Arrival::New))
}

/// What tells the bytes that came from those that were announced.
pub(crate) fn mangled(bytes: &[u8], announced: &ArtifactRef) -> Option<String> {
    if bytes.len() as u64 != announced.size.0 {
        return Some(format!("{} of {} bytes came; send it again", bytes.len(), announced.size.0));
    }
    let digest = proto::Digest::of(bytes);
    (digest != announced.digest)
        .then(|| format!("its digest is {digest}, not {}; send it again", announced.digest))
}

/// Whether a file was known before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// It is new.
    New,
    /// It was there.
    Known,
}

fn settle(known: ModelRecord, announced: &ArtifactRef) -> Result<(ModelRecord, Arrival), ImportError> {
    if known.file == *announced {
        return Ok((known, Arrival::Known));
    }
    Err(ImportError::Taken { name: known.name, digest: known.file.digest })
}
