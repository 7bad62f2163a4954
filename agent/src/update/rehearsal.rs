//! The first run of a model or probe that was downloaded, in a process of its own: a file that exhausts the memory, or ends the
//! process that loads it, ends that one, and what serves goes on.

use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use proto::{ByteSize, ModelManifest};
use rustix::process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::causes::describe;
use crate::runner::check::{self, CheckError, check_now};
use crate::runner::engine::EngineError;
use crate::runner::engines::Engines;
use crate::state;

/// The exit code of a rehearsal whose model is refused; standard error says why.
pub const REFUSED: u8 = 65;

/// For the process to end: well after the limit that it keeps by itself.
const PATIENCE: Duration = Duration::from_secs(check::LIMIT.as_secs() + 30);

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
    /// It did not even keep its own limit.
    #[error("the process that tried the model hung, and was ended after {} s", PATIENCE.as_secs())]
    Hangs,
}

impl RehearsalError {
    /// Whether it may end in another way the next time: memory may have been short for other reasons, and somebody else may have
    /// ended the process.
    pub(crate) fn is_retryable(&self) -> bool {
        matches!(self, Self::Died { .. } | Self::Hangs)
    }
}

/// Has `program` load and test the model in the file `model`, or, without a manifest, load and run the probe there. Where it cannot be
/// started, nothing is said against the model. The process ends where this future is dropped.
pub(crate) async fn rehearse(
    program: &Path,
    model: &Path,
    manifest: Option<&ModelManifest>,
    threads: usize,
) -> Result<(), RehearsalError> {
    let ended = tokio::time::timeout(PATIENCE, run(program, model, manifest, threads)).await;
    match ended.map_err(|_| RehearsalError::Hangs)? {
        Ok(output) => judge(&output),
        Err(error) => {
            tracing::warn!(%error, "a model was not rehearsed");
            Ok(())
        }
    }
}

async fn run(
    program: &Path,
    model: &Path,
    manifest: Option<&ModelManifest>,
    threads: usize,
) -> std::io::Result<Output> {
    let mut command = Command::new(program);
    command.args(["rehearse", "--threads", &threads.to_string()]).arg(model).env_clear().process_group(0);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let manifest = serde_json::to_vec(&manifest).expect("a manifest is plain data");
    let mut child = command.spawn()?;
    if let Some(mut input) = child.stdin.take() {
        // One that has ended already says so by its status.
        drop(input.write_all(&manifest).await);
    }
    child.wait_with_output().await
}

fn judge(output: &Output) -> Result<(), RehearsalError> {
    let said = String::from_utf8_lossy(&output.stderr);
    let first = said.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("it said nothing");
    let first = first.strip_prefix("reconvene-agent: ").unwrap_or(first);
    match output.status.code() {
        Some(0) => Ok(()),
        Some(code) if code == i32::from(REFUSED) => Err(RehearsalError::Refused(first.to_owned())),
        // The limit is the same on every day: it would not have enough tomorrow.
        _ if first.starts_with("memory allocation of ") => Err(RehearsalError::Refused(format!(
            "it needs more memory than any sound model of its size: {first}"
        ))),
        // So is the stack: the engine goes down a chain of operators one by one.
        _ if first.ends_with("has overflowed its stack") => Err(RehearsalError::Refused(format!(
            "its operators are in a longer row than any sound model's: the stack of {} does not hold them",
            ByteSize(STACK as u64)
        ))),
        _ => Err(RehearsalError::Died { status: output.status.to_string(), last_words: first.to_owned() }),
    }
}

/// What the process of its own does: loads and tests the model in the file `path`, or runs the probe there, within the memory that a
/// sound one needs.
///
/// # Errors
/// When the model may not serve.
pub fn perform(path: &Path, manifest: Option<&ModelManifest>, threads: usize) -> Result<(), CheckError> {
    let unread = |error: std::io::Error| CheckError::Unread(describe(&error));
    let size = std::fs::metadata(path).map_err(unread)?.len();
    let shape = manifest.map_or(LARGEST_PROBE, |manifest| manifest.input_shape);
    confine(enough(size, shape, threads));
    let (done, ended) = mpsc::channel();
    let (path, manifest) = (path.to_owned(), manifest.cloned());
    // Half of what the agent's own threads have: what is deep enough to end this one leaves those room.
    let thread = std::thread::Builder::new().stack_size(STACK);
    let begun = thread.spawn(move || {
        let engines = Engines::rten(threads);
        let size = manifest.as_ref().map_or(ByteSize(size), |manifest| manifest.artifact.size);
        let read = state::read(&path, size).map_err(|error| error.source);
        let checked = read
            .and_then(|bytes| bytes.ok_or_else(|| std::io::ErrorKind::NotFound.into()))
            .map_err(unread)
            .and_then(|bytes| match &manifest {
                Some(manifest) => check_now(bytes, manifest, &engines, engines.usual()).map(drop),
                None => run_once(bytes, &engines).map_err(CheckError::from),
            });
        // Nobody listens to one that came too late.
        drop(done.send(checked));
    });
    begun.map_err(unread)?;
    ended.recv_timeout(check::LIMIT).unwrap_or_else(|missing| match missing {
        RecvTimeoutError::Timeout => Err(CheckError::Late),
        RecvTimeoutError::Disconnected => {
            Err(EngineError::Panic { step: "checking", message: "its thread ended".to_owned() }.into())
        }
    })
}

fn run_once(bytes: Vec<u8>, engines: &Engines) -> Result<(), EngineError> {
    let engine = engines.load(bytes, engines.usual())?;
    engine.run(&vec![0.0; engine.numel()]).map(drop)
}

/// Channels, height and width of an image; nobody announces those of a probe.
const LARGEST_PROBE: [u32; 3] = [3, 64, 64];

/// Bytes of the stack that a model is tried on.
const STACK: usize = 1 << 20;

/// Bytes that a sound model in a file of `size` bytes has enough of, whatever is free at the moment: eight times its weights, a
/// thousand times its image, for layers are wide at the start, and the stacks of the engine's threads.
fn enough(size: u64, image: [u32; 3], threads: usize) -> u64 {
    let image = image.iter().fold(4u64, |bytes, &dim| bytes.saturating_mul(dim.into()));
    let stacks = (threads as u64).saturating_mul(8 << 20);
    [size.saturating_mul(8), image.saturating_mul(1024), stacks]
        .into_iter()
        .fold(64 << 20, u64::saturating_add)
}

/// No more memory than `limit` bytes; the first to go where there is none. What the kernel does not grant is done without.
fn confine(limit: u64) {
    std::panic::set_hook(Box::new(|_| {}));
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    drop(std::fs::write("/proc/self/oom_score_adj", "1000"));
    let limit = Some(limit);
    let _ = setrlimit(Resource::Data, Rlimit { current: limit, maximum: limit });
    // Its end is told by its status: a copy of its memory would only fill the disk.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
}

#[cfg(test)]
mod tests {
    use proto::Digest;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_process_that_hangs_is_ended_and_says_nothing_against_the_model() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("hangs");
        // By another process: what this one has open for writing can be no program.
        let write = "printf '#!/bin/sh\nexec sleep 1000\n' > \"$0\" && chmod +x \"$0\"";
        assert!(
            std::process::Command::new("sh").args(["-c", write]).arg(&program).status().unwrap().success()
        );
        let model = dir.path().join(Digest::of(b"m").to_string());
        let error = rehearse(&program, &model, None, 1).await.unwrap_err();
        assert!(matches!(error, RehearsalError::Hangs) && error.is_retryable(), "{error}");
    }
}
