//! The command line. Owns arguments, what is printed, and the exit codes; each verb that answers works without a
//! coordinator.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};

mod api;
pub mod infer;
pub mod profile;
pub mod run;
pub mod status;

use self::api::ApiError;
use self::infer::InferError;
use crate::app::AppError;
use crate::config::{self, ConfigError};
use crate::runner::check::CheckError;
use crate::state::{self, FileError, StateDir};
use crate::update::rehearsal;

/// Measures this device, serves the model it is assigned, and reports to the fleet's coordinator.
#[derive(Debug, Parser)]
#[command(
    name = "reconvene-agent",
    version,
    after_help = "Examples:\n  \
        reconvene-agent run --config /etc/reconvene/agent.toml\n  \
        reconvene-agent profile -o json\n  \
        reconvene-agent status\n  \
        reconvene-agent infer --image shoe.png\n\n\
        Exit codes: 0 ok, 1 failure, 2 usage, 3 not found, 64 bad config file, 65 bad image,\n\
        69 no answer or no model yet, 71 cannot listen there, 73 cannot use the state directory."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run the agent until it is told to stop
    #[command(
        after_help = "Example:\n  RECONVENE_AGENT__ENGINE__THREADS=1 reconvene-agent run --config agent.toml"
    )]
    Run {
        /// The configuration file
        #[arg(long, value_name = "FILE", default_value = config::USUAL_PATH)]
        config: PathBuf,
    },
    /// Show what this device measures of itself
    #[command(after_help = "Example:\n  reconvene-agent profile -o json | jq .instruction_sets")]
    Profile {
        /// The configuration file of an agent, whose last profile is shown if it has published one
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// How to print it
        #[arg(short, long, value_enum, default_value_t = Format::Table)]
        output: Format,
    },
    /// Ask the running agent what it sees in an image
    #[command(after_help = "\
Examples:
  reconvene-agent infer --image shoe.png
  reconvene-agent infer --image shoe.png --address 10.0.0.7:7380 -o json | jq .classes[0]")]
    Infer(infer::Arguments),
    /// Load and test one model, for the agent; its manifest comes on standard input, `null` for a probe
    #[command(hide = true)]
    Rehearse {
        /// The model's file
        model: PathBuf,
        /// Of one inference
        #[arg(long)]
        threads: usize,
    },
    /// Show what is installed and whether it serves
    #[command(after_help = "Example:\n  reconvene-agent status --config /etc/reconvene/agent.toml -o json")]
    Status {
        /// The configuration file; names the state directory
        #[arg(long, value_name = "FILE", default_value = config::USUAL_PATH)]
        config: PathBuf,
        /// How to print it
        #[arg(short, long, value_enum, default_value_t = Format::Table)]
        output: Format,
    },
}

/// How to print an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Table,
    /// For programs
    Json,
}

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The agent.
    #[error(transparent)]
    App(#[from] AppError),
    /// An image.
    #[error(transparent)]
    Infer(#[from] InferError),
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// Somebody listens there.
    #[error("{address} is in use; stop what listens there or set serve.listen to another address")]
    AddressInUse {
        /// Where.
        address: std::net::SocketAddr,
    },
    /// Listening failed otherwise.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where.
        address: std::net::SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The agent has never run here.
    #[error("the state directory {} does not exist; start the agent once, or set state_dir", path.display())]
    NoState {
        /// Which.
        path: PathBuf,
    },
    /// The socket cannot be made.
    #[error("cannot listen on {}; serve.socket names a path in a folder that the agent may write", path.display())]
    Socket {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Something else lies where the socket is to be.
    #[error("serve.socket: {} is there already and is no socket; remove it, or name another path", path.display())]
    InTheWay {
        /// Where.
        path: PathBuf,
    },
    /// A model that the agent would not serve.
    #[error(transparent)]
    Check(#[from] CheckError),
    /// The process could not be set up, or its answer not printed.
    #[error("cannot {operation}")]
    Process {
        /// What was tried.
        operation: &'static str,
        /// Why.
        source: std::io::Error,
    },
}

impl CliError {
    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NoState { .. }
            | Self::Infer(InferError::NotRunning { .. } | InferError::Nowhere { .. }) => 3,
            Self::Config(_) => 64,
            Self::Infer(InferError::File(error)) => match error.source.kind() {
                std::io::ErrorKind::NotFound => 3,
                std::io::ErrorKind::IsADirectory | std::io::ErrorKind::FileTooLarge => 65,
                _ => 1,
            },
            Self::Infer(InferError::Image { .. }) => 65,
            Self::Check(CheckError::Unread(_)) => 1,
            Self::Check(_) => rehearsal::REFUSED,
            Self::Infer(
                InferError::Api(ApiError::Silent { .. } | ApiError::Hangs { .. })
                | InferError::NoModel { .. },
            ) => 69,
            Self::AddressInUse { .. } | Self::Listen { .. } | Self::Socket { .. } | Self::InTheWay { .. } => {
                71
            }
            Self::App(AppError::State { .. } | AppError::InUse { .. }) => 73,
            Self::App(AppError::Address(_)) => 64,
            Self::App(AppError::Serve(_)) | Self::Infer(_) | Self::File(_) | Self::Process { .. } => 1,
        }
    }

    fn process(operation: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Process { operation, source }
    }
}

/// The command line without what is for the agent alone: for completions.
pub fn offered() -> clap::Command {
    let whole = Cli::command();
    let offered = whole.get_subcommands().filter(|verb| !verb.is_hide_set()).cloned();
    clap::Command::new("reconvene-agent")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .subcommands(offered)
}

/// Does what the command line says.
pub fn execute(cli: Cli) -> Result<(), CliError> {
    let text = match cli.verb {
        Verb::Run { config } => return run::run(&config),
        Verb::Profile { config, output } => profile::answer(config.as_deref(), output)?,
        Verb::Infer(arguments) => infer::answer(&arguments)?,
        Verb::Rehearse { model, threads } => {
            let manifest = serde_json::from_reader(std::io::stdin().lock()).map_err(std::io::Error::from);
            let manifest: Option<_> = manifest.map_err(CliError::process("read the model's manifest"))?;
            return Ok(rehearsal::perform(&model, manifest.as_ref(), threads)?);
        }
        Verb::Status { config, output } => status::answer(&config, output)?,
    };
    print(&text)
}

/// Prints an answer; a reader that has seen enough is no failure.
fn print(text: &str) -> Result<(), CliError> {
    use std::io::Write as _;
    match writeln!(std::io::stdout(), "{}", text.trim_end()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(CliError::process("print")(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Where the running agent listens; `None` where none runs.
fn serving_address(state: &StateDir) -> Result<Option<SocketAddr>, FileError> {
    let path = state.serving_address();
    let Some(text) = state::read(&path, state::RECORD)? else { return Ok(None) };
    let address = std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok());
    let refuse = || std::io::Error::new(std::io::ErrorKind::InvalidData, "it is no address");
    address.map(Some).ok_or_else(|| FileError::of("understand", &path)(refuse()))
}

/// A table without lines, for rows of two columns or more.
fn table() -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table
}

#[cfg(test)]
mod tests {
    use clap_complete::Shell;

    use super::*;

    #[test]
    fn completions_offer_every_verb_but_the_hidden_one() {
        for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut offered(), "reconvene-agent", &mut script);
            let script = String::from_utf8(script).unwrap();
            for verb in ["run", "profile", "infer", "status"] {
                assert!(script.contains(verb), "{shell}: {verb}");
            }
            assert!(!script.contains("rehearse"), "{shell}");
        }
    }
}
