//! Writes the agent's manual page and shell completions into a folder, for packages: `manual FOLDER`.

use std::fs::OpenOptions;
use std::path::Path;

use agent::cli::{self, Cli};
use clap::CommandFactory as _;
use clap_complete::Shell;
use clap_mangen::roff::{Roff, bold, roman};

const FILES: [(&str, &str); 7] = [
    ("/etc/reconvene/agent.toml", "The configuration; every key with its default."),
    (
        "/etc/reconvene/agent.d/*.toml",
        "More of it, which has its way over the file, in the order of the names.",
    ),
    ("/etc/reconvene/join.d", "What the device joins an encrypted coordinator with, the first time."),
    ("/var/lib/reconvene-agent", "The state directory: models, telemetry that waits, the device's key."),
    (
        "/var/lib/reconvene-agent/trusted-keys.json",
        "Whose assignments are followed, unless coordinator_keys says so.",
    ),
    (
        "/var/lib/reconvene-agent/given-up.json",
        "Assignments that are not tried again, and why; what is installed of them is, once nothing has served for ten minutes.",
    ),
    ("/run/reconvene/inference.sock", "The inference API, for whoever is in the group reconvene."),
];

const ENVIRONMENT: [(&str, &str); 4] = [
    (
        "RECONVENE_AGENT__*",
        "Overrides any key of the configuration: RECONVENE_AGENT__SERVE__LISTEN sets serve.listen. Several \
         coordinator_keys are separated by commas.",
    ),
    ("RUST_LOG", "What is logged, such as warn or agent=debug. Default: info."),
    ("CREDENTIALS_DIRECTORY", "Set by systemd: where the join file is."),
    (
        "NOTIFY_SOCKET, WATCHDOG_USEC, LISTEN_FDS",
        "Set by systemd: where it is told, how often, and sockets that it has opened.",
    ),
];

const EXIT_STATUS: [(&str, &str); 9] = [
    ("0", "It did what it was asked, or was told to stop."),
    ("1", "A failure that the message names."),
    ("2", "The command line makes no sense."),
    ("3", "There is no state directory, or, where an agent is asked, none runs; status says so and exits 0."),
    ("64", "The configuration is refused. systemd does not try again."),
    ("65", "The image cannot be read."),
    ("69", "The agent does not answer."),
    ("71", "It cannot listen there."),
    ("73", "The state directory cannot be used, or another agent uses it."),
];

fn main() -> std::io::Result<()> {
    let folder = std::env::args_os().nth(1).ok_or_else(|| std::io::Error::other("usage: manual FOLDER"))?;
    let folder = Path::new(&folder);
    std::fs::create_dir_all(folder)?;
    clap_mangen::generate_to(Cli::command(), folder)?;
    let mut page = OpenOptions::new().append(true).open(folder.join("reconvene-agent.1"))?;
    for (title, entries) in
        [("FILES", &FILES[..]), ("ENVIRONMENT", &ENVIRONMENT[..]), ("EXIT STATUS", &EXIT_STATUS[..])]
    {
        section(title, entries).to_writer(&mut page)?;
    }
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        clap_complete::generate_to(shell, &mut cli::offered(), "reconvene-agent", folder)?;
    }
    Ok(())
}

fn section(title: &str, entries: &[(&str, &str)]) -> Roff {
    let mut section = Roff::new();
    section.control("SH", [title]);
    for (name, meaning) in entries {
        section.control("TP", []).text([bold(*name)]).text([roman(*meaning)]);
    }
    section
}
