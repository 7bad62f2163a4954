//! Aligned columns without lines, two spaces apart, as kubectl prints them.

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table as Grid, presets};

use super::terminal::{Colors, Tone};

/// A table under construction.
pub(crate) struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<Entry>>,
}

/// One cell.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    text: String,
    tone: Tone,
    alignment: CellAlignment,
}

impl Entry {
    /// Words; `-` where there are none.
    pub(crate) fn text(text: impl Into<String>) -> Self {
        let text = text.into();
        let text = if text.is_empty() { "-".to_owned() } else { text };
        Self { text, tone: Tone::Plain, alignment: CellAlignment::Left }
    }

    /// A figure.
    pub(crate) fn figure(text: impl Into<String>) -> Self {
        Self { alignment: CellAlignment::Right, ..Self::text(text) }
    }

    /// A figure that may be unknown.
    pub(crate) fn figure_or_dash<T>(value: Option<T>, print: impl FnOnce(T) -> String) -> Self {
        Self::figure(value.map(print).unwrap_or_default())
    }

    /// A state, coloured by what it means for the operator.
    pub(crate) fn state(state: &str) -> Self {
        Self { tone: tone(state), ..Self::text(state) }
    }
}

/// What a device's, an outcome's or a deployment's state means for the operator.
pub(crate) fn tone(state: &str) -> Tone {
    match state {
        "Online" | "Active" | "Complete" => Tone::Good,
        "NoFit" | "Stalled" => Tone::Warning,
        "Offline" | "Away" | "Gone" | "Banned" | "Failed" => Tone::Bad,
        _ => Tone::Plain,
    }
}

impl Table {
    /// A table with these columns.
    pub(crate) fn new(header: impl IntoIterator<Item = &'static str>) -> Self {
        Self { header: header.into_iter().collect(), rows: Vec::new() }
    }

    /// The same without its header.
    pub(crate) fn without_header(self) -> Self {
        Self { header: Vec::new(), ..self }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, entries: impl IntoIterator<Item = Entry>) {
        self.rows.push(entries.into_iter().collect());
    }

    /// Whether it has no rows.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table's lines. Every row is one line: text does not wrap, so that the output can be cut and searched.
    pub(crate) fn render(&self, colors: Colors) -> String {
        let mut grid = Grid::new();
        grid.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        grid.force_no_tty();
        if !self.header.is_empty() {
            let alignment = |index: usize| match self.rows.first().and_then(|row| row.get(index)) {
                Some(entry) => entry.alignment,
                None => CellAlignment::Left,
            };
            let titles = self.header.iter().enumerate();
            grid.set_header(titles.map(|(index, title)| Cell::new(title).set_alignment(alignment(index))));
        }
        for row in &self.rows {
            grid.add_row(row.iter().map(|entry| Cell::new(&entry.text).set_alignment(entry.alignment)));
        }
        let columns = grid.column_count();
        for (index, column) in grid.column_iter_mut().enumerate() {
            column.set_padding((0, if index + 1 == columns { 0 } else { 2 }));
        }
        let plain = grid.trim_fmt();
        let mut lines: Vec<_> = plain.lines().map(str::to_owned).collect();
        let header_lines = lines.len() - self.rows.len();
        for (line, row) in lines[header_lines..].iter_mut().zip(&self.rows) {
            *line = paint(line, row, colors);
        }
        lines.join("\n")
    }
}

/// Colours a laid-out line's entries; done after the layout, which must not count the colours' bytes.
fn paint(line: &str, row: &[Entry], colors: Colors) -> String {
    let (mut rest, mut painted) = (line, String::new());
    for entry in row {
        // Entries stand in order with only blanks between them, so the next match is the entry itself.
        if let Some((before, after)) = rest.split_once(entry.text.trim_end()) {
            painted.push_str(before);
            painted.push_str(&colors.paint(entry.tone, entry.text.trim_end()));
            rest = after;
        }
    }
    painted + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Table {
        let mut table = Table::new(["NAME", "STATUS", "PARAMS"]);
        table.row([Entry::text("a"), Entry::state("Online"), Entry::figure("16,809")]);
        table.row([Entry::text("longer"), Entry::state("NoFit"), Entry::figure("")]);
        table
    }

    #[test]
    fn columns_are_aligned_without_trailing_blanks() {
        let expected = "NAME    STATUS  PARAMS\na       Online  16,809\nlonger  NoFit        -";
        assert_eq!(sample().render(Colors::Off), expected);
    }

    #[test]
    fn colours_do_not_move_columns() {
        let painted = sample().render(Colors::On);
        assert!(painted.contains("\u{1b}[33mNoFit\u{1b}[0m        -"), "{painted:?}");
        assert!(painted.contains("\u{1b}[32mOnline\u{1b}[0m  16,809"), "{painted:?}");
    }

    #[test]
    fn the_header_can_be_left_out() {
        assert_eq!(sample().without_header().render(Colors::Off).lines().count(), 2);
    }
}
