//! Files by digest, and what a device has to know of a model to serve it.

use serde::{Deserialize, Serialize};

use crate::{ByteSize, DeviceId, Digest, Invalid, v1};

/// A file that the coordinator serves by its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArtifactRef {
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// Its length.
    pub size: ByteSize,
}

/// Bytes of each piece of a file but the last.
pub const PIECE_BYTES: u64 = 256 << 10;

/// What each piece of a file must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pieces(Vec<Digest>);

impl Pieces {
    /// The pieces of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(bytes.chunks(PIECE_BYTES as usize).map(Digest::of).collect())
    }

    /// The pieces whose digests these are.
    pub fn from_digests(digests: Vec<Digest>) -> Self {
        Self(digests)
    }

    /// The pieces of a file of `size` bytes, from their digests one after another.
    ///
    /// # Errors
    /// When these are not as many as such a file has pieces.
    pub fn parse(bytes: &[u8], size: ByteSize) -> Result<Self, Invalid> {
        let (digests, rest) = bytes.as_chunks::<32>();
        if !rest.is_empty() || digests.len() as u64 != size.0.div_ceil(PIECE_BYTES) {
            let problem = format!("{} bytes are not the digests of the pieces of {}", bytes.len(), size);
            return Err(Invalid::new("sha256", problem));
        }
        Ok(Self(digests.iter().map(|&digest| Digest::from_bytes(digest)).collect()))
    }

    /// The digests one after another.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|digest| *digest.as_bytes()).collect()
    }

    /// The digest of the piece that begins at `offset`; `None` past the end, or where no piece begins.
    pub fn at(&self, offset: u64) -> Option<Digest> {
        let index = usize::try_from(offset / PIECE_BYTES).ok()?;
        self.0.get(index).copied().filter(|_| offset.is_multiple_of(PIECE_BYTES))
    }
}

/// What a device has to know of a model to serve it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelManifest {
    /// The deployment's name, under which the device serves it.
    pub name: String,
    /// The ONNX file.
    pub artifact: ArtifactRef,
    /// Channels, height, width.
    pub input_shape: [u32; 3],
    /// Per channel, subtracted from pixels in 0..1.
    pub mean: Vec<f32>,
    /// Per channel, divided by afterwards.
    pub std: Vec<f32>,
    /// Length of the output.
    pub classes: u32,
    /// What the model must answer before it may serve.
    pub self_test: SelfTest,
}

/// One normalised input with the output that the coordinator computed for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SelfTest {
    /// `channels * height * width` numbers, row-major.
    pub input: Vec<f32>,
    /// `classes` numbers.
    pub output: Vec<f32>,
    /// Largest absolute difference allowed.
    pub tolerance: f32,
}

/// Numbers in one input at most: keeps a manifest from asking for absurd memory.
const INPUT_LIMIT: u64 = 64 << 20;

impl TryFrom<v1::ArtifactRef> for ArtifactRef {
    type Error = Invalid;

    fn try_from(wire: v1::ArtifactRef) -> Result<Self, Invalid> {
        if wire.size_bytes == 0 {
            return Err(Invalid::new("size_bytes", "an artifact is never empty"));
        }
        Ok(Self { digest: wire.digest.parse()?, size: ByteSize(wire.size_bytes) })
    }
}

impl From<ArtifactRef> for v1::ArtifactRef {
    fn from(artifact: ArtifactRef) -> Self {
        Self { digest: artifact.digest.to_string(), size_bytes: artifact.size.0 }
    }
}

impl TryFrom<v1::ModelManifest> for ModelManifest {
    type Error = Invalid;

    fn try_from(wire: v1::ModelManifest) -> Result<Self, Invalid> {
        let input_shape: [u32; 3] = wire
            .input_shape
            .try_into()
            .map_err(|_| Invalid::new("input_shape", "must be channels, height, width"))?;
        let numbers =
            input_shape.iter().try_fold(1u64, |n, &d| n.checked_mul(u64::from(d))).unwrap_or(u64::MAX);
        if numbers == 0 || numbers > INPUT_LIMIT {
            return Err(Invalid::new("input_shape", format!("{input_shape:?} is empty or too large")));
        }
        let channels = input_shape[0] as usize;
        if wire.mean.len() != channels || wire.std.len() != channels {
            return Err(Invalid::new("mean, std", format!("need {channels} numbers each")));
        }
        if wire.name.is_empty() {
            return Err(Invalid::missing("name"));
        }
        // A deployment's, which is written as a device's is.
        if wire.name.parse::<DeviceId>().is_err() {
            return Err(Invalid::new("name", "is no name of a deployment"));
        }
        let v1::SelfTest { input, output, tolerance } =
            wire.self_test.ok_or_else(|| Invalid::missing("self_test"))?;
        if input.len() as u64 != numbers || output.len() != wire.classes as usize {
            return Err(Invalid::new("self_test", "its lengths do not match input_shape and classes"));
        }
        if output.is_empty() || !tolerance.is_finite() || tolerance < 0.0 {
            return Err(Invalid::new("self_test", "needs an output and a tolerance that is not negative"));
        }
        if !input.iter().chain(&output).all(|number| number.is_finite()) {
            return Err(Invalid::new("self_test", "not all of its numbers are finite"));
        }
        Ok(Self {
            name: wire.name,
            artifact: wire.artifact.ok_or_else(|| Invalid::missing("artifact"))?.try_into()?,
            input_shape,
            mean: wire.mean,
            std: wire.std,
            classes: wire.classes,
            self_test: SelfTest { input, output, tolerance },
        })
    }
}

impl From<ModelManifest> for v1::ModelManifest {
    fn from(manifest: ModelManifest) -> Self {
        let SelfTest { input, output, tolerance } = manifest.self_test;
        Self {
            name: manifest.name,
            artifact: Some(manifest.artifact.into()),
            input_shape: manifest.input_shape.to_vec(),
            mean: manifest.mean,
            std: manifest.std,
            classes: manifest.classes,
            self_test: Some(v1::SelfTest { input, output, tolerance }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_back_from_their_bytes_and_lies_about_their_number_do_not() {
        let bytes: Vec<u8> = (0..PIECE_BYTES + 5).map(|index| (index % 251) as u8).collect();
        let (pieces, size) = (Pieces::of(&bytes), ByteSize(bytes.len() as u64));
        assert_eq!(Pieces::parse(&pieces.to_bytes(), size).unwrap(), pieces);
        assert_eq!(pieces.at(PIECE_BYTES), Some(Digest::of(&bytes[PIECE_BYTES as usize..])));
        assert_eq!((pieces.at(1), pieces.at(2 * PIECE_BYTES)), (None, None));
        for (length, size) in [(64, PIECE_BYTES), (64, 2 * PIECE_BYTES + 1), (63, 2 * PIECE_BYTES), (0, 1)] {
            assert!(Pieces::parse(&vec![0; length], ByteSize(size)).is_err(), "{length} {size}");
        }
    }
}
