//! What is in a dataset, for people and for programs.

use std::path::Path;

use coordinator::manifest::DatasetSpec;
use pruner_core::dataset::{Dataset, Format, TestShare};
use serde::Serialize;

use crate::cli::error::CliError;
use crate::cli::figures::count;
use crate::cli::output::{Notation, ReportFormat, object, write};
use crate::cli::sheet::Sheet;
use crate::cli::table::{Entry, Table};
use crate::cli::terminal::{Colors, Terminal};

/// What was read.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    /// What a deployment says to have it.
    dataset: DatasetSpec,
    /// Channels, height and width.
    shape: [usize; 3],
    /// Images to train on.
    train: usize,
    /// Images to test on.
    test: usize,
    /// Per channel, pixels from 0 to 1, over the images to train on.
    mean: Vec<f32>,
    std: Vec<f32>,
    classes: Vec<Class>,
}

/// One class's images.
#[derive(Debug, Serialize)]
struct Class {
    label: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    train: usize,
    test: usize,
}

impl Report {
    pub(super) fn new(
        dataset: &Dataset,
        dir: &Path,
        format: Format,
        test_share: Option<TestShare>,
    ) -> Result<Self, CliError> {
        // A deployment is read elsewhere than here: only a whole path means the same there.
        let path = std::path::absolute(dir)
            .map_err(|source| CliError::Unreadable { path: dir.to_owned(), source })?;
        let [train, test] = [&dataset.train, &dataset.test].map(|split| split.per_class(dataset.classes));
        let class = |(label, (train, test))| Class {
            label,
            name: dataset.class_names.get(label).cloned(),
            train,
            test,
        };
        Ok(Self {
            dataset: DatasetSpec { format, path, test_share },
            shape: [dataset.shape.channels, dataset.shape.height, dataset.shape.width],
            train: dataset.train.len(),
            test: dataset.test.len(),
            mean: dataset.mean.clone(),
            std: dataset.std.clone(),
            classes: train.into_iter().zip(test).enumerate().map(class).collect(),
        })
    }

    pub(super) fn print(&self, format: ReportFormat, terminal: &Terminal) -> Result<(), CliError> {
        match format {
            ReportFormat::Json => terminal.data(&write(&object("DatasetReport", self)?, Notation::Json)?),
            ReportFormat::Table => terminal.data(&self.sheet(terminal.colors)?),
        }
    }

    fn sheet(&self, colors: Colors) -> Result<String, CliError> {
        let per_channel = |figures: &[f32]| {
            figures.iter().map(|figure| format!("{figure:.4}")).collect::<Vec<_>>().join(", ")
        };
        let mut sheet = Sheet::new(colors);
        sheet.fact("Format", self.dataset.format.name());
        sheet.fact("Images", self.shape.map(|side| side.to_string()).join("x"));
        sheet.fact("Classes", self.classes.len().to_string());
        sheet.fact("To train on", count(self.train as u64));
        sheet.fact("To test on", count(self.test as u64));
        sheet.fact("Mean", per_channel(&self.mean));
        sheet.fact("Deviation", per_channel(&self.std));
        sheet.table("Images of each class", &self.table());
        let spec = serde_saphyr::to_string(&self.dataset)
            .map_err(|error| CliError::Failed(format!("cannot write YAML: {error}")))?;
        let spec: String = spec.lines().map(|line| format!("  {line}\n")).collect();
        sheet.text("In a deployment", &format!("dataset:\n{spec}"));
        Ok(sheet.finish())
    }

    fn table(&self) -> Table {
        let is_named = self.classes.iter().any(|class| class.name.is_some());
        let heads =
            if is_named { &["CLASS", "NAME", "TRAIN", "TEST"][..] } else { &["CLASS", "TRAIN", "TEST"] };
        let mut table = Table::new(heads.iter().copied());
        for Class { label, name, train, test } in &self.classes {
            let name = name.as_ref().map(Entry::text);
            let counts = [train, test].map(|images| Entry::figure(count(*images as u64)));
            table.row([Entry::figure(label.to_string())].into_iter().chain(name).chain(counts));
        }
        table
    }
}
