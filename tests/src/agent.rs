//! One real agent process with means of its own: threads, a CPU quota or a single core, labels.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::binaries::Binaries;
use crate::cgroup::CpuQuota;
use crate::daemon::{Confinement, Daemon, last_core};
use crate::operator::Operator;
use crate::poll::{Answer, wait_until};

/// Period of a quota: what the kernel and systemd take by default. A stall of half of it strikes one inference of 1 ms
/// in fifty, so it shows in the 99th percentile and in the rate; the 95th stays a property of the network. Short periods
/// do the opposite: the kernel charges a process at its ticks, 4 ms apart, and makes it wait for what it took too much.
/// With 2 ms and half a core, work of 0.3, 0.6 and 1.1 ms had 95th percentiles of 8.4, 8.7 and 9.2 ms: no smaller
/// network is faster there. With 100 ms: 0.4, 0.7 to 1.7, and 5.2 ms, on a machine with other work.
const QUOTA_PERIOD: Duration = Duration::from_millis(100);

/// How long an agent may take until the coordinator holds its whole profile.
const PROFILE_LIMIT: Duration = Duration::from_secs(120);

/// What one device has.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentMeans {
    /// Its name.
    pub device_id: String,
    /// Threads of its inference engine.
    pub threads: usize,
    /// Processor time per second, in cores; `None`: as much as it takes.
    pub quota_cores: Option<f64>,
    /// For selectors.
    pub labels: BTreeMap<String, String>,
}

impl AgentMeans {
    /// A device without a quota, labelled `device: ID`.
    pub fn new(device_id: &str, threads: usize) -> Self {
        Self {
            device_id: device_id.to_owned(),
            threads,
            quota_cores: None,
            labels: BTreeMap::from([("device".to_owned(), device_id.to_owned())]),
        }
    }

    fn to_toml(&self, coordinator: SocketAddr, state: &Path) -> String {
        let mut text = String::new();
        let _ = writeln!(text, "device_id = {:?}\ncoordinator = \"http://{coordinator}\"", self.device_id);
        let _ = writeln!(text, "state_dir = {state:?}\n\n[labels]");
        for (key, value) in &self.labels {
            let _ = writeln!(text, "{key} = {value:?}");
        }
        let _ = writeln!(text, "\n[engine]\nthreads = {}\n\n[serve]\nlisten = \"127.0.0.1:0\"", self.threads);
        text
    }
}

/// A running agent. Its fields drop in order: the process first, then the group that it was in.
#[derive(Debug)]
pub struct AgentProcess {
    daemon: Daemon,
    confinement: Confinement,
    program: PathBuf,
    config: PathBuf,
    means: AgentMeans,
}

impl AgentProcess {
    /// Starts one whose files lie in `folder/DEVICE_ID`. Where a quota is asked for but not permitted, the agent is bound
    /// to one core instead; [`Self::confinement`] tells.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(
        binaries: &Binaries,
        folder: &Path,
        means: AgentMeans,
        coordinator: SocketAddr,
    ) -> Result<Self> {
        let folder = folder.join(&means.device_id);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let config = folder.join("agent.toml");
        fs::write(&config, means.to_toml(coordinator, &folder.join("state")))
            .with_context(|| format!("cannot write {}", config.display()))?;
        let confinement = confine(&means)?;
        let daemon = spawn(&binaries.agent, &config, &confinement)?;
        Ok(Self { daemon, confinement, program: binaries.agent.clone(), config, means })
    }

    /// Its means.
    pub fn means(&self) -> &AgentMeans {
        &self.means
    }

    /// How its processor time is really bounded.
    pub fn confinement(&self) -> &Confinement {
        &self.confinement
    }

    /// Its state folder.
    pub fn state_dir(&self) -> PathBuf {
        self.config.with_file_name("state")
    }

    /// Ends it as a power cut would.
    ///
    /// # Errors
    /// When it cannot be signalled.
    pub fn kill9(&mut self) -> Result<()> {
        self.daemon.kill9()
    }

    /// Starts it again, after its end, with the same files.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn restart(&mut self) -> Result<()> {
        self.daemon = spawn(&self.program, &self.config, &self.confinement)?;
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

    /// Waits until the coordinator holds the times of this device's probes.
    ///
    /// # Errors
    /// When the agent ends or takes too long; the error holds the end of its log.
    pub async fn profiled(&mut self, operator: &Operator) -> Result<proto::v1::Device> {
        let id = self.means.device_id.clone();
        let daemon = &mut self.daemon;
        wait_until(&format!("the profile of {id}"), PROFILE_LIMIT, async || {
            daemon.ensure_running()?;
            Ok(match operator.device(&id).await? {
                Some(device) if !device.probes.is_empty() => Answer::Ready(device),
                Some(device) => Answer::NotYet(format!("{}, no probes", device.status)),
                None => Answer::NotYet("unknown to the coordinator".to_owned()),
            })
        })
        .await
        .with_context(|| format!("the end of the log of {id}:\n{}", daemon.log_tail()))
    }
}

fn confine(means: &AgentMeans) -> Result<Confinement> {
    let Some(cores) = means.quota_cores else { return Ok(Confinement::None) };
    let name = format!("reconvene-{}-{}", means.device_id, std::process::id());
    match CpuQuota::create(&name, cores, QUOTA_PERIOD) {
        Some(quota) => Ok(Confinement::Quota(quota)),
        None => Ok(Confinement::OneCore(last_core()?)),
    }
}

fn spawn(program: &Path, config: &Path, confinement: &Confinement) -> Result<Daemon> {
    let arguments = ["run", "--config", config.to_str().context("the folder's path is not UTF-8")?];
    Daemon::start(program, &arguments, confinement, &config.with_file_name("agent.log"))
}
