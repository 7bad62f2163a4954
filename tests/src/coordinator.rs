//! One real coordinator process: its config file, its start until it answers, its end.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use anyhow::{Context, Result};

use crate::binaries::Binaries;
use crate::daemon::{Confinement, Daemon};
use crate::operator::Operator;
use crate::poll::{Answer, wait_until};

/// How long a coordinator may take until it answers.
const START_LIMIT: Duration = Duration::from_secs(30);

/// What the tests set in a coordinator's config file.
#[derive(Debug, Clone)]
pub struct CoordinatorConfig {
    /// Where it listens; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// Time between two intervals of telemetry.
    pub telemetry_interval: Duration,
    /// Time between two heartbeats of an agent.
    pub heartbeat_interval: Duration,
    /// Silence after which a device counts as offline.
    pub offline_after: Duration,
    /// The program that trains where a deployment asks for one.
    pub trainer: Option<Vec<String>>,
    /// Whether it starts a worker of its own.
    pub local_worker: bool,
}

impl Default for CoordinatorConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            telemetry_interval: Duration::from_secs(1),
            heartbeat_interval: Duration::from_secs(1),
            offline_after: Duration::from_secs(5),
            trainer: None,
            local_worker: true,
        }
    }
}

impl CoordinatorConfig {
    /// The file's text.
    pub fn to_toml(&self, state: &Path) -> String {
        let mut text = String::new();
        let ms = |time: Duration| format!("{}ms", time.as_millis());
        let _ = writeln!(text, "listen = \"{}\"\nstate_dir = {:?}\n\n[session]", self.listen, state);
        let _ = writeln!(text, "heartbeat_interval = \"{}\"", ms(self.heartbeat_interval));
        let _ = writeln!(text, "telemetry_interval = \"{}\"", ms(self.telemetry_interval));
        let _ = writeln!(text, "offline_after = \"{}\"", ms(self.offline_after));
        if !self.local_worker {
            let _ = writeln!(text, "\n[derive]\nlocal_worker = false");
        }
        if let Some(command) = &self.trainer {
            let _ = writeln!(text, "\n[trainer]\ncommand = {command:?}");
        }
        text
    }
}

/// A running coordinator.
#[derive(Debug)]
pub struct CoordinatorProcess {
    daemon: Daemon,
    program: PathBuf,
    folder: PathBuf,
    config: CoordinatorConfig,
    address: SocketAddr,
}

impl CoordinatorProcess {
    /// Starts one whose files lie in `folder`, and waits until it answers an operator.
    ///
    /// # Errors
    /// When it ends or does not answer; the error holds the end of its log.
    pub async fn start(binaries: &Binaries, folder: &Path, config: CoordinatorConfig) -> Result<Self> {
        let mut daemon = spawn(&binaries.coordinator, folder, &config)?;
        let address = ready(&mut daemon, folder).await?;
        let config = CoordinatorConfig { listen: address, ..config };
        Ok(Self { daemon, program: binaries.coordinator.clone(), folder: folder.to_owned(), config, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its state folder.
    pub fn state_dir(&self) -> PathBuf {
        state_dir(&self.folder)
    }

    /// A client of its operator service.
    ///
    /// # Errors
    /// When its address makes no endpoint.
    pub fn operator(&self) -> Result<Operator> {
        Operator::new(self.address)
    }

    /// Ends it as a power cut would.
    ///
    /// # Errors
    /// When it cannot be signalled.
    pub fn kill9(&mut self) -> Result<()> {
        self.daemon.kill9()
    }

    /// Starts it again, after its end, with the same state and on the same port.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn restart(&mut self) -> Result<()> {
        self.daemon = spawn(&self.program, &self.folder, &self.config)?;
        self.address = ready(&mut self.daemon, &self.folder).await?;
        Ok(())
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    /// The process itself.
    pub fn daemon(&mut self) -> &mut Daemon {
        &mut self.daemon
    }
}

/// Where a coordinator of `folder` keeps its state.
fn state_dir(folder: &Path) -> PathBuf {
    folder.join("state")
}

fn spawn(program: &Path, folder: &Path, config: &CoordinatorConfig) -> Result<Daemon> {
    let state = state_dir(folder);
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    match fs::remove_file(state.join("listen-address")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        Ok(()) | Err(_) => {}
    }
    let file = folder.join("coordinator.toml");
    fs::write(&file, config.to_toml(&state)).with_context(|| format!("cannot write {}", file.display()))?;
    let arguments = ["serve", "--config", file.to_str().context("the folder's path is not UTF-8")?];
    Daemon::start(program, &arguments, &Confinement::None, &folder.join("coordinator.log"))
}

/// Waits for the address that it wrote, a connection to it, and the answer to a call.
async fn ready(daemon: &mut Daemon, folder: &Path) -> Result<SocketAddr> {
    let file = state_dir(folder).join("listen-address");
    wait_until("the coordinator's first answer", START_LIMIT, async || {
        daemon.ensure_running()?;
        let address: SocketAddr = match fs::read_to_string(&file).map(|text| text.trim().parse()) {
            Ok(Ok(address)) => address,
            Ok(Err(_)) | Err(_) => return Ok(Answer::NotYet(format!("no address in {}", file.display()))),
        };
        Operator::new(address)?.models().await?;
        Ok(Answer::Ready(address))
    })
    .await
    .with_context(|| format!("the end of the coordinator's log:\n{}", daemon.log_tail()))
}
