//! A pruned network's layers as a table: widths before and after, with a bar for what is left.

use proto::v1;

use super::table::{Entry, Table};

const BAR: usize = 16;

/// One line per layer.
pub(crate) fn table(layers: &[v1::LayerWidth]) -> Table {
    let mut table = Table::new(["LAYER", "BEFORE", "AFTER", "KEPT", "", "SENSITIVITY"]);
    for layer in layers {
        let kept = f64::from(layer.after) / f64::from(layer.before.max(1));
        table.row([
            Entry::text(&layer.layer),
            Entry::figure(layer.before.to_string()),
            Entry::figure(layer.after.to_string()),
            Entry::figure(format!("{:.0}%", kept * 100.0)),
            Entry::text(bar(kept)),
            Entry::figure(format!("{:.3}", layer.sensitivity)),
        ]);
    }
    table
}

/// A share from 0 to 1 as a bar of fixed length; anything above 0 shows at least one block.
pub(super) fn bar(share: f64) -> String {
    let blocks = ((share * BAR as f64).round() as usize).clamp(usize::from(share > 0.0), BAR);
    "█".repeat(blocks) + &"░".repeat(BAR - blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_have_one_length() {
        assert_eq!(bar(0.0), "░".repeat(16));
        assert_eq!(bar(0.001), "█".to_owned() + &"░".repeat(15));
        assert_eq!(bar(1.0), "█".repeat(16));
    }
}
