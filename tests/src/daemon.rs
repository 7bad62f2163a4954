//! One child process with its log. Kills it when dropped, so that no test or interrupted run leaves one behind.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::{env, thread};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::cgroup::CpuQuota;

/// What a process may use of the machine's processors.
#[derive(Debug)]
pub enum Confinement {
    /// Whatever there is.
    None,
    /// A share of them, by a control group.
    Quota(CpuQuota),
    /// The one core with this number, by scheduler affinity.
    OneCore(usize),
}

/// A running child process.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts `program` under `confinement` from its first instruction on; its output is appended to `log`.
    ///
    /// # Errors
    /// When the log cannot be written or the program cannot be started.
    pub fn start(program: &Path, arguments: &[&str], confinement: &Confinement, log: &Path) -> Result<Self> {
        let output = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = match confinement {
            Confinement::None | Confinement::OneCore(_) => Command::new(program),
            Confinement::Quota(quota) => enter_then_become(quota, program),
        };
        command.args(arguments).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        for (key, _) in env::vars_os() {
            if key.to_string_lossy().starts_with("RECONVENE") {
                command.env_remove(key);
            }
        }
        let child = match confinement {
            Confinement::None | Confinement::Quota(_) => command.spawn(),
            Confinement::OneCore(core) => spawn_on(*core, &mut command)?,
        }
        .with_context(|| format!("cannot start {}", program.display()))?;
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { name, child, log: log.to_owned() })
    }

    /// The process's id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its status, once it has ended.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("the state of {} is unknown", self.name))
    }

    /// An error with the end of the log, if the process has ended.
    ///
    /// # Errors
    /// That error.
    pub fn ensure_running(&mut self) -> Result<()> {
        if let Some(status) = self.ended()? {
            bail!("{} ended ({status}); the end of {}:\n{}", self.name, self.log.display(), self.log_tail());
        }
        Ok(())
    }

    /// Ends it as a power cut would, and waits until it is gone.
    ///
    /// # Errors
    /// When it cannot be signalled.
    pub fn kill9(&mut self) -> Result<()> {
        self.child.kill().with_context(|| format!("cannot kill {}", self.name))?;
        self.child.wait().with_context(|| format!("cannot reap {}", self.name))?;
        Ok(())
    }

    /// Asks it to stop in good order.
    ///
    /// # Errors
    /// When it cannot be signalled.
    pub fn terminate(&self) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("not a process id")?;
        kill_process(pid, Signal::TERM).with_context(|| format!("cannot signal {}", self.name))
    }

    /// The whole log.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn log(&self) -> Result<String> {
        let mut text = Vec::new();
        File::open(&self.log)?.read_to_end(&mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// The log's last 4,000 bytes, or why they cannot be read.
    pub fn log_tail(&self) -> String {
        let read = || -> std::io::Result<String> {
            let mut file = File::open(&self.log)?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(4000)))?;
            let mut text = Vec::new();
            file.read_to_end(&mut text)?;
            Ok(String::from_utf8_lossy(&text).into_owned())
        };
        read().unwrap_or_else(|error| format!("(the log cannot be read: {error})"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Already reaped: both calls are harmless then.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A shell that moves itself into the group and then becomes the program, which thus never runs outside it.
fn enter_then_become(quota: &CpuQuota, program: &Path) -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg("echo $$ > \"$0\" && exec \"$@\"").arg(quota.procs()).arg(program);
    command
}

/// Spawns from a thread that was bound to `core`: a child inherits the affinity of the thread that makes it.
fn spawn_on(core: usize, command: &mut Command) -> Result<std::io::Result<Child>> {
    thread::scope(|scope| {
        let spawning = scope.spawn(|| -> Result<std::io::Result<Child>> {
            let mut cores = CpuSet::new();
            cores.set(core);
            sched_setaffinity(None, &cores).with_context(|| format!("cannot run on core {core}"))?;
            Ok(command.spawn())
        });
        spawning.join().expect("the spawning thread does not panic")
    })
}

/// The highest-numbered core that this process may run on.
///
/// # Errors
/// When the system cannot tell.
pub fn last_core() -> Result<usize> {
    let allowed = sched_getaffinity(None).context("this process's affinity is unknown")?;
    (0..CpuSet::MAX_CPU).rev().find(|&core| allowed.is_set(core)).context("no core is allowed")
}
