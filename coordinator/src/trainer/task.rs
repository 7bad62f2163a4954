//! A training's folder: what the program is told, and where everything lies.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use pruner_core::graph::onnx::{self, BatchNorms};
use pruner_core::graph::weights;
use pruner_core::train::Recipe;
use serde::Serialize;
use serde_json::json;

use super::{Lesson, TrainerError};
use crate::durable;

/// Of the contract.
const VERSION: u32 = 1;

/// Where a training's files lie, by absolute paths.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Paths {
    #[serde(skip)]
    pub(super) folder: PathBuf,
    #[serde(skip)]
    pub(super) task: PathBuf,
    #[serde(skip)]
    pub(super) errors: PathBuf,
    model: PathBuf,
    weights: PathBuf,
    images: PathBuf,
    checkpoints: PathBuf,
    pub(super) output: PathBuf,
    /// Bytes of the initial weights.
    #[serde(skip)]
    pub(super) initial_len: u64,
}

/// Writes the task into `folder`. What an earlier run put out is removed; its checkpoints stay.
pub(super) fn lay(folder: &Path, lesson: Lesson<'_>) -> Result<Paths, TrainerError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| TrainerError::File { path, source }
    };
    fs::create_dir_all(folder).map_err(failed(folder))?;
    let folder = fs::canonicalize(folder).map_err(failed(folder))?;
    let at = |name: &str| folder.join(name);
    let Lesson { network, dataset, .. } = lesson;
    let other = |path: &Path, error: String| failed(path)(io::Error::other(error));
    let at_weights = at("weights.safetensors");
    let initial = weights::encode(&network.weights).map_err(|error| other(&at_weights, error.to_string()))?;
    let paths = Paths {
        initial_len: initial.len() as u64,
        task: at("task.json"),
        errors: at("stderr.log"),
        model: at("model.onnx"),
        weights: at_weights,
        images: at("images.safetensors"),
        checkpoints: at("checkpoints"),
        output: at("trained.safetensors"),
        folder: folder.clone(),
    };
    fs::create_dir_all(&paths.checkpoints).map_err(failed(&paths.checkpoints))?;
    match fs::remove_file(&paths.output) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&paths.output)(error)),
        Ok(()) | Err(_) => {}
    }
    let model = onnx::encode(network, BatchNorms::Kept)?;
    let images = dataset.train.to_safetensors(dataset.shape);
    let images = images.map_err(|error| other(&paths.images, error.to_string()))?;
    let task = task(&paths, lesson).map_err(|error| other(&paths.task, error.to_string()))?;
    for (path, bytes) in
        [(&paths.model, model), (&paths.weights, initial), (&paths.images, images), (&paths.task, task)]
    {
        durable::replace(&folder, path, &bytes).map_err(failed(path))?;
    }
    Ok(paths)
}

/// The text of `task.json`.
fn task(paths: &Paths, lesson: Lesson<'_>) -> Result<Vec<u8>, serde_json::Error> {
    let Lesson { dataset, source, training, .. } = lesson;
    let Recipe { epochs, batch, learning_rate, schedule, warmup_epochs, .. } = training.recipe();
    let Recipe { momentum, nesterov, weight_decay, label_smoothing, flip, shift, early_stop, seed, .. } =
        training.recipe();
    let mut task = serde_json::to_value(paths)?;
    let rest = json!({
        "version": VERSION,
        "dataset": {
            "path": fs::canonicalize(&source.path).unwrap_or_else(|_| source.path.clone()),
            "format": source.format,
            "test_share": source.test_share,
        },
        "mean": dataset.mean,
        "std": dataset.std,
        "classes": dataset.classes,
        "recipe": {
            "epochs": epochs, "batch": batch, "learning_rate": learning_rate, "schedule": schedule,
            "warmup_epochs": warmup_epochs, "momentum": momentum, "nesterov": nesterov,
            "weight_decay": weight_decay, "label_smoothing": label_smoothing, "flip": flip, "shift": shift,
            "early_stop": early_stop, "seed": seed,
        },
    });
    if let (Some(task), serde_json::Value::Object(rest)) = (task.as_object_mut(), rest) {
        task.extend(rest);
    }
    serde_json::to_vec_pretty(&task)
}
