//! Runs `reconvene` as an operator's shell would: its own process, no terminal.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// What a run left behind.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    /// Standard output of a run that did what it should.
    #[track_caller]
    pub(crate) fn data(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.stdout
    }

    /// The only line of standard error of a run that failed with `code` and wrote no data.
    #[track_caller]
    pub(crate) fn complaint(self, code: i32) -> String {
        assert_eq!((self.code, self.stdout.as_str()), (code, ""), "{self:?}");
        let line = self.stderr.strip_prefix("error: ").expect("an error begins so");
        let line = line.strip_suffix('\n').expect("a line ends so");
        assert!(!line.contains('\n'), "more than one line: {line}");
        line.to_owned()
    }
}

/// `reconvene` with `arguments`, against the coordinator at `url`.
pub(crate) fn reconvene(url: &str, arguments: &[&str]) -> Run {
    reconvene_reading("", url, arguments)
}

/// The same with `input` on standard input.
pub(crate) fn reconvene_reading(input: &str, url: &str, arguments: &[&str]) -> Run {
    let mut child = start(url, arguments);
    // A run that does not read may be gone before all is written; its output is what counts.
    let _ = child.stdin.take().expect("it is piped").write_all(input.as_bytes());
    let output = child.wait_with_output().expect("it ends by itself");
    Run {
        code: output.status.code().expect("no signal ended it"),
        stdout: String::from_utf8(output.stdout).expect("it writes UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("it writes UTF-8"),
    }
}

/// `reconvene` as a process that is still running.
pub(crate) fn start(url: &str, arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_reconvene"))
        .args(arguments)
        .env("RECONVENE_SERVER", url)
        .env_remove("NO_COLOR")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary was built with the tests")
}

/// The shipped example's path.
pub(crate) fn example() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples/fashion-mnist.yaml")
}
