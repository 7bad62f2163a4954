//! A training's figures as JSON lines, appended: a training that goes on goes on in its log.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pruner_core::train::{Evaluation, Step};
use serde_json::{Value, json};

use crate::cli::error::CliError;

/// The log, if one is wanted.
pub(super) struct Log(Option<(PathBuf, File)>);

impl Log {
    pub(super) fn open(path: Option<&Path>) -> Result<Self, CliError> {
        let Some(path) = path else { return Ok(Self(None)) };
        let file = OpenOptions::new().create(true).append(true).open(path);
        let file = file.map_err(|source| CliError::Unwritable { path: path.to_owned(), source })?;
        Ok(Self(Some((path.to_owned(), file))))
    }

    /// After an epoch: what its last step reported.
    pub(super) fn epoch(&mut self, step: &Step, since_start: Duration) -> Result<(), CliError> {
        let Step { epoch, epochs, step, steps, loss, accuracy, images_per_second } = step;
        self.write(&json!({
            "epoch": epoch, "epochs": epochs, "step": step, "steps": steps, "loss": loss, "accuracy": accuracy,
            "images_per_second": images_per_second, "seconds": since_start.as_secs_f64(),
        }))
    }

    /// At the end.
    pub(super) fn test(&mut self, tested: &Evaluation) -> Result<(), CliError> {
        self.write(&json!({ "test_accuracy": tested.accuracy, "test_images": tested.images }))
    }

    fn write(&mut self, line: &Value) -> Result<(), CliError> {
        let Some((path, file)) = &mut self.0 else { return Ok(()) };
        let written = writeln!(file, "{line}");
        written.map_err(|source| CliError::Unwritable { path: path.clone(), source })
    }
}
