//! `reconvene completion`: a script that teaches a shell the verbs and options.

use clap::CommandFactory;
use clap_complete::Shell;

use super::error::CliError;
use super::{Cli, Context};

/// For which shell.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  source <(reconvene completion bash)
  reconvene completion zsh > \"${fpath[1]}/_reconvene\"
  reconvene completion fish > ~/.config/fish/completions/reconvene.fish")]
pub(crate) struct CompletionArgs {
    /// The shell
    shell: Shell,
}

pub(crate) fn run(args: &CompletionArgs, context: &Context) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "reconvene", &mut script);
    context.terminal.data(&String::from_utf8_lossy(&script))
}
