//! The texts after a verb's options, for a terminal of any width: in the source their lines end where a line of code does.

use clap::Command;

/// The command and all below it, with paragraphs that are broken where the terminal ends.
pub(crate) fn flowing(command: Command) -> Command {
    let text = command.get_after_help().map(|text| flow(&text.to_string()));
    let command = text.into_iter().fold(command, Command::after_help);
    let verbs: Vec<_> = command.get_subcommands().map(|verb| verb.get_name().to_owned()).collect();
    verbs.into_iter().fold(command, |command, verb| command.mut_subcommand(verb, flowing))
}

/// One line for each paragraph; a line that is indented, as an example is, stays one.
fn flow(text: &str) -> String {
    let mut flowing = String::new();
    let mut goes_on = false;
    for line in text.lines() {
        let is_prose = !line.is_empty() && !line.starts_with(' ');
        if !flowing.is_empty() {
            flowing.push(if goes_on && is_prose { ' ' } else { '\n' });
        }
        flowing.push_str(line);
        goes_on = is_prose && !line.ends_with(':');
    }
    flowing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_flow_and_examples_stay() {
        let text = "One paragraph\nof two lines.\n\nAnother.\n\nExamples:\n  reconvene a\n  reconvene b   why\nOr so.";
        let expected = "One paragraph of two lines.\n\nAnother.\n\nExamples:\n  reconvene a\n  reconvene b   why\nOr so.";
        assert_eq!(flow(text), expected);
        let inner = Command::new("get").after_help("a\nb");
        let mut command = flowing(Command::new("reconvene").subcommand(inner));
        let inner = command.find_subcommand_mut("get").unwrap();
        assert_eq!(inner.get_after_help().unwrap().to_string(), "a b");
    }
}
