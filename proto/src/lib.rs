//! The contract between coordinator and agent: the wire schema, and the validated types that stand for it inside
//! both, and the schema of the protocol that agents serve. Owns ids, digests and the border checks; never retries, keeps
//! time or stores anything.

pub mod artifact;
pub mod frugal;
pub mod id;
pub mod inference;
pub mod probation;
pub mod profile;
pub mod session;
pub mod signing;
pub mod size;
pub mod telemetry;
pub mod v1;

mod invalid;

pub use artifact::{ArtifactRef, ModelManifest, PIECE_BYTES, Pieces, SelfTest};
pub use id::{DeviceId, Digest, Generation};
pub use invalid::Invalid;
pub use probation::Probation;
pub use profile::{Cache, EngineTiming, HardwareProfile, ProbeTiming};
pub use signing::{SignatureError, SignedAssignment, SigningKey, VerifyingKey};
pub use size::ByteSize;
pub use telemetry::{LatencyInterval, SpoolPosition};
