//! What came of a training, for people and for programs.

use std::path::Path;

use pruner_core::Network;
use pruner_core::dataset::Dataset;
use pruner_core::graph::cost::cost;
use pruner_core::train::Evaluation;
use serde::Serialize;

use crate::cli::error::CliError;
use crate::cli::figures::{count, macs, percent, seconds};
use crate::cli::output::{Notation, ReportFormat, object, write};
use crate::cli::sheet::Sheet;
use crate::cli::terminal::Terminal;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    file: String,
    params: u64,
    macs: u64,
    train_images: usize,
    epochs: usize,
    test_accuracy: f64,
    test_images: usize,
    seconds_to_train: f64,
}

impl Report {
    pub(super) fn new(
        out: &Path,
        trained: &Network,
        dataset: &Dataset,
        (epochs, seconds_to_train): (usize, f64),
        tested: &Evaluation,
    ) -> Self {
        let cost = cost(&trained.graph);
        Self {
            file: out.display().to_string(),
            params: cost.params,
            macs: cost.macs,
            train_images: dataset.train.len(),
            epochs,
            test_accuracy: tested.accuracy,
            test_images: tested.images,
            seconds_to_train,
        }
    }

    pub(super) fn print(&self, format: ReportFormat, terminal: &Terminal) -> Result<(), CliError> {
        match format {
            ReportFormat::Json => terminal.data(&write(&object("TrainReport", self)?, Notation::Json)?),
            ReportFormat::Table => {
                let mut sheet = Sheet::new(terminal.colors);
                sheet.fact("Accuracy", self.accuracy());
                sheet.fact("Parameters", count(self.params));
                sheet.fact("MACs", macs(self.macs));
                let images = count(self.train_images as u64);
                sheet.fact("Training", format!("{} epochs of {images} images", self.epochs));
                sheet.fact("Trained in", seconds(self.seconds_to_train));
                sheet.fact("File", self.file.as_str());
                terminal.data(&sheet.finish())
            }
        }
    }

    fn accuracy(&self) -> String {
        format!("{} on {} test images", percent(self.test_accuracy), count(self.test_images as u64))
    }
}
