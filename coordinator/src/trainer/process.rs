//! The program while it runs: started, listened to, stopped. Knows nothing of networks.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, SyncSender, TrySendError};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use super::task::Paths;
use super::{Progress, TrainerError};
use crate::config::TrainerConfig;

/// How often the caller is asked whether to go on.
const TICK: Duration = Duration::from_millis(100);
/// Between SIGTERM and SIGKILL; below what the coordinator gives itself to stop.
const GRACE: Duration = Duration::from_secs(5);
/// Progress that waits to be heard.
const HEARD: usize = 16;
/// Standard error beyond this is thrown away: the disk is the store's as well.
const LONGEST_LOG: u64 = 16 << 20;
/// A longer line is no progress.
const LONGEST_LINE: u64 = 64 << 10;
/// How much of the end of standard error is looked at for its last line.
const TAIL: u64 = 4 << 10;
/// sysexits.h: a failure that may pass.
const EX_TEMPFAIL: i32 = 75;

/// Runs the program on the task to its end. Breaks off when `on_progress` says so, or the time limit has passed.
pub(super) fn run(
    config: &TrainerConfig,
    paths: &Paths,
    on_progress: &mut dyn FnMut(Option<&Progress>) -> ControlFlow<()>,
) -> Result<(), TrainerError> {
    let mut child = start(config, paths)?;
    let (tell, events) = mpsc::sync_channel(HEARD);
    if let Some(output) = child.stdout.take() {
        listen(output, tell.clone());
    }
    let group = Pid::from_child(&child);
    await_end(group, tell);
    let deadline = Instant::now() + config.time_limit;
    loop {
        let event = events.recv_timeout(TICK);
        if matches!(event, Ok(Event::Ended)) {
            // Whatever it has started ends with it: nobody else would end that.
            let _ = kill_process_group(group, Signal::KILL);
            let status = child.wait().map_err(|source| cannot_use(&paths.folder, source))?;
            if !status.success() && on_progress(None).is_break() {
                return Err(TrainerError::Cancelled); // a stop may reach the program before it reaches us
            }
            return judge(status, &paths.errors);
        }
        shorten(&paths.errors);
        let progress = match &event {
            Ok(Event::Progress(progress)) => Some(progress),
            Ok(Event::Ended) | Err(_) => None,
        };
        if on_progress(progress).is_break() {
            stop(&mut child, group, &events);
            return Err(TrainerError::Cancelled);
        }
        if Instant::now() >= deadline {
            stop(&mut child, group, &events);
            return Err(TrainerError::TooSlow { limit: config.time_limit });
        }
    }
}

/// What is heard of a running program.
enum Event {
    Progress(Progress),
    Ended,
}

fn cannot_use(path: &Path, source: std::io::Error) -> TrainerError {
    TrainerError::File { path: path.to_owned(), source }
}

fn start(config: &TrainerConfig, paths: &Paths) -> Result<Child, TrainerError> {
    let failed = |source| cannot_use(&paths.errors, source);
    let errors = OpenOptions::new().create(true).append(true).open(&paths.errors).map_err(failed)?;
    // The program shares the open file, so the lock lives as long as it does.
    match errors.try_lock() {
        Ok(()) => errors.set_len(0).map_err(failed)?,
        Err(TryLockError::WouldBlock) => {
            let last_words = "one that an earlier coordinator started still runs".to_owned();
            return Err(TrainerError::Busy { last_words });
        }
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    let (program, arguments) = config.command.split_first().expect("the configuration was checked");
    Command::new(program)
        .args(arguments)
        .arg(&paths.task)
        .current_dir(&paths.folder)
        .stdin(Stdio::piped()) // held open: its end tells the program that the coordinator is gone
        .stdout(Stdio::piped())
        .stderr(errors)
        .process_group(0)
        .spawn()
        .map_err(|source| TrainerError::Start { program: program.clone(), source })
}

/// The progress that the program tells, read as it comes so that a full pipe never stops it.
fn listen(output: ChildStdout, tell: SyncSender<Event>) {
    std::thread::spawn(move || {
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        loop {
            line.clear();
            match (&mut output).take(LONGEST_LINE).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            match serde_json::from_slice(&line) {
                // More than can be shown is not shown.
                Ok(progress) => match tell.try_send(Event::Progress(progress)) {
                    Ok(()) | Err(TrySendError::Full(_)) => {}
                    Err(TrySendError::Disconnected(_)) => return,
                },
                Err(_) => tracing::debug!(line = %String::from_utf8_lossy(&line).trim_end(), "trainer"),
            }
        }
    });
}

/// Tells when the program has ended. Leaves its status, so that until somebody takes that its number is no other's.
fn await_end(program: Pid, tell: SyncSender<Event>) {
    std::thread::spawn(move || {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        while let Err(Errno::INTR) = waitid(WaitId::Pid(program), options) {}
        let _ = tell.send(Event::Ended); // nobody listens to one that was stopped
    });
}

/// Ends the program and whatever it has started, first by asking.
fn stop(child: &mut Child, group: Pid, events: &mpsc::Receiver<Event>) {
    drop(child.stdin.take());
    // It may have ended by itself; then there is nobody to tell.
    let _ = kill_process_group(group, Signal::TERM);
    let limit = Instant::now() + GRACE;
    let left = || limit.saturating_duration_since(Instant::now());
    while let Ok(Event::Progress(_)) = events.recv_timeout(left()) {}
    let _ = kill_process_group(group, Signal::KILL);
    if let Err(error) = child.wait() {
        tracing::warn!(%error, "cannot wait for the trainer");
    }
}

fn judge(status: ExitStatus, errors: &Path) -> Result<(), TrainerError> {
    if status.success() {
        return Ok(());
    }
    let last_words = last_line(errors).unwrap_or_else(|| "it said nothing on standard error".to_owned());
    if status.code() == Some(EX_TEMPFAIL) {
        return Err(TrainerError::Busy { last_words });
    }
    let status = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    };
    Err(TrainerError::Failed { status, last_words })
}

/// Empties a log that has become too long; the program appends to it and never notices.
fn shorten(errors: &Path) {
    if fs::metadata(errors).is_ok_and(|log| log.len() > LONGEST_LOG) {
        let emptied = OpenOptions::new().write(true).open(errors).and_then(|log| log.set_len(0));
        if let Err(error) = emptied {
            tracing::warn!(path = %errors.display(), %error, "a trainer's log cannot be shortened");
        }
    }
}

/// The last line of a file that is not blank.
fn last_line(path: &Path) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let length = fs::metadata(path).ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL))).ok()?;
    let mut tail = Vec::new();
    file.take(TAIL).read_to_end(&mut tail).ok()?;
    let tail = String::from_utf8_lossy(&tail);
    tail.lines().rev().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
}
