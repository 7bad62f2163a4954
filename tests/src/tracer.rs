//! strace on a running process, to kill it after a system call of our choice, or to have calls refused: the calls of all threads are counted as one
//! sequence, and each is held up for a moment, so that the next one has not happened when the signal comes.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::poll::{Answer, wait_until};

/// How long attaching may take.
const ATTACH_LIMIT: Duration = Duration::from_secs(10);
/// How long each call is held up before it happens, microseconds.
const HELD_US: u32 = 10_000;

/// A tracer that kills its process after a call; detached when dropped.
#[derive(Debug)]
pub struct Tracer(Child);

/// Whether strace may trace here.
///
/// # Errors
/// When it may not and `RECONVENE_TESTS_NEED_STRACE` says that it has to, as in continuous integration.
pub fn may_trace() -> Result<bool> {
    let traced = Command::new("strace").args(["-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
    let may = traced.is_ok_and(|status| status.success());
    ensure!(may || std::env::var_os("RECONVENE_TESTS_NEED_STRACE").is_none(), "strace cannot trace here");
    Ok(may)
}

impl Tracer {
    /// Has process `pid` killed after the `nth` of the `calls` from now on that concern the file at `path`.
    ///
    /// # Errors
    /// When it cannot be traced.
    pub async fn kill_after(pid: u32, path: &Path, calls: &str, nth: usize) -> Result<Self> {
        let victim = i32::try_from(pid).ok().and_then(Pid::from_raw).context("no process has this id")?;
        let mut child = attach(pid, path, calls, &format!("delay_enter={HELD_US}"))?;
        let lines = BufReader::new(child.stderr.take().context("its output is piped")?).lines();
        thread::spawn(move || {
            let returned = lines.map_while(Result::ok).filter(|line| line.contains(") = "));
            for (index, _) in returned.enumerate() {
                if index + 1 == nth {
                    let _ = kill_process(victim, Signal::KILL);
                }
            }
        });
        Self(child).held(pid).await
    }

    /// Has each of the `calls` of process `pid` that concern the file at `path` refused with `error`, as `ENOSPC`.
    ///
    /// # Errors
    /// When it cannot be traced.
    pub async fn refuse(pid: u32, path: &Path, calls: &str, error: &str) -> Result<Self> {
        let mut child = attach(pid, path, calls, &format!("error={error}"))?;
        let said = child.stderr.take().context("its output is piped")?;
        thread::spawn(move || BufReader::new(said).lines().for_each(drop));
        Self(child).held(pid).await
    }

    /// Once every thread of process `pid` is traced.
    async fn held(self, pid: u32) -> Result<Self> {
        wait_until("strace to hold every thread", ATTACH_LIMIT, async || {
            let mut free = 0;
            for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
                let status = std::fs::read_to_string(task?.path().join("status"))?;
                let is = |start: &str| status.lines().any(|line| line.starts_with(start));
                // One that has ended already is held by nobody.
                free += usize::from(is("TracerPid:\t0") && !is("State:\tZ") && !is("State:\tX"));
            }
            Ok(if free == 0 { Answer::Ready(()) } else { Answer::NotYet(format!("{free} are free")) })
        })
        .await?;
        Ok(self)
    }
}

fn attach(pid: u32, path: &Path, calls: &str, injected: &str) -> Result<Child> {
    Command::new("strace")
        .args(["-f", "-qq", "-p", &pid.to_string(), "-P"])
        .arg(path)
        .args(["-e", &format!("trace={calls}"), "-e", &format!("inject={calls}:{injected}")])
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start strace")
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // On this signal it lets its process go; on SIGKILL it could not.
        if let Some(pid) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = self.0.wait();
    }
}
