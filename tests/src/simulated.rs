//! Devices that are played: they speak an agent's session with a real coordinator, and their times follow a formula, so that
//! what a coordinator makes of times can be tested on a machine whose own times wander.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use coordinator::probes::ProbeSet;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Serializer as _, V2Serializer};
use proto::session::{
    AgentMessage, Assignment, CoordinatorMessage, Heartbeat, Hello, Holding, Phase, Progress,
};
use proto::v1::session_service_client::SessionServiceClient;
use proto::{HardwareProfile, LatencyInterval, ProbeTiming, SpoolPosition, v1};
use pruner_core::Graph;
use pruner_core::graph::cost::cost;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;

use crate::operator::Operator;

/// What a device is like.
#[derive(Debug, Clone)]
pub struct SimulatedMeans {
    /// Its name.
    pub device_id: String,
    /// Its labels, beside `device`, which is its name.
    pub labels: BTreeMap<String, String>,
    /// Milliseconds for a million multiply-accumulates, in the probes.
    pub ms_per_million: f64,
    /// Served times over those that the probes promise.
    pub slower: f64,
    /// It cannot load a network of more multiply-accumulates.
    pub most_macs: Option<u64>,
    /// In each of its intervals of telemetry; 0: it sends none.
    pub requests: u64,
    /// From one of its heartbeats, and intervals of telemetry, to the next.
    pub beat: Duration,
}

/// A device that is played until this is dropped.
pub struct SimulatedDevice {
    playing: JoinHandle<Result<()>>,
    served: watch::Receiver<Option<Instant>>,
}

/// From one attempt of a lasting device to connect to the next.
const RECONNECT: Duration = Duration::from_millis(50);

impl SimulatedDevice {
    /// Connects one, which serves whatever it is assigned and is asked for images all the time.
    pub fn start(means: SimulatedMeans, coordinator: SocketAddr) -> Self {
        let (mut memory, served) = Memory::new();
        let play = async move { play(&means, coordinator, &mut memory).await };
        Self { playing: TaskTracker::new().spawn(play), served }
    }

    /// The same, but it connects again whenever its session ends, and serves meanwhile.
    pub fn start_lasting(means: SimulatedMeans, coordinator: SocketAddr) -> Self {
        let (mut memory, served) = Memory::new();
        let play = async move {
            loop {
                let _ = play(&means, coordinator, &mut memory).await; // the coordinator was killed
                tokio::time::sleep(RECONNECT).await;
            }
        };
        Self { playing: TaskTracker::new().spawn(play), served }
    }

    /// When it first served a model. Waits for it.
    ///
    /// # Errors
    /// The error that ended it, or would have if it had not been dropped.
    pub async fn served(&mut self) -> Result<Instant> {
        let served = self.served.wait_for(Option::is_some).await.map(|served| *served);
        match served {
            Ok(Some(at)) => Ok(at),
            Ok(None) | Err(_) => {
                self.ensure_playing().await?;
                bail!("it ended before it served anything")
            }
        }
    }

    /// The error that ended it, if it has ended.
    ///
    /// # Errors
    /// That one.
    pub async fn ensure_playing(&mut self) -> Result<()> {
        if self.playing.is_finished() {
            (&mut self.playing).await??;
            bail!("the coordinator closed the session");
        }
        Ok(())
    }
}

impl Drop for SimulatedDevice {
    fn drop(&mut self) {
        self.playing.abort();
    }
}

impl SimulatedMeans {
    /// A device that does what its probes promise.
    pub fn new(device_id: &str) -> Self {
        Self {
            device_id: device_id.to_owned(),
            labels: BTreeMap::new(),
            ms_per_million: 0.5,
            slower: 1.0,
            most_macs: None,
            requests: 500,
            beat: Duration::from_millis(200),
        }
    }

    /// What its probes say of a network, milliseconds.
    pub fn promised_ms(&self, graph: &Graph) -> f64 {
        self.ms_per_million * cost(graph).macs as f64 / 1e6
    }

    fn profile(&self) -> Result<HardwareProfile> {
        let timing = |probe: &coordinator::probes::Probe| {
            let ms = self.promised_ms(&probe.graph);
            let digest = probe.artifact.digest;
            ProbeTiming { digest, runs: 100, p50_ms: ms, p95_ms: ms, engines: Vec::new() }
        };
        let wire = v1::HardwareProfile {
            arch: "x86_64".to_owned(),
            os: "linux".to_owned(),
            instruction_sets: vec!["avx2".to_owned()],
            logical_cores: 1,
            inference_threads: 1,
            engine: "rten".to_owned(),
            revision: 1,
            ..v1::HardwareProfile::default()
        };
        // The same for every device, and much to compute for a thousand of them.
        static PROBES: OnceLock<Option<ProbeSet>> = OnceLock::new();
        let known = PROBES.get_or_init(|| ProbeSet::known().ok()).as_ref().context("there are no probes")?;
        let probes = known.iter().map(timing).collect();
        Ok(HardwareProfile { probes, ..wire.try_into()? })
    }
}

/// What a device keeps when its session ends.
struct Memory {
    serving: Option<Arc<Served>>,
    sequence: u64,
    served: watch::Sender<Option<Instant>>,
}

impl Memory {
    fn new() -> (Self, watch::Receiver<Option<Instant>>) {
        let (served, seen) = watch::channel(None);
        (Self { serving: None, sequence: 0, served }, seen)
    }
}

async fn play(means: &SimulatedMeans, coordinator: SocketAddr, memory: &mut Memory) -> Result<()> {
    let operator = Operator::new(coordinator)?;
    let (outbox, messages) = mpsc::channel::<v1::AgentMessage>(16);
    let mut labels = means.labels.clone();
    labels.insert("device".to_owned(), means.device_id.clone());
    let hello = Hello {
        device_id: means.device_id.parse()?,
        agent_version: "played".to_owned(),
        labels,
        holding: memory.serving.as_ref().map(|served| served.holding()).unwrap_or_default(),
        serving_address: String::new(),
    };
    outbox.send(AgentMessage::Hello(hello).into()).await?;
    let mut client = SessionServiceClient::connect(format!("http://{coordinator}")).await?;
    let mut inbox = client.session(ReceiverStream::new(messages)).await?.into_inner();
    outbox.send(AgentMessage::Profile(means.profile()?).into()).await?;
    let mut tick = tokio::time::interval(means.beat);
    let Memory { serving, sequence, served } = memory;
    loop {
        tokio::select! {
            message = inbox.message() => {
                let Some(message) = message? else { return Ok(()) };
                if let CoordinatorMessage::Assignment(signed) = message.try_into()? {
                    let assignment = signed.unverified()?;
                    let macs = macs(&operator, &assignment).await?;
                    if means.most_macs.is_some_and(|most| macs > most) {
                        let reason = format!("{macs} multiply-accumulates are too many for it");
                        outbox.send(progress(&assignment, Phase::Failed { reason }).into()).await?;
                        continue;
                    }
                    outbox.send(progress(&assignment, Phase::Active).into()).await?;
                    *serving = Some(Arc::new(Served::of(means, macs, assignment)));
                    served.send_if_modified(|first| first.replace(first.unwrap_or_else(Instant::now)).is_none());
                }
            }
            _ = tick.tick() => {
                let beat = serving.as_ref().map(|served| served.beat()).unwrap_or_default();
                outbox.send(AgentMessage::Heartbeat(beat).into()).await?;
                if let Some(served) = serving.as_ref().filter(|_| means.requests > 0) {
                    *sequence += 1;
                    let position = SpoolPosition { epoch: 1, sequence: *sequence };
                    outbox.send(AgentMessage::Telemetry(position, served.interval(means)?).into()).await?;
                }
            }
        }
    }
}

async fn macs(operator: &Operator, assignment: &Assignment) -> Result<u64> {
    let artifact = operator.artifact(&assignment.model.artifact.digest.to_string()).await?;
    Ok(artifact.footprint.context("an artifact has a footprint")?.macs)
}

fn progress(assignment: &Assignment, phase: Phase) -> AgentMessage {
    let Assignment { generation, model, .. } = assignment;
    AgentMessage::Progress(Progress { generation: *generation, digest: model.artifact.digest, phase })
}

/// What a played device serves.
struct Served {
    assignment: Assignment,
    microseconds: u64,
}

impl Served {
    fn of(means: &SimulatedMeans, macs: u64, assignment: Assignment) -> Self {
        let ms = means.ms_per_million * macs as f64 / 1e6 * means.slower;
        Self { assignment, microseconds: ((ms * 1e3) as u64).max(1) }
    }

    fn holding(&self) -> Holding {
        let digest = Some(self.assignment.model.artifact.digest);
        Holding { generation: self.assignment.generation, digest }
    }

    fn beat(&self) -> Heartbeat {
        Heartbeat { holding: self.holding(), engine: "a formula".to_owned() }
    }

    fn interval(&self, means: &SimulatedMeans) -> Result<LatencyInterval> {
        let mut histogram = Histogram::<u64>::new(3)?;
        histogram.record_n(self.microseconds, means.requests)?;
        let mut encoded = Vec::new();
        V2Serializer::new().serialize(&histogram, &mut encoded)?;
        Ok(LatencyInterval {
            digest: self.assignment.model.artifact.digest,
            generation: self.assignment.generation,
            interval_ms: u64::try_from(means.beat.as_millis())?,
            histogram: encoded,
            errors: 0,
            rss: None,
            cpu_ms: None,
            millicelsius: None,
        })
    }
}
