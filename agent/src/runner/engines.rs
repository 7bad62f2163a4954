//! The engines of this device. Owns which there are, and loads models into them; which is fastest is measured elsewhere.

use std::path::PathBuf;

use proto::Digest;

use super::engine::onnxruntime::{self, Library};
use super::engine::{Choice, Engine, EngineError, EngineKind, rten};
use crate::causes::describe;
use crate::probe;
use crate::reconcile::Desired;
use crate::update::trial::{self, Begun, Trials};

/// Which onnxruntime may be used.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum LibraryConfig {
    /// The one in the usual places, if there is one.
    #[default]
    Auto,
    /// None.
    Off,
    /// This one.
    At(PathBuf),
}

/// What may run a model here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Engines {
    threads: Option<usize>,
    library: Option<PathBuf>,
}

impl Engines {
    /// The engines, with at most so many threads in one inference, at least 1; `None`: as many as the device lets this process
    /// have, whenever it is asked. Nothing is loaded yet: a library costs memory, and a device may wait long for its first model.
    pub fn new(threads: Option<usize>, library: &LibraryConfig) -> Self {
        let library = match library {
            LibraryConfig::Auto => onnxruntime::find(),
            LibraryConfig::Off => None,
            LibraryConfig::At(path) => Some(path.clone()),
        };
        Self { threads, library }
    }

    /// rten alone.
    pub fn rten(threads: usize) -> Self {
        Self::new(Some(threads), &LibraryConfig::Off)
    }

    /// Loads the library where there is one, and goes without it where that has ended the process again and again.
    pub(crate) fn with_library_tried(self, trials: &Trials) -> Self {
        let Some(path) = &self.library else { return self };
        let desired = Desired::probe(Digest::of(path.as_os_str().as_encoded_bytes()));
        if trials.unfinished(desired).unwrap_or(0) >= trial::FOREIGN_LIMIT {
            tracing::error!(path = %path.display(), "loading onnxruntime has ended the agent twice; it is left out");
            return Self { library: None, ..self };
        }
        let begun = trials.begin(desired);
        if let Some(complaint) = self.complaint() {
            tracing::warn!(complaint, "onnxruntime is left out");
        }
        if let Err(error) = begun.and_then(Begun::end) {
            tracing::warn!(error = describe(&error), "loading a library is not counted");
        }
        self
    }

    fn most_threads(&self) -> usize {
        self.threads.unwrap_or_else(probe::default_threads).max(1)
    }

    /// What runs a model until something else was measured to be faster.
    pub fn usual(&self) -> Choice {
        Choice { engine: EngineKind::Rten, threads: self.most_threads() }
    }

    /// Everything that may run a model: each engine with 1, 2, 4, ... threads, and with the most.
    pub fn choices(&self) -> Vec<Choice> {
        let engines = [Some(EngineKind::Rten), self.library().map(|_| EngineKind::Onnxruntime)];
        let most = self.most_threads();
        let powers = std::iter::successors(Some(1usize), |threads| threads.checked_mul(2));
        let mut threads: Vec<usize> = powers.take_while(|&threads| threads < most).collect();
        threads.push(most);
        let of = |engine| threads.iter().map(move |&threads| Choice { engine, threads });
        engines.into_iter().flatten().flat_map(of).collect()
    }

    /// An engine's version; `None` where this device does not have it.
    pub fn version(&self, engine: EngineKind) -> Option<&str> {
        match engine {
            EngineKind::Rten => Some(rten::VERSION),
            EngineKind::Onnxruntime => self.library().map(Library::version),
        }
    }

    /// Loads a model. Whatever is to run it, rten must read it: it takes only operators that have a bounded latency.
    pub fn load(&self, bytes: Vec<u8>, choice: Choice) -> Result<Engine, EngineError> {
        match choice.engine {
            EngineKind::Rten => rten::load(bytes, choice.threads),
            EngineKind::Onnxruntime => {
                let library = self.library().ok_or(EngineError::Missing(choice.engine))?;
                let shape = rten::load(bytes.clone(), 1)?.shape();
                library.load_model(&bytes, shape, choice.threads)
            }
        }
    }

    fn library(&self) -> Option<&'static Library> {
        match Library::load(self.library.as_deref()?) {
            Ok(library) => Some(library),
            Err(error) => {
                tracing::debug!(error = describe(&error), "no onnxruntime");
                None
            }
        }
    }

    /// Why the library that was found or configured cannot be used, if so; loads it.
    pub fn complaint(&self) -> Option<String> {
        let path = self.library.as_deref()?;
        Library::load(path).err().map(|error| format!("{}: {}", path.display(), describe(&error)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_tried_in_powers_of_two_up_to_the_most() {
        for (most, expected) in [(1, vec![1]), (2, vec![1, 2]), (6, vec![1, 2, 4, 6]), (8, vec![1, 2, 4, 8])]
        {
            let choices = Engines::rten(most).choices();
            assert!(choices.iter().all(|choice| choice.engine == EngineKind::Rten));
            assert_eq!(choices.iter().map(|choice| choice.threads).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn where_none_are_configured_they_follow_what_the_device_gives() {
        let engines = Engines::new(None, &LibraryConfig::Off);
        assert_eq!(engines.usual().threads, probe::default_threads());
        let on_one_core = || {
            let may = rustix::thread::sched_getaffinity(None).unwrap();
            let mut one = rustix::thread::CpuSet::new();
            one.set((0..rustix::thread::CpuSet::MAX_CPU).find(|&core| may.is_set(core)).unwrap());
            rustix::thread::sched_setaffinity(None, &one).unwrap();
            engines.choices()
        };
        let choices = std::thread::scope(|scope| scope.spawn(on_one_core).join()).unwrap();
        assert_eq!(choices, Engines::rten(1).choices());
    }

    #[test]
    fn a_library_that_is_none_is_no_choice_and_says_why() {
        let path = PathBuf::from("/nowhere/libonnxruntime.so");
        let engines = Engines::new(Some(1), &LibraryConfig::At(path));
        assert_eq!(engines.choices(), Engines::rten(1).choices());
        assert_eq!(engines.version(EngineKind::Onnxruntime), None);
        assert!(
            engines
                .complaint()
                .unwrap()
                .starts_with("/nowhere/libonnxruntime.so: onnxruntime cannot be loaded")
        );
    }
}
