//! What a run leaves: the table for people, the same figures as JSON, and a picture.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use proto::{ByteSize, v1};
use serde_json::json;

use super::Scale;
use super::plot;
use super::row::{Outcome, Row};

/// One finished run.
#[derive(Debug)]
pub struct Report {
    /// For each device its dense row, then its fitted one.
    pub rows: Vec<Row>,
    /// How much was learned and measured.
    pub scale: Scale,
    /// Seconds of each stage, in order.
    pub seconds: Vec<(String, f64)>,
    /// Where everything lies.
    pub folder: PathBuf,
}

impl Report {
    /// Whether every row is as it may be on any machine.
    pub fn is_sound(&self) -> bool {
        self.rows.iter().all(|row| row.outcome.is_sound())
    }

    /// Writes `table.json` and `demo.svg`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self) -> Result<()> {
        let seconds: serde_json::Map<_, _> =
            self.seconds.iter().map(|(stage, seconds)| (stage.clone(), json!(seconds))).collect();
        let scale = match self.scale {
            Scale::Quick => "quick",
            Scale::Full => "full",
        };
        let table = json!({ "scale": scale, "rows": self.rows, "seconds": seconds });
        for (name, text) in [
            ("table.json", serde_json::to_string_pretty(&table)?),
            ("demo.svg", plot::latency_and_accuracy(&self.rows)),
        ] {
            let file = self.folder.join(name);
            fs::write(&file, text + "\n").with_context(|| format!("cannot write {}", file.display()))?;
        }
        Ok(())
    }

    /// The table and the lines below it.
    pub fn to_text(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
        table.set_header([
            "device",
            "profile",
            "model",
            "budget",
            "params",
            "MACs",
            "bytes",
            "accuracy",
            "predicted\np50/p95 ms",
            "measured\np50/p95 ms",
            "outcome",
        ]);
        for row in &self.rows {
            table.add_row(cells(row));
        }
        for column in 4..=9 {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let total: f64 = self.seconds.iter().map(|(_, seconds)| seconds).sum();
        let stages: Vec<String> = self.seconds.iter().map(|(stage, s)| format!("{stage} {s:.1}")).collect();
        let test_images = self.rows.iter().map(|row| row.test_images).max().unwrap_or(0);
        let requests = self.rows.iter().map(|row| row.requests).max().unwrap_or(0);
        let explanations: String = self.rows.iter().filter_map(explanation).collect();
        format!(
            "{table}\n{explanations}accuracy: on {test_images} test images; measured: by the agent itself, {requests} of them, one \
             at a time, while the other devices and the trainer rest\nseconds: {} (in all {total:.1})\nfiles: {}",
            stages.join(", "),
            self.folder.display()
        )
    }
}

fn cells(row: &Row) -> [String; 11] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let pair =
        |p50: Option<f64>, p95: Option<f64>| or_dash(p50.zip(p95).map(|(a, b)| format!("{a:.3}/{b:.3}")));
    let footprint = row.footprint;
    [
        row.device.clone(),
        row.profile.replace(", ", "\n"),
        row.model.to_owned(),
        budget(&row.budget),
        or_dash(footprint.map(|f| thousands(f.params))),
        or_dash(footprint.map(|f| format!("{:.2}M", f.macs as f64 / 1e6))),
        or_dash(footprint.map(|f| ByteSize(f.bytes).to_string())),
        or_dash(row.test_accuracy.map(|accuracy| format!("{:.2} %", accuracy * 100.0))),
        pair(row.predicted_p50_ms, row.predicted_p95_ms),
        pair(row.measured_p50_ms, row.measured_p95_ms),
        verdict(&row.outcome).to_owned(),
    ]
}

fn budget(budget: &v1::Ceilings) -> String {
    let ceilings: Vec<String> = [
        budget.params.map(|n| format!("{} params", thousands(n))),
        budget.macs.map(|n| format!("{:.2}M MACs", n as f64 / 1e6)),
        budget.bytes.map(|n| ByteSize(n).to_string()),
        budget.memory_bytes.map(|n| format!("{} memory", ByteSize(n))),
        budget.activation_bytes.map(|n| format!("{} activations", ByteSize(n))),
        budget.latency_p50_ms.map(|ms| format!("p50 {ms:.3} ms")),
        budget.latency_p95_ms.map(|ms| format!("p95 {ms:.3} ms")),
    ]
    .into_iter()
    .flatten()
    .collect();
    if ceilings.is_empty() { "none".to_owned() } else { ceilings.join("\n") }
}

/// The last column: a word; why follows below the table.
fn verdict(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Unbounded => "-",
        Outcome::Met => "met",
        Outcome::NoFit { .. } => "no fit",
        Outcome::Late { .. } => "late",
        Outcome::Over { .. } => "over",
    }
}

/// Why a row is not met.
fn explanation(row: &Row) -> Option<String> {
    let why = match &row.outcome {
        Outcome::Unbounded | Outcome::Met => return None,
        Outcome::NoFit { reason } => reason.clone(),
        Outcome::Late { miss, cause: Some(cause) } => format!("{miss}; {cause}"),
        Outcome::Late { miss, cause: None } => format!("{miss}; nothing was counted that explains it"),
        Outcome::Over { miss } => miss.clone(),
    };
    Some(format!("{} {}: {why}\n", row.device, row.model))
}

/// `12,345`.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_budgets_read_well() {
        assert_eq!(
            [7, 999, 1000, 272_474, 1_234_567].map(thousands),
            ["7", "999", "1,000", "272,474", "1,234,567"]
        );
        assert_eq!(budget(&v1::Ceilings::default()), "none");
        let both = v1::Ceilings { bytes: Some(307_200), latency_p95_ms: Some(0.75), ..Default::default() };
        assert_eq!(budget(&both), "300.0Ki\np95 0.750 ms");
    }
}
