//! Whether a model may serve: it loads, has the announced shape, and answers its test. Owns that judgement; never
//! touches what serves meanwhile.

use std::sync::Arc;
use std::time::Duration;

use proto::ModelManifest;
use tokio_util::task::TaskTracker;

use super::engine::{Choice, Engine, EngineError};
use super::engines::Engines;

/// A model that has not answered its test by then is refused.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Why a model may not serve.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// It does not load or run.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Its file cannot be read.
    #[error("cannot read the model: {0}")]
    Unread(String),
    /// It takes other images than announced.
    #[error("the model takes images of {got:?}, its manifest says {announced:?}")]
    Shape {
        /// Channels, height, width.
        got: [usize; 3],
        /// Channels, height, width.
        announced: [u32; 3],
    },
    /// It answers with another number of classes.
    #[error("self-test: the model answers with {got} numbers, its manifest says {announced}")]
    Classes {
        /// Numbers.
        got: usize,
        /// Numbers.
        announced: u32,
    },
    /// It answers something else.
    #[error("self-test: output {index} is {got}, expected {expected} within {tolerance}")]
    Answer {
        /// Which class.
        index: usize,
        /// On this device.
        got: f32,
        /// On the coordinator.
        expected: f32,
        /// Largest difference allowed.
        tolerance: f32,
    },
    /// It takes for ever.
    #[error("the model did not pass its test within {} s", LIMIT.as_secs())]
    Late,
}

/// Loads `bytes` and runs the manifest's test on threads of its own; what serves goes on meanwhile.
pub async fn check(
    tracker: &TaskTracker,
    bytes: Vec<u8>,
    manifest: &ModelManifest,
    engines: &Arc<Engines>,
    choice: Choice,
) -> Result<Engine, CheckError> {
    let (manifest, engines) = (manifest.clone(), engines.clone());
    let work = tracker.spawn_blocking(move || check_now(bytes, &manifest, &engines, choice));
    match tokio::time::timeout(LIMIT, work).await {
        Ok(Ok(result)) => result,
        Ok(Err(panic)) => Err(EngineError::Panic { step: "checking", message: panic.to_string() }.into()),
        Err(_) => Err(CheckError::Late),
    }
}

/// As [`check`], on this thread.
pub(crate) fn check_now(
    bytes: Vec<u8>,
    manifest: &ModelManifest,
    engines: &Engines,
    choice: Choice,
) -> Result<Engine, CheckError> {
    let engine = engines.load(bytes, choice)?;
    if engine.shape() != manifest.input_shape.map(|dim| dim as usize) {
        return Err(CheckError::Shape { got: engine.shape(), announced: manifest.input_shape });
    }
    let test = &manifest.self_test;
    let output = engine.run(&test.input)?;
    if output.len() != manifest.classes as usize {
        return Err(CheckError::Classes { got: output.len(), announced: manifest.classes });
    }
    for (index, (&got, &expected)) in output.iter().zip(&test.output).enumerate() {
        // Written so that a NaN on either side fails.
        let close = (got - expected).abs() <= test.tolerance;
        if !close {
            return Err(CheckError::Answer { index, got, expected, tolerance: test.tolerance });
        }
    }
    Ok(engine)
}
