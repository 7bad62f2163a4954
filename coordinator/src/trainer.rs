//! Training by a program of the host's: its input laid out in a folder, the program run, its weights checked. Owns the
//! contract of `docs/training-elsewhere.md`; never decides what is trained.

mod process;
mod task;

use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pruner_core::Network;
use pruner_core::dataset::Dataset;
use pruner_core::graph::onnx::OnnxError;
use pruner_core::graph::weights::{self, WeightsError};
use serde::Deserialize;

use crate::config::TrainerConfig;
use crate::manifest::{DatasetSpec, TrainingSpec};
use crate::store::DerivationKey;

/// The configured program, and the folder in which each training has one of its own. Calls block.
#[derive(Debug, Clone)]
pub struct Trainer {
    config: Option<TrainerConfig>,
    folder: PathBuf,
}

/// Why the program gave no weights.
#[derive(Debug, thiserror::Error)]
pub enum TrainerError {
    /// There is no program.
    #[error(
        "the deployment says `trainer: command`, but the coordinator's configuration names no program; \
         set trainer.command there and restart it"
    )]
    NotConfigured,
    /// The network has no file.
    #[error("the pruned network cannot be written as ONNX")]
    Model(#[from] OnnxError),
    /// The program's input, or its output, has no bytes or is not on the disk.
    #[error("cannot use {}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The program cannot be started.
    #[error("cannot start the trainer '{program}'")]
    Start {
        /// Which.
        program: String,
        /// Why not.
        source: io::Error,
    },
    /// It gave up.
    #[error("the trainer ended with {status}: {last_words}")]
    Failed {
        /// Its exit status.
        status: String,
        /// The last line that it wrote to standard error.
        last_words: String,
    },
    /// It asks for another try.
    #[error("the trainer cannot train now: {last_words}")]
    Busy {
        /// The last line that it wrote to standard error.
        last_words: String,
    },
    /// It took too long.
    #[error("the trainer was stopped after its time limit, {}", humantime::format_duration(*limit))]
    TooSlow {
        /// `trainer.time_limit`.
        limit: Duration,
    },
    /// What it wrote are not the network's weights.
    #[error("the trainer's weights in {}", path.display())]
    Weights {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: WeightsError,
    },
    /// Nobody wants the network any more, or the coordinator stops.
    #[error("stopped before it was done")]
    Cancelled,
}

/// A line of the program's standard output.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Progress {
    /// The epoch under way, from 1.
    pub epoch: u64,
    /// Epochs in all.
    pub epochs: u64,
    /// Of training images.
    pub loss: Option<f64>,
    /// Of training images, 0 to 1.
    pub accuracy: Option<f64>,
    /// Training images.
    pub images_per_second: Option<f64>,
}

/// What the program trains, and by which settings.
#[derive(Clone, Copy)]
pub struct Lesson<'a> {
    /// Pruned, with its initial weights.
    pub network: &'a Network,
    /// Read, and limited to the images that it shall see.
    pub dataset: &'a Dataset,
    /// Where it was read from.
    pub source: &'a DatasetSpec,
    /// The recipe.
    pub training: &'a TrainingSpec,
}

impl Trainer {
    /// The program, with its folders in `folder`, which is made if it is not there. Removes the folders of trainings that
    /// nobody goes on with.
    pub fn open(
        config: Option<TrainerConfig>,
        folder: impl Into<PathBuf>,
        mut is_wanted: impl FnMut(&str) -> bool,
    ) -> Result<Self, TrainerError> {
        let folder = folder.into();
        let failed = |source| TrainerError::File { path: folder.clone(), source };
        fs::create_dir_all(&folder).map_err(failed)?;
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if !is_wanted(&entry.file_name().to_string_lossy()) {
                let is_folder = entry.file_type().map_err(failed)?.is_dir();
                let removed =
                    if is_folder { fs::remove_dir_all(entry.path()) } else { fs::remove_file(entry.path()) };
                // It may be another user's, if the program is: no reason not to serve the fleet.
                if let Err(error) = removed {
                    let path = entry.path();
                    tracing::warn!(path = %path.display(), %error, "left by a training; cannot be removed");
                }
            }
        }
        Ok(Self { config, folder })
    }

    /// Whether there is a program.
    pub fn is_configured(&self) -> bool {
        self.config.is_some()
    }

    /// Lays the task out, runs the program to its end and reads its weights. `on_progress` hears of every line, and at
    /// least ten times a second; it may break. A training that was cut off finds its checkpoints.
    pub fn train(
        &self,
        key: DerivationKey,
        lesson: Lesson<'_>,
        on_progress: &mut dyn FnMut(Option<&Progress>) -> ControlFlow<()>,
    ) -> Result<Network, TrainerError> {
        let config = self.config.as_ref().ok_or(TrainerError::NotConfigured)?;
        let paths = task::lay(&self.of(key), lesson)?;
        process::run(config, &paths, on_progress)?;
        let file = read(&paths.output, paths.initial_len)
            .map_err(|source| TrainerError::File { path: paths.output.clone(), source })?;
        let weights = weights::decode(&lesson.network.graph, &file)
            .map_err(|source| TrainerError::Weights { path: paths.output.clone(), source })?;
        Ok(Network { graph: lesson.network.graph.clone(), weights })
    }

    /// The names of the trainings that have a folder.
    pub fn kept(&self) -> Vec<String> {
        let folders = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        folders.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    /// Forgets that training. A folder that stays is removed at the next start.
    pub fn forget(&self, key: DerivationKey) {
        match fs::remove_dir_all(self.of(key)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(derivation = %key, %error, "a training's folder cannot be removed"),
        }
    }

    fn of(&self, key: DerivationKey) -> PathBuf {
        self.folder.join(key.to_string())
    }
}

/// The weights that a program wrote: about as long as those it was given, and a file that ends.
fn read(path: &Path, usual: u64) -> io::Result<Vec<u8>> {
    const MORE: u64 = 16 << 20;
    let found = fs::symlink_metadata(path)?;
    if !found.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    if found.len() > usual + MORE {
        return Err(io::Error::other(format!(
            "{} bytes are far more than the {usual} of the weights",
            found.len()
        )));
    }
    fs::read(path)
}

#[cfg(test)]
mod tests;
