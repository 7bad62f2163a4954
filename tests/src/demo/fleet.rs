//! The demonstration's processes: one coordinator, and three agents that start one after the other, since they share
//! this machine and each one measures itself at its start.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use proto::v1;

use super::progress::Talk;
use crate::agent::{AgentMeans, AgentProcess};
use crate::binaries::Binaries;
use crate::coordinator::{CoordinatorConfig, CoordinatorProcess};
use crate::daemon::Confinement;
use crate::operator::Operator;

/// Everything that runs. Dropping it ends the processes and removes their control groups.
#[derive(Debug)]
pub(super) struct Fleet {
    pub(super) members: Vec<Member>,
    pub(super) coordinator: CoordinatorProcess,
    pub(super) operator: Operator,
    pub(super) folder: PathBuf,
}

/// An agent, and the profile that it reported.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) agent: AgentProcess,
    pub(super) profile: v1::Device,
}

impl Fleet {
    /// Starts all of it; each agent is waited for until the coordinator holds its whole profile.
    pub(super) async fn start(talk: &Talk, binaries: &Binaries, folder: &Path) -> Result<Self> {
        let config = CoordinatorConfig {
            telemetry_interval: Duration::from_secs(2),
            heartbeat_interval: Duration::from_secs(5),
            offline_after: Duration::from_secs(15),
            ..CoordinatorConfig::default()
        };
        let coordinator = CoordinatorProcess::start(binaries, &folder.join("coordinator"), config).await?;
        talk.say(format!("coordinator: process {}, {}", coordinator.pid(), coordinator.address()));
        let operator = coordinator.operator()?;
        let mut members = Vec::new();
        for means in means() {
            let mut agent = AgentProcess::start(binaries, folder, means, coordinator.address())?;
            let profile = agent.profiled(&operator).await?;
            talk.say(format!("{}: process {}, {}", profile.id, agent.pid(), describe(&agent, &profile)));
            members.push(Member { agent, profile });
        }
        Ok(Self { members, coordinator, operator, folder: folder.to_owned() })
    }

    /// An error with the end of its log, if one of the processes has ended.
    pub(super) fn ensure_running(&mut self) -> Result<()> {
        self.coordinator.daemon().ensure_running()?;
        self.members.iter_mut().try_for_each(|member| member.agent.daemon().ensure_running())
    }
}

/// Two threads; one; one that gets half a core.
fn means() -> [AgentMeans; 3] {
    let quota = AgentMeans { quota_cores: Some(0.5), ..AgentMeans::new("gw-c", 1) };
    [AgentMeans::new("gw-a", 2), AgentMeans::new("gw-b", 1), quota]
}

/// A device's means in a few words, as it reported them; a bound core is ours to tell.
pub(super) fn describe(agent: &AgentProcess, profile: &v1::Device) -> String {
    let mut words = vec![match profile.inference_threads {
        1 => "1 thread".to_owned(),
        threads => format!("{threads} threads"),
    }];
    match agent.confinement() {
        Confinement::None => words.push(format!("{} cores", profile.logical_cores)),
        Confinement::Quota(_) => {}
        Confinement::OneCore(core) => {
            words.push(format!("bound to core {core} (no control group permitted)"))
        }
    }
    if let Some(cores) = profile.cpu_quota_cores {
        words.push(format!("quota {cores} core"));
    }
    if let Some(lanes) = profile.vector_lanes {
        words.push(format!("{lanes} lanes"));
    }
    words.join(", ")
}
