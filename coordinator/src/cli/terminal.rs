//! Where words go: data to standard output, talk to standard error; and whether either is coloured.

use std::io::{self, IsTerminal, Write};

use clap::builder::styling::{AnsiColor, Style};

use super::error::CliError;

/// The operator's choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ColorChoice {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Everywhere.
    Always,
    /// Nowhere.
    Never,
}

/// What a piece of text says about the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Good,
    Warning,
    Bad,
    Heading,
}

/// Whether one stream takes colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Colors {
    On,
    Off,
}

/// The two streams.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terminal {
    /// Of standard output.
    pub(crate) colors: Colors,
    /// Of standard error.
    pub(crate) talk_colors: Colors,
    /// Whether progress may be redrawn in place.
    pub(crate) redraws: bool,
}

impl Colors {
    /// `text` as `tone` looks.
    pub(crate) fn paint(self, tone: Tone, text: &str) -> String {
        let style = match tone {
            Tone::Plain => return text.to_owned(),
            Tone::Good => AnsiColor::Green.on_default(),
            Tone::Warning => AnsiColor::Yellow.on_default(),
            Tone::Bad => AnsiColor::Red.on_default(),
            Tone::Heading => Style::new().bold(),
        };
        match self {
            Self::On => format!("{style}{text}{style:#}"),
            Self::Off => text.to_owned(),
        }
    }
}

impl Terminal {
    /// Looks at the streams and at NO_COLOR (no-color.org: any value but the empty one; `--color` outranks it).
    pub(crate) fn new(choice: ColorChoice) -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let colors = |is_terminal: bool| match choice {
            ColorChoice::Always => Colors::On,
            ColorChoice::Auto if wanted && is_terminal => Colors::On,
            ColorChoice::Auto | ColorChoice::Never => Colors::Off,
        };
        let redraws = io::stderr().is_terminal();
        Self { colors: colors(io::stdout().is_terminal()), talk_colors: colors(redraws), redraws }
    }

    /// Writes data, ending in a newline.
    pub(crate) fn data(&self, text: &str) -> Result<(), CliError> {
        let end = if text.ends_with('\n') { "" } else { "\n" };
        let mut out = io::stdout().lock();
        write!(out, "{text}{end}").and_then(|()| out.flush()).map_err(CliError::Output)
    }

    /// Writes a line of talk. Talk that nobody can hear is lost without harm.
    pub(crate) fn say(&self, line: &str) {
        // The exit code and the data still tell the outcome.
        let _ = writeln!(io::stderr().lock(), "{line}");
    }

    /// Writes an error's line.
    pub(crate) fn complain(&self, line: &str) {
        self.say(&format!("{} {line}", self.talk_colors.paint(Tone::Bad, "error:")));
    }
}
