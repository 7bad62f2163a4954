//! Writes the agent's manual page and shell completions into a folder, for packages: `manual FOLDER`.

use std::path::Path;

use agent::cli::Cli;
use clap::CommandFactory as _;
use clap_complete::Shell;

fn main() -> std::io::Result<()> {
    let folder = std::env::args_os().nth(1).ok_or_else(|| std::io::Error::other("usage: manual FOLDER"))?;
    let folder = Path::new(&folder);
    std::fs::create_dir_all(folder)?;
    clap_mangen::generate_to(Cli::command(), folder)?;
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        clap_complete::generate_to(shell, &mut Cli::command(), "reconvene-agent", folder)?;
    }
    Ok(())
}
