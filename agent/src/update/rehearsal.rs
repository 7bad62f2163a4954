//! The first run of a model that was downloaded, in a process of its own: a file that exhausts the memory, or ends the process that
//! loads it, ends that one, and what serves goes on.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;

use proto::ModelManifest;
use rustix::process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit};
use tokio_util::task::TaskTracker;

use crate::causes::describe;
use crate::probe::memory_available;
use crate::runner::check::{self, CheckError, check_now};
use crate::runner::engines::Engines;

/// The exit code of a rehearsal whose model is refused; standard error says why.
pub const REFUSED: u8 = 65;

/// Why a model does not get as far as its test.
#[derive(Debug, thiserror::Error)]
pub enum RehearsalError {
    /// It did not pass.
    #[error("{0}")]
    Refused(String),
    /// It took the process down.
    #[error("the model ended the process that tried it ({status}): {last_words}")]
    Died {
        /// How it ended.
        status: String,
        /// The first line that it wrote to standard error.
        last_words: String,
    },
}

/// Has `program` load and test the model in the file `model`. Where it cannot be started, nothing is said against the model.
pub(super) async fn rehearse(
    tracker: &TaskTracker,
    program: &Path,
    model: PathBuf,
    manifest: &ModelManifest,
    threads: usize,
) -> Result<(), RehearsalError> {
    let (program, manifest) = (program.to_owned(), manifest.clone());
    let rehearsed = tracker.spawn_blocking(move || run(&program, &model, &manifest, threads)).await;
    rehearsed.unwrap_or_else(|panic| {
        tracing::warn!(%panic, "a model was not rehearsed");
        Ok(())
    })
}

fn run(program: &Path, model: &Path, manifest: &ModelManifest, threads: usize) -> Result<(), RehearsalError> {
    let mut command = Command::new(program);
    command.args(["rehearse", "--threads", &threads.to_string()]).arg(model).env_clear();
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let manifest = serde_json::to_vec(manifest).expect("a manifest is plain data");
    let output = command.spawn().and_then(|mut child| {
        if let Some(mut input) = child.stdin.take() {
            // One that has ended already says so by its status.
            drop(input.write_all(&manifest));
        }
        child.wait_with_output()
    });
    let output = match output {
        Ok(output) => output,
        Err(error) => {
            tracing::warn!(%error, "a model was not rehearsed");
            return Ok(());
        }
    };
    let said = String::from_utf8_lossy(&output.stderr);
    let first = said.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("it said nothing");
    let first = first.strip_prefix("reconvene-agent: ").unwrap_or(first);
    match output.status.code() {
        Some(0) => Ok(()),
        Some(code) if code == i32::from(REFUSED) => Err(RehearsalError::Refused(first.to_owned())),
        _ => Err(RehearsalError::Died { status: output.status.to_string(), last_words: first.to_owned() }),
    }
}

/// What the process of its own does: loads and tests the model in the file `path`, within the memory that there is now.
///
/// # Errors
/// When the model may not serve.
pub fn perform(path: &Path, manifest: &ModelManifest, threads: usize) -> Result<(), CheckError> {
    confine();
    let (done, ended) = mpsc::channel();
    let (path, manifest) = (path.to_owned(), manifest.clone());
    std::thread::spawn(move || {
        let engines = Engines::rten(threads);
        let read = std::fs::read(&path).map_err(|error| CheckError::Unread(describe(&error)));
        let checked = read.and_then(|bytes| check_now(bytes, &manifest, &engines, engines.usual()));
        // Nobody listens to one that came too late.
        drop(done.send(checked.map(drop)));
    });
    ended.recv_timeout(check::LIMIT).unwrap_or(Err(CheckError::Late))
}

/// No more memory than there is, the first to go where there is none, and no longer than the agent. What the kernel does not
/// grant is done without.
fn confine() {
    std::panic::set_hook(Box::new(|_| {}));
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    drop(std::fs::write("/proc/self/oom_score_adj", "1000"));
    if let Some(left) = memory_available() {
        let limit = Some(left.0);
        let _ = setrlimit(Resource::Data, Rlimit { current: limit, maximum: limit });
    }
}
