//! The messages of the agent's session, as each side handles them once they are known to be valid.

use std::collections::BTreeMap;

use crate::{
    ArtifactRef, DeviceId, Digest, Generation, HardwareProfile, Invalid, LatencyInterval, ModelManifest,
    Probation, SignedAssignment, SpoolPosition, VerifyingKey, v1,
};

/// From a device.
#[derive(Debug, Clone, PartialEq)]
pub enum AgentMessage {
    /// First, exactly once.
    Hello(Hello),
    /// After the probes were timed, and again whenever the device's means change.
    Profile(HardwareProfile),
    /// At the beginning, and whenever it has changed.
    Heartbeat(Heartbeat),
    /// At the interval that the coordinator asked for: what the last heartbeat said holds.
    Beat,
    /// How far an assignment has come.
    Progress(Progress),
    /// One interval of latencies; sent until acknowledged.
    Telemetry(SpoolPosition, LatencyInterval),
}

/// From the coordinator.
#[derive(Debug, Clone, PartialEq)]
pub enum CoordinatorMessage {
    /// First, exactly once.
    Welcome(Welcome),
    /// What the device shall serve.
    Assignment(SignedAssignment),
    /// This position and all lower ones of its epoch are stored durably, or can never be read.
    TelemetryAck(SpoolPosition),
}

/// A device introduces itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Hello {
    /// Who.
    pub device_id: DeviceId,
    /// The agent's version.
    pub agent_version: String,
    /// For selectors.
    pub labels: BTreeMap<String, String>,
    /// What it serves now.
    pub holding: Holding,
    /// Where its inference API listens; empty where it does not.
    pub serving_address: String,
}

/// What a device says again and again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Heartbeat {
    /// What it serves.
    pub holding: Holding,
    /// What runs that, and in how many threads, for an operator; empty where nothing does.
    pub engine: String,
}

/// What a device serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Holding {
    /// Highest generation that it holds.
    pub generation: Generation,
    /// The artifact; `None` before the first.
    pub digest: Option<Digest>,
}

/// How the coordinator wants the session to run.
#[derive(Debug, Clone, PartialEq)]
pub struct Welcome {
    /// Milliseconds between heartbeats.
    pub heartbeat_interval_ms: u32,
    /// Milliseconds between telemetry intervals.
    pub telemetry_interval_ms: u32,
    /// To be fetched, timed and reported in the profile.
    pub probes: Vec<ArtifactRef>,
    /// What assignments are signed with.
    pub signing_keys: Vec<VerifyingKey>,
}

/// What a device shall serve. A device refuses a generation older than the one it holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Assignment {
    /// Whose it is.
    pub device: DeviceId,
    /// Goes up with every change for this device.
    pub generation: Generation,
    /// Where it comes from.
    pub deployment: String,
    /// The model.
    pub model: ModelManifest,
    /// What it has to stand.
    pub probation: Probation,
}

/// How far an assignment has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Which assignment.
    pub generation: Generation,
    /// Its artifact.
    pub digest: Digest,
    /// How far.
    pub phase: Phase,
}

/// The steps of an update on the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// So many bytes are on disk.
    Downloading {
        /// Bytes.
        done: u64,
    },
    /// Digest and self-test.
    Verifying,
    /// It serves, and survives a restart.
    Active,
    /// It was given up; the previous model serves.
    Failed {
        /// Why, for an operator.
        reason: String,
    },
}

impl Holding {
    fn parse(generation: u64, digest: &str) -> Result<Self, Invalid> {
        let digest = if digest.is_empty() { None } else { Some(digest.parse()?) };
        Ok(Self { generation: Generation::claimed(generation)?, digest })
    }

    fn digest_text(&self) -> String {
        self.digest.map(|digest| digest.to_string()).unwrap_or_default()
    }
}

/// Labels of one device, at most.
const LABELS: usize = 64;
/// Bytes of a label's key or value, and of a text that a device says of itself, at most.
const TEXT: usize = 255;

/// A text that operators are shown on a terminal.
fn text(field: &'static str, text: String) -> Result<String, Invalid> {
    if text.len() > TEXT || text.chars().any(char::is_control) {
        return Err(Invalid::new(
            field,
            format!("at most {TEXT} bytes without control characters are allowed"),
        ));
    }
    Ok(text)
}

fn labels(wire: impl IntoIterator<Item = (String, String)>) -> Result<BTreeMap<String, String>, Invalid> {
    let labels = wire.into_iter().map(|(key, value)| Ok((text("labels", key)?, text("labels", value)?)));
    let labels = labels.collect::<Result<BTreeMap<_, _>, Invalid>>()?;
    if labels.len() > LABELS {
        return Err(Invalid::new("labels", format!("{} labels; at most {LABELS} are allowed", labels.len())));
    }
    Ok(labels)
}

impl TryFrom<v1::AgentMessage> for AgentMessage {
    type Error = Invalid;

    fn try_from(wire: v1::AgentMessage) -> Result<Self, Invalid> {
        use v1::agent_message::Kind;
        Ok(match wire.kind.ok_or_else(|| Invalid::missing("kind"))? {
            Kind::Hello(hello) => Self::Hello(Hello {
                device_id: hello.device_id.parse()?,
                agent_version: text("agent_version", hello.agent_version)?,
                labels: labels(hello.labels)?,
                holding: Holding::parse(hello.generation, &hello.active_digest)?,
                serving_address: text("serving_address", hello.serving_address)?,
            }),
            Kind::Profile(profile) => Self::Profile(profile.try_into()?),
            Kind::Heartbeat(beat) => Self::Heartbeat(Heartbeat {
                holding: Holding::parse(beat.generation, &beat.active_digest)?,
                engine: text("engine", beat.engine)?,
            }),
            Kind::Beat(v1::Beat {}) => Self::Beat,
            Kind::Progress(progress) => Self::Progress(progress.try_into()?),
            Kind::Telemetry(telemetry) => Self::Telemetry(
                SpoolPosition { epoch: telemetry.epoch, sequence: telemetry.sequence },
                telemetry.interval.ok_or_else(|| Invalid::missing("interval"))?.try_into()?,
            ),
        })
    }
}

impl From<AgentMessage> for v1::AgentMessage {
    fn from(message: AgentMessage) -> Self {
        use v1::agent_message::Kind;
        let kind = match message {
            AgentMessage::Hello(hello) => Kind::Hello(v1::Hello {
                active_digest: hello.holding.digest_text(),
                generation: hello.holding.generation.0,
                device_id: hello.device_id.into(),
                agent_version: hello.agent_version,
                labels: hello.labels.into_iter().collect(),
                serving_address: hello.serving_address,
            }),
            AgentMessage::Profile(profile) => Kind::Profile(profile.into()),
            AgentMessage::Heartbeat(Heartbeat { holding, engine }) => Kind::Heartbeat(v1::Heartbeat {
                generation: holding.generation.0,
                active_digest: holding.digest_text(),
                engine,
            }),
            AgentMessage::Beat => Kind::Beat(v1::Beat {}),
            AgentMessage::Progress(progress) => Kind::Progress(progress.into()),
            AgentMessage::Telemetry(position, interval) => Kind::Telemetry(v1::Telemetry {
                epoch: position.epoch,
                sequence: position.sequence,
                interval: Some(interval.into()),
            }),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<v1::Progress> for Progress {
    type Error = Invalid;

    fn try_from(wire: v1::Progress) -> Result<Self, Invalid> {
        use v1::progress::Phase as Wire;
        let phase = match wire.phase() {
            Wire::Unspecified => return Err(Invalid::new("phase", "unspecified or unknown")),
            Wire::Downloading => Phase::Downloading { done: wire.bytes_done },
            Wire::Verifying => Phase::Verifying,
            Wire::Active => Phase::Active,
            Wire::Failed => Phase::Failed { reason: wire.reason },
        };
        Ok(Self { generation: Generation::claimed(wire.generation)?, digest: wire.digest.parse()?, phase })
    }
}

impl From<Progress> for v1::Progress {
    fn from(progress: Progress) -> Self {
        use v1::progress::Phase as Wire;
        let (phase, bytes_done, reason) = match progress.phase {
            Phase::Downloading { done } => (Wire::Downloading, done, String::new()),
            Phase::Verifying => (Wire::Verifying, 0, String::new()),
            Phase::Active => (Wire::Active, 0, String::new()),
            Phase::Failed { reason } => (Wire::Failed, 0, reason),
        };
        Self {
            generation: progress.generation.0,
            digest: progress.digest.to_string(),
            phase: phase.into(),
            bytes_done,
            reason,
        }
    }
}

impl TryFrom<v1::Assignment> for Assignment {
    type Error = Invalid;

    fn try_from(wire: v1::Assignment) -> Result<Self, Invalid> {
        if wire.generation == 0 {
            return Err(Invalid::new("generation", "an assignment's is at least 1"));
        }
        Ok(Self {
            device: wire.device_id.parse()?,
            generation: Generation(wire.generation),
            deployment: wire.deployment,
            model: wire.model.ok_or_else(|| Invalid::missing("model"))?.try_into()?,
            probation: wire.probation.map_or(Ok(Probation::default()), Probation::try_from)?,
        })
    }
}

impl From<Assignment> for v1::Assignment {
    fn from(assignment: Assignment) -> Self {
        let Assignment { device, generation, deployment, model, probation } = assignment;
        Self {
            device_id: device.into(),
            generation: generation.0,
            deployment,
            model: Some(model.into()),
            probation: Some(probation.into()),
        }
    }
}

impl TryFrom<v1::CoordinatorMessage> for CoordinatorMessage {
    type Error = Invalid;

    fn try_from(wire: v1::CoordinatorMessage) -> Result<Self, Invalid> {
        use v1::coordinator_message::Kind;
        Ok(match wire.kind.ok_or_else(|| Invalid::missing("kind"))? {
            Kind::Welcome(welcome) => {
                if welcome.heartbeat_interval_ms == 0 || welcome.telemetry_interval_ms == 0 {
                    return Err(Invalid::new("heartbeat_interval_ms, telemetry_interval_ms", "zero"));
                }
                Self::Welcome(Welcome {
                    heartbeat_interval_ms: welcome.heartbeat_interval_ms,
                    telemetry_interval_ms: welcome.telemetry_interval_ms,
                    probes: welcome
                        .probes
                        .into_iter()
                        .map(ArtifactRef::try_from)
                        .collect::<Result<_, _>>()?,
                    signing_keys: welcome
                        .signing_keys
                        .iter()
                        .map(|key| VerifyingKey::try_from(&**key))
                        .collect::<Result<_, _>>()?,
                })
            }
            Kind::Assignment(signed) => Self::Assignment(signed.into()),
            Kind::TelemetryAck(ack) => {
                Self::TelemetryAck(SpoolPosition { epoch: ack.epoch, sequence: ack.sequence })
            }
        })
    }
}

impl From<CoordinatorMessage> for v1::CoordinatorMessage {
    fn from(message: CoordinatorMessage) -> Self {
        use v1::coordinator_message::Kind;
        let kind = match message {
            CoordinatorMessage::Welcome(welcome) => Kind::Welcome(v1::Welcome {
                heartbeat_interval_ms: welcome.heartbeat_interval_ms,
                telemetry_interval_ms: welcome.telemetry_interval_ms,
                probes: welcome.probes.into_iter().map(v1::ArtifactRef::from).collect(),
                signing_keys: welcome.signing_keys.iter().map(|key| key.as_bytes().to_vec()).collect(),
            }),
            CoordinatorMessage::Assignment(signed) => Kind::Assignment(signed.into()),
            CoordinatorMessage::TelemetryAck(position) => {
                Kind::TelemetryAck(v1::TelemetryAck { epoch: position.epoch, sequence: position.sequence })
            }
        };
        Self { kind: Some(kind) }
    }
}

#[cfg(test)]
pub(crate) mod tests;
