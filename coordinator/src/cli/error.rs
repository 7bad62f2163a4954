//! Why a verb gave up, in one line, and the exit code that says so. Codes are documented in `reconvene --help`.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use coordinator::AppError;
use coordinator::causes::chain;
use coordinator::config::ConfigError;
use coordinator::manifest::ManifestError;
use coordinator::store::StoreError;

/// A verb's failure.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// Arguments that each make sense, but not together.
    #[error("{0}")]
    Usage(String),
    /// The coordinator knows nothing of that name.
    #[error("{kind} '{name}' not found; `reconvene {}` lists them", listing(.kind))]
    NotFound {
        /// Singular, lower case.
        kind: &'static str,
        /// What was asked for.
        name: String,
    },
    /// The coordinator says that something is not there.
    #[error("{0}")]
    Missing(String),
    /// No network within the budget exists.
    #[error("{0}")]
    NoFit(String),
    /// A file that cannot be read.
    #[error("cannot read {path}", path = .path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A manifest that means nothing valid.
    #[error("{file}")]
    Manifest {
        /// As the operator named it.
        file: String,
        /// Which line, and why.
        source: ManifestError,
    },
    /// The coordinator, or a file's text, says that the input is wrong.
    #[error("{0}")]
    BadInput(String),
    /// Nobody answers at the server's address.
    #[error("cannot reach the coordinator at {url}: {cause}; {hint}")]
    Unreachable {
        /// Where.
        url: String,
        /// The innermost reason.
        cause: String,
        /// What to do about it.
        hint: String,
    },
    /// The daemon's configuration is not usable.
    #[error(transparent)]
    Config(ConfigError),
    /// The daemon could not start, or stopped.
    #[error(transparent)]
    Serve(Box<AppError>),
    /// A file that cannot be written.
    #[error("cannot write {path}", path = .path.display())]
    Unwritable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Standard output or standard error is gone.
    #[error("cannot write the output")]
    Output(#[source] io::Error),
    /// One of several things failed.
    #[error("{title}")]
    Within {
        /// Which of them.
        title: String,
        /// Why.
        source: Box<Self>,
    },
    /// Anything else; the text says what.
    #[error("{0}")]
    Failed(String),
}

impl CliError {
    /// The process's exit code.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            Self::Failed(_) | Self::Output(_) => 1,
            Self::Usage(_) => 2,
            Self::NotFound { .. } | Self::Missing(_) => 3,
            Self::NoFit(_) => 4,
            Self::Unreadable { .. } | Self::Manifest { .. } | Self::BadInput(_) => 65,
            Self::Config(_) => 64,
            Self::Unreachable { .. } => 69,
            Self::Serve(error) => match **error {
                AppError::Listen { ref source, .. } if source.kind() == io::ErrorKind::AddrInUse => 71,
                AppError::Socket { ref source, .. } if source.kind() == io::ErrorKind::AddrInUse => 71,
                AppError::Store(StoreError::Locked { .. }) => 71,
                AppError::StateDir { .. }
                | AppError::Socket { .. }
                | AppError::Store(StoreError::File { .. })
                | AppError::Blobs(_)
                | AppError::Key(_)
                | AppError::Authority(_)
                | AppError::Checkpoints(_) => 73,
                AppError::Listen { .. }
                | AppError::Store(_)
                | AppError::Probes(_)
                | AppError::Signal(_)
                | AppError::Serve(_) => 1,
            },
            Self::Unwritable { .. } => 73,
            Self::Within { source, .. } => return source.exit_code(),
        })
    }

    /// Whether all that is wrong is that no device can meet its budget.
    pub(crate) fn is_no_fit(&self) -> bool {
        match self {
            Self::NoFit(_) => true,
            Self::Within { source, .. } => source.is_no_fit(),
            _ => false,
        }
    }

    /// The line for the operator, causes included; `None` where the reader of our output has simply gone.
    pub(crate) fn line(&self) -> Option<String> {
        if let Self::Output(error) = self
            && error.kind() == io::ErrorKind::BrokenPipe
        {
            return None;
        }
        Some(chain(self))
    }
}

/// The verb that lists the things of a kind.
fn listing(kind: &str) -> String {
    match kind {
        "operator" | "token" | "authority" => format!("{kind} list"),
        "pending device" => "device pending".to_owned(),
        kind => format!("get {kind}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_found_is_listed_by_a_verb_that_there_is() {
        let line = |kind| CliError::NotFound { kind, name: "zed".to_owned() }.to_string();
        assert_eq!(line("device"), "device 'zed' not found; `reconvene get devices` lists them");
        assert_eq!(line("operator"), "operator 'zed' not found; `reconvene operator list` lists them");
        assert_eq!(
            line("pending device"),
            "pending device 'zed' not found; `reconvene device pending` lists them"
        );
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        let gone = CliError::Output(io::ErrorKind::BrokenPipe.into());
        assert_eq!(gone.line(), None);
        assert_eq!(gone.exit_code(), ExitCode::from(0));
    }

    #[test]
    fn causes_follow_in_one_line() {
        let error = CliError::Unwritable {
            path: "m.onnx".into(),
            source: io::Error::new(io::ErrorKind::PermissionDenied, "no permission"),
        };
        assert_eq!(error.line().unwrap(), "cannot write m.onnx: no permission");
        assert_eq!(error.exit_code(), ExitCode::from(73));
    }
}
