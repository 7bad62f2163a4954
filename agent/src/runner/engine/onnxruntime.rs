//! One model in onnxruntime, through the library that the device has. Owns finding and loading the library; a process has
//! one, for ever.

use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ort::environment::Environment;
use ort::session::Session;
use ort::value::TensorRef;

use super::{Choice, Engine, EngineError, EngineKind, Run, guard};

/// What packages and people call the file.
const NAME: &str = "libonnxruntime.so";

/// Where the library is looked for, beside the configured place.
const FOLDERS: [&str; 5] = [
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib",
    "/usr/local/lib",
    "/opt/onnxruntime/lib",
];

/// The library, loaded.
pub struct Library {
    environment: Environment,
    version: String,
}

/// Why the library cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    /// It does not load, or is too old.
    #[error("onnxruntime cannot be loaded: {0}")]
    Load(String),
    /// The process has another one.
    #[error("this process has loaded {}; another onnxruntime cannot be loaded beside it", path.display())]
    Other {
        /// The one it has.
        path: PathBuf,
    },
}

impl Library {
    /// The library at `path`; loaded once, whoever asks.
    pub fn load(path: &Path) -> Result<&'static Self, LibraryError> {
        static LOADED: Mutex<Option<(PathBuf, &Library)>> = Mutex::new(None);
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        match &*loaded {
            Some((known, library)) if known == path => Ok(library),
            Some((known, _)) => Err(LibraryError::Other { path: known.clone() }),
            None => {
                let library: &'static Self = Box::leak(Box::new(Self::open(path)?));
                *loaded = Some((path.to_owned(), library));
                Ok(library)
            }
        }
    }

    fn open(path: &Path) -> Result<Self, LibraryError> {
        let opened = catch_unwind(|| Self::open_unguarded(path));
        opened.unwrap_or_else(|_| Err(LibraryError::Load(format!("{} is no sound library", path.display()))))
    }

    fn open_unguarded(path: &Path) -> Result<Self, LibraryError> {
        let refuse = |error: &dyn std::error::Error| LibraryError::Load(error.to_string());
        let builder = ort::init_from(path).map_err(|error| refuse(&error))?;
        let environment = builder.with_telemetry(false).build().map_err(|error| refuse(&error))?;
        Ok(Self { environment, version: version(path) })
    }

    /// The library's version, as its file's name says it.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Loads a model that rten has loaded before, which vouches for its form and its operators.
    pub fn load_model(&self, bytes: &[u8], shape: [usize; 3], threads: usize) -> Result<Engine, EngineError> {
        let session = guard("loading", || {
            let failed = |error: &dyn std::error::Error| EngineError::Load(error.to_string());
            let builder = Session::builder(&self.environment).map_err(|error| failed(&error))?;
            let builder = builder.with_intra_threads(threads).map_err(|error| failed(&error))?;
            let builder = builder.with_inter_threads(1).map_err(|error| failed(&error))?;
            // Threads that wait must not burn the cores of a device that has other work.
            let mut builder = builder.with_intra_op_spinning(false).map_err(|error| failed(&error))?;
            builder.commit_from_memory(bytes).map_err(|error| failed(&error))
        })?;
        let choice = Choice { engine: EngineKind::Onnxruntime, threads };
        Ok(Engine::new(choice, shape, Loaded { session: Mutex::new(session), shape }))
    }
}

/// The library's file: the first that there is.
pub fn find() -> Option<PathBuf> {
    FOLDERS.iter().find_map(|folder| find_in(Path::new(folder)))
}

/// The library in one folder: the plain name, else the newest version of it.
fn find_in(folder: &Path) -> Option<PathBuf> {
    let plain = folder.join(NAME);
    if plain.is_file() {
        return Some(plain);
    }
    let versions =
        std::fs::read_dir(folder).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let newest =
        versions.filter(|name| name.starts_with(&format!("{NAME}."))).max_by_key(|name| numbers(name));
    newest.map(|name| folder.join(name))
}

/// `libonnxruntime.so.1.32.0` to 1, 32, 0.
fn numbers(name: &str) -> Vec<u32> {
    name.trim_start_matches(NAME).split('.').filter_map(|part| part.parse().ok()).collect()
}

/// The version in the name of the file that `path` leads to; else what the build says of itself.
fn version(path: &Path) -> String {
    let file = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let numbers = numbers(&name);
    match numbers.is_empty() {
        false => numbers.iter().map(u32::to_string).collect::<Vec<_>>().join("."),
        true => ort::info()
            .split_whitespace()
            .find(|word| word.contains("commit-id"))
            .unwrap_or("unknown")
            .to_owned(),
    }
}

struct Loaded {
    session: Mutex<Session>,
    shape: [usize; 3],
}

impl Run for Loaded {
    fn run(&self, image: &[f32]) -> Result<Vec<f32>, EngineError> {
        let failed = |error: ort::Error| EngineError::Run(error.to_string());
        let [c, h, w] = self.shape;
        let tensor = TensorRef::from_array_view(([1, c, h, w], image)).map_err(failed)?;
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let outputs = session.run(ort::inputs![tensor]).map_err(failed)?;
        let (_, numbers) = outputs[0].try_extract_tensor::<f32>().map_err(failed)?;
        Ok(numbers.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_is_found_where_there_is_no_plain_name() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(find_in(dir.path()), None);
        assert_eq!(find_in(&dir.path().join("missing")), None);
        for name in ["libonnxruntime.so.1.9.1", "libonnxruntime.so.1.32.0", "libonnxruntime_providers.so"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let found = find_in(dir.path()).unwrap();
        assert_eq!(found.file_name().unwrap(), "libonnxruntime.so.1.32.0");
        assert_eq!(version(&found), "1.32.0");
        std::os::unix::fs::symlink(&found, dir.path().join(NAME)).unwrap();
        let plain = find_in(dir.path()).unwrap();
        assert_eq!((plain.file_name().unwrap().to_str(), version(&plain).as_str()), (Some(NAME), "1.32.0"));
    }

    #[test]
    fn what_is_no_library_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAME);
        std::fs::write(&path, "no library").unwrap();
        let error = Library::open(&path).err().expect("it is text").to_string();
        assert!(error.contains("cannot be loaded") && error.contains(NAME), "{error}");
    }
}
