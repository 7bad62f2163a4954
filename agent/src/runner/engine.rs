//! A loaded model, whichever engine runs it. Owns the choice among engines and how their errors read; every error and every
//! panic of an engine comes back as a value, for a model file is hostile until it has passed its test.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::{Deserialize, Serialize};

use super::framing::FramingError;
use super::shapes::ShapesError;

pub mod onnxruntime;
pub mod rten;

/// What runs models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EngineKind {
    /// Part of the agent.
    Rten,
    /// Microsoft's, where the device has its library.
    Onnxruntime,
}

impl EngineKind {
    /// As the profile and the configuration call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rten => "rten",
            Self::Onnxruntime => "onnxruntime",
        }
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An engine, and the threads of one inference, at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Choice {
    /// Which engine.
    pub engine: EngineKind,
    /// Its threads.
    pub threads: usize,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { engine, threads } = self;
        write!(f, "{engine}, {threads} thread{}", if *threads == 1 { "" } else { "s" })
    }
}

/// Why a model does not load or run.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The file is damaged, or made to do damage.
    #[error("the model file is not sound")]
    Framing(#[from] FramingError),
    /// How much memory it takes depends on the image.
    #[error(transparent)]
    Shapes(#[from] ShapesError),
    /// The file is no model that this engine reads.
    #[error("the engine cannot load the model: {0}")]
    Load(String),
    /// It has other inputs or outputs than one image in and one vector out.
    #[error("the model's {what} must be {expected}, not {got}")]
    Interface {
        /// `input` or `output`.
        what: &'static str,
        /// What is served.
        expected: &'static str,
        /// What the file says.
        got: String,
    },
    /// It failed while it ran.
    #[error("the engine failed while running the model: {0}")]
    Run(String),
    /// It answers what is no number: JSON has no such, and whoever gets one has no answer either.
    #[error("the model has no finite answer to this: number {index} is {number}")]
    NotFinite {
        /// Which number of the output.
        index: usize,
        /// What it is.
        number: f32,
    },
    /// The engine panicked.
    #[error("the engine panicked while {step} the model: {message}")]
    Panic {
        /// `loading` or `running`.
        step: &'static str,
        /// What it said.
        message: String,
    },
    /// There is no such engine on this device.
    #[error("this device has no {0}")]
    Missing(EngineKind),
}

/// A loaded model with the threads that it runs on.
pub struct Engine {
    choice: Choice,
    shape: [usize; 3],
    loaded: Box<dyn Run>,
}

/// What an engine does with a loaded model.
trait Run: Send + Sync {
    /// The output for one image, row-major.
    fn run(&self, image: &[f32]) -> Result<Vec<f32>, EngineError>;

    /// Does `work` where the engine's threads are.
    fn enter(&self, work: &mut (dyn FnMut() + Send)) {
        work();
    }
}

impl Engine {
    fn new(choice: Choice, shape: [usize; 3], loaded: impl Run + 'static) -> Self {
        Self { choice, shape, loaded: Box::new(loaded) }
    }

    /// What runs it.
    pub fn choice(&self) -> Choice {
        self.choice
    }

    /// Channels, height and width of the image that it takes.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// Numbers in one image.
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }

    /// Does `work` on a thread of the engine's own: runs in there cost no handing over, which takes as long as a small layer.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let (mut work, mut done) = (Some(work), None);
        self.loaded.enter(&mut || done = work.take().map(|work| work()));
        done.expect("the engine does the work")
    }

    /// The output for one image of [`Engine::numel`] numbers, row-major.
    pub fn run(&self, image: &[f32]) -> Result<Vec<f32>, EngineError> {
        guard("running", || self.loaded.run(image))
    }
}

fn guard<T>(step: &'static str, call: impl FnOnce() -> Result<T, EngineError>) -> Result<T, EngineError> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        let message = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_else(|| "no message".to_owned());
        Err(EngineError::Panic { step, message })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error_with_its_words() {
        let result: Result<(), _> = guard("running", || panic!("index {} out of bounds", 3));
        assert_eq!(
            result.unwrap_err().to_string(),
            "the engine panicked while running the model: index 3 out of bounds"
        );
    }
}
