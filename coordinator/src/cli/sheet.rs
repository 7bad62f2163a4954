//! A description's layout: aligned facts, then titled sections.

use crate::cli::table::Table;
use crate::cli::terminal::{Colors, Tone};

/// Text in the making.
pub(crate) struct Sheet {
    facts: Vec<(&'static str, String, Tone)>,
    sections: Vec<String>,
    colors: Colors,
}

impl Sheet {
    pub(crate) fn new(colors: Colors) -> Self {
        Self { facts: Vec::new(), sections: Vec::new(), colors }
    }

    /// A fact; `-` where it is unknown.
    pub(crate) fn fact(&mut self, name: &'static str, value: impl Into<String>) {
        self.toned(name, value, Tone::Plain);
    }

    /// A fact that is good or bad news.
    pub(crate) fn toned(&mut self, name: &'static str, value: impl Into<String>, tone: Tone) {
        let value = value.into();
        let value = if value.is_empty() { "-".to_owned() } else { value };
        self.facts.push((name, value, tone));
    }

    /// A fact that may be unknown.
    pub(crate) fn known<T>(&mut self, name: &'static str, value: Option<T>, print: impl FnOnce(T) -> String) {
        self.fact(name, value.map(print).unwrap_or_default());
    }

    /// A table under a title; `none`, where it has no rows.
    pub(crate) fn table(&mut self, title: &str, table: &Table) {
        let text = if table.is_empty() { "none".to_owned() } else { table.render(self.colors) };
        self.text(title, &text);
    }

    /// Lines under a title.
    pub(crate) fn text(&mut self, title: &str, text: &str) {
        let mut section = self.colors.paint(Tone::Heading, &format!("{title}:"));
        for line in text.lines() {
            section.push_str("\n  ");
            section.push_str(line);
        }
        self.sections.push(section);
    }

    /// The whole text.
    pub(crate) fn finish(self) -> String {
        let width = self.facts.iter().map(|(name, ..)| name.len()).max().unwrap_or(0) + 1;
        let facts = self.facts.iter().map(|(name, value, tone)| {
            format!("{:<width$}  {}", format!("{name}:"), self.colors.paint(*tone, value))
        });
        let facts = facts.collect::<Vec<_>>().join("\n");
        std::iter::once(facts).chain(self.sections).collect::<Vec<_>>().join("\n\n")
    }
}
