//! What was pruned, for people and for programs.

use proto::v1;
use pruner_core::graph::cost::Cost;
use pruner_core::plan::LayerPlan;
use serde::Serialize;

use crate::cli::error::CliError;
use crate::cli::figures::{bytes, count, macs, ratio, seconds};
use crate::cli::layers;
use crate::cli::output::{Notation, object, write};
use crate::cli::table::{Entry, Table};
use crate::cli::terminal::Terminal;

/// How a report is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum ReportFormat {
    /// Layers, then totals.
    Table,
    /// Everything, for programs.
    Json,
}

/// What became of the network.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    pub(super) network: String,
    pub(super) file: String,
    /// SHA-256 of the file.
    pub(super) digest: String,
    pub(super) dense: Cost,
    pub(super) pruned: Cost,
    pub(super) layers: Vec<v1::LayerWidth>,
    pub(super) seconds_to_score: f64,
    /// Planning, surgery and writing.
    pub(super) seconds_to_prune: f64,
}

impl Report {
    pub(super) fn print(&self, format: ReportFormat, terminal: &Terminal) -> Result<(), CliError> {
        match format {
            ReportFormat::Json => terminal.data(&write(&object("PruneReport", self)?, Notation::Json)?),
            ReportFormat::Table => terminal.data(&format!(
                "{}\n\n{}\n\nscored in {}, pruned in {}\n{}  {}",
                layers::table(&self.layers).render(terminal.colors),
                self.totals().render(terminal.colors),
                seconds(self.seconds_to_score),
                seconds(self.seconds_to_prune),
                self.digest,
                self.file,
            )),
        }
    }

    fn totals(&self) -> Table {
        let mut table = Table::new(["TOTAL", "DENSE", "PRUNED", "RATIO"]);
        let mut row = |name: &str, figure: fn(&Cost) -> u64, print: fn(u64) -> String| {
            let (dense, pruned) = (figure(&self.dense), figure(&self.pruned));
            table.row([
                Entry::text(name),
                Entry::figure(print(dense)),
                Entry::figure(print(pruned)),
                Entry::figure(ratio(pruned, dense)),
            ]);
        };
        row("params", |c| c.params, count);
        row("MACs", |c| c.macs, macs);
        row("size", |c| c.bytes, bytes);
        row("memory", |c| c.memory_bytes, bytes);
        table
    }
}

/// A layer of the plan as the tables show layers.
pub(super) fn layer(layer: &LayerPlan) -> v1::LayerWidth {
    let width = |channels: usize| u32::try_from(channels).unwrap_or(u32::MAX);
    v1::LayerWidth {
        layer: layer.name.clone(),
        before: width(layer.before),
        after: width(layer.after),
        sensitivity: layer.sensitivity,
    }
}
