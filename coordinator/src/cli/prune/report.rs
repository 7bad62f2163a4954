//! What was pruned, for people and for programs.

use coordinator::fitting::LATENCY_HEADROOM;
use pruner_core::graph::cost::Cost;
use pruner_core::latency::{HeldOut, Latency};
use pruner_core::report::{Change, FrozenReport, LayerReport, Report as Figures};
use serde::Serialize;

use crate::cli::error::CliError;
use crate::cli::figures::{bytes, count, macs, ms, ratio, seconds, times};
use crate::cli::layers::bar;
use crate::cli::output::{Notation, ReportFormat, object, write};
use crate::cli::table::{Entry, Table};
use crate::cli::terminal::Terminal;

/// What became of the network.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    pub(super) network: String,
    pub(super) file: String,
    /// SHA-256 of the file.
    pub(super) digest: String,
    #[serde(flatten)]
    pub(super) figures: Figures,
    /// Of one image on the device whose profile was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) predicted: Option<Change<Latency>>,
    /// How far such predictions are off for probes that they were not fitted to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) held_out: Option<HeldOut>,
    pub(super) seconds_to_score: f64,
    /// Planning, surgery and writing.
    pub(super) seconds_to_prune: f64,
}

impl Report {
    pub(super) fn print(&self, format: ReportFormat, terminal: &Terminal) -> Result<(), CliError> {
        match format {
            ReportFormat::Json => terminal.data(&write(&object("PruneReport", self)?, Notation::Json)?),
            ReportFormat::Table => terminal.data(&format!(
                "{}\n\n{}\n{}{}\nscored in {}, pruned in {}\n{}  {}",
                self.layers().render(terminal.colors),
                self.totals().render(terminal.colors),
                self.certainty(),
                self.frozen(),
                seconds(self.seconds_to_score),
                seconds(self.seconds_to_prune),
                self.digest,
                self.file,
            )),
        }
    }

    fn layers(&self) -> Table {
        let heads = ["LAYER", "BEFORE", "AFTER", "KEPT", "", "SENSITIVITY", "PARAMS", "MACS"];
        let mut table = Table::new(heads);
        for LayerReport { name, width, sensitivity, params: weights, macs: work, .. } in &self.figures.layers
        {
            let kept = width.after as f64 / width.before.max(1) as f64;
            table.row([
                Entry::text(name),
                Entry::figure(width.before.to_string()),
                Entry::figure(width.after.to_string()),
                Entry::figure(format!("{:.0}%", kept * 100.0)),
                Entry::text(bar(kept)),
                Entry::figure(format!("{sensitivity:.3}")),
                Entry::figure(format!("{} of {}", count(weights.after), count(weights.before))),
                Entry::figure(format!("{} of {}", macs(work.after), macs(work.before))),
            ]);
        }
        table
    }

    /// How far predicted times can be trusted.
    fn certainty(&self) -> String {
        let Some(HeldOut { mean, worst }) = self.held_out else { return String::new() };
        let (mean, worst) = (mean * 100.0, worst * 100.0);
        let free = 100.0 * LATENCY_HEADROOM;
        format!(
            "a probe's p95, predicted from the others, is off by {mean:.0} % on the mean, {worst:.0} % at worst; \
             latency ceilings are planned up to the prediction (a fleet's plans keep {free:.0} % free)\n"
        )
    }

    /// What kept all its channels, and why: a line each, and an empty one before and after them.
    fn frozen(&self) -> String {
        let line = |frozen: &FrozenReport| {
            let FrozenReport { layers, channels, reason } = frozen;
            format!("\nthe {channels} channels of {} all stay: {reason}", layers.join(", "))
        };
        let lines: String = self.figures.frozen.iter().map(line).collect();
        if lines.is_empty() { lines } else { format!("{lines}\n") }
    }

    fn totals(&self) -> Table {
        let mut table = Table::new(["TOTAL", "DENSE", "PRUNED", "RATIO"]);
        let mut row = |name: &str, figure: fn(&Cost) -> u64, print: fn(u64) -> String| {
            let (dense, pruned) = (figure(&self.figures.dense), figure(&self.figures.pruned));
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
        row("activations", |c| c.activation_bytes, bytes);
        let mut time = |name: &str, percentile: fn(&Latency) -> f64| {
            let Some(Change { before, after }) = &self.predicted else { return };
            let (before, after) = (percentile(before), percentile(after));
            table.row([
                Entry::text(name),
                Entry::figure(ms(before)),
                Entry::figure(ms(after)),
                Entry::figure(times(before, after)),
            ]);
        };
        time("predicted p50", |latency| latency.p50_ms);
        time("predicted p95", |latency| latency.p95_ms);
        table
    }
}
